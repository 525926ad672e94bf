//! What a trace lost, and its summary.

use std::fmt;

use jiff::Timestamp;
use probe_common::{Loss, LossCount};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MissedTotal, RequestCounts};

/// How something was lost, as records name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The ring buffer between kernel and ctrace had no room.
    RingFull,
    /// The payload could not be read from the process (page not resident, or unmapped).
    ReadFault,
    /// The table of threads inside a call was full.
    ThreadsFull,
    /// More calls were nested on one thread than are followed.
    Nesting,
    /// The table of connections was full: the calls are reported, without connection and stream offset.
    ConnectionsFull,
    /// The table of selected threads was full: a new thread was not followed.
    ScopeFull,
    /// An argument of a call, or what it points to, could not be read: the call is reported without it.
    ArgumentFault,
    /// The table of counted functions was full: a call was not counted.
    CountsFull,
    /// A process, or a thread, ended inside of a call that sends: what it had sent by then is not known.
    Unfinished,
}

impl Reason {
    /// Whether data is missing from the output because of it.
    pub fn loses_data(self) -> bool {
        !matches!(self, Self::ConnectionsFull | Self::ArgumentFault)
    }
}

impl From<Loss> for Reason {
    fn from(loss: Loss) -> Self {
        match loss {
            Loss::RingFull => Self::RingFull,
            Loss::ReadFault => Self::ReadFault,
            Loss::ThreadsFull => Self::ThreadsFull,
            Loss::Nesting => Self::Nesting,
            Loss::ConnectionsFull => Self::ConnectionsFull,
            Loss::ScopeFull => Self::ScopeFull,
            Loss::ArgumentFault => Self::ArgumentFault,
            Loss::CountsFull => Self::CountsFull,
            Loss::Unfinished => Self::Unfinished,
        }
    }
}

impl From<Reason> for Loss {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::RingFull => Self::RingFull,
            Reason::ReadFault => Self::ReadFault,
            Reason::ThreadsFull => Self::ThreadsFull,
            Reason::Nesting => Self::Nesting,
            Reason::ConnectionsFull => Self::ConnectionsFull,
            Reason::ScopeFull => Self::ScopeFull,
            Reason::ArgumentFault => Self::ArgumentFault,
            Reason::CountsFull => Self::CountsFull,
            Reason::Unfinished => Self::Unfinished,
        }
    }
}

/// Something was lost since the last such record. Its time is when that was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// How it was lost.
    pub loss: Loss,
    /// How much was lost.
    pub count: LossCount,
}

/// Why a trace ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Ctrl-C or SIGTERM.
    Interrupted,
    /// No process of the target is left.
    TargetEnded,
    /// `--limit` was reached.
    Count,
    /// `--duration` has passed.
    Duration,
    /// Nobody reads the output any more.
    OutputClosed,
    /// What was shown is a recording without a summary: who wrote it was cut off, or it was cut.
    RecordingEnded,
    /// Another output could not be written.
    OutputFailed,
}

/// The last record. It goes to [`Output::finish`](super::Output::finish), and has no context.
#[derive(Clone, Debug)]
pub struct Summary {
    /// When the trace ended.
    pub time: Timestamp,
    /// When it began.
    pub started: Timestamp,
    /// Why it ended.
    pub end: StopReason,
    /// The number of calls reported.
    pub calls: u64,
    /// The number of programs reported. None if executions are not traced.
    pub executions: Option<u64>,
    /// The number of payload bytes reported.
    pub bytes: u64,
    /// The number of calls and programs that a limit truncated.
    pub truncated: u64,
    /// Everything that was lost, by the way in which it was. Ways without a loss may be left out.
    pub lost: Vec<(Loss, LossCount)>,
    /// The number of records of the ring that could not be decoded.
    pub undecodable: u64,
    /// The number of programs and libraries that were in use before ctrace had attached to them.
    pub attached_late: u64,
    /// The processes that used these.
    pub missed: MissedTotal,
    /// Connections without TLS.
    pub cleartext: Cleartext,
    /// What was made of the calls. None if they are reported as calls.
    pub requests: Option<RequestCounts>,
}

/// Connections on which processes in scope sent bytes that are not TLS. These are not shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cleartext {
    /// How many there were.
    pub connections: u64,
    /// The ports of their servers in ascending order, those of most connections if there are many.
    pub ports: Vec<u16>,
}

impl fmt::Display for Cleartext {
    /// Such as `4 connections without TLS (ports 80, 8080): not shown`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = if self.connections == 1 { "connection" } else { "connections" };
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        let name = if ports.len() == 1 { "port" } else { "ports" };
        write!(f, "{} {connections} without TLS ({name} {}): not shown", self.connections, ports.join(", "))
    }
}

impl Summary {
    /// Whether nothing was lost, and nothing was attached to late.
    pub fn is_whole(&self) -> bool {
        self.attached_late == 0 && self.lost.iter().all(|(_, count)| *count == LossCount::default())
    }

    /// The data that is missing: the sum over the ways that [lose data](Reason::loses_data).
    pub fn missing(&self) -> LossCount {
        let missing = self.lost.iter().filter(|(loss, _)| Reason::from(*loss).loses_data());
        missing.fold(LossCount::default(), |sum, (_, count)| LossCount {
            events: sum.events.saturating_add(count.events),
            bytes: sum.bytes.saturating_add(count.bytes),
        })
    }
}
