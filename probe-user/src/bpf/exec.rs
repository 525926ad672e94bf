//! What the programs that tell of executions need to know of this kernel, and which of them are needed.

use aya::EbpfLoader;
use aya::maps::{HashMap, MapData};
use probe_common::{LINEAGES, Lineage, NO_FIELD, WANT_ENDS, WANT_ENVIRONMENT, WANT_FORKS, WANT_PROGRAMS};

use super::btf::Btf;
use super::pod::{self, PodCompat};
use super::tracepoint_format::TracepointFormat;
use super::{Session, SessionError, error};
use crate::plan::capture::Environment;
use crate::probe::Probe;
use crate::probe::exec::ExecEvents;

/// A program, and the group and name of its tracepoint.
pub(super) type Tracepoint = (&'static str, (&'static str, &'static str));

/// Who has forked whom.
const FORKS: [Tracepoint; 1] = [("task_new", ("task", "task_newtask"))];

/// Attempts that fail. Tracepoints of system calls cost every system call of the machine a little: only on
/// request.
const ATTEMPTS: [Tracepoint; 4] = [
    ("exec_exit", ("syscalls", "sys_exit_execve")),
    ("exec_exit", ("syscalls", "sys_exit_execveat")),
    ("exec_enter", ("syscalls", "sys_enter_execve")),
    ("exec_at_enter", ("syscalls", "sys_enter_execveat")),
];

/// The tracepoints that a probe needs beside those that every session has.
pub(super) fn tracepoints(probe: &Probe) -> Vec<Tracepoint> {
    match probe {
        Probe::Exec(exec) => {
            let attempts = ATTEMPTS.into_iter().filter(|_| exec.includes(ExecEvents::Failed));
            FORKS.into_iter().chain(attempts).collect()
        }
        Probe::Ssl(_) | Probe::Uprobe(_) => Vec::new(),
    }
}

/// Constants of the programs.
pub(super) struct Constants {
    values: Vec<(&'static str, u32)>,
    lineages: u32,
}

impl Constants {
    /// Those that a probe needs; the others say that nothing is wanted. `group_dead` is the offset of that
    /// field of `sched_process_exit`: where it is missing, every probe needs to know in another way that a
    /// process has ended.
    pub(super) fn read(probe: &Probe, group_dead: u32) -> Result<Self, SessionError> {
        let Probe::Exec(exec) = probe else {
            let btf = if group_dead == NO_FIELD { Btf::read() } else { None };
            let mut values = structures(btf.as_ref());
            values.push(("EXECS", 0));
            return Ok(Self { values, lineages: 1 });
        };
        // The registers of a program that begins are had through a helper that needs it.
        if !Btf::is_there() {
            return Err(error::missing("BTF (/sys/kernel/btf/vmlinux)", "CONFIG_DEBUG_INFO_BTF=y"));
        }
        let mut wanted = WANT_PROGRAMS;
        for (also, bit) in [(ExecEvents::Exits, WANT_ENDS), (ExecEvents::Forks, WANT_FORKS)] {
            wanted |= if exec.includes(also) { bit } else { 0 };
        }
        if exec.environment != Environment::None {
            wanted |= WANT_ENVIRONMENT;
        }
        let newtask = TracepointFormat::read("task", "task_newtask")?;
        let mut values = vec![
            ("EXECS", wanted),
            ("EXEC_FILENAME", TracepointFormat::read("sched", "sched_process_exec")?.offset("filename")?),
            ("NEWTASK_PID", newtask.offset("pid")?),
            ("NEWTASK_FLAGS", newtask.offset("clone_flags")?),
        ];
        values.extend(structures(Btf::read().as_ref()));
        Ok(Self { values, lineages: LINEAGES })
    }

    /// Sets them.
    pub(super) fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader.map_max_entries("LINEAGE", self.lineages);
        for (name, value) in &self.values {
            loader.override_global(name, value, true);
        }
    }
}

/// Where this kernel has what no tracepoint tells; each group is whole, or not there.
fn structures(btf: Option<&Btf>) -> Vec<(&'static str, u32)> {
    let offset = |structure, field| btf.map_or(NO_FIELD, |btf| btf.offset(structure, field));
    let groups: [&[(&str, u32)]; 4] = [
        &[("TASK_EXIT_CODE", offset("task_struct", "exit_code"))],
        &[("TASK_SIGNAL", offset("task_struct", "signal")), ("SIGNAL_LIVE", offset("signal_struct", "live"))],
        &[
            ("TASK_PID", offset("task_struct", "thread_pid")),
            ("PID_LEVEL", offset("pid", "level")),
            ("PID_NUMBERS", offset("pid", "numbers")),
            ("UPID_BYTES", btf.and_then(|btf| btf.size("upid")).unwrap_or(NO_FIELD)),
        ],
        &[("TASK_CRED", offset("task_struct", "cred")), ("CRED_EUID", offset("cred", "euid"))],
    ];
    let known = |group: &&[(&'static str, u32)]| group.iter().all(|(_, value)| *value != NO_FIELD);
    let values = groups.iter().flat_map(|group| {
        let is_known = known(group);
        group.iter().map(move |(name, value)| (*name, if is_known { *value } else { NO_FIELD }))
    });
    values.collect()
}

impl Session {
    /// Where a process comes from and what it runs, as far as the kernel has seen it; zero for what it has
    /// not.
    pub fn lineage(&mut self, pid: u32) -> Lineage {
        let lineages: Result<HashMap<&mut MapData, u32, PodCompat<Lineage>>, _> =
            pod::map(&mut self.ebpf, "LINEAGE");
        lineages.ok().and_then(|lineages| lineages.get(&pid, 0).ok()).map_or_else(Lineage::default, |it| it.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Ssl;

    #[test]
    fn every_probe_knows_the_end_of_a_process() {
        let signal = |group_dead| {
            let constants = Constants::read(&Probe::Ssl(Ssl::default()), group_dead).ok()?;
            constants.values.into_iter().find(|(name, _)| *name == "TASK_SIGNAL").map(|(_, offset)| offset)
        };
        assert_eq!(signal(8), Some(NO_FIELD), "the tracepoint tells");
        if Btf::is_there() {
            assert!(signal(NO_FIELD).is_some_and(|offset| offset != NO_FIELD));
        }
    }
}
