//! Facts about the processes that make calls. They are added to events, and never decide about them.
//!
//! A fact that is not available (the process has exited, no runtime answers) is left out; it never costs
//! data.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use lru::LruCache;
use probe_common::{ExecRecord, Header};

use crate::container::index::ContainerIndex;
use crate::decode::MmapEvent;
use crate::event::{Containment, Executable, Process, ProcessContext, Role, Socket};
use crate::pipeline::{ProcessImage, ProcessInfo, UnreadBytes};
use crate::proc::process_snapshot::{self as running, CommandLine, MissingFields};

mod file_bytes;
mod programs;
mod roles;
mod symbolizer;

use file_bytes::FileBytes;
use programs::Programs;
use roles::Listeners;
pub use symbolizer::StackSymbolizer;

/// Limit of the exited processes whose facts are kept, for records that arrive late.
const ENDED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// An id that no cgroup has.
const NO_CGROUP: u64 = 0;

/// An id that no process has, so that only the cgroup counts.
const NO_PROCESS: u32 = u32::MAX;

/// Facts about processes, read once for each and cached while it runs.
#[derive(Debug)]
pub struct ProcessInfoCache {
    containers: ContainerIndex,
    programs: Programs,
    listeners: Listeners,
    files: FileBytes,
    living: HashMap<u32, CachedOrigin>,
    /// Facts about processes that have exited or that execute another program. They are used only if /proc
    /// has nothing better.
    stale: LruCache<u32, Arc<ProcessContext>>,
    /// Facts about processes of ctrace's command, with the program that each has executed last. They are used
    /// likewise, and before the others.
    starting: LruCache<u32, Arc<ProcessContext>>,
}

/// The facts about a process, and the [`ContainerIndex::version`] with which its container was last compared.
#[derive(Debug)]
struct CachedOrigin {
    origin: Arc<ProcessContext>,
    version: u64,
}

impl ProcessInfoCache {
    /// Reads the facts about these processes, which run now.
    pub fn new(containers: ContainerIndex, pids: impl IntoIterator<Item = u32>) -> Self {
        let programs = Programs::new();
        let (listeners, files) = (Listeners::new(), FileBytes::default());
        let (living, stale, starting) = (HashMap::new(), LruCache::sparse(ENDED), LruCache::sparse(ENDED));
        let mut facts = Self { containers, programs, listeners, files, living, stale, starting };
        pids.into_iter().for_each(|pid| facts.prime(pid));
        facts
    }

    /// Reads the facts about a process that runs now, unless they are known: when its first record is
    /// handled, it may have ended.
    pub fn prime(&mut self, pid: u32) {
        if self.living.contains_key(&pid) {
            return;
        }
        let origin = self.containers.origin(pid, NO_CGROUP);
        // If the process has already exited, leave it out: its own records may carry more than /proc does
        // now.
        if origin.process.vpid.is_some() {
            self.keep(pid, Arc::new(origin));
        }
    }

    /// The facts about a running process, read now.
    pub fn read_now(&mut self, pid: u32) -> ProcessContext {
        self.containers.origin(pid, NO_CGROUP)
    }

    /// Records mappings that the kernel reported, in the order of their times, for [`ProcessInfo::program`].
    pub fn mapped(&mut self, mappings: &[MmapEvent]) {
        for mapping in mappings {
            self.programs.mapped(mapping);
        }
    }

    /// Must be called when records were lost, because any process may have changed. Each process is read
    /// again at its next call.
    pub fn distrust(&mut self) {
        for pid in self.living.keys().copied().collect::<Vec<_>>() {
            self.retire(pid);
        }
    }

    /// Records that a process will execute a program, in case it has ended when its first call is read.
    pub fn starting(&mut self, pid: u32, executable: &Path) {
        let mut origin = self.read_now(pid);
        let path = executable.to_string_lossy().into_owned();
        origin.process.executable = Some(Executable { path });
        self.starting.put(pid, Arc::new(origin));
    }

    fn retire(&mut self, pid: u32) {
        if let Some(CachedOrigin { origin, .. }) = self.living.remove(&pid) {
            self.stale.put(pid, origin);
        }
    }

    fn keep(&mut self, pid: u32, origin: Arc<ProcessContext>) {
        self.living.insert(pid, CachedOrigin { origin, version: self.containers.version() });
    }

    /// The cached facts, unless they have to be read again. If a runtime has reported something new since
    /// they were cached, that may be about the container of this process.
    fn cached(&mut self, header: &Header) -> Option<Arc<ProcessContext>> {
        let version = self.containers.version();
        let cached = self.living.get_mut(&header.pid)?;
        if cached.version != version {
            let container = self.containers.of_process(header.pid, header.cgroup);
            if container == Containment::Unknown {
                self.retire(header.pid);
                return None;
            }
            cached.version = version;
            let ProcessContext { process, container: before } = &*cached.origin;
            let entered = self.containers.entered_by(header.pid, &container);
            // Of a process that has ended it is not known any more.
            let entered = entered.or_else(|| process.entered.clone().filter(|_| container == *before));
            if container != *before || entered != process.entered {
                let process = Process { entered, ..process.clone() };
                cached.origin = Arc::new(ProcessContext { process, container });
            }
        }
        Some(Arc::clone(&cached.origin))
    }

    fn read(&mut self, header: &Header) -> Arc<ProcessContext> {
        let origin = self.containers.origin(header.pid, header.cgroup);
        // A process that nobody has waited for yet still has its status, but no executable.
        let has_exited = origin.process.vpid.is_none() || origin.process.executable.is_none();
        let started = self.starting.get(&header.pid).or_else(|| self.stale.get(&header.pid));
        let Some(stale) = started.filter(|_| has_exited) else { return Arc::new(origin) };
        // For a process that has exited, the cgroup still leads to the container, with its present name.
        let container = match origin.container {
            Containment::Unknown => stale.container.clone(),
            container => container,
        };
        Arc::new(ProcessContext { container, ..ProcessContext::clone(stale) })
    }
}

impl ProcessInfo for ProcessInfoCache {
    fn origin(&mut self, header: &Header) -> Arc<ProcessContext> {
        if let Some(origin) = self.cached(header) {
            return origin;
        }
        let origin = self.read(header);
        self.keep(header.pid, Arc::clone(&origin));
        origin
    }

    fn forget(&mut self, pid: u32) {
        self.files.forget(pid);
        self.retire(pid);
    }

    fn container(&mut self, cgroup: u64) -> Containment {
        self.containers.origin(NO_PROCESS, cgroup).container
    }

    fn program(&mut self, program: &ExecRecord) -> ProcessImage {
        let found = self.programs.program(&self.containers, program);
        self.keep(program.header.pid, Arc::clone(&found.origin));
        found
    }

    fn existing(&mut self, pid: u32) -> Option<(ProcessImage, CommandLine)> {
        let found = Programs::existing(&self.containers, pid)?;
        self.keep(pid, Arc::clone(&found.0.origin));
        Some(found)
    }

    fn started(&mut self, pid: u32) -> Option<u64> {
        self.programs.started(pid)
    }

    fn role(&mut self, pid: u32, namespace: u32, socket: &Socket) -> Option<Role> {
        self.listeners.role(pid, namespace, socket)
    }

    fn unread(&mut self, unread: &UnreadBytes<'_>) -> Option<Vec<u8>> {
        self.files.read(unread)
    }

    fn comm(&mut self, pid: u32) -> Option<Vec<u8>> {
        running::running(pid, None, MissingFields::ALL).map(|running| running.comm)
    }
}
