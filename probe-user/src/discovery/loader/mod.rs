//! The files that a program will map before it runs, and those that it is likely to load later: its
//! executable, its loader, the closure of its `DT_NEEDED`, and TLS libraries where its loader searches.
//!
//! Finds what the dynamic loader would find, without executing it. The files are a target's: every list has a
//! limit, paths are resolved below the process's root, and a file that cannot be read is left out. Nothing is
//! cached here but how files are linked.

mod ld_cache;
mod search_path;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Read;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::REMEMBERED;
use crate::elf::Linkage;
use crate::proc::execve::LoaderVariables;
use crate::rootfs::{ForeignFile, Mounts, RealInode, TargetRoot};
pub use ld_cache::LdCache;
pub use search_path::directories;
use search_path::{LOCAL, LoaderKind};

/// Limit of the files of one program. Large desktop programs have 300.
const MAX_FILES: usize = 1024;
/// Limit of the names that are searched for. Each may cost a few hundred attempts to open a file.
const MAX_NAMES: usize = 4096;
/// Limit of the libraries that the program only might load.
const MAX_EXPECTED: usize = 64;
/// Limit of the interpreters of scripts that are followed (as in `exec_binprm` of fs/exec.c).
const MAX_INTERPRETERS: usize = 5;
/// Limit of the files of ldconfig that are cached: one per root directory.
const MAX_LD_CACHES: NonZeroUsize = NonZeroUsize::new(8).unwrap();
/// How much of a script is searched for its interpreter (`BINPRM_BUF_SIZE`).
const SCRIPT: u64 = 256;

const LD_CACHE: &str = "/etc/ld.so.cache";

/// What was parsed of files, each with the file's change time. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct LoaderCache(Arc<Mutex<ParsedFiles>>);

#[derive(Debug)]
struct ParsedFiles {
    /// How files are linked. None if one is not an ELF file for this machine.
    linkages: LruCache<RealInode, (ChangeTime, Option<Arc<Linkage>>)>,
    /// Files of ldconfig. None if one is in another format.
    ld_caches: LruCache<RealInode, (ChangeTime, Option<Arc<LdCache>>)>,
}

/// Seconds and nanoseconds.
type ChangeTime = (i64, u32);

impl Default for LoaderCache {
    fn default() -> Self {
        let (linkages, ld_caches) = (LruCache::sparse(REMEMBERED), LruCache::sparse(MAX_LD_CACHES));
        Self(Arc::new(Mutex::new(ParsedFiles { linkages, ld_caches })))
    }
}

impl LoaderCache {
    fn lock(&self) -> MutexGuard<'_, ParsedFiles> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn linkage(&self, (file, inode): (&ForeignFile, RealInode)) -> Option<Arc<Linkage>> {
        let changed = file.changed();
        if let Some((_, linkage)) = self.lock().linkages.get(&inode).filter(|(at, _)| *at == changed) {
            return linkage.clone();
        }
        let linkage = file.file().ok().and_then(|open| Linkage::read(open, file.size).ok()).map(Arc::new);
        self.lock().linkages.put(inode, (changed, linkage.clone()));
        linkage
    }

    fn ld_cache(&self, (file, inode): (&ForeignFile, RealInode)) -> Option<Arc<LdCache>> {
        let changed = file.changed();
        if let Some((_, cache)) = self.lock().ld_caches.get(&inode).filter(|(at, _)| *at == changed) {
            return cache.clone();
        }
        let cache = read(file, ld_cache::MAX_BYTES).and_then(|bytes| LdCache::parse(&bytes)).map(Arc::new);
        self.lock().ld_caches.put(inode, (changed, cache.clone()));
        cache
    }
}

/// A file of a program, opened.
pub(super) type ProgramFile = (ForeignFile, RealInode);

/// What is needed to find the files of a program.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) root: &'a TargetRoot,
    pub(super) mounts: &'a Mounts,
    pub(super) variables: &'a LoaderVariables,
    pub(super) cache: &'a LoaderCache,
}

/// The files of a program.
#[derive(Default)]
pub(super) struct ProgramFiles {
    /// The path of the executable, of a script's interpreter. None if the file is no program: the kernel
    /// opens a program's loader as if it were executed, too.
    pub(super) executable: Option<PathBuf>,
    /// The executable, what it is linked with, and what it may load.
    pub(super) files: Vec<ProgramFile>,
}

/// The files of a program. `expects` says which libraries are wanted although nothing is linked against them.
pub(super) fn files(
    surroundings: Surroundings<'_>,
    program: ProgramFile,
    expects: impl Fn(&str) -> bool,
) -> ProgramFiles {
    let (program, linkage) = follow_scripts(surroundings, program);
    let Some(linkage) = linkage else { return ProgramFiles { executable: None, files: vec![program] } };
    let executable = linkage.is_program().then(|| program.0.name().to_owned());
    let Some(interpreter) = linkage.interpreter.clone() else {
        return ProgramFiles { executable, files: vec![program] };
    };
    let mut search = LibrarySearch::new(surroundings, LoaderKind::of(&interpreter), &program.0);
    search.add(program, linkage, None);
    if let Ok(loader) = surroundings.root.open(Path::new(&interpreter), surroundings.mounts) {
        search.interpreter(loader);
    }
    search.preloaded();
    search.needed();
    search.expected(expects);
    search.needed();
    ProgramFiles { executable, files: search.found }
}

/// Where the loaders of a root file system would find the libraries that `expects` names, whatever program
/// runs: their paths, each once.
pub(super) fn expected(
    (root, mounts, cache): (&TargetRoot, &Mounts, &LoaderCache),
    expects: impl Fn(&str) -> bool,
) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok((file, inode)) = root.open(Path::new(LD_CACHE), mounts)
        && let Some(listed) = cache.ld_cache((&file, inode))
    {
        let names = listed.names(MAX_EXPECTED, &expects);
        found.extend(names.iter().flat_map(|name| listed.paths(name)).cloned());
    }
    for kind in loaders(root) {
        let directories = default_directories(root, mounts, &kind);
        for directory in directories.into_iter().chain(LOCAL.map(PathBuf::from)) {
            for directory in kind.subdirectories().iter().map(|sub| directory.join(sub)) {
                let wanted = |name: &OsStr| name.to_str().is_some_and(&expects);
                let names = root.names(&directory, MAX_EXPECTED, wanted).unwrap_or_default();
                found.extend(names.iter().map(|name| directory.join(name)));
            }
        }
    }
    let mut seen = HashSet::new();
    found.retain(|path| seen.insert(path.clone()));
    found.truncate(MAX_EXPECTED);
    found
}

/// The loaders that a root file system may have: glibc's, and those of musl that are there.
fn loaders(root: &TargetRoot) -> Vec<LoaderKind> {
    let wanted = |name: &OsStr| name.as_bytes().starts_with(b"ld-musl-");
    let names = root.names(Path::new("/lib"), MAX_INTERPRETERS, wanted).unwrap_or_default();
    let musl = names.iter().filter_map(|name| Some(LoaderKind::of(&format!("/lib/{}", name.to_str()?))));
    std::iter::once(LoaderKind::Glibc).chain(musl).collect()
}

/// The directories that a loader searches last: for musl's, those of its list, if there is one.
fn default_directories(root: &TargetRoot, mounts: &Mounts, kind: &LoaderKind) -> Vec<PathBuf> {
    let list = match kind {
        LoaderKind::Glibc => None,
        LoaderKind::Musl { path_file } => root.open(path_file, mounts).ok(),
    };
    match list.and_then(|(file, _)| read(&file, SCRIPT * SCRIPT)) {
        Some(list) => directories(OsStr::from_bytes(list.trim_ascii()), Path::new("/"), None),
        None => kind.default_directories().iter().map(PathBuf::from).collect(),
    }
}

/// The program that the kernel executes for a file, and how it is linked.
fn follow_scripts(
    Surroundings { root, mounts, variables, cache }: Surroundings<'_>,
    mut program: ProgramFile,
) -> (ProgramFile, Option<Arc<Linkage>>) {
    for _ in 0..MAX_INTERPRETERS {
        let linkage = cache.linkage((&program.0, program.1));
        if linkage.is_some() {
            return (program, linkage);
        }
        let Some(path) = script_interpreter(&program.0) else { break };
        let path = match &variables.directory {
            Some(directory) if path.is_relative() => root.inside(&directory.join(path)),
            _ => path,
        };
        let Ok(interpreter) = root.open(&path, mounts) else { break };
        program = interpreter;
    }
    (program, None)
}

/// The interpreter in the first line of a script.
fn script_interpreter(file: &ForeignFile) -> Option<PathBuf> {
    let mut begin = Vec::new();
    file.file().ok()?.take(SCRIPT).read_to_end(&mut begin).ok()?;
    let line = begin.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let path = line.trim_ascii().split(u8::is_ascii_whitespace).next().filter(|path| !path.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(path)))
}

/// An object whose libraries are searched for.
struct LinkedObject {
    linkage: Arc<Linkage>,
    /// The directory that it was found in, for `$ORIGIN`.
    origin: PathBuf,
    /// The object that needs it.
    parent: Option<usize>,
}

struct LibrarySearch<'a> {
    surroundings: Surroundings<'a>,
    kind: LoaderKind,
    cache: Option<Arc<LdCache>>,
    /// The directories of `LD_LIBRARY_PATH`, and the default ones.
    library_path: Vec<PathBuf>,
    default: Vec<PathBuf>,
    objects: Vec<LinkedObject>,
    /// How many of the objects were handled.
    handled: usize,
    names: HashSet<String>,
    inodes: HashSet<RealInode>,
    found: Vec<ProgramFile>,
}

impl<'a> LibrarySearch<'a> {
    fn new(surroundings: Surroundings<'a>, kind: LoaderKind, program: &ForeignFile) -> Self {
        let Surroundings { root, mounts, variables, .. } = surroundings;
        // The loader ignores the variable for a program that runs with more rights than its user.
        let library_path = variables.library_path.as_ref().filter(|_| !program.is_set_id());
        let origin = directory_of(program.name());
        let working = variables.directory.as_ref().map(|directory| root.inside(directory));
        let library_path = library_path.map(|list| directories(list, &origin, working.as_deref()));
        let default = default_directories(root, mounts, &kind);
        let found = (kind == LoaderKind::Glibc).then(|| root.open(Path::new(LD_CACHE), mounts).ok());
        let cache = found.flatten().and_then(|(file, inode)| surroundings.cache.ld_cache((&file, inode)));
        Self {
            surroundings,
            kind,
            cache,
            library_path: library_path.unwrap_or_default(),
            default,
            objects: Vec::new(),
            handled: 0,
            names: HashSet::new(),
            inodes: HashSet::new(),
            found: Vec::new(),
        }
    }

    fn add(&mut self, (file, inode): ProgramFile, linkage: Arc<Linkage>, parent: Option<usize>) {
        if self.found.len() >= MAX_FILES || !self.inodes.insert(inode) {
            return;
        }
        let origin = directory_of(file.name());
        self.objects.push(LinkedObject { linkage, origin, parent });
        self.found.push((file, inode));
    }

    /// Adds the loader itself, which may also be the C library.
    fn interpreter(&mut self, (file, inode): ProgramFile) {
        if self.inodes.insert(inode) {
            self.found.push((file, inode));
        }
    }

    /// Adds the libraries of `LD_PRELOAD`.
    fn preloaded(&mut self) {
        let Some(names) = self.surroundings.variables.preload.clone() else { return };
        let names = names.as_bytes().split(|byte| matches!(byte, b' ' | b':')).take(MAX_EXPECTED);
        for name in names.filter_map(|name| std::str::from_utf8(name).ok()) {
            self.library(name, 0);
        }
    }

    /// Adds the libraries that objects need which were not handled yet, and those that these need.
    fn needed(&mut self) {
        while let Some(object) = self.objects.get(self.handled) {
            let linkage = Arc::clone(&object.linkage);
            for name in &linkage.needed {
                self.library(name, self.handled);
            }
            self.handled += 1;
        }
    }

    /// Adds libraries that the program may load while it runs.
    fn expected(&mut self, expects: impl Fn(&str) -> bool) {
        let root = self.surroundings.root;
        let mut names = match &self.cache {
            Some(cache) => cache.names(MAX_EXPECTED, &expects),
            None => Vec::new(),
        };
        let mut directories = self.library_path.clone();
        directories.extend(self.own_path(0));
        if self.cache.is_none() {
            directories.extend(self.default.iter().cloned());
        }
        for directory in directories.iter().take(MAX_EXPECTED) {
            let wanted = |name: &OsStr| name.to_str().is_some_and(&expects);
            let found = root.names(directory, MAX_EXPECTED, wanted).unwrap_or_default();
            names.extend(found.into_iter().filter_map(|name| name.into_string().ok()));
        }
        for name in names.iter().take(MAX_EXPECTED) {
            self.library(name, 0);
        }
    }

    /// Adds a library by the name that an object gives it.
    fn library(&mut self, name: &str, parent: usize) {
        if name.is_empty() || self.names.len() >= MAX_NAMES || !self.names.insert(name.to_owned()) {
            return;
        }
        for (file, inode) in self.find(name, parent) {
            if let Some(linkage) = self.surroundings.cache.linkage((&file, inode)) {
                self.add((file, inode), linkage, Some(parent));
            }
        }
    }

    /// The files that the loader may choose for a name: one, unless there are builds for several processors.
    fn find(&self, name: &str, parent: usize) -> Vec<ProgramFile> {
        if name.contains('/') {
            let origin = self.objects.get(parent).map(|object| object.origin.as_path());
            let working = self.surroundings.variables.directory.as_deref();
            let paths = directories(OsStr::new(name), origin.unwrap_or(Path::new("/")), working);
            return paths.iter().filter_map(|path| self.open(path)).take(1).collect();
        }
        let (before, after) = self.search_path(parent);
        let in_directories = |list: &[PathBuf]| {
            let mut found = list.iter().map(|directory| self.builds(directory, name));
            found.find(|found| !found.is_empty())
        };
        let in_cache = || {
            let paths = self.cache.as_ref()?.paths(name);
            let found: Vec<_> = paths.iter().filter_map(|path| self.open(path)).collect();
            (!found.is_empty()).then_some(found)
        };
        let found = in_directories(&before).or_else(|| in_directories(&after)).or_else(in_cache);
        found.or_else(|| in_directories(&self.default)).unwrap_or_default()
    }

    fn builds(&self, directory: &Path, name: &str) -> Vec<ProgramFile> {
        let paths = self.kind.subdirectories().iter().map(|sub| directory.join(sub).join(name));
        paths.filter_map(|path| self.open(&path)).collect()
    }

    /// Opens a library. A file for another machine is passed over, as by the loader.
    fn open(&self, path: &Path) -> Option<ProgramFile> {
        let Surroundings { root, mounts, cache, .. } = self.surroundings;
        let (file, inode) = root.open(path, mounts).ok()?;
        cache.linkage((&file, inode))?;
        Some((file, inode))
    }

    /// The directories that are searched for the libraries of an object before those of the system, in the
    /// order of ld.so(8).
    fn search_path(&self, object: usize) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let Some(linked) = self.objects.get(object) else { return (self.library_path.clone(), Vec::new()) };
        match self.kind {
            LoaderKind::Musl { .. } => {
                let inherited = self.ancestors(object).flat_map(|index| self.own_path(index));
                (self.library_path.clone(), inherited.collect())
            }
            LoaderKind::Glibc if linked.linkage.runpath.is_some() => {
                (self.library_path.clone(), self.own_path(object))
            }
            LoaderKind::Glibc => {
                let has_runpath = |index: &usize| {
                    self.objects.get(*index).is_some_and(|object| object.linkage.runpath.is_some())
                };
                let inherited = self.ancestors(object).filter(|index| !has_runpath(index));
                let rpath = inherited.flat_map(|index| self.own_path(index));
                (rpath.collect(), self.library_path.clone())
            }
        }
    }

    /// An object, the one that needs it, and so on.
    fn ancestors(&self, object: usize) -> impl Iterator<Item = usize> {
        // A parent is always before its children, so this ends.
        std::iter::successors(Some(object), |index| self.objects.get(*index)?.parent)
    }

    /// The directories that an object itself names.
    fn own_path(&self, object: usize) -> Vec<PathBuf> {
        let Some(LinkedObject { linkage, origin, .. }) = self.objects.get(object) else { return Vec::new() };
        let list = linkage.runpath.as_ref().or(linkage.rpath.as_ref());
        let working = self.surroundings.variables.directory.as_deref();
        list.map(|list| directories(OsStr::new(list), origin, working)).unwrap_or_default()
    }
}

/// Reads a small file of the target.
fn read(file: &ForeignFile, limit: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    file.file().ok()?.take(limit).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn directory_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}
