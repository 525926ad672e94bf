//! The section headers. Only tools need them, so they may be missing, stale or broken.

use object::LittleEndian as LE;
use object::elf::{self, SectionHeader64};
use object::pod;

use super::header::ElfHeader;
use super::reader::{FileRange, Reader};
use crate::elf::ObjectError;
use crate::elf::symbols::debug_file::DebugLink;
use crate::elf::symbols::table::SymbolTable;

/// Limit of the sections: a linked file has a few dozen, and the 16-bit field of the header allows no more.
const MAX_SECTIONS: u64 = 65536;

/// Size limit of `.gnu_debuglink`, which is a file name and a checksum.
const MAX_DEBUG_LINK: u64 = 4096;

/// The sections that ctrace uses.
#[derive(Debug, Default)]
pub(in crate::elf) struct Sections {
    /// `.dynsym`.
    pub dynamic_symbols: Option<SymbolTable>,
    /// `.symtab`.
    pub symbols: Option<SymbolTable>,
    /// `.rodata`.
    pub rodata: Vec<FileRange>,
    /// `.eh_frame`: its address and where it is in the file.
    pub frames: Option<(u64, FileRange)>,
    /// `.note.stapsdt`: the USDT probes of the program.
    pub probes: Vec<FileRange>,
    /// `.gnu_debuglink`: the name of the separate debug file.
    pub debug_link: Option<DebugLink>,
    /// `.note.gnu.build-id`.
    pub build_id: Option<FileRange>,
    /// The address of `.stapsdt.base`, to which the addresses of USDT probes are relative.
    pub probes_base: Option<u64>,
}

impl Sections {
    pub(in crate::elf) fn read(reader: &Reader, header: &ElfHeader) -> Result<Self, ObjectError> {
        const WHAT: &str = "the section headers";
        const SIZE: u64 = size_of::<SectionHeader64<LE>>() as u64;
        let (offset, entry_size, count) = header.sections();
        if offset == 0 {
            return Ok(Self::default());
        }
        if u64::from(entry_size) != SIZE {
            return Err(ObjectError::Broken { what: "section headers of unknown size" });
        }
        let length = u64::from(count) * SIZE;
        let bytes = reader.bytes(WHAT, FileRange { offset, length }, MAX_SECTIONS * SIZE)?;
        let list = pod::slice_from_all_bytes::<SectionHeader64<LE>>(&bytes)
            .map_err(|()| ObjectError::Broken { what: "section headers" })?;
        let names = list.get(usize::from(header.section_names())).map(extent);
        let mut sections = Self::default();
        for section in list {
            let table = || {
                let strings = list.get(usize::try_from(section.sh_link.get(LE)).ok()?)?;
                (strings.sh_type.get(LE) == elf::SHT_STRTAB).then_some(SymbolTable {
                    symbols: extent(section),
                    strings: extent(strings),
                    dynamic: section.sh_type.get(LE) == elf::SHT_DYNSYM,
                })
            };
            match section.sh_type.get(LE) {
                elf::SHT_DYNSYM => sections.dynamic_symbols = sections.dynamic_symbols.or_else(table),
                elf::SHT_SYMTAB => sections.symbols = sections.symbols.or_else(table),
                elf::SHT_PROGBITS | elf::SHT_X86_64_UNWIND
                    if has_name(reader, names, section, b".eh_frame")? =>
                {
                    sections.frames = Some((section.sh_addr.get(LE), extent(section)));
                }
                elf::SHT_PROGBITS
                    if is_constant(section) && has_name(reader, names, section, b".rodata")? =>
                {
                    sections.rodata.push(extent(section));
                }
                elf::SHT_PROGBITS
                    if is_constant(section) && has_name(reader, names, section, b".stapsdt.base")? =>
                {
                    sections.probes_base = Some(section.sh_addr.get(LE));
                }
                elf::SHT_PROGBITS if has_name(reader, names, section, b".gnu_debuglink")? => {
                    let bytes = reader.bytes("the name of the debug file", extent(section), MAX_DEBUG_LINK);
                    sections.debug_link = bytes.ok().and_then(|bytes| DebugLink::parse(&bytes));
                }
                elf::SHT_NOTE if has_name(reader, names, section, b".note.gnu.build-id")? => {
                    sections.build_id = Some(extent(section));
                }
                elf::SHT_NOTE if has_name(reader, names, section, b".note.stapsdt")? => {
                    sections.probes.push(extent(section));
                }
                _ => {}
            }
        }
        Ok(sections)
    }
}

fn extent(section: &SectionHeader64<LE>) -> FileRange {
    FileRange { offset: section.sh_offset.get(LE), length: section.sh_size.get(LE) }
}

fn is_constant(section: &SectionHeader64<LE>) -> bool {
    let flags = section.sh_flags.get(LE);
    flags & u64::from(elf::SHF_ALLOC) != 0 && flags & u64::from(elf::SHF_WRITE | elf::SHF_EXECINSTR) == 0
}

fn has_name(
    reader: &Reader,
    names: Option<FileRange>,
    section: &SectionHeader64<LE>,
    name: &[u8],
) -> Result<bool, ObjectError> {
    let Some(names) = names else { return Ok(false) };
    let here = names.tail(u64::from(section.sh_name.get(LE))).head(name.len() as u64 + 1);
    let bytes = reader.bytes("the names of the sections", here, name.len() as u64 + 1)?;
    Ok(bytes.strip_suffix(&[0]) == Some(name))
}
