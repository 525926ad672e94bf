//! The kernel's reports about processes and cgroups, for the tracking of what is selected.
//!
//! Owns copies of control records, which are kept until the ring is drained, because only then is the session
//! free to act on them. No payload gets here.

use crate::decode::{CgroupRecord, ControlRecord, RingRecord, TaskRecord};

/// An event of a process or a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ControlEvent {
    /// A process executes another program. If the scope watches cgroups, this is any process on the machine.
    /// Not sent for executions that have a public record.
    Executed {
        pid: u32,
        /// The time in nanoseconds of `CLOCK_BOOTTIME`.
        time: u64,
    },
    /// A process in scope has ended.
    Ended { pid: u32 },
    /// A cgroup of the v2 hierarchy was created.
    CgroupCreated {
        /// The inode number of its directory.
        id: u64,
        /// The path in the hierarchy. Bytes that are not UTF-8 are replaced, because no runtime creates such
        /// names.
        path: String,
    },
    /// A cgroup of the v2 hierarchy was removed.
    CgroupRemoved {
        /// The inode number of its directory.
        id: u64,
    },
}

impl ControlEvent {
    /// The event of a record. None if the record is for the pipeline alone.
    pub(super) fn of(record: &RingRecord<'_>) -> Option<Self> {
        Some(match record {
            RingRecord::Data(_) | RingRecord::Control(ControlRecord::Signal(_)) => return None,
            RingRecord::Task(TaskRecord::Exec(header)) => {
                Self::Executed { pid: header.pid, time: header.time }
            }
            RingRecord::Task(TaskRecord::Exit(exit)) => Self::Ended { pid: exit.header.pid },
            RingRecord::Control(ControlRecord::CgroupCreated(CgroupRecord { id, path, .. })) => {
                Self::CgroupCreated { id: *id, path: String::from_utf8_lossy(path).into_owned() }
            }
            RingRecord::Control(ControlRecord::CgroupRemoved(CgroupRecord { id, .. })) => {
                Self::CgroupRemoved { id: *id }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use probe_common::{Call, Header, TaskExit};
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::decode::DataRecord;
    use crate::event::Plaintext;

    #[test]
    fn data_is_for_the_pipeline_alone() {
        let header = Header { pid: 7, time: 9, ..Header::new_zeroed() };
        let exit = TaskExit { header, ..TaskExit::new_zeroed() };
        let call = Call::new_zeroed();
        let cgroup = CgroupRecord { id: 4711, level: 2, path: b"/docker/c\xffe" };
        for (record, expected) in [
            (RingRecord::Task(TaskRecord::Exec(&header)), Some(ControlEvent::Executed { pid: 7, time: 9 })),
            (RingRecord::Task(TaskRecord::Exit(&exit)), Some(ControlEvent::Ended { pid: 7 })),
            (
                RingRecord::Control(ControlRecord::CgroupCreated(cgroup)),
                Some(ControlEvent::CgroupCreated { id: 4711, path: "/docker/c\u{fffd}e".into() }),
            ),
            (
                RingRecord::Control(ControlRecord::CgroupRemoved(cgroup)),
                Some(ControlEvent::CgroupRemoved { id: 4711 }),
            ),
            (RingRecord::Data(DataRecord::Call { head: &call, data: Plaintext::of(b"") }), None),
        ] {
            assert_eq!(ControlEvent::of(&record), expected);
        }
    }
}
