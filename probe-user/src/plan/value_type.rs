//! Types of arguments as a pattern contains them: `int`, `str`, `rust_str`, `bytes(#3)`.

use std::fmt;

/// Limit of the bytes that are captured of one argument.
pub const MAX_BYTES: u32 = 4096;

/// How a value is read and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A signed integer of this size in bytes. 0 means the size of the language's `int`.
    Int(u8),
    /// An unsigned integer, likewise.
    Uint(u8),
    /// Eight bytes in hexadecimal.
    Hex,
    /// An address.
    Ptr,
    /// A string: in C a pointer to text that ends with a NUL, in Go a `string`.
    Str,
    /// A string that has its length beside it.
    Text(TextLayout),
    /// A floating-point number of this size in bytes.
    Float(u8),
    /// A pointer to bytes.
    Bytes(Length),
    /// One byte; 0 is false.
    Bool,
    /// An argument that is not read.
    Skip,
}

/// How a string with a length is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextLayout {
    /// Rust's `&str` (and `&[u8]`): the address and the length are two arguments.
    RustStr,
    /// Rust's `String`, by reference or by value: the address of its capacity, its address and its length, in
    /// the order that rustc has chosen since 1.77 (March 2024). The language does not promise it.
    RustString,
    /// `std::string` of libstdc++ (since GCC 5), by reference or by value: the address of an object that
    /// begins with the address of the text and its length.
    CppString,
    /// `std::string_view` of libstdc++: the length and the address are two arguments.
    CppStringView,
    /// `std::string` of libc++ in its usual layout: the address of an object with the text in it, or with the
    /// address of the text.
    LibcxxString,
    /// `std::string_view` of libc++: the address and the length are two arguments.
    LibcxxStringView,
}

impl TextLayout {
    /// How many arguments it takes.
    pub fn words(self) -> usize {
        match self {
            Self::RustStr | Self::CppStringView | Self::LibcxxStringView => 2,
            Self::RustString | Self::CppString | Self::LibcxxString => 1,
        }
    }
}

/// The length of `bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// This many bytes.
    Fixed(u32),
    /// As many bytes as the argument with this index (from 0) says.
    Argument(usize),
    /// As many bytes as a Go slice has.
    Own,
}

/// The types without parentheses.
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
    ("rust_str", Type::Text(TextLayout::RustStr)),
    ("rust_string", Type::Text(TextLayout::RustString)),
    ("cpp_string", Type::Text(TextLayout::CppString)),
    ("cpp_string_view", Type::Text(TextLayout::CppStringView)),
    ("libcxx_string", Type::Text(TextLayout::LibcxxString)),
    ("libcxx_string_view", Type::Text(TextLayout::LibcxxStringView)),
    ("f32", Type::Float(4)),
    ("f64", Type::Float(8)),
    ("bytes", Type::Bytes(Length::Own)),
    ("bool", Type::Bool),
    ("_", Type::Skip),
];

/// The types, for error messages.
pub(crate) const TYPES: &str = "types are int, uint, hex, ptr, str, bytes(N), bytes(#n) (argument n is the \
                                length), bool, and _ (not read); int8 to int64 and uint8 to uint64 have that \
                                many bits, long and ulong have 64; strings of other languages are rust_str, \
                                rust_string, cpp_string, cpp_string_view, libcxx_string and \
                                libcxx_string_view";

/// Why floating-point numbers of a call cannot be read. A probe's program gets the general registers alone.
/// The kernel leaves the vector registers in the processor when a probe is hit, and saves them only if it
/// happens to switch to another thread; what is in its memory before that is of an earlier time.
pub(crate) const NO_VECTOR_REGISTERS: &str = "it is in a vector register (XMM), which the kernel does not \
                                              save when a probe is hit, so it cannot be read without the risk \
                                              of a wrong number";

impl Type {
    /// Whether it is captured as bytes that the value points to.
    pub fn captures_bytes(self) -> bool {
        matches!(self, Self::Str | Self::Text(_) | Self::Bytes(_))
    }

    /// Parses one type. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some((_, kind)) = NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(*kind);
        }
        let inside = text.strip_prefix("bytes(").and_then(|rest| rest.strip_suffix(')'));
        let Some(inside) = inside.map(str::trim) else {
            return Err(format!("`{text}` is not a type; {TYPES}"));
        };
        match inside.strip_prefix('#') {
            Some(number) => match number.parse::<usize>() {
                Ok(number @ 1..) => Ok(Self::Bytes(Length::Argument(number - 1))),
                _ => Err(format!("`{text}`: write bytes(#n) if argument n is the length, such as bytes(#1)")),
            },
            None => match inside.parse::<u32>() {
                Ok(number @ 1..=MAX_BYTES) => Ok(Self::Bytes(Length::Fixed(number))),
                _ => Err(format!("`{text}`: write bytes(N) with N from 1 to {MAX_BYTES}")),
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
            ("rust_str", Type::Text(TextLayout::RustStr)),
            ("libcxx_string_view", Type::Text(TextLayout::LibcxxStringView)),
            ("f64", Type::Float(8)),
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
