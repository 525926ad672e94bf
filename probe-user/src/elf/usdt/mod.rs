//! USDT: probes that the authors of a program placed in it (`sys/sdt.h`), as its ELF notes describe them.
//!
//! Reads the notes (`.note.stapsdt`) and corrects their addresses if the file was changed after linking. The
//! kernel maintains the semaphores that count attached probes.

mod operand;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::code::function_body::exact_site;
use super::symbols::table;
use super::{FileOffset, Object, ObjectError, SymbolFilter, VirtAddr};
use crate::error_chain;

pub use operand::{Register, UsdtArgument, UsdtOperand};

/// Size limit of the notes of one object: Python and Java have a few dozen KiB.
const MAX_NOTES: u64 = 8 << 20;
/// Limit of the notes of one object.
const MAX_SITES: usize = 20_000;
/// Limit of the arguments of one probe: `sys/sdt.h` has macros for up to 12.
const MAX_ARGUMENTS: usize = 16;
/// Longest provider or probe name, in bytes.
const MAX_NAME: usize = 256;
/// Longest description of the arguments, in bytes.
const MAX_TEXT: usize = 4096;
/// `NT_STAPSDT`.
const STAPSDT: u32 = 3;
/// Size of the longest instruction in bytes.
const INSTRUCTION: u64 = 15;

/// A USDT probe of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usdt {
    /// The provider, such as `python` or `libc`.
    pub provider: String,
    /// The name of the probe.
    pub name: String,
    /// Its sites: one for each copy of the code that the compiler made.
    pub sites: Vec<UsdtSite>,
}

/// A site of a USDT probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsdtSite {
    /// The address of the `nop` that marks the site.
    pub address: VirtAddr,
    /// The same as an offset in the file.
    pub offset: FileOffset,
    /// The file offset of the semaphore, a 16-bit counter: the program reaches the probe only while it is not
    /// 0. The kernel increments it while a uprobe with this `ref_ctr_offset` is attached.
    pub semaphore: Option<FileOffset>,
    /// The arguments of the probe.
    pub arguments: Vec<UsdtArgument>,
    /// The description of the arguments, as in the file.
    pub text: String,
}

/// The USDT probes of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsdtProbes {
    /// The probes, sorted by provider and name.
    pub probes: Vec<Usdt>,
    /// What could not be used, each with the reason.
    pub notes: Vec<String>,
}

/// One note, as in the file.
struct Note {
    provider: String,
    name: String,
    text: String,
    address: u64,
    semaphore: u64,
}

impl Object {
    /// The USDT probes of this object.
    pub fn usdt(&self) -> Result<UsdtProbes, ObjectError> {
        let mut notes = Vec::new();
        for extent in self.probes.iter().take(4) {
            let bytes = self.reader.bytes("the notes of USDT probes", *extent, MAX_NOTES)?;
            parse(&bytes, self.probes_base, &mut notes);
        }
        let mut found = UsdtProbes::default();
        if notes.len() >= MAX_SITES {
            found.notes.push(format!("only the first {MAX_SITES} places of USDT probes are used"));
        }
        let symbols = self.operand_symbols(&notes, &mut found.notes);
        let mut probes: BTreeMap<(String, String), Vec<UsdtSite>> = BTreeMap::new();
        for note in notes {
            match self.usdt_site(&note, &symbols) {
                Ok(site) => probes.entry((note.provider, note.name)).or_default().push(site),
                Err(error) if found.notes.len() < 64 => {
                    let Note { provider, name, .. } = note;
                    found.notes.push(format!("{provider}:{name}: {}", error_chain::in_one_line(&error)));
                }
                Err(_) => {}
            }
        }
        found.probes = probes
            .into_iter()
            .map(|((provider, name), mut sites)| {
                sites.sort_by_key(|site| site.address);
                sites.dedup();
                Usdt { provider, name, sites }
            })
            .collect();
        Ok(found)
    }

    fn usdt_site(
        &self,
        note: &Note,
        symbols: &BTreeMap<String, VirtAddr>,
    ) -> Result<UsdtSite, super::SiteError> {
        let address = VirtAddr(note.address);
        let offset = self.file_offset(address).ok_or(ObjectError::NotCode { address: address.0 })?;
        exact_site(&self.code(address, INSTRUCTION)?, address, 0)?;
        let semaphore = match note.semaphore {
            0 => None,
            place => {
                let rest = self.segments.from(place).filter(|rest| rest.length >= 2);
                let rest = rest.ok_or(ObjectError::Broken {
                    what: "the semaphore of a USDT probe is not in the file",
                })?;
                Some(FileOffset(rest.offset))
            }
        };
        let distances = Distances { from: address, symbols };
        let arguments = operand::split(&note.text).into_iter().take(MAX_ARGUMENTS);
        let arguments = arguments.map(|text| operand::argument(text, &distances)).collect();
        Ok(UsdtSite { address, offset, semaphore, arguments, text: note.text.clone() })
    }

    /// The addresses of the variables that operands refer to by name.
    fn operand_symbols(&self, notes: &[Note], problems: &mut Vec<String>) -> BTreeMap<String, VirtAddr> {
        let names: std::collections::BTreeSet<&str> = notes
            .iter()
            .flat_map(|note| operand::split(&note.text))
            .filter_map(operand::symbol)
            .take(1000)
            .collect();
        let mut found = BTreeMap::new();
        if names.is_empty() {
            return found;
        }
        let wanted: SymbolFilter = names.into_iter().collect();
        for table in &self.tables {
            match table::addresses(&self.reader, table, &wanted) {
                Ok(addresses) => found.extend(addresses),
                Err(error) => {
                    problems.push(format!("{} not used: {}", table.name(), error_chain::in_one_line(&error)));
                }
            }
        }
        found
    }
}

struct Distances<'s> {
    from: VirtAddr,
    symbols: &'s BTreeMap<String, VirtAddr>,
}

impl operand::Symbols for Distances<'_> {
    fn distance(&self, name: &str) -> Option<i64> {
        self.symbols.get(name).map(|symbol| symbol.0.wrapping_sub(self.from.0).cast_signed())
    }
}

/// Reads notes up to the first truncated one.
fn parse(mut bytes: &[u8], base: Option<u64>, notes: &mut Vec<Note>) {
    while let Some((note, rest)) = next(bytes) {
        bytes = rest;
        if notes.len() >= MAX_SITES {
            return;
        }
        notes.extend(note.and_then(|description| read(description, base)));
    }
}

/// The description of a stapsdt note (none for other notes), and what follows the note.
fn next(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(12)?;
    let field = |n: usize| head.get(n..).and_then(<[u8]>::first_chunk).map(|word| u32::from_le_bytes(*word));
    let (name_size, size) = (usize::try_from(field(0)?).ok()?, usize::try_from(field(4)?).ok()?);
    let (name, rest) = rest.split_at_checked(name_size.checked_next_multiple_of(4)?)?;
    let description = rest.get(..size)?;
    // The last note may lack its padding.
    let rest = rest.get(size.checked_next_multiple_of(4)?..).unwrap_or_default();
    Some(((field(8)? == STAPSDT && name == b"stapsdt\0").then_some(description), rest))
}

fn read(description: &[u8], base: Option<u64>) -> Option<Note> {
    let word = |n: usize| {
        description.get(n * 8..).and_then(<[u8]>::first_chunk).map(|word| u64::from_le_bytes(*word))
    };
    let (address, recorded_base, semaphore) = (word(0)?, word(1)?, word(2)?);
    let mut texts = description.get(24..)?.split(|byte| *byte == 0);
    let mut text = |limit: usize| {
        let text = texts.next().and_then(|text| std::str::from_utf8(text).ok())?;
        (text.len() <= limit).then(|| text.to_owned())
    };
    let (provider, name, text) = (text(MAX_NAME)?, text(MAX_NAME)?, text(MAX_TEXT).unwrap_or_default());
    if provider.is_empty() || name.is_empty() {
        return None;
    }
    // prelink and similar tools move code without updating the notes. The stored base reveals by how much.
    let moved = base.map_or(0, |base| base.wrapping_sub(recorded_base));
    let semaphore = if semaphore == 0 { 0 } else { semaphore.wrapping_add(moved) };
    Some(Note { provider, name, text, address: address.wrapping_add(moved), semaphore })
}
