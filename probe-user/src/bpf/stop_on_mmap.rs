//! The processes of a command that ctrace has started: they stop when they map code, and go on from here.
//!
//! Owns the table of the processes that are stopped, and of their parents, which may stop themselves with
//! them. Never continues one that is not in it, and never leaves one stopped: dropping a [`ProcessStopper`]
//! lets all of them go.

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

/// The table of stopped processes.
const HELD: &str = "STOPPED";
/// Whether the kernel can stop a process from a BPF program (Linux 5.5).
pub(super) fn is_possible() -> bool {
    is_helper_supported(ProgramType::TracePoint, BpfHelper::BPF_FUNC_send_signal_thread).unwrap_or(false)
}

/// Set in a key of the table: this one was not stopped by us, but a child of it was. `su` and its like wait
/// for a child that stops too, and stop themselves when it does: nobody else would let them go on.
const PARENT: u32 = 1 << 31;
/// How often a parent is looked at after its child went on: it need not have been told yet that the child had
/// stopped.
const LOOKS: u8 = 20;

/// Stopped processes, by id.
struct StoppedProcess {
    table: HashMap<MapData, u32, u8>,
    proc: Proc,
}

impl StoppedProcess {
    fn new(table: HashMap<MapData, u32, u8>) -> Self {
        Self { table, proc: Proc::default() }
    }

    /// Lets a process go on; nothing if it is not stopped by us.
    fn resume(&mut self, pid: u32) {
        if self.table.remove(&pid).is_ok() {
            send_cont(pid);
        }
    }

    /// Lets a parent go on that has stopped itself: one that executes a program in between may be stopped by
    /// us.
    fn resume_parent(&self, parent: u32) {
        if self.proc.is_stopped(parent) && self.table.get(&parent, 0).is_err() {
            send_cont(parent);
        }
    }

    /// The parent of a process that is stopped, noted in the table.
    fn note_parent(&mut self, pid: u32) -> Option<u32> {
        let parent = self.proc.parent(pid).filter(|parent| *parent > 1)?;
        // Without room it is known here alone.
        let _ = self.table.insert(parent | PARENT, 1, 0);
        Some(parent)
    }

    fn resume_all(&mut self) {
        let keys: Vec<u32> = self.table.keys().filter_map(Result::ok).collect();
        for pid in keys.iter().filter(|key| **key & PARENT == 0) {
            self.note_parent(*pid);
            self.resume(*pid);
        }
        // Those of children that went on just now are looked at when this is called again.
        for key in keys.iter().filter(|key| **key & PARENT != 0) {
            self.resume_parent(key & !PARENT);
        }
    }
}

fn send_cont(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have been killed meanwhile.
        let _ = kill_process(pid, Signal::CONT);
    }
}

/// Processes are being held.
pub(super) struct ProcessStopper {
    on: Array<MapData, u32>,
    held: StoppedProcess,
    table: Option<u32>,
    /// Parents of processes that were stopped, and how often they are looked at yet.
    parents: BTreeMap<u32, u8>,
}

impl ProcessStopper {
    /// Holds the process and what it forks from now on.
    pub(super) fn start(ebpf: &mut Ebpf, links: &mut Links, pid: u32) -> Result<Self, SessionError> {
        let held = ebpf.map_mut(HELD).and_then(|map| match map {
            Map::HashMap(data) => data.info().ok(),
            _ => None,
        });
        let table = held.map(|info| info.id());
        let held = StoppedProcess::new(pod::take(ebpf, HELD)?);
        let mut on: Array<MapData, u32> = pod::take(ebpf, "STOP_ENABLED")?;
        let mut threads: HashMap<&mut MapData, u32, u8> = pod::map(ebpf, "THREADS")?;
        // Whether it is in scope has been decided before.
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

    /// What a stopped process has mapped was looked at. `is_ours` tells of a process whether it can be held,
    /// too.
    pub(super) fn resume(&mut self, pid: u32, is_ours: impl FnOnce(u32) -> bool) {
        if self.held.proc.parent(pid).is_some_and(is_ours)
            && let Some(parent) = self.held.note_parent(pid)
        {
            self.parents.insert(parent, LOOKS);
        }
        self.held.resume(pid);
    }

    /// To be called now and then: lets parents go on that have stopped with a child.
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

    /// No process is stopped from now on, and those that are go on.
    pub(super) fn end(&mut self) {
        // Should it fail, the programs are detached soon, and dropping lets all go again.
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
    /// By the table's id, while the other lives.
    pub fn of(table: u32) -> Result<Self, SessionError> {
        let map = |source| SessionError::map(HELD, source);
        let data = MapData::from_id(table).map_err(map)?;
        Ok(Self(StoppedProcess::new(HashMap::try_from(Map::HashMap(data)).map_err(map)?)))
    }

    /// Lets all of them go on. To be called more than once: parents of theirs stop themselves a little later.
    pub fn resume_all(&mut self) {
        self.0.resume_all();
    }
}
