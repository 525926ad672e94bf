//! Counts the hits of probes during some seconds, by process and function.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use probe_common::LossCount;
use serde::Serialize;

use crate::bpf::Session;
use crate::decode::{DataRecord, RingRecord, decode};
use crate::plan::ObjectHooks;

/// Limit of the pairs of process and hook that are counted.
const COUNTED: usize = 1 << 16;

/// The counted hits.
#[derive(Debug, Serialize)]
pub(super) struct Watched {
    /// How long they were counted.
    pub(super) seconds: f64,
    /// The calls of all functions.
    pub(super) hits: u64,
    /// The hits of each process and probed function, by pid.
    pub(super) functions: Vec<Hits>,
    /// The calls that were lost because the ring was full.
    pub(super) lost: u64,
}

/// The hits of one process at one hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Hits {
    pub(super) pid: u32,
    pub(super) comm: String,
    pub(super) library: String,
    /// The function that is probed.
    pub(super) function: String,
    /// The public functions that it serves.
    pub(super) serves: Vec<String>,
    /// The calls that moved bytes.
    #[serde(rename = "hits")]
    pub(super) calls: u64,
    /// The number of bytes.
    pub(super) bytes: u64,
}

#[derive(Debug, Default)]
struct Count {
    hits: u64,
    bytes: u64,
}

/// Counts by process and hook.
#[derive(Debug, Default)]
struct Counts {
    by_place: BTreeMap<(u32, u32), Count>,
    comms: BTreeMap<u32, String>,
}

impl Counts {
    fn record(&mut self, bytes: &[u8]) {
        // Chunks after the first one belong to a call that has been counted already.
        let Ok(RingRecord::Data(DataRecord::Call { head, .. })) = decode(bytes) else { return };
        let (pid, site) = (head.header.pid, head.site);
        let has_room = self.by_place.len() < COUNTED || self.by_place.contains_key(&(pid, site));
        if head.offset != 0 || !has_room {
            return;
        }
        let count = self.by_place.entry((pid, site)).or_default();
        count.hits += 1;
        count.bytes = count.bytes.saturating_add(head.length);
        self.comms.entry(pid).or_insert_with(|| {
            let name = head.header.comm.split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(name).into_owned()
        });
    }

    /// The hits of each hook, in the processes that mapped it at the start and in those that appeared since.
    fn hits(&self, objects: &[ObjectHooks], comm: impl Fn(u32) -> Option<String>) -> Vec<Hits> {
        let mut all = Vec::new();
        for object in objects {
            let numbered = object.hooks.iter().zip(object.sites.clone());
            for (hook, site) in numbered.filter(|(hook, _)| hook.program.moves_bytes()) {
                let seen = self.by_place.keys().filter(|(_, other)| *other == site).map(|(pid, _)| *pid);
                let pids: BTreeSet<u32> = object.pids.iter().copied().chain(seen).collect();
                all.extend(pids.into_iter().map(|pid| {
                    let count = self.by_place.get(&(pid, site));
                    Hits {
                        pid,
                        comm: comm(pid).or_else(|| self.comms.get(&pid).cloned()).unwrap_or_default(),
                        library: object.library.name.clone(),
                        function: hook.function.clone(),
                        serves: hook.public_names.clone(),
                        calls: count.map_or(0, |count| count.hits),
                        bytes: count.map_or(0, |count| count.bytes),
                    }
                }));
            }
        }
        all.sort_by_key(|hits| hits.pid);
        all
    }
}

/// Counts the hits of the probes of `objects`, which are attached, for a time.
pub(super) async fn watch(
    session: &mut Session,
    objects: &[ObjectHooks],
    duration: Duration,
    comm: impl Fn(u32) -> Option<String>,
) -> Watched {
    let started = Instant::now();
    let mut counts = Counts::default();
    while let Some(rest) = duration.checked_sub(started.elapsed()) {
        // There are records, or the time is up. The loop checks both.
        let _ = tokio::time::timeout(rest, session.wait()).await;
        drain(session, &mut counts);
    }
    drain(session, &mut counts);
    let functions = counts.hits(objects, comm);
    let lost = session.lost().unwrap_or_default();
    let lost = lost.into_iter().map(|(_, LossCount { events, .. })| events).fold(0, u64::saturating_add);
    let hits = functions.iter().map(|function| function.calls).sum();
    Watched { seconds: started.elapsed().as_secs_f64(), hits, functions, lost }
}

fn drain(session: &mut Session, counts: &mut Counts) {
    session.drain(|bytes| {
        counts.record(bytes);
        ControlFlow::Continue(())
    });
}

#[cfg(test)]
mod tests {
    use probe_common::{Call, Header, KIND_CALL};
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    fn call(pid: u32, site: u32, offset: u32, length: u64) -> Call {
        let mut header = Header::new_zeroed();
        (header.kind, header.pid) = (KIND_CALL, pid);
        header.comm = *b"web\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let mut call = Call::new_zeroed();
        (call.header, call.site, call.offset, call.length, call.captured) =
            (header, site, offset, length, offset);
        call
    }

    #[test]
    fn calls_are_counted_once_and_by_process() {
        let mut counts = Counts::default();
        for call in [call(1, 0, 0, 5), call(1, 0, 0, 7), call(2, 0, 0, 1), call(2, 0, 64, 100)] {
            counts.record(call.as_bytes());
        }
        counts.record(b"noise");
        let found: Vec<_> =
            counts.by_place.iter().map(|(key, count)| (*key, count.hits, count.bytes)).collect();
        assert_eq!(found, [((1, 0), 2, 12), ((2, 0), 1, 1)]);
        assert_eq!(counts.comms.get(&1).map(String::as_str), Some("web"));
    }
}
