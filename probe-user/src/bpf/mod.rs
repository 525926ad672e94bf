//! Plan → Session: the programs, their links, the ring buffer. The only importer of aya.
//!
//! Dropping a [`Session`] leaves nothing in the kernel, and neither does killing the process, because nothing
//! is pinned. Payloads are not interpreted here: the bytes of the ring are passed to the caller as they are.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use aya::maps::{MapData, PerCpuArray};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use probe_common::{
    ConnectionKey, ConnectionState, CountKey, Frame, GoCall, Loss, LossCount, OpenCall, STAGE_CLEARTEXT,
    STAGE_DECODED, STAGE_IGNORED, THREAD_IN, UnattributedSocket,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::unix::AsyncFd;

use crate::event::CaptureVerdict;
use crate::pipeline::Counter;
use crate::plan::program_set::{ProgramFamily, ProgramSet};
use crate::scope::{Scope, ScopeChange};

mod attach;
mod attach_warmup;
mod btf;
mod error;
mod exec;
pub mod features;
mod function_maps;
mod inode_floors;
mod lacking;
mod links;
mod loader;
mod mmap_events;
mod perf_uprobe;
mod pod;
mod preload;
mod programs;
mod ring;
mod scope_filter;
mod signals;
mod sockets;
mod sys;
mod tracepoint_format;
mod uprobe_multi;
mod usdt_semaphore;

pub use attach_warmup::AttachWarmup;
pub use error::SessionError;
use function_maps::FunctionMaps;
pub use lacking::ProbeRights;
use links::Links;
use loader::Uprobes;
pub use mmap_events::{MmapEvents, TrackExec};
use pod::PodCompat;
use ring::Ring;
use scope_filter::ScopeFilter;

/// The options of [`Session::load`].
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The programs to load in addition to those that every session has.
    pub programs: ProgramSet,
    /// The size of the ring buffer in bytes, a power of two of at least a page.
    pub ring_bytes: u32,
    /// Payload bytes to capture of each call.
    pub max_bytes: u32,
    /// Whether the BPF programs log.
    pub log: BpfLog,
    /// How programs are attached to functions.
    pub probe_link: ProbeLink,
    /// The process of a command that ctrace has started. It is not in scope until it executes the command.
    pub command: Option<u32>,
}

/// Whether the BPF programs log what they do, which slows the target down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BpfLog {
    /// They do not log.
    Off,
    /// They log to ctrace's log at level debug.
    Debug,
}

/// What links programs to the functions of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProbeLink {
    /// One link for all places if the kernel has that (Linux 6.6), otherwise one per place.
    #[default]
    Auto,
    /// One link per place, to a perf event.
    Perf,
    /// One link for all places at which a program runs, or an error.
    Multi,
}

impl ProbeLink {
    /// Whether all places of a file have one link, as far as that can be found out.
    pub fn is_multi(self) -> bool {
        match self {
            Self::Auto => features::uprobe_multi() == Some(true),
            Self::Perf => false,
            Self::Multi => true,
        }
    }
}

/// How much of the ring was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// The ring was empty.
    Nothing,
    /// Everything that was in the ring.
    All,
    /// As much as is read at once. There may be more.
    Part,
}

/// The shortest and the longest time that [`Session::wait`] waits for data without being woken.
const DRAIN_INTERVALS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// The most records that one [`Session::drain`] reads, so that signals are handled even under full load.
const DRAIN_RECORDS: usize = 4096;

/// The families that are attached to tracepoints when a session that needs them is loaded, in this order.
/// Forks are attached only if there are processes to follow.
const ATTACHED_AT_START: [ProgramFamily; 7] = [
    ProgramFamily::Cgroups,
    ProgramFamily::TaskExecs,
    ProgramFamily::ExecRecords,
    ProgramFamily::TaskExits,
    ProgramFamily::Lineage,
    ProgramFamily::ExecFailures,
    ProgramFamily::Forks,
];

/// The programs of a session, before they are attached. To load them, nothing needs to be known of the
/// processes, so that can be done while these are searched for.
pub struct LoadedPrograms {
    uprobes: Uprobes,
    ebpf: Ebpf,
    links: Links,
    families: BTreeSet<ProgramFamily>,
    captures_cleartext: bool,
    log: BpfLog,
}

/// What [`prepare`] has prepared.
pub struct Preparation {
    loader: EbpfLoader<'static>,
}

impl LoadedPrograms {
    /// Loads the programs that the trace needs, and those of `of_scope`. Needs Linux 5.15 (attach cookies)
    /// and the right to load BPF programs.
    pub fn load(
        Preparation { loader }: Preparation,
        options: &SessionOptions,
        of_scope: impl IntoIterator<Item = ProgramFamily>,
    ) -> Result<Self, SessionError> {
        let mut families: BTreeSet<_> = options.programs.families().chain(of_scope).collect();
        families.extend([ProgramFamily::TaskExits, ProgramFamily::Forks]);
        if !families.contains(&ProgramFamily::ExecRecords) {
            families.insert(ProgramFamily::TaskExecs);
        }
        if options.programs.probes_files() {
            families.insert(ProgramFamily::Signals);
        }
        let links = loader::links(options)?;
        let (ebpf, uprobes) = loader::load(loader, options, &mut families)?;
        let captures_cleartext = options.programs.captures_cleartext();
        Ok(Self { uprobes, ebpf, links, families, captures_cleartext, log: options.log })
    }
}

/// The loaded programs and what they are attached to.
pub struct Session {
    ring: AsyncFd<Ring>,
    lost: PerCpuArray<MapData, PodCompat<LossCount>>,
    connections: aya::maps::HashMap<MapData, PodCompat<ConnectionKey>, PodCompat<ConnectionState>>,
    sockets: aya::maps::HashMap<MapData, u64, PodCompat<UnattributedSocket>>,
    go_calls: aya::maps::HashMap<MapData, PodCompat<GoCall>, PodCompat<Frame>>,
    open_calls: aya::maps::HashMap<MapData, PodCompat<OpenCall>, PodCompat<Frame>>,
    functions: FunctionMaps,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    interval: Duration,
    filter: ScopeFilter,
    follows_forks: bool,
    /// Changes of the scope for which the filter had no room.
    without_room: u64,
    /// Records that were discarded because there was no time left for them.
    discarded: u64,
    families: BTreeSet<ProgramFamily>,
    // Links and programs are dropped after everything that reads their maps.
    links: Links,
    uprobes: Uprobes,
    ebpf: Ebpf,
}

/// For which calls the kernel probes a return that it is asked to probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelReturns {
    /// For all calls, by whatever process.
    OfAllCalls,
    /// For those that the program at the entry keeps (Linux 6.13).
    OfKeptCalls,
}

/// Checks what can be checked without changing anything, and reports what a session lacks.
pub fn check() -> Result<(), SessionError> {
    error::check_rights()?;
    error::check_kernel()
}

/// Prepares this process for a session, and reports what a session lacks.
///
/// To be called before other threads are started: if tracefs is not mounted, it is mounted in a mount
/// namespace of our own, which existing threads would not see. And for a moment, no file can be opened.
pub fn prepare() -> Result<Preparation, SessionError> {
    check()?;
    // Each link and each object holds a file open; the usual soft limit is 1024.
    let files = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum });
    if let Err(error) = raised {
        tracing::debug!("the limit of open files stays: {error}");
    }
    tracepoint_format::ensure_mounted()?;
    Ok(Preparation { loader: loader::without_kernel_types() })
}

impl Session {
    /// Loads the programs and starts a session, after [`prepare`]. To be called in an event loop.
    pub fn load(options: &SessionOptions, scope: &Scope) -> Result<Self, SessionError> {
        let of_scope = scope.watch.then_some(ProgramFamily::Cgroups);
        let preparation = Preparation { loader: EbpfLoader::new() };
        Self::start(LoadedPrograms::load(preparation, options, of_scope)?, scope)
    }

    /// Attaches the programs that follow processes and sockets, and writes the scope. To be called in an
    /// event loop. If the scope [watches](Scope::watch), the family [`ProgramFamily::Cgroups`] must have been
    /// loaded.
    pub fn start(programs: LoadedPrograms, scope: &Scope) -> Result<Self, SessionError> {
        let LoadedPrograms { uprobes, mut ebpf, mut links, families, captures_cleartext, log } = programs;
        // Something is attached soon, so the wait for the kernel begins while other things are attached.
        if families.contains(&ProgramFamily::Signals) {
            links.ahead().prime();
        }
        let ring = Ring::new(ebpf.take_map("EVENTS").ok_or(SessionError::Missing { name: "EVENTS" })?)?;
        let ring = pod::poll(ring)?;
        let lost = pod::take(&mut ebpf, "LOST")?;
        let connections = pod::take(&mut ebpf, "CONNECTIONS")?;
        let sockets = pod::take(&mut ebpf, "UNATTRIBUTED")?;
        let go_calls = pod::take(&mut ebpf, "GO_CALLS")?;
        let open_calls = pod::take(&mut ebpf, "OPEN_CALLS")?;
        let functions = FunctionMaps::take(&mut ebpf)?;
        let logger = match log {
            BpfLog::Off => None,
            BpfLog::Debug => EbpfLogger::init(&mut ebpf).ok(),
        };
        let follows_forks = !scope.pids.is_empty();
        let is_attached = |family: &ProgramFamily| match family {
            ProgramFamily::Forks => follows_forks,
            ProgramFamily::Cgroups => scope.watch,
            family => families.contains(family),
        };
        // Before the scope is written, so that changes in between are reported.
        for family in ATTACHED_AT_START.into_iter().filter(is_attached) {
            loader::attach_tracepoints(&mut ebpf, &mut links, family)?;
        }
        if families.contains(&ProgramFamily::Sockets) {
            let clear = captures_cleartext.then_some(ProgramFamily::ClearSockets);
            let all: Vec<_> = [ProgramFamily::Sockets].into_iter().chain(clear).collect();
            sockets::attach(&mut ebpf, &mut links, &all);
        }
        if families.contains(&ProgramFamily::SocketCloses) {
            sockets::attach_closes(&mut ebpf, &mut links);
        }
        if captures_cleartext {
            inode_floors::record(&mut ebpf)?;
        }
        if families.contains(&ProgramFamily::Signals) {
            signals::attach(&mut ebpf, &mut links);
        }
        let filter = ScopeFilter::write(&mut ebpf, scope)?;
        Ok(Self {
            ring,
            lost,
            connections,
            sockets,
            go_calls,
            open_calls,
            functions,
            logger,
            interval: DRAIN_INTERVALS.0,
            filter,
            follows_forks,
            without_room: 0,
            discarded: 0,
            families,
            links,
            uprobes,
            ebpf,
        })
    }

    /// Loads on another thread what the start did not need, so that a file that needs it later is attached to
    /// without a wait.
    pub fn load_rest(&mut self) {
        self.uprobes.load_rest(&self.families);
    }

    /// Changes what is in scope, starting with the next call of a function.
    ///
    /// If the filter is full, the error names its limit. Everything else goes on, and [`Session::lost`]
    /// counts the change as [`Loss::ScopeFull`].
    pub fn change(&mut self, change: &ScopeChange) -> Result<(), SessionError> {
        if matches!(change, ScopeChange::EnterProcess(_)) && !self.follows_forks {
            loader::attach_tracepoints(&mut self.ebpf, &mut self.links, ProgramFamily::Forks)?;
            self.follows_forks = true;
        }
        let changed = self.filter.change(&mut self.ebpf, change);
        self.without_room +=
            u64::from(matches!(&changed, Err(SessionError::Scope(error)) if error.is_full()));
        changed
    }

    /// Waits until there may be something to drain: the ring has passed a mark, or some time has passed.
    ///
    /// It polls, because traced threads do not wake us for each record, which would cost them more than
    /// everything else. The interval grows while nothing arrives. Cancel safe.
    pub async fn wait(&mut self) {
        tokio::select! {
            guard = self.ring.readable() => if let Ok(mut guard) = guard { guard.clear_ready() },
            () = tokio::time::sleep(self.interval) => (),
        }
    }

    /// Passes the available records to `visit`, oldest first, until it breaks.
    pub fn drain(&mut self, mut visit: impl FnMut(&[u8]) -> ControlFlow<()>) -> Drained {
        let ring = self.ring.get_mut();
        let mut records = 0;
        while records < DRAIN_RECORDS
            && let Some(flow) = ring.next(&mut visit)
        {
            records += 1;
            if flow.is_break() {
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

    /// Empties the scope, so that no more records are emitted, and begins to detach everything. Records that
    /// were emitted before can still be drained.
    pub fn close(&mut self) -> Result<(), SessionError> {
        self.filter.close(&mut self.ebpf)?;
        self.links.end();
        Ok(())
    }

    /// Whether everything is detached, after [`close`](Self::close). Then no more records come, and none that
    /// a program is still writing holds up those behind it.
    pub fn is_detached(&self) -> bool {
        self.links.are_removed()
    }

    /// Discards the records in the ring and counts them as lost, because there is no time left to read them.
    pub fn discard(&mut self) {
        let mut count = 0;
        while self.drain(|_| {
            count += 1;
            ControlFlow::Continue(())
        }) == Drained::Part
        {}
        self.discarded += count;
    }

    /// What was lost so far, by reason.
    pub fn lost(&self) -> Result<Vec<(Loss, LossCount)>, SessionError> {
        let sum = |loss: Loss| -> Result<LossCount, SessionError> {
            let per_cpu =
                self.lost.get(&(loss as u32), 0).map_err(|source| SessionError::map("LOST", source))?;
            let own = match loss {
                Loss::ScopeFull => LossCount { events: self.without_room, bytes: 0 },
                Loss::RingFull => LossCount { events: self.discarded, bytes: 0 },
                _ => LossCount::default(),
            };
            Ok(per_cpu.iter().fold(own, |sum, count| LossCount {
                events: sum.events + count.0.events,
                bytes: sum.bytes + count.0.bytes,
            }))
        };
        Loss::ALL.into_iter().map(|loss| Ok((loss, sum(loss)?))).collect()
    }

    /// The counters of function calls since the start.
    pub fn counted(&self) -> Result<Vec<(CountKey, Counter)>, SessionError> {
        self.functions.counted()
    }

    /// Removes the counters of a cgroup that no longer exists, to make room for others.
    pub fn forget_counted(&mut self, cgroup: u64) {
        self.functions.forget(cgroup);
    }

    /// Whether a thread still runs that is in scope by [`Scope::pids`] or as a descendant of one.
    ///
    /// The kernel's set includes descendants whose parents have ended, which /proc cannot connect to them.
    pub fn follows_threads(&mut self) -> Result<bool, SessionError> {
        let threads: aya::maps::HashMap<&mut MapData, u32, u8> = pod::map(&mut self.ebpf, "THREADS")?;
        Ok(threads.keys().next().is_some())
    }

    /// The threads that are in scope by [`Scope::pids`] or as descendants of one, including the main threads
    /// of processes.
    pub fn followed(&mut self) -> Vec<u32> {
        let threads: Result<aya::maps::HashMap<&mut MapData, u32, u8>, _> =
            pod::map(&mut self.ebpf, "THREADS");
        threads.map(|threads| threads.keys().filter_map(Result::ok).collect()).unwrap_or_default()
    }

    /// Whether a thread is in scope by [`Scope::pids`] or as a descendant of one.
    pub fn follows(&mut self, thread: u32) -> bool {
        let threads: Result<aya::maps::HashMap<&mut MapData, u32, u8>, _> =
            pod::map(&mut self.ebpf, "THREADS");
        threads.is_ok_and(|threads| threads.get(&thread, 0).is_ok_and(|flags| flags & THREAD_IN != 0))
    }

    /// The counters of a connection so far, as long as the kernel's table has it.
    pub fn connection(&self, key: ConnectionKey) -> Option<ConnectionState> {
        self.connections.get(&PodCompat(key), 0).ok().map(|state| state.0)
    }

    /// Removes the connections of processes that have ended, so that the table does not fill up.
    pub fn forget(&mut self, has_ended: impl Fn(u32) -> bool) {
        let keys: Vec<_> = self.connections.keys().filter_map(Result::ok).collect();
        let mut known = std::collections::HashMap::new();
        for key in keys {
            // Once for each process, because a process may have thousands of connections.
            if *known.entry(key.0.pid).or_insert_with(|| has_ended(key.0.pid)) {
                // If the entry is already gone, that is fine.
                let _ = self.connections.remove(&key);
            }
        }
    }

    /// Captures all bytes of a socket without TLS from now on, or none, by its address and its number.
    pub fn judge(&mut self, (sock, number): (u64, u64), verdict: CaptureVerdict) {
        const ONLY_IF_THERE: u64 = 2; // BPF_EXIST
        if let Ok(PodCompat(mut socket)) = self.sockets.get(&sock, 0)
            && socket.socket == number
            && socket.stage == STAGE_CLEARTEXT
        {
            socket.stage = match verdict {
                CaptureVerdict::Wanted => STAGE_DECODED,
                CaptureVerdict::Unwanted => STAGE_IGNORED,
            };
            // If the entry is gone meanwhile, that is fine.
            let _ = self.sockets.insert(sock, PodCompat(socket), ONLY_IF_THERE);
        }
    }

    /// Removes the open calls of processes that have ended. This visits every entry, so it is to be called
    /// only when a table is full ([`Loss::ThreadsFull`]).
    pub fn forget_calls(&mut self, has_ended: impl Fn(u32) -> bool) {
        let mut known = std::collections::HashMap::new();
        let mut is_over = |pid: u64| {
            let pid = u32::try_from(pid).unwrap_or(0);
            *known.entry(pid).or_insert_with(|| has_ended(pid))
        };
        // If an entry is already gone, that is fine.
        for key in self.go_calls.keys().filter_map(Result::ok).collect::<Vec<_>>() {
            if is_over(key.0.pid) {
                let _ = self.go_calls.remove(&key);
            }
        }
        for key in self.open_calls.keys().filter_map(Result::ok).collect::<Vec<_>>() {
            if is_over(key.0.pid) {
                let _ = self.open_calls.remove(&key);
            }
        }
    }
}
