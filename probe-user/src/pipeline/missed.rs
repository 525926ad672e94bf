//! Counts what was missed, for the summary.

use std::num::NonZeroUsize;

use lru::LruCache;

use crate::event::{Context, Missed, MissedTotal, ProcessCount};

/// Limit of the processes and files that are remembered. Evicted ones would be counted again.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();

/// A file, in its container if it is in one.
type FileInContainer = (Option<String>, String);

/// What the summary says of missed calls.
#[derive(Debug)]
pub struct MissedCount {
    processes: LruCache<u32, ()>,
    files: LruCache<FileInContainer, ()>,
    total: MissedTotal,
    late: u64,
}

impl Default for MissedCount {
    fn default() -> Self {
        let (processes, files) = (LruCache::sparse(REMEMBERED), LruCache::sparse(REMEMBERED));
        Self { processes, files, total: MissedTotal::default(), late: 0 }
    }
}

impl MissedCount {
    /// Adds what a process missed.
    pub fn add(&mut self, context: &Context<'_>, missed: &Missed) {
        let pid = context.thread().map_or(0, |(process, _)| process.process.pid);
        let count = match self.processes.put(pid, ()) {
            None => ProcessCount::First,
            Some(()) => ProcessCount::Again,
        };
        self.total.add(missed, count);
        let container = context.container().and_then(|container| Some(container.container()?.id.clone()));
        let is_new = match &missed.library {
            Some(library) => self.files.put((container, library.path.clone()), ()).is_none(),
            None => count == ProcessCount::First,
        };
        self.late = self.late.saturating_add(u64::from(is_new));
    }

    /// The processes.
    pub fn total(&self) -> MissedTotal {
        self.total
    }

    /// The number of programs and libraries that were in use before they were attached to.
    pub fn late(&self) -> u64 {
        self.late
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::event::{Container, Containment, Library, Process, ProcessContext, Thread};

    fn add(count: &mut MissedCount, pid: u32, container: Option<&str>, path: Option<&str>) {
        let container = container.map_or(Containment::Host, |id| {
            Containment::In(Arc::new(Container { id: id.to_owned(), ..Container::default() }))
        });
        let process = Process { pid, vpid: None, executable: None, entered: None };
        let process = ProcessContext { process, container };
        let context = Context::of_thread(Timestamp::UNIX_EPOCH, &process, Thread { id: pid, comm: [0; 16] });
        let library = path.map(|path| {
            Arc::new(Library { name: "x".into(), path: path.into(), implementation: None, version: None })
        });
        let missed = Missed { library, unattached: Duration::from_millis(2), ended: false };
        count.add(&context, &missed);
    }

    #[test]
    fn processes_and_files_are_counted_once() {
        let mut count = MissedCount::default();
        for pid in [1, 2] {
            add(&mut count, pid, None, Some("/ssl"));
            add(&mut count, pid, None, Some("/tls"));
        }
        add(&mut count, 3, Some("web"), Some("/ssl"));
        add(&mut count, 4, Some("web"), None);
        add(&mut count, 5, Some("web"), None);
        assert_eq!((count.total().processes, count.late()), (5, 5));
    }
}
