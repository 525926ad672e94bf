//! The body of a message in transfer: its length, or its chunks.

use super::fields::{add_call_status, push_violations};
use super::framing::{BodyLength, transfer_codings};
use super::head::{BARE_LF, Fields, LONG_HEAD, MAX_HEAD, MessageHead, Violations, section_length};
use crate::event::{Direction, FieldValue, HeaderField, Role};
use crate::protocol::http::body::BodyContent;
use crate::protocol::http::head::{add_call, call_of, describe_body, error_of};
use crate::protocol::http::{
    ERROR_TYPE, PATH, REQUEST_BODY_SIZE, REQUEST_HEADERS, REQUEST_TRAILERS, REQUEST_VIOLATIONS,
    RESPONSE_BODY_SIZE, RESPONSE_HEADERS, RESPONSE_TRAILERS, RESPONSE_VIOLATIONS,
};
use crate::protocol::{Input, Message, MessageKind, Messages};

/// The longest line with the size of a chunk. Its extensions are short if there are any.
const MAX_CHUNK_LINE: usize = 16 * 1024;

const BAD_CHUNK_SIZE: &str = "chunk with an invalid size";
const LONG_CHUNK_LINE: &str = "line of a chunk longer than 16 KiB";
const BAD_CHUNK_END: &str = "chunk that does not end after its size";

/// A message whose head was decoded, and whose body was not yet seen to its end.
#[derive(Clone, Debug)]
pub(super) struct OpenHttpMessage {
    pub(super) message: Message,
    pub(super) content: BodyContent,
    pub(super) violations: Violations,
    pub(super) trailers: Vec<HeaderField>,
    pub(super) body: BodyState,
    /// Whether the body may never come: a request waits for an interim response before it sends its body, or
    /// a response is to a request that was not seen, and that may be HEAD.
    pub(super) may_lack_body: bool,
    /// Whether a byte of the body was seen.
    pub(super) has_begun: bool,
}

/// What of a body comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyState {
    /// This many bytes, of which none have framing.
    Rest(u64),
    /// The line with the size of a chunk.
    ChunkSize,
    /// This many bytes of a chunk.
    ChunkData(u64),
    /// The end of the line after a chunk.
    ChunkEnd,
    /// The trailer section.
    Trailers {
        /// How much of it was searched for its end.
        scanned: usize,
    },
    /// Everything up to the end of the connection.
    UntilClose,
    /// Nothing.
    Complete,
    /// Nothing that can be decoded for sure.
    Broken,
}

impl BodyState {
    pub(super) fn of(length: BodyLength) -> Self {
        match length {
            BodyLength::Known(0) => Self::Complete,
            BodyLength::Known(length) => Self::Rest(length),
            BodyLength::Chunked => Self::ChunkSize,
            BodyLength::UntilClose => Self::UntilClose,
            BodyLength::Unclear => Self::Broken,
        }
    }
}

/// Whether the end of a message is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageEnd {
    Known,
    Unknown,
}

impl MessageEnd {
    /// Known if the body of the message is complete.
    pub(super) fn of(body: BodyState) -> Self {
        if body == BodyState::Complete { Self::Known } else { Self::Unknown }
    }
}

/// What of a gap belongs to a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyGap {
    /// All of it, so that what follows is certain.
    Within,
    /// Unknown, or not all of it.
    Beyond,
}

impl OpenHttpMessage {
    /// Begins the body of a message that has the fields of its start line.
    pub(super) fn new(head: MessageHead, mut message: Message, length: BodyLength) -> Self {
        describe_body(&mut message, &head.headers);
        let path = match message.field(&PATH) {
            Some(FieldValue::Text(path)) => Some(path.clone()),
            _ => None,
        };
        add_call(&mut message, &head.headers, path.as_deref());
        add_call_status(&mut message, &head.headers);
        let codings = transfer_codings(&head.headers).into_iter();
        let codings = codings.filter(|coding| !matches!(coding.as_str(), "" | "chunked" | "identity"));
        message.encodings.extend(codings);
        let is_request = message.kind == MessageKind::Request;
        if is_request {
            message.call = call_of(&message);
        }
        let field = if is_request { &REQUEST_HEADERS } else { &RESPONSE_HEADERS };
        message.fields.push((field, FieldValue::Headers(head.headers)));
        Self {
            content: BodyContent::of(&message),
            message,
            violations: head.violations,
            trailers: Vec::new(),
            body: BodyState::of(length),
            may_lack_body: false,
            has_begun: false,
        }
    }

    /// The message, of which nothing more comes.
    pub(super) fn finish(self, end: MessageEnd, out: &mut Messages) -> Message {
        let Self { mut message, mut content, violations, trailers, .. } = self;
        content.end(&mut message, out);
        message.partial.lacks_end |= end == MessageEnd::Unknown;
        let (size, trailer, violation) = match message.kind {
            MessageKind::Request => (&REQUEST_BODY_SIZE, &REQUEST_TRAILERS, &REQUEST_VIOLATIONS),
            _ => (&RESPONSE_BODY_SIZE, &RESPONSE_TRAILERS, &RESPONSE_VIOLATIONS),
        };
        let length = match end {
            MessageEnd::Known => FieldValue::Number(message.body_length),
            MessageEnd::Unknown => FieldValue::Unknown,
        };
        message.fields.push((size, length));
        add_call_status(&mut message, &trailers);
        if !trailers.is_empty() {
            message.fields.push((trailer, FieldValue::Headers(trailers)));
        }
        push_violations(&mut message, violation, violations);
        if message.kind == MessageKind::Response {
            let is_client = message.direction == Direction::Receive;
            let error = error_of(&message, Some(if is_client { Role::Client } else { Role::Server }));
            message.fields.extend(error.map(|error| (&ERROR_TYPE, error)));
        }
        message
    }

    /// Reads bytes of the body. Returns how many it consumed, which is 0 if more are needed.
    pub(super) fn read(&mut self, input: Input<'_>, out: &mut Messages) -> usize {
        let mut taken = 0;
        loop {
            let rest = Input {
                data: input.data.get(taken..).unwrap_or_default(),
                offset: input.offset.saturating_add(taken as u64),
                marks: input.marks,
            };
            let bytes = if rest.data.is_empty() { 0 } else { self.step(rest, out) };
            if bytes == 0 {
                return taken;
            }
            self.has_begun = true;
            self.message.length = self.message.length.saturating_add(bytes as u64);
            if let Some(time) = rest.time(bytes - 1) {
                self.message.last = time;
            }
            taken += bytes;
        }
    }

    fn step(&mut self, input: Input<'_>, out: &mut Messages) -> usize {
        match self.body {
            BodyState::Rest(rest) => {
                let (bytes, rest) = self.payload(input, rest, out);
                self.body = if rest == 0 { BodyState::Complete } else { BodyState::Rest(rest) };
                bytes
            }
            BodyState::ChunkSize => self.chunk_size(input.data),
            BodyState::ChunkData(rest) => {
                let (bytes, rest) = self.payload(input, rest, out);
                self.body = if rest == 0 { BodyState::ChunkEnd } else { BodyState::ChunkData(rest) };
                bytes
            }
            BodyState::ChunkEnd => self.chunk_end(input.data),
            BodyState::Trailers { scanned } => self.read_trailers(input.data, scanned),
            BodyState::UntilClose => self.payload(input, u64::MAX, out).0,
            BodyState::Complete | BodyState::Broken => 0,
        }
    }

    /// Reads at most `rest` bytes of the payload, all of one call. Returns their number, and what is left.
    fn payload(&mut self, input: Input<'_>, rest: u64, out: &mut Messages) -> (usize, u64) {
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(input.data.len());
        let next_call = input.call_starts().find(|start| *start > 0).unwrap_or(length);
        let length = length.min(next_call);
        let data = input.data.get(..length).unwrap_or_default();
        let time = input.time(0).unwrap_or(self.message.last);
        self.content.data(&mut self.message, data, time, out);
        (length, rest.saturating_sub(length as u64))
    }

    fn chunk_size(&mut self, data: &[u8]) -> usize {
        let limit = data.get(..MAX_CHUNK_LINE).unwrap_or(data);
        let Some(end) = memchr::memchr(b'\n', limit) else {
            if data.len() > MAX_CHUNK_LINE {
                self.break_off(LONG_CHUNK_LINE);
            }
            return 0;
        };
        let line = limit.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or_else(|| {
            self.violations.add(BARE_LF);
            line
        });
        let size = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
        let text = str::from_utf8(size).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match text.and_then(|text| u64::from_str_radix(text, 16).ok()) {
            Some(0) => self.body = BodyState::Trailers { scanned: 0 },
            Some(size) => self.body = BodyState::ChunkData(size),
            None => {
                self.break_off(BAD_CHUNK_SIZE);
                return 0;
            }
        }
        end + 1
    }

    fn chunk_end(&mut self, data: &[u8]) -> usize {
        let taken = match data {
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => {
                self.violations.add(BARE_LF);
                1
            }
            [b'\r'] => return 0,
            _ => {
                self.break_off(BAD_CHUNK_END);
                return 0;
            }
        };
        self.body = BodyState::ChunkSize;
        taken
    }

    fn read_trailers(&mut self, data: &[u8], mut scanned: usize) -> usize {
        let length = section_length(data, &mut scanned);
        self.body = BodyState::Trailers { scanned };
        let Some(length) = length else {
            if data.len() > MAX_HEAD {
                self.break_off(LONG_HEAD);
            }
            return 0;
        };
        let mut fields = Fields { violations: std::mem::take(&mut self.violations), ..Fields::default() };
        fields.parse(data.get(..length).unwrap_or_default());
        self.violations = fields.violations;
        self.trailers = fields.headers;
        self.body = BodyState::Complete;
        length
    }

    fn break_off(&mut self, violation: &'static str) {
        self.violations.add(violation);
        self.body = BodyState::Broken;
    }

    /// Handles missing bytes.
    pub(super) fn gap(&mut self, missing: u64, out: &mut Messages) -> BodyGap {
        let never_comes = self.may_lack_body && !self.has_begun;
        let (payload, body) = match self.body {
            _ if never_comes => (0, BodyState::Broken),
            BodyState::Rest(rest) if missing <= rest => match rest - missing {
                0 => (missing, BodyState::Complete),
                rest => (missing, BodyState::Rest(rest)),
            },
            BodyState::ChunkData(rest) if missing <= rest => match rest - missing {
                0 => (missing, BodyState::ChunkEnd),
                rest => (missing, BodyState::ChunkData(rest)),
            },
            // The line end of the chunk is lost as well: programs write both in one call, which is cut. It
            // has two bytes, because the message uses no other line ends.
            BodyState::ChunkData(rest) if missing == rest.saturating_add(2) && self.has_whole_line_ends() => {
                (rest, BodyState::ChunkSize)
            }
            BodyState::UntilClose => (missing, BodyState::UntilClose),
            // The rest of the body is lost, and more than that.
            BodyState::Rest(rest) | BodyState::ChunkData(rest) => (rest, BodyState::Broken),
            _ => (0, BodyState::Broken),
        };
        // What is left of a body of known length is missing, and its end is known.
        let known = matches!((self.body, body), (BodyState::Rest(_), BodyState::Broken)) && !never_comes;
        self.body = body;
        self.content.gap(&mut self.message, payload, out);
        let length = if body == BodyState::Broken { payload } else { missing };
        self.message.length = self.message.length.saturating_add(length);
        if body != BodyState::Broken {
            return BodyGap::Within;
        }
        if known {
            self.body = BodyState::Complete;
        }
        BodyGap::Beyond
    }

    fn has_whole_line_ends(&self) -> bool {
        !self.violations.contains(BARE_LF)
    }
}
