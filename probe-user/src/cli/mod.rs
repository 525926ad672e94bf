//! The command line: syntax in, meaning out. clap is known only here.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::builder::Styles;
use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::explain::{Form, Question};
use crate::sink;
use crate::target::Selector;

mod explain;
mod target;
mod value;

use target::TargetArgs;

/// What the user wants done.
#[derive(Clone, Debug)]
pub enum Request {
    /// Trace.
    Trace(Box<Trace>),
    /// Explain what is there, and why something is not.
    Explain(Question, Form),
    /// Print the JSON Schema of the records.
    Schema,
    /// Print a shell's completion script.
    Completion(Shell),
    /// Print the manual page.
    Manual,
}

/// A trace: what of, how much, to where.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What of.
    pub selector: Selector,
    /// A command to start, and to trace with all that it starts; empty if there is none.
    pub command: Vec<OsString>,
    /// How records are written.
    pub format: &'static sink::Format,
    /// How records look as text.
    pub look: sink::Look,
    /// Where they go: a file to be made; else standard output, or standard error if there is a command.
    pub output: Option<PathBuf>,
    /// End after so many calls.
    pub count: Option<u64>,
    /// End after this time.
    pub duration: Option<Duration>,
    /// Payload bytes to capture of each call.
    pub max_bytes: u32,
    /// Bytes of the ring buffer.
    pub ring_bytes: u32,
    /// Whether it is an error that there is nothing to attach to.
    pub nothing: Nothing,
    /// Whether to act, or to print what would be done.
    pub action: Action,
}

/// What to do when there is nothing to attach to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// Tell why, and end, unless the selection is one that takes what starts later.
    Error,
    /// Wait for it.
    Wait,
}

impl Trace {
    /// Whether standard error has records for a program.
    pub fn shares_stderr(&self) -> bool {
        !self.command.is_empty() && self.output.is_none() && self.format.name != "text"
    }
}

/// Whether to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Attach and stream.
    Run,
    /// Print the plan as JSON.
    PrintPlan,
}

/// What goes to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// What is attached, warnings, the summary.
    Normal,
    /// What is done and skipped.
    Verbose,
    /// Everything, the BPF programs' own log too.
    Debug,
}

/// The parsed command line.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// What to do.
    pub request: Request,
    /// What to say meanwhile.
    pub verbosity: Verbosity,
}

const STYLES: Styles = Styles::styled()
    .header(Style::new().bold())
    .usage(Style::new().bold())
    .literal(Style::new().fg_color(Some(anstyle::Color::Ansi(AnsiColor::Cyan))));

/// Shows from the host what happens inside containers, without touching them.
#[derive(Debug, Parser)]
#[command(name = "ctrace", version, styles = STYLES, arg_required_else_help = true, after_help = EXIT_STATUS)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say more on standard error (-vv: everything, with the BPF programs' log)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Say nothing on standard error but errors, and that tracing has begun
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

const EXIT_STATUS: &str = "\
Exit status: 0 done (also after Ctrl-C, a closed pipe, or the end of the target); 1 failure; 2 usage;
3 nothing matched, or nothing to attach to; 4 not permitted, or the kernel cannot. With a command: the
command's own, 128 + its signal, 126 when it cannot be executed, 127 when it is not there.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the plaintext of TLS connections
    Ssl(Box<SslArgs>),
    /// List the processes that use TLS, and whether ctrace would see what they say
    Ps(Box<explain::PsArgs>),
    /// Show a container or process from all sides: its files, layers, mounts, namespaces, processes, TLS
    Inspect(explain::InspectArgs),
    /// Check whether tracing would work, on this machine and of a container, and say why not
    Doctor(explain::DoctorArgs),
    /// Print the JSON Schema of the records that `-o json` writes
    Schema,
    /// Print a completion script: `ctrace completion bash > /etc/bash_completion.d/ctrace`
    Completion {
        /// Whose
        shell: Shell,
    },
    /// Print the manual page: `ctrace man | man -l -`
    Man,
}

const SSL_EXAMPLES: &str = "\
Examples:
  ctrace ssl --container web                       what container web sends and receives over TLS
  ctrace ssl --pid 2543 --hex                      a process and its descendants, as a hex dump
  ctrace ssl --image nginx --namespace prod        every nginx of a Kubernetes namespace, those to come too
  ctrace ssl --compose-service api --comm python3  of a service's containers the processes called python3
  ctrace ssl --all --max-bytes 0 -o json           every call on the machine, without payload
  ctrace ssl --all --exclude-label tier=db         every container and process but those
  ctrace ssl --container web -o json | jq -r 'select(.type == \"ssl\") | .data // empty'
  ctrace ssl --output calls.txt -- curl https://host/   a command from its first call on; ends with it
  ctrace ssl --container web --duration 30s --output /tmp/web.jsonl -o json

Standard output has records only. docs/events.md describes them; `ctrace schema` prints their schema.";

#[derive(Args, Debug)]
#[command(
    after_help = format!("{}\n\n{SSL_EXAMPLES}", target::MEANING),
    override_usage = "ctrace ssl [OPTIONS] <WHAT TO TRACE>...\n       ctrace ssl [OPTIONS] -- <COMMAND>..."
)]
struct SslArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// Go on although there is nothing to attach to yet: a program that is started, or a library that is loaded
    /// later, is attached to then
    #[arg(short, long)]
    wait: bool,
    /// Print what would be attached where, as JSON, and load nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
struct OutputArgs {
    /// How records are written
    #[arg(short = 'o', long = "format", value_name = "FORMAT", default_value = "text", value_parser = value::format())]
    format: &'static sink::Format,
    /// Dump payloads in hexadecimal even if they are text
    #[arg(long)]
    hex: bool,
    /// Colour the text
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: Color,
    /// Write records to FILE instead of standard output (with a command: standard error); it is readable by its owner only
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// End after N calls
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after a time, such as 10s, 5m, 1h30m
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    duration: Option<Duration>,
    /// Capture N bytes of each call at the most, up to 1M; 0: none, only the record [default: 1M]
    #[arg(long, value_name = "N", value_parser = value::max_bytes, default_value = "1M", hide_default_value = true)]
    max_bytes: u32,
    /// Room for records between the kernel and ctrace, rounded up to a power of two, from 64K to 1G
    #[arg(long, value_name = "SIZE", value_parser = value::ring_bytes, default_value = "32M")]
    ring_size: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Color {
    /// If what has the records is a terminal and NO_COLOR is not set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Color {
    /// Whether text on one of our standard streams is coloured.
    fn for_stream(self, stream: &impl io::IsTerminal) -> sink::Colour {
        let wanted = || std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        match self {
            Self::Always => sink::Colour::On,
            Self::Auto if stream.is_terminal() && wanted() => sink::Colour::On,
            Self::Auto | Self::Never => sink::Colour::Off,
        }
    }
}

/// Parses the process's arguments. Prints help, version or a usage error itself and exits (0 or 2).
pub fn parse() -> Invocation {
    let cli = Cli::parse();
    let verbosity = match (cli.quiet, cli.verbose) {
        (true, _) => Verbosity::Quiet,
        (false, 0) => Verbosity::Normal,
        (false, 1) => Verbosity::Verbose,
        (false, _) => Verbosity::Debug,
    };
    let request = match cli.command {
        Command::Ssl(args) => {
            args.check();
            Request::Trace(Box::new((*args).into()))
        }
        Command::Ps(args) => explain(args.question()),
        Command::Inspect(args) => explain(args.question()),
        Command::Doctor(args) => explain(args.question()),
        Command::Schema => Request::Schema,
        Command::Completion { shell } => Request::Completion(shell),
        Command::Man => Request::Manual,
    };
    let verbosity = match &request {
        // Standard error has records for a program: nothing else is to be among them, unless it is asked for.
        Request::Trace(trace) if trace.shares_stderr() => verbosity_among_records(verbosity),
        _ => verbosity,
    };
    Invocation { request, verbosity }
}

fn explain((question, form): (Question, Form)) -> Request {
    Request::Explain(question, form)
}

fn verbosity_among_records(asked: Verbosity) -> Verbosity {
    if asked == Verbosity::Normal { Verbosity::Quiet } else { asked }
}

/// Writes the completion script of `shell`.
pub fn write_completion(shell: Shell, out: &mut dyn io::Write) -> io::Result<()> {
    // Into memory first: clap_complete panics when a pipe is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ctrace", &mut script);
    out.write_all(&script)
}

/// Writes the manual page of ctrace, with its commands.
pub fn write_manual(out: &mut dyn io::Write) -> io::Result<()> {
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(out)?;
    for subcommand in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let page = clap_mangen::Man::new(subcommand.clone());
        page.render_options_section(out)?;
        page.render_extra_section(out)?;
    }
    Ok(())
}

impl SslArgs {
    /// Ends with a usage error for what clap cannot tell.
    fn check(&self) {
        if self.dry_run && !self.target.command().is_empty() {
            let what = "--dry-run cannot tell what a command will map before it has run; start the command yourself, and \
                        use --dry-run --pid";
            Cli::command().error(ErrorKind::ArgumentConflict, what).exit();
        }
    }
}

impl From<SslArgs> for Trace {
    fn from(args: SslArgs) -> Self {
        let command = args.target.command().to_vec();
        let SslArgs { target, output, limits, wait, dry_run } = args;
        let colour = match output.color {
            // A file is not looked at now.
            Color::Auto if output.output.is_some() => sink::Colour::Off,
            when if command.is_empty() => when.for_stream(&io::stdout()),
            when => when.for_stream(&io::stderr()),
        };
        Self {
            selector: target.into(),
            command,
            format: output.format,
            look: sink::Look {
                colour,
                payload: if output.hex { sink::Payload::Hex } else { sink::Payload::Auto },
            },
            output: output.output,
            count: limits.count,
            duration: limits.duration,
            max_bytes: limits.max_bytes,
            ring_bytes: limits.ring_size,
            nothing: if wait { Nothing::Wait } else { Nothing::Error },
            action: if dry_run { Action::PrintPlan } else { Action::Run },
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use clap::{CommandFactory, Parser};

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn a_command_comes_after_two_dashes_alone() {
        let parse = |words: &[&str]| match super::Cli::try_parse_from(words).map(|cli| cli.command) {
            Ok(super::Command::Ssl(args)) => Ok(super::Trace::from(*args)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.kind()),
        };
        let trace = parse(&["ctrace", "ssl", "--hex", "--", "curl", "--all", "-o", "x", "--"]).unwrap();
        assert_eq!(trace.command, ["curl", "--all", "-o", "x", "--"]);
        assert!(!trace.selector.all && trace.output.is_none());
        assert!(parse(&["ctrace", "ssl", "curl"]).is_err());
        assert!(parse(&["ctrace", "ssl", "--"]).is_err());
        assert!(parse(&["ctrace", "ssl", "--pid", "5", "--", "true"]).is_ok());
    }
}
