//! For the tests of bodies: a line that is written and read back.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use jiff::Timestamp;
use serde::Serialize;

use super::line::{self, LineBody};
use super::{Recorded, read};
use crate::event::{Body, Containment, Context, Process, ProcessContext, Thread};

/// The text of a line of a process outside containers, and the body that is read back from it.
pub(super) fn round_trip<B: LineBody + Serialize>(body: &B) -> (String, Body<'static>) {
    let process = Process { pid: 7, vpid: None, executable: None, entered: None };
    let process = ProcessContext { process, container: Containment::Host };
    let thread = Thread { id: 8, comm: *b"node\0\0\0\0\0\0\0\0\0\0\0\0" };
    let context = Context::of_thread(Timestamp::UNIX_EPOCH, &process, thread);
    let mut written = Vec::new();
    line::write(&context, body, &mut written).unwrap();
    let text = String::from_utf8_lossy(&written).into_owned();
    match read(&written).unwrap() {
        (Recorded::Record(record), 0) => (text, record.body),
        other => panic!("{other:?}"),
    }
}
