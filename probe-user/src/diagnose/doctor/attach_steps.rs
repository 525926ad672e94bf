//! The steps from a process's mappings to its probes: which one fails, and why?
//!
//! Owns the display of the steps. It does not inspect anything itself: discovery reports how far each file
//! came, as it does for a trace.

use std::path::Path;

use super::check::Check;
use crate::discovery::{FileOutcome, MappedFile, MappingsError, ProcessOutcome, WatchedFile};
use crate::error_chain;
use crate::probe::UnseenPart;
use crate::proc::maps::MapsError;

/// Limit of the files that are named in one answer.
const NAMED: usize = 5;

/// The steps of a process before probes are attached.
pub(super) fn steps(process: &ProcessOutcome) -> Vec<Check> {
    let files = match &process.files {
        Ok(files) => files,
        Err(error) => return vec![unreadable(error)],
    };
    if files.is_empty() {
        let next = "if it is just starting, run doctor again; if it is exiting, there is nothing to trace";
        return vec![Check::no("mappings", "it maps no file", next)];
    }
    let mut steps = vec![Check::ok("mappings", count(files.len(), "file"))];
    steps.extend(summary(files));
    steps
}

fn unreadable(error: &MappingsError) -> Check {
    let next = match error {
        MappingsError::Unreadable(MapsError::Read { source, .. })
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            "run ctrace as root, or with CAP_SYS_PTRACE"
        }
        MappingsError::Unreadable(MapsError::Read { .. }) => "it has exited: run doctor again while it runs",
        MappingsError::Unreadable(MapsError::TooMany { .. }) => "report it: no ordinary process has so many",
        MappingsError::TimedOut => "check the file systems that it uses",
    };
    Check::no("mappings", error_chain::in_one_line(error), next)
}

/// The steps after the mappings, up to the first one that no file passed.
fn summary(files: &[MappedFile]) -> Vec<Check> {
    let unopened = reasons(files, |outcome| match outcome {
        FileOutcome::Unopened(failure) => Some(error_chain::in_one_line(failure)),
        _ => None,
    });
    let unparsed = reasons(files, |outcome| match outcome {
        FileOutcome::Unparsed(why) | FileOutcome::NotElf(why) => Some(why.clone()),
        _ => None,
    });
    let open = files.len() - unopened.0;
    let parsed = open - unparsed.0;
    let tls: Vec<(&Path, &WatchedFile)> = files
        .iter()
        .filter_map(|file| match &*file.outcome {
            FileOutcome::Watched(watched) => Some((file.path.as_path(), watched)),
            _ => None,
        })
        .collect();
    let mut steps = vec![step(
        "files opened",
        (open, files.len()),
        &unopened,
        "run ctrace as root; if it runs as root, `ctrace inspect` shows for each way to the files why it \
         fails",
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

/// How many files stopped for a reason, and the reasons of the first of them.
fn reasons(files: &[MappedFile], why: fn(&FileOutcome) -> Option<String>) -> (usize, Vec<String>) {
    let all: Vec<(&Path, String)> =
        files.iter().filter_map(|file| Some((file.path.as_path(), why(&file.outcome)?))).collect();
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

fn functions(tls: &[(&Path, &WatchedFile)], files: &[MappedFile]) -> Check {
    const NAME: &str = "TLS functions";
    let untraceable = files.iter().find_map(|file| match &*file.outcome {
        FileOutcome::Untraceable(untraceable) => Some((file.path.display(), *untraceable)),
        FileOutcome::Watched(watched) => Some((file.path.display(), watched.untraceable?)),
        _ => None,
    });
    let copied = reasons(files, |outcome| match outcome {
        FileOutcome::CopiedCode(why) => Some(why.clone()),
        _ => None,
    });
    if copied.0 > 0 {
        let next = "start it without what makes it copy its code, or accept that it is not seen";
        return match tls {
            [] => Check::no(NAME, copied.1.join("; "), next),
            _ => Check::warn(NAME, copied.1.join("; "), next),
        };
    }
    let name = |(path, watched): &(&Path, &WatchedFile)| match watched.evidence.as_slice() {
        [] => path.display().to_string(),
        evidence => format!("{} ({})", path.display(), evidence.join("; ")),
    };
    let names: Vec<String> = tls.iter().map(name).collect();
    match (names.is_empty(), untraceable) {
        (false, None) => Check::ok(NAME, format!("in {}", names.join(", "))),
        (false, Some((path, other))) => {
            let found = format!("in {}; in {path}: {} cannot be traced", names.join(", "), other.name);
            Check::warn(NAME, found, other.instead)
        }
        (true, Some((path, other))) => {
            Check::no(NAME, format!("none; in {path}: {} cannot be traced", other.name), other.instead)
        }
        (true, None) => Check::no(
            NAME,
            "no file has functions such as SSL_read and SSL_write (searched exports, symbols and signatures)",
            "if it starts to use TLS later, a running trace attaches then; if a TLS library is linked into \
             it, it is stripped and ctrace has no signature for it: use a build with symbols",
        ),
    }
}

fn sites(tls: &[(&Path, &WatchedFile)]) -> Check {
    const NAME: &str = "places for probes";
    let public: usize = tls.iter().map(|(_, watched)| watched.public).sum();
    let internal: usize = tls.iter().map(|(_, watched)| watched.internal).sum();
    let skipped: Vec<&String> = tls.iter().flat_map(|(_, watched)| &watched.skipped).collect();
    let found = if internal == 0 {
        format!("{public} public functions")
    } else {
        format!(
            "{public} public functions, {internal} internal ones, each proven to serve several public ones"
        )
    };
    let unseen = tls.iter().flat_map(|(_, watched)| &watched.unseen).map(|part| match part {
        UnseenPart::Direction(_, why) | UnseenPart::Other(why) => why,
    });
    let reasons: Vec<&str> = unseen.map(String::as_str).take(NAMED).collect();
    if !reasons.is_empty() && internal + public > 0 {
        let next = "that part is not traced: report it with the library's version and distribution";
        return Check::warn(NAME, format!("{found}; {}", reasons.join("; ")), next);
    }
    let skipped_names = skipped.iter().map(|why| why.as_str());
    let because = reasons.into_iter().chain(skipped_names).take(NAMED).collect::<Vec<_>>().join("; ");
    match (internal + public, skipped.is_empty()) {
        (0, _) => Check::no(
            NAME,
            format!("none; {because}"),
            "report it with the library's version and distribution: ctrace does not recognise its code",
        ),
        (_, true) => Check::ok(NAME, found),
        (_, false) => {
            Check::warn(NAME, format!("{found}; {because}"), "only calls of these functions are not traced")
        }
    }
}

fn count(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests;
