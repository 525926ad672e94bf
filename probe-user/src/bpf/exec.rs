//! Constants that the programs for exec records need from this kernel.

use aya::EbpfLoader;
use aya::maps::{HashMap, MapData};
use probe_common::{LINEAGES, Lineage, NO_FIELD};

use super::btf::Btf;
use super::pod::{self, PodCompat};
use super::tracepoint_format::TracepointFormat;
use super::{Session, SessionError, error};

pub(super) struct Constants {
    values: Vec<(&'static str, u32)>,
    lineages: u32,
}

impl Constants {
    /// The constants for the exec records in `wanted` (`WANT_` bits). If it is zero, they switch these
    /// records off. `group_dead` is the offset of that field of `sched_process_exit`. On a kernel without
    /// that field, every trace reads the end of a process from the task structure instead.
    pub(super) fn read(wanted: u32, group_dead: u32, btf: Option<&Btf>) -> Result<Self, SessionError> {
        if wanted == 0 {
            let mut values = structures(btf.filter(|_| group_dead == NO_FIELD));
            values.extend(forked(btf));
            values.push(("EXECS", 0));
            return Ok(Self { values, lineages: 1 });
        }
        // The programs read the task's registers with a helper that requires BTF.
        if !Btf::is_there() {
            return Err(error::missing("BTF (/sys/kernel/btf/vmlinux)", "CONFIG_DEBUG_INFO_BTF=y"));
        }
        let newtask = TracepointFormat::read("task", "task_newtask")?;
        let mut values = vec![
            ("EXECS", wanted),
            ("EXEC_FILENAME", TracepointFormat::read("sched", "sched_process_exec")?.offset("filename")?),
            ("NEWTASK_PID", newtask.offset("pid")?),
            ("NEWTASK_FLAGS", newtask.offset("clone_flags")?),
        ];
        values.extend(structures(btf));
        values.extend(forked(btf));
        Ok(Self { values, lineages: LINEAGES })
    }

    /// Whether [`Constants::read`] needs the kernel's BTF.
    pub(super) fn read_btf(wanted: u32, group_dead: u32) -> bool {
        wanted != 0 || group_dead == NO_FIELD
    }

    pub(super) fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader.map_max_entries("LINEAGE", self.lineages);
        for (name, value) in &self.values {
            loader.override_global(name, value, true);
        }
    }
}

/// Offsets of what no tracepoint reports. Each group is either complete or set to [`NO_FIELD`] as a whole.
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
    groups.into_iter().flat_map(complete).collect()
}

/// What shows that a process has executed no program since it was forked.
fn forked(btf: Option<&Btf>) -> Vec<(&'static str, u32)> {
    let offset = |field| btf.map_or(NO_FIELD, |btf| btf.offset("task_struct", field));
    complete(&[
        ("TASK_LEADER", offset("group_leader")),
        ("TASK_FLAGS", offset("flags")),
        ("TASK_PARENT", offset("real_parent")),
        ("TASK_TGID", offset("tgid")),
        ("TASK_STARTED", offset("start_boottime")),
    ])
}

fn complete(group: &[(&'static str, u32)]) -> Vec<(&'static str, u32)> {
    let is_complete = group.iter().all(|(_, value)| *value != NO_FIELD);
    group.iter().map(|(name, value)| (*name, if is_complete { *value } else { NO_FIELD })).collect()
}

impl Session {
    /// The ancestry of a process and the program that it runs, as far as the BPF programs have recorded
    /// them. A field that was not recorded is zero.
    pub fn lineage(&mut self, pid: u32) -> Lineage {
        let lineages: Result<HashMap<&mut MapData, u32, PodCompat<Lineage>>, _> =
            pod::map(&mut self.ebpf, "LINEAGE");
        lineages.ok().and_then(|lineages| lineages.get(&pid, 0).ok()).map_or_else(Lineage::default, |it| it.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trace_has_the_end_of_a_process() {
        let btf = Btf::read();
        let signal = |group_dead| {
            let constants = Constants::read(0, group_dead, btf.as_ref()).ok()?;
            let of =
                |wanted| constants.values.iter().find(|(name, _)| *name == wanted).map(|(_, offset)| *offset);
            assert_eq!(of("TASK_FLAGS").is_some_and(|offset| offset != NO_FIELD), Btf::is_there());
            of("TASK_SIGNAL")
        };
        assert_eq!(signal(8), Some(NO_FIELD), "the tracepoint tells");
        if Btf::is_there() {
            assert!(signal(NO_FIELD).is_some_and(|offset| offset != NO_FIELD));
        }
    }
}
