//! Scope → the maps that the filter in the kernel looks at.

use std::collections::BTreeSet;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData};
use probe_common::{NamespaceId, PID_NAMESPACES, Scope as Filter};

use super::wire::{self, Wire};
use super::{SessionError, error::ScopeError};
use crate::target::proc::Proc;
use crate::target::{Scope, descendants};

/// Levels of the cgroup hierarchy that the filter looks at.
const CGROUP_LEVELS: u32 = 16;

/// Writes the scope. The tracepoint that follows forks must be attached already.
pub(super) fn write(ebpf: &mut Ebpf, proc: &Proc, scope: &Scope) -> Result<(), SessionError> {
    let mut filter = Filter { all: scope.all.into(), ..Filter::default() };
    let mut cgroups: HashMap<&mut MapData, u64, u8> = wire::map(ebpf, "CGROUPS")?;
    for cgroup in &scope.cgroups {
        if cgroup.level >= CGROUP_LEVELS {
            return Err(ScopeError::TooDeep { path: cgroup.path.clone(), level: cgroup.level }.into());
        }
        cgroups.insert(cgroup.id, 1, 0).map_err(|source| SessionError::map("CGROUPS", source))?;
        filter.cgroup_levels |= 1 << cgroup.level;
    }
    let mut namespaces: Array<&mut MapData, Wire<NamespaceId>> = wire::map(ebpf, "PID_NAMESPACES")?;
    for (index, id) in (0..).zip(&scope.pid_namespaces) {
        if index >= PID_NAMESPACES {
            return Err(ScopeError::TooManyNamespaces { count: scope.pid_namespaces.len() }.into());
        }
        namespaces.set(index, Wire(*id), 0).map_err(|source| SessionError::map("PID_NAMESPACES", source))?;
        filter.pid_namespaces = index + 1;
    }
    filter.threads = u32::from(!scope.pids.is_empty());
    follow_threads(ebpf, proc, &scope.pids)?;
    let mut scopes: Array<&mut MapData, Wire<Filter>> = wire::map(ebpf, "SCOPE")?;
    scopes.set(0, Wire(filter), 0).map_err(|source| SessionError::map("SCOPE", source))
}

/// Puts all threads of the processes and of their descendants into the set.
///
/// Threads that members of the set create are added by the kernel. A thread that was created before its
/// creator was added is found by reading again, until there is nothing new.
fn follow_threads(ebpf: &mut Ebpf, proc: &Proc, pids: &[u32]) -> Result<(), SessionError> {
    let mut threads: HashMap<&mut MapData, u32, u8> = wire::map(ebpf, "THREADS")?;
    let mut known = BTreeSet::new();
    loop {
        let mut new = 0;
        let entries = proc.entries().map_err(ScopeError::Processes)?;
        for pid in descendants(pids.to_vec(), &entries) {
            for tid in proc.threads(pid) {
                if known.insert(tid) {
                    new += 1;
                    threads.insert(tid, 1, 0).map_err(|source| SessionError::map("THREADS", source))?;
                }
            }
        }
        if new == 0 {
            return Ok(());
        }
    }
}
