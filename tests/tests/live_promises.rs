//! The rights that an ordinary user needs, and what remains after a trace: exactly what the documents say.
//! Needs root, BPF and Docker.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{
    Ctrace, LocalServer, Nobody, RunningTrace, Server, program, require_bpf, require_live, text,
};
use rustix::process::Signal;

/// The capabilities that docs/rights.md names.
const NAMED: [&str; 5] =
    ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_CHECKPOINT_RESTORE"];
/// Those without which a container cannot be traced. The other one is for files that were deleted.
const NEEDED: [&str; 4] = ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"];
/// The capabilities for links to perf events.
const NAMED_FOR_PERF: [&str; 3] = ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"];
/// The capabilities that `exec` needs.
const OF_EXEC: [&str; 3] = ["CAP_BPF", "CAP_PERFMON", "CAP_DAC_READ_SEARCH"];
/// The exit statuses for what is not permitted, or for nothing to attach to.
const REFUSED: [Option<i32>; 2] = [Some(4), Some(3)];

fn without(capabilities: &[&'static str], one: &str) -> Vec<&'static str> {
    capabilities.iter().copied().filter(|capability| *capability != one).collect()
}

fn check_ended(trace: &RunningTrace, what: &str, expected: i32) -> Result<()> {
    ensure!(trace.code() == Some(expected), "{what}: {:?}: {}", trace.code(), trace.stderr);
    Ok(())
}

/// Checks that it fails, and that the message names only the missing capability as missing.
fn check_refused(trace: &RunningTrace, missing: &str) -> Result<()> {
    ensure!(REFUSED.contains(&trace.code()), "without {missing}: {:?}: {}", trace.code(), trace.stderr);
    ensure!(trace.stderr.contains(missing), "{missing} is not named: {}", trace.stderr);
    for other in NAMED.iter().chain(&NAMED_FOR_PERF).filter(|other| **other != missing) {
        let blamed = format!("{other} is missing");
        ensure!(!trace.stderr.contains(&blamed), "without {missing}: {blamed}: {}", trace.stderr);
    }
    Ok(())
}

#[test]
fn the_named_capabilities_are_enough_and_each_is_needed_for_a_container() -> Result<()> {
    require_live()?;
    let server = Server::start("named-capabilities", &[])?;
    // nobody may not ask Docker for names, so this is an id.
    let container = server.container.id();
    let commands: [&[&str]; 2] = [
        &["ssl", "--container", container, "--duration", "300ms"],
        &["uprobe", "--container", container, "--duration", "300ms", "libssl.so.3:SSL_write"],
    ];
    let nobody = Nobody::new()?;
    nobody.grant(&NAMED)?;
    for command in commands {
        check_ended(&nobody.run(command)?, command.first().unwrap_or(&""), 0)?;
    }
    let client = server.client_background(&["--http", "20"])?;
    let trace = nobody.run(&["ssl", "--container", container, "-o", "json", "--limit", "4"])?;
    check_ended(&trace, "ssl", 0)?;
    ensure!(trace.records()?.len() == 4, "{} records: {}", trace.records()?.len(), trace.stderr);
    drop(client);
    for missing in NEEDED {
        nobody.grant(&without(&NAMED, missing))?;
        for command in commands {
            check_refused(&nobody.run(command)?, missing)?;
        }
    }
    Ok(())
}

#[test]
fn links_to_perf_events_need_another_capability() -> Result<()> {
    require_live()?;
    let server = Server::start("perf-capabilities", &[])?;
    let command =
        ["ssl", "--probe-link", "perf", "--container", server.container.id(), "--duration", "300ms"];
    let nobody = Nobody::new()?;
    nobody.grant(&NAMED_FOR_PERF)?;
    check_ended(&nobody.run(&command)?, "ssl", 0)?;
    nobody.grant(&NAMED)?;
    check_refused(&nobody.run(&command)?, "CAP_SYS_ADMIN")
}

#[test]
fn a_deleted_file_needs_a_capability_that_is_named() -> Result<()> {
    require_live()?;
    let server = Server::start("deleted-file", &[])?;
    let container = server.container.id();
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.container.pid()))?;
    let libssl = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let libssl = libssl.into_iter().find(|path| path.contains("/libssl.so")).context("no libssl")?;
    fs::remove_file(server.container.path(libssl))?;
    let command = ["ssl", "--container", container, "--duration", "300ms"];
    let nobody = Nobody::new()?;
    nobody.grant(&NAMED)?;
    let trace = nobody.run(&command)?;
    check_ended(&trace, "ssl", 0)?;
    nobody.grant(&without(&NAMED, "CAP_CHECKPOINT_RESTORE"))?;
    let trace = nobody.run(&command)?;
    check_ended(&trace, "ssl", 3)?;
    ensure!(trace.stderr.contains("CAP_CHECKPOINT_RESTORE"), "{}", trace.stderr);
    Ok(())
}

#[test]
fn the_named_capabilities_are_enough_for_a_command_of_ones_own() -> Result<()> {
    require_bpf()?;
    let nobody = Nobody::new()?;
    let server = LocalServer::start(1)?;
    let client = program("tls-client")?;
    let copied = nobody.put(&client)?;
    let client = [&*copied, "--port", server.port(), "--up", "100", "--down", "100"];
    // The processes belong to the user.
    let named = without(&NAMED, "CAP_SYS_PTRACE");
    nobody.grant(&named)?;
    let trace = nobody.run(&[&["ssl", "--"], &client[..]].concat())?;
    check_ended(&trace, "ssl -- CMD", 0)?;
    ensure!(trace.stderr.contains("SSL_write") && trace.stderr.contains("nothing lost"), "{}", trace.stderr);
    let trace = nobody.run(&["uprobe", "libc.so.6:getenv(str)", "--", "sh", "-c", "ls; exit 5"])?;
    check_ended(&trace, "uprobe -- CMD", 5)?;
    ensure!(trace.stderr.contains("getenv("), "{}", trace.stderr);
    for missing in ["CAP_BPF", "CAP_PERFMON", "CAP_DAC_READ_SEARCH"] {
        nobody.grant(&without(&named, missing))?;
        for command in [&["ssl", "--", "true"][..], &["uprobe", "libc.so.6:getenv", "--", "true"]] {
            let trace = nobody.run(command)?;
            check_ended(&trace, missing, 4)?;
            check_refused(&trace, missing)?;
        }
    }
    Ok(())
}

#[test]
fn programs_are_told_without_the_right_to_set_probes() -> Result<()> {
    require_bpf()?;
    let nobody = Nobody::new()?;
    nobody.grant(&OF_EXEC)?;
    let trace = nobody.run(&["exec", "--", "sh", "-c", "exit 3"])?;
    check_ended(&trace, "exec -- CMD", 3)?;
    ensure!(trace.stderr.contains("sh -c 'exit 3'"), "{}", trace.stderr);
    check_ended(&nobody.run(&["exec", "--all", "--duration", "300ms"])?, "exec --all", 0)?;
    for missing in OF_EXEC {
        nobody.grant(&without(&OF_EXEC, missing))?;
        check_refused(&nobody.run(&["exec", "--all", "--duration", "300ms"])?, missing)?;
    }
    Ok(())
}

#[test]
fn what_is_explained_needs_fewer_rights() -> Result<()> {
    require_live()?;
    let server = Server::start("explained-rights", &[])?;
    let container = server.container.id();
    let short = container.get(..12).context("no id")?;
    let nobody = Nobody::new()?;
    check_ended(&nobody.run(&["ps"])?, "ps", 0)?;
    nobody.grant(&["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"])?;
    let seen = nobody.run(&["ps", "--container", short])?;
    check_ended(&seen, "ps", 0)?;
    ensure!(text(&seen).contains("8 functions"), "{}", text(&seen));
    check_ended(&nobody.run(&["inspect", short])?, "inspect", 0)?;
    nobody.grant(&NAMED)?;
    check_ended(&nobody.run(&["doctor", short])?, "doctor", 0)?;
    for missing in NEEDED {
        nobody.grant(&without(&NAMED, missing))?;
        let trace = nobody.run(&["doctor", short])?;
        ensure!(REFUSED.contains(&trace.code()), "without {missing}: {:?}: {}", trace.code(), text(&trace));
        let advice = text(&trace);
        ensure!(advice.contains(&format!("or with {missing}")), "no advice on {missing}: {advice}");
        ensure!(!advice.contains("CONFIG_FTRACE"), "without {missing} it blames the kernel: {advice}");
    }
    Ok(())
}

/// The mappings of a process without a file, except for heap, stack and those that the kernel gives every
/// process.
fn odd_mappings(pid: u32) -> Result<BTreeSet<String>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let names = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let usual = ["[heap]", "[stack]", "[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"];
    Ok(names.filter(|name| name.starts_with('[') && !usual.contains(name)).map(str::to_owned).collect())
}

/// Whether the code of a process equals that of its files, byte for byte. A probe replaces a byte.
fn has_its_files_code(pid: u32) -> Result<bool> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [range, rights, offset, _, _, path] = words.as_slice() else { continue };
        if !rights.contains('x') || !path.starts_with('/') {
            continue;
        }
        let number = |text: &str| u64::from_str_radix(text, 16);
        let (start, end) = range.split_once('-').context("no range")?;
        let file = File::open(format!("/proc/{pid}/root{path}"))?;
        // The last page of a mapping may extend beyond the end of the file.
        let room = file.metadata()?.len().saturating_sub(number(offset)?);
        let length = usize::try_from(room.min(number(end)? - number(start)?))?;
        let (mut mapped, mut stored) = (vec![0; length], vec![0; length]);
        memory.read_exact_at(&mut mapped, number(start)?)?;
        file.read_exact_at(&mut stored, number(offset)?)?;
        if mapped != stored {
            return Ok(false);
        }
    }
    Ok(true)
}

/// All BPF objects of the kernel, by kind and id.
fn bpf_objects() -> Result<BTreeSet<String>> {
    let output = Command::new(program("bpf-ids")?).output()?;
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

/// The BPF objects of a process.
fn bpf_objects_of(pid: u32) -> Result<BTreeSet<String>> {
    let mut objects = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        for (field, kind) in [("prog_id:", "program"), ("map_id:", "map"), ("link_id:", "link")] {
            let ids = text.lines().filter_map(|line| line.strip_prefix(field));
            objects.extend(ids.map(|id| format!("{kind} {}", id.trim())));
        }
    }
    Ok(objects)
}

/// The state of a process; `T` means stopped.
fn state(pid: u32) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("State:")).context("no state")?;
    Ok(line.trim().to_owned())
}

#[test]
fn what_is_left_behind_is_the_kernels_page_alone() -> Result<()> {
    require_live()?;
    let entries = || fs::read_to_string("/sys/kernel/tracing/uprobe_events").unwrap_or_default();
    let before = entries();
    for end in [Signal::INT, Signal::KILL] {
        let server = Server::start("left-behind", &[])?;
        let pid = server.container.pid();
        ensure!(odd_mappings(pid)?.is_empty(), "before: {:?}", odd_mappings(pid)?);
        ensure!(has_its_files_code(pid)?, "before: another's probes?");
        let mut ctrace = Ctrace::json(&["--container", server.container.name()])?;
        let ours = bpf_objects_of(ctrace.id())?;
        ensure!(bpf_objects()?.is_superset(&ours) && !ours.is_empty(), "bpf-ids does not list {ours:?}");
        ensure!(!has_its_files_code(pid)?, "no probe is in its code: this test shows nothing");
        server.client_outside(&["--up", "1000", "--down", "1000"])?;
        ctrace.child().signal(end)?;
        ctrace.wait(Duration::from_secs(30))?;
        // The kernel removes probes and frees programs only after a grace period.
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let objects: Vec<String> = bpf_objects()?.intersection(&ours).cloned().collect();
            if objects.is_empty() && has_its_files_code(pid)? {
                break;
            }
            ensure!(Instant::now() < deadline, "{end:?}: {objects:?}, or a probe, is left");
            thread::sleep(Duration::from_millis(100));
        }
        ensure!(entries() == before, "{end:?}: entries of tracefs are left");
        ensure!(!state(pid)?.starts_with('T'), "{end:?}: the process is stopped");
        // The documents say that the page stays until the process executes another program or ends.
        let page: BTreeSet<String> = ["[uprobes]".to_owned()].into();
        ensure!(odd_mappings(pid)? == page, "{end:?}: {:?}", odd_mappings(pid)?);
    }
    Ok(())
}
