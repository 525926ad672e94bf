//! The head of a message: the start line and the header fields.
//!
//! Heads are read as they are: what RFC 9112 forbids is shown and named as a violation, never repaired
//! silently. Whether it makes the end of the message unclear is decided in [`framing`](super::framing).

use crate::event::HeaderField;
use crate::protocol::Detect;

/// The longest head. Common servers accept 8 to 128 KiB.
pub(super) const MAX_HEAD: usize = 128 * 1024;
/// The most header fields of a message. Common servers accept 100 to 1000.
const MAX_FIELDS: usize = 1024;
/// The longest method. The longest registered one has 17 bytes.
const MAX_METHOD: usize = 32;

/// The methods that programs send most, including those of WebDAV and of caches.
const METHODS: [&str; 24] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "QUERY",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "MKCALENDAR",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "NOTIFY",
    "PURGE",
];

/// The violations of RFC 9112 in the syntax of a head.
pub(super) const BARE_LF: &str = "line feed without a carriage return";
pub(super) const LONG_HEAD: &str = "head longer than 128 KiB";
const MANY_FIELDS: &str = "more than 1024 header fields";
const START_LINE_SPACE: &str = "whitespace within the start line";
const FOLDED: &str = "folded header field";
const FOLDED_FIRST: &str = "whitespace before the first header field";
const NO_COLON: &str = "header field without a colon";
const SPACE_BEFORE_COLON: &str = "whitespace before the colon of a header field";
const BAD_NAME: &str = "invalid character in the name of a header field";
const BAD_VALUE: &str = "control character in the value of a header field";

/// How a message violates the specification. Each violation is there once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Violations(Vec<&'static str>);

impl Violations {
    pub(super) fn add(&mut self, violation: &'static str) {
        if !self.0.contains(&violation) {
            self.0.push(violation);
        }
    }

    pub(super) fn contains(&self, violation: &'static str) -> bool {
        self.0.contains(&violation)
    }

    pub(super) fn into_texts(self) -> Vec<String> {
        self.0.into_iter().map(str::to_owned).collect()
    }
}

/// The first line of a message.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum StartLine {
    /// The request line.
    Request { method: String, target: String, version: u8 },
    /// The status line.
    Status { version: u8, code: u16 },
}

/// The head of a message.
pub(super) struct MessageHead {
    pub(super) start: StartLine,
    pub(super) headers: Vec<HeaderField>,
    pub(super) violations: Violations,
    /// Whether the name of a field that determines the length of the body is followed by whitespace, which
    /// recipients do not agree on.
    pub(super) has_spaced_framing: bool,
    /// Whether there may be more fields than those.
    pub(super) is_cut: bool,
}

/// The fields that most heads do not exceed.
const USUAL_FIELDS: usize = 12;

/// The length of a head or trailer section that begins `data`, including the empty line at its end. `scanned`
/// bytes are known to not contain that line, and are updated.
pub(super) fn section_length(data: &[u8], scanned: &mut usize) -> Option<usize> {
    let mut start = *scanned;
    loop {
        let rest = data.get(start..)?;
        let end = memchr::memchr(b'\n', rest)?;
        if matches!(rest.get(..end), Some(b"" | b"\r")) {
            return Some(start + end + 1);
        }
        start += end + 1;
        *scanned = start;
    }
}

impl MessageHead {
    /// Parses a head, whose empty line at the end may be missing. None if the start line is not one of
    /// HTTP/1.
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        let mut violations = Violations::default();
        let (line, rest) = split_line(data, &mut violations)?;
        let start = StartLine::parse(line, &mut violations)?;
        let headers = Vec::with_capacity(USUAL_FIELDS);
        let mut fields = Fields { headers, violations, ..Fields::default() };
        fields.parse(rest);
        let Fields { headers, violations, has_spaced_framing, is_cut } = fields;
        Some(Self { start, headers, violations, has_spaced_framing, is_cut })
    }
}

impl StartLine {
    fn parse(line: &[u8], violations: &mut Violations) -> Option<Self> {
        if line.starts_with(b"HTTP/") {
            return Self::parse_status(line);
        }
        let text = line.trim_ascii_end();
        let (text, version) = text.split_at_checked(text.len().checked_sub(8)?)?;
        let &[b'H', b'T', b'T', b'P', b'/', b'1', b'.', version] = version else { return None };
        let method_end = text.iter().position(u8::is_ascii_whitespace)?;
        let (method, target) = text.split_at_checked(method_end)?;
        let (&[b' ' | b'\t', ref target @ ..], true) = (target, version.is_ascii_digit()) else {
            return None;
        };
        let inner = target.trim_ascii();
        let is_target = !inner.is_empty() && target.last().is_some_and(u8::is_ascii_whitespace);
        if !is_method(method)
            || !is_target
            || inner.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t')
        {
            return None;
        }
        let spaces = line.iter().filter(|byte| byte.is_ascii_whitespace()).count();
        if spaces != 2 || line.contains(&b'\t') {
            violations.add(START_LINE_SPACE);
        }
        Some(Self::Request { method: lossy(method), target: lossy(inner), version: version - b'0' })
    }

    fn parse_status(line: &[u8]) -> Option<Self> {
        let &[b'1', b'.', version, b' ', a, b, c, ref reason @ ..] = line.strip_prefix(b"HTTP/")? else {
            return None;
        };
        let digits = [version, a, b, c];
        let is_line = digits.iter().all(u8::is_ascii_digit) && matches!(reason, [] | [b' ', ..]);
        let code = [a, b, c].iter().fold(0, |code, digit| code * 10 + u16::from(digit.wrapping_sub(b'0')));
        (is_line && code >= 100).then_some(Self::Status { version: version.wrapping_sub(b'0'), code })
    }

    /// Whether it is one that programs send, and not only what RFC 9112 lets recipients accept.
    fn is_usual(&self) -> bool {
        let Self::Request { method, target, .. } = self else { return true };
        let is_host = || method == "CONNECT" && target.contains(':');
        !target.contains([' ', '\t'])
            && (target.starts_with('/') || target == "*" || target.contains("://") || is_host())
    }

    /// Whether its method is the end of another one.
    fn lacks_beginning(&self) -> bool {
        let Self::Request { method, .. } = self else { return false };
        let method = method.as_str();
        !METHODS.contains(&method) && METHODS.iter().any(|known| known.ends_with(method))
    }
}

/// Whether `data` begins with a start line that programs send.
pub(super) fn detect_start(data: &[u8]) -> Detect {
    detect(data, StartLine::is_usual)
}

/// The same where a connection is joined, so that the beginning of a method may have come before.
pub(super) fn detect_joined(data: &[u8]) -> Detect {
    detect(data, |start| start.is_usual() && !start.lacks_beginning())
}

fn detect(data: &[u8], is_wanted: impl Fn(&StartLine) -> bool) -> Detect {
    let data = skip_empty_lines(data);
    if memchr::memchr(b'\n', data).is_none() {
        return if may_start(data) { Detect::NeedMore } else { Detect::No };
    }
    let line = split_line(data, &mut Violations::default());
    let start = line.and_then(|(line, _)| StartLine::parse(line, &mut Violations::default()));
    start.filter(is_wanted).map_or(Detect::No, |_| Detect::Yes)
}

/// Whether `data` begins with one of the methods that programs send most, or with a part of one.
pub(super) fn starts_with_method(data: &[u8]) -> bool {
    match data.iter().position(|byte| *byte == b' ') {
        Some(end) => METHODS.iter().any(|method| data.get(..end) == Some(method.as_bytes())),
        None => METHODS.iter().any(|method| method.as_bytes().starts_with(data)),
    }
}

/// Whether `data` begins with a start line or with a part of one.
pub(super) fn may_start(data: &[u8]) -> bool {
    if let Some((line, _)) = split_line(data, &mut Violations::default()) {
        return StartLine::parse(line, &mut Violations::default()).is_some();
    }
    let data = data.strip_suffix(b"\r").unwrap_or(data);
    let status = b"HTTP/1.";
    if data.iter().zip(status).all(|(byte, expected)| byte == expected) {
        return data.len() <= MAX_HEAD;
    }
    let method_end = data.iter().position(u8::is_ascii_whitespace).unwrap_or(data.len());
    let (method, target) = data.split_at_checked(method_end).unwrap_or_default();
    // Whitespace of any kind may follow the version.
    let is_target = !target.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace());
    data.len() <= MAX_HEAD && is_method(method) && is_target
}

/// Removes the empty lines before a start line.
pub(super) fn skip_empty_lines(mut data: &[u8]) -> &[u8] {
    while let [b'\r', b'\n', rest @ ..] | [b'\n', rest @ ..] = data {
        data = rest;
    }
    data
}

fn is_method(text: &[u8]) -> bool {
    (1..=MAX_METHOD).contains(&text.len()) && text.iter().copied().all(is_token_byte)
}

/// Which bytes are allowed in a token. Each byte of a name is looked up.
static TOKEN_BYTES: [bool; 256] = token_bytes();

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn token_bytes() -> [bool; 256] {
    const OTHERS: &[u8] = b"!#$%&'*+-.^_`|~";
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < u8::MAX {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut index = 0;
    while index < OTHERS.len() {
        table[OTHERS[index] as usize] = true;
        index += 1;
    }
    table
}

fn is_token_byte(byte: u8) -> bool {
    TOKEN_BYTES.get(usize::from(byte)).copied().unwrap_or_default()
}

/// Splits off the first line, without the end of the line. None if it has no end.
fn split_line<'a>(data: &'a [u8], violations: &mut Violations) -> Option<(&'a [u8], &'a [u8])> {
    let (line, rest) = data.split_at_checked(memchr::memchr(b'\n', data)?)?;
    let line = line.strip_suffix(b"\r").unwrap_or_else(|| {
        violations.add(BARE_LF);
        line
    });
    Some((line, rest.get(1..)?))
}

/// The header or trailer fields of a section.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) headers: Vec<HeaderField>,
    pub(super) violations: Violations,
    pub(super) has_spaced_framing: bool,
    /// Whether there may be more fields than those.
    pub(super) is_cut: bool,
}

impl Fields {
    /// Parses the lines of a section, up to the empty line at its end.
    pub(super) fn parse(&mut self, mut data: &[u8]) {
        loop {
            let Some((line, rest)) = split_line(data, &mut self.violations) else {
                self.is_cut = true;
                return;
            };
            if line.is_empty() {
                return;
            }
            if self.headers.len() >= MAX_FIELDS {
                self.violations.add(MANY_FIELDS);
                self.is_cut = true;
                return;
            }
            self.line(line);
            data = rest;
        }
    }

    fn line(&mut self, line: &[u8]) {
        let lossy = |bytes: &[u8]| lossy(trim(bytes));
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            self.violations.add(BAD_VALUE);
        }
        if let [b' ' | b'\t', ..] = line
            && let Some(HeaderField { value: Some(value), .. }) = self.headers.last_mut()
        {
            self.violations.add(FOLDED);
            value.push(' ');
            value.push_str(&lossy(line));
            return;
        }
        if let [b' ' | b'\t', ..] = line {
            self.violations.add(FOLDED_FIRST);
        }
        let colon = memchr::memchr(b':', line);
        if colon.is_none() {
            self.violations.add(NO_COLON);
        }
        let (name, value) = line.split_at_checked(colon.unwrap_or(line.len())).unwrap_or_default();
        let trimmed = trim(name);
        let mut text = lossy(name);
        text.make_ascii_lowercase();
        if matches!(name, [.., b' ' | b'\t']) && colon.is_some() {
            self.violations.add(SPACE_BEFORE_COLON);
            self.has_spaced_framing |= matches!(text.as_str(), "content-length" | "transfer-encoding");
        }
        if colon.is_some() && (trimmed.is_empty() || !trimmed.iter().copied().all(is_token_byte)) {
            self.violations.add(BAD_NAME);
        }
        let value = lossy(value.get(1..).unwrap_or_default());
        self.headers.push(HeaderField { name: Some(text), value: Some(value) });
    }
}

/// The text, in which U+FFFD stands for what is not UTF-8.
fn lossy(bytes: &[u8]) -> String {
    // Most of it is UTF-8, and checked much faster as a whole.
    simdutf8::basic::from_utf8(bytes)
        .map_or_else(|_| String::from_utf8_lossy(bytes).into_owned(), str::to_owned)
}

/// Removes the whitespace that may surround a value.
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}
