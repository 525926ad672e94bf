//! Memory of a process that holds what a file has: which file, and whether the process has altered it.
//!
//! It does not open the files.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::maps::{self, Mapping, Range};

/// Flags of an entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// Of pages that are present: it is the file's own page. Without it, it is the process's copy.
const OF_FILE: u64 = 1 << 61;

/// A range of a process's memory that is mapped from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMemory {
    /// The file, with this range alone.
    pub mapping: Mapping,
    /// The range.
    pub range: Range,
    /// Whether another process may have altered what this one sees there.
    pub is_shared_and_writable: bool,
}

/// The ranges that contain these addresses. None if one of them is in no file, or the process has ended.
pub fn file_memory<const N: usize>(pid: u32, addresses: [u64; N]) -> Option<[FileMemory; N]> {
    let mut found = addresses.map(|_| None);
    let maps = BufReader::with_capacity(64 * 1024, File::open(format!("/proc/{pid}/maps")).ok()?);
    let mut maps = maps.take(maps::LINES as u64 * 64);
    let mut line = Vec::with_capacity(512);
    while found.iter().any(Option::is_none) {
        line.clear();
        if maps.by_ref().take(maps::LINE as u64).read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        line.pop_if(|last| *last == b'\n');
        let Some(line) = maps::parse_line(&line) else { continue };
        for (address, found) in addresses.iter().zip(&mut found) {
            if (line.range.start..line.range.end).contains(address) {
                *found = Some(of_line(&line)?);
            }
        }
    }
    let mut found = found.into_iter().flatten();
    let all: Vec<FileMemory> = found.by_ref().collect();
    all.try_into().ok()
}

fn of_line(line: &maps::MapsLine<'_>) -> Option<FileMemory> {
    if !line.has_file() {
        return None;
    }
    let (device, inode, range) = (line.device, line.inode, line.range);
    let path = PathBuf::from(OsString::from_vec(maps::unescape_newlines(line.path)));
    let mapping = Mapping { ranges: vec![range], replaced: None, device, inode, path };
    let is_shared_and_writable =
        line.permissions.get(3) == Some(&b's') && line.permissions.get(1) == Some(&b'w');
    Some(FileMemory { mapping, range, is_shared_and_writable })
}

/// How many bytes from this address on the process cannot have altered: none of its pages is a copy of the
/// process's own. At most `length`.
pub fn unaltered(pid: u32, address: u64, length: u64) -> u64 {
    let page = rustix::param::page_size() as u64;
    let end = address.saturating_add(length);
    let Ok(pagemap) = File::open(format!("/proc/{pid}/pagemap")) else { return 0 };
    let mut at = address;
    while at < end {
        let mut entry = [0; 8];
        let is_read = pagemap.read_exact_at(&mut entry, at / page * 8).is_ok();
        let entry = u64::from_ne_bytes(entry);
        if !is_read || entry & SWAPPED != 0 || entry & (PRESENT | OF_FILE) == PRESENT {
            break;
        }
        at = (at / page).saturating_add(1).saturating_mul(page);
    }
    at.min(end) - address
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    const PAGE: usize = 4096;

    #[repr(align(4096))]
    struct Page([AtomicU8; PAGE]);

    /// Four pages of the executable, which the loader leaves alone.
    static PAGES: [Page; 4] = [const { Page([const { AtomicU8::new(b'x') }; PAGE]) }; 4];

    #[test]
    fn what_a_process_has_altered_is_not_the_file_s() {
        let (pid, page) = (std::process::id(), PAGE as u64);
        let address = &raw const PAGES as u64;
        let [memory] = file_memory(pid, [address + 5]).unwrap();
        assert!((memory.range.start..memory.range.end).contains(&address));
        assert_eq!(memory.mapping.path, std::env::current_exe().unwrap());
        assert!(!memory.is_shared_and_writable);
        assert_eq!(unaltered(pid, address + 5, 3 * page), 3 * page);
        let [_, _, third, _] = &PAGES;
        third.0.first().unwrap().store(b'y', Ordering::Relaxed);
        assert_eq!(unaltered(pid, address + 5, 3 * page), 2 * page - 5);
        assert_eq!(unaltered(pid, address + 2 * page, 1), 0);
        assert_eq!(file_memory(pid, [&raw const pid as u64]), None, "the stack is in no file");
    }
}
