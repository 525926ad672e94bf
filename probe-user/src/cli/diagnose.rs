//! The arguments of `ps`, `inspect` and `doctor`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::choice::container;
use super::selection::{AnyTargetArgs, RuntimeArgs};
use super::value::{self, Color};
use crate::diagnose::ps::Detail;
use crate::diagnose::{DiagnoseCommand, OutputFormat, TargetArg};

const PS_EXAMPLES: &str = "\
Examples:
  ctrace ps                              which processes use TLS, and whether ctrace could trace them
  ctrace ps --wide                       with paths, functions, and containers that do not use TLS
  ctrace ps --container web -o json | jq '.processes[] | select(.traceable | not) | .why'

Works without root as far as /proc allows; standard error names the processes that could not be inspected.";

#[derive(Args, Debug)]
#[command(after_help = PS_EXAMPLES)]
pub(super) struct PsArgs {
    /// Show more details, and containers that do not use TLS
    #[arg(short, long)]
    wide: bool,
    #[command(flatten)]
    target: AnyTargetArgs,
    #[command(flatten)]
    answer: AnswerArgs,
}

const INSPECT_EXAMPLES: &str = "\
Examples:
  ctrace inspect web                     a container: its name, its id, or a unique prefix of either
  ctrace inspect 2543                    a process with its descendants
  ctrace inspect web:1                   the same, by its id inside of a container
  ctrace inspect web -o json | jq '.access[] | select(.works | not)'

Each path to its files is tried: files are opened, read only where necessary, and never written.";

#[derive(Args, Debug)]
#[command(after_help = INSPECT_EXAMPLES)]
pub(super) struct InspectArgs {
    /// A container (name, id, or a unique prefix of either), a process id, or a process id inside of a
    /// container (web:1)
    #[arg(value_name = "CONTAINER|[CONTAINER:]PID", value_parser = subject)]
    subject: TargetArg,
    #[command(flatten)]
    runtimes: RuntimeArgs,
    #[command(flatten)]
    answer: AnswerArgs,
}

impl InspectArgs {
    pub(super) fn command(self) -> (DiagnoseCommand, OutputFormat) {
        let sockets = self.runtimes.runtime_sockets;
        (DiagnoseCommand::Inspect { subject: self.subject, sockets }, self.answer.into())
    }
}

const DOCTOR_EXAMPLES: &str = "\
Examples:
  ctrace doctor                          would tracing work on this machine, with these permissions?
  ctrace doctor web                      for each process of a container: would it work, or why not?
  ctrace doctor web --watch 5s           which probes are hit? (Also while another ctrace runs.)

It loads the BPF programs, attaches probes and detaches them again. Exit status: 0 tracing would
work; 3 not for this container; 4 not on this machine, or not with these permissions.";

#[derive(Args, Debug)]
#[command(after_help = DOCTOR_EXAMPLES)]
pub(super) struct DoctorArgs {
    /// A container (name, id, or a unique prefix of either), a process id, or a process id inside of a
    /// container (web:1)
    #[arg(value_name = "CONTAINER|[CONTAINER:]PID", value_parser = subject)]
    subject: Option<TargetArg>,
    /// Count how often each probe is hit during this time, such as 5s
    #[arg(long, value_name = "TIME", value_parser = value::duration, requires = "subject")]
    watch: Option<Duration>,
    #[command(flatten)]
    runtimes: RuntimeArgs,
    #[command(flatten)]
    answer: AnswerArgs,
}

impl DoctorArgs {
    pub(super) fn command(self) -> (DiagnoseCommand, OutputFormat) {
        let sockets = self.runtimes.runtime_sockets;
        (DiagnoseCommand::Doctor { subject: self.subject, watch: self.watch, sockets }, self.answer.into())
    }
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
struct AnswerArgs {
    /// The format of the answer
    #[arg(short = 'o', long = "format", value_name = "FORMAT", default_value = "text")]
    format: AnswerFormat,
    /// Colour the text
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: Color,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AnswerFormat {
    /// For people
    Text,
    /// One JSON object
    Json,
}

/// Accepts a container as other commands do, or a process id.
fn subject(text: &str) -> Result<TargetArg, String> {
    container(text).map(|_| TargetArg(text.to_owned()))
}

impl From<AnswerArgs> for OutputFormat {
    fn from(AnswerArgs { format, color }: AnswerArgs) -> Self {
        match format {
            AnswerFormat::Text => Self::Text(color.for_stream(&std::io::stdout())),
            AnswerFormat::Json => Self::Json,
        }
    }
}

impl PsArgs {
    pub(super) fn command(self) -> (DiagnoseCommand, OutputFormat) {
        let extent = if self.wide { Detail::Wide } else { Detail::Usual };
        (DiagnoseCommand::Ps { selector: Box::new(self.target.into()), extent }, self.answer.into())
    }
}
