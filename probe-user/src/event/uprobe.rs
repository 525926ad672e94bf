//! Records of `ctrace uprobe`: calls of functions, and how many and how long they were.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use probe_common::BUCKETS;

use super::{Containment, Library, Plaintext, ProcessContext, Thread};

/// A call of a function.
#[derive(Clone, Debug)]
pub struct UprobeCall<'a> {
    /// When it began.
    pub time: Timestamp,
    /// Process and container.
    pub origin: Cow<'a, ProcessContext>,
    /// The thread, as the call began.
    pub thread: Thread,
    /// The goroutine, by the address of what Go's runtime knows of it; none outside of Go.
    pub goroutine: Option<u64>,
    /// The object that has the function.
    pub object: Cow<'a, Library>,
    /// The function.
    pub function: Cow<'a, str>,
    /// What it was called with, as far as that was asked for; none if the beginning was not seen.
    pub arguments: Option<Vec<Argument<'a>>>,
    /// Its end, if that was asked for.
    pub end: CallOutcome<'a>,
    /// Where it was called from, innermost first; none if that was not asked for.
    pub stack: Option<Vec<StackFrame>>,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub enum CallOutcome<'a> {
    /// That was not asked for.
    NotRequested,
    /// It has not returned: it was left by longjmp or an exception, its thread has ended, or the trace.
    NeverReturned,
    /// That was not seen: records were lost since it began, or there was no room to wait for longer.
    ReturnMissed,
    /// It returned.
    Returned {
        /// What, if that was asked for.
        value: Option<Argument<'a>>,
        /// Nanoseconds from its beginning on.
        duration: u64,
    },
}

/// A value that was passed or returned.
#[derive(Clone, Debug)]
pub struct Argument<'a> {
    /// Which argument, from 0.
    pub index: usize,
    /// Its type, as in a pattern.
    pub kind: String,
    /// The value.
    pub value: Value<'a>,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number.
    Signed(i64),
    /// A number without a sign.
    Unsigned(u64),
    /// A number or an address in hexadecimal.
    Hex(u64),
    /// True or false.
    Bool(bool),
    /// A text, or as much of it as was captured.
    Text(Plaintext<'a>, Truncation),
    /// Bytes, or as many of them as were captured.
    Bytes(Plaintext<'a>, Truncation),
    /// It could not be read: not in memory, or no valid address.
    Unreadable,
}

/// Whether a value was captured as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncation {
    /// It was.
    None,
    /// Its beginning was.
    Cut,
}

/// A place in the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackFrame {
    /// Address in the process.
    pub address: u64,
    /// The object that is mapped there.
    pub object: Option<Arc<str>>,
    /// The function, and bytes after its entry.
    pub function: Option<(Arc<str>, u64)>,
}

/// What calls of one function in one container add up to.
#[derive(Clone, Debug)]
pub struct UprobeTotal<'a> {
    /// When this was read.
    pub time: Timestamp,
    /// What it was counted since.
    pub since: Timestamp,
    /// The container.
    pub container: Containment,
    /// The object that has the function.
    pub object: Cow<'a, Library>,
    /// The function.
    pub function: Cow<'a, str>,
    /// Calls; with `latency`, those that returned.
    pub count: u64,
    /// How long they took, if that was asked for.
    pub latency: Option<Latency>,
}

/// How long calls took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Sum in nanoseconds.
    pub total: u64,
    /// Calls by [`probe_common::bucket`].
    pub buckets: [u64; BUCKETS],
}

impl Latency {
    /// The buckets from the first to the last that is in use: from how many nanoseconds, below how many,
    /// calls.
    pub fn used(&self) -> Vec<(u64, u64, u64)> {
        let used = |calls: &u64| *calls != 0;
        let (Some(first), Some(last)) =
            (self.buckets.iter().position(used), self.buckets.iter().rposition(used))
        else {
            return Vec::new();
        };
        let limit =
            |index: usize| 1_u64.checked_shl(u32::try_from(index).unwrap_or(u32::MAX)).unwrap_or(u64::MAX);
        let bucket = |(index, calls): (usize, &u64)| {
            let from = if index == 0 { 0 } else { limit(index - 1) };
            (from, limit(index), *calls)
        };
        self.buckets.iter().enumerate().skip(first).take(last + 1 - first).map(bucket).collect()
    }
}
