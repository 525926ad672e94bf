//! What reaches a person's terminal: escaping of foreign bytes, tables, hex dumps, words as a shell needs
//! them.
//!
//! No byte of a target moves the cursor or changes a colour: everything foreign goes through [`escape`].

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

pub mod escape;
pub mod hexdump;
pub mod shell_quote;
pub mod table;

/// A name for a person, on one line: no byte of it acts on a terminal.
pub fn escaped(foreign: &str) -> String {
    let mut text = String::with_capacity(foreign.len());
    escape::name(foreign.as_bytes(), &mut text);
    text
}

/// Lines of our own for a person, which may have names in them: no byte of them acts on a terminal but the
/// line ends.
pub fn escaped_lines(lines: &str) -> String {
    let mut text = String::with_capacity(lines.len());
    escape::lines(lines.as_bytes(), &mut text);
    text
}

/// A word of the command line, of any bytes, on one line: no byte of it acts on a terminal.
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
    /// Headers and arrows.
    On,
}
