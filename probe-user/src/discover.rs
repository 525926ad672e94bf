//! Process → Object → Hook: looks into every file that the target maps executable, once per real inode.
//!
//! Reads only. What was looked at and not hooked is kept with its reason: it is the answer to "why is
//! nothing there?".

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::event::Library;
use crate::object::{Object, ObjectError};
use crate::plan::{ObjectHooks, Plan, Skipped};
use crate::probe::ssl::{self, SslHooks, version};
use crate::rootfs::{self, Device, ForeignFile, Mapping, OpenError, RealInode};
use crate::target::{Process, Target};

/// A file on a file system that answers from userspace (FUSE, a dead NFS server) may never answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the plan for a target.
pub async fn plan(target: &Target) -> Plan {
    let mut discovery = Discovery::default();
    for process in &target.processes {
        discovery.process(process).await;
    }
    discovery.finish(target)
}

/// What is known so far, so that no file is opened twice and no real file parsed twice.
#[derive(Default)]
struct Discovery {
    /// By what the mappings show. It stands for one file, but one file may be shown in several ways.
    seen: HashMap<(Device, u64, PathBuf), Seen>,
    /// By the real file.
    files: HashMap<RealInode, Seen>,
    objects: Vec<ObjectHooks>,
    skipped: Vec<Skipped>,
    /// Versions, by the real file of the libcrypto.
    libcrypto: HashMap<RealInode, Option<String>>,
}

/// What a file turned out to be.
#[derive(Clone, Debug)]
enum Seen {
    /// Hooked: index into the objects.
    Hooked(usize),
    /// No TLS library, or no ELF file at all.
    Foreign,
    /// A TLS library perhaps, but it cannot be used.
    Broken(String),
}

/// A file was looked into.
enum Looked {
    Tls(Box<SslHooks>),
    Foreign,
    Broken(String),
}

impl Discovery {
    async fn process(&mut self, process: &Process) {
        let pid = process.pid;
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
                    if let Some(object) = self.objects.get_mut(index)
                        && object.pids.last() != Some(&pid)
                    {
                        object.pids.push(pid);
                    }
                }
                Seen::Foreign => foreign += 1,
                Seen::Broken(why) => self.skip(pid, &mapping.path.to_string_lossy(), why),
            }
        }
        if !hooked {
            let what = format!("{foreign} other mapped files");
            self.skip(pid, &what, "no function of a TLS library is exported or has a symbol in them".to_owned());
        }
    }

    async fn mapping(&mut self, pid: u32, mapping: &Mapping, all: &[Mapping]) -> Seen {
        let shown = (mapping.device, mapping.inode, mapping.path.clone());
        if let Some(seen) = self.seen.get(&shown) {
            return seen.clone();
        }
        let seen = match open(pid, mapping).await {
            Ok(opened) => self.file(pid, opened, all).await,
            Err(why) => Seen::Broken(why),
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
            Looked::Foreign => Seen::Foreign,
            Looked::Broken(why) => Seen::Broken(why),
        }
    }

    async fn hook(&mut self, pid: u32, file: Arc<ForeignFile>, found: SslHooks, all: &[Mapping]) -> Seen {
        let SslHooks { library: facts, mut hooks, skipped } = found;
        let path = file.name().to_string_lossy().into_owned();
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
        let first_site = self.objects.iter().map(|object| object.hooks.len()).sum::<usize>();
        for (hook, site) in hooks.iter_mut().zip(first_site..) {
            if let (Some(shape), Ok(site)) = (&mut hook.shape, u32::try_from(site)) {
                shape.site = site;
            }
        }
        self.objects.push(ObjectHooks { library: Arc::new(library), file, pids: vec![pid], hooks });
        Seen::Hooked(self.objects.len() - 1)
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

    fn finish(self, target: &Target) -> Plan {
        Plan { scope: target.scope.clone(), objects: self.objects, skipped: self.skipped }
    }
}

/// Opens the file behind a mapping.
async fn open(pid: u32, mapping: &Mapping) -> Result<(ForeignFile, RealInode), String> {
    let mapping = mapping.clone();
    match in_time(move || rootfs::inspect(pid, &mapping)).await {
        Some(opened) => opened.map_err(|error: OpenError| describe(&error)),
        None => Err(no_answer()),
    }
}

async fn look_into(file: Arc<ForeignFile>) -> Looked {
    let looked = in_time(move || match parse(&file) {
        Ok(object) => match ssl::hooks(&object) {
            Ok(found) => Looked::Tls(Box::new(found)),
            Err(ssl::NotTls) => Looked::Foreign,
        },
        Err(error) if error.is_foreign() => Looked::Foreign,
        Err(error) => Looked::Broken(describe(&error)),
    });
    looked.await.unwrap_or_else(|| Looked::Broken(no_answer()))
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

/// The reasons of a plan in which nothing is hooked, by process, as lines.
pub fn reasons(plan: &Plan, target: &Target) -> Vec<String> {
    let mut by_pid: BTreeMap<Option<u32>, Vec<&Skipped>> = BTreeMap::new();
    for skipped in &plan.skipped {
        by_pid.entry(skipped.pid).or_default().push(skipped);
    }
    let mut lines = Vec::new();
    for (pid, skipped) in by_pid {
        let comm = target.processes.iter().find(|process| Some(process.pid) == pid);
        let comm = comm.map_or("", |process| process.comm.as_str());
        for Skipped { what, why, pid: _ } in skipped {
            let (what, why) = (what.escape_debug(), why.escape_debug());
            lines.push(match pid {
                Some(pid) => format!("{}[{pid}]: {what}: {why}", comm.escape_debug()),
                None => format!("{what}: {why}"),
            });
        }
    }
    lines
}
