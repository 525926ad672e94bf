//! `ctrace ssl … -- COMMAND` without containers: the command, its standard streams, and a server for it to
//! talk to.

use std::env;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::child::{Child, OutputLines, PATIENCE};
use crate::ctrace::with_choices;
use crate::paths::ctrace_binary;
use crate::program::program;
use crate::trace::RunningTrace;
use crate::transfer::Transfer;

/// A TLS server on the loopback interface, outside containers and out of scope.
#[derive(Debug)]
pub struct LocalServer {
    lines: OutputLines,
    port: String,
    child: Child,
}

impl LocalServer {
    /// Starts a server that ends after `connections` connections.
    pub fn start(connections: usize) -> Result<Self> {
        let mut command = Command::new(program("tls-server")?);
        command.args(["--connections", &connections.to_string()]);
        let mut child = Child::start_with_stdout(&mut command, Stdio::piped())?;
        let mut lines = OutputLines::of(child.take_stdout().context("the server has no output")?);
        let line = lines.wait("line with the port", PATIENCE, |line| line.starts_with("listening "))?;
        let port = line.strip_prefix("listening ").context("no port")?.to_owned();
        Ok(Self { lines, port, child })
    }

    /// Where it listens.
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What the server reports to have moved, once it has served all connections.
    pub fn transfers(mut self) -> Result<Vec<Transfer>> {
        self.child.wait(PATIENCE)?;
        Transfer::all(&self.lines.rest().join("\n"))
    }
}

/// A running `ctrace` with a command. It has its own process group, as in an interactive shell.
#[derive(Debug)]
pub struct Tracing {
    child: Child,
    stdout: File,
    directory: TempDir,
}

/// The output of a `ctrace` with a command, after both ended.
#[derive(Debug)]
pub struct TracedCommand {
    /// What the command wrote to standard output.
    pub stdout: Vec<u8>,
    /// The records, standard error of both, and the exit status.
    pub trace: RunningTrace,
}

impl Tracing {
    /// Starts `ctrace ssl -o json --output FILE OPTIONS -- COMMAND`.
    pub fn start(options: &[&str], command: &[&str], stdin: impl Into<Stdio>) -> Result<Self> {
        Self::start_with(options, command, stdin, &[])
    }

    /// The same as [`Self::start`], with these variables in the environment.
    pub fn start_with(
        options: &[&str],
        command: &[&str],
        stdin: impl Into<Stdio>,
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut ctrace = Command::new(ctrace_binary()?);
        ctrace.args(with_choices(&["ssl", "-o", "json", "--output"], |variable| env::var(variable).ok()));
        ctrace.arg(directory.path().join("records"));
        if !options.contains(&"--hold-limit") {
            // Nothing is to be missed, however busy the machine is, and however slow the build.
            ctrace.args(["--hold-limit", "20s"]);
        }
        ctrace.args(options).arg("--").args(command).envs(environment.iter().copied()).process_group(0);
        let stdout = tempfile::tempfile()?;
        let child = Child::start_with_streams(&mut ctrace, stdin, stdout.try_clone()?)?;
        Ok(Self { child, stdout, directory })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child, for signals and pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends SIGINT to the foreground process group, as Ctrl-C does.
    pub fn press_ctrl_c(&self) -> Result<()> {
        let group = i32::try_from(self.id()).ok().and_then(Pid::from_raw).context("no process group")?;
        Ok(kill_process_group(group, Signal::INT)?)
    }

    /// Waits until the command has written `text`.
    pub fn wait_for(&mut self, text: &str) -> Result<()> {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let stdout = self.stdout()?;
            if String::from_utf8_lossy(&stdout).contains(text) {
                return Ok(());
            }
            ensure!(
                std::time::Instant::now() < deadline,
                "the command did not write {text:?}, but {:?}",
                String::from_utf8_lossy(&stdout)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What the command has written so far.
    pub fn stdout(&mut self) -> Result<Vec<u8>> {
        // The descriptor shares its offset with the writer, so reading needs its own open file.
        let mut reader =
            File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.stdout)))?;
        let mut bytes = Vec::new();
        reader.rewind()?;
        reader.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Waits until ctrace ends.
    pub fn wait(mut self) -> Result<TracedCommand> {
        let status = self.child.wait(PATIENCE)?;
        let stdout = self.stdout()?;
        let (_, stderr) = self.child.output()?;
        let records = fs::read(self.directory.path().join("records")).unwrap_or_default();
        Ok(TracedCommand {
            stdout,
            trace: RunningTrace { stdout: records, stderr: stderr.join("\n"), status },
        })
    }
}

impl TracedCommand {
    /// Runs a command to its end.
    pub fn run(options: &[&str], command: &[&str]) -> Result<Self> {
        Tracing::start(options, command, Stdio::null())?.wait()
    }

    /// The same as [`Self::run`], with these bytes as standard input.
    pub fn run_with_stdin(command: &[&str], stdin: &[u8]) -> Result<Self> {
        let mut file = tempfile::tempfile()?;
        file.write_all(stdin)?;
        file.rewind()?;
        Tracing::start(&[], command, file)?.wait()
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Checks that the trace is complete: it has every byte that the programs of the command report, and no
    /// other, from the first call of each connection on, and nothing was attached to too late.
    pub fn check(&self) -> Result<()> {
        self.check_streams()?;
        let late = self.attached_late()?;
        ensure!(late == 0, "{late} attached to too late; standard error:\n{}", self.trace.stderr);
        Ok(())
    }

    /// How many programs and libraries were attached to too late, as the summary says.
    pub fn attached_late(&self) -> Result<u64> {
        let summary = self.trace.summary()?;
        match summary.get("attached_late") {
            None => Ok(0),
            Some(count) => count.as_u64().filter(|count| *count > 0).with_context(|| summary.to_string()),
        }
    }

    /// Checks that the trace has every byte that the programs of the command report, and no other, from the
    /// first call of each connection on.
    pub fn check_streams(&self) -> Result<()> {
        self.trace.check_complete()?;
        let transfers = Transfer::all(&self.text())?;
        ensure!(!transfers.is_empty(), "the command moved nothing; standard error:\n{}", self.trace.stderr);
        let streams = self.trace.streams(|_| true)?;
        streams.check(&transfers)?;
        for (_, stream) in streams.iter() {
            ensure!(stream.from_start, "process {} was not seen from its first call", stream.pid);
        }
        Ok(())
    }
}
