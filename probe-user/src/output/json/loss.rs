//! The lines of losses, and of the summary.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::Duration;

use jiff::Timestamp;
use probe_common::{Loss, LossCount};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::line::{LineBody, Meanings, Time};
use super::missed::nanoseconds;
use crate::event::{
    Body, Cleartext, Context, Lost, MissedTotal, Reason, Record, RecordKind, RequestCounts, StopReason,
    Summary,
};

/// Something was lost since the last such record of the same reason.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct LostBody {
    /// How it was lost.
    reason: Reason,
    /// Calls, or chunks of at most 16 KiB of them (`ring_full`, `read_fault`).
    events: u64,
    /// Payload bytes; exact for `ring_full` and `read_fault`, not known (0) for calls that were not followed.
    bytes: u64,
}

/// How much was lost.
#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
struct CountPart {
    /// Calls, or chunks of at most 16 KiB of them (`ring_full`, `read_fault`).
    events: u64,
    /// Payload bytes; exact for `ring_full` and `read_fault`, not known (0) for calls that were not followed.
    bytes: u64,
}

/// The last record.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct SummaryBody {
    /// When the trace began, in UTC.
    started: Time,
    /// Why it ended.
    end: StopReason,
    /// Calls reported. A call in several records counts once.
    calls: u64,
    /// Programs reported; only there for `ctrace exec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    executions: Option<u64>,
    /// Payload bytes reported.
    bytes: u64,
    /// Calls and programs reported that a limit cut.
    truncated: u64,
    /// Data that is missing.
    lost: LostPart,
    /// Records from the kernel that could not be decoded (a bug of ctrace).
    undecodable: u64,
    /// Programs and libraries that were in use before ctrace had attached to them, so that their first calls
    /// may be missing; only there if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    attached_late: Option<NonZeroU64>,
    /// The processes that used these; only there if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<MissedPart>,
    /// Connections on which processes in scope sent bytes that are not TLS, which are not shown; only there
    /// if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    cleartext: Option<Cleartext>,
    /// What was made of the calls; only there for `ctrace requests`.
    #[serde(skip_serializing_if = "Option::is_none")]
    requests: Option<RequestCounts>,
}

/// The processes that had mapped a file before ctrace had attached to it.
#[derive(Serialize, Deserialize, JsonSchema)]
struct MissedPart {
    /// How many.
    processes: u64,
    /// How many of them ended before ctrace had attached.
    ended: u64,
    /// For how long their files were not attached to.
    unattached: UnattachedPart,
}

/// Times in nanoseconds.
#[derive(Serialize, Deserialize, JsonSchema)]
struct UnattachedPart {
    /// The longest, in nanoseconds.
    longest: u64,
    /// The sum over all processes and files, in nanoseconds.
    total: u64,
}

/// Everything that was lost.
#[derive(Serialize, Deserialize, JsonSchema)]
struct LostPart {
    // Both are sums over the reasons that lose data (all but `connections_full` and `argument_fault`).
    /// Calls, or chunks of at most 16 KiB of them (`ring_full`, `read_fault`).
    events: u64,
    /// Payload bytes; exact for `ring_full` and `read_fault`, not known (0) for calls that were not followed.
    bytes: u64,
    /// By reason; those without a loss are left out.
    reasons: BTreeMap<Reason, CountPart>,
}

impl LineBody for LostBody {
    const KIND: RecordKind = RecordKind::Lost;
    const TIME: &'static str = "When it was noticed, in UTC.";
    const ORIGIN: Meanings = &[];
}

impl LineBody for SummaryBody {
    const KIND: RecordKind = RecordKind::Summary;
    const TIME: &'static str = "When the trace ended, in UTC.";
    const ORIGIN: Meanings = &[];
}

impl From<LossCount> for CountPart {
    fn from(LossCount { events, bytes }: LossCount) -> Self {
        Self { events, bytes }
    }
}

impl From<CountPart> for LossCount {
    fn from(CountPart { events, bytes }: CountPart) -> Self {
        Self { events, bytes }
    }
}

impl From<MissedTotal> for MissedPart {
    fn from(MissedTotal { processes, ended, longest, total }: MissedTotal) -> Self {
        let unattached = UnattachedPart { longest: nanoseconds(longest), total: nanoseconds(total) };
        Self { processes, ended, unattached }
    }
}

impl From<MissedPart> for MissedTotal {
    fn from(MissedPart { processes, ended, unattached }: MissedPart) -> Self {
        let UnattachedPart { longest, total } = unattached;
        let (longest, total) = (Duration::from_nanos(longest), Duration::from_nanos(total));
        Self { processes, ended, longest, total }
    }
}

impl LostBody {
    pub(super) fn new(&Lost { loss, count: LossCount { events, bytes } }: &Lost) -> Self {
        Self { reason: loss.into(), events, bytes }
    }

    /// The record of the line.
    pub(super) fn record(self, time: Timestamp) -> Record<'static> {
        let Self { reason, events, bytes } = self;
        let lost = Lost { loss: reason.into(), count: LossCount { events, bytes } };
        Record { context: Context::of_trace(time), body: Body::Lost(lost) }
    }
}

impl SummaryBody {
    pub(super) fn new(summary: &Summary) -> Self {
        let &Summary { started, end, calls, executions, bytes, truncated, ref lost, .. } = summary;
        let &Summary { undecodable, attached_late, missed, ref cleartext, requests, .. } = summary;
        let cleartext = (cleartext.connections > 0).then(|| cleartext.clone());
        let attached_late = NonZeroU64::new(attached_late);
        let missed = (missed != MissedTotal::default()).then(|| missed.into());
        let some = lost.iter().filter(|(_, count)| *count != LossCount::default());
        let missing = summary.missing();
        let reasons = some.map(|&(loss, count)| (loss.into(), count.into())).collect();
        let lost = LostPart { events: missing.events, bytes: missing.bytes, reasons };
        let started = Time(started);
        Self {
            started,
            end,
            calls,
            executions,
            bytes,
            truncated,
            lost,
            undecodable,
            attached_late,
            missed,
            cleartext,
            requests,
        }
    }

    /// The summary of the line.
    pub(super) fn summary(self, time: Timestamp) -> Summary {
        let Self { started, end, calls, executions, bytes, truncated, lost, undecodable, .. } = self;
        let count = |loss: Loss| Some((loss, LossCount::from(*lost.reasons.get(&Reason::from(loss))?)));
        let lost = Loss::ALL.into_iter().filter_map(count).collect();
        let (started, attached_late) = (started.0, self.attached_late.map_or(0, NonZeroU64::get));
        let missed = self.missed.map(MissedTotal::from).unwrap_or_default();
        Summary {
            time,
            started,
            end,
            calls,
            executions,
            bytes,
            truncated,
            lost,
            undecodable,
            attached_late,
            missed,
            cleartext: self.cleartext.unwrap_or_default(),
            requests: self.requests,
        }
    }
}
