//! The kernel's counters of calls → records: what has come since the last time, by function and container.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use probe_common::{BUCKETS, CountKey, Histogram};

use super::function::Place;
use crate::event::{Container, FunctionTotal, Latency, Record};
use crate::sink::Sink;

/// What the kernel has counted of one function in one cgroup since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a trace has one kind of them, some hundreds")]
pub enum Counted {
    /// Calls.
    Calls(u64),
    /// Calls by the time that they took.
    Times(Histogram),
}

/// What was reported already.
#[derive(Debug, Default)]
pub(super) struct Totals {
    seen: HashMap<CountKey, Counted>,
    since: Option<Timestamp>,
}

/// Calls of one function in one container.
struct Row {
    container: Option<Arc<Container>>,
    count: u64,
    latency: Option<Latency>,
}

impl Totals {
    /// Reports what is new. Returns the number of calls.
    pub(super) fn report(
        &mut self,
        now: Timestamp,
        started: Timestamp,
        counted: &[(CountKey, Counted)],
        place: impl Fn(u32) -> Option<Place>,
        mut container: impl FnMut(u64) -> Option<Arc<Container>>,
        sink: &mut dyn Sink,
    ) -> io::Result<u64> {
        let mut rows: BTreeMap<(u32, Option<String>), Row> = BTreeMap::new();
        for &(key, sum) in counted {
            let (count, latency) = difference(&sum, self.seen.insert(key, sum).as_ref());
            if count == 0 {
                continue;
            }
            let container = container(key.cgroup);
            let id = container.as_ref().map(|container| container.id.clone());
            let row = rows.entry((key.site, id)).or_insert(Row { container, count: 0, latency: None });
            row.count += count;
            if let Some(latency) = latency {
                add(row.latency.get_or_insert(NONE), &latency);
            }
        }
        let since = self.since.replace(now).unwrap_or(started);
        let mut calls = 0;
        for ((site, _), Row { container, count, latency }) in rows {
            let Some(place) = place(site) else { continue };
            calls += count;
            let (object, function) = (&*place.object, &*place.function);
            let total = FunctionTotal { time: now, since, container, object, function, count, latency };
            sink.write(&Record::FunctionTotal(total))?;
        }
        Ok(calls)
    }
}

fn difference(sum: &Counted, seen: Option<&Counted>) -> (u64, Option<Latency>) {
    match (sum, seen) {
        (Counted::Calls(sum), Some(Counted::Calls(seen))) => (sum.saturating_sub(*seen), None),
        (Counted::Calls(sum), _) => (*sum, None),
        (Counted::Times(sum), seen) => {
            let seen = match seen {
                Some(Counted::Times(seen)) => *seen,
                _ => Histogram::default(),
            };
            let mut buckets = sum.buckets;
            for (bucket, seen) in buckets.iter_mut().zip(seen.buckets) {
                *bucket = bucket.saturating_sub(seen);
            }
            let total = sum.total.saturating_sub(seen.total);
            (buckets.iter().sum(), Some(Latency { total, buckets }))
        }
    }
}

/// No calls.
const NONE: Latency = Latency { total: 0, buckets: [0; BUCKETS] };

fn add(sum: &mut Latency, more: &Latency) {
    sum.total = sum.total.saturating_add(more.total);
    for (bucket, more) in sum.buckets.iter_mut().zip(more.buckets) {
        *bucket += more;
    }
}
