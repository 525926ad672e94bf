//! The processes of a command that ctrace started: each is stopped when it maps code, and resumed from here.
//!
//! Owns the table of stopped processes and of their parents, which may stop themselves too. A process that is
//! not in the table is never continued, and none is left stopped: dropping a [`ProcessStopper`] resumes all
//! of them.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};
use probe_common::THREAD_HOLD;
use rustix::process::{Pid, Signal, kill_process};

use super::links::Links;
use super::{SessionError, loader, pod};
use crate::plan::program_set::ProgramFamily;
use crate::proc::process::Proc;

/// The name of the table of stopped processes.
const HELD: &str = "STOPPED";
/// Whether the kernel can stop a process from a BPF program (Linux 5.5).
pub(super) fn is_possible() -> bool {
    is_helper_supported(ProgramType::TracePoint, BpfHelper::BPF_FUNC_send_signal_thread).unwrap_or(false)
}

/// Set in a key of the table: we did not stop this process, but a child of it. `su` and similar programs wait
/// for a child, and stop themselves when it stops. Then nobody else would continue them.
const PARENT: u32 = 1 << 31;
/// How often a parent is checked after its child was resumed. The parent may learn only later that the child
/// had stopped.
const LOOKS: u8 = 20;

struct StoppedProcess {
    table: HashMap<MapData, u32, u8>,
    proc: Proc,
}

impl StoppedProcess {
    fn new(table: HashMap<MapData, u32, u8>) -> Self {
        Self { table, proc: Proc::default() }
    }

    /// Continues a process. Does nothing if we did not stop it.
    fn resume(&mut self, pid: u32) {
        if self.table.remove(&pid).is_ok() {
            send_cont(pid);
        }
    }

    /// Continues a parent that has stopped itself. If the parent is in the table because it has executed a
    /// program in between, then we have stopped it, and it stays stopped.
    fn resume_parent(&self, parent: u32) {
        if self.proc.is_stopped(parent) && self.table.get(&parent, 0).is_err() {
            send_cont(parent);
        }
    }

    /// The parent of a stopped process, which is also recorded in the table.
    fn note_parent(&mut self, pid: u32) -> Option<u32> {
        let parent = self.proc.parent(pid).filter(|parent| *parent > 1)?;
        // If the table is full, only this process keeps track of the parent.
        let _ = self.table.insert(parent | PARENT, 1, 0);
        Some(parent)
    }

    fn resume_all(&mut self) {
        let keys: Vec<u32> = self.table.keys().filter_map(Result::ok).collect();
        for pid in keys.iter().filter(|key| **key & PARENT == 0) {
            self.note_parent(*pid);
            self.resume(*pid);
        }
        // A parent whose child was continued just now is checked when this is called again.
        for key in keys.iter().filter(|key| **key & PARENT != 0) {
            self.resume_parent(key & !PARENT);
        }
    }
}

fn send_cont(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // The process may have been killed meanwhile.
        let _ = kill_process(pid, Signal::CONT);
    }
}

/// Stops the processes of a command while this exists.
pub(super) struct ProcessStopper {
    on: Array<MapData, u32>,
    held: StoppedProcess,
    table: Option<u32>,
    /// Parents of processes that were stopped, and how many more times each is checked.
    parents: BTreeMap<u32, u8>,
}

impl ProcessStopper {
    /// From now on, stops the process and those that it forks whenever they map code.
    pub(super) fn start(ebpf: &mut Ebpf, links: &mut Links, pid: u32) -> Result<Self, SessionError> {
        let held = ebpf.map_mut(HELD).and_then(|map| match map {
            Map::HashMap(data) => data.info().ok(),
            _ => None,
        });
        let table = held.map(|info| info.id());
        let held = StoppedProcess::new(pod::take(ebpf, HELD)?);
        let mut on: Array<MapData, u32> = pod::take(ebpf, "STOP_ENABLED")?;
        let mut threads: HashMap<&mut MapData, u32, u8> = pod::map(ebpf, "THREADS")?;
        // The bit for the scope is kept as it is: it has been decided before.
        let flags = threads.get(&pid, 0).unwrap_or(0) | THREAD_HOLD;
        threads.insert(pid, flags, 0).map_err(|source| SessionError::map("THREADS", source))?;
        on.set(0, 1, 0).map_err(|source| SessionError::map("STOP_ENABLED", source))?;
        let holding = Self { on, held, table, parents: BTreeMap::new() };
        if let Err(error) = loader::attach_tracepoints(ebpf, links, ProgramFamily::MmapStops) {
            tracing::warn!(
                "{error}; the first calls of a library that the command loads may be missed, not those of \
                 programs that it starts"
            );
        }
        Ok(holding)
    }

    /// The table's id in the kernel, for [`StoppedProcesses::of`].
    pub(super) fn table(&self) -> Option<u32> {
        self.table
    }

    /// Continues a process after the files that it mapped were inspected. `is_ours` returns whether a process
    /// can be stopped by us as well.
    pub(super) fn resume(&mut self, pid: u32, is_ours: impl FnOnce(u32) -> bool) {
        if self.held.proc.parent(pid).is_some_and(is_ours)
            && let Some(parent) = self.held.note_parent(pid)
        {
            self.parents.insert(parent, LOOKS);
        }
        self.held.resume(pid);
    }

    /// Continues parents that stopped themselves along with a child. To be called regularly.
    pub(super) fn look_after(&mut self) {
        let Self { held, parents, .. } = self;
        parents.retain(|parent, looks| {
            held.resume_parent(*parent);
            *looks -= 1;
            let is_over = *looks == 0;
            if is_over {
                let _ = held.table.remove(&(parent | PARENT));
            }
            !is_over
        });
    }

    /// Stops no more processes, and continues those that are stopped.
    pub(super) fn end(&mut self) {
        // If this fails, the programs are detached soon, and dropping continues all processes again.
        let _ = self.on.set(0, 0, 0);
        self.held.resume_all();
    }
}

impl Drop for ProcessStopper {
    fn drop(&mut self) {
        self.end();
    }
}

/// The table of stopped processes of another ctrace, which may have been killed.
pub struct StoppedProcesses(StoppedProcess);

impl StoppedProcesses {
    /// Opens the table by its id, while the other ctrace is alive.
    pub fn of(table: u32) -> Result<Self, SessionError> {
        let map = |source| SessionError::map(HELD, source);
        let data = MapData::from_id(table).map_err(map)?;
        Ok(Self(StoppedProcess::new(HashMap::try_from(Map::HashMap(data)).map_err(map)?)))
    }

    /// Continues all of them. To be called more than once, because their parents stop themselves a little
    /// later.
    pub fn resume_all(&mut self) {
        self.0.resume_all();
    }
}
