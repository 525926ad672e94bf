//! The records of `ctrace uprobe`: calls of functions, their numbers and durations.

use std::borrow::Cow;
use std::sync::Arc;

use probe_common::BUCKETS;

use super::{Library, Plaintext};

/// A function was called. The time and the thread are those of its entry.
#[derive(Clone, Debug)]
pub struct UprobeCall<'a> {
    /// The goroutine, by the address of its structure in Go's runtime. None outside of Go.
    pub goroutine: Option<u64>,
    /// The object that contains the function.
    pub object: Cow<'a, Library>,
    /// The function.
    pub function: Cow<'a, str>,
    /// The requested arguments. None if the entry was not seen.
    pub arguments: Option<Vec<Argument<'a>>>,
    /// How the call ended, if that was requested.
    pub end: CallOutcome<'a>,
    /// The stack of the call, innermost frame first. None if it was not requested.
    pub stack: Option<Vec<StackFrame>>,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub enum CallOutcome<'a> {
    /// The return was not requested.
    NotRequested,
    /// The call has not returned: it was left by longjmp or an exception, or its thread or the trace ended.
    NeverReturned,
    /// The return may have been missed: records were lost since the entry, or too many calls were pending.
    ReturnMissed,
    /// The call returned.
    Returned {
        /// The returned value, if it was requested.
        value: Option<Argument<'a>>,
        /// Nanoseconds since the entry.
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

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// A number.
    Signed(i64),
    /// A number without a sign.
    Unsigned(u64),
    /// A number or an address in hexadecimal.
    Hex(u64),
    /// True or false.
    Bool(bool),
    /// A floating-point number of 32 bits.
    Single(f32),
    /// A floating-point number of 64 bits.
    Double(f64),
    /// A text, or the captured part of it.
    Text(Plaintext<'a>, Truncation),
    /// Bytes, or the captured part of them.
    Bytes(Plaintext<'a>, Truncation),
    /// A value that could not be read: it was not in memory, or the address is invalid.
    Unreadable,
}

/// Whether a value was captured as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncation {
    /// All of it was captured.
    None,
    /// Only its beginning was captured.
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

/// The calls of a function were counted, in one container and over a span of time.
#[derive(Clone, Debug)]
pub struct UprobeTotal<'a> {
    /// The object that contains the function.
    pub object: Cow<'a, Library>,
    /// The function.
    pub function: Cow<'a, str>,
    /// The number of calls; with `latency`, of those that returned.
    pub count: u64,
    /// The durations of the calls, if they were requested. They are large, and rare among records.
    pub latency: Option<Box<Latency>>,
}

/// The durations of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// The sum in nanoseconds.
    pub total: u64,
    /// The number of calls by [`probe_common::bucket`].
    pub buckets: [u64; BUCKETS],
}

impl Latency {
    /// The buckets from the first to the last that is in use: the least duration in nanoseconds, the first
    /// duration beyond, and the number of calls.
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
