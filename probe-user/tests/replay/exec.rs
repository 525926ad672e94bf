//! Executions: recorded bytes → the records of `ctrace exec`.

use std::sync::{Arc, Mutex};

use ctrace::event::Containment;
use ctrace::event::ProcessContext;
use ctrace::event::StopReason;
use ctrace::output::Options;
use ctrace::output::TextStyle;
use ctrace::output::Tree;
use ctrace::output::text;
use ctrace::pipeline::Executions;
use ctrace::pipeline::ProcessImage;
use ctrace::pipeline::ProcessInfo;
use ctrace::pipeline::Setup;
use ctrace::plan::capture::Environment;
use ctrace::proc::process_snapshot::CommandLine;
use ctrace::proc::process_snapshot::ProcessSnapshot;
use ctrace::scope::ProcessFilter;
use jiff::tz::TimeZone;
use probe_common::{
    ATTEMPT_CUT, CHUNK_OF_ARGUMENTS, CHUNK_OF_ENVIRONMENT, CHUNK_OF_PATH, ExecFailure, ExecRecord,
    ExecStringChunk, Execution, FLAG_EFFECTIVE, FLAG_LONG_PATH, FLAG_STATUS, FLAG_UNREADABLE, Header,
    KIND_EXEC_FAILURE, KIND_EXEC_RECORD, KIND_EXEC_STRING_CHUNK, KIND_PROCESS_EXIT, KIND_PROCESS_FORK,
    Lineage, Parent, ProcessExit, ProcessFork,
};
use zerocopy::{FromZeros, IntoBytes};

use super::{BOOT, Clock, Fixed, Raw, Shared, Traced, exit, golden, header, kept, schema};

/// /proc knows the process 1234 alone, and what ran before the trace.
#[derive(Debug)]
struct Known(Fixed);

fn running() -> ProcessSnapshot {
    ProcessSnapshot {
        started: 1_000,
        parent: 1,
        comm: b"server".to_vec(),
        vpid: Some(1),
        executable: Some(b"/server".to_vec()),
        directory: Some(b"/srv/\xff".to_vec()),
        tty: Some("pts/3".into()),
        users: (Some(33), Some(34), Some(35)),
    }
}

impl ProcessInfo for Known {
    fn origin(&mut self, header: &Header) -> Arc<ProcessContext> {
        self.0.origin(header)
    }

    fn forget(&mut self, pid: u32) {
        self.0.forget(pid);
    }

    fn container(&mut self, cgroup: u64) -> Containment {
        self.0.container(cgroup)
    }

    fn program(&mut self, program: &ExecRecord) -> ProcessImage {
        let ExecRecord { header, .. } = program;
        ProcessImage { origin: self.origin(header), running: (header.pid == 1234).then(running) }
    }

    fn existing(&mut self, pid: u32) -> Option<(ProcessImage, CommandLine)> {
        let given = CommandLine {
            arguments: b"server\0--port\x001\0".to_vec(),
            environment: b"PATH=/bin\0SECRET=x\0".to_vec(),
            path: None,
            truncated: false,
        };
        let found = ProcessImage { origin: self.origin(&header(0, pid, b"")), running: Some(running()) };
        (pid == 1234).then_some((found, given))
    }

    fn started(&mut self, pid: u32) -> Option<u64> {
        (pid < 2000).then(|| u64::from(pid) * 10)
    }

    fn comm(&mut self, pid: u32) -> Option<Vec<u8>> {
        (pid == 1).then(|| b"in\x1bit".to_vec())
    }
}

fn at(kind: u32, pid: u32, time: u64, comm: &[u8]) -> Header {
    Header { time: 5_000_000_000 + time, ..header(kind, pid, comm) }
}

fn parent(pid: u32, execution: (u32, u64)) -> Parent {
    let mut parent = Parent::default();
    (parent.pid, parent.execution.pid) = (pid, execution.0);
    parent.execution.time = if execution.1 == 0 { 0 } else { 5_000_000_000 + execution.1 };
    parent.comm[..6].copy_from_slice(b"starte");
    parent
}

/// A program with its arguments in one piece.
fn program(head: Header, parent: Parent, path: &[u8], strings: &[u8]) -> ExecRecord {
    let mut program = ExecRecord::new_zeroed();
    (program.header, program.parent) = (head, parent);
    program.path[..path.len()].copy_from_slice(path);
    program.count = strings.split(|byte| *byte == 0).count() as u64 - 1;
    program.length = strings.len() as u64;
    program.chunk = u32::try_from(strings.len()).unwrap();
    program.captured = program.chunk;
    (program.uid, program.gid, program.effective_uid, program.flags) = (1000, 1001, 1002, FLAG_EFFECTIVE);
    program
}

fn part(head: &ExecRecord, part: u32, offset: u32, bytes: &[u8]) -> Raw {
    let header = Header { kind: KIND_EXEC_STRING_CHUNK, ..head.header };
    let chunk = u32::try_from(bytes.len()).unwrap();
    let part = ExecStringChunk { header, part, offset, chunk, reserved: 0 };
    Raw::new(&[part.as_bytes(), bytes])
}

fn whole(program: &ExecRecord, strings: &[u8]) -> Raw {
    Raw::new(&[program.as_bytes(), strings])
}

/// Everything that can come, once.
fn recording() -> Vec<Raw> {
    let mut all = Vec::new();
    // A script, of a process that was not seen to be forked.
    let strings = b"/bin/sh\0-e\0./run.sh\0a b\0";
    let script = program(at(KIND_EXEC_RECORD, 1234, 1, b"run.sh"), Parent::default(), b"./run.sh", strings);
    all.push(part(&script, CHUNK_OF_ENVIRONMENT, 0, b"PATH=/bin\0SECRET=x\0./run.sh\0\0\0\0\0\0\0\0\0"));
    all.push(whole(&ExecRecord { environment: 36, ..script }, strings));
    // Its child: bytes that are meant to do harm, in a process that has gone.
    let fork = ProcessFork {
        header: at(KIND_PROCESS_FORK, 1234, 2, b"run.sh"),
        execution: Execution { pid: 1234, time: 5_000_000_001, reserved: 0 },
        child: 2000,
        reserved: 0,
    };
    all.push(Raw::new(&[fork.as_bytes()]));
    let strings = b"x\x1b[2J\0\0it's\0\xff\xfe\0l\n\0";
    let odd =
        program(at(KIND_EXEC_RECORD, 2000, 3, b"x\x1b[1A\xff\n"), parent(1234, (1234, 1)), b"/\xff", strings);
    all.push(whole(&ExecRecord { inner_pid: 42, ..odd }, strings));
    // Several parts, the path one of them; then the same with one lost, and one that could not be read.
    let long = vec![b'p'; 300];
    let strings = [b"long\0".as_slice(), &[b'a'; 40], b"\0", &[b'b'; 9], b"\0"].concat();
    let head = program(at(KIND_EXEC_RECORD, 3000, 4, b"long"), parent(2000, (2000, 3)), b"", &strings);
    let head = ExecRecord { offset: 30, chunk: 26, flags: FLAG_LONG_PATH, ..head };
    all.push(part(&head, CHUNK_OF_PATH, 0, &[long.as_slice(), b"\0"].concat()));
    all.push(part(&head, CHUNK_OF_ARGUMENTS, 0, &strings[..20]));
    all.push(part(&head, CHUNK_OF_ARGUMENTS, 20, &strings[20..30]));
    all.push(whole(&head, &strings[30..]));
    let again = ExecRecord { header: at(KIND_EXEC_RECORD, 3000, 5, b"long"), ..head };
    all.push(part(&again, CHUNK_OF_ARGUMENTS, 0, &strings[..20]));
    all.push(whole(&again, &strings[30..]));
    let unreadable = program(at(KIND_EXEC_RECORD, 3001, 6, b"gone"), parent(1500, (1500, 0)), b"/gone", b"");
    all.push(whole(&ExecRecord { flags: FLAG_UNREADABLE, ..unreadable }, b""));
    all.extend(failures_and_ends());
    all
}

fn failures_and_ends() -> Vec<Raw> {
    let mut attempt = ExecFailure::new_zeroed();
    attempt.header = at(KIND_EXEC_FAILURE, 3000, 7, b"long");
    attempt.execution = Execution { pid: 3000, time: 5_000_000_005, reserved: 0 };
    (attempt.error, attempt.flags, attempt.chunk) = (2, ATTEMPT_CUT, 17);
    let bytes = b"/no such\0no\0such\0";
    let mut ended = ProcessExit::new_zeroed();
    ended.header = at(KIND_PROCESS_EXIT, 3000, 1_500_000_005, b"long");
    ended.lineage = Lineage {
        parent: parent(2000, (2000, 3)),
        execution: attempt.execution,
        since: attempt.execution.time,
    };
    (ended.status, ended.flags) = (3 << 8, FLAG_STATUS);
    let dumped = ProcessExit { header: at(KIND_PROCESS_EXIT, 2000, 90, b"x"), status: 0x0b | 0x80, ..ended };
    // Only forked; and one that was there before, of which the kernel tells nothing.
    let forked = ProcessExit { header: at(KIND_PROCESS_EXIT, 2001, 95, b"sub"), status: 0, ..ended };
    let before = ProcessExit {
        header: at(KIND_PROCESS_EXIT, 1500, 96, b"old"),
        lineage: Lineage::default(),
        flags: 0,
        ..ended
    };
    // Another thread of the same process, and the last thread of a later one.
    let mut again = ProcessExit { lineage: Lineage::default(), flags: 0, ..ended };
    (again.header.tid, again.header.time) = (3001, ended.header.time + 100);
    let mut later = ended;
    (later.header.tid, later.header.time) = (3002, ended.header.time + 2_000_000);
    later.lineage.since = ended.header.time + 1_000_000;
    let bare = |pid| exit(pid, b"");
    vec![
        Raw::new(&[attempt.as_bytes(), bytes]),
        Raw::new(&[ended.as_bytes()]),
        bare(3000),
        Raw::new(&[dumped.as_bytes()]),
        bare(2000),
        Raw::new(&[forked.as_bytes()]),
        Raw::new(&[before.as_bytes()]),
        Raw::new(&[again.as_bytes()]),
        Raw::new(&[later.as_bytes()]),
    ]
}

fn replay(name: &str, environment: Environment, count: Option<u64>) -> (Vec<u8>, String) {
    let shared = Shared::default();
    let look = TextStyle { tree: Tree::Indented, ..TextStyle::default() };
    let options = Options { look, zone: TimeZone::UTC };
    let sink = kept::output(name, &shared, options);
    let clock = Clock::new(BOOT);
    let origins = Known(Fixed { forgotten: Arc::new(Mutex::default()) });
    let started = clock.timestamp(0);
    let executions = Some(Executions { environment, choice: ProcessFilter::default() });
    let setup = Setup { sites: super::sites(), clock, sink, started, count, executions, symbols: None };
    let mut pipeline = Traced::new(setup, origins);
    pipeline.existing(1234, &Lineage::default()).unwrap();
    // It is known now; another one runs what it was forked from.
    pipeline.existing(1234, &Lineage::default()).unwrap();
    let execution = Execution { pid: 1234, time: 0, reserved: 0 };
    pipeline.existing(1235, &Lineage { execution, ..Lineage::default() }).unwrap();
    for raw in recording() {
        pipeline.bytes(raw.0.as_bytes()).unwrap();
    }
    let summary = pipeline.finish(clock.timestamp(10_000_000_000), StopReason::TargetEnded).unwrap();
    assert_eq!(summary.undecodable, 0);
    let bytes = shared.0.lock().unwrap().clone();
    (bytes, text::summary_line(&summary))
}

#[test]
fn executions_as_json_are_as_checked_in() {
    let (json, _) = replay("json", Environment::All, None);
    golden("exec.jsonl", &json);
    for line in json.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        schema::check(&serde_json::from_slice(line).unwrap());
    }
}

#[test]
fn executions_as_text_are_as_checked_in() {
    let (text, summary) = replay("text", Environment::Named(vec![b"PATH".to_vec()]), None);
    golden("exec.txt", &text);
    assert_eq!(summary, "summary: 6 programs in 10.0 s (the target ended); 2 truncated; nothing lost");
    let text = String::from_utf8(text).unwrap();
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()) && !text.contains("SECRET"));
}

#[test]
fn count_counts_every_record() {
    let (json, _) = replay("json", Environment::None, Some(4));
    let json = String::from_utf8(json).unwrap();
    assert_eq!(json.lines().count(), 5, "four, and the summary: {json}");
    assert!(!json.contains("environment"), "{json}");
}
