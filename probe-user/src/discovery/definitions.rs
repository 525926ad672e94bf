//! Where a function is defined that a pattern does not find in the file that it names.
//!
//! Owns which reasons are given for patterns, and how often. Searches the files that a process maps, and
//! those that its loader will map.

use std::path::{Path, PathBuf};

use super::file_cache::FileVerdict;
use super::loader::{self, LoaderCache, Surroundings};
use super::{Discovery, SkippedFile};
use crate::elf::{Object, SymbolFilter};
use crate::plan::{SkipKind, Skipped};
use crate::probe::Probe;
use crate::probe::uprobe::MissingFunction;
use crate::proc::execve::LoaderVariables;
use crate::proc::maps::Mapping;
use crate::rootfs::{self, ForeignFile, Mounts, TargetRoot};
use crate::timeout::with_timeout;

/// Limit of the files for which a pattern that names no file is reported not to match.
const FILES: usize = 5;
/// Limit of the files that are searched for a definition.
const SEARCHED: usize = 256;

impl Discovery {
    /// Reports what is not seen of a file that a process maps.
    pub(super) async fn blind_spots_of(&mut self, pid: u32, mapping: &Mapping, seen: &FileVerdict) {
        let shown = SkippedFile::Shown(mapping.device, mapping.inode);
        self.blind_spots_in((pid, pid), (&mapping.path, shown), seen).await;
    }

    /// The same, for a file in the root of a process.
    pub(super) async fn blind_spots_in(
        &mut self,
        (pid, root): (u32, u32),
        (path, shown): (&Path, SkippedFile),
        seen: &FileVerdict,
    ) {
        let file = seen.inode.map_or(shown, SkippedFile::Real);
        // The same file may have other names elsewhere, and its library has one.
        let path_of_object = seen.objects.first().and_then(|id| self.users.path_of(*id));
        let subject = path_of_object.unwrap_or_else(|| path.to_string_lossy().into_owned());
        for (kind, why) in seen.outcome.unseen() {
            self.skip_in(Some(file), kind, (pid, &subject), why);
        }
        for missing in seen.outcome.missing() {
            let Some(why) = self.why_missing(root, (path, file), missing).await else { continue };
            let kind =
                if missing.names_file { SkipKind::Unseen } else { SkipKind::Unmatched(missing.pattern) };
            self.skip_in(Some(file), kind, (pid, &subject), why);
        }
    }

    /// The reason why a pattern does not match a file. None if nobody has to know, because the pattern names
    /// no file, and matches another one or was reported often enough.
    async fn why_missing(
        &mut self,
        root: u32,
        (path, file): (&Path, SkippedFile),
        missing: &MissingFunction,
    ) -> Option<String> {
        let pattern = missing.pattern;
        if !missing.names_file && self.matched.contains(&pattern) {
            return None;
        }
        if let Some(said) = self.missing.get(&(pattern, file)) {
            return Some(said.clone());
        }
        let said = self.unmatched.entry(pattern).or_default();
        if !missing.names_file && *said >= FILES {
            return None;
        }
        *said += 1;
        let (mounts, cache) = (self.mounts.clone(), self.loader.clone());
        let (path, function) = (path.to_owned(), missing.function.clone());
        let search = move || {
            let search = Search { pid: root, mounts: &mounts, cache: &cache };
            search.definition(&path, &function?)
        };
        let defined_in = with_timeout(search).await.flatten();
        let why = missing.message(defined_in.as_deref());
        self.missing.put((pattern, file), why.clone());
        Some(why)
    }

    /// Drops the reasons for patterns that name no file and match one.
    pub(super) fn drop_matched(&self, skipped: &mut Vec<Skipped>) {
        skipped.retain(|skipped| {
            !matches!(skipped.kind, SkipKind::Unmatched(pattern) if self.matched.contains(&pattern))
        });
    }

    /// The patterns that have matched nothing.
    pub fn unmatched(&self) -> Vec<String> {
        match &self.probe {
            Probe::Uprobe(uprobe) => uprobe.others(&self.matched),
            Probe::Ssl(_) | Probe::Exec(_) => Vec::new(),
        }
    }
}

/// The files of a process.
struct Search<'a> {
    pid: u32,
    mounts: &'a Mounts,
    cache: &'a LoaderCache,
}

impl Search<'_> {
    /// The name of another file that defines a function.
    fn definition(&self, path: &Path, function: &str) -> Option<String> {
        let wanted: SymbolFilter = [function].into_iter().collect();
        let root = TargetRoot::of(self.pid).ok()?;
        let linked = root.open(path, self.mounts).map(|program| {
            let (mounts, cache, variables) = (self.mounts, self.cache, LoaderVariables::default());
            let surroundings = Surroundings { root: &root, mounts, variables: &variables, cache };
            loader::files(surroundings, program, |_| false).files
        });
        let linked = linked.unwrap_or_default().into_iter().map(|(file, _)| file);
        let mapped = rootfs::executable_mappings(self.pid).unwrap_or_default().into_iter();
        let mapped = mapped.filter_map(|mapping| ForeignFile::open_mapping(self.pid, &mapping).ok());
        let others = linked.chain(mapped).filter(|file| file.name() != path).take(SEARCHED);
        others.filter(|file| !is_ctrace(file)).find_map(|file| {
            let object = Object::parse(file.file().ok()?, file.size, &wanted).ok()?;
            object.function(function)?;
            let name =
                || PathBuf::from(file.name()).file_name().map(|name| name.to_string_lossy().into_owned());
            object.soname().map(str::to_owned).or_else(name)
        })
    }
}

/// Whether a file is ctrace itself, which the process of a command maps until it executes the command.
fn is_ctrace(file: &ForeignFile) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self/exe").is_ok_and(|own| own.ino() == file.inode())
}
