//! The answer to "why is nothing there?": `ctrace ps`, `ctrace inspect` and `ctrace doctor`.
//!
//! Owns what is asked of the other parts, in which order, and how the answers look. It changes nothing: only
//! `doctor` touches the kernel, through [`crate::bpf`], and says so.

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

/// What the user wants explained.
#[derive(Clone, Debug)]
pub enum DiagnoseCommand {
    /// Who uses TLS.
    Ps {
        /// Among which processes.
        selector: Box<Selector>,
        /// How much of it.
        extent: Detail,
    },
    /// A container or process from all sides.
    Inspect {
        /// Which.
        subject: TargetArg,
        /// Where to ask runtimes instead of where they usually listen.
        sockets: Vec<RuntimeSocket>,
    },
    /// Whether tracing would work.
    Doctor {
        /// Of what; the machine in any case.
        subject: Option<TargetArg>,
        /// Count hits for so long.
        watch: Option<Duration>,
        /// Where to ask runtimes instead of where they usually listen.
        sockets: Vec<RuntimeSocket>,
    },
}

/// How the answer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// For a person.
    Text(Colour),
    /// One JSON object.
    Json,
}

/// There is no answer, or it is no.
#[derive(Debug, Error)]
pub enum DiagnoseError {
    /// No process can be seen.
    #[error(transparent)]
    Blind(#[from] Blind),
    /// The target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Tracing would not work on this machine.
    #[error(
        "tracing would not work here; what is in the way, and what to do about it, is said above: {checks}"
    )]
    Machine {
        /// The checks that say no.
        checks: String,
    },
    /// Nothing can be attached to.
    #[error(
        "tracing {subject:?} would show nothing: none of its processes ({processes}) can be probed; see \
             above where each of them ends, and what to do about it"
    )]
    Nothing {
        /// What was asked about.
        subject: String,
        /// How many there are.
        processes: usize,
    },
    /// Nobody takes the answer.
    #[error("the answer cannot be written to standard output; is there room where it goes to?")]
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

/// Answers on standard output; what could not be found out is said on standard error.
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

/// What a person should know of the place that the answer is from; an error where nothing can be seen from
/// it.
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

/// A reader that has gone has seen enough.
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
