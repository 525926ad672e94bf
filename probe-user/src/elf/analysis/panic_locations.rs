//! Finds Rust's panic locations: every possible panic has a `core::panic::Location` in the data (path of the
//! source file, its length, line and column), which stripping does not remove.
//!
//! Also resolves which words of the data point where. What the function around a location does is decided
//! elsewhere.

use std::ops::ControlFlow;

use memchr::memmem::Finder;
use object::LittleEndian as LE;
use object::elf::{self, Rela64};
use object::pod;

use crate::elf::file::reader::FileRange;
use crate::elf::{Object, ObjectError, VirtAddr};

/// Limit of the relocations, which are all held in memory: large programs have a million.
const MAX_RELOCATIONS: u64 = 2_000_000;
/// Limit of the constants and of the data that are searched, in bytes.
const MAX_BYTES: u64 = 512 << 20;
/// Limit of the texts that end with the path.
const MAX_PATHS: usize = 64;
/// Limit of the locations in one source file.
const MAX_LOCATIONS: usize = 256;
/// Longest path in bytes.
const MAX_PATH: u64 = 512;
/// Limits of the line and column numbers that count as plausible.
const MAX_LINE: u32 = 100_000;
const MAX_COLUMN: u32 = 1000;
/// Size of a `Location`: two words and two 32-bit numbers.
const SIZE: u64 = 24;

/// A panic location in a source file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The path of the source file, as it was given to the compiler.
    pub path: String,
    /// The address of the `Location` in the object.
    pub address: VirtAddr,
}

/// The words of an object that hold addresses in it.
#[derive(Debug)]
pub struct Pointers<'o> {
    object: &'o Object,
    /// Words that the loader relocates: address and value, sorted.
    relocated: Vec<(u64, u64)>,
}

impl Object {
    /// The panic locations in source files whose path ends with `end`, together with the object's
    /// [`Pointers`].
    pub fn locations(&self, end: &str) -> Result<Option<(Vec<Location>, Pointers<'_>)>, ObjectError> {
        let ends = self.ends(end)?;
        if ends.is_empty() {
            return Ok(None);
        }
        let pointers = self.pointers()?;
        let mut locations = Vec::new();
        for place in pointers.near(&ends)? {
            locations.extend(pointers.location(place, &ends, end)?);
        }
        locations.sort_unstable();
        locations.dedup();
        Ok((!locations.is_empty()).then_some((locations, pointers)))
    }

    /// The addresses at which texts that end with `end` end.
    fn ends(&self, end: &str) -> Result<Vec<u64>, ObjectError> {
        let finder = Finder::new(end);
        let mut ends = Vec::new();
        let mut left = MAX_BYTES;
        for extent in self.constants() {
            let extent = extent.head(left);
            left -= extent.length;
            let Some(base) = self.segments.loaded_at(extent.offset) else { continue };
            self.reader.chunks("constant data", extent, (1, end.len() as u64), |offset, chunk| {
                let found = finder.find_iter(chunk).map(|at| at + end.len());
                ends.extend(found.map(|at| base.saturating_add(offset).saturating_add(at as u64)));
                if ends.len() >= MAX_PATHS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
        }
        ends.sort_unstable();
        ends.dedup();
        Ok(ends)
    }

    /// The words of this object that hold addresses in it.
    pub fn pointers(&self) -> Result<Pointers<'_>, ObjectError> {
        const WHAT: &str = "relocations";
        const SIZE: usize = size_of::<Rela64<LE>>();
        let mut relocated = Vec::new();
        if let Some(table) = self.relocations {
            let count = table.length / SIZE as u64;
            if count > MAX_RELOCATIONS {
                return Err(ObjectError::TooLarge { what: WHAT, found: count, limit: MAX_RELOCATIONS });
            }
            self.reader.chunks(WHAT, table.head(count * SIZE as u64), (SIZE as u64, 0), |_, chunk| {
                let list = pod::slice_from_bytes::<Rela64<LE>>(chunk, chunk.len() / SIZE);
                let list = list.map_or(&[][..], |(list, _)| list).iter();
                let relative = list.filter(|entry| entry.r_type(LE, false) == elf::R_X86_64_RELATIVE);
                relocated.extend(
                    relative.map(|entry| (entry.r_offset.get(LE), entry.r_addend.get(LE).cast_unsigned())),
                );
                ControlFlow::<()>::Continue(())
            })?;
        }
        relocated.sort_unstable();
        Ok(Pointers { object: self, relocated })
    }
}

impl Pointers<'_> {
    /// The address that the word at `place` holds.
    pub fn at(&self, place: u64) -> Result<Option<u64>, ObjectError> {
        let index = self.relocated.partition_point(|(other, _)| *other < place);
        if let Some((_, value)) = self.relocated.get(index).filter(|(other, _)| *other == place) {
            return Ok(Some(*value));
        }
        let Some(extent) = self.object.segments.from(place) else { return Ok(None) };
        let bytes = self.object.reader.bytes("a word of the data", extent.head(8), 8)?;
        Ok(bytes.first_chunk().map(|word| u64::from_le_bytes(*word)))
    }

    /// The words that hold one of these addresses.
    pub fn to(&self, targets: &[u64]) -> Result<Vec<u64>, ObjectError> {
        self.places(|value| targets.contains(&value))
    }

    /// The words that may hold the start of a path that ends at one of `ends`.
    fn near(&self, ends: &[u64]) -> Result<Vec<u64>, ObjectError> {
        let (Some(low), Some(high)) = (ends.first().copied(), ends.last().copied()) else {
            return Ok(Vec::new());
        };
        let low = low.saturating_sub(MAX_PATH);
        self.places(|value| {
            (low..high).contains(&value)
                && ends.iter().any(|end| end.checked_sub(value).is_some_and(|length| length <= MAX_PATH))
        })
    }

    fn places(&self, is_wanted: impl Fn(u64) -> bool) -> Result<Vec<u64>, ObjectError> {
        let mut places: Vec<u64> =
            self.relocated.iter().filter(|(_, value)| is_wanted(*value)).map(|(place, _)| *place).collect();
        // Without relocations, or with packed ones, the data itself holds the addresses.
        let mut left = MAX_BYTES;
        for segment in self.object.segments.data() {
            let begin = segment.address.next_multiple_of(8);
            let extent: FileRange = segment.extent.tail(begin - segment.address).head(left);
            left -= extent.length;
            self.object.reader.chunks("data", extent, (8, 0), |offset, chunk| {
                let (words, _) = chunk.as_chunks::<8>();
                let words = (0_u64..).zip(words.iter().map(|word| u64::from_le_bytes(*word)));
                let found = words.filter(|(_, value)| is_wanted(*value));
                places
                    .extend(found.map(|(number, _)| begin.saturating_add(offset).saturating_add(8 * number)));
                if places.len() >= MAX_LOCATIONS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
        }
        places.sort_unstable();
        places.dedup();
        places.truncate(MAX_LOCATIONS);
        Ok(places)
    }

    /// The `Location` at an address, if its path ends at one of `ends`.
    fn location(&self, place: u64, ends: &[u64], end: &str) -> Result<Option<Location>, ObjectError> {
        let (Some(begin), Some(extent)) = (self.at(place)?, self.object.segments.from(place)) else {
            return Ok(None);
        };
        let bytes = self.object.reader.bytes("a place of a panic", extent.head(SIZE), SIZE)?;
        let word =
            |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map(|word| u64::from_le_bytes(*word));
        let (Some(length), Some(numbers)) = (word(8), word(16)) else { return Ok(None) };
        let [line, column] = [numbers & 0xffff_ffff, numbers >> 32];
        let is_place =
            (1..=u64::from(MAX_LINE)).contains(&line) && (1..=u64::from(MAX_COLUMN)).contains(&column);
        let is_end = begin.checked_add(length).is_some_and(|end| ends.binary_search(&end).is_ok());
        let Some(text) =
            self.object.segments.from(begin).filter(|_| is_place && is_end && length <= MAX_PATH)
        else {
            return Ok(None);
        };
        let path = self.object.reader.bytes("the path of a source file", text.head(length), MAX_PATH)?;
        let path = String::from_utf8(path).ok().filter(|path| path.ends_with(end));
        Ok(path.map(|path| Location { path, address: VirtAddr(place) }))
    }
}
