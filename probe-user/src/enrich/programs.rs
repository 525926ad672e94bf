//! What is known of a program that is executed: read from /proc while it runs, or from the kernel's record of its
//! mapping when it does not any more.

use std::collections::HashMap;
use std::sync::Arc;

use probe_common::Header;

use crate::event::{Executable, Origin};
use crate::pipeline::Found;
use crate::session::Mapping;
use crate::target::Containers;
use crate::target::program::{self, Given};

/// Processes of which something is remembered, at the most.
const REMEMBERED: usize = 16_384;

/// Facts of programs.
#[derive(Debug)]
pub(super) struct Programs {
    /// When the trace began, in nanoseconds after boot.
    begin: u64,
    /// When processes began that were there before the trace.
    started: HashMap<u32, u64>,
    /// By process: programs that it has executed and that were not told of yet.
    images: HashMap<u32, Vec<Image>>,
}

/// When a program was executed, and the file that was mapped first then: none until that is told.
type Image = (u64, Option<Vec<u8>>);

impl Programs {
    pub(super) fn new() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let begin = now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs();
        Self { begin, started: HashMap::new(), images: HashMap::new() }
    }

    /// When a process began that was there before the trace.
    pub(super) fn started(&mut self, pid: u32) -> Option<u64> {
        if let Some(started) = self.started.get(&pid) {
            return Some(*started);
        }
        let started = program::running(pid, None)?.started;
        if started > self.begin {
            return None;
        }
        if self.started.len() < REMEMBERED {
            self.started.insert(pid, started);
        }
        Some(started)
    }

    /// The kernel tells of programs and mappings: what a program maps first is its executable.
    pub(super) fn mapped(&mut self, mapping: &Mapping) {
        match mapping {
            Mapping::Executes { pid, time } => {
                if self.images.len() >= REMEMBERED {
                    self.images.clear();
                }
                self.images.entry(*pid).or_default().push((*time, None));
            }
            Mapping::Mapped(mapped) => {
                let last = self.images.get_mut(&mapped.pid).and_then(|images| images.last_mut());
                if let Some((_, image @ None)) = last {
                    *image = Some(program::path_bytes(&mapped.path));
                }
            }
            // Whatever comes first now need not have been the first.
            Mapping::Lost(_) => self.images.clear(),
        }
    }

    /// The executable of what a process executed at a time, if its mapping was told.
    fn image(&mut self, pid: u32, time: u64) -> Option<Vec<u8>> {
        let images = self.images.get_mut(&pid)?;
        let later = images.iter().position(|(executed, _)| *executed > time).unwrap_or(images.len());
        let image = images.drain(..later).next_back();
        if images.is_empty() {
            self.images.remove(&pid);
        }
        image?.1
    }

    /// The program of a record. Its stack tells whether what /proc has is it.
    pub(super) fn program(&mut self, containers: &mut Containers, header: &Header, stack: u64) -> Found {
        let origin = containers.origin(header.pid, header.cgroup);
        let running = program::running(header.pid, Some(stack)).filter(|_| stack != 0);
        let image = self.image(header.pid, header.time);
        let path = running.as_ref().map_or(image, |running| running.executable.clone());
        let vpid = running.as_ref().and_then(|running| running.vpid);
        Found { origin: Arc::new(known(origin, vpid, path)), running }
    }

    /// The program that a process runs now.
    pub(super) fn existing(containers: &mut Containers, pid: u32) -> Option<(Found, Given)> {
        let given = program::given(pid);
        let running = program::running(pid, None)?;
        let origin = containers.origin(pid, super::NO_CGROUP);
        let origin = known(origin, running.vpid, running.executable.clone());
        Some((Found { origin: Arc::new(origin), running: Some(running) }, given))
    }
}

fn known(mut origin: Origin, vpid: Option<u32>, path: Option<Vec<u8>>) -> Origin {
    origin.process.vpid = vpid;
    origin.process.executable =
        path.map(|path| Executable { path: String::from_utf8_lossy(&path).into_owned() });
    origin
}
