//! The answer to "why is nothing there?": `ctrace ps`, `ctrace inspect` and `ctrace doctor`.
//!
//! Owns what is asked of the other parts, in which order, and how the answers look. It changes nothing: only
//! `doctor` touches the kernel, through [`crate::session`], and says so.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use crate::sink::{self, Colour};
use crate::stderr::say;
use crate::target::view::{self, Blind};
use crate::target::{RuntimeSocket, Selector, TargetError};

pub mod doctor;
mod home;
pub mod inspect;
pub mod ps;
mod subject;
mod table;

use doctor::Diagnosis;
pub use home::Home;
use inspect::Inspection;
use ps::Extent;
pub use subject::Subject;

/// What the user wants explained.
#[derive(Clone, Debug)]
pub enum Question {
    /// Who uses TLS.
    Ps {
        /// Among which processes.
        selector: Box<Selector>,
        /// How much of it.
        extent: Extent,
    },
    /// A container or process from all sides.
    Inspect {
        /// Which.
        subject: Subject,
        /// Where to ask runtimes instead of where they usually listen.
        sockets: Vec<RuntimeSocket>,
    },
    /// Whether tracing would work.
    Doctor {
        /// Of what; the machine in any case.
        subject: Option<Subject>,
        /// Count hits for so long.
        watch: Option<Duration>,
        /// Where to ask runtimes instead of where they usually listen.
        sockets: Vec<RuntimeSocket>,
    },
}

/// How the answer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For a person.
    Text(Colour),
    /// One JSON object.
    Json,
}

/// There is no answer, or it is no.
#[derive(Debug, Error)]
pub enum ExplainError {
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

impl ExplainError {
    /// The exit status that README.md promises.
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
pub async fn answer(question: &Question, form: Form) -> Result<(), ExplainError> {
    match question {
        Question::Ps { selector, extent } => {
            let from_here = from_here()?;
            let listing = ps::list(selector, *extent).await?;
            write(&listing, form, |colour| listing.text(*extent, colour))?;
            remark(&[from_here, listing.remarks()].concat());
            Ok(())
        }
        Question::Inspect { subject, sockets } => {
            let from_here = from_here()?;
            let inspection = Inspection::of(subject, sockets).await?;
            write(&inspection, form, |colour| inspection.text(colour))?;
            remark(&[from_here, inspection.remarks()].concat());
            Ok(())
        }
        Question::Doctor { subject, watch, sockets } => {
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

fn remark(lines: &[String]) {
    for line in lines {
        say(&sink::escaped(line));
    }
}

/// A reader that has gone has seen enough.
fn write<T: Serialize>(
    answer: &T,
    form: Form,
    text: impl FnOnce(Colour) -> String,
) -> Result<(), ExplainError> {
    let mut out = io::stdout().lock();
    let written = match form {
        Form::Json => sink::write_json(answer, &mut out),
        Form::Text(colour) => out.write_all(text(colour).as_bytes()),
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(ExplainError::Write(error)),
        _ => Ok(()),
    }
}
