//! Records → bytes for a person or a program: the formats.
//!
//! Owns how a record looks and when it leaves the process. A sink never changes, orders or drops
//! records; the text sink alone escapes, as it alone writes to terminals.
//! To add a format: a file here and a row in [`FORMATS`].

use jiff::tz::TimeZone;

use crate::event::{Output, RecordKind};
use crate::terminal::Colour;

mod destination;
mod interruptible;
mod json;
mod signal_names;
mod tee;
pub mod text;
mod writer;

pub use destination::{Destination, DestinationError, OutputPath};
pub use interruptible::StopFlag;
pub(crate) use json::{LineError, read};
pub use json::{Recorded, schema, write_json, write_plan};
pub use tee::{Tee, WriteError};
pub use writer::RecordWriter;

/// How payload is shown in text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Payload {
    /// As text when it is readable, else as a hex dump.
    #[default]
    Auto,
    /// Always as a hex dump.
    Hex,
}

/// Whether a program is shown below the one that started it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tree {
    /// It is not.
    #[default]
    Flat,
    /// It is indented.
    Indented,
}

/// How records look as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextStyle {
    /// Whether there are colours.
    pub colour: Colour,
    /// How payload is shown.
    pub payload: Payload,
    /// How programs are arranged.
    pub tree: Tree,
}

/// What a format may be told; each takes what concerns it.
#[derive(Clone, Debug)]
pub struct Options {
    /// How text looks.
    pub look: TextStyle,
    /// For the times in text; JSON has UTC.
    pub zone: TimeZone,
}

/// Whom a format is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatKind {
    /// A person: it may be among other lines of a terminal.
    Text,
    /// A program that reads lines: other lines among them would be taken for records.
    Lines,
    /// A program that reads bytes, which no terminal is to get.
    Binary,
}

/// An output format.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// What the user types.
    pub name: &'static str,
    /// One line for `--help`.
    pub help: &'static str,
    /// Whom it is for.
    pub kind: FormatKind,
    /// The records that it has a place for.
    pub takes: &'static [RecordKind],
    /// Makes the sink.
    pub open: fn(RecordWriter, Options) -> Box<dyn Output>,
}

/// What one output of a trace is.
#[derive(Clone, Debug)]
pub struct OutputSpec {
    /// How records are written.
    pub format: &'static Format,
    /// How they look as text.
    pub style: TextStyle,
    /// Where they go.
    pub path: OutputPath,
}

/// All formats; the first is the default.
pub const FORMATS: &[Format] = &[
    Format {
        name: "text",
        help: "a line per program, a header line per call and its payload, for a person",
        kind: FormatKind::Text,
        takes: RecordKind::ALL,
        open: |output, options| Box::new(text::Text::new(output, options)),
    },
    Format {
        name: "json",
        help: "JSON Lines, one record a line (ctrace schema)",
        kind: FormatKind::Lines,
        takes: RecordKind::ALL,
        open: |output, _| Box::new(json::Json::new(output)),
    },
];

/// The format of a name.
pub fn format(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_named_once_and_explained() {
        for (index, row) in FORMATS.iter().enumerate() {
            assert!(!row.takes.is_empty(), "{}", row.name);
            assert!(!row.help.is_empty() && !row.help.contains('\n'), "{}", row.name);
            let first = FORMATS.iter().position(|other| other.name == row.name);
            assert_eq!(first, Some(index), "{} is there twice", row.name);
            assert!(format(row.name).is_some());
        }
    }
}
