//! Finds the separate debug file of an object that a process maps.
//!
//! It is searched in the root of the process, where the object says and by its build id, and on the host by
//! its build id alone: that names the content, wherever the file is. Each file is opened as any other of the
//! target, and must prove that it belongs to the object.

use std::io::ErrorKind;
use std::path::Path;

use super::{ForeignFile, Mounts, OpenError, TargetRoot};
use crate::elf::{DebugSearch, Object};
use crate::error_chain;
use crate::proc::process::Proc;

/// The object, which is at `path` in the root of a process, with its separate debug file, if it was stripped.
///
/// May block without limit on a hostile file system: see the description of [`super`].
pub fn with_debug_file(pid: u32, path: &Path, object: Object, mounts: &Mounts) -> Object {
    if !object.is_stripped() {
        return object;
    }
    let (by_build_id, by_name) = object.debug_file_paths(path);
    let in_root = by_build_id.iter().chain(&by_name).map(|file| (pid, file, ""));
    let proc = Proc::default();
    let is_host = proc.mount_namespace(pid) == proc.mount_namespace(proc.own());
    let on_host = by_build_id.iter().filter(|_| !is_host).map(|file| (proc.own(), file, " on the host"));
    let mut missing = Vec::new();
    for (root, file, place) in in_root.chain(on_host) {
        let shown = format!("{}{place}", file.display());
        let opened = TargetRoot::of(root).and_then(|root| root.open(file, mounts));
        match opened.map_err(Why::Open).and_then(|(opened, _)| check(&object, &opened)) {
            Ok(found) => {
                tracing::debug!(file = ?path, from = shown, "its symbols are in a separate debug file");
                return object.with_debug_search(DebugSearch::Found(shown, found));
            }
            Err(Why::Open(OpenError::Open { source, .. })) if source.kind() == ErrorKind::NotFound => {
                missing.push(shown);
            }
            Err(Why::Open(error)) => missing.push(format!("{shown} ({})", error.why())),
            Err(Why::Unfit(why)) => missing.push(format!("{shown} ({why})")),
        }
    }
    object.with_debug_search(DebugSearch::Missing(missing))
}

/// Why a file was not used.
enum Why {
    /// Most often, because it does not exist.
    Open(OpenError),
    Unfit(String),
}

fn check(object: &Object, opened: &ForeignFile) -> Result<crate::elf::DebugFile, Why> {
    let file = opened.file().map_err(|error| Why::Unfit(error.to_string()))?;
    object.debug_file(file, opened.size).map_err(|error| Why::Unfit(error_chain::in_one_line(&error)))
}
