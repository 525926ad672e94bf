//! Code that does not run from its file: copies that a process has made of its own code, and programs that
//! are asked to make one.
//!
//! Some programs copy their code to anonymous memory with huge pages when they start. Probes are in the file,
//! so calls in such a copy are not seen. If the code is copied while probes are in it, the copy has their
//! breakpoints, which nobody owns: the process ends by SIGTRAP. So a file that a process is about to copy is
//! not attached to.
//!
//! Owns what is known of both, and the words about it. What a program is asked for is read with limits; it is
//! the target's own.

use std::io::Read as _;

use memchr::memmem::Finder;

use crate::elf::{FileOffset, Object, VirtAddr};
use crate::probe::ProbeMatch;
use crate::proc::maps::{Mapping, ReplacedCode};
use crate::proc::start_arguments::StartArguments;
use crate::rootfs::{ForeignFile, Mounts, TargetRoot};

mod node;
mod php;
#[cfg(test)]
mod tests;

/// Limit of the bytes of a file that are searched for a text. Node has 100 MB.
const SEARCHED: u64 = 1 << 30;
/// How many of them are read at once.
const PART: usize = 1 << 20;

/// The hooked code of a file, to find it in a process.
#[derive(Debug)]
pub(super) struct HookedCode {
    functions: Vec<HookedFunction>,
    /// The address of the first byte of the file, by the program headers.
    origin: Option<u64>,
    /// Whether it is a kind of file whose program may copy it.
    is_copyable: bool,
}

#[derive(Debug)]
struct HookedFunction {
    name: String,
    /// Where its probes are: the offset in the file, and the address by the program headers.
    places: Vec<(u64, u64)>,
}

/// How a process was started, and its root, in which its configuration is.
pub(super) struct Started {
    arguments: StartArguments,
    root: TargetRoot,
}

impl Started {
    /// None if the process has ended.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let root = TargetRoot::of(pid).ok()?;
        Some(Self { arguments: StartArguments::running(pid), root })
    }
}

/// Where a process executes the hooked code of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CodeState {
    /// In the file, as far as ctrace can tell.
    InFile,
    /// All functions in a copy.
    Copied,
    /// These functions in a copy, and others in the file.
    PartlyCopied(Vec<String>),
    /// In the file, and the process is asked to copy it: by this option or setting.
    CopyRequested(String),
}

/// Why calls in a copy are not seen.
pub(super) const COPIED: &str = "the process executes a copy of this code in anonymous memory, where ctrace \
    cannot probe it: its calls are not seen; start it without what makes it copy its code (Node.js: \
    --use-largepages, PHP: opcache.huge_code_pages)";

/// Why a file is not attached to any more.
pub(super) const HARMED: &str =
    "a probe in this file has ended a process: ctrace does not attach to it again in this trace";

/// Why some functions are not seen.
pub(super) fn partly_copied(functions: &[String]) -> String {
    format!("{}: {COPIED}", functions.join(", "))
}

/// Why a file is not attached to that a process is asked to copy.
pub(super) fn copy_requested(pid: u32, request: &str) -> String {
    format!(
        "process {pid} is asked to copy its code ({request}), and would end by SIGTRAP if probes were in it: \
         ctrace does not attach to this file; start the program without that, or select other processes that \
         use another file"
    )
}

impl HookedCode {
    /// The places of what was found in a file.
    pub(super) fn of(object: &Object, file: &ForeignFile, found: &ProbeMatch) -> Self {
        let place = |offset: FileOffset| Some((offset.0, object.address(offset).map(|VirtAddr(at)| at)?));
        let functions = found.hooks.iter().map(|hook| HookedFunction {
            name: hook.public_names.first().unwrap_or(&hook.function).clone(),
            places: std::iter::once(hook.offset)
                .chain(hook.exits.iter().map(|exit| exit.offset))
                .filter_map(place)
                .collect(),
        });
        let is_named =
            |part| file.name().file_name().is_some_and(|name| name.to_string_lossy().contains(part));
        let is_copyable = object.is_program() || is_named("node") || is_named(php::NAME);
        let origin = object.loaded_at(FileOffset(0)).map(|VirtAddr(at)| at);
        Self { functions: functions.collect(), origin, is_copyable }
    }

    /// Whether each process has to be inspected, because its code may not be that of the file.
    pub(super) fn depends_on_process(&self, mapping: &Mapping) -> bool {
        self.is_copyable || mapping.replaced.is_some()
    }

    /// Whether a program that is asked for it copies the code of this file.
    pub(super) fn may_be_copied(&self, file: &ForeignFile) -> bool {
        // A file that cannot be read now may well be one.
        let is_one = || contains(file, &[node::TEXT, php::TEXT]).is_none_or(|found| found.contains(&true));
        self.is_copyable && is_one()
    }

    /// Where a process executes the code. `started` is asked only if that may matter.
    pub(super) fn state(
        &self,
        mapping: &Mapping,
        (file, mounts): (&ForeignFile, &Mounts),
        started: impl FnOnce() -> Option<Started>,
    ) -> CodeState {
        if let Some(replaced) = &mapping.replaced {
            let copied = self.in_memory_of(replaced);
            if copied.len() == self.functions.len() {
                return CodeState::Copied;
            }
            if !copied.is_empty() {
                return CodeState::PartlyCopied(copied);
            }
        }
        if !self.is_copyable {
            return CodeState::InFile;
        }
        let request =
            started().and_then(|Started { arguments, root }| request(&arguments, file, (&root, mounts)));
        request.map_or(CodeState::InFile, CodeState::CopyRequested)
    }

    /// Whether a program is asked to copy the code when it starts.
    pub(super) fn state_of_program(
        &self,
        started: &StartArguments,
        file: &ForeignFile,
        surroundings: (&TargetRoot, &Mounts),
    ) -> CodeState {
        let request = self.is_copyable.then(|| request(started, file, surroundings)).flatten();
        request.map_or(CodeState::InFile, CodeState::CopyRequested)
    }

    /// The functions that have a place in memory that is not the file's.
    fn in_memory_of(&self, replaced: &ReplacedCode) -> Vec<String> {
        let first = replaced.first;
        let is_copied = |(offset, address): &(u64, u64)| {
            let at = match self.origin {
                Some(origin) if first.offset == 0 => address.wrapping_sub(origin),
                // Taken to be as far from the first mapping as in the file.
                _ => offset.wrapping_sub(first.offset),
            };
            let at = first.start.wrapping_add(at);
            replaced.ranges.iter().any(|(start, end)| (*start..*end).contains(&at))
        };
        let copied = self.functions.iter().filter(|function| function.places.iter().any(is_copied));
        copied.map(|function| function.name.clone()).collect()
    }
}

/// The option or setting by which a program is asked to copy the code of a file, if it is.
fn request(
    started: &StartArguments,
    file: &ForeignFile,
    surroundings: (&TargetRoot, &Mounts),
) -> Option<String> {
    if let Some(request) = node::request(started)
        && contains(file, &[node::TEXT])? == [true]
    {
        return Some(request);
    }
    php::request(started, file, surroundings)
}

/// Which of these texts a file contains. None if it cannot be read.
fn contains(file: &ForeignFile, texts: &[&[u8]]) -> Option<Vec<bool>> {
    let longest = texts.iter().map(|text| text.len()).max()?;
    let finders: Vec<Finder<'_>> = texts.iter().map(Finder::new).collect();
    let mut found = vec![false; texts.len()];
    let mut input = file.file().ok()?.take(SEARCHED);
    let mut part = Vec::with_capacity(PART + longest);
    loop {
        let read = input.by_ref().take(PART as u64).read_to_end(&mut part).ok()?;
        for (found, finder) in found.iter_mut().zip(&finders) {
            *found = *found || finder.find(&part).is_some();
        }
        if read == 0 || !found.contains(&false) {
            return Some(found);
        }
        // A text may lie across two parts.
        part.drain(..part.len().saturating_sub(longest));
    }
}
