//! The ways to a process's files. Each one is really tried.

use std::path::Path;

use serde::Serialize;

use crate::error_chain;
use crate::proc::process::Proc;
use crate::rootfs::{self, ForeignFile, access_paths};
use crate::timeout::{timed_out_message, with_timeout};

/// A way to a file, and the result of trying it.
#[derive(Debug, Serialize)]
pub(super) struct AccessPath {
    /// The name of the way.
    #[serde(rename = "way")]
    pub(super) name: &'static str,
    /// The path that was opened.
    pub(super) path: String,
    /// Whether the path leads to the file.
    pub(super) works: bool,
    /// What was found, or why it failed.
    pub(super) found: String,
}

impl AccessPath {
    fn new(name: &'static str, path: String, result: Option<Result<String, String>>) -> Self {
        let result = result.unwrap_or_else(|| Err(timed_out_message()));
        let works = result.is_ok();
        Self { name, path, works, found: result.unwrap_or_else(|why| why) }
    }

    /// Whether a permission is missing.
    pub(super) fn is_denied(&self) -> bool {
        !self.works && (self.found.contains("denied") || self.found.contains("not permitted"))
    }
}

/// Tries all ways to the files of a process.
pub(super) async fn try_all(pid: u32, proc: &Proc) -> Vec<AccessPath> {
    let directory = with_timeout(move || match access_paths::root(pid) {
        Ok(found) => Ok(format!(
            "a directory, device {}:{} inode {}",
            found.device.major, found.device.minor, found.inode
        )),
        Err(error) => Err(error.to_string()),
    });
    let mut tried = vec![AccessPath::new("root", format!("/proc/{pid}/root"), directory.await)];
    let executable = with_timeout(move || describe(&access_paths::executable(pid)));
    tried.push(AccessPath::new("exe", format!("/proc/{pid}/exe"), executable.await));
    if let Some(path) = proc.executable(pid) {
        let shown = format!("/proc/{pid}/root{}", path.display());
        let by_name = with_timeout(move || describe(&ForeignFile::open_in_root(pid, &path)));
        tried.push(AccessPath::new("name", shown, by_name.await));
    }
    let mapped = with_timeout(move || map_files(pid));
    tried.push(AccessPath::new("map_files", format!("/proc/{pid}/map_files"), mapped.await));
    tried
}

fn describe<E: std::error::Error>(opened: &Result<ForeignFile, E>) -> Result<String, String> {
    match opened {
        Ok(file) => {
            let deleted = if file.is_deleted() { ", deleted since" } else { "" };
            Ok(format!("a regular file of {} B{deleted}", file.size))
        }
        Err(error) => Err(error_chain::in_one_line(error)),
    }
}

/// Opens every executable mapping through its link.
fn map_files(pid: u32) -> Result<String, String> {
    let mappings = rootfs::executable_mappings(pid).map_err(|error| error_chain::in_one_line(&error))?;
    let mut failed = None;
    let mut opened = 0;
    for mapping in &mappings {
        match access_paths::map_file(pid, mapping) {
            Ok(_) => opened += 1,
            Err(error) => failed = failed.or_else(|| Some(error_chain::in_one_line(&error))),
        }
    }
    let summary = format!("{opened} of {} mapped files opened", mappings.len());
    match failed {
        None => Ok(summary),
        Some(why) => Err(format!("{summary}; {why}")),
    }
}

/// A path as text.
pub(super) fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
