//! Reports the files that processes map as executable, from the kernel's perf records, for the whole machine.
//!
//! Owns one small perf ring per processor. Files are not read and the scope is not considered here: the
//! caller decides which mappings matter. Needs `CAP_PERFMON` or `CAP_SYS_ADMIN`, or
//! `kernel.perf_event_paranoid` below 1.

use std::ffi::OsStr;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::task::{Context, Poll};

use perf_event::data::Record;
use perf_event::events::Software;
use perf_event::{Builder, Clock, SampleFlag, Sampler};
use tokio::io::unix::AsyncFd;

use super::{SessionError, pod};
use crate::decode::{ExecMmap, MmapEvent};

/// The size of each ring in bytes. A record has about 150 bytes, so this holds the records of programs with
/// 800 libraries in total that start at once.
const RING_BYTES: usize = 32 * 4096;

/// The most records that are read from one ring in a row, because the caller has other work to do.
const AT_ONCE: usize = 1024;

/// `PROT_EXEC`.
const EXECUTABLE: u32 = 4;

/// The exec set a new name (`PERF_RECORD_MISC_COMM_EXEC` of linux/perf_event.h).
const COMM_EXEC: u16 = 1 << 13;

/// The list of online processors, such as `0-3,6`.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// How to recognize which mappings are the first of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackExec {
    /// An exec is reported as [`MmapEvent::Executes`] before its mappings. The reader is woken only when a
    /// quarter of a ring is filled: [`MmapEvents::take`](crate::bpf::MmapEvents::take) returns the mappings
    /// of a program whose exec record was read elsewhere.
    FromExecRecords,
    /// Execs are not reported, and each mapping wakes the reader.
    FromMmapEvents,
}

/// The executable mappings that are made from now on. Processors that come online later are not covered.
pub struct MmapEvents {
    rings: Vec<AsyncFd<Sampler>>,
    own_pid: u32,
    /// Whether a ring may have more records than were read.
    more: bool,
    /// What was read before somebody asked for it.
    kept: Vec<MmapEvent>,
}

impl MmapEvents {
    /// Requests the records. To be called within tokio's runtime.
    pub fn open(programs: TrackExec) -> Result<Self, SessionError> {
        let online =
            fs::read_to_string(ONLINE).map_err(|why| SessionError::Mappings { what: ONLINE, why })?;
        let mut rings = Vec::new();
        for cpu in processors(&online) {
            match ring(cpu, programs) {
                Ok(ring) => rings.push(pod::poll_records(ring)?),
                // The processor went offline meanwhile.
                Err((_, why)) if why.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {}
                Err((what, why)) => return Err(SessionError::Mappings { what, why }),
            }
        }
        if rings.is_empty() {
            let why = io::Error::new(io::ErrorKind::NotFound, "no processor in it");
            return Err(SessionError::Mappings { what: ONLINE, why });
        }
        Ok(Self { rings, own_pid: std::process::id(), more: false, kept: Vec::new() })
    }

    /// Waits for events, and returns them in the order of their times. Cancel safe.
    pub async fn next(&mut self) -> Vec<MmapEvent> {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Vec<MmapEvent>> {
        loop {
            let mut ready = std::mem::take(&mut self.more) || !self.kept.is_empty();
            // All rings are polled, because each has to register its waker.
            for ring in &mut self.rings {
                if let Poll::Ready(guard) = ring.poll_read_ready(context) {
                    ready = true;
                    if let Ok(mut guard) = guard {
                        guard.clear_ready();
                    }
                }
            }
            if !ready {
                return Poll::Pending;
            }
            let found = self.take();
            if !found.is_empty() {
                return Poll::Ready(found);
            }
        }
    }

    /// Makes room in the rings for what comes next. To be called by who is busy with something else for long;
    /// each call keeps at most what the rings hold.
    pub fn keep(&mut self) {
        self.kept = self.take();
    }

    /// Returns the events that are available, without waiting.
    pub fn take(&mut self) -> Vec<MmapEvent> {
        let kept = std::mem::take(&mut self.kept);
        let mut found = Vec::new();
        for ring in &mut self.rings {
            let mut records = 0;
            while let Some(record) = ring.get_mut().next_record() {
                let bytes = record.to_contiguous();
                // Every record ends with its time, because no other sample field is requested.
                let time = bytes.last_chunk().map_or(0, |time| u64::from_ne_bytes(*time));
                if record.misc() & COMM_EXEC != 0
                    && let Ok(Record::Comm(comm)) = record.parse_record()
                {
                    found.push((time, MmapEvent::Executes { pid: comm.pid, time }));
                    continue;
                }
                match record.parse_record() {
                    Ok(record) => found.extend(mapping(&record, time, self.own_pid).map(|it| (time, it))),
                    Err(_) => found.push((time, MmapEvent::Lost(1))),
                }
                records += 1;
                if records == AT_ONCE {
                    self.more = true;
                    break;
                }
            }
        }
        found.sort_by_key(|(time, _)| *time);
        kept.into_iter().chain(found.into_iter().map(|(_, mapping)| mapping)).collect()
    }
}

/// Opens the ring of a processor. The error names the step that failed.
fn ring(cpu: usize, programs: TrackExec) -> Result<Sampler, (&'static str, io::Error)> {
    let programs = programs == TrackExec::FromExecRecords;
    let counter = Builder::new(Software::DUMMY)
        .any_pid()
        .one_cpu(cpu)
        // The first alone makes the kernel emit records, and the second adds device and inode.
        .mmap(true)
        .mmap2(true)
        // Records of name changes: those that an exec makes are marked.
        .comm(programs)
        .comm_exec(programs)
        .sample_id_all(true)
        .sample(SampleFlag::TIME)
        .clockid(Clock::BOOTTIME)
        .wakeup_watermark(if programs { RING_BYTES / 4 } else { 1 })
        .enabled(true)
        .build()
        .map_err(|why| ("perf_event_open", why))?;
    counter.sampled(RING_BYTES).map_err(|why| ("a ring of its records", why))
}

/// Whether a mapping of this name is memory without a file that a process may have put code into. The kernel
/// names its own `[vdso]` and `[uprobes]`.
fn is_anonymous(name: &[u8]) -> bool {
    name == b"//anon" || name == b"/anon_hugepage (deleted)" || name.starts_with(b"[heap]")
}

/// Converts a record. None if it is about memory of the kernel's, or about ctrace itself.
fn mapping(record: &Record<'_>, time: u64, own_pid: u32) -> Option<MmapEvent> {
    match record {
        Record::Lost(lost) => Some(MmapEvent::Lost(lost.lost)),
        Record::Mmap2(mmap) if mmap.prot & EXECUTABLE != 0 && mmap.pid != own_pid => {
            if is_anonymous(&mmap.filename) {
                return Some(MmapEvent::Anonymous { pid: mmap.pid });
            }
            // A mapping that is not of a file (`[vdso]`) has no inode.
            let inode = mmap.ino().filter(|inode| *inode != 0)?;
            Some(MmapEvent::Mapped(ExecMmap {
                pid: mmap.pid,
                tid: mmap.tid,
                address: mmap.addr,
                length: mmap.len,
                offset: mmap.pgoff,
                inode,
                device: (mmap.maj()?, mmap.min()?),
                path: PathBuf::from(OsStr::from_bytes(&mmap.filename)),
                time,
            }))
        }
        _ => None,
    }
}

/// Parses a list such as `0-3,6`. Parts that cannot be parsed are skipped.
fn processors(list: &str) -> Vec<usize> {
    /// More processors than Linux supports.
    const MOST: usize = 8192;
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.parse().ok()?..=to.parse::<usize>().ok()?.min(MOST))
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use perf_event::data::endian::Little;
    use perf_event::data::parse::{ParseConfig, Parser};

    use super::*;

    #[test]
    fn processors_are_read() {
        assert_eq!(processors("0-3,6\n"), [0, 1, 2, 3, 6]);
        assert_eq!(processors("0\n"), [0]);
        assert_eq!(processors("x,1-,-2,3"), [3]);
        assert!(processors("").is_empty());
        assert_eq!(processors("8000-4000000000").len(), 193);
    }

    /// A `PERF_RECORD_MMAP2` as the kernel writes it, without its time.
    fn record(pid: u32, inode: u64, prot: u32, path: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend([pid, pid + 1].map(u32::to_le_bytes).concat());
        body.extend([0x7f00_0000_0000_u64, 0x5000, 0x1000].map(u64::to_le_bytes).concat());
        body.extend([8_u32, 1].map(u32::to_le_bytes).concat());
        body.extend([inode, 3].map(u64::to_le_bytes).concat());
        body.extend([prot, 2].map(u32::to_le_bytes).concat());
        body.extend(path);
        body.resize(body.len().next_multiple_of(8) + 8, 0);
        let mut bytes = 10_u32.to_le_bytes().to_vec();
        bytes.extend(2_u16.to_le_bytes());
        bytes.extend(u16::try_from(body.len() + 8).unwrap().to_le_bytes());
        bytes.extend(body);
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<MmapEvent> {
        let mut parser = Parser::new(bytes, ParseConfig::<Little>::default());
        let record: Record<'_> = parser.parse().unwrap();
        mapping(&record, 99, 1000)
    }

    #[test]
    fn executable_memory_without_a_file_is_told_apart() {
        for (inode, name) in [(0, &b"//anon"[..]), (7, b"/anon_hugepage (deleted)"), (0, b"[heap]")] {
            assert_eq!(parse(&record(7, inode, 5, name)), Some(MmapEvent::Anonymous { pid: 7 }));
            assert_eq!(parse(&record(7, inode, 3, name)), None);
            assert_eq!(parse(&record(1000, inode, 5, name)), None);
        }
    }

    fn check(bytes: &[u8], expected: Option<(&str, u64)>) {
        let found = parse(bytes).map(|mapping| match mapping {
            MmapEvent::Mapped(mapped) => mapped,
            other => panic!("{other:?}"),
        });
        let expected = expected.map(|(path, inode)| ExecMmap {
            pid: 7,
            tid: 8,
            address: 0x7f00_0000_0000,
            length: 0x5000,
            offset: 0x1000,
            inode,
            device: (8, 1),
            path: path.into(),
            time: 99,
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn executable_files_of_others_are_told() {
        let library = "/usr/lib/libssl.so.3";
        check(&record(7, 42, 5, library.as_bytes()), Some((library, 42)));
        check(&record(7, 42, 5, b"/memfd:x (deleted)"), Some(("/memfd:x (deleted)", 42)));
        check(&record(7, 42, 1, library.as_bytes()), None);
        check(&record(7, 0, 5, b"[vdso]"), None);
        check(&record(7, 0, 5, b"[uprobes]"), None);
        check(&record(1000, 42, 5, library.as_bytes()), None);
    }
}
