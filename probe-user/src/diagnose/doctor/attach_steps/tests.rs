//! The steps end at the right place, and agree with what a trace would do.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use super::*;
use crate::diagnose::doctor::check::CheckStatus;
use crate::discovery::{Discovery, OpenFailure};
use crate::elf::fixture::{OPENSSL, compile};
use crate::plan::Plan;
use crate::probe::{Probe, SslProbe};
use crate::scope::{Process, Target};

fn check(outcomes: Vec<FileOutcome>, expected: &[(&str, CheckStatus)]) {
    let file = |outcome| MappedFile { path: "/lib/x".into(), outcome: Arc::new(outcome) };
    let files: Vec<MappedFile> = outcomes.into_iter().map(file).collect();
    let steps = summary(&files);
    let found: Vec<_> = steps.iter().map(|step| (step.name, step.status)).collect();
    assert_eq!(found, expected);
    assert!(steps.iter().all(|step| (step.status == CheckStatus::Ok) == step.next.is_none()), "{steps:?}");
}

#[test]
fn it_ends_with_the_step_that_nothing_came_through() {
    use CheckStatus::{No, Ok, Warn};
    let unopened = || FileOutcome::Unopened(OpenFailure::TimedOut);
    let (opened, parsed, functions) = ("files opened", "ELF parsed", "TLS functions");
    check(vec![unopened()], &[(opened, No)]);
    check(
        vec![unopened(), FileOutcome::NothingWatched("nothing".into())],
        &[(opened, Warn), (parsed, Ok), (functions, No)],
    );
    check(vec![FileOutcome::NotElf("not ELF".into())], &[(opened, Ok), (parsed, No)]);
    let none = WatchedFile { skipped: vec!["SSL_read: why".into()], ..WatchedFile::default() };
    let expected = [(opened, Ok), (parsed, Ok), (functions, Ok), ("places for probes", No)];
    check(vec![FileOutcome::Watched(none)], &expected);
}

/// The plan for one process, and its steps.
fn discover(pid: u32) -> (Plan, Vec<Check>) {
    let process = Process { pid, start_time: 1, comm: "x".into(), container: None };
    let mut target = Target::default();
    target.processes = vec![process];
    let mut discovery = Discovery::new(Probe::Ssl(SslProbe::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (plan, outcomes) = runtime.block_on(discovery.plan_with_outcomes(&target));
    assert_eq!(outcomes.iter().map(|outcome| outcome.pid).collect::<Vec<_>>(), [pid]);
    (plan, outcomes.iter().flat_map(steps).collect())
}

#[test]
fn a_process_that_has_exited_is_reported() {
    let (_, exited) = discover(u32::MAX);
    assert_eq!(exited.iter().map(|step| step.status).collect::<Vec<_>>(), [CheckStatus::No]);
    let (_, own) = discover(std::process::id());
    assert!(own.iter().any(|step| step.name == "ELF parsed" && step.status == CheckStatus::Ok), "{own:?}");
}

/// A program that overwrites the first bytes of `patched` functions of its own, reports that, and waits.
struct Patched {
    process: Child,
    _directory: tempfile::TempDir,
}

impl Patched {
    fn start(patches: &str) -> Self {
        let main = r"
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static void patch(void *function) {
    char *page = (char *)((unsigned long)function & ~4095UL);
    if (mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC)) return;
    memset(function, 0x90, 8);
}
int main(void) {
";
        let openssl = OPENSSL.replace("typedef unsigned long size_t;\n", "");
        let rest = "puts(\"patched\"); fflush(stdout); for (;;) pause(); }";
        let source = format!("#include <stddef.h>\n{openssl}\n{main}\n{patches}\n{rest}");
        let directory = compile(&source, &["-Wl,-export-dynamic", "-pie"]);
        let program = directory.path().join("fixture");
        let mut child = Command::new(program).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "patched\n");
        Self { process: child, _directory: directory }
    }
}

impl Drop for Patched {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn steps_say_of_patched_code_what_a_trace_says() {
    const PLACES: &str = "places for probes";
    let places = |patched: &Patched| {
        let (plan, steps) = discover(patched.process.id());
        let places =
            steps.iter().find(|step| step.name == PLACES).map(|step| (step.status, step.found.clone()));
        (plan, places.unwrap())
    };
    let (plan, (status, found)) = places(&Patched::start(""));
    assert_eq!((plan.objects.len(), status), (1, CheckStatus::Ok), "{found} {:?}", plan.skipped);

    let all = "patch(read_internal); patch(write_internal); patch(SSL_new); patch(SSL_peek); patch(SSL_read); \
        patch(SSL_read_ex); patch(SSL_write); patch(SSL_write_ex); patch(SSL_write_ex2);";
    let (plan, (status, found)) = places(&Patched::start(all));
    assert_eq!((plan.objects.len(), status), (0, CheckStatus::No), "{found}");
    let why =
        plan.skipped.iter().find(|skipped| skipped.reason.contains("something has patched it")).unwrap();
    assert!(found.contains(&why.reason), "{found}: {}", why.reason);

    let (plan, (status, found)) = places(&Patched::start("patch(read_internal);"));
    assert_eq!((plan.objects.len(), status), (1, CheckStatus::Warn), "{found}");
    assert!(found.contains("something has patched it"), "{found}");
}
