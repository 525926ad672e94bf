//! The kernel's counters of calls → records: the increase since the last report, by function and container.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io;

use jiff::Timestamp;
use probe_common::{BUCKETS, CountKey, Histogram};

use super::calls::ProbedFunction;
use crate::event::Output;
use crate::event::{Body, Containment, Context, Latency, Origin, Record, UprobeTotal};
use crate::pipeline::{Pipeline, ProcessInfo, Site};

/// The kernel's counter of one function in one cgroup since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a trace has one kind of them, some hundreds")]
pub enum Counter {
    /// The number of calls.
    Calls(u64),
    /// A histogram of the durations of calls.
    Latency(Histogram),
}

#[derive(Debug, Default)]
pub(in crate::pipeline) struct CounterDeltas {
    seen: HashMap<CountKey, Counter>,
    /// What was not reported yet, by function and container.
    rows: BTreeMap<(u32, Whose), Row>,
    since: Option<Timestamp>,
}

/// Where calls are added up.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    Host,
    Unknown,
    /// The container with this id.
    Container(String),
}

impl Whose {
    fn of(container: &Containment) -> Self {
        match container {
            Containment::In(container) => Self::Container(container.id.clone()),
            Containment::Host => Self::Host,
            Containment::Unknown => Self::Unknown,
        }
    }
}

/// The calls of one function in one container.
#[derive(Debug)]
struct Row {
    container: Containment,
    count: u64,
    latency: Option<Latency>,
}

impl Pipeline {
    /// Takes the kernel's counters, each a sum since the start, while the containers of the cgroups can be
    /// determined.
    pub fn note_counted(&mut self, counted: &[(CountKey, Counter)], info: &mut dyn ProcessInfo) {
        self.totals.add(counted, |cgroup| info.container(cgroup));
    }

    /// Takes the kernel's counters in the same way, and reports what is new.
    pub fn counted(
        &mut self,
        now: Timestamp,
        counted: &[(CountKey, Counter)],
        info: &mut dyn ProcessInfo,
    ) -> io::Result<()> {
        self.note_counted(counted, info);
        let Self { totals, report, started, functions, .. } = self;
        let sites = &report.sites;
        let place = |site: u32| sites.get(&site).and_then(Site::place);
        functions.calls += totals.report(now, *started, place, &mut *report.sink)?;
        Ok(())
    }

    /// Discards the counters of a cgroup that was removed, as is done in the kernel.
    pub fn forget_counted(&mut self, cgroup: u64) {
        self.totals.seen.retain(|key, _| key.cgroup != cgroup);
    }
}

impl CounterDeltas {
    fn add(&mut self, counted: &[(CountKey, Counter)], mut container: impl FnMut(u64) -> Containment) {
        for &(key, sum) in counted {
            let (count, latency) = difference(&sum, self.seen.insert(key, sum).as_ref());
            if count == 0 {
                continue;
            }
            let container = container(key.cgroup);
            let new = Row { container: Containment::Unknown, count: 0, latency: None };
            let row = self.rows.entry((key.site, Whose::of(&container))).or_insert(new);
            // The container's details may have become known since.
            row.container = container;
            row.count += count;
            if let Some(latency) = latency {
                add(row.latency.get_or_insert(NONE), &latency);
            }
        }
    }

    /// Reports what is new. Returns the number of calls.
    fn report(
        &mut self,
        now: Timestamp,
        started: Timestamp,
        place: impl Fn(u32) -> Option<ProbedFunction>,
        sink: &mut dyn Output,
    ) -> io::Result<u64> {
        let since = self.since.replace(now).unwrap_or(started);
        let mut calls = 0;
        for ((site, _), Row { container, count, latency }) in std::mem::take(&mut self.rows) {
            let Some(place) = place(site) else { continue };
            calls += count;
            let (object, function) = (Cow::Borrowed(&*place.object), Cow::Borrowed(&*place.function));
            let latency = latency.map(Box::new);
            let body = Body::UprobeTotal(UprobeTotal { object, function, count, latency });
            let origin = Origin::Container { container, since };
            sink.write(&Record { context: Context { time: now, origin, connection: None }, body })?;
        }
        Ok(calls)
    }
}

fn difference(sum: &Counter, seen: Option<&Counter>) -> (u64, Option<Latency>) {
    match (sum, seen) {
        (Counter::Calls(sum), Some(Counter::Calls(seen))) => (sum.saturating_sub(*seen), None),
        (Counter::Calls(sum), _) => (*sum, None),
        (Counter::Latency(sum), seen) => {
            let seen = match seen {
                Some(Counter::Latency(seen)) => *seen,
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

const NONE: Latency = Latency { total: 0, buckets: [0; BUCKETS] };

fn add(sum: &mut Latency, more: &Latency) {
    sum.total = sum.total.saturating_add(more.total);
    for (bucket, more) in sum.buckets.iter_mut().zip(more.buckets) {
        *bucket += more;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::Container;

    #[test]
    fn calls_are_their_container_s_when_it_has_gone() {
        let key = |cgroup| CountKey { cgroup, site: 0, reserved: 0 };
        let web = Arc::new(Container { id: "web".into(), ..Container::default() });
        let mut totals = CounterDeltas::default();
        totals.add(&[(key(1), Counter::Calls(3)), (key(2), Counter::Calls(5))], |cgroup| {
            if cgroup == 1 { Containment::In(Arc::clone(&web)) } else { Containment::Host }
        });
        // The container has ended long ago, and its counter has not changed since.
        totals.add(&[(key(1), Counter::Calls(3)), (key(2), Counter::Calls(6))], |_| Containment::Unknown);
        let rows: Vec<_> = totals.rows.iter().map(|((_, whose), row)| (whose, row.count)).collect();
        let web = Whose::Container("web".to_owned());
        assert_eq!(rows, [(&Whose::Host, 5), (&Whose::Unknown, 1), (&web, 3)]);
    }
}
