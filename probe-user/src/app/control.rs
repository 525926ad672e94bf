//! What the kernel reports of processes and cgroups, for who follows what is selected.
//!
//! Owns the copies of control records that last until the ring was drained: only then is the session free for
//! what follows from them. Nothing of a payload gets here.

use crate::decode::{Cgroup, ControlRecord, RingRecord, TaskRecord};

/// Something happened to a process or a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ControlEvent {
    /// A process executes another program; where the scope watches, any process of the machine. Not one of
    /// which there is a public record.
    Executed {
        pid: u32,
        /// When, in nanoseconds of `CLOCK_BOOTTIME`.
        time: u64,
    },
    /// A process in scope has ended.
    Ended { pid: u32 },
    /// A cgroup of the v2 hierarchy was made.
    CgroupMade {
        /// Inode number of its directory.
        id: u64,
        /// In the hierarchy. Bytes that are not UTF-8 are replaced: no runtime makes such names.
        path: String,
    },
    /// A cgroup of the v2 hierarchy was removed.
    CgroupGone {
        /// Inode number of its directory.
        id: u64,
    },
    /// A process is stopped until what it has mapped was looked at.
    Held { pid: u32 },
}

impl ControlEvent {
    /// What a record says to who follows what is selected; none if it is for the pipeline alone.
    pub(super) fn of(record: &RingRecord<'_>) -> Option<Self> {
        Some(match record {
            RingRecord::Data(_) => return None,
            RingRecord::Task(TaskRecord::Exec(header)) => {
                Self::Executed { pid: header.pid, time: header.time }
            }
            RingRecord::Task(TaskRecord::Exit(header)) => Self::Ended { pid: header.pid },
            RingRecord::Control(ControlRecord::CgroupMade(Cgroup { id, path, .. })) => {
                Self::CgroupMade { id: *id, path: String::from_utf8_lossy(path).into_owned() }
            }
            RingRecord::Control(ControlRecord::CgroupGone(Cgroup { id, .. })) => Self::CgroupGone { id: *id },
            RingRecord::Control(ControlRecord::Held(header)) => Self::Held { pid: header.pid },
        })
    }
}

#[cfg(test)]
mod tests {
    use probe_common::{Call, Header};
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::decode::DataRecord;
    use crate::event::Plaintext;

    #[test]
    fn data_is_for_the_pipeline_alone() {
        let header = Header { pid: 7, time: 9, ..Header::new_zeroed() };
        let call = Call::new_zeroed();
        let cgroup = Cgroup { id: 4711, level: 2, path: b"/docker/c\xffe" };
        for (record, expected) in [
            (RingRecord::Task(TaskRecord::Exec(&header)), Some(ControlEvent::Executed { pid: 7, time: 9 })),
            (RingRecord::Task(TaskRecord::Exit(&header)), Some(ControlEvent::Ended { pid: 7 })),
            (RingRecord::Control(ControlRecord::Held(&header)), Some(ControlEvent::Held { pid: 7 })),
            (
                RingRecord::Control(ControlRecord::CgroupMade(cgroup)),
                Some(ControlEvent::CgroupMade { id: 4711, path: "/docker/c\u{fffd}e".into() }),
            ),
            (
                RingRecord::Control(ControlRecord::CgroupGone(cgroup)),
                Some(ControlEvent::CgroupGone { id: 4711 }),
            ),
            (RingRecord::Data(DataRecord::Call { head: &call, data: Plaintext::of(b"") }), None),
        ] {
            assert_eq!(ControlEvent::of(&record), expected);
        }
    }
}
