//! Recorded calls of functions → what a user reads.

use std::collections::HashMap;
use std::sync::Arc;

use ctrace::clock::Clock;
use ctrace::event::Library;
use ctrace::event::StopReason;
use ctrace::pipeline::Counter;
use ctrace::pipeline::Setup;
use ctrace::pipeline::Site;
use ctrace::plan::capture::Capture;
use ctrace::plan::return_probe::ReturnPolicy;
use ctrace::probe::uprobe::Convention;
use ctrace::probe::uprobe::Mode;
use ctrace::probe::uprobe::Pattern;
use ctrace::probe::uprobe::Stacks;
use ctrace::probe::uprobe::Uprobe;
use probe_common::{
    BUCKETS, CountKey, FunctionEvent, FunctionStack, Histogram, KIND_FUNCTION_ENTER, KIND_FUNCTION_RETURN,
    KIND_FUNCTION_STACK, Loss, LossCount, SIZE_CLASSES,
};
use zerocopy::{FromZeros, IntoBytes};

use super::{BOOT, Fixed, Raw, Shared, Traced, exit, header, kept, plain, schema};

fn site(function: &str, pattern: &str, convention: Convention) -> Site {
    let uprobe = Uprobe {
        patterns: Vec::new(),
        usdt: Vec::new(),
        mode: Mode::Calls,
        returns: ReturnPolicy::Auto,
        stacks: Stacks::Left,
        max_bytes: 256,
        max_probes: 1000,
    };
    let pattern = Pattern::parse(pattern).unwrap();
    let reading = Capture::of_function(&uprobe, &pattern.arguments, pattern.returned, convention).unwrap();
    let library = Library {
        name: "libapp.so.1".into(),
        path: "/usr/lib/libapp.so.1".into(),
        implementation: None,
        version: None,
    };
    let (library, reading) = (Arc::new(library), Some(Arc::new(reading)));
    Site { library, function: function.to_owned(), callers: Vec::new(), reading, complete_since: 0 }
}

fn sites() -> HashMap<u32, Site> {
    let sites = [
        site("look_up", ":look_up(str, _, int, bytes(#3)) -> int", Convention::C),
        site("main.serve\u{1b}[2J", ":main.serve(str) -> str", Convention::Go),
        site("plain", ":plain(bool, hex, uint64)", Convention::C),
    ];
    (0..).zip(sites).collect()
}

/// A record with values, and captured bytes by their slots.
fn record(
    kind: u32,
    site: u32,
    (frame, time): (u64, u64),
    values: &[u64],
    captured: &[(usize, &[u8])],
) -> Raw {
    let mut head = FunctionEvent::new_zeroed();
    head.header = header(kind, 1234, b"app");
    head.header.time = 5_000_000_000 + time;
    (head.frame, head.site, head.entered) = (frame, site, head.header.time);
    head.values[..values.len()].copy_from_slice(values);
    head.room = match captured.len() {
        0 => 0,
        1 => 1,
        2 => 4,
        _ => 7,
    };
    let (count, bytes) = SIZE_CLASSES[head.room as usize];
    let mut slots = vec![0xA5_u8; (count * bytes) as usize];
    for (slot, (argument, data)) in captured.iter().enumerate() {
        head.lengths[*argument] = u32::try_from(data.len()).unwrap();
        slots[slot * bytes as usize..][..data.len()].copy_from_slice(data);
    }
    Raw::new(&[head.as_bytes(), &slots])
}

fn changed(mut raw: Raw, change: impl FnOnce(&mut FunctionEvent)) -> Raw {
    let (head, _) = zerocopy::FromBytes::mut_from_prefix(raw.0.as_mut_bytes()).unwrap();
    change(head);
    raw
}

fn enter(site: u32, place: (u64, u64), values: &[u64], captured: &[(usize, &[u8])]) -> Raw {
    record(KIND_FUNCTION_ENTER, site, place, values, captured)
}

fn leave(
    site: u32,
    frame: u64,
    (entered, time): (u64, u64),
    values: &[u64],
    captured: &[(usize, &[u8])],
) -> Raw {
    let raw = record(KIND_FUNCTION_RETURN, site, (frame, time), values, captured);
    changed(raw, |head| head.entered = 5_000_000_000 + entered)
}

/// Everything that can come, once.
fn recording() -> Vec<Raw> {
    let text = |text: &'static [u8]| -> Vec<(usize, &'static [u8])> { vec![(0, text), (2, b"\x00\xff")] };
    let negative = u64::from(2_u32).wrapping_sub(4);
    let mut stack = FunctionStack::new_zeroed();
    stack.header = header(KIND_FUNCTION_STACK, 1234, b"app");
    (stack.caller, stack.count) = (0x5000, 2);
    stack.frames[..2].copy_from_slice(&[0x4000, 0x6000]);
    stack.header.time = 5_000_000_000 + 5_000_000;
    let stack = Raw::new(&[stack.as_bytes()]);
    vec![
        // Nested: the inner call returns first.
        enter(0, (0x7000, 0), &[0x1000, 7, 0x2000], &text(b"outer \"x\"")),
        enter(0, (0x6f00, 1000), &[0x1000, negative, 0x2000], &text(b"inner\x1b[m\n")),
        leave(0, 0x6f00, (1000, 2500), &[negative], &[]),
        leave(0, 0x7000, (0, 1_234_567), &[3], &[]),
        // Left by longjmp: the same place on the stack is used again.
        enter(0, (0x6f00, 2_000_000), &[0x1000, 1, 0x2000], &text(b"left")),
        changed(enter(0, (0x6f00, 3_000_000), &[0x1000, 1, 0x2000], &text(b"not UTF-8: \xff")), |head| {
            head.cut = 1;
        }),
        leave(0, 0x6f00, (3_000_000, 3_000_100), &[0], &[]),
        // A return whose beginning was lost.
        leave(0, 0x5000, (1, 2), &[0], &[]),
        // A goroutine goes on on another thread.
        changed(enter(1, (0x100, 4_000_000), &[0x1000, 2], &[(0, b"/a")]), |head| head.goroutine = 0xc000),
        changed(leave(1, 0x100, (4_000_000, 4_500_000), &[0x1000], &[(0, b"ok")]), |head| {
            head.goroutine = 0xc000;
            head.header.tid = 1235;
        }),
        stack.clone(),
        enter(2, (0x7000, 5_000_000), &[1, u64::MAX, u64::MAX], &[]),
        // The record of this stack's call was lost, and so was the next one's stack.
        stack,
        changed(enter(2, (0x7000, 6_000_000), &[0, 16, 0], &[]), |head| head.faults = 4),
        enter(9, (0x7000, 6_000_000), &[], &[]),
        changed(enter(2, (0x7000, 6_000_000), &[], &[]), |head| head.room = 99),
        // The process ends before this one returns, the trace before the next.
        enter(0, (0x6000, 7_000_000), &[0x1000, 1, 0x2000], &text(b"exit")),
        exit(1234, b"app"),
        enter(0, (0x6000, 8_000_000), &[0x1000, 1, 0x2000], &text(b"end")),
    ]
}

fn output(name: &str) -> String {
    let shared = Shared::default();
    let sink = kept::output(name, &shared, plain());
    let clock = Clock::new(BOOT);
    let origins = Fixed { forgotten: Arc::default() };
    let started = clock.timestamp(0);
    let setup = Setup { sites: sites(), clock, sink, started, count: None, symbols: None, executions: None };
    let mut pipeline = Traced::new(setup, origins);
    for raw in recording() {
        pipeline.bytes(raw.0.as_bytes()).unwrap();
    }
    let key = |site| CountKey { cgroup: 1, site, reserved: 0 };
    let mut times = Histogram { total: 5000, buckets: [0; BUCKETS] };
    times.buckets[10] = 3;
    times.buckets[12] = 1;
    let counted = [(key(0), Counter::Calls(7)), (key(2), Counter::Latency(times))];
    pipeline.counted(clock.timestamp(9_000_000_000), &counted).unwrap();
    let more = [(key(0), Counter::Calls(9)), (key(2), Counter::Latency(times))];
    pipeline.counted(clock.timestamp(9_500_000_000), &more).unwrap();
    let lost = [(Loss::ArgumentFault, LossCount { events: 1, bytes: 0 })];
    pipeline.lost(clock.timestamp(9_500_000_000), &lost).unwrap();
    // Whether one that began before this loss returned is not known, of one that began later it is.
    pipeline.bytes(enter(0, (0x5f00, 8_500_000), &[0x1000, 1, 0x2000], &[]).0.as_bytes()).unwrap();
    let lost = [(Loss::RingFull, LossCount { events: 2, bytes: 0 })];
    pipeline.lost(clock.timestamp(5_009_000_000), &lost).unwrap();
    pipeline.bytes(enter(0, (0x5e00, 9_500_000), &[0x1000, 1, 0x2000], &[]).0.as_bytes()).unwrap();
    let summary = pipeline.finish(clock.timestamp(10_000_000_000), StopReason::Interrupted).unwrap();
    assert_eq!((summary.undecodable, summary.calls), (2, 11 + 11 + 2));
    assert_eq!(summary.missing().events, 2, "a call is reported without what could not be read");
    String::from_utf8(shared.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn calls_of_functions_replay_to_the_same_text() {
    super::golden("functions.txt", output("text").as_bytes());
}

#[test]
fn calls_of_functions_replay_to_the_same_json() {
    let lines = output("json");
    super::golden("functions.jsonl", lines.as_bytes());
    lines.lines().for_each(|line| schema::check(&serde_json::from_str(line).unwrap()));
}

/// Calls of a recursion with six texts each, of which every one has room for 4104 bytes; tells how many were
/// reported before the trace ended.
fn reported_of_a_recursion(calls: u64, captured: usize) -> usize {
    let shared = Shared::default();
    let sink = kept::output("json", &shared, plain());
    let clock = Clock::new(BOOT);
    let pattern = ":f(str, str, str, str, str, str) -> int";
    let setup = Setup {
        sites: [(0, site("f", pattern, Convention::C))].into(),
        clock,
        sink,
        started: clock.timestamp(0),
        count: None,
        symbols: None,
        executions: None,
    };
    let mut pipeline = Traced::new(setup, Fixed { forgotten: Arc::default() });
    let slots = vec![b'x'; 6 * 4104];
    for call in 0..calls {
        let mut head = FunctionEvent::new_zeroed();
        head.header = header(KIND_FUNCTION_ENTER, 1234, b"app");
        (head.frame, head.entered, head.room) = (0x10_0000 - call, head.header.time, 9);
        head.lengths = [u32::try_from(captured).unwrap(); 6];
        pipeline.bytes(Raw::new(&[head.as_bytes(), &slots]).0.as_bytes()).unwrap();
    }
    pipeline.flush().unwrap();
    let before = shared.0.lock().unwrap().split(|byte| *byte == b'\n').count() - 1;
    pipeline.finish(clock.timestamp(10_000_000_000), StopReason::Interrupted).unwrap();
    let lines = String::from_utf8(shared.0.lock().unwrap().clone()).unwrap();
    assert_eq!(lines.matches(&format!("\"{}\"", "x".repeat(captured))).count() as u64, 6 * calls);
    before
}

#[test]
fn calls_that_wait_keep_what_was_captured_alone() {
    assert_eq!(reported_of_a_recursion(1500, 100), 0);
    let early = reported_of_a_recursion(1500, 4096);
    assert!(early > 500, "{early}: more than 32 MiB are kept");
}
