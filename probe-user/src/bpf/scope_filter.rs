//! Scope → the maps that the filter in the kernel reads. They can be changed while the filter is in use.

use std::collections::{BTreeSet, HashMap};

use aya::Ebpf;
use aya::maps::{Array, HashMap as Table, MapData};
use probe_common::{
    CGROUP_IN, CGROUP_OUT, KernelScope as Switches, NamespaceId, PID_NAMESPACES, SCOPE_CGROUPS,
    SCOPE_THREADS, THREAD_IN,
};

use super::error::{is_absent, is_full};
use super::pod::{self, PodCompat};
use super::{SessionError, error::ScopeError};
use crate::proc::cgroup::CGROUP_LEVELS;
use crate::proc::cgroup::Cgroup;
use crate::proc::process::Proc;
use crate::proc::process::descendants_in;
use crate::scope::{Scope, ScopeChange};

pub(super) struct ScopeFilter {
    proc: Proc,
    switches: Switches,
    /// The level, and `CGROUP_IN` or `CGROUP_OUT`, by cgroup id.
    cgroups: HashMap<u64, (u32, u8)>,
    namespaces: Vec<NamespaceId>,
}

impl ScopeFilter {
    /// Writes the scope. The tracepoints that follow forks and cgroups must be attached already.
    pub(super) fn write(ebpf: &mut Ebpf, scope: &Scope) -> Result<Self, SessionError> {
        let switches = Switches {
            all: scope.all.into(),
            watch: scope.watch.into(),
            leaves_at_exec: scope.leaves_at_exec.into(),
            ..Switches::default()
        };
        let mut filter =
            Self { proc: Proc::default(), switches, cgroups: HashMap::new(), namespaces: Vec::new() };
        // Excluded cgroups first, so that nothing in them is ever in scope.
        for cgroup in &scope.excluded {
            filter.put(ebpf, cgroup, CGROUP_OUT)?;
        }
        for cgroup in &scope.cgroups {
            filter.put(ebpf, cgroup, CGROUP_IN)?;
        }
        for &id in &scope.pid_namespaces {
            filter.enter_namespace(ebpf, id)?;
        }
        if !scope.pids.is_empty() {
            filter.enter_processes(ebpf, &scope.pids)?;
        }
        filter.switch(ebpf)?;
        Ok(filter)
    }

    /// Changes what is in scope. The tracepoint that follows forks must be attached before a process enters.
    pub(super) fn change(&mut self, ebpf: &mut Ebpf, change: &ScopeChange) -> Result<(), SessionError> {
        let before = self.switches;
        match change {
            ScopeChange::EnterCgroup(cgroup) => self.put(ebpf, cgroup, CGROUP_IN)?,
            ScopeChange::ExcludeCgroup(cgroup) => self.put(ebpf, cgroup, CGROUP_OUT)?,
            ScopeChange::ForgetCgroup(id) => self.forget(ebpf, *id)?,
            ScopeChange::EnterNamespace(id) => self.enter_namespace(ebpf, *id)?,
            ScopeChange::EnterProcess(pid) => self.enter_processes(ebpf, &[*pid])?,
            ScopeChange::LeaveProcess(pid) => self.leave_process(ebpf, *pid)?,
        }
        if before == self.switches { Ok(()) } else { self.switch(ebpf) }
    }

    /// Lets everything out of scope.
    pub(super) fn close(&mut self, ebpf: &mut Ebpf) -> Result<(), SessionError> {
        self.switches = Switches::default();
        self.switch(ebpf)
    }

    fn switch(&self, ebpf: &mut Ebpf) -> Result<(), SessionError> {
        let mut switches: Array<&mut MapData, PodCompat<Switches>> = pod::map(ebpf, "SCOPE")?;
        switches.set(0, PodCompat(self.switches), 0).map_err(|source| SessionError::map("SCOPE", source))
    }

    /// A cgroup that is excluded stays excluded until it is removed.
    fn put(&mut self, ebpf: &mut Ebpf, cgroup: &Cgroup, mark: u8) -> Result<(), SessionError> {
        let Cgroup { id, level, ref path } = *cgroup;
        if level >= CGROUP_LEVELS {
            return Err(ScopeError::TooDeep { path: path.clone(), level }.into());
        }
        if let Some((_, current)) = self.cgroups.get(&id)
            && (*current == mark || *current == CGROUP_OUT)
        {
            return Ok(());
        }
        let mut cgroups: Table<&mut MapData, u64, u8> = pod::map(ebpf, "CGROUPS")?;
        cgroups.insert(id, mark, 0).map_err(|source| match source {
            full if is_full(&full) => {
                ScopeError::TooManyCgroups { path: path.clone(), limit: SCOPE_CGROUPS }.into()
            }
            source => SessionError::map("CGROUPS", source),
        })?;
        self.cgroups.insert(id, (level, mark));
        self.switches.cgroup_levels = self.levels();
        Ok(())
    }

    fn forget(&mut self, ebpf: &mut Ebpf, id: u64) -> Result<(), SessionError> {
        if self.cgroups.remove(&id).is_none() {
            return Ok(());
        }
        let mut cgroups: Table<&mut MapData, u64, u8> = pod::map(ebpf, "CGROUPS")?;
        // The kernel has usually removed the entry together with the cgroup.
        match cgroups.remove(&id) {
            Err(error) if !is_absent(&error) => return Err(SessionError::map("CGROUPS", error)),
            _ => {}
        }
        self.switches.cgroup_levels = self.levels();
        Ok(())
    }

    /// Bit n is set if there is a cgroup of level n.
    fn levels(&self) -> u32 {
        self.cgroups.values().fold(0, |levels, (level, _)| levels | 1 << level)
    }

    fn enter_namespace(&mut self, ebpf: &mut Ebpf, id: NamespaceId) -> Result<(), SessionError> {
        if self.namespaces.contains(&id) {
            return Ok(());
        }
        if self.namespaces.len() >= PID_NAMESPACES as usize {
            self.drop_dead_namespaces()?;
        }
        if self.namespaces.len() >= PID_NAMESPACES as usize {
            return Err(ScopeError::TooManyNamespaces { count: self.namespaces.len() + 1 }.into());
        }
        self.namespaces.push(id);
        let mut namespaces: Array<&mut MapData, PodCompat<NamespaceId>> = pod::map(ebpf, "PID_NAMESPACES")?;
        for (index, id) in (0..).zip(&self.namespaces) {
            namespaces
                .set(index, PodCompat(*id), 0)
                .map_err(|source| SessionError::map("PID_NAMESPACES", source))?;
        }
        self.switches.pid_namespaces = u32::try_from(self.namespaces.len()).unwrap_or(PID_NAMESPACES);
        Ok(())
    }

    /// The end of a namespace is not reported. It has ended when no process is in it.
    fn drop_dead_namespaces(&mut self) -> Result<(), SessionError> {
        let entries = self.proc.entries().map_err(ScopeError::Processes)?;
        let living: BTreeSet<(u64, u64)> =
            entries.iter().filter_map(|entry| entry.namespace).map(|id| (id.device, id.inode)).collect();
        self.namespaces.retain(|id| living.contains(&(id.device, id.inode)));
        Ok(())
    }

    /// Removes all threads of a process from the set.
    fn leave_process(&self, ebpf: &mut Ebpf, pid: u32) -> Result<(), SessionError> {
        let mut threads: Table<&mut MapData, u32, u8> = pod::map(ebpf, "THREADS")?;
        for tid in self.proc.threads(pid) {
            // The thread may be missing from the set already, because of an exec or because it has ended.
            let _ = threads.remove(&tid);
        }
        Ok(())
    }

    /// Adds all threads of the processes to the set, with those of their descendants unless `leaves_at_exec`
    /// is set.
    ///
    /// The kernel adds threads that members of the set create. A thread that was created before its creator
    /// was added is found by reading again, until there is nothing new.
    fn enter_processes(&mut self, ebpf: &mut Ebpf, pids: &[u32]) -> Result<(), SessionError> {
        self.switches.threads = 1;
        let mut threads: Table<&mut MapData, u32, u8> = pod::map(ebpf, "THREADS")?;
        let mut added = BTreeSet::new();
        loop {
            let before = added.len();
            let mut seen = BTreeSet::new();
            // If programs are admitted one by one, the processes that a program has started are not admitted
            // along with it.
            let members = match self.switches.leaves_at_exec {
                0 => descendants_in(pids.to_vec(), &self.proc.children().map_err(ScopeError::Processes)?),
                _ => pids.iter().copied().collect(),
            };
            for pid in members {
                for tid in self.proc.living_threads(pid) {
                    seen.insert(tid);
                    if added.insert(tid) {
                        let flags = threads.get(&tid, 0).unwrap_or(0) | THREAD_IN;
                        threads.insert(tid, flags, 0).map_err(|source| match source {
                            full if is_full(&full) => {
                                ScopeError::TooManyThreads { pid, limit: SCOPE_THREADS }.into()
                            }
                            source => SessionError::map("THREADS", source),
                        })?;
                    }
                }
            }
            // If the end of a thread was reported before the thread was added, the report did not remove it.
            // It is removed here, because its id may soon be reused.
            for ended in added.difference(&seen) {
                let _ = threads.remove(ended);
            }
            if added.len() == before {
                return Ok(());
            }
        }
    }
}
