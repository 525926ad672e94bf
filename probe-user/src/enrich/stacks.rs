//! Addresses of stacks → objects and functions, by what the processes map.
//!
//! Owns what is remembered of files: each is read once. A file that does not answer is not asked again, and holds up the
//! stream for a moment once. What cannot be told stays an address.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::event::StackFrame;
use crate::object::{FileOffset, Object, Symboliser, Wanted};
use crate::pipeline::Symbols;
use crate::rootfs::{self, Device, ForeignFile, Mapping};

/// How long a file may take to be opened and read.
const PATIENCE: Duration = Duration::from_secs(2);
/// Processes whose mappings are remembered.
const PROCESSES: usize = 1024;
/// Files that are remembered.
const FILES: usize = 512;

/// A file by what mappings show of it.
type FileKey = (Device, u64, PathBuf);

/// What is known of files and mappings.
#[derive(Debug, Default)]
pub struct Stacks {
    mappings: HashMap<u32, Arc<[Mapping]>>,
    /// None: nothing can be told of it.
    files: HashMap<FileKey, Option<Symboliser>>,
}

impl Symbols for Stacks {
    fn resolve(&mut self, pid: u32, addresses: &[u64]) -> Vec<StackFrame> {
        if self.mappings.len() >= PROCESSES {
            self.mappings.clear();
        }
        let known = |mappings: &[Mapping]| addresses.iter().all(|address| find(mappings, *address).is_some());
        let mut mappings = self.mappings.get(&pid).cloned().unwrap_or_default();
        // What has ended by now is known if it was seen before.
        if !known(&mappings)
            && let Ok(read) = rootfs::executable_mappings(pid)
        {
            mappings = read.into();
            self.mappings.insert(pid, Arc::clone(&mappings));
        }
        // What follows a call can be another function: of return addresses the byte before tells.
        let frame =
            |(index, address): (usize, &u64)| self.frame(pid, &mappings, *address, u64::from(index > 0));
        addresses.iter().enumerate().map(frame).collect()
    }

    fn forget(&mut self, pid: u32) {
        self.mappings.remove(&pid);
    }
}

impl Stacks {
    /// Named by what is `back` bytes before the address.
    fn frame(&mut self, pid: u32, mappings: &[Mapping], address: u64, back: u64) -> StackFrame {
        let Some((mapping, offset)) = find(mappings, address.saturating_sub(back)) else {
            return StackFrame { address, object: None, function: None };
        };
        let name = mapping.unmarked_path().file_name().map(|name| name.to_string_lossy().into());
        let symbolic = self.file(pid, mapping).and_then(|file| file.at_offset(FileOffset(offset)));
        let function = symbolic.map(|symbolic| (symbolic.function, symbolic.offset + back));
        StackFrame { address, object: name, function }
    }

    fn file(&mut self, pid: u32, mapping: &Mapping) -> Option<&Symboliser> {
        if self.files.len() >= FILES {
            self.files.clear();
        }
        let key = (mapping.device, mapping.inode, mapping.path.clone());
        let read = || {
            let (done, result) = mpsc::channel();
            let mapping = mapping.clone();
            // It is left behind if the file's file system does not answer.
            let reader = thread::Builder::new().name("symbols".to_owned());
            // Nobody waits any more when it cannot be sent.
            reader.spawn(move || drop(done.send(symboliser(pid, &mapping)))).ok()?;
            result.recv_timeout(PATIENCE).ok().flatten()
        };
        self.files.entry(key).or_insert_with(read).as_ref()
    }
}

/// The mapping that has an address inside, and where that is in its file.
fn find(mappings: &[Mapping], address: u64) -> Option<(&Mapping, u64)> {
    mappings.iter().find_map(|mapping| {
        let range = mapping.ranges.iter().find(|range| (range.start..range.end).contains(&address))?;
        Some((mapping, address - range.start + range.offset))
    })
}

fn symboliser(pid: u32, mapping: &Mapping) -> Option<Symboliser> {
    let file = ForeignFile::open_mapping(pid, mapping).ok()?;
    let object = Object::parse(file.file().ok()?, file.size, &Wanted::default()).ok()?;
    Symboliser::new(object).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn our_own_functions_have_names() {
        let address = our_own_functions_have_names as fn() as usize as u64;
        let frames = Stacks::default().resolve(std::process::id(), &[address, 8]);
        let [own, none] = frames.as_slice() else { panic!("{frames:?}") };
        let (name, offset) = own.function.clone().unwrap();
        assert!(name.contains("our_own_functions_have_names"), "{name}");
        assert_eq!((offset, none.function.is_none(), none.object.is_none()), (0, true, true));
    }
}
