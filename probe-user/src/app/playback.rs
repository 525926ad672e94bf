//! `--read`: plays back a recording instead of tracing. Needs neither root nor a kernel: records are read
//! from it and written to the outputs.
//!
//! Owns the order of the steps and the end. The recording is read on a separate thread, because a read from
//! standard input may block forever; what ends a trace ends a playback too. The recording is never written
//! to.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread;

use jiff::Timestamp;
use lru::LruCache;
use probe_common::{Loss, LossCount};
use tokio::sync::mpsc;

use super::stop::StopSignals;
use super::{Failure, destination, status};
use crate::cli::{Playback, Verbosity};
use crate::event::{Body, Cleartext, Context, Output, Ssl, StopReason, Summary};
use crate::output::Destination;
use crate::pipeline::MissedCount;
use crate::recording::{ReadCounts, Recorded, RecordingReader};
use crate::stderr::say;
use crate::terminal::escaped_word;

/// The most records in a batch, and the most bytes of payload.
const BATCH: (usize, usize) = (256, 256 * 1024);
/// The most batches that wait to be written.
const WAITING: usize = 2;
/// The most threads whose last call is remembered, so that a call in several records is counted once.
const THREADS: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

/// What the reading thread sends.
enum Read {
    Records(Vec<Recorded>),
    End(ReadCounts),
    Failed(io::Error),
}

/// Plays back a recording until it ends, or until there is one of the reasons that end a trace.
pub(super) async fn run(playback: &Playback, verbosity: Verbosity) -> Result<(), Failure> {
    let failed = |source| Failure::Recording { path: shown(&playback.path), source };
    let mut endings = StopSignals::new(None).map_err(Failure::Signals)?;
    let stdin = playback.reads_stdin().then(|| io::stdin().as_fd().try_clone_to_owned()).transpose();
    let stdin = stdin.map_err(failed)?.map(File::from);
    if stdin.as_ref().is_some_and(io::IsTerminal::is_terminal) {
        return Err(Failure::RecordingTerminal);
    }
    let opened = destination::open(&playback.outputs, playback.duration, &mut endings).await?;
    let Some(destinations) = opened else { return Ok(()) };
    // Before any file is truncated.
    let metadata =
        stdin.as_ref().map_or_else(|| fs::metadata(&playback.path), File::metadata).map_err(failed)?;
    if destinations.iter().any(|destination| destination.is_file_of(&metadata).unwrap_or(false)) {
        return Err(Failure::RecordingOverwritten { path: shown(&playback.path) });
    }
    destinations.iter().try_for_each(Destination::claim)?;
    endings.after(playback.duration);
    endings.watch_readers(&destinations);
    let output = destination::tee(&playback.outputs, destinations, &endings.stop());
    let output = destination::decoded(output, playback.requests.as_ref());
    let mut player = Player::new(output, playback.limit);
    let outcome = play(&mut player, read(playback, stdin), &mut endings).await;
    let (end, counts) = match outcome {
        Ok(ended) => ended,
        Err(error) => {
            // The outputs that still work are completed. The error is reported, but not a second one of
            // another output.
            let _ = player.finish(error.reason());
            return Err(match error {
                PlayError::Read(source) => failed(source),
                PlayError::Write(source) => destination::write_failure(source),
            });
        }
    };
    if let Some(counts) = &counts {
        report_skipped(counts, &shown(&playback.path), verbosity)?;
    }
    let summary = player.finish(end).map_err(destination::write_failure)?;
    status::ended(&summary, &playback.outputs, verbosity);
    Ok(())
}

fn shown(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { escaped_word(path.as_os_str()) }
}

enum PlayError {
    Read(io::Error),
    Write(io::Error),
}

impl PlayError {
    fn reason(&self) -> StopReason {
        match self {
            Self::Read(_) => StopReason::RecordingEnded,
            Self::Write(_) => StopReason::OutputFailed,
        }
    }
}

/// Writes records until the end. Returns what was counted if the recording was read to its end.
async fn play(
    player: &mut Player,
    mut reads: mpsc::Receiver<Read>,
    endings: &mut StopSignals,
) -> Result<(StopReason, Option<ReadCounts>), PlayError> {
    loop {
        let read = tokio::select! {
            biased;
            end = endings.recv() => return Ok((end, None)),
            read = reads.recv() => read,
        };
        let records = match read {
            Some(Read::Records(records)) => records,
            Some(Read::End(counts)) => return Ok((StopReason::RecordingEnded, Some(counts))),
            Some(Read::Failed(source)) => return Err(PlayError::Read(source)),
            // The thread sends its result before it ends.
            None => return Ok((StopReason::RecordingEnded, None)),
        };
        match player.records(&records) {
            Ok(false) => {}
            Ok(true) => return Ok((StopReason::Count, None)),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok((StopReason::OutputClosed, None));
            }
            Err(source) => return Err(PlayError::Write(source)),
        }
    }
}

/// Starts the thread that reads.
fn read(playback: &Playback, stdin: Option<File>) -> mpsc::Receiver<Read> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let path = playback.path.clone();
    let failures = sender.clone();
    let body = move || {
        let end = match stdin.map_or_else(|| File::open(&path), Ok).and_then(|file| read_all(file, &sender)) {
            Ok(counts) => Read::End(counts),
            Err(error) => Read::Failed(error),
        };
        // If playback has ended for another reason, nobody receives this.
        let _ = sender.blocking_send(end);
    };
    // The thread is not joined, because it may still be waiting for standard input when everything else has
    // ended.
    if let Err(error) = thread::Builder::new().name("recording".to_owned()).spawn(body) {
        let _ = failures.try_send(Read::Failed(error));
    }
    receiver
}

fn read_all(file: File, sender: &mpsc::Sender<Read>) -> io::Result<ReadCounts> {
    let mut reader = RecordingReader::new(BufReader::with_capacity(BATCH.1, file));
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while let Some(recorded) = reader.next_record()? {
        if let Recorded::Record(record) = &recorded
            && let Body::Ssl(ssl) = &record.body
        {
            bytes += ssl.data.0.len();
        }
        batch.push(recorded);
        if batch.len() >= BATCH.0 || bytes >= BATCH.1 || reader.may_wait() {
            bytes = 0;
            if sender.blocking_send(Read::Records(std::mem::take(&mut batch))).is_err() {
                return Ok(reader.counts().clone());
            }
        }
    }
    if !batch.is_empty() {
        let _ = sender.blocking_send(Read::Records(batch));
    }
    Ok(reader.counts().clone())
}

/// Prints what was left out. A file without any record is not a recording.
fn report_skipped(counts: &ReadCounts, path: &str, verbosity: Verbosity) -> Result<(), Failure> {
    let ReadCounts { records, bad, first_bad, others, unknown_fields, .. } = counts;
    if let Some((line, why)) = first_bad {
        if *records == 0 && *others == 0 {
            return Err(Failure::NoRecording { path: path.to_owned(), line: *line, why: why.clone() });
        }
        let more = match bad - 1 {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        tracing::warn!("skipped line {line} of {path}, which is not a record: {why}{more}");
    }
    if verbosity > Verbosity::Quiet && *others > 0 {
        say(&format_args!("skipped in {path}: {others} records of other types or another version"));
    }
    if verbosity > Verbosity::Quiet && *unknown_fields > 0 {
        say(&format_args!(
            "ignored in {path}: {unknown_fields} fields that this version of ctrace does not have"
        ));
    }
    Ok(())
}

/// What distinguishes a call from the others of its thread, and is the same in all parts of the call: its
/// time, its connection, and its number there.
type CallIdentity = (Timestamp, Option<(u64, u64)>);

/// Writes records to the outputs, and counts for the summary.
struct Player {
    output: Box<dyn Output>,
    limit: Option<u64>,
    /// The last call of each thread.
    last_calls: LruCache<Option<u32>, CallIdentity>,
    /// The recording's own summary, if there is exactly one and it is the last record.
    summary: Option<Summary>,
    summaries: u64,
    began: Option<Timestamp>,
    ended: Option<Timestamp>,
    calls: u64,
    bytes: u64,
    truncated: u64,
    lost: Vec<(Loss, LossCount)>,
    missed: MissedCount,
}

impl Player {
    fn new(output: Box<dyn Output>, limit: Option<u64>) -> Self {
        let mut last_calls = LruCache::unbounded();
        last_calls.resize(THREADS);
        Self {
            output,
            limit,
            last_calls,
            summary: None,
            summaries: 0,
            began: None,
            ended: None,
            calls: 0,
            bytes: 0,
            truncated: 0,
            lost: Loss::ALL.map(|loss| (loss, LossCount::default())).to_vec(),
            missed: MissedCount::default(),
        }
    }

    /// Writes records. Returns whether the requested number of calls has been written.
    fn records(&mut self, records: &[Recorded]) -> io::Result<bool> {
        for recorded in records {
            let time = match recorded {
                Recorded::Record(record) => record.context.time,
                Recorded::Summary(summary) => summary.time,
            };
            self.began.get_or_insert(time);
            self.ended = self.ended.max(Some(time));
            self.summary = None;
            let record = match recorded {
                Recorded::Record(record) => record,
                Recorded::Summary(summary) => {
                    self.summaries += 1;
                    self.summary = Some((**summary).clone());
                    continue;
                }
            };
            let mut is_complete = false;
            match &record.body {
                Body::Ssl(ssl) => match self.count(&record.context, ssl) {
                    Some(is_last) => is_complete = is_last,
                    None => return self.output.flush().map(|()| true),
                },
                Body::Lost(lost) => {
                    for (_, sum) in self.lost.iter_mut().filter(|(loss, _)| *loss == lost.loss) {
                        sum.events = sum.events.saturating_add(lost.count.events);
                        sum.bytes = sum.bytes.saturating_add(lost.count.bytes);
                    }
                }
                Body::Missed(missed) => self.missed.add(&record.context, missed),
                _ => {}
            }
            self.output.write(record)?;
            if is_complete || self.output.is_complete() {
                return self.output.flush().map(|()| true);
            }
        }
        self.output.flush().map(|()| false)
    }

    /// Counts a call, or a part of one. None if it is beyond the limit. Otherwise, whether it completes the
    /// last call within the limit.
    fn count(&mut self, context: &Context<'_>, ssl: &Ssl<'_>) -> Option<bool> {
        let is_full = self.limit.is_some_and(|limit| self.calls >= limit);
        let thread = context.thread().map(|(_, thread)| thread.id);
        let connection = context.connection.as_ref().map(|connection| connection.id);
        let identity = (context.time, connection.zip(ssl.position.map(|position| position.call)));
        if self.last_calls.put(thread, identity) != Some(identity) {
            if is_full {
                return None;
            }
            self.calls += 1;
            self.truncated += u64::from(u64::from(ssl.captured) < ssl.length);
        }
        let length = ssl.data.0.len() as u64;
        self.bytes = self.bytes.saturating_add(length);
        // No later record has captured bytes of the call.
        let is_end = u64::from(ssl.offset).saturating_add(length) >= u64::from(ssl.captured);
        Some(is_end && self.limit.is_some_and(|limit| self.calls >= limit))
    }

    /// Finishes the outputs with the recording's own summary if all of it was shown, otherwise with a summary
    /// of what was shown.
    fn finish(mut self, end: StopReason) -> io::Result<Summary> {
        let own = self.summary.take().filter(|_| end == StopReason::RecordingEnded && self.summaries == 1);
        let time = self.ended.unwrap_or_default();
        let mut summary = own.unwrap_or(Summary {
            time,
            started: self.began.unwrap_or(time),
            end,
            calls: self.calls,
            executions: None,
            bytes: self.bytes,
            truncated: self.truncated,
            lost: self.lost,
            undecodable: 0,
            attached_late: self.missed.late(),
            missed: self.missed.total(),
            cleartext: Cleartext::default(),
            requests: None,
        });
        if end == StopReason::OutputClosed {
            return Ok(summary);
        }
        match self.output.finish(&mut summary) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                summary.end = StopReason::OutputClosed;
                Ok(summary)
            }
            other => other.map(|()| summary),
        }
    }
}
