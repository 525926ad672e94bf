//! Finds strings in constant data and the code that refers to them: one pass over the data for all strings,
//! one pass over the code for all references. Memory and time are bounded whatever the file contains.
//!
//! References are hints: only decoding the function around one proves it.
#[cfg(test)]
mod tests;
use std::iter;
use std::ops::ControlFlow;

use aho_corasick::{AhoCorasick, Input, Match, MatchKind};
use memchr::memchr_iter;

use crate::elf::file::parts::in_parts;
use crate::elf::file::reader::FileRange;
use crate::elf::{Object, ObjectError, VirtAddr};

/// Limit of the constants, and of the code, that are searched: the largest browsers have 200 MB of code.
const MAX_BYTES: u64 = 512 << 20;
/// Limit of the strings that are returned: each pattern usually matches once or twice.
const MAX_TEXTS: usize = 256;
/// Limit of the references that are returned: the name of a source file has a few hundred.
const MAX_REFERENCES: usize = 8192;
/// Most bytes of a string before the pattern, as in paths of source files.
const MAX_LEAD: usize = 512;
/// Size of the longest instruction in bytes.
const MAX_INSTRUCTION: u64 = 15;

/// A pattern to search for in constant data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StringPattern {
    /// A whole string.
    Whole(&'static str),
    /// The end of a string, for example of a path.
    End(&'static str),
    /// The end of a string that matters only next to another match. The code is not searched for references
    /// to it, because there are too many.
    Beside(&'static str),
}

/// A string that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringRef {
    /// The pattern that matched.
    pub needle: StringPattern,
    /// The start of the string.
    pub begin: VirtAddr,
    /// The start of the match in it. Linkers merge strings, so code may refer to the middle of one.
    pub needle_at: VirtAddr,
}

impl StringRef {
    /// Whether an address is in the string at or before the match, so that what is there contains the match.
    pub fn is_at(&self, address: u64) -> bool {
        (self.begin.0..=self.needle_at.0).contains(&address)
    }
}

impl StringPattern {
    /// The text of the pattern.
    pub fn text(self) -> &'static str {
        match self {
            Self::Whole(text) | Self::End(text) | Self::Beside(text) => text,
        }
    }
}

impl Object {
    /// Searches constant data for NUL-terminated strings that match one of the patterns.
    pub fn find_texts(&self, needles: &[StringPattern]) -> Result<Vec<StringRef>, ObjectError> {
        let texts = needles.iter().map(|needle| needle.text());
        let Some(searcher) = searcher(MatchKind::LeftmostLongest, texts) else { return Ok(Vec::new()) };
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
                for found in terminated(&searcher, chunk) {
                    let Some(needle) = needles.get(found.pattern().as_usize()).copied() else { continue };
                    let before = chunk.get(..found.start()).unwrap_or_default();
                    let Some(lead) = lead(needle, before) else { continue };
                    let needle_at = base.saturating_add(offset).saturating_add(found.start() as u64);
                    let text = StringRef {
                        needle,
                        begin: VirtAddr(needle_at.saturating_sub(lead)),
                        needle_at: VirtAddr(needle_at),
                    };
                    // Chunks overlap. The second match of the same string may miss a part before it, so keep
                    // the first.
                    if texts.iter().all(|other| other.needle_at != text.needle_at) {
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

    /// The addresses of instructions that seem to refer to one of the strings.
    pub fn references(&self, texts: &[StringRef]) -> Result<Vec<VirtAddr>, ObjectError> {
        let is_searched = |text: &&StringRef| !matches!(text.needle, StringPattern::Beside(_));
        let texts: Vec<StringRef> = texts.iter().filter(is_searched).copied().collect();
        let (Some(low), Some(high)) =
            (texts.iter().map(|text| text.begin.0).min(), texts.iter().map(|text| text.needle_at.0).max())
        else {
            return Ok(Vec::new());
        };
        let is_text =
            |address: u64| (low..=high).contains(&address) && texts.iter().any(|text| text.is_at(address));
        // A program at a fixed address contains the absolute addresses in its instructions.
        let fixed: Vec<[u8; 4]> = if self.is_fixed {
            let both = texts.iter().flat_map(|text| [text.begin.0, text.needle_at.0]);
            both.filter_map(|address| Some(u32::try_from(address).ok()?.to_le_bytes())).collect()
        } else {
            Vec::new()
        };
        let absolute = searcher(MatchKind::LeftmostFirst, fixed);
        self.scan_code(|address, chunk, found| {
            relative(chunk, address, is_text, found);
            let hits = absolute.iter().flat_map(|searcher| searcher.find_iter(chunk));
            found.extend(hits.map(|hit| address + hit.start() as u64));
        })
    }

    /// The addresses of instructions that seem to take one of these addresses.
    pub fn address_takers(&self, targets: &[VirtAddr]) -> Result<Vec<VirtAddr>, ObjectError> {
        let (Some(low), Some(high)) = (targets.iter().min(), targets.iter().max()) else {
            return Ok(Vec::new());
        };
        let is_target =
            |address: u64| (low.0..=high.0).contains(&address) && targets.contains(&VirtAddr(address));
        let fixed = targets.iter().filter(|_| self.is_fixed);
        let fixed = fixed.filter_map(|target| Some(u32::try_from(target.0).ok()?.to_le_bytes()));
        let absolute = searcher(MatchKind::LeftmostFirst, fixed);
        self.scan_code(|address, chunk, found| {
            relative(chunk, address, is_target, found);
            let hits = absolute.iter().flat_map(|searcher| searcher.find_iter(chunk));
            found.extend(hits.map(|hit| address + hit.start() as u64));
        })
    }

    /// The addresses of what seem to be instructions that call, jump or load through one of these words.
    pub(in crate::elf) fn slot_users(&self, slots: &[u64]) -> Result<Vec<VirtAddr>, ObjectError> {
        self.scan_code(|address, chunk, found| {
            // `call` and `jmp` (ff /2, ff /4) and `mov` (8b) with a RIP-relative memory operand.
            found.extend(memchr::memchr2_iter(0xff, 0x8b, chunk).filter_map(|at| {
                let is_relative = chunk.get(at + 1).is_some_and(|modrm| modrm & 0xc7 == 0x05);
                let next = address + at as u64 + 6;
                (is_relative && slots.contains(&displaced(chunk, at + 2, next)?)).then_some(next - 6)
            }));
        })
    }

    /// The addresses of what seem to be conditional near jumps (rel32) to a place from `first` to `last`.
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

    /// Visits all code, and returns the sorted addresses that `visit` adds.
    fn scan_code(
        &self,
        visit: impl Fn(u64, &[u8], &mut Vec<u64>) + Sync,
    ) -> Result<Vec<VirtAddr>, ObjectError> {
        let mut all = Vec::new();
        let mut left = MAX_BYTES;
        for segment in self.segments.executables() {
            let extent = segment.extent.head(left);
            left -= extent.length;
            let parts = in_parts(extent, MAX_INSTRUCTION, |part, file| {
                let mut found = Vec::new();
                self.reader.chunks("code", file, (1, MAX_INSTRUCTION), |offset, chunk| {
                    visit(segment.address.saturating_add(part.start + offset), chunk, &mut found);
                    if found.len() >= MAX_REFERENCES {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                })?;
                Ok(found)
            })?;
            all.extend(parts.into_iter().flatten());
        }
        all.sort_unstable();
        all.dedup();
        Ok(all.into_iter().map(VirtAddr).collect())
    }

    /// Where constant data is in the file.
    pub(in crate::elf) fn constants(&self) -> Vec<FileRange> {
        if self.rodata.is_empty() { self.segments.read_only() } else { self.rodata.clone() }
    }
}

/// A searcher for the patterns; none if there are no patterns.
fn searcher<P: AsRef<[u8]>>(kind: MatchKind, patterns: impl IntoIterator<Item = P>) -> Option<AhoCorasick> {
    let mut patterns = patterns.into_iter().peekable();
    patterns.peek()?;
    AhoCorasick::builder().match_kind(kind).build(patterns).ok()
}

/// The matches that a NUL follows. The NUL is not part of the patterns, because the searcher would stop at
/// each one, and constants have many.
fn terminated<'a>(searcher: &'a AhoCorasick, chunk: &'a [u8]) -> impl Iterator<Item = Match> + 'a {
    let mut at = 0;
    iter::from_fn(move || {
        while at < chunk.len() {
            let found = searcher.find(Input::new(chunk).range(at..))?;
            // If the longest match is not at the end of a string, no shorter one at the same place is.
            if chunk.get(found.end()) == Some(&0) {
                at = found.end() + 1;
                return Some(found);
            }
            at = found.start() + 1;
        }
        None
    })
}

/// How many bytes of the string precede the match. None if nothing may precede it.
fn lead(needle: StringPattern, before: &[u8]) -> Option<u64> {
    let lead =
        before.iter().rev().take(MAX_LEAD).position(|byte| *byte == 0).unwrap_or(before.len().min(MAX_LEAD));
    match needle {
        StringPattern::Whole(_) => (lead == 0).then_some(0),
        StringPattern::End(_) | StringPattern::Beside(_) => Some(lead as u64),
    }
}

/// Adds the RIP-relative `lea` instructions (REX.W 8D /r with mod 00, r/m 101) of a wanted address.
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

/// The address that the 32-bit displacement at `at` leads to from `next`.
fn displaced(chunk: &[u8], at: usize, next: u64) -> Option<u64> {
    let bytes = chunk.get(at..)?.first_chunk()?;
    Some(next.wrapping_add_signed(i32::from_le_bytes(*bytes).into()))
}
