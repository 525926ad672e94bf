//! From a process's mappings to its probes, step by step: where does it stop, and why?
//!
//! Walks the way that discovery walks, with the same functions, and keeps what each step said.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check::Check;
use crate::elf::{Object, ObjectError};
use crate::error_chain;
use crate::probe::tls::{self, Untraceable};
use crate::probe::{Found, NoHooks};
use crate::proc::Device;
use crate::proc::maps::{Mapping, MapsError};
use crate::rootfs::{self, ForeignFile};
use crate::timeout::{timed_out_message, with_timeout};

/// Files that are named in one answer, at the most.
const NAMED: usize = 5;

/// Looks into processes, and remembers the files.
#[derive(Default)]
pub(super) struct AttachSteps {
    known: HashMap<(Device, u64, PathBuf), Arc<StepResult>>,
}

/// How far a file got.
enum StepResult {
    /// It could not be opened.
    Closed(String),
    /// It is no ELF file for this machine.
    Foreign(String),
    /// It is one, and broken.
    Broken(String),
    /// Nothing of TLS is in it.
    Plain,
    /// It has TLS that cannot be traced.
    Untraceable(&'static Untraceable),
    /// It has functions of TLS.
    Tls(Found),
}

impl AttachSteps {
    /// The steps of a process before probes are set.
    pub(super) async fn steps(&mut self, pid: u32) -> Vec<Check> {
        let read = with_timeout(move || rootfs::executable_mappings(pid)).await;
        let mappings = match read {
            Some(Ok(mappings)) => mappings,
            Some(Err(error)) => return vec![unreadable(&error)],
            None => {
                return vec![Check::no("mappings", timed_out_message(), "look at the file systems it uses")];
            }
        };
        if mappings.is_empty() {
            let next = "if it is just starting, run doctor again; if it is ending, there is nothing to trace";
            return vec![Check::no("mappings", "it maps no file", next)];
        }
        let mut files = Vec::with_capacity(mappings.len());
        for mapping in &mappings {
            files.push((mapping.path.as_path(), self.look(pid, mapping).await));
        }
        let mut steps = vec![Check::ok("mappings", count(mappings.len(), "file"))];
        steps.extend(summary(&files));
        steps
    }

    async fn look(&mut self, pid: u32, mapping: &Mapping) -> Arc<StepResult> {
        let shown = (mapping.device, mapping.inode, mapping.path.clone());
        if let Some(seen) = self.known.get(&shown) {
            return Arc::clone(seen);
        }
        let wanted = mapping.clone();
        let seen = with_timeout(move || match ForeignFile::open_mapping(pid, &wanted) {
            Ok(file) => parse(&file),
            Err(error) => StepResult::Closed(error_chain::in_one_line(&error)),
        });
        let seen = Arc::new(seen.await.unwrap_or_else(|| StepResult::Closed(timed_out_message())));
        // What is closed here may be open through another process.
        if !matches!(*seen, StepResult::Closed(_)) {
            self.known.insert(shown, Arc::clone(&seen));
        }
        seen
    }
}

fn parse(file: &ForeignFile) -> StepResult {
    let handle = match file.file() {
        Ok(handle) => handle,
        Err(error) => return StepResult::Closed(error.to_string()),
    };
    match Object::parse(handle, file.size, &tls::wanted()) {
        Ok(object) => match tls::hooks(&object) {
            Ok(found) => StepResult::Tls(found),
            Err(NoHooks::Untraceable(untraceable)) => StepResult::Untraceable(untraceable),
            Err(_) => StepResult::Plain,
        },
        Err(error @ ObjectError::NotElf) => StepResult::Foreign(error_chain::in_one_line(&error)),
        Err(error) if error.is_foreign() => StepResult::Foreign(error_chain::in_one_line(&error)),
        Err(error) => StepResult::Broken(error_chain::in_one_line(&error)),
    }
}

fn unreadable(error: &MapsError) -> Check {
    let next = match error {
        MapsError::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            "run ctrace as root, or with CAP_SYS_PTRACE"
        }
        MapsError::Read { .. } => "it has ended: run doctor again while it runs",
        MapsError::TooMany { .. } => "report it: no ordinary process has as many",
    };
    Check::no("mappings", error_chain::in_one_line(error), next)
}

/// The steps after the mappings; they end with the first that nothing came through.
fn summary(files: &[(&Path, Arc<StepResult>)]) -> Vec<Check> {
    let closed = reasons(files, |seen| match seen {
        StepResult::Closed(why) => Some(why),
        _ => None,
    });
    let unparsed = reasons(files, |seen| match seen {
        StepResult::Broken(why) | StepResult::Foreign(why) => Some(why),
        _ => None,
    });
    let open = files.len() - closed.0;
    let parsed = open - unparsed.0;
    let tls: Vec<(&Path, &Found)> = files
        .iter()
        .filter_map(|(path, seen)| match &**seen {
            StepResult::Tls(hooks) => Some((*path, hooks)),
            _ => None,
        })
        .collect();
    let mut steps = vec![step(
        "files opened",
        (open, files.len()),
        &closed,
        "run ctrace as root; if it is, see the reasons: `ctrace inspect` tries each way to the files",
    )];
    if open > 0 {
        let next = "64-bit x86-64 ELF files can be traced; if a named file should be one, report it";
        steps.push(step("ELF parsed", (parsed, open), &unparsed, next));
    }
    if parsed > 0 {
        steps.push(functions(&tls, files));
    }
    if !tls.is_empty() {
        steps.push(sites(&tls));
    }
    steps
}

/// How many files stopped for a reason, and the first of them.
fn reasons<'a>(
    files: &'a [(&Path, Arc<StepResult>)],
    why: fn(&StepResult) -> Option<&String>,
) -> (usize, Vec<String>) {
    let all: Vec<(&'a Path, &'a String)> =
        files.iter().filter_map(|(path, seen)| Some((*path, why(seen)?))).collect();
    let named = all.iter().take(NAMED).map(|(path, why)| format!("{}: {why}", path.display()));
    let more = all.len().saturating_sub(NAMED);
    let more = (more > 0).then(|| format!("and {more} more"));
    (all.len(), named.chain(more).collect())
}

fn step(
    name: &'static str,
    (good, all): (usize, usize),
    stopped: &(usize, Vec<String>),
    next: &str,
) -> Check {
    let found = format!("{good} of {}", count(all, "file"));
    match (good, stopped.0) {
        (_, 0) => Check::ok(name, found),
        (0, _) => Check::no(name, format!("{found}; {}", stopped.1.join("; ")), next),
        (_, _) => Check::warn(name, format!("{found}; {}", stopped.1.join("; ")), next),
    }
}

fn functions(tls: &[(&Path, &Found)], files: &[(&Path, Arc<StepResult>)]) -> Check {
    const NAME: &str = "TLS functions";
    let untraceable = files.iter().find_map(|(path, seen)| match &**seen {
        StepResult::Untraceable(untraceable) => Some((path.display(), *untraceable)),
        StepResult::Tls(found) => Some((path.display(), found.untraceable?)),
        _ => None,
    });
    let name = |(path, found): &(&Path, &Found)| match found.evidence.as_slice() {
        [] => path.display().to_string(),
        evidence => format!("{} ({})", path.display(), evidence.join("; ")),
    };
    let names: Vec<String> = tls.iter().map(name).collect();
    match (names.is_empty(), untraceable) {
        (false, None) => Check::ok(NAME, format!("in {}", names.join(", "))),
        (false, Some((path, other))) => {
            let found = format!("in {}; in {path}: {} is not seen", names.join(", "), other.name);
            Check::warn(NAME, found, other.instead)
        }
        (true, Some((path, other))) => {
            Check::no(NAME, format!("none; in {path}: {} is not seen", other.name), other.instead)
        }
        (true, None) => Check::no(
            NAME,
            "no file exports SSL_read, SSL_write or their like, has symbols of them, or their signatures",
            "if it begins to use TLS later, a trace that runs sees it; if a TLS library is linked into it, \
             its symbols \
             were stripped, and it has no signature that ctrace knows: use a build with symbols",
        ),
    }
}

fn sites(tls: &[(&Path, &Found)]) -> Check {
    const NAME: &str = "places for probes";
    let mut internal = 0;
    let mut public = 0;
    for hook in tls.iter().flat_map(|(_, found)| &found.hooks) {
        match hook.public_names.contains(&hook.function) {
            true => public += 1,
            false if !hook.public_names.is_empty() => internal += 1,
            false => {}
        }
    }
    let skipped: Vec<&String> = tls.iter().flat_map(|(_, found)| &found.skipped).collect();
    let found =
        format!("{public} public functions, {internal} internal ones that were proven to serve several");
    let because = skipped.iter().take(NAMED).map(|why| why.as_str()).collect::<Vec<_>>().join("; ");
    match (internal + public, skipped.is_empty()) {
        (0, _) => Check::no(
            NAME,
            format!("none; {because}"),
            "report it with the library's version and distribution: its code is unlike what ctrace knows",
        ),
        (_, true) => Check::ok(NAME, found),
        (_, false) => {
            Check::warn(NAME, format!("{found}; {because}"), "calls of these functions alone are not seen")
        }
    }
}

fn count(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::diagnose::doctor::check::Status;

    fn check(files: &[(&str, StepResult)], expected: &[(&str, Status)]) {
        // Only what is compared is made anew: `StepResult` need not be cloned elsewhere.
        let files: Vec<(&Path, Arc<StepResult>)> = files
            .iter()
            .map(|(path, seen)| {
                let seen = match seen {
                    StepResult::Closed(why) => StepResult::Closed(why.clone()),
                    StepResult::Foreign(why) => StepResult::Foreign(why.clone()),
                    StepResult::Broken(why) => StepResult::Broken(why.clone()),
                    StepResult::Plain => StepResult::Plain,
                    StepResult::Untraceable(what) => StepResult::Untraceable(what),
                    StepResult::Tls(hooks) => StepResult::Tls(hooks.clone()),
                };
                (Path::new(*path), Arc::new(seen))
            })
            .collect();
        let steps = summary(&files);
        let found: Vec<_> = steps.iter().map(|step| (step.name, step.status)).collect();
        assert_eq!(found, expected);
        assert!(steps.iter().all(|step| (step.status == Status::Ok) == step.next.is_none()), "{steps:?}");
    }

    #[test]
    fn it_ends_with_the_step_that_nothing_came_through() {
        use Status::{No, Ok, Warn};
        let closed = || StepResult::Closed("denied".into());
        let (opened, parsed, functions) = ("files opened", "ELF parsed", "TLS functions");
        check(&[("/a", closed())], &[(opened, No)]);
        check(
            &[("/a", closed()), ("/b", StepResult::Plain)],
            &[(opened, Warn), (parsed, Ok), (functions, No)],
        );
        check(&[("/a", StepResult::Foreign("not ELF".into()))], &[(opened, Ok), (parsed, No)]);
        let none = Found { skipped: vec!["SSL_read: why".into()], ..Found::default() };
        let expected = [(opened, Ok), (parsed, Ok), (functions, Ok), ("places for probes", No)];
        check(&[("/a", StepResult::Tls(none))], &expected);
    }

    #[test]
    fn a_process_that_is_gone_is_told() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let steps = runtime.block_on(AttachSteps::default().steps(u32::MAX));
        assert_eq!(steps.iter().map(|step| step.status).collect::<Vec<_>>(), [Status::No]);
        let own = runtime.block_on(AttachSteps::default().steps(std::process::id()));
        assert!(own.iter().any(|step| step.name == "ELF parsed" && step.status == Status::Ok), "{own:?}");
    }
}
