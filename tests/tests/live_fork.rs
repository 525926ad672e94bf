//! A connection that several processes use after a fork is one connection. Needs root and BPF.

#![expect(clippy::indexing_slicing, reason = "what is not there is null")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::{Direction, JsonRecord, RunningTrace, Tracing, program, require_bpf};
use serde_json::Value;

fn trace(mode: &str, options: &[&str]) -> Result<RunningTrace> {
    let program = program("tls-fork")?.display().to_string();
    let traced = Tracing::start(options, &[&program, mode], Stdio::null())?.wait()?;
    traced.trace.check_complete()?;
    Ok(traced.trace)
}

/// Both ends of the connection, the client's first. Each must have all of its calls, numbered without a gap.
fn ends(trace: &RunningTrace) -> Result<[Vec<JsonRecord>; 2]> {
    let mut all: BTreeMap<u64, Vec<JsonRecord>> = BTreeMap::new();
    for record in trace.records()? {
        let id = record.connection.as_ref().context("no connection")?.id;
        all.entry(id).or_default().push(record);
    }
    for calls in all.values() {
        let mut numbers: Vec<u64> = calls.iter().filter_map(|record| record.call.number).collect();
        numbers.sort_unstable();
        ensure!(numbers == (1..=calls.len() as u64).collect::<Vec<u64>>(), "{numbers:?}");
        ensure!(calls.iter().all(|record| record.connection.as_ref().is_some_and(|of| of.from_start)));
    }
    let mut all = all.into_values().collect::<Vec<_>>();
    ensure!(all.len() == 2, "{} connections: {}", all.len(), trace.stderr);
    let is_client = |record: &JsonRecord| {
        record.network.io.direction == Direction::Transmit
            && record.payload().is_ok_and(|payload| payload.starts_with(b"parent"))
    };
    all.sort_by_key(|calls| !calls.iter().any(is_client));
    all.try_into().map_err(|_| anyhow::anyhow!("not two"))
}

/// The stream of a direction, put together by the offsets.
fn stream(calls: &[JsonRecord], direction: Direction) -> Result<String> {
    let mut stream = Vec::new();
    for record in calls {
        let offset = record.connection.as_ref().context("no connection")?.offset;
        if record.network.io.direction == direction {
            stream.push((offset, record.payload()?));
        }
    }
    stream.sort();
    let mut text = Vec::new();
    for (offset, data) in stream {
        ensure!(offset == text.len() as u64, "a gap or an overlap at {offset}: {}", text.len());
        text.extend(data);
    }
    Ok(String::from_utf8(text)?)
}

fn processes(calls: &[JsonRecord]) -> BTreeSet<u32> {
    calls.iter().map(|record| record.process.pid).collect()
}

fn lines(parts: &[&str]) -> String {
    parts.iter().flat_map(|part| [*part, "\n"]).collect()
}

#[test]
fn a_parent_receives_and_its_child_sends() -> Result<()> {
    require_bpf()?;
    let trace = trace("split", &["--connections"])?;
    let [client, server] = ends(&trace)?;
    let sent = lines(&["parent 0", "child 1", "child 2", "child 3", "child 4"]);
    let answers = lines(&["answer 0", "answer 1", "answer 2", "answer 3", "answer 4"]);
    let (transmitted, received) =
        (stream(&client, Direction::Transmit)?, stream(&server, Direction::Receive)?);
    ensure!(transmitted == sent && received == sent, "{transmitted:?} {received:?}");
    ensure!(
        stream(&client, Direction::Receive)? == answers && stream(&server, Direction::Transmit)? == answers
    );
    ensure!((processes(&client).len(), processes(&server).len()) == (2, 1), "{client:?}");
    check_records(&trace, [&client, &server])
}

/// Each connection opens and closes once, and its close counts what all processes moved.
fn check_records(trace: &RunningTrace, ends: [&[JsonRecord]; 2]) -> Result<()> {
    let lines = trace.lines()?;
    for calls in ends {
        let id = calls.first().and_then(|record| record.connection.as_ref()).context("no call")?.id;
        let of = |kind: &str| -> Vec<&Value> {
            lines.iter().filter(|line| line["type"] == kind && line["connection"]["id"] == id).collect()
        };
        let ([open], [close]) = (&of("ssl_open")[..], &of("ssl_close")[..]) else {
            anyhow::bail!("{:#?} {:#?}", of("ssl_open"), of("ssl_close"))
        };
        ensure!(open["process"]["pid"] == close["process"]["pid"], "{open} {close}");
        ensure!(close["connection"]["calls"] == calls.len() as u64, "{close}");
        for (field, direction) in [("received", Direction::Receive), ("transmitted", Direction::Transmit)] {
            ensure!(close["connection"][field] == stream(calls, direction)?.len() as u64, "{close}");
        }
        ensure!(close["duration"].is_u64() && close["end"] == "closed", "{close}");
    }
    Ok(())
}

#[test]
fn a_child_goes_on_with_what_its_parent_has_freed() -> Result<()> {
    require_bpf()?;
    let trace = trace("handover", &[])?;
    let [client, server] = ends(&trace)?;
    let sent = lines(&["welcome 0", "answer 0", "answer 1", "answer 2", "answer 3", "answer 4"]);
    ensure!(stream(&server, Direction::Transmit)? == sent && stream(&client, Direction::Receive)? == sent);
    ensure!((processes(&client).len(), processes(&server).len()) == (1, 2), "{server:?}");
    Ok(())
}

/// The parent has closed the connection before the child uses it, which opens it again.
#[test]
fn a_connection_that_is_closed_by_one_process_and_used_by_another() -> Result<()> {
    require_bpf()?;
    let trace = trace("handover", &["--connections"])?;
    let [_, server] = ends(&trace)?;
    let id = server.first().and_then(|record| record.connection.as_ref()).context("no call")?.id;
    let lines = trace.lines()?;
    let kinds: Vec<&Value> =
        lines.iter().filter(|line| line["connection"]["id"] == id).map(|line| &line["type"]).collect();
    let calls = |count| std::iter::repeat_n("ssl", count);
    let expected = ["ssl_open"].into_iter().chain(calls(1)).chain(["ssl_close", "ssl_open"]);
    let expected: Vec<&str> = expected.chain(calls(server.len() - 1)).chain(["ssl_close"]).collect();
    ensure!(kinds == expected, "{kinds:?}");
    let closes = lines.iter().filter(|line| line["type"] == "ssl_close" && line["connection"]["id"] == id);
    let counted: Option<u64> = closes.map(|close| close["connection"]["calls"].as_u64()).sum();
    ensure!(counted == Some(server.len() as u64), "{counted:?}");
    Ok(())
}
