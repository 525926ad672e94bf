//! The command line: turns the user's words into an [`Operation`]. Only this room uses clap.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::builder::Styles;
use clap::{ArgAction, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::bpf::ProbeLink;
use crate::diagnose::{DiagnoseCommand, OutputFormat};
use crate::output::{FormatKind, OutputPath, OutputSpec};
use crate::pipeline::requests::RequestSettings;
use crate::probe::Probe;
use crate::scope::Selector;
use crate::terminal;

mod attach;
mod choice;
mod diagnose;
mod exec;
mod output;
mod requests;
mod selection;
mod ssl;
mod tls_trace;
mod trace;
mod uprobe;
mod value;

/// What the user asks for.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Trace.
    Trace(Box<Trace>),
    /// Show a recording.
    Read(Box<Playback>),
    /// Explain what is there, and why something is not.
    Explain(DiagnoseCommand, OutputFormat),
    /// Print the JSON Schema of the records.
    Schema,
    /// Print the completion script of a shell.
    Completion(Shell),
    /// Print the manual page.
    Manual,
}

/// The settings of a trace.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What to trace.
    pub probe: Probe,
    /// The containers and processes to trace.
    pub selector: Selector,
    /// A command to start and trace with all its descendants; empty if there is none.
    pub command: Vec<OsString>,
    /// How long a program of the command may be held at its start. None: it never is.
    pub hold_limit: Option<Duration>,
    /// The outputs: the format and destination of each. No two have the same destination.
    pub outputs: Vec<OutputSpec>,
    /// Stop after this number of records (of ssl: calls).
    pub limit: Option<u64>,
    /// Stop after this time.
    pub duration: Option<Duration>,
    /// How often to print counters.
    pub interval: Option<Duration>,
    /// What is shown of the requests that calls are made of. None: the calls are shown.
    pub requests: Option<RequestSettings>,
    /// Where the names of what is in their bodies come from.
    pub proto: ProtoFiles,
    /// Payload bytes to capture per call.
    pub max_bytes: u32,
    /// The size of the ring buffer in bytes.
    pub ring_bytes: u32,
    /// How programs are attached to functions.
    pub probe_link: ProbeLink,
    /// What to do when there is nothing to attach to.
    pub on_no_match: OnNoMatch,
    /// Whether to act, or to print what would be done.
    pub action: Action,
}

/// A recording: which, how much of it, to where.
#[derive(Clone, Debug)]
pub struct Playback {
    /// Its file; `-` is standard input.
    pub path: PathBuf,
    /// How records are written, and where they go; each to another place.
    pub outputs: Vec<OutputSpec>,
    /// What is shown of the requests that calls are made of. None: the calls are shown.
    pub requests: Option<RequestSettings>,
    /// Where the names of what is in their bodies come from.
    pub proto: ProtoFiles,
    /// End after so many calls.
    pub limit: Option<u64>,
    /// End after this time.
    pub duration: Option<Duration>,
}

/// Schemas of protocol buffers.
#[derive(Clone, Debug, Default)]
pub struct ProtoFiles {
    /// Sources and descriptor sets.
    pub files: Vec<PathBuf>,
    /// Where sources are searched that these import. If a file is in none of them, its directory is searched
    /// as well.
    pub directories: Vec<PathBuf>,
}

impl Playback {
    /// Whether it is standard input.
    pub fn reads_stdin(&self) -> bool {
        self.path == Path::new("-")
    }
}

/// What to do when there is nothing to attach to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNoMatch {
    /// Print the reason and stop, unless the selection includes containers or processes that start later.
    Error,
    /// Wait until there is something.
    Wait,
}

impl Trace {
    /// Whether standard error carries records that another program reads.
    pub fn shares_stderr(&self) -> bool {
        self.outputs
            .iter()
            .any(|output| output.path == OutputPath::Stderr && output.format.kind != FormatKind::Text)
    }
}

/// Whether to trace, or only to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Attach and print records.
    Run,
    /// Print the plan as JSON.
    PrintPlan,
    /// Print the functions that would be probed, for a person or a program.
    List(FormatKind),
}

/// What is written to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Warnings, what is attached, and the summary.
    Normal,
    /// Also what is done and what is skipped.
    Verbose,
    /// Everything, including the log of the BPF programs.
    Debug,
}

/// The parsed command line.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// What to do.
    pub operation: Operation,
    /// What to write to standard error meanwhile.
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
    /// Print more to standard error (-vv: everything, including the log of the BPF programs)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Print only errors to standard error, and when tracing has started
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

const EXIT_STATUS: &str = "\
Exit status: 0 success (also after Ctrl-C, a closed pipe, or the end of the traced processes);
1 failure; 2 usage error; 3 nothing matched, or nothing to attach to; 4 not permitted, or not
supported by the kernel. With a command: its own status, 128 + its signal, 126 if it cannot be
executed, 127 if it is not found.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the plaintext of TLS connections
    Ssl(Box<ssl::SslArgs>),
    /// Show the requests of TLS connections with their responses: HTTP/1, HTTP/2, gRPC, WebSocket
    Requests(Box<requests::RequestsArgs>),
    /// Show calls of any function of any library or executable: arguments, return value, duration
    Uprobe(Box<uprobe::UprobeArgs>),
    /// Show the programs that are executed
    Exec(Box<exec::ExecArgs>),
    /// List the processes that use TLS, and whether ctrace can trace them
    Ps(Box<diagnose::PsArgs>),
    /// Show everything about a container or process: files, layers, mounts, namespaces, processes, TLS
    Inspect(diagnose::InspectArgs),
    /// Check whether tracing works on this machine or for a container, and explain why not
    Doctor(diagnose::DoctorArgs),
    /// Print the JSON Schema of the records that `-o json` writes
    Schema,
    /// Print a completion script: `ctrace completion bash > /etc/bash_completion.d/ctrace`
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page: `ctrace man | man -l -`
    Man,
}

/// Parses the arguments of this process. On --help, --version or a usage error, prints and exits (0 or 2).
pub fn parse() -> Invocation {
    let cli = parsed(&std::env::args_os().collect::<Vec<_>>()).unwrap_or_else(|error| error.exit());
    let verbosity = match (cli.quiet, cli.verbose) {
        (true, _) => Verbosity::Quiet,
        (false, 0) => Verbosity::Normal,
        (false, 1) => Verbosity::Verbose,
        (false, _) => Verbosity::Debug,
    };
    let operation = match cli.command {
        Command::Ssl(args) => args.operation(),
        Command::Requests(args) => args.operation(),
        Command::Uprobe(args) => Operation::Trace(Box::new(args.trace())),
        Command::Exec(args) => Operation::Trace(Box::new(args.trace())),
        Command::Ps(args) => explain(args.command()),
        Command::Inspect(args) => explain(args.command()),
        Command::Doctor(args) => explain(args.command()),
        Command::Schema => Operation::Schema,
        Command::Completion { shell } => Operation::Completion(shell),
        Command::Man => Operation::Manual,
    };
    let verbosity = match &operation {
        // Standard error carries records for another program, so nothing else is written there unless
        // requested.
        Operation::Trace(trace) if trace.shares_stderr() => verbosity_among_records(verbosity),
        _ => verbosity,
    };
    Invocation { operation, verbosity }
}

/// Parses words. An error message quotes them, so whatever they contain must not control the terminal.
fn parsed(words: &[OsString]) -> Result<Cli, clap::Error> {
    let error = match Cli::try_parse_from(words) {
        Err(error) if error.use_stderr() => error,
        other => return other,
    };
    let harmless: Vec<String> = words.iter().map(|word| terminal::escaped_word(word)).collect();
    if words.iter().zip(&harmless).all(|(word, harmless)| word == harmless.as_str()) {
        return Err(error);
    }
    // Escaped words are wrong in the same way, so clap's message about them is the same, in its own styles.
    match Cli::try_parse_from(harmless) {
        Err(escaped) if escaped.kind() == error.kind() => Err(escaped),
        // Only the words that are not UTF-8 are wrong, and escaped ones are not: report that without quoting
        // them.
        _ => Err(Cli::command().error(error.kind(), "an argument is not valid UTF-8")),
    }
}

fn explain((command, form): (DiagnoseCommand, OutputFormat)) -> Operation {
    Operation::Explain(command, form)
}

fn verbosity_among_records(requested: Verbosity) -> Verbosity {
    if requested == Verbosity::Normal { Verbosity::Quiet } else { requested }
}

/// Writes the completion script for `shell`.
pub fn write_completion(shell: Shell, out: &mut dyn io::Write) -> io::Result<()> {
    // Generate it in memory first: clap_complete panics when a pipe is closed.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ctrace", &mut script);
    out.write_all(&script)
}

/// Writes the manual page of ctrace, including its commands.
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;

    use clap::{CommandFactory, Parser};

    use super::{Cli, Operation, OutputPath, parsed};

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_a_usage_error_shows_is_escaped() {
        let check = |hostile: &[u8], expected: &str| {
            let words = [b"ctrace", b"ssl".as_slice(), b"--all", hostile];
            let words: Vec<_> = words.iter().map(|word| OsString::from_vec(word.to_vec())).collect();
            let error = parsed(&words).unwrap_err();
            let (styled, plain) = (error.render().ansi().to_string(), error.to_string());
            assert!(plain.contains(expected), "{hostile:?}: {plain}");
            let controls = plain.chars().filter(|c| c.is_control() && *c != '\n');
            assert_eq!(controls.count(), 0, "{plain:?}");
            // The only escape sequences are clap's own styles.
            assert!(!styled.contains("\u{1b}[2J") && !styled.contains('\u{7}'), "{styled:?}");
        };
        check(b"--\x1b[2Jx", "--\\x1b[2Jx");
        check(b"\x1b]0;x\x07", "\\x1b]0;x\\x07");
        check(b"--duration=\x1b[2J", "\\x1b[2J");
        check(b"--count=\x9b", "an argument is not valid UTF-8");
        check(b"--count=a\nb", "a\\nb");
        check("--count=\u{9b}2J".as_bytes(), "\\u{009b}2J");
        check(b"--nonsense", "--nonsense");
    }

    #[test]
    fn a_command_comes_after_two_dashes_alone() {
        let parse = |words: &[&str]| match Cli::try_parse_from(words).map(|cli| cli.command) {
            Ok(super::Command::Ssl(args)) => match args.operation() {
                Operation::Trace(trace) => Ok(trace),
                other => panic!("{other:?}"),
            },
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.kind()),
        };
        let trace = parse(&["ctrace", "ssl", "--hex", "--", "curl", "--all", "-o", "x", "--"]).unwrap();
        assert_eq!(trace.command, ["curl", "--all", "-o", "x", "--"]);
        assert!(
            !trace.selector.all
                && matches!(trace.outputs.as_slice(), [only] if only.path == OutputPath::Stderr)
        );
        assert!(parse(&["ctrace", "ssl", "curl"]).is_err());
        assert!(parse(&["ctrace", "ssl", "--"]).is_err());
        assert!(parse(&["ctrace", "ssl", "--pid", "5", "--", "true"]).is_ok());
    }
}
