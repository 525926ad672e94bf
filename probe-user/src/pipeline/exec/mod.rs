//! Records of executions → events: assembles strings, keeps track of identities, and emits programs that run
//! already.
//!
//! Owns the state about the programs that were reported. Never reads /proc, which [`ProcessInfo`] does.

use std::borrow::Cow;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use probe_common::{
    ATTEMPT_CUT, ATTEMPT_UNREADABLE, ExecFailure, ExecRecord, ExecStringChunk, Execution, FLAG_EFFECTIVE,
    FLAG_ENVIRONMENT_CUT, FLAG_LONG_PATH, FLAG_STATUS, FLAG_UNREADABLE, Header, Lineage, ProcessExit,
    ProcessFork,
};

use super::emitter::Emitter;
use super::pending::{PendingLimits, PendingTable};
use super::{ProcessImage, ProcessInfo};
use crate::event::{
    Ancestor, ArgList, Body, Context, Exec, ExecFailed, ExecId, ExecLineage, Exit, ExitStatus, Fork,
    Plaintext, ProcessContext, ProcessUsers, Thread,
};
use crate::plan::capture::Environment;
use crate::proc::process_snapshot::{CommandLine, ProcessSnapshot};
use crate::proc::script::StartNames;
use crate::scope::ProcessFilter;

mod filter;
mod process_tree;
mod strings;

use filter::ExecFilter;
use process_tree::ProcessTree;
use strings::Parts;

/// How much waits for the records of programs: the threads, and the bytes of their parts.
const LIMITS: PendingLimits = PendingLimits { entries: 4096, bytes: 32 << 20 };

/// The most process ends that are remembered.
const ENDED: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// What is reported about executions.
#[derive(Clone, Debug)]
pub struct Executions {
    /// The environment variables to report.
    pub environment: Environment,
    /// The programs to report.
    pub choice: ProcessFilter,
}

/// A program that already ran when it was found.
struct RunningAtStart {
    id: ExecId,
    origin: Arc<ProcessContext>,
    running: ProcessSnapshot,
    given: CommandLine,
}

/// The state of exec tracing.
#[derive(Debug)]
pub(super) struct Execs {
    wanted: Environment,
    chosen: ExecFilter,
    /// The parts of the program of each thread. The record of the program comes next from that thread.
    parts: PendingTable<u32, Parts>,
    /// By process: the thread that reported the end, and the time.
    ended: LruCache<u32, (u32, u64)>,
    tree: ProcessTree,
}

impl Execs {
    pub(super) fn new(of: Option<Executions>) -> Self {
        let (wanted, choice) = match of {
            Some(Executions { environment, choice }) => (environment, choice),
            None => (Environment::None, ProcessFilter::default()),
        };
        Self {
            wanted,
            chosen: ExecFilter::new(choice),
            parts: PendingTable::new(LIMITS),
            ended: LruCache::sparse(ENDED),
            tree: ProcessTree::default(),
        }
    }

    /// Keeps a part of a program's strings, after those that came before it.
    pub(super) fn part(&mut self, part: &ExecStringChunk, data: &Plaintext<'_>) {
        let Header { tid, time, .. } = part.header;
        let mut parts = self.take_parts(tid, time);
        parts.add(part, data);
        self.parts.insert(tid, parts);
        // The records of the oldest programs were lost, and that was counted.
        while self.parts.evict().is_some() {}
    }

    /// Removes the parts of the program that a thread executed at this time. What else its thread left is
    /// discarded.
    fn take_parts(&mut self, tid: u32, time: u64) -> Parts {
        let parts = self.parts.remove(&tid).filter(|parts| parts.time == time);
        parts.unwrap_or_else(|| Parts::new(time))
    }

    /// The number of programs whose parts were evicted.
    pub(super) fn evicted(&self) -> u64 {
        self.parts.evicted()
    }

    /// Emits the record of a program.
    pub(super) fn program(
        &mut self,
        head: &ExecRecord,
        data: &Plaintext<'_>,
        info: &mut dyn ProcessInfo,
        report: &mut Emitter,
    ) -> io::Result<()> {
        let Header { pid, tid, time, .. } = head.header;
        let parts = self.take_parts(tid, time);
        let has = |flag| head.flags & flag != 0;
        let ProcessImage { origin, running } = info.program(head);
        let running = running.as_ref();
        let id = ExecId { pid, time };
        let uid = effective(head.flags, head.effective_uid, running);
        let name = strings::first(&head.header.comm).unwrap_or_default();
        let long = has(FLAG_LONG_PATH).then(|| parts.path()).flatten();
        let path = long.as_deref().or_else(|| strings::first(&head.path));
        let bytes = parts.arguments(head.offset, &data.0);
        let arguments =
            strings::arguments(&bytes, (!has(FLAG_UNREADABLE)).then_some(head.count), head.length);
        let directory = running.and_then(|running| running.directory.as_deref());
        let first = strings::first_arguments(&arguments);
        let start = StartNames { path, arguments: &first, directory };
        let looks =
            filter::FilteredProgram { comm: String::from_utf8_lossy(name), origin: &origin, uid, start };
        if !self.chosen.admit(id, &looks) {
            return Ok(());
        }
        let variables = parts.environment();
        let environment = (self.wanted != Environment::None).then(|| {
            let is_whole = !has(FLAG_ENVIRONMENT_CUT) && variables.len() == head.environment as usize;
            let end = is_whole.then(|| path.unwrap_or_default());
            strings::environment(&variables, end, &self.wanted)
        });
        let executable = origin.process.executable.as_ref().map(|executable| executable.path.as_str());
        let parent = self.tree.parent(pid, &head.parent, running, info);
        let depth = self.tree.enter(pid, id, parent.as_ref());
        let exec = Exec {
            lineage: ExecLineage { id: Some(id), parent: parent.as_ref().map(Cow::Borrowed), depth },
            users: ProcessUsers { real: Some(head.uid), effective: uid, group: Some(head.gid) },
            interpreter: path.and_then(|path| strings::interpreter(path, &arguments.list, executable)),
            path: path.map(Cow::Borrowed),
            arguments,
            environment,
            directory: directory.map(Cow::Borrowed),
            tty: running.and_then(|running| running.tty.as_deref()).map(Cow::Borrowed),
            existing: false,
        };
        report.executed(report.context(&head.header, &origin), exec)
    }

    /// Seeds the filter with a process that was already running and that we do not report, so that its later
    /// exit and fork records are filtered correctly.
    pub(super) fn seed_silently(&mut self, pid: u32, lineage: &Lineage, info: &mut dyn ProcessInfo) {
        if !self.chosen.is_all() {
            self.runs_already(pid, lineage, info);
        }
    }

    /// The program that a process already runs, if it was not reported and matches the filter. `lineage` is
    /// what the BPF programs have recorded about the process. A process that was only forked since then
    /// runs the same program as its parent, and has none of its own.
    fn runs_already(
        &mut self,
        pid: u32,
        lineage: &Lineage,
        info: &mut dyn ProcessInfo,
    ) -> Option<RunningAtStart> {
        let execution = lineage.execution;
        if self.tree.knows(pid) || (execution.pid != 0 && execution.pid != pid) {
            return None;
        }
        let (ProcessImage { origin, running }, given) = info.existing(pid)?;
        let running = running?;
        let time = if execution.time == 0 { running.started } else { execution.time };
        let id = ExecId { pid, time };
        let comm = String::from_utf8_lossy(&running.comm);
        let list = strings::split(&given.arguments);
        let arguments = ArgList { list, count: None, truncated: given.truncated };
        let first = strings::first_arguments(&arguments);
        let start = StartNames {
            path: given.path.as_deref(),
            arguments: &first,
            directory: running.directory.as_deref(),
        };
        let looks = filter::FilteredProgram { comm, origin: &origin, uid: running.users.1, start };
        self.chosen.admit(id, &looks).then_some(RunningAtStart { id, origin, running, given })
    }

    /// Emits the program of a process that has entered the scope, or that is in scope when the trace begins,
    /// unless it was reported already.
    pub(super) fn emit_existing(
        &mut self,
        pid: u32,
        lineage: &Lineage,
        info: &mut dyn ProcessInfo,
        report: &mut Emitter,
    ) -> io::Result<()> {
        let Some(found) = self.runs_already(pid, lineage, info) else { return Ok(()) };
        let RunningAtStart { id, origin, running, given } = found;
        let parent = self.tree.parent(pid, &lineage.parent, Some(&running), info);
        let depth = self.tree.enter(pid, id, parent.as_ref());
        let list = strings::split(&given.arguments);
        let count = (!given.truncated).then_some(list.len() as u64);
        let arguments = ArgList { list, count, truncated: given.truncated };
        let environment = (self.wanted != Environment::None)
            .then(|| strings::environment(&given.environment, Some(b""), &self.wanted));
        let (real, effective, group) = running.users;
        let thread = Thread { id: pid, comm: comm(&running.comm) };
        let context = Context::of_thread(report.time(id.time), &origin, thread);
        let exec = Exec {
            lineage: ExecLineage { id: Some(id), parent: parent.as_ref().map(Cow::Borrowed), depth },
            users: ProcessUsers { real, effective, group },
            path: None,
            interpreter: None,
            arguments,
            environment,
            directory: running.directory.as_deref().map(Cow::Borrowed),
            tty: running.tty.as_deref().map(Cow::Borrowed),
            existing: true,
        };
        report.executed(context, exec)
    }

    /// Emits the record of a program that could not be executed.
    pub(super) fn attempt(
        &mut self,
        head: &ExecFailure,
        data: &Plaintext<'_>,
        info: &mut dyn ProcessInfo,
        report: &mut Emitter,
    ) -> io::Result<()> {
        let id = Self::id(head.header.pid, head.execution, info);
        if !self.chosen.has(id) {
            return Ok(());
        }
        let origin = info.origin(&head.header);
        let mut list = strings::split(&data.0);
        let path = if list.is_empty() { None } else { Some(list.remove(0).0) };
        let truncated = head.flags & (ATTEMPT_CUT | ATTEMPT_UNREADABLE) != 0;
        let count = (!truncated).then_some(list.len() as u64);
        let parent = self.tree.parent(head.header.pid, &head.parent, None, info);
        let lineage = self.lineage(id, parent.as_ref());
        let users = ProcessUsers {
            real: Some(head.uid),
            effective: effective(head.flags, head.effective_uid, None),
            group: Some(head.gid),
        };
        let error = i32::try_from(head.error).unwrap_or(i32::MAX);
        let arguments = ArgList { list, count, truncated };
        let path = path.filter(|path| !path.is_empty());
        let failed = ExecFailed { lineage, users, path, arguments, error };
        report.write(report.context(&head.header, &origin), Body::ExecFailed(failed))
    }

    /// Emits the exit of a process. The process is removed when the record comes that every process's end
    /// has.
    pub(super) fn ended(
        &mut self,
        head: &ProcessExit,
        info: &mut dyn ProcessInfo,
        report: &mut Emitter,
    ) -> io::Result<()> {
        let Lineage { parent, execution, since } = head.lineage;
        let id = Self::id(head.header.pid, execution, info);
        if self.is_again(head) || !self.chosen.has(id) {
            return Ok(());
        }
        let origin = info.origin(&head.header);
        let parent = self.tree.parent(head.header.pid, &parent, None, info);
        // If the record has no start time of the process, the time in its identity is used.
        let since = match (since, id) {
            (0, Some(id)) if id.pid == head.header.pid => Some(id.time),
            (0, _) => None,
            (since, _) => Some(since),
        };
        let elapsed = since.and_then(|since| head.header.time.checked_sub(since));
        let exit = Exit {
            lineage: self.lineage(id, parent.as_ref()),
            ending: (head.flags & FLAG_STATUS != 0).then(|| ExitStatus::of_status(head.status)),
            duration: elapsed.map(Duration::from_nanos),
            forked: since.is_some() && execution.pid != 0 && execution.pid != head.header.pid,
        };
        report.write(report.context(&head.header, &origin), Body::Exit(exit))
    }

    /// Whether this end was reported before. If threads end a process together, kernels before 6.16 do not
    /// say which is the last, and each thread that finds no other alive reports the end. A later process with
    /// the same id has started later.
    fn is_again(&mut self, head: &ProcessExit) -> bool {
        let Header { pid, tid, time, .. } = head.header;
        let before = self.ended.get(&pid).copied();
        if before.is_some_and(|(thread, ended)| thread != tid && head.lineage.since <= ended) {
            return true;
        }
        self.ended.put(pid, (tid, time));
        false
    }

    /// Emits the fork of a process.
    pub(super) fn forked(
        &mut self,
        head: &ProcessFork,
        info: &mut dyn ProcessInfo,
        report: &mut Emitter,
    ) -> io::Result<()> {
        let id = Self::id(head.header.pid, head.execution, info);
        if !self.chosen.has(id) {
            return Ok(());
        }
        let origin = info.origin(&head.header);
        let fork = Fork { lineage: self.lineage(id, None), child: head.child };
        report.write(report.context(&head.header, &origin), Body::Fork(fork))
    }

    /// The identity of the program that a process runs, if it can be determined.
    fn id(pid: u32, execution: Execution, info: &mut dyn ProcessInfo) -> Option<ExecId> {
        ProcessTree::id(execution, info).or_else(|| ProcessTree::before(pid, info))
    }

    /// Removes a process that has ended.
    pub(super) fn end(&mut self, pid: u32) {
        self.chosen.end(pid);
        // A process that executes a program has one thread, whose id is the process's. If parts are left, the
        // record of their program was lost.
        self.parts.remove(&pid);
        self.tree.end(pid);
    }

    /// Forgets the program of a process that executes one that is not reported, or not yet.
    pub(super) fn forget(&mut self, pid: u32) {
        self.tree.forget(pid);
    }

    fn lineage<'a>(&self, id: Option<ExecId>, parent: Option<&'a Ancestor>) -> ExecLineage<'a> {
        ExecLineage { id, parent: parent.map(Cow::Borrowed), depth: self.tree.depth(id) }
    }
}

fn effective(flags: u32, uid: u32, running: Option<&ProcessSnapshot>) -> Option<u32> {
    if flags & FLAG_EFFECTIVE != 0 { Some(uid) } else { running?.users.1 }
}

fn comm(name: &[u8]) -> [u8; 16] {
    let mut comm = [0; 16];
    for (to, from) in comm.iter_mut().zip(name.iter().take(15)) {
        *to = *from;
    }
    comm
}

#[cfg(test)]
mod tests {
    use probe_common::CHUNK_OF_ARGUMENTS;
    use zerocopy::FromZeros as _;

    use super::*;

    fn add(execs: &mut Execs, tid: u32, time: u64, bytes: usize) {
        let mut part = ExecStringChunk { part: CHUNK_OF_ARGUMENTS, ..ExecStringChunk::new_zeroed() };
        (part.header.pid, part.header.tid, part.header.time) = (tid, tid, time);
        execs.part(&part, &Plaintext::of(&vec![0; bytes]));
    }

    #[test]
    fn parts_of_lost_programs_are_forgotten() {
        let mut execs = Execs::new(None);
        add(&mut execs, 10, 1, 1000);
        add(&mut execs, 11, 2, 500);
        execs.end(10);
        assert_eq!((execs.parts.len(), execs.parts.bytes()), (1, 500));
        add(&mut execs, 11, 3, 200);
        assert_eq!((execs.parts.len(), execs.parts.bytes()), (1, 200));
        let last = u32::try_from(LIMITS.entries).unwrap_or(u32::MAX);
        for tid in 0..=last {
            add(&mut execs, tid, 4, 16 * 1024);
            assert!(execs.parts.bytes() <= LIMITS.bytes, "{}", execs.parts.bytes());
        }
        // Only the oldest were evicted.
        assert!(execs.parts.bytes() > LIMITS.bytes - 16 * 1024, "{}", execs.parts.bytes());
        assert!(execs.parts.get(&last).is_some() && execs.evicted() > 0);
    }
}
