//! A perf event of a uprobe, as the kernel makes it of a file and an offset; without a BPF program nothing
//! comes of it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use perf_event::events::Software;
use perf_event::{Builder, Counter};

use crate::elf::FileOffset;

/// Where the kernel tells the number of its uprobe events.
const KIND: &str = "/sys/bus/event_source/devices/uprobe/type";

/// Registers a uprobe, for all processes; closing the event removes it.
pub(super) fn uprobe(path: &Path, offset: FileOffset, configuration: u64) -> io::Result<Counter> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let kind = fs::read_to_string(KIND)?.trim().parse().map_err(io::Error::other)?;
    // perf_event knows no uprobes: all that matters of another event is replaced.
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
