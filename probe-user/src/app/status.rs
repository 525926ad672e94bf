//! Messages for a person on standard error, while records go to standard output.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use probe_common::SignalRecord;

use super::discovery_worker::Since;
use crate::bpf::{KernelReturns, Session, SessionError, features};
use crate::cli::{Trace, Verbosity};
use crate::discovery::{self, SkipDetail};
use crate::error_chain;
use crate::event::{Cleartext, Containment, HarmCause, Harmed, Library, ProcessContext, Summary, UnknownTls};
use crate::output::{FormatKind, OutputPath, OutputSpec, text};
use crate::plan::return_probe::ReturnProbe;
use crate::plan::{ObjectHooks, Plan, Skipped};
use crate::probe::Probe;
use crate::scope::{Selector, Target};
use crate::stderr::{flush_all_repeated, say};
use crate::terminal::escaped;

/// No cgroup has this id.
const NO_CGROUP: u64 = 0;

/// The interval of progress messages.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Warns that `--pid 1` selects everything, which may not be intended: a container's own first process is
/// also called 1.
pub(super) fn first_process(selector: &Selector, verbosity: Verbosity) {
    if verbosity >= Verbosity::Normal && selector.pids.contains(&1) && !selector.all {
        say(
            &"--pid 1 selects the first process of this machine and its descendants, which is everything, as \
              with --all; for the first process of a container, use --pid CONTAINER:1",
        );
    }
}

/// Prints what is attached, one line per container and library, what the command may use, and that tracing
/// has begun.
pub(super) fn attached(
    (plan, target): (&Plan, &Target),
    trace: &Trace,
    command: Option<u32>,
    (session, verbosity): (&Session, Verbosity),
) {
    if verbosity >= Verbosity::Normal {
        if !plan.has_users() && trace.probe.inspects_files() && trace.command.is_empty() {
            let selector = &trace.selector;
            let what = if trace.probe.works_without_hooks() {
                "no TLS library in use yet in {selector}: requests without TLS are shown"
            } else {
                "nothing to attach to yet in {selector}: waiting for processes that start later"
            };
            say(&what.replace("{selector}", &selector.to_string()));
        }
        if matches!(trace.probe, Probe::Ssl(_)) && !features::has_btf() {
            say(&"connections have no addresses and no handshakes, because this kernel has no BTF \
                  (/sys/kernel/btf/vmlinux); use a kernel with CONFIG_DEBUG_INFO_BTF=y");
        }
        let ready = command.and_then(|command| ready(plan, command));
        let lines = lines(plan, target, command).into_iter().chain(ready).chain(available(plan, target));
        for line in lines.chain(blind_spots(plan, target)) {
            say(&line);
        }
    }
    for object in &plan.objects {
        returns(object, session, verbosity);
    }
    if verbosity >= Verbosity::Verbose {
        for skipped in discovery::reasons(plan, target, SkipDetail::Everything) {
            say(&format_args!("skipped: {skipped}"));
        }
    }
    flush_all_repeated();
    // Also with --quiet, because a program that started us may wait for this line.
    if trace.command.is_empty() {
        say(&"tracing; Ctrl-C stops");
    } else if !trace.shares_stderr() {
        say(&"tracing; starting the command");
    }
}

/// Prints how the returns of an object's functions are probed: all with `-v`, otherwise those that the kernel
/// probes without being asked to.
fn returns(object: &ObjectHooks, session: &Session, verbosity: Verbosity) {
    if verbosity < Verbosity::Normal {
        return;
    }
    let mut ways: BTreeMap<ReturnProbe, BTreeSet<&str>> = BTreeMap::new();
    let mut unasked: BTreeSet<&str> = BTreeSet::new();
    for hook in object.hooks.iter().filter(|hook| !hook.return_probe.is_none()) {
        let names = hook.public_names.iter().map(String::as_str);
        let names = names.chain(Some(hook.function.as_str()).filter(|_| hook.public_names.is_empty()));
        if hook.return_reason.is_some() {
            unasked.extend(names.clone());
        }
        ways.entry(hook.return_probe).or_default().extend(names);
    }
    let library = escaped(&object.library.name);
    if verbosity >= Verbosity::Verbose {
        for (way, names) in ways {
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            say(&format_args!("{library}: returns by {}: {}", way.text(), escaped(&names)));
        }
    }
    if !unasked.is_empty() {
        let which = match session.kernel_returns() {
            KernelReturns::OfAllCalls => {
                "a program that switches stacks (fibers) inside of these ends by SIGILL, in scope or not"
            }
            KernelReturns::OfKeptCalls => {
                "a program in scope that switches stacks (fibers) inside of these ends by SIGILL"
            }
        };
        say(&format_args!(
            "{library}: the kernel probes the return of {}: {which}; --return-probe=exit leaves them out",
            escaped(&some_of(&unasked))
        ));
    }
}

/// The first of these names, and how many more there are.
fn some_of(names: &BTreeSet<&str>) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Prints what was inspected and is not listed.
pub(super) fn skipped(plan: &Plan, target: &Target) {
    for skipped in discovery::reasons(plan, target, SkipDetail::Skipped) {
        say(&format_args!("skipped: {skipped}"));
    }
}

/// The progress of attaching, printed if it takes long.
pub(super) struct Progress {
    all: usize,
    done: usize,
    printed_at: Instant,
    verbosity: Verbosity,
}

impl Progress {
    pub(super) fn of(all: usize, verbosity: Verbosity) -> Self {
        Self { all, done: 0, printed_at: Instant::now(), verbosity }
    }

    /// Counts a hook that was tried.
    pub(super) fn step(&mut self) {
        self.done += 1;
        let is_wanted = self.verbosity >= Verbosity::Normal && self.done < self.all;
        if is_wanted && self.printed_at.elapsed() >= PROGRESS_INTERVAL {
            self.printed_at = Instant::now();
            say(&format_args!("attached {} of {} probes", self.done, self.all));
        }
    }
}

/// Warns about hooks that could not be attached to. If a resource is exhausted, only that is reported,
/// because the other hooks fail for the same reason.
pub(super) fn failed(failed: &[(usize, SessionError)]) {
    let shortage = failed.iter().find(|(_, error)| error.is_shortage());
    for (_, error) in shortage.map_or(failed, std::slice::from_ref) {
        tracing::warn!("{}", error_chain::in_one_line(error));
    }
}

/// Prints that a process has brought an object that was not attached to at the start. The name of its
/// container may not be known yet, or never.
pub(super) fn attached_later(
    origin: &ProcessContext,
    object: &ObjectHooks,
    took: Option<(Since, Duration)>,
    (session, verbosity): (&Session, Verbosity),
) {
    if verbosity >= Verbosity::Normal {
        let place = container_name(&origin.container);
        if object.pids.is_empty() {
            say(&available_line(&place, &name_and_version(object)));
        } else {
            say(&format_args!("{place}: process {}, {}", origin.process.pid, library(object)));
        }
    }
    returns(object, session, verbosity);
    if let (true, Some((since, took))) = (verbosity >= Verbosity::Verbose, took) {
        let (library, took) = (escaped(&object.library.name), took.as_secs_f64() * 1000.0);
        let what = match since {
            Since::Started(_) => "its process started",
            Since::Mapped(_) => "it was mapped",
            Since::Executed(_) => "its program started",
        };
        say(&format_args!("attached to {library} {took:.1} ms after {what}"));
    }
}

/// Prints that a process has something that cannot be seen.
pub(super) fn blind_spot_later(origin: &ProcessContext, skipped: &Skipped, verbosity: Verbosity) {
    if verbosity >= Verbosity::Normal {
        let place = container_name(&origin.container);
        say(&format_args!("{place}: process {}, {}", origin.process.pid, not_seen(skipped)));
    }
}

/// Prints that a process speaks TLS of which no call is seen.
pub(super) fn unknown_tls(origin: &ProcessContext, unknown: &UnknownTls, verbosity: Verbosity) {
    if verbosity >= Verbosity::Normal {
        let ProcessContext { process, container } = origin;
        let executable = process.executable.as_ref().map_or("?", |executable| executable.path.as_str());
        let (place, program) = (container_name(container), escaped(executable));
        say(&format_args!("{place}: process {} ({program}) {}", process.pid, escaped(&unknown.to_string())));
    }
}

/// Prints that there are connections whose requests are not shown, because they have no TLS.
pub(super) fn cleartext(cleartext: &Cleartext, verbosity: Verbosity) {
    if verbosity >= Verbosity::Normal {
        say(cleartext);
    }
}

/// Prints that a probe has harmed a process, whatever was asked to be printed.
pub(super) fn harmed(signal: &SignalRecord, harmed: &Harmed) {
    let files: Vec<String> = harmed.detached.iter().map(|library| escaped(&library.path)).collect();
    let how = match harmed.cause {
        HarmCause::CopiedCode => {
            "it has copied its own code while ctrace's breakpoints were in it, and executed one of the copies"
        }
        HarmCause::ReturnProbe => {
            "it has switched stacks inside of a function whose return the kernel probes for ctrace"
        }
    };
    let name = String::from_utf8_lossy(&signal.header.comm);
    say(&format_args!(
        "ctrace: a probe has harmed process {} ({}): {how}; detached from {}, to which ctrace does not attach again",
        signal.header.pid,
        escaped(name.trim_end_matches('\0')),
        files.join(", ")
    ));
}

/// Prints how many processes got such a signal for other reasons, if there are any.
pub(super) fn other_signals(count: u64, verbosity: Verbosity) {
    if verbosity >= Verbosity::Verbose && count > 0 {
        let processes = if count == 1 { "process was" } else { "processes were" };
        say(&format_args!(
            "{count} {processes} ended by SIGTRAP or SIGILL, not because of a probe of ctrace"
        ));
    }
}

/// Prints that a file is not attached to any more, because its code is another one.
pub(super) fn written(library: &Library, verbosity: Verbosity) {
    if verbosity >= Verbosity::Verbose {
        say(&format_args!("detached from {}, because it was written to", escaped(&library.path)));
    }
}

/// Prints how many files were detached from to make room for others, if there are any.
pub(super) fn evicted(count: usize, verbosity: Verbosity) {
    if verbosity >= Verbosity::Verbose && count > 0 {
        let files = if count == 1 { "file" } else { "files" };
        say(&format_args!(
            "detached from {count} {files} that no process mapped, because others took their place"
        ));
    }
}

/// Prints the summary, or what was missed if the summary is among records that the user sees. Records in a
/// file do not count.
pub(super) fn ended(summary: &Summary, outputs: &[OutputSpec], verbosity: Verbosity) {
    if verbosity <= Verbosity::Quiet {
        return;
    }
    let includes_summary = |output: &OutputSpec| {
        output.format.kind == FormatKind::Lines && !matches!(output.path, OutputPath::Named(_))
    };
    if !outputs.iter().any(includes_summary) {
        say(&text::summary_line(summary));
        return;
    }
    if summary.requests.is_some() && summary.cleartext.connections > 0 {
        say(&summary.cleartext);
    }
    if summary.attached_late > 0 {
        say(&text::missed_line(summary));
    }
}

/// Such as `web: 3 processes, libssl.so.3 (OpenSSL 3.0.17): 6 functions`. Copies of one library share a line.
fn lines(plan: &Plan, target: &Target, command: Option<u32>) -> Vec<String> {
    let mut processes: BTreeMap<(String, String), BTreeSet<u32>> = BTreeMap::new();
    let is_mapped = |object: &&ObjectHooks| object.pids.iter().any(|pid| Some(*pid) != command);
    for object in plan.objects.iter().filter(is_mapped) {
        let library = library(object);
        for pid in object.pids.iter().filter(|pid| Some(**pid) != command) {
            processes.entry((place(target, *pid), library.clone())).or_default().insert(*pid);
        }
    }
    let line = |((place, library), pids): ((String, String), BTreeSet<u32>)| {
        let processes = if pids.len() == 1 { "process" } else { "processes" };
        format!("{place}: {} {processes}, {library}", pids.len())
    };
    processes.into_iter().map(line).collect()
}

/// Such as `attached to what the command may use: libgnutls.so.30 (GnuTLS 3.7.9), libssl.so.3 (OpenSSL
/// 3.0.19)`.
fn ready(plan: &Plan, command: u32) -> Option<String> {
    let is_its = |object: &&ObjectHooks| {
        object.pids == [command] && object.hooks.iter().any(|hook| !hook.public_names.is_empty())
    };
    let names: BTreeSet<String> = plan.objects.iter().filter(is_its).map(name_and_version).collect();
    let names: Vec<String> = names.into_iter().collect();
    (!names.is_empty()).then(|| format!("attached to what the command may use: {}", names.join(", ")))
}

/// What is attached to before any process maps it: a line per container.
fn available(plan: &Plan, target: &Target) -> Vec<String> {
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for object in plan.objects.iter().filter(|object| object.pids.is_empty()) {
        for pid in &object.available_to {
            names.entry(place(target, *pid)).or_default().insert(name_and_version(object));
        }
    }
    let line = |(place, names): (String, BTreeSet<String>)| {
        available_line(&place, &names.into_iter().collect::<Vec<_>>().join(", "))
    };
    names.into_iter().map(line).collect()
}

/// Such as `web: attached to what its processes may use: libssl.so.3 (OpenSSL 3.0.19)`.
fn available_line(place: &str, names: &str) -> String {
    format!("{place}: attached to what its processes may use: {names}")
}

/// Such as `db: 1 process, libjvm.so: Java's own TLS …`.
fn blind_spots(plan: &Plan, target: &Target) -> Vec<String> {
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for skipped in plan.skipped.iter().filter(|skipped| skipped.kind.is_blind_spot()) {
        let place = skipped.pid.map_or_else(String::new, |pid| place(target, pid));
        *counts.entry((place, not_seen(skipped))).or_default() += 1;
    }
    let line = |((place, what), count): ((String, String), usize)| {
        let processes = if count == 1 { "process" } else { "processes" };
        format!("{place}: {count} {processes}, {what}")
    };
    counts.into_iter().map(line).collect()
}

fn not_seen(skipped: &Skipped) -> String {
    let name = skipped.subject.rsplit('/').next().unwrap_or(&skipped.subject);
    format!("{}: {}", escaped(name), escaped(&skipped.reason))
}

/// The container of a process as it was when it was selected, since it may have ended meanwhile.
fn place(target: &Target, pid: u32) -> String {
    let process = target.processes.iter().find(|process| process.pid == pid);
    let container = match process.and_then(|process| process.container.clone()) {
        Some(container) => Containment::In(container),
        None => target.containers.of_process(pid, NO_CGROUP),
    };
    container_name(&container)
}

/// Such as `web`. `host` is used only for what exists and is in no container.
fn container_name(container: &Containment) -> String {
    match container {
        Containment::In(container) => escaped(&container.shown()),
        Containment::Host => "host".to_owned(),
        Containment::Unknown => "?".to_owned(),
    }
}

fn library(object: &ObjectHooks) -> String {
    let functions: BTreeSet<&str> =
        object.hooks.iter().flat_map(|hook| hook.public_names.iter().map(String::as_str)).collect();
    let plural = if functions.len() == 1 { "function" } else { "functions" };
    format!("{}: {} {plural}", name_and_version(object), functions.len())
}

/// Such as `libssl.so.3 (OpenSSL 3.0.19)`.
fn name_and_version(object: &ObjectHooks) -> String {
    let library = &object.library;
    let version = match (&library.implementation, &library.version) {
        (Some(implementation), Some(version)) => format!(" ({implementation} {version})"),
        (Some(implementation), None) => format!(" ({implementation})"),
        (None, _) => String::new(),
    };
    escaped(&format!("{}{version}", library.name))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::Container;

    #[test]
    fn a_process_without_a_known_place_is_not_shown_on_the_host() {
        let web = Container { name: Some("we\x1bb".to_owned()), ..Container::default() };
        for (container, expected) in [
            (Containment::In(Arc::new(web)), "we\\x1bb"),
            (Containment::Host, "host"),
            (Containment::Unknown, "?"),
        ] {
            assert_eq!(container_name(&container), expected);
        }
        // The container of a process that has ended is not known.
        assert_eq!(place(&Target::default(), u32::MAX), "?");
    }
}
