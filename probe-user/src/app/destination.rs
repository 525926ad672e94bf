//! Where the records of a trace go: opens each destination, and waits while it is a FIFO without a reader.
//!
//! Owns the messages about that. Never writes a record.

use std::io;
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::time::sleep;

use super::Failure;
use super::stop::StopSignals;
use crate::event::{Output, StopReason};
use crate::output::{
    self, Destination, DestinationError, OutputPath, OutputSpec, RecordWriter, StopFlag, Tee, WriteError,
};
use crate::pipeline::requests::{RequestLimits, RequestSettings, Requests};
use crate::protocol;
use crate::stderr::say;

/// How often a FIFO is checked for a reader. There is no event for it.
const LOOKING: Duration = Duration::from_millis(50);

/// Opens the destination of each output. None if the trace ends before a FIFO has a reader.
pub(super) async fn open(
    outputs: &[OutputSpec],
    duration: Option<Duration>,
    endings: &mut StopSignals,
) -> Result<Option<Vec<Destination>>, Failure> {
    let mut destinations: Vec<Destination> = Vec::new();
    for OutputSpec { path, format, .. } in outputs {
        let Some(destination) = open_one(path, duration, endings).await? else { return Ok(None) };
        destination.check_kind(format.kind)?;
        let is_open = |other| destination.is_same_file(other).unwrap_or(false);
        if destinations.iter().any(is_open) {
            return Err(DestinationError::SameFile { path: path.to_string() }.into());
        }
        destinations.push(destination);
    }
    Ok(Some(destinations))
}

async fn open_one(
    path: &OutputPath,
    duration: Option<Duration>,
    endings: &mut StopSignals,
) -> Result<Option<Destination>, Failure> {
    if let Some(destination) = path.open()? {
        return Ok(Some(destination));
    }
    say(&format_args!("waiting for a reader of the FIFO {path}"));
    endings.after(duration);
    let end = tokio::select! {
        biased;
        end = endings.recv() => end,
        destination = with_reader(path) => {
            endings.after(None);
            return destination.map(Some);
        }
    };
    match end {
        StopReason::Duration => Err(Failure::NoReader { path: path.to_string() }),
        end => {
            interrupted(end);
            Ok(None)
        }
    }
}

async fn with_reader(path: &OutputPath) -> Result<Destination, Failure> {
    loop {
        sleep(LOOKING).await;
        if let Some(destination) = path.open()? {
            return Ok(destination);
        }
    }
}

/// Combines the outputs of a trace with the destinations that were opened and claimed for them. Readers that
/// do not read are waited for until `stop`.
pub(super) fn tee(outputs: &[OutputSpec], destinations: Vec<Destination>, stop: &StopFlag) -> Tee {
    let mut tee = Tee::default();
    for (OutputSpec { format, style, path }, destination) in outputs.iter().zip(destinations) {
        let options = output::Options { look: *style, zone: TimeZone::system() };
        let writer = RecordWriter::to(destination, stop.clone());
        tee.add(path, format.takes, (format.open)(writer, options));
    }
    tee
}

/// Decodes calls before they go to an output, if requests are to be shown.
pub(super) fn decoded(output: Tee, requests: Option<&RequestSettings>) -> Box<dyn Output> {
    match requests {
        None => Box::new(output),
        Some(settings) => Box::new(Requests::new(
            protocol::ALL,
            settings.clone(),
            RequestLimits::default(),
            Box::new(output),
        )),
    }
}

/// Prints that nothing was traced.
pub(super) fn interrupted(end: StopReason) {
    // A command that cannot begin has reported the reason itself.
    if end != StopReason::TargetEnded {
        say(&"interrupted before anything was attached");
    }
}

/// Converts the error of a write, with the destination and the next step.
pub(super) fn write_failure(error: io::Error) -> Failure {
    let (to, source) = match error.downcast::<WriteError>() {
        Ok(WriteError { to, source }) => (to, source),
        Err(error) => ("an output".to_owned(), error),
    };
    let next = match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space there, or name a file elsewhere with --output"
        }
        io::ErrorKind::FileTooLarge => "raise the file size limit (ulimit -f), or capture less (--max-bytes)",
        _ => "name another file with --output",
    };
    Failure::Write { to, next, source }
}
