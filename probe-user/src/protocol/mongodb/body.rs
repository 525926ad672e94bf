//! What follows a message's header, piece by piece.

use super::bson::{BsonPart, BsonWalk};
use super::command::MongoCommand;
use super::header::{CHECKSUM, number, opcode};
use super::reply::MongoReply;
use super::snappy;
use crate::protocol::content::{self, Whole};

/// The longest compressed message that is read. It has to be held.
const MAX_COMPRESSED: usize = 256 * 1024;
/// The bytes that are read of what a compressed message expands to.
const MAX_EXPANDED: usize = 4 << 20;
/// The longest name of a collection with its database, or of a list of documents.
const MAX_NAME: usize = 1024;

/// What a message says.
#[derive(Clone, Debug)]
pub(super) enum MongoContents {
    Command(MongoCommand),
    Reply(MongoReply),
}

/// The place in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Flags,
    /// The kind of a section.
    Section,
    /// The length and the name of a list of documents.
    SequenceHead,
    /// A document of a list, of which so many bytes are left.
    Sequence(u64),
    /// The only document of a section, or one of this many.
    Document(u64),
    QueryHead,
    ReplyHead,
    CompressedHead,
    Compressed,
    /// What does not matter.
    Rest,
}

/// A message behind its header.
#[derive(Debug)]
pub(super) struct MongoBody {
    stage: Stage,
    /// Whether documents are in sections.
    has_sections: bool,
    walk: BsonWalk,
    /// The bytes that follow.
    pub(super) left: u64,
    pub(super) flags: u32,
    pub(super) contents: MongoContents,
    /// Whether bytes are missing or are no message.
    pub(super) is_damaged: bool,
    /// How the message is compressed, if it is not read for that reason.
    pub(super) not_decoded: Option<&'static str>,
    compressed: Vec<u8>,
    /// The form of the message within a compressed one, and what that is compressed by.
    inner: Option<(u32, u8)>,
}

impl MongoBody {
    pub(super) fn new(opcode: u32, left: u64, contents: MongoContents) -> Self {
        let mut body = Self {
            stage: Stage::Rest,
            has_sections: false,
            walk: BsonWalk::default(),
            left,
            flags: 0,
            contents,
            is_damaged: false,
            not_decoded: None,
            compressed: Vec::new(),
            inner: None,
        };
        body.begin(opcode);
        body
    }

    fn begin(&mut self, opcode: u32) {
        self.has_sections = opcode == opcode::MSG;
        self.stage = match opcode {
            opcode::MSG => Stage::Flags,
            opcode::QUERY => Stage::QueryHead,
            opcode::REPLY => Stage::ReplyHead,
            opcode::COMPRESSED => Stage::CompressedHead,
            _ => Stage::Rest,
        };
        let legacy = match opcode {
            opcode::UPDATE => "update",
            opcode::INSERT => "insert",
            opcode::GET_MORE => "getMore",
            opcode::DELETE => "delete",
            opcode::KILL_CURSORS => "killCursors",
            _ => return,
        };
        if let MongoContents::Command(command) = &mut self.contents {
            command.legacy(legacy);
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        let statement = match &self.contents {
            MongoContents::Command(command) => command.statement.size(),
            MongoContents::Reply(_) => 0,
        };
        self.compressed.capacity() + statement
    }

    /// Takes bytes, of which there is at least one. Returns how many. None if more are needed.
    pub(super) fn take(&mut self, data: &[u8]) -> Option<usize> {
        let data = data.get(..usize::try_from(self.left).unwrap_or(usize::MAX)).unwrap_or(data);
        let is_last = data.len() as u64 == self.left;
        let taken = match self.step(data) {
            Ok(Some(taken)) => taken,
            Ok(None) if !is_last => return None,
            Ok(None) | Err(Unreadable) => {
                self.damage();
                data.len()
            }
        };
        self.left = self.left.saturating_sub(taken as u64);
        if self.left == 0 && self.stage == Stage::Compressed {
            self.expand();
        }
        Some(taken)
    }

    /// Passes over missing bytes.
    pub(super) fn lose(&mut self, missing: u64) {
        let is_known = match self.stage {
            Stage::Rest => true,
            Stage::Document(_) => self.walk.lose(missing),
            Stage::Sequence(left) => {
                let is_known = self.walk.lose(missing);
                self.stage = Stage::Sequence(left.saturating_sub(missing));
                is_known
            }
            _ => false,
        };
        self.left = self.left.saturating_sub(missing);
        if !is_known {
            self.damage();
        }
    }

    fn damage(&mut self) {
        self.is_damaged = true;
        self.stage = Stage::Rest;
        self.compressed = Vec::new();
    }

    fn step(&mut self, data: &[u8]) -> Result<Option<usize>, Unreadable> {
        match self.stage {
            Stage::Flags => {
                let Some(flags) = number(data, 0) else { return Ok(None) };
                self.flags = flags;
                self.stage = Stage::Section;
                Ok(Some(4))
            }
            Stage::Section => {
                if self.flags & CHECKSUM != 0 && self.left <= 4 {
                    self.stage = Stage::Rest;
                    return Ok(Some(0));
                }
                self.walk = BsonWalk::default();
                self.stage = match data.first() {
                    Some(0) => Stage::Document(1),
                    Some(1) => Stage::SequenceHead,
                    _ => return Err(Unreadable),
                };
                Ok(Some(1))
            }
            Stage::SequenceHead => self.sequence_head(data),
            Stage::Sequence(_) | Stage::Document(_) => self.document(data),
            Stage::QueryHead => {
                let Some(end) = zero(data.get(4..).unwrap_or_default())? else { return Ok(None) };
                let whole = 4 + end + 1 + 8;
                if data.len() < whole {
                    return Ok(None);
                }
                if let MongoContents::Command(command) = &mut self.contents {
                    command.query(data.get(4..4 + end).unwrap_or_default());
                }
                self.stage = Stage::Document(1);
                Ok(Some(whole))
            }
            Stage::ReplyHead => {
                let Some(count) = number(data, 16) else { return Ok(None) };
                if let MongoContents::Reply(reply) = &mut self.contents {
                    reply.documents(count.into());
                }
                self.stage = if count == 0 { Stage::Rest } else { Stage::Document(count.into()) };
                Ok(Some(20))
            }
            Stage::CompressedHead => {
                let Some(&compressor) = data.get(8) else { return Ok(None) };
                let opcode = number(data, 0).ok_or(Unreadable)?;
                self.inner = Some((opcode, compressor));
                self.stage = Stage::Compressed;
                if self.left > MAX_COMPRESSED as u64 {
                    self.not_decoded = Some(compressor_name(compressor));
                    self.stage = Stage::Rest;
                }
                Ok(Some(9))
            }
            Stage::Compressed => {
                self.compressed.extend_from_slice(data);
                Ok(Some(data.len()))
            }
            Stage::Rest => Ok(Some(data.len())),
        }
    }

    fn sequence_head(&mut self, data: &[u8]) -> Result<Option<usize>, Unreadable> {
        let Some(length) = number(data, 0) else { return Ok(None) };
        let Some(end) = zero(data.get(4..).unwrap_or_default())? else { return Ok(None) };
        let head = 4 + end + 1;
        let documents = u64::from(length).checked_sub(head as u64).ok_or(Unreadable)?;
        if u64::from(length) > self.left {
            return Err(Unreadable);
        }
        if let MongoContents::Command(command) = &mut self.contents {
            command.sequence(data.get(4..4 + end).unwrap_or_default());
        }
        self.stage = Stage::Sequence(documents);
        self.end_sequence();
        Ok(Some(head))
    }

    /// Reads a part of a document.
    fn document(&mut self, data: &[u8]) -> Result<Option<usize>, Unreadable> {
        let Some((taken, part)) = self.walk.next(data).map_err(|_| Unreadable)? else { return Ok(None) };
        if let Some(part) = part {
            self.add(&part);
        }
        if let Stage::Sequence(left) = &mut self.stage {
            *left = left.checked_sub(taken as u64).ok_or(Unreadable)?;
        }
        if self.walk.has_ended() {
            self.walk = BsonWalk::default();
            match self.stage {
                Stage::Document(1) if self.has_sections => self.stage = Stage::Section,
                Stage::Document(1) => self.stage = Stage::Rest,
                Stage::Document(count) => self.stage = Stage::Document(count - 1),
                _ => self.end_sequence(),
            }
        }
        Ok(Some(taken))
    }

    fn end_sequence(&mut self) {
        if self.stage == Stage::Sequence(0) {
            self.stage = Stage::Section;
            if let MongoContents::Command(command) = &mut self.contents {
                command.sequence_end();
            }
        }
    }

    fn add(&mut self, part: &BsonPart<'_>) {
        match &mut self.contents {
            MongoContents::Command(command) => command.add(part),
            MongoContents::Reply(reply) => reply.add(part),
        }
    }

    /// Reads the message within a compressed one.
    fn expand(&mut self) {
        let compressed = std::mem::take(&mut self.compressed);
        let Some((opcode, compressor)) = self.inner.take() else { return };
        let name = compressor_name(compressor);
        let expanded = match compressor {
            0 => Some(compressed),
            1 => snappy::decompress(&compressed, MAX_EXPANDED),
            2 => Some(content::decode(&["deflate".to_owned()], &compressed, Whole::Yes, MAX_EXPANDED).data),
            3 => Some(content::decode(&["zstd".to_owned()], &compressed, Whole::Yes, MAX_EXPANDED).data),
            _ => None,
        };
        let Some(expanded) = expanded.filter(|expanded| !expanded.is_empty()) else {
            self.not_decoded = Some(name);
            return self.damage();
        };
        // A message within it cannot be compressed again.
        self.begin(if opcode == opcode::COMPRESSED { 0 } else { opcode });
        self.left = expanded.len() as u64;
        let mut rest = expanded.as_slice();
        while !rest.is_empty() {
            let Some(taken) = self.take(rest) else { break };
            rest = rest.get(taken..).unwrap_or_default();
        }
        self.left = 0;
    }
}

/// The bytes are no message.
#[derive(Clone, Copy, Debug)]
struct Unreadable;

/// Where a name ends. None if its end is to come.
fn zero(data: &[u8]) -> Result<Option<usize>, Unreadable> {
    let within = data.get(..MAX_NAME).unwrap_or(data);
    match memchr::memchr(0, within) {
        Some(end) => Ok(Some(end)),
        None if data.len() < MAX_NAME => Ok(None),
        None => Err(Unreadable),
    }
}

fn compressor_name(compressor: u8) -> &'static str {
    match compressor {
        0 => "noop",
        1 => "snappy",
        2 => "zlib",
        3 => "zstd",
        _ => "unknown",
    }
}
