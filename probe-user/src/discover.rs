//! Process → Object → Hook: looks into every file that the target maps executable, once per real inode.
//!
//! Reads only. What was looked at and not hooked is kept with its reason: it is the answer to "why is
//! nothing there?".

use std::collections::{BTreeSet, HashMap, HashSet};
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::event::Library;
use crate::object::{Object, ObjectError};
use crate::plan::{ObjectHooks, ObjectId, Plan, Skipped};
use crate::probe::ssl::{self, SslHooks, version};
use crate::rootfs::{self, Device, ForeignFile, Mapping, OpenError, RealInode};
use crate::target::Target;

/// A file on a file system that answers from userspace (FUSE, a dead NFS server) may never answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks into processes, and remembers: no file is opened twice, no real file parsed twice.
#[derive(Default)]
pub struct Discovery {
    /// By what the mappings show. It stands for one file, but one file may be shown in several ways.
    seen: HashMap<(Device, u64, PathBuf), Seen>,
    /// By the real file.
    files: HashMap<RealInode, Seen>,
    /// What is hooked, with the processes that map it; hooks are numbered through all of them.
    hooked: Vec<BTreeSet<u32>>,
    sites: u32,
    objects: Vec<ObjectHooks>,
    skipped: Vec<Skipped>,
    foreign: Vec<Skipped>,
    /// Devices that did not answer once: waiting for each of their files could take for ever.
    silent: HashSet<Device>,
    /// Versions, by the real file of the libcrypto.
    libcrypto: HashMap<RealInode, Option<String>>,
}

/// What a file turned out to be.
#[derive(Clone, Debug)]
enum Seen {
    /// Hooked: index into `hooked`.
    Hooked(usize),
    /// No TLS library, or no ELF file at all.
    Foreign,
    /// A TLS library perhaps, but it cannot be used.
    Broken(String),
}

/// A file was looked into.
enum Looked {
    Tls(Box<SslHooks>),
    Foreign(String),
    Broken(String),
}

impl Discovery {
    /// The plan for a target.
    pub async fn plan(&mut self, target: &Target) -> Plan {
        for process in &target.processes {
            self.process(process.pid).await;
        }
        for (object, pids) in self.objects.iter_mut().zip(&self.hooked) {
            object.pids = pids.iter().copied().collect();
        }
        Plan {
            scope: target.scope.clone(),
            objects: mem::take(&mut self.objects),
            skipped: mem::take(&mut self.skipped),
            foreign: mem::take(&mut self.foreign),
        }
    }

    /// The objects that a process maps and that were not known before.
    pub async fn more(&mut self, pid: u32) -> Vec<ObjectHooks> {
        // A file that was replaced or copied up since looks the same from outside.
        self.seen.clear();
        self.process(pid).await;
        self.skipped.clear();
        self.foreign.clear();
        mem::take(&mut self.objects)
    }

    async fn process(&mut self, pid: u32) {
        let mappings = match in_time(move || rootfs::executable_mappings(pid)).await {
            Some(Ok(mappings)) => mappings,
            Some(Err(error)) => return self.skip(pid, "its mappings", describe(&error)),
            None => return self.skip(pid, "its mappings", no_answer()),
        };
        let mut foreign = 0;
        let mut hooked = false;
        for mapping in &mappings {
            match self.mapping(pid, mapping, &mappings).await {
                Seen::Hooked(index) => {
                    hooked = true;
                    self.hooked.get_mut(index).map(|pids| pids.insert(pid));
                }
                Seen::Foreign => foreign += 1,
                Seen::Broken(why) => self.skip(pid, &mapping.path.to_string_lossy(), why),
            }
        }
        if !hooked {
            let files = if foreign == 1 { "file" } else { "files" };
            let what = format!("{foreign} mapped {files}");
            self.skip(
                pid,
                &what,
                "no function such as SSL_read is exported or has a symbol there".to_owned(),
            );
        }
    }

    async fn mapping(&mut self, pid: u32, mapping: &Mapping, all: &[Mapping]) -> Seen {
        let shown = (mapping.device, mapping.inode, mapping.path.clone());
        if let Some(seen) = self.seen.get(&shown) {
            return seen.clone();
        }
        if self.silent.contains(&mapping.device) {
            return Seen::Broken(no_answer());
        }
        let seen = match open(pid, mapping).await {
            Ok(opened) => self.file(pid, opened, all).await,
            // Not remembered: the process may have ended in between, and others may map the file.
            Err(Unopened::Failed(why)) => return Seen::Broken(why),
            Err(Unopened::Silent) => {
                self.silent.insert(mapping.device);
                return Seen::Broken(no_answer());
            }
        };
        self.seen.insert(shown, seen.clone());
        seen
    }

    async fn file(&mut self, pid: u32, (file, inode): (ForeignFile, RealInode), all: &[Mapping]) -> Seen {
        if let Some(seen) = self.files.get(&inode) {
            return seen.clone();
        }
        let file = Arc::new(file);
        let seen = self.look(pid, Arc::clone(&file), all).await;
        self.files.insert(inode, seen.clone());
        // Both are needed: who mapped the file before it was copied up goes on executing the original.
        if let Seen::Hooked(_) = seen
            && let Some(Some((original, inode))) = in_time(move || rootfs::before_copy_up(pid, &file)).await
            && !self.files.contains_key(&inode)
        {
            let original = self.look(pid, Arc::new(original), all).await;
            self.files.insert(inode, original);
        }
        seen
    }

    async fn look(&mut self, pid: u32, file: Arc<ForeignFile>, all: &[Mapping]) -> Seen {
        match look_into(Arc::clone(&file)).await {
            Looked::Tls(found) => self.hook(pid, file, *found, all).await,
            Looked::Foreign(why) => {
                let what = file_name(&file);
                self.foreign.push(Skipped { pid: Some(pid), what, why });
                Seen::Foreign
            }
            Looked::Broken(why) => Seen::Broken(why),
        }
    }

    async fn hook(&mut self, pid: u32, file: Arc<ForeignFile>, found: SslHooks, all: &[Mapping]) -> Seen {
        let SslHooks { library: facts, mut hooks, skipped } = found;
        let path = file_name(&file);
        for why in skipped {
            self.skip(pid, &path, why);
        }
        if hooks.is_empty() {
            return Seen::Broken("it has TLS functions, but none of them can be probed".to_owned());
        }
        let version = match (facts.version, &facts.version_in) {
            (None, Some(libcrypto)) => self.version_of(libcrypto, pid, all).await,
            (version, _) => version,
        };
        let name = facts.name.unwrap_or_else(|| {
            file.name().file_name().map_or_else(|| path.clone(), |name| name.to_string_lossy().into_owned())
        });
        let library = Library { name, path, implementation: facts.implementation, version };
        for hook in &mut hooks {
            if let Some(shape) = &mut hook.shape {
                shape.site = self.sites;
            }
            self.sites += 1;
        }
        let id = ObjectId(u32::try_from(self.hooked.len()).unwrap_or(u32::MAX));
        self.objects.push(ObjectHooks { id, library: Arc::new(library), file, pids: vec![pid], hooks });
        self.hooked.push(BTreeSet::from([pid]));
        Seen::Hooked(self.hooked.len() - 1)
    }

    /// libssl of OpenSSL 3 does not say its version; the libcrypto that the process maps beside it does.
    async fn version_of(&mut self, libcrypto: &str, pid: u32, all: &[Mapping]) -> Option<String> {
        let is_it = |mapping: &&Mapping| mapping.path.file_name().is_some_and(|name| name == libcrypto);
        let mapping = all.iter().find(is_it)?;
        let (file, inode) = open(pid, mapping).await.ok()?;
        if let Some(known) = self.libcrypto.get(&inode) {
            return known.clone();
        }
        let version = in_time(move || version::find(&parse(&file).ok()?)?.version).await.flatten();
        self.libcrypto.insert(inode, version.clone());
        version
    }

    fn skip(&mut self, pid: u32, what: &str, why: String) {
        self.skipped.push(Skipped { pid: Some(pid), what: what.to_owned(), why });
    }
}

/// A file could not be opened.
enum Unopened {
    /// Its file system did not answer.
    Silent,
    /// For this reason.
    Failed(String),
}

/// Opens the file behind a mapping.
async fn open(pid: u32, mapping: &Mapping) -> Result<(ForeignFile, RealInode), Unopened> {
    let mapping = mapping.clone();
    match in_time(move || rootfs::inspect(pid, &mapping)).await {
        Some(opened) => opened.map_err(|error: OpenError| Unopened::Failed(describe(&error))),
        None => Err(Unopened::Silent),
    }
}

async fn look_into(file: Arc<ForeignFile>) -> Looked {
    let looked = in_time(move || match parse(&file) {
        Ok(object) => match ssl::hooks(&object) {
            Ok(found) => Looked::Tls(Box::new(found)),
            Err(error @ ssl::NotTls) => Looked::Foreign(error.to_string()),
        },
        Err(error) if error.is_foreign() => Looked::Foreign(describe(&error)),
        Err(error) => Looked::Broken(describe(&error)),
    });
    looked.await.unwrap_or_else(|| Looked::Broken(no_answer()))
}

fn file_name(file: &ForeignFile) -> String {
    file.name().to_string_lossy().into_owned()
}

fn parse(file: &ForeignFile) -> Result<Object, ObjectError> {
    let handle = file.file().map_err(|source| ObjectError::Read { what: "the file", offset: 0, source })?;
    Object::parse(handle, file.size, &ssl::wanted())
}

/// Runs on another thread, which is left behind if it does not come back.
async fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(work)).await.ok()?.ok()
}

fn no_answer() -> String {
    format!("its file system did not answer within {} s", PATIENCE.as_secs())
}

/// An error with its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// What a reader wants to know of the files that were not hooked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// What should perhaps have been.
    Skipped,
    /// Each file.
    Everything,
}

/// What was not hooked and why, by process, as lines.
pub fn reasons(plan: &Plan, target: &Target, detail: Detail) -> Vec<String> {
    let foreign: &[Skipped] = match detail {
        Detail::Skipped => &[],
        Detail::Everything => &plan.foreign,
    };
    let mut all: Vec<&Skipped> = plan.skipped.iter().chain(foreign).collect();
    all.sort_by_key(|skipped| skipped.pid);
    let line = |Skipped { pid, what, why }: &Skipped| {
        let process = target.processes.iter().find(|process| Some(process.pid) == *pid);
        let comm = process.map_or("", |process| process.comm.as_str());
        let (comm, what, why) = (comm.escape_debug(), what.escape_debug(), why.escape_debug());
        match pid {
            Some(pid) => format!("{comm}[{pid}]: {what}: {why}"),
            None => format!("{what}: {why}"),
        }
    };
    all.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_file_that_cannot_be_opened_in_one_process_is_opened_in_the_next() {
        let own = std::process::id();
        let mappings = rootfs::executable_mappings(own).unwrap();
        let first = mappings.first().unwrap();
        let mut discovery = Discovery::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let gone = discovery.mapping(u32::MAX, first, &mappings).await;
            assert!(matches!(gone, Seen::Broken(_)), "{gone:?}");
            let there = discovery.mapping(own, first, &mappings).await;
            assert!(!matches!(there, Seen::Broken(_)), "{there:?}");
        });
    }
}
