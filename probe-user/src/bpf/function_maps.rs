//! The maps for probed functions: the capture specs of their calls, and the counters.

use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuHashMap};
use probe_common::{CountKey, FUNCTION_SPECS, FunctionSpec, Histogram};

use super::SessionError;
use super::pod::{self, PodCompat};
use crate::pipeline::Counter;

pub(super) struct FunctionMaps {
    specs: Array<MapData, PodCompat<FunctionSpec>>,
    counts: PerCpuHashMap<MapData, PodCompat<CountKey>, u64>,
    latencies: PerCpuHashMap<MapData, PodCompat<CountKey>, PodCompat<Histogram>>,
    /// The specs that were written, by index.
    written: Vec<FunctionSpec>,
}

impl FunctionMaps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, SessionError> {
        Ok(Self {
            specs: pod::take(ebpf, "SPECS")?,
            counts: pod::take(ebpf, "COUNTS")?,
            latencies: pod::take(ebpf, "LATENCIES")?,
            written: Vec::new(),
        })
    }

    /// The index of the spec in `SPECS`. Functions with identical specs share one.
    pub(super) fn number(&mut self, spec: &FunctionSpec) -> Result<u32, SessionError> {
        let existing = self.written.iter().position(|written| written == spec);
        let number = u32::try_from(existing.unwrap_or(self.written.len())).unwrap_or(u32::MAX);
        if existing.is_none() {
            if number >= FUNCTION_SPECS {
                return Err(SessionError::Specs { limit: FUNCTION_SPECS });
            }
            self.specs
                .set(number, PodCompat(*spec), 0)
                .map_err(|source| SessionError::map("SPECS", source))?;
            self.written.push(*spec);
        }
        Ok(number)
    }

    /// All counters, as counted since the start.
    pub(super) fn counted(&self) -> Result<Vec<(CountKey, Counter)>, SessionError> {
        let mut all = Vec::new();
        for pair in &self.counts {
            let (key, per_cpu) = pair.map_err(|source| SessionError::map("COUNTS", source))?;
            all.push((key.0, Counter::Calls(per_cpu.iter().sum())));
        }
        for pair in &self.latencies {
            let (key, per_cpu) = pair.map_err(|source| SessionError::map("LATENCIES", source))?;
            let mut sum = Histogram::default();
            for PodCompat(histogram) in per_cpu.iter() {
                sum.total = sum.total.saturating_add(histogram.total);
                for (bucket, calls) in sum.buckets.iter_mut().zip(histogram.buckets) {
                    *bucket += calls;
                }
            }
            all.push((key.0, Counter::Latency(sum)));
        }
        Ok(all)
    }

    /// Removes the counters of a cgroup that no process is in any more.
    pub(super) fn forget(&mut self, cgroup: u64) {
        let of = |key: &PodCompat<CountKey>| key.0.cgroup == cgroup;
        let counts: Vec<_> = self.counts.keys().filter_map(Result::ok).filter(of).collect();
        let latencies: Vec<_> = self.latencies.keys().filter_map(Result::ok).filter(of).collect();
        // If an entry is already gone, that is fine.
        for key in counts {
            let _ = self.counts.remove(&key);
        }
        for key in latencies {
            let _ = self.latencies.remove(&key);
        }
    }
}
