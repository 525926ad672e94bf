//! What a session reports about processes, cgroups and mappings, and how its scope changes. Needs root and
//! BPF.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ctrace::bpf;
use ctrace::bpf::BpfLog;
use ctrace::bpf::MmapEvents;
use ctrace::bpf::ProbeLink;
use ctrace::bpf::Session;
use ctrace::bpf::SessionOptions;
use ctrace::bpf::TrackExec;
use ctrace::decode::ExecMmap;
use ctrace::decode::MmapEvent;
use ctrace::decode::decode;
use ctrace::decode::{ControlRecord, RingRecord, TaskRecord};
use ctrace::plan::program_set::{CapturedConnections, ConnectionRecords, ProgramSet};
use ctrace::proc::cgroup::Cgroup;
use ctrace::scope::Scope;
use ctrace::scope::ScopeChange;
use ctrace_tests::{Ctrace, require_bpf};
use tokio::runtime::{Builder, Runtime};

/// The longest wait for something that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A record that the session delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Observed {
    Executed(u32),
    Ended(u32),
    Made { id: u64, level: u32, path: String },
    Gone(u64),
}

/// How many steps the verifier may take for a program. It refuses one that needs a million, and kernels
/// differ by a factor of three.
const STEPS: u32 = 250_000;

/// A session without hooks.
struct Watched {
    session: Session,
    runtime: Runtime,
    observed: Vec<Observed>,
}

impl Watched {
    fn start(scope: &Scope) -> Result<Self> {
        require_bpf()?;
        bpf::prepare()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let options = SessionOptions {
            programs: ProgramSet::connections_of(CapturedConnections::Tls, ConnectionRecords::Off),
            ring_bytes: 1 << 20,
            probe_link: ProbeLink::Auto,
            max_bytes: 4096,
            log: BpfLog::Off,
            command: None,
        };
        let session = runtime.block_on(async { Session::load(&options, scope) })?;
        Ok(Self { session, runtime, observed: Vec::new() })
    }

    /// Reads the records that are in the ring now.
    fn drain(&mut self) -> &[Observed] {
        let observed = &mut self.observed;
        self.session.drain(|bytes| {
            observed.extend(match decode(bytes) {
                Ok(RingRecord::Task(TaskRecord::Exec(header))) => Some(Observed::Executed(header.pid)),
                Ok(RingRecord::Task(TaskRecord::Exit(exit))) => Some(Observed::Ended(exit.header.pid)),
                Ok(RingRecord::Control(ControlRecord::CgroupCreated(cgroup))) => Some(Observed::Made {
                    id: cgroup.id,
                    level: cgroup.level,
                    path: String::from_utf8_lossy(cgroup.path).into_owned(),
                }),
                Ok(RingRecord::Control(ControlRecord::CgroupRemoved(cgroup))) => {
                    Some(Observed::Gone(cgroup.id))
                }
                _ => None,
            });
            ControlFlow::Continue(())
        });
        &self.observed
    }

    /// Waits until this record was delivered.
    fn wait(&mut self, expected: &Observed) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !self.drain().contains(expected) {
            ensure!(Instant::now() < end, "{expected:?} is not reported: {:?}", self.observed);
            self.runtime.block_on(self.session.wait());
        }
        Ok(())
    }

    fn has_observed(&mut self, what: &Observed) -> bool {
        self.drain().contains(what)
    }

    fn change(&mut self, change: &ScopeChange) -> Result<()> {
        Ok(self.session.change(change)?)
    }
}

/// A cgroup of the v2 hierarchy, which is removed when dropped.
struct Group {
    directory: PathBuf,
    cgroup: Cgroup,
}

impl Group {
    fn make(label: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mount = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let path = words.next()?;
            (words.next()? == "cgroup2").then_some(path)
        });
        let name = format!("ctrace-test-{}-{label}", std::process::id());
        let directory = PathBuf::from(mount.context("the v2 hierarchy is not mounted")?).join(&name);
        fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        let id = fs::metadata(&directory)?.ino();
        Ok(Self { directory, cgroup: Cgroup { id, level: 1, path: format!("/{name}") } })
    }

    fn take_in(&self, pid: u32) -> Result<()> {
        Ok(fs::write(self.directory.join("cgroup.procs"), pid.to_string())?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let end = Instant::now() + PATIENCE;
        // A process leaves its cgroup shortly after it has ended.
        while fs::remove_dir(&self.directory).is_err() && Instant::now() < end && self.directory.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A shell that runs lines one by one.
struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Shell {
    fn start() -> Result<Self> {
        let mut child = Command::new("/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("/bin/sh")?;
        let input = child.stdin.take().context("stdin")?;
        let output = BufReader::new(child.stdout.take().context("stdout")?);
        Ok(Self { child, input, output })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a line that prints one line, and returns that.
    fn run(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}")?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        Ok(answer.trim().to_owned())
    }

    /// Starts a process that executes another program, and returns its id once it has ended.
    fn execute(&mut self) -> Result<u32> {
        Ok(self.run("/bin/true & wait; echo $!")?.parse()?)
    }

    /// Starts a process that executes nothing, and returns its id once it has ended.
    fn fork(&mut self) -> Result<u32> {
        Ok(self.run("( : ) & wait; echo $!")?.parse()?)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn cgroups_and_execs_are_told_when_the_scope_watches() -> Result<()> {
    let mut watched = Watched::start(&Scope { watch: true, ..Scope::default() })?;
    let group = Group::make("watch")?;
    let Cgroup { id, level, path } = group.cgroup.clone();
    watched.wait(&Observed::Made { id, level, path })?;
    let mut shell = Shell::start()?;
    watched.wait(&Observed::Executed(shell.pid()))?;
    let outside = shell.execute()?;
    watched.wait(&Observed::Executed(outside))?;

    watched.change(&ScopeChange::EnterCgroup(group.cgroup.clone()))?;
    group.take_in(shell.pid())?;
    let inside = shell.execute()?;
    watched.wait(&Observed::Executed(inside))?;
    watched.wait(&Observed::Ended(inside))?;
    ensure!(
        !watched.has_observed(&Observed::Ended(outside)),
        "the end of a process that was not in scope is reported"
    );
    drop(shell);
    drop(group);
    watched.wait(&Observed::Gone(id))?;
    watched.change(&ScopeChange::ForgetCgroup(id))
}

#[test]
fn without_watching_only_what_is_in_scope_is_told() -> Result<()> {
    let mut watched = Watched::start(&Scope::default())?;
    let group = Group::make("scope")?;
    let mut shell = Shell::start()?;
    let before = shell.execute()?;
    watched.change(&ScopeChange::EnterProcess(shell.pid()))?;
    let followed = shell.execute()?;
    watched.wait(&Observed::Executed(followed))?;
    watched.wait(&Observed::Ended(followed))?;

    group.take_in(shell.pid())?;
    watched.change(&ScopeChange::ExcludeCgroup(group.cgroup.clone()))?;
    // An excluded cgroup stays excluded.
    watched.change(&ScopeChange::EnterCgroup(group.cgroup.clone()))?;
    let excluded = shell.execute()?;
    watched.change(&ScopeChange::ForgetCgroup(group.cgroup.id))?;
    let again = shell.execute()?;
    watched.wait(&Observed::Ended(again))?;
    for pid in [before, excluded, shell.pid()] {
        ensure!(!watched.has_observed(&Observed::Executed(pid)), "{pid} is reported: {:?}", watched.observed);
    }
    ensure!(
        !watched.observed.iter().any(|one| matches!(one, Observed::Made { .. })),
        "{:?}",
        watched.observed
    );
    Ok(())
}

#[test]
fn everything_but_a_cgroup() -> Result<()> {
    let group = Group::make("all-but")?;
    let (mut kept_out, mut other) = (Shell::start()?, Shell::start()?);
    group.take_in(kept_out.pid())?;
    let scope = Scope { all: true, excluded: vec![group.cgroup.clone()], ..Scope::default() };
    let mut watched = Watched::start(&scope)?;
    let excluded = kept_out.execute()?;
    let included = other.execute()?;
    watched.wait(&Observed::Executed(included))?;
    ensure!(!watched.has_observed(&Observed::Executed(excluded)), "{:?}", watched.observed);
    Ok(())
}

#[test]
fn a_process_leaves_at_exec_and_comes_back() -> Result<()> {
    let mut shell = Shell::start()?;
    let scope = Scope { watch: true, leaves_at_exec: true, pids: vec![shell.pid()], ..Scope::default() };
    let mut watched = Watched::start(&scope)?;
    let forked = shell.fork()?;
    watched.wait(&Observed::Ended(forked))?;

    ensure!(shell.run("exec /bin/sh -c 'echo new; exec /bin/sh'")? == "new");
    let left = shell.fork()?;
    watched.wait(&Observed::Executed(shell.pid()))?;
    watched.change(&ScopeChange::EnterProcess(shell.pid()))?;
    let back = shell.fork()?;
    watched.wait(&Observed::Ended(back))?;
    ensure!(!watched.has_observed(&Observed::Ended(left)), "{left} is reported: {:?}", watched.observed);
    Ok(())
}

#[test]
fn a_process_ends_with_its_last_thread() -> Result<()> {
    // Both threads end on command, the first one earlier.
    const PROGRAM: &str = "import ctypes, os, sys, threading\n\
        def go_on():\n    print('alone', flush=True); sys.stdin.readline(); os._exit(0)\n\
        print('ready', flush=True); sys.stdin.readline()\n\
        threading.Thread(target=go_on).start()\n\
        ctypes.CDLL(None).pthread_exit(None)\n";
    let mut process = Command::new("python3")
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("python3")?;
    let mut input = process.stdin.take().context("stdin")?;
    let mut lines = BufReader::new(process.stdout.take().context("stdout")?).lines();
    ensure!(lines.next().context("no line")?? == "ready");
    let mut watched = Watched::start(&Scope { pids: vec![process.id()], ..Scope::default() })?;
    writeln!(input, "go on")?;
    ensure!(lines.next().context("no line")?? == "alone");
    let fields = fs::read_to_string("/sys/kernel/tracing/events/sched/sched_process_exit/format")?;
    let marks_last = fields.contains("group_dead");
    // By now the first thread has ended.
    std::thread::sleep(Duration::from_millis(300));
    let early = watched.has_observed(&Observed::Ended(process.id()));
    writeln!(input, "end")?;
    process.wait()?;
    watched.wait(&Observed::Ended(process.id()))?;
    ensure!(!early || !marks_last, "reported before its last thread has ended");
    let times = watched.observed.iter().filter(|one| **one == Observed::Ended(process.id())).count();
    ensure!(times == 1, "reported {times} times");
    Ok(())
}

#[test]
fn mappings_of_others_are_told() -> Result<()> {
    require_bpf()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut mappings = runtime.block_on(async { MmapEvents::open(TrackExec::FromMmapEvents) })?;
    let mut child = Command::new("/bin/true").spawn()?;
    let pid = child.id();
    child.wait()?;
    let find = async {
        loop {
            for mapping in mappings.next().await {
                if let MmapEvent::Mapped(mapped) = mapping {
                    ensure!(mapped.pid != std::process::id(), "our own mapping is reported: {mapped:?}");
                    if mapped.pid == pid && mapped.path.file_name() == Some(OsStr::new("libc.so.6")) {
                        return Ok(mapped);
                    }
                }
            }
        }
    };
    let found = runtime.block_on(async { tokio::time::timeout(PATIENCE, find).await });
    let Ok(found) = found else { bail!("the C library of a program is not reported") };
    let ExecMmap { address, length, inode, path, time, .. } = found?;
    let file = fs::metadata(&path).with_context(|| path.display().to_string())?;
    ensure!(inode == file.ino(), "inode {inode} of {}, which has {}", path.display(), file.ino());
    ensure!(address % 4096 == 0 && address != 0 && length != 0, "{address:#x}, {length:#x}");
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let ago = u64::try_from(boot.tv_sec)?.saturating_sub(time / 1_000_000_000);
    ensure!(ago < 60, "mapped {ago} s ago");
    Ok(())
}

#[test]
fn programs_are_far_from_what_verifiers_refuse() -> Result<()> {
    require_bpf()?;
    for command in [
        &["ssl"][..],
        &["ssl", "--connections"],
        &["exec", "--failed", "--exits", "--forks"],
        &["uprobe", "libc.so.6:getpid"],
    ] {
        let trace = Ctrace::run_to_end(&[command, &["-vv", "--", "true"]].concat())?;
        let steps: Vec<(&str, u32)> = (trace.stderr.lines())
            .filter_map(|line| {
                line.split_once("verified the BPF program ")?.1.strip_suffix(" steps")?.split_once(" in ")
            })
            .map(|(program, steps)| Ok((program, steps.parse()?)))
            .collect::<Result<_>>()?;
        ensure!(steps.len() >= 5, "{command:?} logs {} programs: {}", steps.len(), trace.stderr);
        let far = steps.iter().all(|(_, steps)| (1..STEPS).contains(steps));
        ensure!(far, "{command:?} is near the verifier's limit: {steps:?}");
    }
    Ok(())
}
