//! The processes of a command that ctrace has started: they stop when they map code, and go on from here.
//!
//! Owns the table of the processes that are stopped. Never continues one that is not in it, and never leaves
//! one stopped: dropping a [`Holding`] lets all of them go.

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::{ProgramType, TracePoint};
use aya::sys::{BpfHelper, is_helper_supported};
use probe_common::THREAD_HOLD;
use rustix::process::{Pid, Signal, kill_process};

use super::{SessionError, wire};

/// The table of stopped processes.
const HELD: &str = "HELD";
/// Programs and their events in the group `syscalls`: the end first, so that none is begun without it.
const PROGRAMS: [(&str, &str); 2] = [("mmap_exit", "sys_exit_mmap"), ("mmap_enter", "sys_enter_mmap")];

/// Whether the kernel can stop a process from a BPF program (Linux 5.5).
pub(super) fn is_possible() -> bool {
    is_helper_supported(ProgramType::TracePoint, BpfHelper::BPF_FUNC_send_signal_thread).unwrap_or(false)
}

/// Stopped processes, by id.
pub(super) struct Held(HashMap<MapData, u32, u8>);

impl Held {
    /// Lets a process go on; nothing if it is not stopped by us.
    fn resume(&mut self, pid: u32) {
        if self.0.remove(&pid).is_err() {
            return;
        }
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // It may have been killed meanwhile.
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    fn resume_all(&mut self) {
        let pids: Vec<u32> = self.0.keys().filter_map(Result::ok).collect();
        for pid in pids {
            self.resume(pid);
        }
    }
}

/// Processes are being held.
pub(super) struct Holding {
    on: Array<MapData, u32>,
    held: Held,
    table: Option<u32>,
}

impl Holding {
    /// Holds the process and what it forks from now on.
    pub(super) fn start(ebpf: &mut Ebpf, pid: u32) -> Result<Self, SessionError> {
        let held = ebpf.map_mut(HELD).and_then(|map| match map {
            Map::HashMap(data) => data.info().ok(),
            _ => None,
        });
        let table = held.map(|info| info.id());
        let held = Held(wire::take(ebpf, HELD)?);
        let mut on: Array<MapData, u32> = wire::take(ebpf, "HOLDING")?;
        let mut threads: HashMap<&mut MapData, u32, u8> = wire::map(ebpf, "THREADS")?;
        // Whether it is in scope has been decided before.
        let flags = threads.get(&pid, 0).unwrap_or(0) | THREAD_HOLD;
        threads.insert(pid, flags, 0).map_err(|source| SessionError::map("THREADS", source))?;
        on.set(0, 1, 0).map_err(|source| SessionError::map("HOLDING", source))?;
        let holding = Self { on, held, table };
        for (name, event) in PROGRAMS {
            if let Err(error) = attach(ebpf, name, event) {
                tracing::warn!(
                    "{error}; the first calls of a library that the command loads may be missed, not those of programs that it starts"
                );
                break;
            }
        }
        Ok(holding)
    }

    /// The table's id in the kernel, for [`Stopped::of`].
    pub(super) fn table(&self) -> Option<u32> {
        self.table
    }

    /// What a stopped process has mapped was looked at.
    pub(super) fn resume(&mut self, pid: u32) {
        self.held.resume(pid);
    }

    /// No process is stopped from now on, and those that are go on.
    pub(super) fn end(&mut self) {
        // Should it fail, the programs are detached soon, and dropping lets all go again.
        let _ = self.on.set(0, 0, 0);
        self.held.resume_all();
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.end();
    }
}

fn attach(ebpf: &mut Ebpf, name: &'static str, event: &str) -> Result<(), SessionError> {
    let refused = |source| SessionError::program(name, source);
    let program: &mut TracePoint = wire::program(ebpf, name)?;
    program.load().map_err(refused)?;
    program.attach("syscalls", event).map(|_| ()).map_err(refused)
}

/// The table of stopped processes of another ctrace, which may have been killed.
pub struct Stopped(Held);

impl Stopped {
    /// By the table's id, while the other lives.
    pub fn of(table: u32) -> Result<Self, SessionError> {
        let map = |source| SessionError::map(HELD, source);
        let data = MapData::from_id(table).map_err(map)?;
        Ok(Self(Held(HashMap::try_from(Map::HashMap(data)).map_err(map)?)))
    }

    /// Lets all of them go on.
    pub fn resume_all(&mut self) {
        self.0.resume_all();
    }
}
