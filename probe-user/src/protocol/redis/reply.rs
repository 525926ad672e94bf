//! What is kept of a reply: its first line or error, and how many values it has.

use super::command::shown;
use super::resp::{RespPiece, Token};

/// The bytes of a line or an error that are kept.
const MAX_TEXT: usize = 1024;
/// The bytes of each of the first values of a message that are kept.
const MAX_WORD: usize = 4 * 1024;
/// How many of them.
const MAX_WORDS: usize = 4;

/// A reply, as far as it came.
#[derive(Clone, Default)]
pub(super) struct Reply {
    /// Its type. None if nothing of it came.
    pub(super) kind: Option<u8>,
    /// The text of a line or an error.
    pub(super) text: Vec<u8>,
    /// How many values it has, or entries if it is a map.
    pub(super) rows: Option<u64>,
    /// The first error within it.
    pub(super) inner_error: Option<Vec<u8>>,
    /// The first values, of a message.
    pub(super) words: Vec<Vec<u8>>,
    /// Whether the first values are kept.
    keeps_words: bool,
    /// How many values have begun.
    begun: u64,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").field("kind", &self.kind).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Reply {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// One of which the first values are kept.
    pub(super) fn with_words() -> Self {
        Self { keeps_words: true, ..Self::default() }
    }

    /// Adds a piece.
    pub(super) fn add(&mut self, piece: &RespPiece<'_>) {
        if piece.is_attribute {
            return;
        }
        match (piece.depth, piece.token) {
            (0, Token::Aggregate { kind, length }) => {
                self.kind = Some(kind);
                self.rows = length.map(|length| entries(kind, length));
            }
            (1, Token::AggregateEnd) => {
                self.rows = self.kind.map(|kind| entries(kind, self.begun));
            }
            (0, Token::Line { kind, text }) => {
                self.kind = Some(kind);
                self.text = text.get(..MAX_TEXT).unwrap_or(text).to_vec();
            }
            (0, Token::String { kind, .. }) => self.kind = Some(kind),
            (0, Token::Null) => self.kind = Some(b'_'),
            (0, Token::Part(part)) if self.kind == Some(b'!') => add(&mut self.text, part, MAX_TEXT),
            (1, Token::Part(part)) if self.keeps_words && self.begun <= MAX_WORDS as u64 => {
                if let Some(last) = self.words.last_mut() {
                    add(last, part, MAX_WORD);
                }
            }
            (depth, token) => self.inner(depth, token),
        }
    }

    /// Adds a piece of one of its values.
    fn inner(&mut self, depth: usize, token: Token<'_>) {
        let begins = !matches!(token, Token::Part(_) | Token::StringEnd | Token::AggregateEnd);
        if depth == 1 && begins {
            self.begun = self.begun.saturating_add(1);
            if self.keeps_words && self.words.len() < MAX_WORDS {
                let word = match token {
                    Token::Line { text, .. } => text.get(..MAX_WORD).unwrap_or(text).to_vec(),
                    _ => Vec::new(),
                };
                self.words.push(word);
            }
        }
        if let Token::Line { kind: b'-', text } = token {
            self.inner_error.get_or_insert_with(|| text.get(..MAX_TEXT).unwrap_or(text).to_vec());
        }
    }

    /// The error that it is.
    pub(super) fn error(&self) -> Option<&[u8]> {
        matches!(self.kind, Some(b'-' | b'!')).then_some(&self.text)
    }

    /// Whether it is this line.
    pub(super) fn is_line(&self, line: &[u8]) -> bool {
        self.kind == Some(b'+') && self.text == line
    }

    pub(super) fn size(&self) -> usize {
        self.text.len() + self.words.iter().map(Vec::len).sum::<usize>()
    }
}

fn entries(kind: u8, length: u64) -> u64 {
    if kind == b'%' { length / 2 } else { length }
}

fn add(to: &mut Vec<u8>, part: &[u8], limit: usize) {
    let room = limit.saturating_sub(to.len());
    to.extend_from_slice(part.get(..room).unwrap_or(part));
}

/// The code of an error, which is its first word, and what it says without what it quotes: that may be a
/// value.
pub(super) fn error_parts(error: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(error);
    let text = text.trim();
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    let is_code =
        !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    let (code, rest) = if is_code { (first, rest) } else { ("ERR", text) };
    // These are the arguments of a command, whatever quotes they contain.
    let rest = rest.split_once(", with args beginning").map_or(rest, |(before, _)| before);
    let mut message = String::new();
    let mut quote = None;
    for (index, c) in rest.char_indices() {
        match quote {
            Some(open) if c == open && !follows(rest, index + 1, char::is_alphanumeric) => {
                message.extend(['?', c]);
                quote = None;
            }
            Some(_) => {}
            None => {
                message.push(c);
                let follows_word = rest.get(..index).and_then(|before| before.chars().next_back());
                // An apostrophe is no quote.
                let opens = follows_word.is_none_or(|before| !before.is_alphanumeric());
                if matches!(c, '\'' | '"' | '`') && opens {
                    quote = Some(c);
                }
            }
        }
    }
    if quote.is_some() {
        message.push('?');
    }
    (code.to_owned(), message)
}

/// Whether a character of a kind follows at an index.
fn follows(text: &str, index: usize, is_kind: fn(char) -> bool) -> bool {
    text.get(index..).and_then(|rest| rest.chars().next()).is_some_and(is_kind)
}

/// The time, the database and the command of a line of MONITOR: `1339518083.107412 [0 10.0.0.1:60866] "GET"
/// "k"`.
pub(super) struct MonitorLine<'a> {
    pub(super) database: &'a [u8],
    /// The arguments, each in quotes.
    pub(super) command: &'a [u8],
}

/// Reads a line of MONITOR. None if it is no such line.
pub(super) fn monitor_line(line: &[u8]) -> Option<MonitorLine<'_>> {
    let dot = line.iter().take(20).position(|byte| *byte == b'.')?;
    let (seconds, rest) = line.split_at_checked(dot)?;
    let (micros, rest) = rest.get(1..)?.split_at_checked(6)?;
    let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let rest = rest.strip_prefix(b" [")?;
    let close = rest.iter().position(|byte| *byte == b']')?;
    let database = rest.get(..close)?.split(|byte| *byte == b' ').next()?;
    let command = rest.get(close + 1..)?.strip_prefix(b" ")?;
    (digits(seconds) && digits(micros) && digits(database) && command.starts_with(b"\""))
        .then_some(MonitorLine { database, command })
}

/// The words of a line, with the quotes of Redis' command line undone. None if a quote is not closed.
pub(super) fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        let blank = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        rest = rest.get(blank..)?;
        if rest.is_empty() {
            return Some(words);
        }
        let (word, taken) = word(rest)?;
        words.push(word);
        rest = rest.get(taken..)?;
    }
}

/// The first word, and its length with its quotes.
fn word(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut word = Vec::new();
    let mut index = 0;
    let mut quote = None;
    while let Some(&byte) = text.get(index) {
        index += 1;
        match (quote, byte) {
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, byte) if byte.is_ascii_whitespace() => return Some((word, index)),
            (Some(b'"'), b'\\') => {
                let (escaped, taken) = escape(text.get(index..)?)?;
                word.push(escaped);
                index += taken;
            }
            (Some(open), byte) if byte == open => quote = None,
            (_, byte) => word.push(byte),
        }
    }
    quote.is_none().then_some((word, index))
}

/// The byte that an escape stands for, and the length of what is behind the backslash.
fn escape(text: &[u8]) -> Option<(u8, usize)> {
    let &first = text.first()?;
    let plain = match first {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        b'x' => {
            let digits = std::str::from_utf8(text.get(1..3)?).ok()?;
            return Some((u8::from_str_radix(digits, 16).ok()?, 3));
        }
        other => other,
    };
    Some((plain, 1))
}

/// A word as it is shown.
pub(super) fn shown_word(word: &[u8]) -> String {
    shown(word).into_owned()
}
