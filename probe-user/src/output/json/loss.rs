//! The fields of `lost` and `summary`.

use std::collections::BTreeMap;

use probe_common::LossCount;
use schemars::JsonSchema;
use serde::Serialize;

use super::line::{LineBody, Time};
use crate::event::{Lost, Reason, RecordKind, StopReason, Summary};

/// Something was lost since the last such record of the same reason.
#[derive(Serialize, JsonSchema)]
pub(super) struct LostBody {
    /// How it was lost.
    reason: Reason,
    #[serde(flatten)]
    count: CountPart,
}

/// How much was lost.
#[derive(Clone, Copy, Serialize, JsonSchema)]
struct CountPart {
    /// Calls, or chunks of at most 16 KiB of them (`ring_full`, `read_fault`).
    events: u64,
    /// Payload bytes; exact for `ring_full` and `read_fault`, not known (0) for calls that were not followed.
    bytes: u64,
}

/// The last record.
#[derive(Serialize, JsonSchema)]
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
}

/// Everything that was lost.
#[derive(Serialize, JsonSchema)]
struct LostPart {
    /// The sums over the reasons that lose data (all but `connections_full` and `argument_fault`).
    #[serde(flatten)]
    missing: CountPart,
    /// By reason; those without a loss are left out.
    reasons: BTreeMap<Reason, CountPart>,
}

impl LineBody for LostBody {
    const KIND: RecordKind = RecordKind::Lost;
    const TIME: &'static str = "When it was noticed, in UTC.";
}

impl LineBody for SummaryBody {
    const KIND: RecordKind = RecordKind::Summary;
    const TIME: &'static str = "When the trace ended, in UTC.";
}

impl From<LossCount> for CountPart {
    fn from(LossCount { events, bytes }: LossCount) -> Self {
        Self { events, bytes }
    }
}

impl LostBody {
    pub(super) fn new(&Lost { loss, count, .. }: &Lost) -> Self {
        Self { reason: loss.into(), count: count.into() }
    }
}

impl SummaryBody {
    pub(super) fn new(summary: &Summary) -> Self {
        let &Summary { started, end, calls, executions, bytes, truncated, ref lost, undecodable, .. } =
            summary;
        let some = lost.iter().filter(|(_, count)| *count != LossCount::default());
        Self {
            started: Time(started),
            end,
            calls,
            executions,
            bytes,
            truncated,
            lost: LostPart {
                missing: summary.missing().into(),
                reasons: some.map(|&(loss, count)| (loss.into(), count.into())).collect(),
            },
            undecodable,
        }
    }
}
