//! The answer to "why is nothing there?": `ctrace ps`, `ctrace inspect` and `ctrace doctor`.
//!
//! Owns the questions to the other parts, their order, and the display of the answers. Nothing is changed:
//! only `doctor` touches the kernel, through [`crate::bpf`], and says so.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use crate::container::runtime::RuntimeSocket;
use crate::output;
use crate::proc::view::{self, Blind};
use crate::scope::{Selector, TargetError};
use crate::stderr::say;
use crate::terminal::{self, Colour};

mod container_field;
pub mod doctor;
pub mod inspect;
pub mod ps;
mod subject;

pub use container_field::ContainerField;
use doctor::Diagnosis;
use inspect::Inspection;
use ps::Detail;
pub use subject::TargetArg;

/// What the user wants to see.
#[derive(Clone, Debug)]
pub enum DiagnoseCommand {
    /// Lists the processes that use TLS.
    Ps {
        /// The processes to inspect.
        selector: Box<Selector>,
        /// How much to list.
        extent: Detail,
    },
    /// Shows a container or process from all sides.
    Inspect {
        /// The container or process.
        subject: TargetArg,
        /// Sockets that replace the usual ones of their runtimes.
        sockets: Vec<RuntimeSocket>,
    },
    /// Checks whether tracing would work.
    Doctor {
        /// The container or process to check, besides the machine.
        subject: Option<TargetArg>,
        /// How long to count hits of probes.
        watch: Option<Duration>,
        /// Sockets that replace the usual ones of their runtimes.
        sockets: Vec<RuntimeSocket>,
    },
}

/// The format of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// Text for people.
    Text(Colour),
    /// One JSON object.
    Json,
}

/// Why there is no answer, or that the answer is no.
#[derive(Debug, Error)]
pub enum DiagnoseError {
    /// ctrace cannot see any process.
    #[error(transparent)]
    Blind(#[from] Blind),
    /// The target could not be resolved.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Tracing would not work on this machine.
    #[error("tracing would not work here; these checks failed (see above for what to do): {checks}")]
    Machine {
        /// The names of the checks that failed.
        checks: String,
    },
    /// There is nothing to attach to.
    #[error(
        "tracing {subject:?} would show nothing: none of its processes ({processes}) can be probed; see \
         above which step fails for each, and what to do"
    )]
    Nothing {
        /// The container or process, as the user named it.
        subject: String,
        /// The number of its processes.
        processes: usize,
    },
    /// The answer could not be written.
    #[error("the answer cannot be written to standard output; check for free space where it goes")]
    Write(#[source] io::Error),
}

impl DiagnoseError {
    /// The exit status that docs/output.md promises.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Target(error) => error.kind().exit_status(),
            Self::Blind(_) | Self::Machine { .. } => 4,
            Self::Nothing { .. } => 3,
            Self::Write(_) => 1,
        }
    }
}

/// Writes the answer to standard output, and what could not be found out to standard error.
pub async fn run(question: &DiagnoseCommand, form: OutputFormat) -> Result<(), DiagnoseError> {
    match question {
        DiagnoseCommand::Ps { selector, extent } => {
            let from_here = from_here()?;
            let listing = ps::list(selector, *extent).await?;
            write(&listing, form, |colour| listing.text(*extent, colour))?;
            note(&[from_here, listing.remarks()].concat());
            Ok(())
        }
        DiagnoseCommand::Inspect { subject, sockets } => {
            let from_here = from_here()?;
            let inspection = Inspection::of(subject, sockets).await?;
            write(&inspection, form, |colour| inspection.text(colour))?;
            note(&[from_here, inspection.remarks()].concat());
            Ok(())
        }
        DiagnoseCommand::Doctor { subject, watch, sockets } => {
            let diagnosis = Diagnosis::of(subject.as_ref(), *watch, sockets).await?;
            write(&diagnosis, form, |colour| diagnosis.text(colour))?;
            diagnosis.verdict()
        }
    }
}

/// Remarks about what ctrace can see from where it runs. An error if it can see nothing.
fn from_here() -> Result<Vec<String>, Blind> {
    match view::processes() {
        Ok(()) => Ok(Vec::new()),
        Err(Blind::NoProc) => Err(Blind::NoProc),
        Err(blind) => Ok(vec![blind.to_string()]),
    }
}

fn note(lines: &[String]) {
    for line in lines {
        say(&terminal::escaped(line));
    }
}

/// Writes the answer. A closed pipe is fine: its reader has seen enough.
fn write<T: Serialize>(
    answer: &T,
    form: OutputFormat,
    text: impl FnOnce(Colour) -> String,
) -> Result<(), DiagnoseError> {
    let mut out = io::stdout().lock();
    let written = match form {
        OutputFormat::Json => output::write_json(answer, &mut out),
        OutputFormat::Text(colour) => out.write_all(text(colour).as_bytes()),
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(DiagnoseError::Write(error)),
        _ => Ok(()),
    }
}
