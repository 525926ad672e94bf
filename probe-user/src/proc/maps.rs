//! /proc/PID/maps: the files from which a process executes code.
//!
//! Owns the parsing of that file's lines. It does not open the files that are listed there.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::without_right;

/// Limit of the length of a line: enough for a path of `PATH_MAX` in which the kernel escapes every byte.
const LINE: usize = 4096 + 4 * 4096;
/// Limit of the lines that are read. The kernel's default limit of mappings (`vm.max_map_count`) is 65530;
/// some systems raise it to this.
const LINES: usize = 1 << 22;
/// Limit of the executable ranges that are kept.
const RANGES: usize = 1 << 17;
/// The kernel appends this to the path of a file that no longer has a name. A file's own name may end in it
/// too.
const DELETED: &[u8] = b" (deleted)";

/// A device number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Device {
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
}

/// An executable range of a mapped file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first address.
    pub start: u64,
    /// The address after the last one.
    pub end: u64,
    /// The offset in the file of the byte at `start`.
    pub offset: u64,
}

/// A file that a process maps as executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its executable ranges, in the order of their addresses. Never empty.
    pub ranges: Vec<Range>,
    /// The device as the kernel shows it here. On overlayfs it depends on the version of the kernel.
    pub device: Device,
    /// The inode number as the kernel shows it here.
    pub inode: u64,
    /// The path as the kernel shows it, which may end in ` (deleted)`.
    pub path: PathBuf,
}

impl Mapping {
    /// The path without the mark of a deleted file.
    ///
    /// Only the opened file can show whether ` (deleted)` is such a mark or a part of its name.
    pub fn unmarked_path(&self) -> &Path {
        let bytes = self.path.as_os_str().as_bytes();
        Path::new(OsStr::from_bytes(bytes.strip_suffix(DELETED).unwrap_or(bytes)))
    }
}

/// Why the mappings of a process could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// The process has exited, or ctrace lacks the permission.
    #[error("could not read the mappings of process {pid} (/proc/{pid}/maps){}", without_right(source))]
    Read {
        /// The process.
        pid: u32,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
    /// There are more ranges than any normal process has.
    #[error("process {pid} has more than {limit} mappings, which ctrace does not read")]
    TooMany {
        /// The process.
        pid: u32,
        /// The limit.
        limit: usize,
    },
}

impl MapsError {
    /// The reason alone, for messages that already name the process.
    pub fn why(&self) -> String {
        match self {
            Self::Read { source, .. } => format!("they could not be read{}: {source}", without_right(source)),
            Self::TooMany { limit, .. } => format!("more than {limit} mappings, which ctrace does not read"),
        }
    }
}

/// The files that a process maps as executable, in the order of their addresses.
///
/// There is one entry per file. Memory without a file (anonymous, vdso, …) is left out.
pub fn executable_mappings(pid: u32) -> Result<Vec<Mapping>, MapsError> {
    let read = |source| MapsError::Read { pid, source };
    let file = File::open(format!("/proc/{pid}/maps")).map_err(read)?;
    match collect(BufReader::with_capacity(64 * 1024, file)) {
        Ok(Some(mappings)) => Ok(mappings),
        Ok(None) => Err(MapsError::TooMany { pid, limit: RANGES }),
        // If the process exits meanwhile, the read fails with ESRCH.
        Err(source) => Err(read(source)),
    }
}

/// None if a limit was exceeded.
fn collect(mut input: impl BufRead) -> io::Result<Option<Vec<Mapping>>> {
    let mut found = Collected::default();
    let mut line = Vec::with_capacity(512);
    for _ in 0..LINES {
        line.clear();
        let read = input.by_ref().take(LINE as u64).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(Some(found.mappings));
        }
        if line.pop_if(|last| *last == b'\n').is_none() && read == LINE {
            input.skip_until(b'\n')?;
            continue;
        }
        if let Some((range, device, inode, path)) = parse_line(&line)
            && !found.add(range, device, inode, path)
        {
            return Ok(None);
        }
    }
    Ok(None)
}

#[derive(Default)]
struct Collected {
    mappings: Vec<Mapping>,
    /// The path is part of the key, because layers of one overlay may show the same device with equal inode
    /// numbers.
    indices: HashMap<(Device, u64, Vec<u8>), usize>,
    ranges: usize,
}

impl Collected {
    /// Returns false if the limit was exceeded.
    fn add(&mut self, range: Range, device: Device, inode: u64, path: Vec<u8>) -> bool {
        self.ranges += 1;
        let next = self.mappings.len();
        let index = *self.indices.entry((device, inode, path.clone())).or_insert(next);
        match self.mappings.get_mut(index) {
            Some(mapping) => mapping.ranges.push(range),
            None => self.mappings.push(Mapping {
                ranges: vec![range],
                device,
                inode,
                path: PathBuf::from(std::ffi::OsString::from_vec(path)),
            }),
        }
        self.ranges <= RANGES
    }
}

/// Parses `start-end perms offset major:minor inode   path`. None unless it is executable and has a file.
fn parse_line(line: &[u8]) -> Option<(Range, Device, u64, Vec<u8>)> {
    let (addresses, rest) = field(line)?;
    let (permissions, rest) = field(rest)?;
    let (offset, rest) = field(rest)?;
    let (device, rest) = field(rest)?;
    let (inode, rest) = field(rest)?;
    if permissions.get(2) != Some(&b'x') {
        return None;
    }
    let inode = std::str::from_utf8(inode).ok()?.parse().ok().filter(|inode| *inode != 0)?;
    let path = rest.trim_ascii_start();
    if path.first() != Some(&b'/') {
        return None;
    }
    let dash = addresses.iter().position(|byte| *byte == b'-')?;
    let (start, end) = addresses.split_at(dash);
    let range = Range { start: hex(start)?, end: hex(end.get(1..)?)?, offset: hex(offset)? };
    if range.start >= range.end {
        return None;
    }
    let colon = device.iter().position(|byte| *byte == b':')?;
    let (major, minor) = device.split_at(colon);
    let device =
        Device { major: u32::try_from(hex(major)?).ok()?, minor: u32::try_from(hex(minor.get(1..)?)?).ok()? };
    Some((range, device, inode, unescape_newlines(path)))
}

/// Splits off the bytes before a space.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    let (field, rest) = line.split_at(space);
    (!field.is_empty()).then_some((field, rest.get(1..).unwrap_or_default()))
}

fn hex(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok()?;
    // `from_str_radix` alone would accept a sign.
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// The kernel escapes only newlines here (`fs/proc/task_mmu.c`), not the backslash. So a name that itself
/// contains the four characters `\012` is decoded as a newline.
fn unescape_newlines(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\\012") {
            out.push(b'\n');
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

    use super::*;
    use crate::test_rng::TestRng;

    fn parse(text: &[u8]) -> Vec<Mapping> {
        collect(text).unwrap().unwrap()
    }

    #[test]
    fn lines_of_files_with_code_are_kept() {
        let cases: &[(&str, Option<(&str, u64)>)] = &[
            (
                "7f01-7f02 r-xp 00026000 fe:01 8201       /usr/lib/libc.so.6",
                Some(("/usr/lib/libc.so.6", 8201)),
            ),
            ("7f01-7f02 r-xs 00000000 00:35 12         /a b/c  d", Some(("/a b/c  d", 12))),
            ("7f01-7f02 --xp 00000000 00:35 12 /x\\012y", Some(("/x\ny", 12))),
            ("7f01-7f02 r-xp 00000000 00:35 12 /x\\012", Some(("/x\n", 12))),
            ("7f01-7f02 r-xp 00000000 00:35 12 /x\\01", Some(("/x\\01", 12))),
            ("7f01-7f02 r-xp 00000000 00:01 9 /memfd:jit (deleted)", Some(("/memfd:jit (deleted)", 9))),
            ("7f01-7f02 r-xp 00000000 00:01 9 /libssl.so.3 X", Some(("/libssl.so.3 X", 9))),
            ("7f01-7f02 r--p 00026000 fe:01 8201       /usr/lib/libc.so.6", None),
            ("7f01-7f02 r-xp 00000000 00:00 0 ", None),
            ("7f01-7f02 r-xp 00000000 00:00 0          [vdso]", None),
            ("7f01-7f02 r-xp 00000000 00:0e 7          anon_inode:[x]", None),
            ("7f01-7f02 r-xp 00000000 00:35 0          /x", None),
            ("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]", None),
            ("7f02-7f01 r-xp 00000000 00:35 12 /backwards", None),
            ("+f01-7f02 r-xp 00000000 00:35 12 /sign", None),
            ("7f01-7f02 r-xp 00000000 00:35 12", None),
            ("7f01-7f02 r-xp 00000000 0035 12 /x", None),
            ("7f01-7f02 r-xp 00000000 1ffffffff:35 12 /x", None),
            ("1ffffffffffffffff-7f02 r-xp 00000000 00:35 12 /x", None),
            ("", None),
            (" ", None),
        ];
        for (line, expected) in cases {
            let found = parse(format!("{line}\n").as_bytes());
            let found = found.first().map(|mapping| (mapping.path.to_str().unwrap(), mapping.inode));
            assert_eq!(found, *expected, "{line}");
        }
    }

    #[test]
    fn a_file_keeps_all_its_ranges_and_another_file_is_another_entry() {
        let found = parse(
            b"1000-2000 r-xp 00001000 fe:01 7 /lib\n2000-3000 r--p 2000 fe:01 7 /lib\n\
              3000-4000 r-xp 00003000 fe:01 7 /lib\n5000-6000 r-xp 0 fe:02 7 /lib\n7000-8000 r-xp 0 fe:01 7 /other",
        );
        assert_eq!(found.len(), 3);
        assert_eq!(
            found[0].ranges,
            [
                Range { start: 0x1000, end: 0x2000, offset: 0x1000 },
                Range { start: 0x3000, end: 0x4000, offset: 0x3000 }
            ]
        );
        assert_eq!(found[0].device, Device { major: 0xfe, minor: 1 });
    }

    #[test]
    fn a_name_need_not_be_utf8_and_a_mark_is_only_removed_once() {
        let found = parse(b"1-2 r-xp 0 0:1 7 /\xff\x1b[2J (deleted) (deleted)\n");
        assert_eq!(found[0].path.as_os_str().as_bytes(), b"/\xff\x1b[2J (deleted) (deleted)");
        assert_eq!(found[0].unmarked_path().as_os_str().as_bytes(), b"/\xff\x1b[2J (deleted)");
    }

    #[test]
    fn an_overlong_line_is_skipped_and_the_next_one_read() {
        let mut text = b"1-2 r-xp 0 0:1 7 /".to_vec();
        text.resize(3 * LINE, b'a');
        text.extend_from_slice(b"\n1-2 r-xp 0 0:1 8 /good\n");
        let found = parse(&text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].inode, 8);
    }

    #[test]
    fn too_many_ranges_are_an_error_not_memory() {
        let text = b"1-2 r-xp 0 0:1 7 /x\n".repeat(RANGES + 1);
        assert!(collect(text.as_slice()).unwrap().is_none());
    }

    #[test]
    fn junk_does_not_panic() {
        let mut noise = TestRng(0x5eed_0001);
        for round in 0..20_000 {
            let alphabet: &[u8] = if round % 2 == 0 { b"" } else { b"0123abcf-: /xr\\\n" };
            let _ = collect(noise.bytes(alphabet).as_slice());
        }
    }

    #[test]
    fn own_mappings_hold_the_c_library_and_this_program() {
        let found = executable_mappings(std::process::id()).unwrap();
        let own = std::env::current_exe().unwrap();
        assert!(found.iter().any(|mapping| mapping.path == own), "{found:?}");
        assert!(found.iter().any(|mapping| mapping.path.to_string_lossy().contains("libc.so")), "{found:?}");
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(matches!(executable_mappings(u32::MAX), Err(MapsError::Read { pid: u32::MAX, .. })));
    }
}
