//! Facts about executed programs. The kernel's records of the program and its mappings contain most of them;
//! the rest is read from /proc while the program runs.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use probe_common::{ExecRecord, FLAG_EFFECTIVE};

use crate::clock;
use crate::container::index::ContainerIndex;
use crate::decode::MmapEvent;
use crate::event::{Containment, Executable, Process, ProcessContext};
use crate::pipeline::ProcessImage;
use crate::proc::process_snapshot::{self, CommandLine, MissingFields};

/// Limit of the processes whose facts are kept.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// Facts about programs.
#[derive(Debug)]
pub(super) struct Programs {
    /// When the trace started, in nanoseconds after boot.
    begin: u64,
    /// When processes started that were running before the trace.
    started: LruCache<u32, u64>,
    /// By process: the programs that it executed and whose records have not been handled yet.
    images: LruCache<u32, Vec<Image>>,
}

/// When a program was executed, and the file that was mapped first then. None until that mapping is reported.
type Image = (u64, Option<Vec<u8>>);

impl Programs {
    pub(super) fn new() -> Self {
        let (started, images) = (LruCache::sparse(REMEMBERED), LruCache::sparse(REMEMBERED));
        Self { begin: clock::boot_time(), started, images }
    }

    /// When a process started that was running before the trace. None for later ones.
    pub(super) fn started(&mut self, pid: u32) -> Option<u64> {
        if let Some(started) = self.started.get(&pid) {
            return Some(*started);
        }
        let started =
            process_snapshot::running(pid, None, MissingFields { executable: false, names: false })?.started;
        if started > self.begin {
            return None;
        }
        self.started.put(pid, started);
        Some(started)
    }

    /// Records executions and mappings that the kernel reported. The first file that a program maps is its
    /// executable.
    pub(super) fn mapped(&mut self, mapping: &MmapEvent) {
        match mapping {
            MmapEvent::Executes { pid, time } => {
                self.images.get_or_insert_mut(*pid, Vec::new).push((*time, None));
            }
            MmapEvent::Mapped(mapped) => {
                let last = self.images.get_mut(&mapped.pid).and_then(|images| images.last_mut());
                if let Some((_, image @ None)) = last {
                    *image = Some(process_snapshot::path_bytes(&mapped.path));
                }
            }
            // Mappings may be missing, so the next one need not be a program's first.
            MmapEvent::Anonymous { .. } => {}
            MmapEvent::Lost(_) => self.images.clear(),
        }
    }

    /// The executable of the program that was executed at this time, if its mapping was reported.
    fn image(&mut self, pid: u32, time: u64) -> Option<Vec<u8>> {
        let images = self.images.get_mut(&pid)?;
        let later = images.iter().position(|(executed, _)| *executed > time).unwrap_or(images.len());
        let image = images.drain(..later).next_back();
        if images.is_empty() {
            self.images.pop(&pid);
        }
        image?.1
    }

    /// The program of a record. Its stack pointer shows whether /proc still describes the same program.
    pub(super) fn program(&mut self, containers: &ContainerIndex, program: &ExecRecord) -> ProcessImage {
        let &ExecRecord { header, stack, inner_pid, flags, .. } = program;
        let image = self.image(header.pid, header.time);
        let names = inner_pid == 0 || flags & FLAG_EFFECTIVE == 0;
        let unknown = MissingFields { executable: image.is_none(), names };
        let running =
            (stack != 0).then(|| process_snapshot::running(header.pid, Some(stack), unknown)).flatten();
        let path = image.or_else(|| running.as_ref()?.executable.clone());
        let vpid = if inner_pid == 0 { running.as_ref().and_then(|it| it.vpid) } else { Some(inner_pid) };
        let container = containers.of_process(header.pid, header.cgroup);
        let entered = containers.entered_by(header.pid, &container);
        let mut origin = origin(header.pid, vpid, path, container);
        origin.process.entered = entered;
        ProcessImage { origin: Arc::new(origin), running }
    }

    /// The program that a process runs now, with its arguments and environment.
    pub(super) fn existing(containers: &ContainerIndex, pid: u32) -> Option<(ProcessImage, CommandLine)> {
        let given = process_snapshot::given(pid);
        let running = process_snapshot::running(pid, None, MissingFields::ALL)?;
        let container = containers.of_process(pid, super::NO_CGROUP);
        let entered = containers.entered_by(pid, &container);
        let mut origin = origin(pid, running.vpid, running.executable.clone(), container);
        origin.process.entered = entered;
        Some((ProcessImage { origin: Arc::new(origin), running: Some(running) }, given))
    }
}

fn origin(pid: u32, vpid: Option<u32>, path: Option<Vec<u8>>, container: Containment) -> ProcessContext {
    let executable = path.map(|path| Executable { path: String::from_utf8_lossy(&path).into_owned() });
    ProcessContext { process: Process { pid, vpid, executable, entered: None }, container }
}
