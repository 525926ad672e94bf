//! RESP2 and RESP3 (<https://redis.io/docs/latest/develop/reference/protocol-spec/>), piece by piece: heads
//! of aggregates, lines, and parts of strings, whatever their length.

use crate::protocol::Desync;

/// The deepest nesting that is read. Replies of Redis have 7 levels at most, those of modules some more.
const MAX_DEPTH: usize = 128;
/// The longest line that is not a head.
pub(super) const MAX_LINE: usize = 64 * 1024;
/// The longest head of a string or an aggregate: its type, and a number of 64 bits.
const MAX_HEAD: usize = 32;

/// A piece of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// The head of an aggregate with its number of values, which is two for each entry of a map. None if the
    /// number is not known before its end.
    Aggregate { kind: u8, length: Option<u64> },
    /// The end of an aggregate whose number of values was not known.
    AggregateEnd,
    /// A value in one line: a simple string, an error, a number.
    Line { kind: u8, text: &'a [u8] },
    /// The head of a string, with its length if that is known before its end.
    String { kind: u8, length: Option<u64> },
    /// A part of a string.
    Part(&'a [u8]),
    /// The head of the next part, or the end, of a string.
    StringEnd,
    /// No value.
    Null,
}

/// A piece with its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct RespPiece<'a> {
    pub(super) token: Token<'a>,
    /// The bytes that it takes.
    pub(super) taken: usize,
    /// How many aggregates it is in.
    pub(super) depth: usize,
    /// Whether it is a part of an attribute, and not of the value that follows.
    pub(super) is_attribute: bool,
    /// Whether the outermost value ends with it.
    pub(super) ends_value: bool,
}

/// An aggregate of which values are to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OpenAggregate {
    /// How many. None if an end says so.
    left: Option<u64>,
    /// Attributes are no values: one follows them.
    is_attribute: bool,
}

/// The string that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpenString {
    /// This many bytes of it are to come, before the end of its line.
    Whole(u64),
    /// The same of one of its parts, of which others follow.
    PartOf(u64),
    /// The head of a part follows.
    BetweenParts,
}

/// Reads values of one direction.
#[derive(Clone, Debug, Default)]
pub(super) struct RespReader {
    open: Vec<OpenAggregate>,
    string: Option<OpenString>,
}

impl RespReader {
    /// Starts over with the next value.
    pub(super) fn reset(&mut self) {
        self.open.clear();
        self.string = None;
    }

    /// The memory that it takes.
    pub(super) fn size(&self) -> usize {
        self.open.capacity() * size_of::<OpenAggregate>()
    }

    /// Reads the next piece. None if more bytes are needed.
    pub(super) fn next<'a>(&mut self, data: &'a [u8]) -> Result<Option<RespPiece<'a>>, Desync> {
        let depth = self.open.len();
        let is_attribute = self.open.iter().any(|open| open.is_attribute);
        let piece = match self.string {
            Some(string) => self.string(string, data)?,
            None => self.value(data)?,
        };
        let Some((token, length, ends_value)) = piece else { return Ok(None) };
        let is_attribute = is_attribute || matches!(token, Token::Aggregate { kind: b'|', .. });
        Ok(Some(RespPiece { token, taken: length, depth, is_attribute, ends_value }))
    }

    /// Passes over missing bytes. Returns whether they are all within a string, so that it is known what
    /// follows them.
    pub(super) fn skip(&mut self, missing: u64) -> bool {
        match &mut self.string {
            Some(OpenString::Whole(left) | OpenString::PartOf(left)) if *left >= missing => {
                *left -= missing;
                true
            }
            _ => false,
        }
    }

    /// Reads a piece of a string.
    fn string<'a>(&mut self, string: OpenString, data: &'a [u8]) -> Result<Option<Read<'a>>, Desync> {
        let part = |left: u64| {
            let part = data.get(..usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(data);
            (part, left.saturating_sub(part.len() as u64))
        };
        match string {
            OpenString::Whole(0) | OpenString::PartOf(0) => {
                let Some(taken) = line_end(data)? else { return Ok(None) };
                if string == OpenString::PartOf(0) {
                    self.string = Some(OpenString::BetweenParts);
                    return Ok(Some((Token::Part(&[]), taken, false)));
                }
                self.string = None;
                Ok(Some((Token::StringEnd, taken, self.close_value())))
            }
            OpenString::Whole(left) => {
                let (part, left) = part(left);
                self.string = Some(OpenString::Whole(left));
                Ok((!part.is_empty()).then_some((Token::Part(part), part.len(), false)))
            }
            OpenString::PartOf(left) => {
                let (part, left) = part(left);
                self.string = Some(OpenString::PartOf(left));
                Ok((!part.is_empty()).then_some((Token::Part(part), part.len(), false)))
            }
            OpenString::BetweenParts => {
                let Some((line, taken)) = line(data, MAX_HEAD)? else { return Ok(None) };
                let length = line.strip_prefix(b";").and_then(number).ok_or(Desync("no part of a string"))?;
                if length > 0 {
                    self.string = Some(OpenString::PartOf(length));
                    return Ok(Some((Token::Part(&[]), taken, false)));
                }
                self.string = None;
                Ok(Some((Token::StringEnd, taken, self.close_value())))
            }
        }
    }

    /// Reads the beginning of a value.
    fn value<'a>(&mut self, data: &'a [u8]) -> Result<Option<Read<'a>>, Desync> {
        let Some(&kind) = data.first() else { return Ok(None) };
        let longest = if is_line(kind) { MAX_LINE } else { MAX_HEAD };
        if !is_line(kind) && !is_string(kind) && !is_aggregate(kind) && kind != b'.' {
            return Err(Desync("no type of RESP"));
        }
        let Some((line, taken)) = line(data, longest)? else { return Ok(None) };
        let text = line.get(1..).unwrap_or_default();
        if is_line(kind) {
            if !is_valid_line(kind, text) {
                return Err(Desync("no value of RESP"));
            }
            let value = if kind == b'_' { Token::Null } else { Token::Line { kind, text } };
            return Ok(Some((value, taken, self.close_value())));
        }
        if kind == b'.' {
            let is_end = text.is_empty() && self.open.last().is_some_and(|open| open.left.is_none());
            if !is_end {
                return Err(Desync("no end of an aggregate"));
            }
            return Ok(Some((Token::AggregateEnd, taken, self.close_aggregate())));
        }
        if text == b"-1" && matches!(kind, b'$' | b'*') {
            return Ok(Some((Token::Null, taken, self.close_value())));
        }
        let length = match text {
            b"?" => None,
            text => Some(number(text).ok_or(Desync("no length"))?),
        };
        if is_string(kind) {
            self.string = Some(length.map_or(OpenString::BetweenParts, OpenString::Whole));
            return Ok(Some((Token::String { kind, length }, taken, false)));
        }
        let per_entry = if matches!(kind, b'%' | b'|') { 2 } else { 1 };
        let left =
            length.map(|length| length.checked_mul(per_entry).ok_or(Desync("no length"))).transpose()?;
        if self.open.len() >= MAX_DEPTH {
            return Err(Desync("nested too deep"));
        }
        self.open.push(OpenAggregate { left, is_attribute: kind == b'|' });
        let ends_value = left == Some(0) && self.close_aggregate();
        Ok(Some((Token::Aggregate { kind, length: left }, taken, ends_value)))
    }

    /// Ends the innermost aggregate. Returns whether the outermost value ends with it.
    fn close_aggregate(&mut self) -> bool {
        match self.open.pop() {
            Some(OpenAggregate { is_attribute: true, .. }) => false,
            _ => self.close_value(),
        }
    }

    /// Ends a value, and the aggregates whose last one it is.
    fn close_value(&mut self) -> bool {
        loop {
            let Some(OpenAggregate { left: Some(left), is_attribute }) = self.open.last_mut() else {
                return self.open.is_empty();
            };
            *left = left.saturating_sub(1);
            if *left > 0 {
                return false;
            }
            let is_attribute = *is_attribute;
            self.open.pop();
            if is_attribute {
                return false;
            }
        }
    }
}

/// A piece, the bytes that it takes, and whether the outermost value ends with it.
type Read<'a> = (Token<'a>, usize, bool);

fn is_line(kind: u8) -> bool {
    matches!(kind, b'+' | b'-' | b':' | b',' | b'#' | b'_' | b'(')
}

fn is_string(kind: u8) -> bool {
    matches!(kind, b'$' | b'!' | b'=')
}

pub(super) fn is_aggregate(kind: u8) -> bool {
    matches!(kind, b'*' | b'%' | b'~' | b'>' | b'|')
}

/// Whether a line holds what its type says.
fn is_valid_line(kind: u8, text: &[u8]) -> bool {
    let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let unsigned = || text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    match kind {
        b':' | b'(' => digits(unsigned()),
        b'#' => matches!(text, b"t" | b"f"),
        b'_' => text.is_empty(),
        b',' => {
            let is_number =
                |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'-' | b'+');
            matches!(unsigned(), b"inf" | b"nan") || (!text.is_empty() && text.iter().all(is_number))
        }
        _ => true,
    }
}

/// A line without its end, and its length with it. None if its end is to come.
pub(super) fn line(data: &[u8], longest: usize) -> Result<Option<(&[u8], usize)>, Desync> {
    let within = data.get(..longest.saturating_add(2)).unwrap_or(data);
    let Some(end) = memchr::memchr2(b'\r', b'\n', within) else {
        return if within.len() > longest { Err(Desync("a line without end")) } else { Ok(None) };
    };
    let (text, rest) = data.split_at_checked(end).unwrap_or((data, &[]));
    Ok(line_end(rest)?.map(|length| (text, end + length)))
}

/// The length of the end of a line at the beginning of some bytes.
fn line_end(data: &[u8]) -> Result<Option<usize>, Desync> {
    match data {
        [b'\r', b'\n', ..] => Ok(Some(2)),
        [] | [b'\r'] => Ok(None),
        _ => Err(Desync("no end of a line")),
    }
}

/// A number of decimal digits.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
