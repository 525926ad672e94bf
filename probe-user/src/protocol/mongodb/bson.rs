//! Documents of BSON (<https://bsonspec.org/spec.html>), element by element, without recursion.

/// The deepest nesting that is looked into. MongoDB allows 100 levels.
const MAX_DEPTH: usize = 100;
/// The longest document, with what the server itself adds to one of 16 MiB. Commands may have several.
const MAX_DOCUMENT: u32 = 48 << 20;
/// The longest name of an element.
const MAX_NAME: usize = 1024;
/// The bytes of a value that are kept.
const MAX_VALUE: usize = 1024;

/// The types of elements that are looked at.
pub(super) mod kind {
    pub(in crate::protocol::mongodb) const DOUBLE: u8 = 1;
    pub(in crate::protocol::mongodb) const STRING: u8 = 2;
    pub(in crate::protocol::mongodb) const DOCUMENT: u8 = 3;
    pub(in crate::protocol::mongodb) const ARRAY: u8 = 4;
    pub(in crate::protocol::mongodb) const OBJECT_ID: u8 = 7;
    pub(in crate::protocol::mongodb) const BOOLEAN: u8 = 8;
    pub(in crate::protocol::mongodb) const DATE: u8 = 9;
    pub(in crate::protocol::mongodb) const NULL: u8 = 10;
    pub(in crate::protocol::mongodb) const INT32: u8 = 16;
    pub(in crate::protocol::mongodb) const INT64: u8 = 18;
}
use kind::{ARRAY, DOCUMENT};

/// What has elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BsonContainer {
    Document,
    Array,
}

/// Whether the bytes of a value are all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BsonExtent {
    Whole,
    Cut,
}

/// A part of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BsonPart<'a> {
    /// A document or an array begins. The outermost one has no name.
    Open { name: &'a [u8], container: BsonContainer },
    /// It ends.
    Close,
    /// A value: its type, and its first bytes. A string has neither its length nor its end here.
    Value { name: &'a [u8], kind: u8, value: &'a [u8], extent: BsonExtent },
}

/// The bytes are no BSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoBson;

/// The place in a document.
#[derive(Clone, Debug, Default)]
pub(super) struct BsonWalk {
    /// The bytes that follow in each document that is open, the outermost one first.
    open: Vec<u64>,
    /// The bytes of a value that are passed over.
    skip: u64,
    has_begun: bool,
}

impl BsonWalk {
    /// Whether the outermost document has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.has_begun && self.open.is_empty() && self.skip == 0
    }

    /// Passes over missing bytes. Returns whether it is known what follows them.
    pub(super) fn lose(&mut self, missing: u64) -> bool {
        let is_within = missing <= self.skip;
        self.skip = self.skip.saturating_sub(missing);
        is_within
    }

    /// Reads the next part. None if more bytes are needed. A part may be none that matters.
    pub(super) fn next<'a>(
        &mut self,
        data: &'a [u8],
    ) -> Result<Option<(usize, Option<BsonPart<'a>>)>, NoBson> {
        if self.skip > 0 {
            let length = usize::try_from(self.skip).unwrap_or(usize::MAX).min(data.len());
            self.skip -= length as u64;
            return Ok((length > 0).then_some((length, None)));
        }
        let mut cursor = BsonCursor { data, at: 0 };
        if !self.has_begun {
            let Some(length) = cursor.length() else { return Ok(None) };
            self.has_begun = true;
            self.open.push(inner_length(length)?);
            return Ok(Some((
                cursor.at,
                Some(BsonPart::Open { name: &[], container: BsonContainer::Document }),
            )));
        }
        let Some(left) = self.open.last_mut() else { return Err(NoBson) };
        let Some(kind) = cursor.byte() else { return Ok(None) };
        if kind == 0 {
            if *left != 1 {
                return Err(NoBson);
            }
            self.open.pop();
            return Ok(Some((1, Some(BsonPart::Close))));
        }
        let Some(name) = cursor.name()? else { return Ok(None) };
        let Some(size) = cursor.size(kind)? else { return Ok(None) };
        // The end of the document follows.
        let whole = (cursor.at as u64).saturating_add(size);
        *left = left.checked_sub(whole).filter(|left| *left > 0).ok_or(NoBson)?;
        if matches!(kind, DOCUMENT | ARRAY) && self.open.len() < MAX_DEPTH {
            self.open.push(size);
            let container = if kind == ARRAY { BsonContainer::Array } else { BsonContainer::Document };
            return Ok(Some((cursor.at, Some(BsonPart::Open { name, container }))));
        }
        let kept = usize::try_from(size).unwrap_or(usize::MAX).min(MAX_VALUE);
        let before = self.open.len();
        let Some(value) = cursor.take(kept) else {
            // It is read again as a whole.
            if let Some(left) = self.open.get_mut(before - 1) {
                *left = left.saturating_add(whole);
            }
            return Ok(None);
        };
        self.skip = size - kept as u64;
        let extent = if self.skip > 0 { BsonExtent::Cut } else { BsonExtent::Whole };
        let value = if is_string(kind) && extent == BsonExtent::Whole {
            value.strip_suffix(&[0]).ok_or(NoBson)?
        } else {
            value
        };
        Ok(Some((cursor.at, Some(BsonPart::Value { name, kind, value, extent }))))
    }
}

/// The length of a document behind its length.
fn inner_length(length: u32) -> Result<u64, NoBson> {
    if !(5..=MAX_DOCUMENT).contains(&length) {
        return Err(NoBson);
    }
    Ok(u64::from(length) - 4)
}

fn is_string(kind: u8) -> bool {
    matches!(kind, 2 | 13 | 14)
}

struct BsonCursor<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> BsonCursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.data.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn length(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    /// Reads a text that ends with a zero. None if that is to come.
    fn name(&mut self) -> Result<Option<&'a [u8]>, NoBson> {
        let rest = self.data.get(self.at..).unwrap_or_default();
        let within = rest.get(..MAX_NAME).unwrap_or(rest);
        match memchr::memchr(0, within) {
            Some(end) => {
                self.at += end + 1;
                Ok(within.get(..end))
            }
            None if rest.len() < MAX_NAME => Ok(None),
            None => Err(NoBson),
        }
    }

    /// The bytes of a value of a type, behind its length if it has one. None if more bytes are needed.
    fn size(&mut self, kind: u8) -> Result<Option<u64>, NoBson> {
        let size = match kind {
            6 | 10 | 0x7f | 0xff => 0,
            8 => 1,
            16 => 4,
            1 | 9 | 17 | 18 => 8,
            7 => 12,
            19 => 16,
            // A regular expression and its options.
            11 => {
                let start = self.at;
                let (Some(_), Some(_)) = (self.name()?, self.name()?) else { return Ok(None) };
                let size = self.at - start;
                self.at = start;
                size as u64
            }
            2 | 5 | 12 | 13 | 14 | DOCUMENT | ARRAY | 15 => {
                let Some(length) = self.length() else { return Ok(None) };
                let length = u64::from(length);
                match kind {
                    DOCUMENT | ARRAY => return inner_length(u32::try_from(length).unwrap_or(0)).map(Some),
                    // The subtype is not counted.
                    5 => length + 1,
                    // The id of what is pointed to is not counted.
                    12 => length + 12,
                    // The length of code with its scope counts itself.
                    15 => length.checked_sub(4).ok_or(NoBson)?,
                    _ if length == 0 => return Err(NoBson),
                    _ => length,
                }
            }
            _ => return Err(NoBson),
        };
        Ok(Some(size))
    }
}
