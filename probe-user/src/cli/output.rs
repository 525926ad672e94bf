//! `-o` and `--output`: the formats of the output, and the destination of each.

use std::ffi::OsStr;
use std::io::{self, IsTerminal as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Args, Command};

use super::value::Color;
use crate::output::{self, FORMATS, Format, OutputPath, OutputSpec, TextStyle};
use crate::terminal::Colour;

/// The columns that lines take on a terminal, whatever its size is now: lines that were printed stay when it
/// changes.
const TERMINAL_COLUMNS: usize = 120;

#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputArgs {
    /// The format of records, and the file for them (`-`: standard output); repeatable, for several outputs
    /// at once
    #[arg(short = 'o', long = "format", value_name = "FORMAT[=PATH]", default_value = "text", value_parser = FormatAndPathParser)]
    formats: Vec<FormatAndPath>,
    /// Colour the text
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: Color,
    /// Where the -o without a path goes, instead of standard output (with a command: standard error): a file,
    /// which only its owner may read, a FIFO, or /dev/fd/N
    #[arg(long, value_name = "PATH")]
    output: Option<PathBuf>,
}

/// A value of `-o`, such as `json=calls.jsonl`.
#[derive(Clone, Debug)]
struct FormatAndPath {
    format: &'static Format,
    path: Option<PathBuf>,
}

/// Parses a value of `-o`; also lists the formats, for help and completion.
#[derive(Clone, Debug)]
struct FormatAndPathParser;

impl TypedValueParser for FormatAndPathParser {
    type Value = FormatAndPath;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        let mut parts = value.as_bytes().splitn(2, |byte| *byte == b'=').map(OsStr::from_bytes);
        let names = PossibleValuesParser::from(possible_values().collect::<Vec<_>>());
        let name = names.parse_ref(command, arg, parts.next().unwrap_or_default())?;
        let wrong = |what: String| command.clone().error(ErrorKind::InvalidValue, what);
        let format = output::format(&name).ok_or_else(|| wrong(format!("no format is called {name}")))?;
        let path = parts.next().map(PathBuf::from);
        if path.as_deref() == Some(Path::new("")) {
            return Err(wrong(format!(
                "`-o {name}=` names no file; write -o {name}=FILE, or -o {name} for standard output"
            )));
        }
        Ok(FormatAndPath { format, path })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(possible_values()))
    }
}

fn possible_values() -> impl Iterator<Item = PossibleValue> {
    FORMATS.iter().map(|format| PossibleValue::new(format.name).help(format.help))
}

impl OutputArgs {
    /// The outputs. At most one has no path of its own; it goes to `standard`. The error says what is wrong.
    pub(super) fn outputs(self, standard: OutputPath, style: TextStyle) -> Result<Vec<OutputSpec>, String> {
        let Self { formats, color, output } = self;
        let unnamed: Vec<_> = formats.iter().filter(|wanted| wanted.path.is_none()).collect();
        match (unnamed.as_slice(), &output) {
            ([], Some(_)) => {
                return Err("--output names the file for the -o that has none, but every -o has one: leave \
                            out --output, or add an -o"
                    .to_owned());
            }
            ([_, .., last], _) => {
                let last = last.format.name;
                return Err(format!(
                    "{} outputs have no path; give all but one a path, such as -o {last}=FILE",
                    unnamed.len()
                ));
            }
            _ => {}
        }
        let standard = output.map_or(standard, OutputPath::from);
        let spec = |FormatAndPath { format, path }| {
            let path = path.map_or_else(|| standard.clone(), OutputPath::from);
            let (colour, columns) = (colour(color, &path), columns(&path));
            OutputSpec { format, style: TextStyle { colour, columns, ..style }, path }
        };
        let outputs: Vec<OutputSpec> = formats.into_iter().map(spec).collect();
        for (index, output) in outputs.iter().enumerate() {
            if outputs.iter().take(index).any(|before| before.path.is_same(&output.path)) {
                return Err(format!("two outputs go to {}; give each a path of its own", output.path));
            }
        }
        Ok(outputs)
    }
}

/// Whether to colour an output. A named file is not opened yet, so `auto` does not colour it.
fn colour(when: Color, path: &OutputPath) -> Colour {
    match (path, when) {
        (OutputPath::Named(_), Color::Auto) => Colour::Off,
        (OutputPath::Stderr, when) => when.for_stream(&io::stderr()),
        (_, when) => when.for_stream(&io::stdout()),
    }
}

/// The columns of an output that is a terminal. Lines for a file or a program are whole.
fn columns(path: &OutputPath) -> Option<usize> {
    let is_terminal = match path {
        OutputPath::Named(_) => false,
        OutputPath::Stderr => io::stderr().is_terminal(),
        OutputPath::Stdout => io::stdout().is_terminal(),
    };
    is_terminal.then_some(TERMINAL_COLUMNS)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        output: OutputArgs,
    }

    /// `FORMAT PATH` of each output, or the error.
    fn outputs(words: &[&str], standard: OutputPath) -> Result<Vec<String>, String> {
        let words =
            Words::try_parse_from([&["ctrace"], words].concat()).map_err(|error| error.to_string())?;
        let outputs = words.output.outputs(standard, TextStyle::default())?;
        Ok(outputs.iter().map(|output| format!("{} {}", output.format.name, output.path)).collect())
    }

    #[test]
    fn each_output_has_a_format_and_a_path() {
        let check = |words: &[&str], expected: &[&str]| {
            assert_eq!(
                outputs(words, OutputPath::Stdout),
                Ok(expected.iter().map(|s| (*s).to_owned()).collect())
            );
        };
        check(&[], &["text standard output"]);
        check(&["-o", "json"], &["json standard output"]);
        check(&["-o", "json=-"], &["json standard output"]);
        check(&["--output", "-"], &["text standard output"]);
        check(&["--output", "a"], &["text a"]);
        check(&["-ojson=a=b"], &["json a=b"]);
        check(&["-o", "text", "-o", "json=calls.jsonl"], &["text standard output", "json calls.jsonl"]);
        check(&["--format=json=a", "-o", "json=b"], &["json a", "json b"]);
        check(&["-o", "text=a", "-o", "json", "--output", "b"], &["text a", "json b"]);
        let expected = Ok(vec!["text standard error".to_owned(), "json standard output".to_owned()]);
        assert_eq!(outputs(&["-o", "text", "-o", "json=-"], OutputPath::Stderr), expected);
    }

    #[test]
    fn what_is_wrong_says_what_to_do() {
        let check = |words: &[&str], said: &str| {
            let error = outputs(words, OutputPath::Stdout).unwrap_err();
            assert!(error.contains(said), "{words:?}: {error}");
        };
        check(&["-o", "xml"], "possible values: text, json");
        check(&["-o", "xml=a"], "possible values: text, json");
        check(&["-o", "json="], "-o json=FILE");
        check(&["-o", "text", "-o", "json"], "-o json=FILE");
        check(&["-o", "json", "-o", "json", "--output", "a"], "-o json=FILE");
        check(&["-o", "json=a", "--output", "b"], "leave out --output");
        check(&["-o", "json=a", "-o", "text=a"], "two outputs go to a");
        check(&["-o", "json=a\u{1b}", "-o", "text=a\u{1b}"], "two outputs go to a\\x1b");
        check(&["-o", "json=-", "-o", "text"], "two outputs go to standard output");
        check(&["-o", "json=/dev/stdout", "-o", "text"], "two outputs go to");
        check(&["-o", "json=a", "-o", "text", "--output", "a"], "two outputs go to a");
    }
}
