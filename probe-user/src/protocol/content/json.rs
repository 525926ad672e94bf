//! JSON, indented. Only the white space between its tokens changes: numbers, strings and the order of members
//! stay as they were sent.

use std::fmt;

use super::Whole;

/// The deepest nesting that is indented. What is nested deeper is shown as it was sent.
const MAX_DEPTH: usize = 64;
const INDENT: &str = "  ";

/// Indented JSON.
#[derive(Clone, PartialEq, Eq)]
pub struct PrettyJson {
    /// The text.
    pub text: String,
    /// Whether that is all. Otherwise it ends early, because the body was not kept as a whole, or because of
    /// the limit.
    pub is_whole: bool,
}

impl fmt::Debug for PrettyJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, is_whole } = self;
        write!(f, "PrettyJson({} bytes, whole: {is_whole})", text.len())
    }
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    /// A value or the end of the array.
    FirstValue,
    Key,
    /// A key or the end of the object.
    FirstKey,
    Colon,
    /// A comma, the end of what is open, or another value at the top.
    Separator,
}

/// Indents JSON, or several values of it. None if it is none. Text that ends early is, as far as it goes.
pub(super) fn pretty(text: &str, is_whole: Whole, limit: usize) -> Option<PrettyJson> {
    let mut out = String::with_capacity(text.len().saturating_mul(2).min(limit));
    let mut open: Vec<u8> = Vec::new();
    let mut expect = Expect::Value;
    let mut rest = text.trim_ascii_start();
    while let Some(&first) = rest.as_bytes().first() {
        let (token, after) = rest.split_at_checked(token_length(rest)?)?;
        // Only the last token can be cut off.
        let whole = if after.is_empty() { is_whole } else { Whole::Yes };
        let top = open.last().copied();
        let is_value = matches!(expect, Expect::Value | Expect::FirstValue);
        match first {
            b'{' | b'[' if is_value || (expect == Expect::Separator && top.is_none()) => {
                begin_item(&mut out, expect, open.len(), top);
                open.push(first);
                if open.len() > MAX_DEPTH {
                    return None;
                }
                out.push_str(token);
                expect = if first == b'{' { Expect::FirstKey } else { Expect::FirstValue };
            }
            b'}' | b']' => {
                let opened = open.pop()?;
                let is_empty = match (opened, first) {
                    (b'{', b'}') => expect == Expect::FirstKey,
                    (b'[', b']') => expect == Expect::FirstValue,
                    _ => return None,
                };
                if !is_empty {
                    if expect != Expect::Separator {
                        return None;
                    }
                    new_line(&mut out, open.len());
                }
                out.push_str(token);
                expect = Expect::Separator;
            }
            b',' if expect == Expect::Separator => {
                out.push_str(token);
                expect = if top? == b'{' { Expect::Key } else { Expect::Value };
            }
            b':' if expect == Expect::Colon => {
                out.push_str(": ");
                expect = Expect::Value;
            }
            b'"' if matches!(expect, Expect::Key | Expect::FirstKey) => {
                check_string(token, whole)?;
                new_line(&mut out, open.len());
                out.push_str(token);
                expect = Expect::Colon;
            }
            _ if is_value || (expect == Expect::Separator && top.is_none()) => {
                match first {
                    b'"' => check_string(token, whole)?,
                    _ => check_scalar(token, whole)?,
                }
                begin_item(&mut out, expect, open.len(), top);
                out.push_str(token);
                expect = Expect::Separator;
            }
            _ => return None,
        }
        rest = after.trim_ascii_start();
        if out.len() > limit {
            out.truncate(out.floor_char_boundary(limit));
            return Some(PrettyJson { text: out, is_whole: false });
        }
    }
    let is_complete = open.is_empty() && expect == Expect::Separator;
    (!out.is_empty() && (is_complete || is_whole == Whole::No))
        .then_some(PrettyJson { text: out, is_whole: is_complete && is_whole == Whole::Yes })
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n(INDENT, depth));
}

/// Begins a line for an element of an array, or for another value at the top.
fn begin_item(out: &mut String, expect: Expect, depth: usize, top: Option<u8>) {
    if top == Some(b'[') || (expect == Expect::Separator && top.is_none()) {
        new_line(out, depth);
    }
}

/// The length of the first token: a string, a scalar or one character. None if there is no token.
fn token_length(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    match bytes.first()? {
        b'"' => {
            let mut is_escaped = false;
            let end = bytes.iter().skip(1).position(|byte| {
                let is_end = *byte == b'"' && !is_escaped;
                is_escaped = *byte == b'\\' && !is_escaped;
                is_end
            });
            Some(end.map_or(bytes.len(), |end| end + 2))
        }
        b'{' | b'}' | b'[' | b']' | b',' | b':' => Some(1),
        _ => {
            let is_scalar = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
            Some(bytes.iter().take_while(|byte| is_scalar(byte)).count()).filter(|length| *length > 0)
        }
    }
}

/// Checks that a string ends, if it is whole.
fn check_string(token: &str, whole: Whole) -> Option<()> {
    let inner = token.strip_prefix('"')?;
    let has_end = inner.ends_with('"');
    ((has_end || whole == Whole::No) && !inner.contains('\n')).then_some(())
}

fn check_scalar(token: &str, whole: Whole) -> Option<()> {
    let is_cut = whole == Whole::No;
    let is_word =
        ["true", "false", "null"].iter().any(|word| *word == token || (is_cut && word.starts_with(token)));
    let is_number = || {
        let digits = token.strip_prefix('-').unwrap_or(token);
        let is_sign = is_cut && digits.is_empty();
        let all = digits.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
        is_sign || (digits.starts_with(|first: char| first.is_ascii_digit()) && all)
    };
    (is_word || is_number()).then_some(())
}
