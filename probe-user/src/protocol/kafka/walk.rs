//! The parts of a message, piece by piece: nothing of it waits but the part that is being read.

use super::api::{Form, Meaning, Part, What};

/// The longest text that is read. Longer ones do not name topics or groups.
const MAX_TEXT: u64 = 64 * 1024;
/// The length of the head of a batch of records in its current form (magic 2).
const BATCH_HEAD: u64 = 61;
/// The length of what batches of all forms begin with, up to their magic number.
const BATCH_START: u64 = 17;
/// The length of a batch's offset and length, which the length does not count.
const BEFORE_BATCH: u64 = 12;
/// The attributes of a batch that is a marker of the broker.
const CONTROL: u16 = 0x20;
/// The attributes of a batch that say how it is compressed.
const COMPRESSION: u8 = 7;

/// What was found in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Text(Meaning, String),
    TopicId(Meaning, [u8; 16]),
    ErrorCode(i16),
    Acks(i16),
    KeyType(i8),
    /// The bytes of batches of records.
    RecordBytes(u64),
    /// The records of a batch. None if their number is not known.
    Records(Option<u64>),
}

/// The message is not what its kind and version say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MalformedMessage;

/// A list of groups of parts that is being read.
#[derive(Clone, Copy, Debug)]
struct Level {
    parts: &'static [Part],
    next: usize,
    /// How many groups are to come, with the current one.
    left: u64,
    /// Whether tagged fields follow each group.
    is_tagged: bool,
}

/// The place in a message.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    version: i16,
    is_flexible: bool,
    levels: Vec<Level>,
    /// The bytes to be passed over first.
    skip: u64,
    /// The bytes of records that follow then.
    records: u64,
    /// How many tagged fields follow then.
    tags: Option<u64>,
    /// Whether all that follows does not matter.
    is_rest: bool,
}

/// A piece of a message: the bytes that it takes, and what was found in it.
pub(super) type WalkPiece = (usize, Option<Found>);

impl Walk {
    pub(super) fn new(parts: &'static [Part], version: i16, form: Form) -> Self {
        let is_flexible = form == Form::Flexible;
        let level = Level { parts, next: 0, left: 1, is_tagged: is_flexible };
        Self { version, is_flexible, levels: vec![level], skip: 0, records: 0, tags: None, is_rest: false }
    }

    /// A walk over what does not matter.
    pub(super) fn rest() -> Self {
        Self { is_rest: true, ..Self::new(&[], 0, Form::Plain) }
    }

    /// The same behind the tagged fields of a header.
    pub(super) fn behind_tags(mut self) -> Self {
        const NONE: &[Part] = &[];
        self.levels.push(Level { parts: NONE, next: 0, left: 1, is_tagged: true });
        self
    }

    /// Whether what follows does not matter.
    pub(super) fn is_rest(&self) -> bool {
        self.is_rest
    }

    /// Whether the message ends here by its parts, all of which are known.
    pub(super) fn ends_here(&mut self) -> bool {
        // Parts that its version does not have take no bytes.
        while !self.is_rest && !self.levels.is_empty() && self.skip == 0 && self.records == 0 {
            if !matches!(self.next(&[]), Ok(Some(_))) {
                return false;
            }
        }
        self.levels.is_empty() && self.skip == 0 && self.records == 0 && self.tags.is_none() && !self.is_rest
    }

    /// Passes over missing bytes. Returns whether it is known what follows them.
    pub(super) fn lose(&mut self, missing: u64) -> bool {
        if self.is_rest || self.skip >= missing {
            self.skip = self.skip.saturating_sub(missing);
            return true;
        }
        self.is_rest = true;
        false
    }

    /// Reads the next piece of what is left of a message. None if more bytes are needed.
    pub(super) fn next(&mut self, data: &[u8]) -> Result<Option<WalkPiece>, MalformedMessage> {
        if self.is_rest {
            return Ok((!data.is_empty()).then_some((data.len(), None)));
        }
        if self.skip > 0 {
            let length = usize::try_from(self.skip).unwrap_or(usize::MAX).min(data.len());
            self.skip -= length as u64;
            return Ok((length > 0).then_some((length, None)));
        }
        let mut cursor = Cursor { data, at: 0 };
        let found = if self.records > 0 {
            self.batch(&mut cursor)
        } else if self.tags.is_some() {
            self.tag(&mut cursor).map(|()| None)
        } else {
            self.part(&mut cursor)
        };
        match found {
            Ok(found) => Ok(Some((cursor.at, found))),
            Err(Stop::More) => Ok(None),
            Err(Stop::Malformed) => Err(MalformedMessage),
        }
    }

    /// Reads the head of a batch of records.
    fn batch(&mut self, cursor: &mut Cursor<'_>) -> Result<Option<Found>, Stop> {
        if self.records < BATCH_START {
            // Brokers cut the last batch off where a limit is reached.
            self.skip = std::mem::take(&mut self.records);
            return Ok(None);
        }
        let mut head = Cursor { data: cursor.data, at: 0 };
        head.take(8)?;
        let length = u64::from(u32::from_be_bytes(head.array()?)).saturating_add(BEFORE_BATCH);
        head.take(4)?;
        let [magic] = head.array()?;
        let is_whole = length <= self.records;
        let count = match magic {
            2 if self.records >= BATCH_HEAD => {
                head.take(4)?;
                let attributes = u16::from_be_bytes(head.array()?);
                head.take(34)?;
                let count = u64::from(u32::from_be_bytes(head.array()?));
                Some(if attributes & CONTROL == 0 { count } else { 0 })
            }
            // A message of its own, or one that has others in it.
            0 | 1 => {
                let [attributes] = head.array()?;
                (attributes & COMPRESSION == 0).then_some(1)
            }
            _ => None,
        };
        if is_whole && length < head.at as u64 {
            return Err(Stop::Malformed);
        }
        let taken = length.min(self.records);
        self.records -= taken;
        let read = (head.at as u64).min(taken);
        self.skip = taken - read;
        cursor.at = usize::try_from(read).unwrap_or(head.at);
        Ok(is_whole.then_some(Found::Records(count)))
    }

    /// Reads the number of tagged fields, or the head of one.
    fn tag(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Stop> {
        match self.tags {
            Some(left) if left > 0 => {
                cursor.varint()?;
                self.skip = cursor.varint()?;
                self.tags = Some(left - 1);
            }
            _ => self.tags = None,
        }
        if self.tags == Some(0) {
            self.tags = None;
        }
        Ok(())
    }

    /// Reads the next part, or the end of a group.
    fn part(&mut self, cursor: &mut Cursor<'_>) -> Result<Option<Found>, Stop> {
        let Some(level) = self.levels.last_mut() else { return Err(Stop::Malformed) };
        let Some(part) = level.parts.get(level.next) else {
            let is_tagged = level.is_tagged;
            if is_tagged {
                self.tags = Some(cursor.varint()?).filter(|tags| *tags > 0);
            }
            level.next = 0;
            level.left = level.left.saturating_sub(1);
            if level.left == 0 {
                self.levels.pop();
            }
            return Ok(None);
        };
        if part.is_in(self.version) {
            let found = self.value(part.what, cursor)?;
            return Ok(found);
        }
        level.next += 1;
        Ok(None)
    }

    fn value(&mut self, what: What, cursor: &mut Cursor<'_>) -> Result<Option<Found>, Stop> {
        let mut found = None;
        let mut opened = None;
        match what {
            What::Skip(bytes) => self.skip = u64::from(bytes),
            What::Text(meaning) => {
                let length = if self.is_flexible { cursor.compact()? } else { cursor.short_length()? };
                match length {
                    Some(length) if meaning == Meaning::None || length > MAX_TEXT => self.skip = length,
                    Some(length) => {
                        let text = cursor.take(usize::try_from(length).unwrap_or(usize::MAX))?;
                        found = Some(Found::Text(meaning, String::from_utf8_lossy(text).into_owned()));
                    }
                    None => {}
                }
            }
            What::Bytes => self.skip = self.length(cursor)?.unwrap_or(0),
            What::TopicId(meaning) => found = Some(Found::TopicId(meaning, cursor.array()?)),
            What::ErrorCode => found = Some(Found::ErrorCode(i16::from_be_bytes(cursor.array()?))),
            What::Acks => found = Some(Found::Acks(i16::from_be_bytes(cursor.array()?))),
            What::KeyType => found = Some(Found::KeyType(i8::from_be_bytes(cursor.array()?))),
            What::Records => {
                self.records = self.length(cursor)?.unwrap_or(0);
                found = Some(Found::RecordBytes(self.records));
            }
            What::Numbers(size) => {
                let count = self.length(cursor)?.unwrap_or(0);
                self.skip = count.checked_mul(u64::from(size)).ok_or(Stop::Malformed)?;
            }
            What::Array(parts) => opened = self.open(parts, cursor)?,
            What::Texts(parts) => {
                opened = self.open(parts, cursor)?.map(|level| Level { is_tagged: false, ..level });
            }
            What::Rest => self.is_rest = true,
        }
        if let Some(level) = self.levels.last_mut() {
            level.next += 1;
        }
        self.levels.extend(opened);
        Ok(found)
    }

    /// Reads the length of a list of parts.
    fn open(&self, parts: &'static [Part], cursor: &mut Cursor<'_>) -> Result<Option<Level>, Stop> {
        let left = self.length(cursor)?.unwrap_or(0);
        Ok((left > 0).then_some(Level { parts, next: 0, left, is_tagged: self.is_flexible }))
    }

    /// The length of bytes or of a list. None if it is null.
    fn length(&self, cursor: &mut Cursor<'_>) -> Result<Option<u64>, Stop> {
        if self.is_flexible {
            return cursor.compact();
        }
        match i32::from_be_bytes(cursor.array()?) {
            -1 => Ok(None),
            length => u64::try_from(length).map(Some).map_err(|_| Stop::Malformed),
        }
    }
}

/// Why a piece was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    More,
    Malformed,
}

struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        let end = self.at.checked_add(length).ok_or(Stop::Malformed)?;
        let taken = self.data.get(self.at..end).ok_or(Stop::More)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        self.take(N)?.try_into().map_err(|_| Stop::More)
    }

    /// A number of 32 bits, seven of them in each byte.
    fn varint(&mut self) -> Result<u64, Stop> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Stop::Malformed)
    }

    /// A length in the compact form. None if it is null.
    fn compact(&mut self) -> Result<Option<u64>, Stop> {
        Ok(self.varint()?.checked_sub(1))
    }

    /// A length of 16 bits. None if it is null.
    fn short_length(&mut self) -> Result<Option<u64>, Stop> {
        match i16::from_be_bytes(self.array()?) {
            -1 => Ok(None),
            length => u64::try_from(length).map(Some).map_err(|_| Stop::Malformed),
        }
    }
}
