//! Resolves addresses of stacks to objects and functions, through the mappings of processes.
//!
//! Owns the cache of files: each is read once. A file that does not answer is not read again, and delays the
//! stream for a moment once per process. What cannot be resolved stays an address.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::elf::{FileOffset, Object, ObjectSymbolizer, SymbolFilter};
use crate::event::StackFrame;
use crate::pipeline::Symbolizer;
use crate::proc::Device;
use crate::proc::maps::Mapping;
use crate::rootfs::{self, ForeignFile, Mounts};
use crate::timeout::{BlockingReaders, ReadError};

/// How long a file may take to be opened and read.
const READ_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit of the processes whose mappings are cached.
const PROCESSES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Limit of the files that are cached.
const FILES: NonZeroUsize = NonZeroUsize::new(512).unwrap();
/// Mappings are read again if an address is in none of them. This is done so rarely that it takes at most one
/// part in this many of the time: code that is in no file would otherwise make ctrace read them at each call.
const REREADING: u32 = 20;

/// A file as mappings show it.
type FileKey = (Device, u64, PathBuf);

/// Resolves stacks, with a cache of mappings and files.
#[derive(Debug)]
pub struct StackSymbolizer {
    mappings: LruCache<u32, Arc<[Mapping]>>,
    /// When cached mappings may be read again.
    rereading: Option<Instant>,
    /// By file. None if it could not be read.
    files: LruCache<FileKey, Option<ObjectSymbolizer>>,
    /// Processes with a file that did not answer. No other files of theirs are read.
    silent: HashSet<u32>,
    readers: BlockingReaders,
}

impl Symbolizer for StackSymbolizer {
    fn resolve(&mut self, pid: u32, addresses: &[u64]) -> Vec<StackFrame> {
        let covers =
            |mappings: &[Mapping]| addresses.iter().all(|address| find(mappings, *address).is_some());
        let mut mappings = self.mappings.get(&pid).cloned().unwrap_or_default();
        // For a process that has exited, only the cache remains.
        let begin = Instant::now();
        let is_new = !self.mappings.contains(&pid);
        let may_read = is_new || self.rereading.is_none_or(|after| begin >= after);
        if !covers(&mappings)
            && may_read
            && let Ok(read) = rootfs::executable_mappings(pid)
        {
            mappings = read.into();
            self.mappings.put(pid, Arc::clone(&mappings));
            self.rereading = Some(Instant::now() + begin.elapsed() * REREADING);
        }
        // A call may be the last instruction of a function, so a return address may already belong to the
        // next one. The byte before it is in the calling function.
        let frame =
            |(index, address): (usize, &u64)| self.frame(pid, &mappings, *address, u64::from(index > 0));
        addresses.iter().enumerate().map(frame).collect()
    }

    fn forget(&mut self, pid: u32) {
        self.mappings.pop(&pid);
        self.silent.remove(&pid);
    }
}

impl Default for StackSymbolizer {
    fn default() -> Self {
        Self {
            mappings: LruCache::sparse(PROCESSES),
            rereading: None,
            files: LruCache::sparse(FILES),
            silent: HashSet::new(),
            readers: BlockingReaders::default(),
        }
    }
}

impl StackSymbolizer {
    /// The frame of an address, whose function is that of the byte `back` bytes before it.
    fn frame(&mut self, pid: u32, mappings: &[Mapping], address: u64, back: u64) -> StackFrame {
        let Some((mapping, offset)) = find(mappings, address.saturating_sub(back)) else {
            return StackFrame { address, object: None, function: None };
        };
        let name = mapping.unmarked_path().file_name().map(|name| name.to_string_lossy().into());
        let symbolic = self.file(pid, mapping).and_then(|file| file.at_offset(FileOffset(offset)));
        let function = symbolic.map(|symbolic| (symbolic.function, symbolic.offset + back));
        StackFrame { address, object: name, function }
    }

    fn file(&mut self, pid: u32, mapping: &Mapping) -> Option<&ObjectSymbolizer> {
        let key = (mapping.device, mapping.inode, mapping.path.clone());
        if !self.files.contains(&key) {
            if self.silent.contains(&pid) {
                return None;
            }
            let mapping = mapping.clone();
            let read = match self.readers.read(READ_TIMEOUT, move || symbolizer(pid, &mapping)) {
                Ok(read) => read,
                // The file may be read later.
                Err(ReadError::Busy) => return None,
                Err(ReadError::TimedOut) => {
                    self.silent.insert(pid);
                    None
                }
            };
            self.files.put(key.clone(), read);
        }
        self.files.get(&key)?.as_ref()
    }
}

/// The mapping that contains an address, and its offset in the file.
fn find(mappings: &[Mapping], address: u64) -> Option<(&Mapping, u64)> {
    mappings.iter().find_map(|mapping| {
        let range = mapping.ranges.iter().find(|range| (range.start..range.end).contains(&address))?;
        Some((mapping, address - range.start + range.offset))
    })
}

fn symbolizer(pid: u32, mapping: &Mapping) -> Option<ObjectSymbolizer> {
    let file = ForeignFile::open_mapping(pid, mapping).ok()?;
    let object = Object::parse(file.file().ok()?, file.size, &SymbolFilter::default()).ok()?;
    let object = rootfs::with_debug_file(pid, file.name(), object, &Mounts::default());
    ObjectSymbolizer::new(object).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn our_own_functions_have_names() {
        let address = our_own_functions_have_names as fn() as usize as u64;
        let frames = StackSymbolizer::default().resolve(std::process::id(), &[address, 8]);
        let [own, none] = frames.as_slice() else { panic!("{frames:?}") };
        let (name, offset) = own.function.clone().unwrap();
        assert!(name.contains("our_own_functions_have_names"), "{name}");
        assert_eq!((offset, none.function.is_none(), none.object.is_none()), (0, true, true));
    }

    #[test]
    fn mappings_are_not_read_at_each_call() {
        let mut stacks = StackSymbolizer::default();
        let pid = std::process::id();
        stacks.resolve(pid, &[8]);
        let first = Arc::clone(stacks.mappings.get(&pid).unwrap());
        // As if reading had taken long.
        stacks.rereading = Some(Instant::now() + Duration::from_hours(1));
        stacks.resolve(pid, &[8]);
        assert!(Arc::ptr_eq(&first, stacks.mappings.get(&pid).unwrap()), "they are read again");
        stacks.rereading = Some(Instant::now());
        stacks.resolve(pid, &[8]);
        assert!(!Arc::ptr_eq(&first, stacks.mappings.get(&pid).unwrap()), "they are never read again");
    }
}
