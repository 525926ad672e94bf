//! Parses the text with which a user names functions into a [`Pattern`]. Pure.
//!
//! The forms are `OBJECT:SYMBOL[+OFFSET][(TYPES)][ -> TYPE]`, `:SYMBOL` for the executable, and
//! `OBJECT:0xADDRESS`. C++ names contain parentheses themselves: the last pair is taken as types if it parses
//! as types, and as a part of the name otherwise.

use std::fmt;

use probe_common::FUNCTION_VALUES;

use crate::glob::Glob;
use crate::plan::value_type::{Length, NO_VECTOR_REGISTERS, TYPES, Type};

/// Limit of the arguments in a pattern, including skipped ones: as many as a USDT note may have.
const MAX_TYPES: usize = 12;

/// Which functions to trace, and what to read of their calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The pattern as it was written.
    pub text: String,
    /// The objects that contain the functions.
    pub object: ObjectName,
    /// The functions, or the address, in these objects.
    pub place: PatternPlace,
    /// The types of the arguments; empty if none were given.
    pub arguments: Vec<Type>,
    /// The type of the returned value, if returns are to be traced.
    pub returned: Option<Type>,
}

/// The objects that a pattern refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectName {
    /// The executables of the processes.
    Executable,
    /// Files by soname or file name, or by path if the name contains a slash.
    Named(Glob),
}

/// The place in an object that a pattern refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternPlace {
    /// Functions with this name, at an offset in bytes from their entry.
    Symbol(Glob, u64),
    /// A virtual address, as the file has it.
    Address(u64),
}

/// Which USDT probes to trace, and how to show their arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsdtPattern {
    /// The pattern as it was written.
    pub text: String,
    /// The provider of the probe.
    pub provider: Glob,
    /// The name of the probe.
    pub name: Glob,
    /// The types of the arguments. If empty, those of the note are used.
    pub arguments: Vec<Type>,
}

/// Why a text is not a valid pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {}: {what}", .at + 1)]
pub struct PatternError {
    /// The index of the character at which it is wrong.
    pub at: usize,
    /// What is wrong there.
    pub what: String,
}

/// A part of the text, and the index at which it starts.
#[derive(Clone, Copy)]
struct Part<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Part<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0 }.trim()
    }

    fn trim(self) -> Self {
        let without = self.text.trim_start();
        let before = self.text.get(..self.text.len() - without.len()).unwrap_or_default();
        Self { text: without.trim_end(), at: self.at + before.chars().count() }
    }

    /// Splits at a byte, leaving out `length` bytes there. Both parts are trimmed.
    fn split(self, at: usize, length: usize) -> (Self, Self) {
        let (before, rest) = self.text.split_at_checked(at).unwrap_or((self.text, ""));
        let after = rest.get(length..).unwrap_or_default();
        let skipped = self.text.len() - after.len();
        let begin = self.text.get(..skipped).unwrap_or_default().chars().count();
        (Self { text: before, at: self.at }.trim(), Self { text: after, at: self.at + begin }.trim())
    }

    fn error(self, what: impl Into<String>) -> PatternError {
        PatternError { at: self.at, what: what.into() }
    }
}

impl Pattern {
    /// Whether it may match several functions or files.
    pub(super) fn is_glob(&self) -> bool {
        let is_glob = |object: &ObjectName| matches!(object, ObjectName::Named(name) if name.is_pattern());
        is_glob(&self.object) || matches!(&self.place, PatternPlace::Symbol(name, _) if name.is_pattern())
    }

    /// Parses a pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let whole = Part::new(text);
        let (object, rest) = object(whole)?;
        let (rest, returned) = returned(rest)?;
        let (name, arguments) = arguments(rest)?;
        if let Some(kind) = arguments.iter().find(|kind| matches!(kind, Type::Float(_))) {
            return Err(rest.error(format!(
                "a {kind} of a call cannot be read: {NO_VECTOR_REGISTERS}; leave it out, also when you count \
                 arguments: other arguments are passed as if it were not there"
            )));
        }
        let place = place(name)?;
        if returned.is_some() && matches!(place, PatternPlace::Symbol(_, 1..)) {
            return Err(name
                .error("a return can only be traced from the entry of a function: leave out +OFFSET or ->"));
        }
        Ok(Self { text: whole.text.to_owned(), object, place, arguments, returned })
    }
}

impl UsdtPattern {
    /// Parses `PROVIDER:NAME[(TYPES)]`.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let whole = Part::new(text);
        let Some(colon) = whole.text.find(':') else {
            return Err(whole.error("a USDT probe is PROVIDER:NAME, such as python:function__entry"));
        };
        let (provider, rest) = whole.split(colon, 1);
        let (name, arguments) = arguments(rest)?;
        if provider.text.is_empty() || name.text.is_empty() {
            return Err(
                whole.error("a USDT probe is PROVIDER:NAME, and neither may be empty (* matches any)")
            );
        }
        let text = whole.text.to_owned();
        Ok(Self { text, provider: Glob::new(provider.text), name: Glob::new(name.text), arguments })
    }
}

fn object(whole: Part<'_>) -> Result<(ObjectName, Part<'_>), PatternError> {
    let Some(colon) = whole.text.find(':') else {
        let example = if whole.text.is_empty() { "main" } else { whole.text };
        return Err(whole.error(format!(
            "the object is missing: write `:{example}` for the executable, `libc.so.6:{example}` for a \
             library"
        )));
    };
    let (name, rest) = whole.split(colon, 1);
    if name.text.is_empty() {
        return Ok((ObjectName::Executable, rest));
    }
    if rest.text.starts_with(':') {
        return Err(whole.error(format!(
            "the object is missing: write `:{}` for the executable, `libx.so:{}` for a library",
            whole.text, whole.text
        )));
    }
    Ok((ObjectName::Named(Glob::new(name.text)), rest))
}

/// Splits `-> TYPE` off the end.
fn returned(rest: Part<'_>) -> Result<(Part<'_>, Option<Type>), PatternError> {
    let Some(arrow) = rest.text.rfind("->") else { return Ok((rest, None)) };
    let (before, after) = rest.split(arrow, 2);
    if before.text.ends_with("operator") {
        return Ok((rest, None));
    }
    match Type::parse(after.text) {
        Ok(Type::Bytes(Length::Argument(_) | Length::Own)) => {
            Err(after.error("the number of bytes is missing: a returned value can only be bytes(N)"))
        }
        Ok(kind @ Type::Float(_)) => Err(after.error(format!(
            "a returned {kind} cannot be read: {NO_VECTOR_REGISTERS}; write -> _ for the time of the return"
        ))),
        Ok(kind) => Ok((before, Some(kind))),
        Err(what) => Err(after.error(what)),
    }
}

/// Splits `(TYPES)` off the end.
fn arguments(rest: Part<'_>) -> Result<(Part<'_>, Vec<Type>), PatternError> {
    let Some(open) = last_group(rest.text) else { return Ok((rest, Vec::new())) };
    let (name, group) = rest.split(open, 1);
    let inside = Part { text: group.text.strip_suffix(')').unwrap_or(group.text), at: group.at };
    if inside.text.trim().is_empty() && name.text.ends_with("operator") {
        return Ok((rest, Vec::new()));
    }
    match types(inside) {
        Ok(types) => Ok((name, types)),
        Err(_) if is_of_cpp(name.text, inside.text) => Ok((rest, Vec::new())),
        Err(error) => Err(error),
    }
}

/// The index of the parenthesis that is closed at the end of the text.
fn last_group(text: &str) -> Option<usize> {
    if !text.ends_with(')') {
        return None;
    }
    let mut depth = 0_usize;
    for (at, character) in text.char_indices().rev() {
        match character {
            ')' => depth += 1,
            '(' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Whether text that is not a list of types may be the parameters of a C++ name.
fn is_of_cpp(name: &str, inside: &str) -> bool {
    name.contains("::") || inside.split(',').any(|part| part.trim().contains(['*', '&', '<', ' ', ':']))
}

fn types(inside: Part<'_>) -> Result<Vec<Type>, PatternError> {
    let mut types = Vec::new();
    let mut rest = inside.trim();
    let mut more = !rest.text.is_empty();
    while more {
        let comma = rest.text.find(',');
        more = comma.is_some();
        let (one, after) = rest.split(comma.unwrap_or(rest.text.len()), 1);
        types.push((one, Type::parse(one.text).map_err(|what| one.error(what))?));
        rest = after;
    }
    if types.len() > MAX_TYPES {
        return Err(inside.error(format!("more than {MAX_TYPES} arguments")));
    }
    if types.iter().filter(|(_, kind)| *kind != Type::Skip).count() > FUNCTION_VALUES {
        return Err(inside.error(format!(
            "more than {FUNCTION_VALUES} arguments cannot be read: write _ for those that you do not need"
        )));
    }
    for (part, kind) in &types {
        if let Type::Bytes(Length::Argument(number)) = kind
            && !matches!(types.get(*number), Some((_, Type::Int(_) | Type::Uint(_) | Type::Hex | Type::Skip)))
        {
            return Err(part.error(format!("argument {} does not exist, or is not a number", number + 1)));
        }
    }
    Ok(types.into_iter().map(|(_, kind)| kind).collect())
}

fn place(name: Part<'_>) -> Result<PatternPlace, PatternError> {
    if name.text.is_empty() {
        return Err(name.error(
            "the function is missing: write a name, a name with * and ?, or an address such as 0x1234",
        ));
    }
    if name.text.starts_with("0x") {
        return number(name.text)
            .map(PatternPlace::Address)
            .ok_or_else(|| name.error(format!("`{}` is not an address: write it as 0x1234", name.text)));
    }
    if let Some(plus) = name.text.rfind('+') {
        let (symbol, offset) = name.split(plus, 1);
        if let Some(offset) = number(offset.text).filter(|_| !symbol.text.is_empty()) {
            return Ok(PatternPlace::Symbol(Glob::new(symbol.text), offset));
        }
        // `operator+` is a name, not an offset.
        if !name.text.contains("operator") {
            return Err(offset.error(format!("`{}` is not an offset: write it as 0x1f or 31", offset.text)));
        }
    }
    if let Some(at) = name.text.find("->").filter(|_| !name.text.contains("operator")) {
        return Err(name.split(at, 0).1.error(format!("exactly one type must follow ->; {TYPES}")));
    }
    Ok(PatternPlace::Symbol(Glob::new(name.text), 0))
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Executable => f.write_str("the executable"),
            Self::Named(name) => write!(f, "{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn shown(pattern: &Pattern) -> String {
        let place = match &pattern.place {
            PatternPlace::Symbol(name, 0) => name.to_string(),
            PatternPlace::Symbol(name, offset) => format!("{name} + {offset}"),
            PatternPlace::Address(address) => format!("{address:#x}"),
        };
        let arguments: Vec<String> = pattern.arguments.iter().map(ToString::to_string).collect();
        let returned = pattern.returned.map_or(String::new(), |kind| format!(" -> {kind}"));
        format!("{} | {place} | {}{returned}", pattern.object, arguments.join(", "))
    }

    #[test]
    fn patterns_are_read() {
        for (text, expected) in [
            ("libc.so.6:getaddrinfo(str) -> int", "libc.so.6 | getaddrinfo | str -> int"),
            (" libc.so.6 : getaddrinfo ( str ,  _ ) ->int ", "libc.so.6 | getaddrinfo | str, _ -> int"),
            (":main.handle*", "the executable | main.handle* | "),
            (":main.(*Server).handle", "the executable | main.(*Server).handle | "),
            (":main.(*Server).handle(ptr, str)", "the executable | main.(*Server).handle | ptr, str"),
            ("/usr/lib/*/libpq.so.5:PQexec(_, str)", "/usr/lib/*/libpq.so.5 | PQexec | _, str"),
            ("libc.so.6:0x1f3a0", "libc.so.6 | 0x1f3a0 | "),
            (":f+0x1f(int)", "the executable | f + 31 | int"),
            (":f+12", "the executable | f + 12 | "),
            (":write(int, bytes(#3), ulong)", "the executable | write | int, bytes(#3), uint64"),
            (":f()", "the executable | f | "),
            (":f -> _", "the executable | f |  -> _"),
            (":ns::Box<int>::get(int) -> hex", "the executable | ns::Box<int>::get | int -> hex"),
            (":ns::f(char const*)", "the executable | ns::f(char const*) | "),
            (":f(char const*)(str)", "the executable | f(char const*) | str"),
            (":ns::f(Other)", "the executable | ns::f(Other) | "),
            (":Set::operator()(ptr)", "the executable | Set::operator() | ptr"),
            (":Set::operator()", "the executable | Set::operator() | "),
            (":Set::operator->", "the executable | Set::operator-> | "),
            (":Set::operator-> -> ptr", "the executable | Set::operator-> |  -> ptr"),
            (":Set::operator+", "the executable | Set::operator+ | "),
            ("lib*.so*:*", "lib*.so* | * | "),
        ] {
            let got = Pattern::parse(text).map(|pattern| shown(&pattern));
            assert_eq!(got, Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn errors_say_where() {
        for (text, at, what) in [
            ("getaddrinfo", 1, "the object is missing"),
            ("", 1, "the object is missing"),
            ("ns::f", 1, "the object is missing"),
            (":", 2, "the function is missing"),
            (":f(string)", 4, "`string` is not a type"),
            (":f(int, f64)", 2, "a f64 of a call cannot be read: it is in a vector register"),
            (":f() -> f32", 9, "a returned f32 cannot be read: it is in a vector register"),
            (":größe(str, strin)", 13, "`strin` is not a type"),
            (":f(int, bytes)", 0, ""),
            (":f(bytes(#2))", 4, "argument 2"),
            (":f(bytes(#2), str)", 4, "argument 2"),
            (":f(int,)", 8, "`` is not a type"),
            (":f(int) -> thing", 12, "`thing` is not a type"),
            (":f(int) -> bytes(#1)", 12, "the number of bytes is missing"),
            (":f(int,int,int,int,int,int,int)", 4, "more than 6"),
            (":f+1 -> int", 2, "a return can only"),
            (":f+x", 4, "`x` is not an offset"),
            (":0xzz", 2, "is not an address"),
        ] {
            match Pattern::parse(text) {
                Err(error) => {
                    assert_eq!(error.at + 1, at, "{text}: {error}");
                    assert!(error.what.starts_with(what) || error.what.contains(what), "{text}: {error}");
                }
                Ok(pattern) => assert_eq!(at, 0, "{text}: {pattern:?}"),
            }
        }
    }

    #[test]
    fn usdt_probes_are_named() {
        let pattern = UsdtPattern::parse("python:function__*(str, str, int)").unwrap();
        assert!(pattern.name.matches("function__entry") && pattern.provider.matches("python"));
        assert_eq!(pattern.arguments.len(), 3);
        for wrong in ["", "python", ":name", "python:", "python:f(what)"] {
            assert!(UsdtPattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn no_text_panics() {
        let words =
            [":", "->", "(", ")", "+", "0x", "int", "bytes(", "#", ",", " ", "ö", "operator", "f", "*"];
        let mut state = 7_u64;
        for _ in 0..20_000 {
            let text: String = (0..state % 12)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    *words.get((state >> 33) as usize % words.len()).unwrap()
                })
                .collect();
            let _ = (Pattern::parse(&text), UsdtPattern::parse(&text));
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
    }
}
