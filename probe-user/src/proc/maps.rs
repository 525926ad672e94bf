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
pub(super) const LINE: usize = 4096 + 4 * 4096;
/// Limit of the lines that are read. The kernel's default limit of mappings (`vm.max_map_count`) is 65530;
/// some systems raise it to this.
pub(super) const LINES: usize = 1 << 22;
/// Limit of the executable ranges that are kept.
const RANGES: usize = 1 << 17;
/// The kernel appends this to the path of a file that no longer has a name. A file's own name may end in it
/// too.
const DELETED: &[u8] = b" (deleted)";
/// The path that the kernel shows for anonymous memory in huge pages that a process has reserved.
const HUGE_PAGES: &[u8] = b"/anon_hugepage (deleted)";
/// The names of anonymous memory, up to where a process may choose them.
const ANONYMOUS: [&[u8]; 3] = [b"[heap]", b"[stack]", b"[anon"];

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

/// Executable memory that is not a file's, where code of the file belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplacedCode {
    /// The first mapping of the file, executable or not.
    pub first: Range,
    /// Executable memory without a file that lies between mappings of the file, in the order of addresses:
    /// the first address of each, and the one after its last.
    pub ranges: Vec<(u64, u64)>,
}

/// A file that a process maps as executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its executable ranges, in the order of their addresses. Empty only if all of them were replaced.
    pub ranges: Vec<Range>,
    /// Memory that may have replaced a part of the file's code. None for nearly all files.
    pub replaced: Option<Box<ReplacedCode>>,
    /// The device as the kernel shows it here. On overlayfs it depends on the version of the kernel.
    pub device: Device,
    /// The inode number as the kernel shows it here.
    pub inode: u64,
    /// The path as the kernel shows it, which may end in ` (deleted)`.
    pub path: PathBuf,
}

impl Mapping {
    /// Ranges through which the file can be opened.
    pub fn openable(&self) -> impl Iterator<Item = &Range> {
        self.ranges.iter().chain(self.replaced.as_ref().map(|replaced| &replaced.first))
    }

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
/// There is one entry per file. Memory without a file (anonymous, vdso, …) has none, but is noted at a file
/// that lies around it ([`ReplacedCode`]).
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
        if let Some(line) = parse_line(&line)
            && !found.add(&line)
        {
            return Ok(None);
        }
    }
    Ok(None)
}

/// A line.
pub(super) struct MapsLine<'a> {
    pub(super) range: Range,
    /// As in `rw-p`.
    pub(super) permissions: &'a [u8],
    is_executable: bool,
    pub(super) device: Device,
    pub(super) inode: u64,
    /// With newlines escaped.
    pub(super) path: &'a [u8],
}

impl MapsLine<'_> {
    pub(super) fn has_file(&self) -> bool {
        self.inode != 0 && self.path.first() == Some(&b'/') && self.path != HUGE_PAGES
    }

    /// Whether a process can have put code there itself: not the kernel's own `[vdso]` and `[uprobes]`.
    fn is_anonymous(&self) -> bool {
        let is_named = |name: &&[u8]| self.path.starts_with(name);
        self.path.is_empty() || self.path == HUGE_PAGES || ANONYMOUS.iter().any(is_named)
    }
}

#[derive(Default)]
struct Collected {
    mappings: Vec<Mapping>,
    /// The path is part of the key, because layers of one overlay may show the same device with equal inode
    /// numbers.
    indices: HashMap<(Device, u64, Vec<u8>), usize>,
    ranges: usize,
    last: LastFile,
    /// Executable memory without a file since the last line of a file.
    between: Vec<(u64, u64)>,
}

/// The file of the last line that had one. Its lines follow each other, unless memory without a file is
/// between them.
#[derive(Default)]
struct LastFile {
    device: Device,
    inode: u64,
    path: Vec<u8>,
    first: Option<Range>,
}

impl LastFile {
    fn is_of(&self, line: &MapsLine<'_>) -> bool {
        self.first.is_some()
            && (self.device, self.inode, self.path.as_slice()) == (line.device, line.inode, line.path)
    }

    fn begin(&mut self, line: &MapsLine<'_>) {
        (self.device, self.inode, self.first) = (line.device, line.inode, Some(line.range));
        self.path.clear();
        self.path.extend_from_slice(line.path);
    }
}

impl Collected {
    /// Returns false if the limit was exceeded.
    fn add(&mut self, line: &MapsLine<'_>) -> bool {
        if !line.has_file() {
            if line.is_executable && line.is_anonymous() && self.last.first.is_some() {
                self.ranges += 1;
                self.between.push((line.range.start, line.range.end));
            }
            return self.ranges <= RANGES;
        }
        if !self.last.is_of(line) {
            self.last.begin(line);
            self.between.clear();
        }
        if !line.is_executable && self.between.is_empty() {
            return true;
        }
        let (index, between) = (self.index(line), std::mem::take(&mut self.between));
        let (Some(mapping), Some(first)) = (self.mappings.get_mut(index), self.last.first) else {
            return true;
        };
        if !between.is_empty() {
            let new = || Box::new(ReplacedCode { first, ranges: Vec::new() });
            mapping.replaced.get_or_insert_with(new).ranges.extend(between);
        }
        if line.is_executable {
            self.ranges += 1;
            mapping.ranges.push(line.range);
        }
        self.ranges <= RANGES
    }

    /// The index of the entry of a line's file.
    fn index(&mut self, line: &MapsLine<'_>) -> usize {
        let (device, inode, path) = (line.device, line.inode, unescape_newlines(line.path));
        let next = self.mappings.len();
        let index = *self.indices.entry((device, inode, path.clone())).or_insert(next);
        if index == next {
            let path = PathBuf::from(std::ffi::OsString::from_vec(path));
            self.mappings.push(Mapping { ranges: Vec::new(), replaced: None, device, inode, path });
        }
        index
    }
}

/// Parses `start-end perms offset major:minor inode   path`.
pub(super) fn parse_line(line: &[u8]) -> Option<MapsLine<'_>> {
    let (addresses, rest) = field(line)?;
    let (permissions, rest) = field(rest)?;
    let (offset, rest) = field(rest)?;
    let (device, rest) = field(rest)?;
    let (inode, rest) = field(rest)?;
    let is_executable = permissions.get(2) == Some(&b'x');
    let inode = std::str::from_utf8(inode).ok()?.parse().ok()?;
    let path = rest.trim_ascii_start();
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
    Some(MapsLine { range, permissions, is_executable, device, inode, path })
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
pub(super) fn unescape_newlines(path: &[u8]) -> Vec<u8> {
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

    /// The ranges of a file's code, and what has replaced some of it.
    fn check_replaced(text: &str, expected: &[(usize, &[(u64, u64)])]) {
        let found = parse(text.as_bytes());
        let found: Vec<_> = found
            .iter()
            .map(|one| (one.ranges.len(), one.replaced.as_ref().map_or(&[][..], |replaced| &replaced.ranges)))
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn anonymous_code_inside_of_a_file_is_noted_at_the_file() {
        let (head, tail) = ("1000-2000 r--p 0 fe:01 7 /n", "5000-6000 r--p 4000 fe:01 7 /n");
        let code = "2000-3000 r-xp 1000 fe:01 7 /n";
        for memory in ["", "   [anon: text]", "[heap]"] {
            let copy = format!("3000-5000 r-xp 0 00:00 0 {memory}");
            check_replaced(&format!("{head}\n{code}\n{copy}\n{tail}"), &[(1, &[(0x3000, 0x5000)])]);
        }
        check_replaced(
            &format!("{head}\n2000-5000 r-xp 0 00:0f 99 /anon_hugepage (deleted)\n{tail}"),
            &[(0, &[(0x2000, 0x5000)])],
        );
        let found = parse(format!("{head}\n{code}\n3000-5000 rwxp 0 00:00 0\n{tail}").as_bytes());
        assert_eq!(
            found[0].replaced.as_ref().unwrap().first,
            Range { start: 0x1000, end: 0x2000, offset: 0 }
        );
        assert_eq!(found[0].openable().count(), 2);
        // No code, the kernel's own, beyond the file, inside of another file.
        for other in ["rw-p 0 00:00 0", "r-xp 0 00:00 0 [vdso]", "r-xp 0 00:00 0 [uprobes]"] {
            check_replaced(&format!("{head}\n{code}\n3000-5000 {other}\n{tail}"), &[(1, &[])]);
        }
        let jit = "7000-8000 rwxp 0 00:00 0 ";
        check_replaced(&format!("{head}\n{code}\n{tail}\n{jit}"), &[(1, &[])]);
        check_replaced(&format!("{head}\n{code}\n{tail}\n{jit}\n9000-a000 r--p 0 fe:01 8 /m"), &[(1, &[])]);
        check_replaced(&format!("{jit}\n{head}\n{code}"), &[(1, &[])]);
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
    fn too_much_anonymous_code_is_an_error_not_memory() {
        let text = b"1-2 r--p 0 0:1 7 /x\n".iter().copied().chain(b"3-4 rwxp 0 0:0 0\n".repeat(RANGES + 1));
        assert!(collect(text.collect::<Vec<_>>().as_slice()).unwrap().is_none());
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
