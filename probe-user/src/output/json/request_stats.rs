//! The lines of figures over requests.

use schemars::JsonSchema;
use serde::Serialize;

use super::line::{LineBody, Meanings, Time};
use crate::event::{Durations, RecordKind, RequestGroup, RequestKey, RequestStats};

/// Figures over the requests that ended since the last such record.
#[derive(Serialize, JsonSchema)]
pub(super) struct RequestStatsBody<'a> {
    /// The start of the span of time, which ends at `time`.
    since: Time,
    /// What the requests of a group have in common.
    by: RequestKey,
    /// The groups, the largest first.
    groups: Vec<GroupPart<'a>>,
}

/// The requests that have something in common.
#[derive(Serialize, JsonSchema)]
struct GroupPart<'a> {
    /// What they have in common; null for what is not known, and for all groups beyond the first thousand.
    value: Option<&'a str>,
    /// How many requests there were.
    count: u64,
    /// How many of them failed.
    errors: u64,
    /// Bytes of the requests.
    request_bytes: u64,
    /// Bytes of the responses.
    response_bytes: u64,
    /// How long they took; null when that is not known of any.
    duration: Option<Durations>,
    /// The request that took longest; null when that is not known of any.
    slowest: Option<SlowestPart<'a>>,
}

/// A request that took longer than others.
#[derive(Serialize, JsonSchema)]
struct SlowestPart<'a> {
    /// How long it took, in nanoseconds.
    duration: u64,
    /// The time of its first byte, in UTC.
    time: Time,
    /// Its id, as in its own record.
    exchange: Option<&'a str>,
    /// The id of its process.
    pid: Option<u32>,
    /// What was asked for: the target, or the statement.
    target: Option<&'a str>,
}

impl LineBody for RequestStatsBody<'_> {
    const KIND: RecordKind = RecordKind::RequestStats;
    const TIME: &'static str = "The end of the span of time, in UTC.";
    const ORIGIN: Meanings = &[];
}

impl<'a> RequestStatsBody<'a> {
    pub(super) fn new(RequestStats { by, since, groups }: &'a RequestStats) -> Self {
        let part = |group: &'a RequestGroup| {
            let &RequestGroup { ref value, count, errors, request_bytes, response_bytes, .. } = group;
            let (value, duration) = (value.as_deref(), group.durations);
            let slowest = group.slowest.as_ref().map(|slowest| SlowestPart {
                duration: u64::try_from(slowest.duration.as_nanos()).unwrap_or(u64::MAX),
                time: Time(slowest.time),
                exchange: slowest.exchange.as_deref(),
                pid: slowest.pid,
                target: slowest.target.as_deref(),
            });
            GroupPart { value, count, errors, request_bytes, response_bytes, duration, slowest }
        };
        Self { since: Time(*since), by: *by, groups: groups.iter().map(part).collect() }
    }
}
