//! The arguments of `ps`, `inspect` and `doctor`.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use super::Color;
use crate::explain::ps::Extent;
use crate::explain::{Form, Question, Subject};
use crate::target::{ContainerName, Criteria, Selector};

const PS_EXAMPLES: &str = "\
Examples:
  ctrace ps                              who uses TLS on this machine, and whether ctrace would see it
  ctrace ps --wide                       with paths, functions, and containers that do not use TLS
  ctrace ps --container web -o json | jq '.processes[] | select(.probeable | not) | .why'

Works without root as far as /proc allows; who could not be looked into is said on standard error.";

#[derive(Args, Debug)]
#[command(after_help = PS_EXAMPLES)]
pub(super) struct PsArgs {
    /// A container: its name, its id, or a unique prefix of either (repeatable) [default: everything]
    #[arg(short, long = "container", value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new())]
    containers: Vec<String>,
    /// A process and its descendants (repeatable) [default: everything]
    #[arg(short, long = "pid", value_name = "PID", value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pids: Vec<u32>,
    /// Show more of each, and containers that do not use TLS
    #[arg(short, long)]
    wide: bool,
    #[command(flatten)]
    answer: AnswerArgs,
}

const INSPECT_EXAMPLES: &str = "\
Examples:
  ctrace inspect web                     a container: its name, its id, or a unique prefix of either
  ctrace inspect 2543                    a process with its descendants
  ctrace inspect web -o json | jq '.access[] | select(.works | not)'

Each way to its files is tried: opened, never read from where that is not needed, never written.";

#[derive(Args, Debug)]
#[command(after_help = INSPECT_EXAMPLES)]
pub(super) struct InspectArgs {
    /// A container (name, id, or a unique prefix of either) or a process's id
    #[arg(value_name = "CONTAINER|PID", value_parser = NonEmptyStringValueParser::new())]
    subject: String,
    #[command(flatten)]
    answer: AnswerArgs,
}

impl InspectArgs {
    pub(super) fn question(self) -> (Question, Form) {
        (Question::Inspect(Subject(self.subject)), self.answer.into())
    }
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
struct AnswerArgs {
    /// How the answer is written
    #[arg(short = 'o', long = "format", value_name = "FORMAT", default_value = "text")]
    format: AnswerFormat,
    /// Colour the text
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: Color,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AnswerFormat {
    /// For a person
    Text,
    /// One JSON object
    Json,
}

impl From<AnswerArgs> for Form {
    fn from(AnswerArgs { format, color }: AnswerArgs) -> Self {
        match format {
            AnswerFormat::Text => Self::Text(color.for_stream(&std::io::stdout())),
            AnswerFormat::Json => Self::Json,
        }
    }
}

impl PsArgs {
    pub(super) fn question(self) -> (Question, Form) {
        let extent = if self.wide { Extent::Wide } else { Extent::Usual };
        let names = self.containers.into_iter().map(|name| ContainerName { runtime: None, name });
        let containers = Criteria { names: names.collect(), ..Criteria::default() };
        let all = containers.names.is_empty() && self.pids.is_empty();
        let selector = Selector { all, containers, pids: self.pids, ..Selector::default() };
        (Question::Ps { selector: Box::new(selector), extent }, self.answer.into())
    }
}
