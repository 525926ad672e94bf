//! The maps of functions that are probed: what is read of their calls, and what was counted.

use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuHashMap};
use probe_common::{CountKey, FUNCTION_SPECS, FunctionSpec, Histogram};

use super::SessionError;
use super::pod::{self, PodCompat};
use crate::pipeline::Counter;

/// The maps, in userspace's hands.
pub(super) struct FunctionMaps {
    specs: Array<MapData, PodCompat<FunctionSpec>>,
    counts: PerCpuHashMap<MapData, PodCompat<CountKey>, u64>,
    latencies: PerCpuHashMap<MapData, PodCompat<CountKey>, PodCompat<Histogram>>,
    /// What was written, by its number.
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

    /// The number of what is read of a call; functions of which the same is read share one.
    pub(super) fn number(&mut self, spec: &FunctionSpec) -> Result<u32, SessionError> {
        let known = self.written.iter().position(|written| written == spec);
        let number = u32::try_from(known.unwrap_or(self.written.len())).unwrap_or(u32::MAX);
        if known.is_none() {
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

    /// What was counted since the start.
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

    /// Forgets what was counted in a cgroup: no process is in it any more.
    pub(super) fn forget(&mut self, cgroup: u64) {
        let of = |key: &PodCompat<CountKey>| key.0.cgroup == cgroup;
        let counts: Vec<_> = self.counts.keys().filter_map(Result::ok).filter(of).collect();
        let latencies: Vec<_> = self.latencies.keys().filter_map(Result::ok).filter(of).collect();
        // Gone already is as good.
        for key in counts {
            let _ = self.counts.remove(&key);
        }
        for key in latencies {
            let _ = self.latencies.remove(&key);
        }
    }
}
