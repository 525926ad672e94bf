//! Where the records of a trace go: chosen, opened, and waited for when it is a FIFO that nobody reads yet.
//!
//! Owns what is said about that. Never writes a record.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use super::Failure;
use super::stop::StopSignals;
use crate::cli::Trace;
use crate::event::StopReason;
use crate::output::Destination;
use crate::stderr::say;
use crate::terminal::escaped_word;

/// How often it is looked whether a FIFO has a reader; nothing tells of one.
const LOOKING: Duration = Duration::from_millis(50);

/// Opens what `--output` names, or a standard stream: standard output belongs to a command if there is one.
/// Nothing when the trace is to end before a FIFO has a reader.
pub(super) async fn open(trace: &Trace, endings: &mut StopSignals) -> Result<Option<Destination>, Failure> {
    let Some(path) = &trace.output else {
        let stream = if trace.command.is_empty() { Destination::stdout() } else { Destination::stderr() };
        return stream.map(Some).map_err(|source| write_failure(trace, source));
    };
    if let Some(destination) = Destination::open(path)? {
        return Ok(Some(destination));
    }
    say(&format_args!("waiting for a reader of the FIFO {}", escaped_word(path.as_os_str())));
    endings.after(trace.duration);
    let end = tokio::select! {
        biased;
        end = endings.recv() => end,
        destination = with_reader(path) => {
            endings.after(None);
            return destination.map(Some);
        }
    };
    match end {
        StopReason::Duration => Err(Failure::NoReader { path: escaped_word(path.as_os_str()) }),
        end => {
            interrupted(end);
            Ok(None)
        }
    }
}

async fn with_reader(path: &Path) -> Result<Destination, Failure> {
    loop {
        sleep(LOOKING).await;
        if let Some(destination) = Destination::open(path)? {
            return Ok(destination);
        }
    }
}

/// Says that nothing was traced.
pub(super) fn interrupted(end: StopReason) {
    // A command that cannot begin has said why.
    if end != StopReason::TargetEnded {
        say(&"interrupted before anything was attached");
    }
}

/// Records cannot be written.
pub(super) fn write_failure(trace: &Trace, source: io::Error) -> Failure {
    let to = match &trace.output {
        Some(path) => escaped_word(path.as_os_str()),
        None if trace.command.is_empty() => "standard output".to_owned(),
        None => "standard error".to_owned(),
    };
    let next = match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room there, or name a file elsewhere with --output"
        }
        io::ErrorKind::FileTooLarge => {
            "raise the limit of the size of files (ulimit -f), or trace less (--max-bytes)"
        }
        _ => "name another file with --output",
    };
    Failure::Write { to, next, source }
}
