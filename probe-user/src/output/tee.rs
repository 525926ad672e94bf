//! Several outputs of one trace: each record goes to every output that takes its kind.
//!
//! Owns what happens to the other outputs when one is closed or fails. It never changes a record.

use std::fmt;
use std::io;

use thiserror::Error;

use crate::event::{Output, Record, RecordKind, Summary};

/// An output could not be written. The [`io::Error`] that the tee returns contains it.
#[derive(Debug, Error)]
#[error("records cannot be written to {to}")]
pub struct WriteError {
    /// The name of the output.
    pub to: String,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// The outputs that can still be written.
#[derive(Debug, Default)]
pub struct Tee {
    outputs: Vec<NamedOutput>,
}

/// An output with its name.
#[derive(Debug)]
struct NamedOutput {
    /// Where its records go, for messages.
    to: String,
    takes: &'static [RecordKind],
    output: Box<dyn Output>,
}

impl Tee {
    /// Adds an output that goes to `to` and takes these kinds of records.
    pub fn add(&mut self, to: &impl fmt::Display, takes: &'static [RecordKind], output: Box<dyn Output>) {
        self.outputs.push(NamedOutput { to: to.to_string(), takes, output });
    }

    /// Does the same with every output. An output that has no reader any more or that failed is dropped. A
    /// reader that has gone is an error only if its output was the last one. A failure is always an error,
    /// which is returned after the other outputs were called.
    fn each(&mut self, mut act: impl FnMut(&mut NamedOutput) -> io::Result<()>) -> io::Result<()> {
        let (mut gone, mut failure) = (Vec::new(), None);
        self.outputs.retain_mut(|output| match act(output) {
            Ok(()) => true,
            Err(error) => {
                let to = std::mem::take(&mut output.to);
                if error.kind() == io::ErrorKind::BrokenPipe {
                    gone.push(to);
                } else {
                    let kind = error.kind();
                    failure.get_or_insert_with(|| io::Error::new(kind, WriteError { to, source: error }));
                }
                false
            }
        });
        if let Some(failure) = failure {
            return Err(failure);
        }
        if self.outputs.is_empty() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        for to in gone {
            tracing::warn!("nobody reads the records of {to} any more; the other outputs go on");
        }
        Ok(())
    }
}

impl Output for Tee {
    fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        let kind = record.body.kind();
        self.each(|output| if output.takes.contains(&kind) { output.output.write(record) } else { Ok(()) })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.each(|output| output.output.flush())
    }

    fn finish(&mut self, summary: &mut Summary) -> io::Result<()> {
        self.each(|output| output.output.finish(summary))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::{Arc, Mutex};

    use jiff::Timestamp;
    use probe_common::{Loss, LossCount};

    use super::*;
    use crate::event::{Body, Cleartext, Context, Lost, MissedTotal, StopReason};

    /// Records its calls, and fails after a number of them.
    #[derive(Debug)]
    struct Script {
        calls: Arc<Mutex<Vec<&'static str>>>,
        fails: Option<(usize, io::ErrorKind)>,
    }

    impl Script {
        fn call(&self, name: &'static str) -> io::Result<()> {
            let mut calls = self.calls.lock().unwrap();
            calls.push(name);
            match self.fails {
                Some((after, kind)) if calls.len() > after => Err(kind.into()),
                _ => Ok(()),
            }
        }
    }

    impl Output for Script {
        fn write(&mut self, _: &Record<'_>) -> io::Result<()> {
            self.call("write")
        }

        fn flush(&mut self) -> io::Result<()> {
            self.call("flush")
        }

        fn finish(&mut self, _: &mut Summary) -> io::Result<()> {
            self.call("finish")
        }
    }

    type Calls = Arc<Mutex<Vec<&'static str>>>;
    /// After how many calls it fails, and how. `None` if it never fails.
    type Failure = Option<(usize, io::ErrorKind)>;

    /// A tee of two outputs that fail as given, and the calls of each.
    fn tee(outputs: [(Failure, &'static [RecordKind]); 2]) -> (Tee, [Calls; 2]) {
        let mut tee = Tee::default();
        let all = outputs.map(|(fails, takes)| {
            let calls = Calls::default();
            let output = Script { calls: Arc::clone(&calls), fails };
            let number = tee.outputs.len();
            tee.add(&format_args!("output {number}"), takes, Box::new(output));
            calls
        });
        (tee, all)
    }

    fn lost() -> Record<'static> {
        let body = Body::Lost(Lost { loss: Loss::RingFull, count: LossCount { events: 1, bytes: 1 } });
        Record { context: Context::of_trace(Timestamp::UNIX_EPOCH), body }
    }

    fn summary() -> Summary {
        Summary {
            time: Timestamp::UNIX_EPOCH,
            started: Timestamp::UNIX_EPOCH,
            end: StopReason::Count,
            calls: 0,
            executions: None,
            bytes: 0,
            truncated: 0,
            lost: Vec::new(),
            undecodable: 0,
            attached_late: 0,
            missed: MissedTotal::default(),
            cleartext: Cleartext::default(),
            requests: None,
        }
    }

    fn check(calls: &Calls, expected: &[&str]) {
        assert_eq!(*calls.lock().unwrap(), expected);
    }

    #[test]
    fn every_output_has_the_records_that_it_takes() {
        let (mut tee, [first, second]) = tee([(None, RecordKind::ALL), (None, &[RecordKind::Ssl])]);
        tee.write(&lost()).unwrap();
        tee.flush().unwrap();
        tee.finish(&mut summary()).unwrap();
        check(&first, &["write", "flush", "finish"]);
        check(&second, &["flush", "finish"]);
    }

    #[test]
    fn the_others_go_on_until_the_last_has_gone() {
        let gone = |after| Some((after, io::ErrorKind::BrokenPipe));
        let (mut tee, [first, second]) = tee([(gone(0), RecordKind::ALL), (gone(2), RecordKind::ALL)]);
        tee.write(&lost()).unwrap();
        tee.write(&lost()).unwrap();
        assert_eq!(tee.write(&lost()).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(tee.finish(&mut summary()).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        check(&first, &["write"]);
        check(&second, &["write"; 3]);
    }

    #[test]
    fn a_failed_output_is_named_and_the_others_are_finished() {
        let full = Some((1, io::ErrorKind::StorageFull));
        let (mut tee, [first, second]) = tee([(full, RecordKind::ALL), (None, RecordKind::ALL)]);
        tee.write(&lost()).unwrap();
        let error = tee.write(&lost()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let error = error.downcast::<WriteError>().unwrap();
        assert_eq!((error.to.as_str(), error.source.kind()), ("output 0", io::ErrorKind::StorageFull));
        tee.finish(&mut summary()).unwrap();
        check(&first, &["write"; 2]);
        check(&second, &["write", "write", "finish"]);
    }
}
