//! Figures over exchanges, by what they have in common.
//!
//! Owns the groups, whose number is limited: what peers send makes groups, and a hostile one makes many.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;

use super::filter::is_error;
use crate::event::{
    Containment, Context, Durations, Request, RequestGroup, RequestKey, RequestStats, SlowExample, Statement,
};

/// The most groups. What belongs to none of them is counted together.
const MAX_GROUPS: usize = 1000;
/// The longest value of a group, in bytes. What follows is cut off.
const MAX_VALUE: usize = 256;
/// Each power of two of nanoseconds is divided into so many buckets, as a power of two: a percentile is at
/// most 1/32 too long.
const BUCKET_BITS: u32 = 5;

/// Exchanges that are being counted.
#[derive(Debug)]
pub(super) struct Groups {
    by: RequestKey,
    since: Timestamp,
    counts: HashMap<Option<String>, GroupCounts>,
}

#[derive(Debug, Default)]
struct GroupCounts {
    group: RequestGroup,
    durations: Histogram,
}

/// How many durations there were, by bucket.
#[derive(Debug, Default)]
struct Histogram {
    buckets: BTreeMap<u32, u64>,
    count: u64,
    max: u64,
}

impl Groups {
    /// No exchanges yet.
    pub(super) fn new(by: RequestKey, since: Timestamp) -> Self {
        Self { by, since, counts: HashMap::new() }
    }

    /// Counts an exchange.
    pub(super) fn add(&mut self, context: &Context<'_>, request: &Request) {
        let mut value = self.value(context, request);
        if self.counts.len() >= MAX_GROUPS && !self.counts.contains_key(&value) {
            value = None;
        }
        let GroupCounts { group, durations } = self.counts.entry(value).or_default();
        group.count += 1;
        group.errors += u64::from(is_error(request));
        let length =
            |side: &Option<_>| side.as_ref().map_or(0, |side: &crate::event::RequestSide| side.length);
        group.request_bytes = group.request_bytes.saturating_add(length(&request.request));
        group.response_bytes = group.response_bytes.saturating_add(length(&request.response));
        if let Some(took) = request.duration() {
            durations.add(took);
            if group.slowest.as_ref().is_none_or(|slowest| slowest.duration < took) {
                group.slowest = Some(example(context, request, took));
            }
        }
    }

    /// The figures since they were last taken, which begin anew.
    pub(super) fn take(&mut self, now: Timestamp) -> RequestStats {
        let counts = std::mem::take(&mut self.counts);
        let figures = counts.into_iter().map(|(value, GroupCounts { group, durations })| RequestGroup {
            value,
            durations: durations.figures(),
            ..group
        });
        let mut groups: Vec<RequestGroup> = figures.collect();
        groups.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.value.cmp(&other.value)));
        RequestStats { by: self.by, since: std::mem::replace(&mut self.since, now), groups }
    }

    fn value(&self, context: &Context<'_>, request: &Request) -> Option<String> {
        let overview = &request.overview;
        let value = match self.by {
            RequestKey::Path => overview.target.as_deref().map(path_pattern),
            RequestKey::Host => overview.host.clone(),
            RequestKey::Peer => {
                context.socket().and_then(|socket| Some(socket.peer.as_ref()?.address.clone()))
            }
            RequestKey::Status => overview.status.clone(),
            RequestKey::Method => overview.method.clone(),
            RequestKey::Statement => overview.statement.as_ref().map(Statement::shape),
            RequestKey::Container => match context.container() {
                Some(Containment::In(container)) => Some(container.shown()),
                Some(Containment::Host) => Some("-".to_owned()),
                _ => None,
            },
            RequestKey::Process => {
                context.thread().map(|(_, thread)| String::from_utf8_lossy(thread.name()).into_owned())
            }
        };
        value.map(cut)
    }
}

fn example(context: &Context<'_>, request: &Request, duration: Duration) -> SlowExample {
    SlowExample {
        duration,
        time: context.time,
        exchange: request.exchange.clone(),
        pid: context.thread().map(|(process, _)| process.process.pid),
        target: request.overview.target.as_deref().map(|target| cut(target.to_owned())),
    }
}

fn cut(mut value: String) -> String {
    value.truncate(value.floor_char_boundary(MAX_VALUE));
    value
}

impl Histogram {
    fn add(&mut self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        *self.buckets.entry(bucket(nanoseconds)).or_default() += 1;
        self.count += 1;
        self.max = self.max.max(nanoseconds);
    }

    fn figures(&self) -> Option<Durations> {
        let at = |percent: u64| {
            let rank = (self.count * percent).div_ceil(100);
            let mut seen = 0;
            let found = self.buckets.iter().find(|(_, count)| {
                seen += **count;
                seen >= rank
            });
            found.map_or(self.max, |(bucket, _)| last_of(*bucket).min(self.max))
        };
        (self.count > 0).then(|| Durations { p50: at(50), p95: at(95), p99: at(99), max: self.max })
    }
}

/// The bucket of a number. Those below 32 have a bucket each.
fn bucket(number: u64) -> u32 {
    let shift = (u64::BITS - number.leading_zeros()).saturating_sub(BUCKET_BITS + 1);
    let within = u32::try_from(number >> shift).unwrap_or(u32::MAX);
    (shift << BUCKET_BITS).saturating_add(within)
}

/// The largest number of a bucket.
fn last_of(bucket: u32) -> u64 {
    let shift = (bucket >> BUCKET_BITS).saturating_sub(1);
    let within = u64::from(bucket - (shift << BUCKET_BITS));
    ((within + 1) << shift).wrapping_sub(1)
}

/// A path without its query, in which `*` stands for each segment that is a number or a UUID.
fn path_pattern(target: &str) -> String {
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let segment = |segment: &'_ str| if is_id(segment) { "*".to_owned() } else { segment.to_owned() };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}

fn is_id(segment: &str) -> bool {
    let is_number = !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
    let is_uuid = segment.len() == 36
        && segment.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    is_number || is_uuid
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::test_rng::TestRng;

    #[test]
    fn ids_in_paths_are_one_pattern() {
        for (target, expected) in [
            ("/orders/17?page=2", "/orders/*"),
            ("/orders/17/items/2/", "/orders/*/items/*/"),
            ("/users/0d9f5a5e-5b1c-4c83-9a53-3c3f6cf4c0de/name", "/users/*/name"),
            ("/v2/orders/a17", "/v2/orders/a17"),
            ("/", "/"),
            ("*", "*"),
            ("example.org:443", "example.org:443"),
        ] {
            assert_eq!(path_pattern(target), expected);
        }
    }

    #[test]
    fn a_bucket_holds_what_it_says() {
        let mut rng = TestRng(7);
        for number in (0..5000).chain((0..5000).map(|_| rng.next() >> (rng.next() % 64))).chain([u64::MAX]) {
            let last = last_of(bucket(number));
            assert!(last >= number && last - number <= number / 32, "{number} {last}");
            assert_eq!(bucket(last), bucket(number));
        }
    }

    #[test]
    fn percentiles() {
        let mut durations = Histogram::default();
        assert_eq!(durations.figures(), None);
        (1..=100).for_each(|milliseconds| durations.add(Duration::from_millis(milliseconds)));
        let Durations { p50, p95, p99, max } = durations.figures().unwrap();
        let is_near = |found: u64, expected: u64| {
            let expected = expected * 1_000_000;
            (expected..=expected + expected / 32).contains(&found)
        };
        assert!(is_near(p50, 50) && is_near(p95, 95) && is_near(p99, 99), "{p50} {p95} {p99}");
        assert_eq!(max, 100_000_000);
    }
}
