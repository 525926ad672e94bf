//! Where Rust's panics are: each that may happen has a `core::panic::Location` in the data (path of the
//! source file, its length, line, column), which stripping leaves.
//!
//! Owns the search for these, and for what words of the data point to. It never says what a function does.

use std::ops::ControlFlow;

use memchr::memmem::Finder;
use object::LittleEndian as LE;
use object::elf::{self, Rela64};
use object::pod;

use crate::elf::file::reader::FileRange;
use crate::elf::{Object, ObjectError, VirtAddr};

/// Relocations: large programs have a million, each of which is held.
const MAX_RELOCATIONS: u64 = 2_000_000;
/// Bytes of constants and of data that are searched.
const MAX_BYTES: u64 = 512 << 20;
/// Texts that end like the path.
const MAX_PATHS: usize = 64;
/// Places of one path.
const MAX_LOCATIONS: usize = 256;
/// Bytes of a path.
const MAX_PATH: u64 = 512;
/// Lines of a source file, and characters of a line.
const MAX_LINE: u32 = 100_000;
const MAX_COLUMN: u32 = 1000;
/// Bytes of a `Location`: two words, two numbers of 32 bits.
const SIZE: u64 = 24;

/// A place in a source file that a panic would name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The path of the source file, as the compiler was given it.
    pub path: String,
    /// Where the object has it.
    pub address: VirtAddr,
}

/// The words of an object that are addresses of it.
#[derive(Debug)]
pub struct Pointers<'o> {
    object: &'o Object,
    /// By place: what the loader puts there.
    relocated: Vec<(u64, u64)>,
}

impl Object {
    /// The places in source files whose path ends so, and those words that [`Pointers`] tells.
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

    /// Where texts end that end so.
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

    /// Those words that [`Pointers`] tells.
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
    /// What the word at an address points to.
    pub fn at(&self, place: u64) -> Result<Option<u64>, ObjectError> {
        let known = self.relocated.partition_point(|(known, _)| *known < place);
        if let Some((_, value)) = self.relocated.get(known).filter(|(known, _)| *known == place) {
            return Ok(Some(*value));
        }
        let Some(extent) = self.object.segments.from(place) else { return Ok(None) };
        let bytes = self.object.reader.bytes("a word of the data", extent.head(8), 8)?;
        Ok(bytes.first_chunk().map(|word| u64::from_le_bytes(*word)))
    }

    /// The words that point to one of some addresses.
    pub fn to(&self, targets: &[u64]) -> Result<Vec<u64>, ObjectError> {
        self.places(|value| targets.contains(&value))
    }

    /// The words that point to what may be the beginning of a path that ends at one of `ends`.
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
        // Without relocations, or with packed ones, the words are in the data.
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

    /// The `Location` at an address, if it is one of a path that ends at one of `ends`.
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
