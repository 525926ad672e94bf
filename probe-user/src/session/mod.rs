//! Plan → Session: the programs, their links, the ring buffer. The only importer of aya.
//!
//! Dropping a [`Session`] leaves nothing in the kernel; neither does killing the process, because
//! nothing is pinned. It never looks at a payload: bytes of the ring go to the caller as they are.

use std::ops::ControlFlow;
use std::time::Duration;

use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::{TracePoint, UProbe, uprobe::UProbeScope};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use aya_log::EbpfLogger;
use probe_common::{CALL_BYTES, ConnectionKey, ConnectionState, Loss, LossCount};
use tokio::io::unix::AsyncFd;

use crate::plan::{Hook, ObjectHooks, Program};
use crate::target::Scope;
use crate::target::proc::Proc;

mod error;
pub mod features;
mod scope;
mod tracefs;
mod wire;

pub use error::SessionError;
use wire::Wire;

/// What [`Session::load`] needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of the ring buffer, a power of two of at least a page.
    pub ring_bytes: u32,
    /// Payload bytes to capture of each call.
    pub max_bytes: u32,
    /// Whether the BPF programs log.
    pub log: Log,
}

/// Whether the BPF programs log what they do; it costs the target time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// They do not.
    Off,
    /// They do, to the log at level debug.
    Debug,
}

/// The ring wakes its reader when its fill passes a multiple of its size divided by two to this power.
/// An eighth leaves the reader time, and is rare enough to cost the target nothing (docs/performance.md).
const WAKE_FRACTION_SHIFT: u32 = 3;

/// How much of the ring was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// There was nothing.
    Nothing,
    /// All that was there.
    All,
    /// As much as is taken at once; there may be more.
    Part,
}

/// How long [`Session::wait`] waits at the least and at the most for data that nobody woke us for.
const DRAIN_INTERVALS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

/// Records that one [`Session::drain`] takes at the most, so that signals are seen under full load.
const DRAIN_RECORDS: usize = 4096;

static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probe-ebpf"));

/// The loaded programs and what they are attached to.
pub struct Session {
    ring: AsyncFd<RingBuf<MapData>>,
    lost: PerCpuArray<MapData, Wire<LossCount>>,
    connections: aya::maps::HashMap<MapData, Wire<ConnectionKey>, Wire<ConnectionState>>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    interval: Duration,
    // Last: programs and links go when nothing reads their maps any more.
    ebpf: Ebpf,
}

/// Makes sure that a session can be had, and says what is missing otherwise.
///
/// To be called first of all, before other threads are started: where nobody has mounted tracefs, it is
/// mounted in a mount namespace of our own, which threads that exist already would not see.
pub fn prepare() -> Result<(), SessionError> {
    error::check_rights()?;
    error::check_kernel()?;
    tracefs::ensure_mounted()
}

impl Session {
    /// Loads all programs, after [`prepare`]. Needs Linux 5.15 (attach cookies) and the right to load BPF programs.
    pub fn load(options: Options, scope: &Scope) -> Result<Self, SessionError> {
        let wake_shift = options.ring_bytes.ilog2().saturating_sub(WAKE_FRACTION_SHIFT);
        let own_pid = std::process::id();
        let max_bytes = options.max_bytes.min(CALL_BYTES);
        let fork_child_pid = tracefs::field_offset("sched_process_fork", "child_pid")?;
        let exec_old_pid = tracefs::field_offset("sched_process_exec", "old_pid")?;
        let log_level = match options.log {
            Log::Off => 0_u8,
            Log::Debug => log::Level::Debug as u8,
        };
        let mut ebpf = EbpfLoader::new()
            .verifier_log_level(VerifierLogLevel::DISABLE)
            .map_max_entries("EVENTS", options.ring_bytes)
            .override_global("OWN_PID", &own_pid, true)
            .override_global("MAX_BYTES", &max_bytes, true)
            .override_global("WAKE_SHIFT", &wake_shift, true)
            .override_global("FORK_CHILD_PID", &fork_child_pid, true)
            .override_global("EXEC_OLD_PID", &exec_old_pid, true)
            .override_global(aya_log::LEVEL, &log_level, true)
            .load(PROGRAMS)
            .map_err(SessionError::load)?;
        let ring = wire::poll(wire::take(&mut ebpf, "EVENTS")?)?;
        let mut session = Self {
            ring,
            lost: wire::take(&mut ebpf, "LOST")?,
            connections: wire::take(&mut ebpf, "CONNECTIONS")?,
            logger: match options.log {
                Log::Off => None,
                Log::Debug => EbpfLogger::init(&mut ebpf).ok(),
            },
            interval: DRAIN_INTERVALS.0,
            ebpf,
        };
        session.load_programs()?;
        session.enter(scope)?;
        Ok(session)
    }

    fn load_programs(&mut self) -> Result<(), SessionError> {
        for name in ["call_enter", "call_return", "open_return"] {
            let program: &mut UProbe = wire::program(&mut self.ebpf, name)?;
            program.load().map_err(|source| SessionError::program(name, source))?;
        }
        for name in ["task_fork", "task_exec", "task_exit"] {
            let program: &mut TracePoint = wire::program(&mut self.ebpf, name)?;
            program.load().map_err(|source| SessionError::program(name, source))?;
        }
        Ok(())
    }

    /// Tells the kernel what is in scope, and follows processes from here on.
    fn enter(&mut self, scope: &Scope) -> Result<(), SessionError> {
        self.follow("task_exec", "sched_process_exec")?;
        self.follow("task_exit", "sched_process_exit")?;
        if !scope.pids.is_empty() {
            self.follow("task_fork", "sched_process_fork")?;
        }
        scope::write(&mut self.ebpf, &Proc::default(), scope)
    }

    fn follow(&mut self, name: &'static str, event: &str) -> Result<(), SessionError> {
        let program: &mut TracePoint = wire::program(&mut self.ebpf, name)?;
        program.attach("sched", event).map(|_| ()).map_err(|source| SessionError::program(name, source))
    }

    /// Attaches the hooks of an object; the links last as long as the session.
    ///
    /// Returns the hooks that could not be attached, by their index, with the reason.
    pub fn attach(&mut self, object: &ObjectHooks) -> Vec<(usize, SessionError)> {
        let mut failed = Vec::new();
        for (index, hook) in object.hooks.iter().enumerate() {
            if let Err(error) = self.attach_hook(object, hook) {
                failed.push((index, error));
            }
        }
        failed
    }

    fn attach_hook(&mut self, object: &ObjectHooks, hook: &Hook) -> Result<(), SessionError> {
        // The return first: a call that is entered in between is then merely not reported.
        let (names, cookie): (&[&str], _) = match (hook.program, hook.shape) {
            (Program::Call, shape) => {
                (&["call_return", "call_enter"], shape.map_or(0, probe_common::CallShape::pack))
            }
            (Program::Open, _) => (&["open_return"], 0),
        };
        for name in names {
            let program: &mut UProbe = wire::program(&mut self.ebpf, name)?;
            let point = aya::programs::uprobe::UProbeAttachPoint {
                location: aya::programs::uprobe::UProbeAttachLocation::AbsoluteOffset(hook.offset.0),
                cookie: Some(cookie),
            };
            program.attach(point, object.file.path(), UProbeScope::AllProcesses).map_err(|source| {
                SessionError::attach(&object.library.path, &hook.function, hook.offset, source)
            })?;
        }
        Ok(())
    }

    /// Waits until there may be something to drain: the ring has passed a mark, or some time has passed.
    ///
    /// Time, because traced threads do not wake us for each record (that costs them more than all the
    /// rest); the interval grows while nothing comes. Cancel safe.
    pub async fn wait(&mut self) {
        tokio::select! {
            guard = self.ring.readable() => if let Ok(mut guard) = guard { guard.clear_ready() },
            () = tokio::time::sleep(self.interval) => (),
        }
    }

    /// Hands the records that are there to `visit`, oldest first, until it breaks.
    pub fn drain(&mut self, mut visit: impl FnMut(&[u8]) -> ControlFlow<()>) -> Drained {
        let ring = self.ring.get_mut();
        let mut records = 0;
        while records < DRAIN_RECORDS
            && let Some(record) = ring.next()
        {
            records += 1;
            if visit(&record).is_break() {
                break;
            }
        }
        let (least, most) = DRAIN_INTERVALS;
        let (drained, interval) = match records {
            0 => (Drained::Nothing, (self.interval * 2).max(least).min(most)),
            DRAIN_RECORDS => (Drained::Part, Duration::ZERO),
            _ => (Drained::All, least),
        };
        self.interval = interval;
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
        drained
    }

    /// What was lost so far, in each way.
    pub fn lost(&self) -> Result<Vec<(Loss, LossCount)>, SessionError> {
        let sum = |loss: Loss| -> Result<LossCount, SessionError> {
            let per_cpu =
                self.lost.get(&(loss as u32), 0).map_err(|source| SessionError::map("LOST", source))?;
            Ok(per_cpu.iter().fold(LossCount::default(), |sum, count| LossCount {
                events: sum.events + count.0.events,
                bytes: sum.bytes + count.0.bytes,
            }))
        };
        Loss::ALL.into_iter().map(|loss| Ok((loss, sum(loss)?))).collect()
    }

    /// Whether a thread still runs that is in scope by [`Scope::pids`] or as a descendant of one.
    ///
    /// The kernel's set knows descendants whose parents have ended, which /proc does not tell.
    pub fn follows_threads(&mut self) -> Result<bool, SessionError> {
        let threads: aya::maps::HashMap<&mut MapData, u32, u8> = wire::map(&mut self.ebpf, "THREADS")?;
        Ok(threads.keys().next().is_some())
    }

    /// Forgets the connections of processes that have ended, so that their table does not fill up.
    pub fn forget(&mut self, has_ended: impl Fn(u32) -> bool) {
        let keys: Vec<_> = self.connections.keys().filter_map(Result::ok).collect();
        for key in keys {
            if u32::try_from(key.0.pid).is_ok_and(&has_ended) {
                // Gone already is as good.
                let _ = self.connections.remove(&key);
            }
        }
    }
}
