//! Everything for a person's terminal: escaping of foreign bytes, tables, hex dumps, and quoting for a shell.
//!
//! No byte from a target moves the cursor or changes a colour, because everything foreign passes through
//! [`escape`].

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

pub mod escape;
pub mod hexdump;
pub mod shell_quote;
pub mod table;

/// Escapes a name for a person, on one line, so that no byte of it acts on a terminal.
pub fn escaped(foreign: &str) -> String {
    let mut text = String::with_capacity(foreign.len());
    escape::name(foreign.as_bytes(), &mut text);
    text
}

/// Escapes lines of our own that may contain names, so that nothing but the line ends acts on a terminal.
pub fn escaped_lines(lines: &str) -> String {
    let mut text = String::with_capacity(lines.len());
    escape::lines(lines.as_bytes(), &mut text);
    text
}

/// Escapes a word of the command line, which may contain any bytes, on one line, so that no byte of it acts
/// on a terminal.
pub fn escaped_word(word: &OsStr) -> String {
    let mut text = String::with_capacity(word.len());
    escape::name(word.as_bytes(), &mut text);
    text
}

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Colour {
    /// No escape sequences.
    #[default]
    Off,
    /// Headers and arrows are coloured.
    On,
}
