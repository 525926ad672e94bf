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
}

impl LineBody for RequestStatsBody<'_> {
    const KIND: RecordKind = RecordKind::RequestStats;
    const TIME: &'static str = "The end of the span of time, in UTC.";
    const ORIGIN: Meanings = &[];
}

impl<'a> RequestStatsBody<'a> {
    pub(super) fn new(RequestStats { by, since, groups }: &'a RequestStats) -> Self {
        let part = |group: &'a RequestGroup| {
            let &RequestGroup { ref value, count, errors, request_bytes, response_bytes, durations } = group;
            let value = value.as_deref();
            GroupPart { value, count, errors, request_bytes, response_bytes, duration: durations }
        };
        Self { since: Time(*since), by: *by, groups: groups.iter().map(part).collect() }
    }
}
