//! Texts in constant data, and the code that refers to them: one pass of the data for all texts, one pass of
//! the code for all references. Memory and time are bounded whatever the file says.
//!
//! Owns the search alone. What it gives are hints: only decoding the function around one proves it.
#[cfg(test)]
mod tests;
use std::ops::ControlFlow;

use aho_corasick::{AhoCorasick, MatchKind};
use memchr::memchr_iter;

use crate::elf::file::reader::FileRange;
use crate::elf::{Object, ObjectError, VirtAddr};

/// Bytes of constants that are searched, and of code: the largest browsers have 200 MB of code.
const MAX_BYTES: u64 = 512 << 20;
/// Texts that are kept: each that is searched for is there once or twice.
const MAX_TEXTS: usize = 256;
/// References that are kept: a name of a source file has some hundred.
const MAX_REFERENCES: usize = 8192;
/// Bytes of a text before what is searched for: paths of source files.
const MAX_LEAD: usize = 512;
/// Bytes of an instruction, at the most.
const MAX_INSTRUCTION: u64 = 15;

/// What is searched for in constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// A whole text.
    Whole(&'static str),
    /// The end of a text: of a path, say.
    End(&'static str),
    /// The same, of interest only beside another one: code is not searched for it, because too much refers to
    /// it.
    Beside(&'static str),
}

/// A text that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringRef {
    /// What was searched for.
    pub needle: Pattern,
    /// Where the text begins.
    pub begin: VirtAddr,
    /// Where the needle begins in it: linkers let a text begin in the middle of another one.
    pub needle_at: VirtAddr,
}

impl StringRef {
    /// Whether an address is the text's, or that of an end of it with the whole needle.
    pub fn is_at(&self, address: u64) -> bool {
        (self.begin.0..=self.needle_at.0).contains(&address)
    }
}

impl Pattern {
    /// The needle.
    pub fn text(self) -> &'static str {
        match self {
            Self::Whole(text) | Self::End(text) | Self::Beside(text) => text,
        }
    }
}

impl Object {
    /// Searches constant data for texts that end with a NUL.
    pub fn find_texts(&self, needles: &[Pattern]) -> Result<Vec<StringRef>, ObjectError> {
        let patterns = needles.iter().map(|needle| [needle.text().as_bytes(), &[0]].concat());
        let Some(searcher) = searcher(patterns) else { return Ok(Vec::new()) };
        let longest = needles.iter().map(|needle| needle.text().len()).max().unwrap_or(0);
        let overlap = (MAX_LEAD + longest + 2) as u64;
        let mut texts: Vec<StringRef> = Vec::new();
        let mut left = MAX_BYTES;
        for extent in self.constants() {
            let extent = extent.head(left);
            left -= extent.length;
            let Some(base) = self.segments.loaded_at(extent.offset) else { continue };
            let what = "constant data";
            let stop = self.reader.chunks(what, extent, (1, overlap), |offset, chunk| {
                for found in searcher.find_iter(chunk) {
                    let Some(needle) = needles.get(found.pattern().as_usize()).copied() else { continue };
                    let before = chunk.get(..found.start()).unwrap_or_default();
                    let Some(lead) = lead(needle, before) else { continue };
                    let needle_at = base.saturating_add(offset).saturating_add(found.start() as u64);
                    let text = StringRef {
                        needle,
                        begin: VirtAddr(needle_at.saturating_sub(lead)),
                        needle_at: VirtAddr(needle_at),
                    };
                    // Chunks overlap; the second look at a text may see less of what is before it.
                    if texts.iter().all(|known| known.needle_at != text.needle_at) {
                        texts.push(text);
                    }
                    if texts.len() >= MAX_TEXTS {
                        return ControlFlow::Break(());
                    }
                }
                ControlFlow::Continue(())
            })?;
            if stop.is_some() {
                break;
            }
        }
        Ok(texts)
    }

    /// Addresses in instructions that may refer to one of the texts.
    pub fn references(&self, texts: &[StringRef]) -> Result<Vec<VirtAddr>, ObjectError> {
        let is_searched = |text: &&StringRef| !matches!(text.needle, Pattern::Beside(_));
        let texts: Vec<StringRef> = texts.iter().filter(is_searched).copied().collect();
        let (Some(low), Some(high)) =
            (texts.iter().map(|text| text.begin.0).min(), texts.iter().map(|text| text.needle_at.0).max())
        else {
            return Ok(Vec::new());
        };
        let is_text =
            |address: u64| (low..=high).contains(&address) && texts.iter().any(|text| text.is_at(address));
        // A program at a fixed address has the addresses themselves in its instructions.
        let fixed: Vec<[u8; 4]> = if self.is_fixed {
            let both = texts.iter().flat_map(|text| [text.begin.0, text.needle_at.0]);
            both.filter_map(|address| Some(u32::try_from(address).ok()?.to_le_bytes())).collect()
        } else {
            Vec::new()
        };
        let absolute = searcher(fixed);
        self.scan_code(|address, chunk, found| {
            relative(chunk, address, is_text, found);
            let hits = absolute.iter().flat_map(|searcher| searcher.find_iter(chunk));
            found.extend(hits.map(|hit| address + hit.start() as u64));
        })
    }

    /// Addresses in instructions that may take one of the addresses.
    pub fn address_takers(&self, targets: &[VirtAddr]) -> Result<Vec<VirtAddr>, ObjectError> {
        let (Some(low), Some(high)) = (targets.iter().min(), targets.iter().max()) else {
            return Ok(Vec::new());
        };
        let is_target =
            |address: u64| (low.0..=high.0).contains(&address) && targets.contains(&VirtAddr(address));
        let fixed = targets.iter().filter(|_| self.is_fixed);
        let absolute = searcher(fixed.filter_map(|target| Some(u32::try_from(target.0).ok()?.to_le_bytes())));
        self.scan_code(|address, chunk, found| {
            relative(chunk, address, is_target, found);
            let hits = absolute.iter().flat_map(|searcher| searcher.find_iter(chunk));
            found.extend(hits.map(|hit| address + hit.start() as u64));
        })
    }

    /// Addresses of `call` and `jmp` instructions, as it seems, that lead to `target`.
    pub fn callers(&self, target: VirtAddr) -> Result<Vec<VirtAddr>, ObjectError> {
        self.callers_of(&[target], &[])
    }

    /// The same of several functions, and through words that have their addresses.
    pub fn callers_of(&self, targets: &[VirtAddr], slots: &[u64]) -> Result<Vec<VirtAddr>, ObjectError> {
        self.scan_code(|address, chunk, found| {
            let calls = memchr::memchr2_iter(0xe8, 0xe9, chunk).filter_map(|at| {
                let next = address + at as u64 + 5;
                targets.contains(&VirtAddr(displaced(chunk, at + 1, next)?)).then_some(next - 5)
            });
            found.extend(calls);
            if slots.is_empty() {
                return;
            }
            // `call`, `jmp` (ff /2, ff /4) and `mov` (8b) of a word that is relative to the instruction.
            found.extend(memchr::memchr2_iter(0xff, 0x8b, chunk).filter_map(|at| {
                let is_relative = chunk.get(at + 1).is_some_and(|modrm| modrm & 0xc7 == 0x05);
                let next = address + at as u64 + 6;
                (is_relative && slots.contains(&displaced(chunk, at + 2, next)?)).then_some(next - 6)
            }));
        })
    }

    /// Addresses of conditional jumps, as it seems, that lead from far to between two places, with both of
    /// these.
    pub(in crate::elf) fn branches_to(
        &self,
        first: VirtAddr,
        last: VirtAddr,
    ) -> Result<Vec<VirtAddr>, ObjectError> {
        self.scan_code(|address, chunk, found| {
            found.extend(memchr_iter(0x0f, chunk).filter_map(|at| {
                let is_branch = chunk.get(at + 1).is_some_and(|opcode| opcode & 0xf0 == 0x80);
                let next = address + at as u64 + 6;
                let to = displaced(chunk, at + 2, next).filter(|_| is_branch)?;
                (first.0..=last.0).contains(&to).then_some(next - 6)
            }));
        })
    }

    /// Visits all code; gives the addresses that `visit` adds, in order.
    fn scan_code(
        &self,
        mut visit: impl FnMut(u64, &[u8], &mut Vec<u64>),
    ) -> Result<Vec<VirtAddr>, ObjectError> {
        let mut found = Vec::new();
        let mut left = MAX_BYTES;
        for segment in self.segments.executables() {
            let extent = segment.extent.head(left);
            left -= extent.length;
            let stop = self.reader.chunks("code", extent, (1, MAX_INSTRUCTION), |offset, chunk| {
                visit(segment.address.saturating_add(offset), chunk, &mut found);
                if found.len() >= MAX_REFERENCES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if stop.is_some() {
                break;
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found.into_iter().map(VirtAddr).collect())
    }

    /// Where constants are.
    pub(in crate::elf) fn constants(&self) -> Vec<FileRange> {
        if self.rodata.is_empty() { self.segments.read_only() } else { self.rodata.clone() }
    }
}

/// None for no patterns.
fn searcher<P: AsRef<[u8]>>(patterns: impl IntoIterator<Item = P>) -> Option<AhoCorasick> {
    let mut patterns = patterns.into_iter().peekable();
    patterns.peek()?;
    AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(patterns).ok()
}

/// Bytes of the text before the needle, if it may be before it.
fn lead(needle: Pattern, before: &[u8]) -> Option<u64> {
    let lead =
        before.iter().rev().take(MAX_LEAD).position(|byte| *byte == 0).unwrap_or(before.len().min(MAX_LEAD));
    match needle {
        Pattern::Whole(_) => (lead == 0).then_some(0),
        Pattern::End(_) | Pattern::Beside(_) => Some(lead as u64),
    }
}

/// Adds the `lea` instructions (REX.W 8D /r with mod 00, r/m 101) that give a wanted address.
fn relative(chunk: &[u8], address: u64, is_wanted: impl Fn(u64) -> bool, found: &mut Vec<u64>) {
    for at in memchr_iter(0x8d, chunk) {
        let Some(rex) = at.checked_sub(1) else { continue };
        let is_lea = chunk.get(rex).is_some_and(|byte| byte & 0xf8 == 0x48)
            && chunk.get(at + 1).is_some_and(|modrm| modrm & 0xc7 == 0x05);
        if is_lea {
            let next = address + at as u64 + 6;
            if displaced(chunk, at + 2, next).is_some_and(&is_wanted) {
                found.push(next - 7);
            }
        }
    }
}

/// The address that a displacement of 32 bits at `at` leads to.
fn displaced(chunk: &[u8], at: usize, next: u64) -> Option<u64> {
    let bytes = chunk.get(at..)?.first_chunk()?;
    Some(next.wrapping_add_signed(i32::from_le_bytes(*bytes).into()))
}
