//! What is known of the processes whose calls are seen: added to events, never deciding over them.
//!
//! A fact that cannot be had (the process is gone, no runtime answers) is absent; it never costs data.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use probe_common::{ExecRecord, Header};

use crate::container::index::ContainerIndex;
use crate::decode::MmapEvent;
use crate::event::{Containment, ProcessContext, Role, Socket};
use crate::pipeline::{ProcessImage, ProcessInfo};
use crate::proc::process_snapshot::{self as running, CommandLine, MissingFields};

mod programs;
mod roles;
mod symbolizer;

use programs::Programs;
use roles::Listeners;
pub use symbolizer::StackSymbolizer;

/// Origins of ended processes that are kept, for records that arrive late.
const ENDED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// No cgroup has this id.
const NO_CGROUP: u64 = 0;

/// No process has this id: what is known then comes from the cgroup.
const NO_PROCESS: u32 = u32::MAX;

/// Facts about processes, read once each while they live.
#[derive(Debug)]
pub struct ProcessInfoCache {
    containers: ContainerIndex,
    programs: Programs,
    listeners: Listeners,
    living: HashMap<u32, Arc<ProcessContext>>,
    /// Processes that have ended or that execute another program: right only if /proc knows no better.
    stale: LruCache<u32, Arc<ProcessContext>>,
    /// [`ContainerIndex::version`] of what `living` was read from.
    version: u64,
}

impl ProcessInfoCache {
    /// Reads the facts of the processes that are there now.
    pub fn new(containers: ContainerIndex, pids: impl IntoIterator<Item = u32>) -> Self {
        let version = containers.version();
        let programs = Programs::new();
        let listeners = Listeners::new();
        let (living, stale) = (HashMap::new(), LruCache::sparse(ENDED));
        let mut facts = Self { containers, programs, listeners, living, stale, version };
        for pid in pids {
            let origin = facts.containers.origin(pid, NO_CGROUP);
            // Of one that has gone already its records may tell more.
            if origin.process.vpid.is_some() {
                facts.living.insert(pid, Arc::new(origin));
            }
        }
        facts
    }

    /// What is known of a process that is there.
    pub fn look_up(&mut self, pid: u32) -> ProcessContext {
        self.containers.origin(pid, NO_CGROUP)
    }

    /// The kernel tells of mappings, in the order of their times: for [`ProcessInfo::program`].
    pub fn mapped(&mut self, mappings: &[MmapEvent]) {
        for mapping in mappings {
            self.programs.mapped(mapping);
        }
    }

    /// To be called when records were lost: what was not seen may have changed anything. Every process is
    /// read again at its next call.
    pub fn distrust(&mut self) {
        for pid in self.living.keys().copied().collect::<Vec<_>>() {
            self.retire(pid);
        }
    }

    fn retire(&mut self, pid: u32) {
        if let Some(origin) = self.living.remove(&pid) {
            self.stale.put(pid, origin);
        }
    }

    fn read(&mut self, header: &Header) -> Arc<ProcessContext> {
        let origin = self.containers.origin(header.pid, header.cgroup);
        let has_gone = origin.process.vpid.is_none();
        let Some(stale) = self.stale.get(&header.pid).filter(|_| has_gone) else { return Arc::new(origin) };
        // The cgroup tells the container of one that has gone, with the name that it has by now.
        let container = match origin.container {
            Containment::Unknown => stale.container.clone(),
            known => known,
        };
        Arc::new(ProcessContext { container, ..ProcessContext::clone(stale) })
    }
}

impl ProcessInfo for ProcessInfoCache {
    fn origin(&mut self, header: &Header) -> Arc<ProcessContext> {
        let version = self.containers.version();
        if version != self.version {
            self.version = version;
            self.distrust();
        }
        if let Some(origin) = self.living.get(&header.pid) {
            return Arc::clone(origin);
        }
        let origin = self.read(header);
        self.living.insert(header.pid, Arc::clone(&origin));
        origin
    }

    fn forget(&mut self, pid: u32) {
        self.retire(pid);
    }

    fn container(&mut self, cgroup: u64) -> Containment {
        self.containers.origin(NO_PROCESS, cgroup).container
    }

    fn program(&mut self, program: &ExecRecord) -> ProcessImage {
        let found = self.programs.program(&self.containers, program);
        self.living.insert(program.header.pid, Arc::clone(&found.origin));
        found
    }

    fn existing(&mut self, pid: u32) -> Option<(ProcessImage, CommandLine)> {
        let found = Programs::existing(&self.containers, pid)?;
        self.living.insert(pid, Arc::clone(&found.0.origin));
        Some(found)
    }

    fn started(&mut self, pid: u32) -> Option<u64> {
        self.programs.started(pid)
    }

    fn role(&mut self, pid: u32, namespace: u32, socket: &Socket) -> Option<Role> {
        self.listeners.role(pid, namespace, socket)
    }

    fn comm(&mut self, pid: u32) -> Option<Vec<u8>> {
        running::running(pid, None, MissingFields::ALL).map(|running| running.comm)
    }
}
