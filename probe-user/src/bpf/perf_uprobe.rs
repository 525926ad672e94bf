//! A perf event for a uprobe, created from a file and an offset. It has no effect until a BPF program is
//! linked to it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use perf_event::events::Software;
use perf_event::{Builder, Counter};

use crate::elf::FileOffset;

/// The file with the perf event type of uprobes, which the kernel assigns at boot.
const KIND: &str = "/sys/bus/event_source/devices/uprobe/type";

/// Registers a uprobe, for all processes; closing the event removes it.
pub(super) fn uprobe(path: &Path, offset: FileOffset, configuration: u64) -> io::Result<Counter> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let kind = fs::read_to_string(KIND)?.trim().parse().map_err(io::Error::other)?;
    // perf_event has no builder for uprobes, so the relevant attributes of another event are replaced.
    let mut builder = Builder::new(Software::DUMMY);
    builder.any_pid().one_cpu(0);
    let attributes = builder.attrs_mut();
    attributes.type_ = kind;
    attributes.config = configuration;
    // The kernel reads the path when the event is opened.
    attributes.uprobe_path = path.as_ptr() as u64;
    attributes.probe_offset = offset.0;
    builder.build()
}
