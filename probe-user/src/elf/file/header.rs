//! The ELF header and the program headers, which the kernel and the loader use.

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, ProgramHeader64};
use object::pod;

use super::reader::{FileRange, Reader};
use crate::elf::{ObjectError, VirtAddr};

/// Size limit of the program headers: Linux refuses more than 64 KiB too (`load_elf_phdrs` in
/// fs/binfmt_elf.c).
const MAX_PROGRAM_HEADERS: u64 = 65536;

/// The end of the user address space of x86-64 with five-level page tables
/// (Documentation/arch/x86/x86_64/5level-paging.rst). Refusing addresses beyond it keeps sums of addresses
/// far from overflow.
const MAX_ADDRESS: u64 = 1 << 56;

/// The ELF header of a file that ctrace can use.
pub(in crate::elf) struct ElfHeader(FileHeader64<LE>);

impl ElfHeader {
    pub(in crate::elf) fn read(reader: &Reader) -> Result<Self, ObjectError> {
        let begin =
            reader.bytes("the ELF header", FileRange { offset: 0, length: reader.size().min(64) }, 64)?;
        let Some(ident) = begin.strip_prefix(&elf::ELFMAG) else {
            return Err(ObjectError::NotElf);
        };
        match ident.first() {
            Some(&elf::ELFCLASS64) => {}
            Some(&elf::ELFCLASS32) => return Err(ObjectError::Class32),
            _ => return Err(ObjectError::Broken { what: "unknown class" }),
        }
        match ident.get(1) {
            Some(&elf::ELFDATA2LSB) => {}
            Some(&elf::ELFDATA2MSB) => return Err(ObjectError::BigEndian),
            _ => return Err(ObjectError::Broken { what: "unknown byte order" }),
        }
        let Ok((header, _)) = pod::from_bytes::<FileHeader64<LE>>(&begin) else {
            let size = reader.size();
            return Err(ObjectError::Truncated { what: "the ELF header", end: 64, size });
        };
        match header.e_machine.get(LE) {
            elf::EM_X86_64 => {}
            machine => return Err(ObjectError::Machine(machine)),
        }
        match header.e_type.get(LE) {
            elf::ET_EXEC | elf::ET_DYN => Ok(Self(*header)),
            kind => Err(ObjectError::NotLoadable(kind)),
        }
    }

    /// The offset, entry size and number of the section headers. A number of 0 means that the first header
    /// holds it.
    pub(in crate::elf) fn sections(&self) -> (u64, u16, u16) {
        (self.0.e_shoff.get(LE), self.0.e_shentsize.get(LE), self.0.e_shnum.get(LE))
    }

    /// The address at which the kernel or the loader starts the program (`e_entry`).
    pub(in crate::elf) fn entry(&self) -> VirtAddr {
        VirtAddr(self.0.e_entry.get(LE))
    }

    /// Whether the file is an executable at a fixed address (`ET_EXEC`).
    pub(in crate::elf) fn is_fixed(&self) -> bool {
        self.0.e_type.get(LE) == elf::ET_EXEC
    }

    /// The index of the section that holds the section names.
    pub(in crate::elf) fn section_names(&self) -> u16 {
        self.0.e_shstrndx.get(LE)
    }
}

/// A `PT_LOAD` segment.
#[derive(Clone, Copy, Debug)]
pub(in crate::elf) struct LoadSegment {
    /// The virtual address of its first byte.
    pub address: u64,
    /// Where its bytes are in the file.
    pub extent: FileRange,
    flags: u32,
}

impl LoadSegment {
    /// The file offset of an address in this segment.
    pub(in crate::elf) fn offset_of(&self, address: VirtAddr) -> Option<u64> {
        let inside = address.0.checked_sub(self.address)?;
        (inside < self.extent.length).then(|| self.extent.offset + inside)
    }
}

/// The program headers that ctrace uses.
#[derive(Clone, Debug)]
pub(in crate::elf) struct Segments {
    loads: Vec<LoadSegment>,
    /// `PT_DYNAMIC`.
    pub dynamic: Option<FileRange>,
    /// `PT_NOTE`s.
    pub notes: Vec<FileRange>,
    /// `PT_GNU_EH_FRAME`: its address and where it is in the file.
    pub unwind: Option<(u64, FileRange)>,
    /// `PT_INTERP`: the path of the loader.
    pub interpreter: Option<FileRange>,
}

impl Segments {
    pub(in crate::elf) fn read(reader: &Reader, header: &ElfHeader) -> Result<Self, ObjectError> {
        const WHAT: &str = "the program headers";
        if usize::from(header.0.e_phentsize.get(LE)) != size_of::<ProgramHeader64<LE>>() {
            return Err(ObjectError::Broken { what: "program headers of unknown size" });
        }
        let length = u64::from(header.0.e_phnum.get(LE)) * u64::from(header.0.e_phentsize.get(LE));
        let table = FileRange { offset: header.0.e_phoff.get(LE), length };
        let bytes = reader.bytes(WHAT, table, MAX_PROGRAM_HEADERS)?;
        let headers = pod::slice_from_all_bytes::<ProgramHeader64<LE>>(&bytes)
            .map_err(|()| ObjectError::Broken { what: "program headers" })?;
        let mut segments =
            Self { loads: Vec::new(), dynamic: None, notes: Vec::new(), unwind: None, interpreter: None };
        for header in headers {
            segments.add(reader, header)?;
        }
        if segments.loads.is_empty() {
            return Err(ObjectError::Broken { what: "nothing of it is loaded (no PT_LOAD with bytes)" });
        }
        Ok(segments)
    }

    fn add(&mut self, reader: &Reader, header: &ProgramHeader64<LE>) -> Result<(), ObjectError> {
        let extent = FileRange { offset: header.p_offset.get(LE), length: header.p_filesz.get(LE) };
        match header.p_type.get(LE) {
            elf::PT_LOAD if extent.length > 0 => {
                reader.check("a loaded segment", extent)?;
                let address = header.p_vaddr.get(LE);
                if address.checked_add(extent.length).is_none_or(|end| end > MAX_ADDRESS) {
                    return Err(ObjectError::Broken { what: "a segment lies where no process has memory" });
                }
                self.loads.push(LoadSegment { address, extent, flags: header.p_flags.get(LE) });
            }
            elf::PT_DYNAMIC => self.dynamic = Some(extent),
            elf::PT_NOTE => self.notes.push(extent),
            elf::PT_GNU_EH_FRAME => self.unwind = Some((header.p_vaddr.get(LE), extent)),
            elf::PT_INTERP => self.interpreter = Some(extent),
            _ => {}
        }
        Ok(())
    }

    /// The executable segment that contains an address.
    pub(in crate::elf) fn executable(&self, address: VirtAddr) -> Option<&LoadSegment> {
        self.loads.iter().find(|load| load.flags & elf::PF_X != 0 && load.offset_of(address).is_some())
    }

    /// The virtual address of a file offset in an executable segment.
    pub(in crate::elf) fn address_of(&self, offset: u64) -> Option<VirtAddr> {
        self.executables().find_map(|load| {
            let inside = offset.checked_sub(load.extent.offset)?;
            (inside < load.extent.length).then(|| VirtAddr(load.address + inside))
        })
    }

    /// The virtual address of a file offset in any loaded segment.
    pub(in crate::elf) fn loaded_at(&self, offset: u64) -> Option<u64> {
        self.loads.iter().find_map(|load| {
            let inside = offset.checked_sub(load.extent.offset)?;
            (inside < load.extent.length).then(|| load.address + inside)
        })
    }

    /// The executable segments.
    pub(in crate::elf) fn executables(&self) -> impl Iterator<Item = &LoadSegment> {
        self.loads.iter().filter(|load| load.flags & elf::PF_X != 0)
    }

    /// All segments; those that are not executable come first.
    pub(in crate::elf) fn data_first(&self) -> Vec<&LoadSegment> {
        let mut loads: Vec<_> = self.loads.iter().collect();
        loads.sort_by_key(|load| load.flags & elf::PF_X);
        loads
    }

    /// The segments that are not executable.
    pub(in crate::elf) fn data(&self) -> impl Iterator<Item = &LoadSegment> {
        self.loads.iter().filter(|load| load.flags & elf::PF_X == 0)
    }

    /// The part of the file from `address` to the end of its segment.
    pub(in crate::elf) fn from(&self, address: u64) -> Option<FileRange> {
        let address = VirtAddr(address);
        self.loads.iter().find(|load| load.offset_of(address).is_some()).map(|load| {
            let inside = address.0 - load.address;
            load.extent.tail(inside)
        })
    }

    /// The part of the file from `address` to the end of its segment, which is not writable.
    pub(in crate::elf) fn read_only_from(&self, address: u64) -> Option<FileRange> {
        let at = VirtAddr(address);
        let load = self.loads.iter().find(|load| load.offset_of(at).is_some())?;
        (load.flags & elf::PF_W == 0).then(|| load.extent.tail(address - load.address))
    }

    /// The segments that are not writable. Those that are not executable come first: constants are there
    /// unless an old linker put code and constants into one segment.
    pub(in crate::elf) fn read_only(&self) -> Vec<FileRange> {
        let mut loads: Vec<_> = self.loads.iter().filter(|load| load.flags & elf::PF_W == 0).collect();
        loads.sort_by_key(|load| load.flags & elf::PF_X);
        loads.into_iter().map(|load| load.extent).collect()
    }
}
