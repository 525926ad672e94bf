//! Types of arguments, as they stand in a pattern: `int`, `str`, `bytes(#3)`.

use std::fmt;

/// Bytes that one argument captures at the most.
pub const MAX_BYTES: u32 = 4096;

/// How a value is read and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A signed number of so many bytes; 0: what the language calls `int`.
    Int(u8),
    /// The same without a sign.
    Uint(u8),
    /// Eight bytes in hexadecimal.
    Hex,
    /// An address.
    Ptr,
    /// A text: in C its address, ended by NUL; in Go a string.
    Str,
    /// The address of bytes.
    Bytes(Length),
    /// One byte: 0 is false.
    Bool,
    /// Not read.
    Skip,
}

/// How many bytes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many.
    Fixed(u32),
    /// As many as the argument of this number (from 0) says.
    Argument(usize),
    /// As many as a Go slice says.
    Own,
}

/// The types that need no parentheses.
const NAMED: &[(&str, Type)] = &[
    ("int", Type::Int(0)),
    ("int8", Type::Int(1)),
    ("int16", Type::Int(2)),
    ("int32", Type::Int(4)),
    ("int64", Type::Int(8)),
    ("long", Type::Int(8)),
    ("uint", Type::Uint(0)),
    ("uint8", Type::Uint(1)),
    ("uint16", Type::Uint(2)),
    ("uint32", Type::Uint(4)),
    ("uint64", Type::Uint(8)),
    ("ulong", Type::Uint(8)),
    ("hex", Type::Hex),
    ("ptr", Type::Ptr),
    ("str", Type::Str),
    ("bytes", Type::Bytes(Length::Own)),
    ("bool", Type::Bool),
    ("_", Type::Skip),
];

/// What to say about something that is no type.
pub(crate) const TYPES: &str = "types are int, uint, hex, ptr, str, bytes(N), bytes(#n) (as many as argument \
 n says), bool, and _ for one \
     that is not read; int8 to int64 and uint8 to uint64 have so many bits, long and ulong 64";

impl Type {
    /// Reads one type; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some((_, kind)) = NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(*kind);
        }
        let inside = text.strip_prefix("bytes(").and_then(|rest| rest.strip_suffix(')'));
        let Some(inside) = inside.map(str::trim) else {
            return Err(format!("`{text}` is no type; {TYPES}"));
        };
        match inside.strip_prefix('#') {
            Some(number) => match number.parse::<usize>() {
                Ok(number @ 1..) => Ok(Self::Bytes(Length::Argument(number - 1))),
                _ => Err(format!("`{text}`: bytes(#1) has as many bytes as the first argument says")),
            },
            None => match inside.parse::<u32>() {
                Ok(number @ 1..=MAX_BYTES) => Ok(Self::Bytes(Length::Fixed(number))),
                _ => Err(format!("`{text}`: a number from 1 to {MAX_BYTES} goes between the parentheses")),
            },
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(Length::Fixed(number)) => write!(f, "bytes({number})"),
            Self::Bytes(Length::Argument(number)) => write!(f, "bytes(#{})", number + 1),
            other => match NAMED.iter().find(|(_, kind)| kind == other) {
                Some((name, _)) => f.write_str(name),
                None => f.write_str("_"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn types_are_read_and_written() {
        for (text, kind) in [
            ("int", Type::Int(0)),
            ("uint16", Type::Uint(2)),
            ("str", Type::Str),
            ("bytes(16)", Type::Bytes(Length::Fixed(16))),
            ("bytes(#3)", Type::Bytes(Length::Argument(2))),
            ("_", Type::Skip),
        ] {
            assert_eq!(Type::parse(text).unwrap(), kind);
            assert_eq!(kind.to_string(), text);
        }
        for wrong in
            ["", "char", "bytes()", "bytes(0)", "bytes(#0)", "bytes(5000)", "bytes(-1)", "int ", "bytes(#)"]
        {
            assert!(Type::parse(wrong).is_err(), "{wrong}");
        }
    }
}
