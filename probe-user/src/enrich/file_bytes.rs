//! Bytes that were not in memory when a function was called, from the file that is mapped there.
//!
//! A process may have altered its memory, unmapped it or executed another program since. What is returned is
//! certain to be what it would have found there; in doubt, nothing is.

use std::collections::HashSet;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::pipeline::UnreadBytes;
use crate::proc::file_memory::{file_memory, unaltered};
use crate::rootfs::ForeignFile;
use crate::timeout::{BlockingReaders, ReadError};

/// How long a file may take, while no other record is read.
const READ_TIMEOUT: Duration = Duration::from_millis(500);
/// The most processes with a file that did not answer.
const SILENT: usize = 4096;

/// Reads files of processes, and remembers whose do not answer.
#[derive(Debug, Default)]
pub(super) struct FileBytes {
    readers: BlockingReaders,
    silent: HashSet<u32>,
}

impl FileBytes {
    /// Up to `unread.length` bytes. None if the first one is not certain.
    pub(super) fn read(&mut self, unread: &UnreadBytes<'_>) -> Option<Vec<u8>> {
        let &UnreadBytes { pid, address, length, instruction, code } = unread;
        if self.silent.contains(&pid) || self.silent.len() >= SILENT {
            return None;
        }
        let code = PathBuf::from(code);
        match self.readers.read(READ_TIMEOUT, move || read(pid, address, length, (instruction, code))) {
            Ok(bytes) => bytes,
            Err(ReadError::Busy) => None,
            Err(ReadError::TimedOut) => {
                self.silent.insert(pid);
                None
            }
        }
    }

    pub(super) fn forget(&mut self, pid: u32) {
        self.silent.remove(&pid);
    }
}

fn read(pid: u32, address: u64, length: usize, (instruction, code): (u64, PathBuf)) -> Option<Vec<u8>> {
    let before = file_memory(pid, [address, instruction])?;
    let [memory, executed] = &before;
    // In another program, the same address would be another file's.
    if executed.mapping.unmarked_path() != code || memory.is_shared_and_writable {
        return None;
    }
    let length = (memory.range.end - address).min(length as u64);
    let file = ForeignFile::open_mapping(pid, &memory.mapping).ok()?;
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    let offset = memory.range.offset.checked_add(address - memory.range.start)?;
    let read = file.file().ok()?.read_at(&mut bytes, offset).ok()?;
    let certain = unaltered(pid, address, read as u64);
    bytes.truncate(usize::try_from(certain).ok()?);
    let is_same = file_memory(pid, [address, instruction]).is_some_and(|after| after == before);
    (is_same && !bytes.is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::proc::file_memory::FileMemory;

    static TEXT: &str = "a text in the file of the tests";

    #[test]
    fn a_constant_is_read_from_the_file() {
        let (pid, address) = (std::process::id(), TEXT.as_ptr() as u64);
        let instruction = a_constant_is_read_from_the_file as fn() as usize as u64;
        let [FileMemory { mapping, .. }] = file_memory(pid, [instruction]).unwrap();
        let code = mapping.path.to_str().unwrap();
        let unread = UnreadBytes { pid, address, length: TEXT.len(), instruction, code };
        let mut files = FileBytes::default();
        assert_eq!(files.read(&unread).as_deref(), Some(TEXT.as_bytes()));
        assert_eq!(files.read(&UnreadBytes { code: "/bin/true", ..unread }), None, "another program");
        let on_heap = Box::new(7_u64);
        assert_eq!(files.read(&UnreadBytes { address: &raw const *on_heap as u64, ..unread }), None);
        assert_eq!(files.read(&UnreadBytes { address: 8, ..unread }), None);
    }
}
