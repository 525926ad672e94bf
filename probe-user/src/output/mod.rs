//! Records → bytes for a person or a program: the formats.
//!
//! Owns how a record looks and when it leaves the process. An output never changes, reorders or drops
//! records. To add a format, add a file here and a row in [`FORMATS`].

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
    /// As text if it is readable, and as a hex dump otherwise.
    #[default]
    Auto,
    /// Always as a hex dump.
    Hex,
}

/// Whether a program is indented below the program that started it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tree {
    /// All programs start in the same column.
    #[default]
    Flat,
    /// Each level of the process tree is indented.
    Indented,
}

/// How records look as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextStyle {
    /// Whether colours are used.
    pub colour: Colour,
    /// How payload is shown.
    pub payload: Payload,
    /// How programs are indented.
    pub tree: Tree,
    /// The columns that a line of a request may take, at the cost of its target. None: all that it needs.
    pub columns: Option<usize>,
}

/// The options of all formats. Each format uses those that concern it.
#[derive(Clone, Debug)]
pub struct Options {
    /// How text looks.
    pub look: TextStyle,
    /// The time zone of times in text. JSON uses UTC.
    pub zone: TimeZone,
}

/// Who reads a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatKind {
    /// A person: on a terminal, other lines may stand between the records.
    Text,
    /// A program that reads lines, and would take any other line for a record.
    Lines,
    /// A program that reads bytes, which are never written to a terminal.
    Binary,
}

/// An output format.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// What the user types.
    pub name: &'static str,
    /// One line for `--help`.
    pub help: &'static str,
    /// Who reads it.
    pub kind: FormatKind,
    /// The kinds of records that it can represent.
    pub takes: &'static [RecordKind],
    /// Creates the output.
    pub open: fn(RecordWriter, Options) -> Box<dyn Output>,
}

/// One output of a trace.
#[derive(Clone, Debug)]
pub struct OutputSpec {
    /// How records are written.
    pub format: &'static Format,
    /// How they look as text.
    pub style: TextStyle,
    /// Where they go.
    pub path: OutputPath,
}

/// All formats. The first one is the default.
pub const FORMATS: &[Format] = &[
    Format {
        name: "text",
        help: "a line per program or request, a header line per call and its payload, for a person",
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

/// The format with this name.
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
