//! What both ends log, what `ctrace requests` reports, and how these are compared.

#![expect(clippy::indexing_slicing, reason = "what a JSON value does not have is null")]

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::{PlannedCall, PlannedEnd};
use crate::RunningTrace;

/// A call as an end logs it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LoggedCall {
    /// Its number.
    pub call: usize,
    /// Its path.
    pub path: String,
    /// The name of its status.
    pub status: String,
    /// The sizes of the client's messages.
    pub up: Vec<usize>,
    /// The sizes of the server's messages.
    pub down: Vec<usize>,
}

/// The calls in the output of a peer; other lines are left out.
pub fn logged(output: &str) -> Result<Vec<LoggedCall>> {
    let lines = output.lines().filter(|line| line.starts_with("{\"call\""));
    lines.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// A record of type `request`, with the records of its messages.
#[derive(Clone, Debug)]
pub struct CapturedCall {
    record: Value,
    up: Vec<CapturedMessage>,
    down: Vec<CapturedMessage>,
}

/// How a message is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    /// It was undone.
    Known,
    /// It was not undone: the header field that says it was not seen.
    Unknown,
}

#[derive(Clone, Debug)]
struct CapturedMessage {
    number: Option<usize>,
    compression: Compression,
    /// Its bytes in the stream.
    length: usize,
    data: Vec<u8>,
    is_whole: bool,
}

impl CapturedMessage {
    fn of(record: &Value) -> Result<Self> {
        let text = |name: &str| record.get(name).and_then(Value::as_str);
        let data = match (text("data"), text("data_base64")) {
            (Some(text), _) => text.as_bytes().to_vec(),
            (None, Some(base64)) => base64_simd::STANDARD.decode_to_vec(base64).context("not base64")?,
            (None, None) => Vec::new(),
        };
        let message = &record["message"];
        let number = |name: &str| message[name].as_u64().and_then(|number| usize::try_from(number).ok());
        let flag = |name: &str| message[name] == true;
        let is_cut = message["body"]["truncated"] == true;
        Ok(Self {
            number: number("number"),
            compression: match message.get("compressed") {
                None => Compression::None,
                Some(Value::Null) => Compression::Unknown,
                Some(_) => Compression::Known,
            },
            length: number("length").with_context(|| format!("no length: {record}"))?,
            data,
            is_whole: !is_cut && !flag("lacks_start") && !flag("lacks_end") && !flag("may_lack"),
        })
    }

    /// The number of the call that it is of.
    fn call(&self) -> Option<usize> {
        std::str::from_utf8(&self.data).ok()?.split_once(' ')?.0.parse().ok()
    }

    /// Whether it is the message of a call that has this index and size.
    fn is(&self, call: usize, way: &str, index: usize, size: usize) -> bool {
        let text = format!("{call} {way} {index} ");
        let is_expected = self.data.iter().eq(text.as_bytes().iter().cycle().take(size));
        match self.compression {
            Compression::None => is_expected && self.length == size + PREFIX,
            Compression::Known => is_expected && self.length > PREFIX,
            Compression::Unknown => self.length > PREFIX && self.data.len() == self.length - PREFIX,
        }
    }
}

/// The bytes before a message.
const PREFIX: usize = 5;

impl CapturedCall {
    fn text(&self, pointer: &str) -> Option<&str> {
        self.record.pointer(pointer).and_then(Value::as_str)
    }

    /// The number of the call, by its header or by its messages.
    fn number(&self) -> Option<usize> {
        let of_header = |value: &Value| {
            let parts: Vec<&str> = value.as_str()?.split('/').collect();
            let [number, _, _, _] = parts[..] else { return None };
            number.parse().ok()
        };
        let headers = self.record.pointer("/http/request/header").and_then(Value::as_object);
        let mut values = headers.into_iter().flat_map(|headers| headers.values());
        let by_header = values.find_map(|values| values.as_array()?.iter().find_map(of_header));
        by_header.or_else(|| self.up.iter().chain(&self.down).find_map(CapturedMessage::call))
    }

    /// What of it differs from what an end has logged. What is unknown does not.
    fn mismatch(&self, planned: &PlannedCall, logged: &LoggedCall) -> Option<String> {
        let differs = |pointer: &str, expected: &str| {
            let found = self.text(pointer)?;
            (found != expected).then(|| format!("{pointer} is {found}, not {expected}"))
        };
        let count = |pointer: &str, expected: usize| {
            let found = self.record.pointer(pointer)?.as_u64()?;
            (found != expected as u64).then(|| format!("{pointer} is {found}, not {expected}"))
        };
        let is_whole = |side: &str| {
            let lacks = |flag: &str| self.record[side][flag] == true;
            let is_abandoned = side == "request" && self.is_answered_early();
            self.record[side].is_object()
                && !is_abandoned
                && !["lacks_start", "lacks_end", "may_lack"].into_iter().any(lacks)
        };
        let failure = format!("call {}: 100 % schl\u{e4}gt fehl", logged.call);
        let is_ours = logged.path.starts_with("/ctrace.Test/");
        // The server does not read the messages of a method that it does not have.
        let sent = if is_ours { &logged.up } else { &planned.up };
        let message = (planned.end != PlannedEnd::Status("OK") && is_ours).then_some(failure);
        let of_status = match planned.end {
            PlannedEnd::Status(_) => differs("/rpc/response/status_code", &logged.status)
                .or_else(|| message.and_then(|text| differs("/rpc/response/status_message", &text))),
            PlannedEnd::BrokenOff(_) => self.mismatch_of_broken_off(),
        };
        let of_messages =
            |side: &str, found: &[CapturedMessage], sizes: &[usize], pointer: &str, name: &str| {
                let is_at = |message: &CapturedMessage, index: usize| {
                    sizes.get(index).is_some_and(|size| message.is(logged.call, side, index, *size))
                };
                let is_sent = |message: &&CapturedMessage| match message.number {
                    _ if !message.is_whole => true,
                    Some(number) => is_at(message, number.wrapping_sub(1)),
                    None => (0..sizes.len()).any(|index| is_at(message, index)),
                };
                let wrong = found.iter().find(|message| !is_sent(message));
                wrong
                    .map(|wrong| format!("a message of {side} was never sent: {wrong:?}"))
                    .or_else(|| if is_whole(name) { count(pointer, sizes.len()) } else { None })
            };
        differs("/rpc/system/name", "grpc")
            .or_else(|| differs("/url/path", &logged.path))
            .or_else(|| differs("/rpc/method", logged.path.trim_start_matches('/')))
            .or_else(|| differs("/http/request/method", "POST"))
            .or_else(|| count("/http/response/status_code", 200))
            .or(of_status)
            .or_else(|| of_messages("up", &self.up, sent, "/rpc/request/messages", "request"))
            .or_else(|| of_messages("down", &self.down, &logged.down, "/rpc/response/messages", "response"))
    }

    /// The end that broke it off has another view than the wire: both ends may notice that time is over.
    fn mismatch_of_broken_off(&self) -> Option<String> {
        let status = self.text("/rpc/response/status_code").or_else(|| self.text("/error/type"))?;
        let expected = ["CANCEL", "CANCELLED", "DEADLINE_EXCEEDED"];
        (!expected.contains(&status)).then(|| format!("it was broken off with {status}"))
    }

    /// Whether the client has not sent all of the request, because it was answered.
    fn is_answered_early(&self) -> bool {
        self.record["answered_early"] == true
    }

    /// What of it is unknown, or missing.
    fn unknown(&self, planned: &PlannedCall, logged: &LoggedCall) -> Vec<&'static str> {
        let is_known = |pointer: &str| self.record.pointer(pointer).is_some_and(|value| !value.is_null());
        let has_status = match planned.end {
            PlannedEnd::Status(_) => is_known("/rpc/response/status_code"),
            // That a client gives up is no error of the server.
            PlannedEnd::BrokenOff(_) => is_known("/error/type") || is_known("/rpc/response/status_code"),
        };
        let lacks = |side: &str, flag: &str| self.record[side][flag] != false;
        let is_answered = !lacks("response", "lacks_start") && !lacks("response", "lacks_end");
        // A server that has answered does not need the end of the request, and breaks it off.
        let has_no_end = self.is_answered_early() || lacks("request", "lacks_end");
        let is_unneeded = is_answered && !lacks("request", "lacks_start") && has_no_end;
        let is_whole =
            self.record["complete"] == true || is_unneeded || matches!(planned.end, PlannedEnd::BrokenOff(_));
        // Without such a method it needs no message either.
        let has_no_method = is_unneeded && !logged.path.starts_with("/ctrace.Test/");
        // A call that fails before its first message may have no count.
        let counts = |pointer: &str, sizes: &[usize]| is_known(pointer) || sizes.is_empty();
        let has_all = |found: &[CapturedMessage], sizes: &[usize]| {
            let is_known = |message: &CapturedMessage| message.compression != Compression::Unknown;
            found.len() == sizes.len() && found.iter().all(|message| message.is_whole && is_known(message))
        };
        let facts = [
            (is_known("/rpc/system/name"), "rpc.system.name"),
            (is_known("/rpc/method"), "rpc.method"),
            (has_status, "rpc.response.status_code"),
            (has_no_method || counts("/rpc/request/messages", &planned.up), "rpc.request.messages"),
            (counts("/rpc/response/messages", &logged.down), "rpc.response.messages"),
            (has_no_method || has_all(&self.up, &planned.up), "messages of the client"),
            (has_all(&self.down, &logged.down), "messages of the server"),
            (is_whole, "complete"),
        ];
        facts.into_iter().filter(|(is_known, _)| !is_known).map(|(_, what)| what).collect()
    }
}

/// The calls of a trace whose processes are in the container with this name.
pub fn captured(trace: &RunningTrace, container: &str) -> Result<Vec<CapturedCall>> {
    let lines = trace.lines()?;
    let of_type = |kind: &str| {
        let lines = lines.iter().filter(|line| line["container"]["name"] == container);
        lines.filter(|line| line["type"] == kind).collect::<Vec<_>>()
    };
    let mut messages: BTreeMap<(&str, &str), Vec<CapturedMessage>> = BTreeMap::new();
    for record in of_type("message") {
        let exchange = record["exchange"].as_str().with_context(|| format!("no exchange: {record}"))?;
        let direction = record["message"]["direction"].as_str().unwrap_or_default();
        messages.entry((exchange, direction)).or_default().push(CapturedMessage::of(record)?);
    }
    let of_exchange = |record: &Value| -> Result<CapturedCall> {
        let exchange = record["exchange"].as_str().with_context(|| format!("no exchange: {record}"))?;
        // The role of a connection may be known by its frames, before its socket is.
        let is_client =
            record["request"]["direction"] == "transmit" || record["response"]["direction"] == "receive";
        let ways = if is_client { ["transmit", "receive"] } else { ["receive", "transmit"] };
        let [up, down] = ways.map(|way| messages.get(&(exchange, way)).cloned().unwrap_or_default());
        Ok(CapturedCall { record: record.clone(), up, down })
    };
    of_type("request").into_iter().map(of_exchange).collect()
}

/// Checks that exactly the calls that an end has logged were captured, and everything about them.
pub fn check_equal(captured: &[CapturedCall], planned: &[PlannedCall], logged: &[LoggedCall]) -> Result<()> {
    let mut left = by_number(logged)?;
    for call in captured {
        let number = call.number().with_context(|| format!("not a call: {}", call.record))?;
        let Some(logged) = left.remove(&number) else { bail!("twice, or never made: {}", call.record) };
        let planned = planned.get(number).with_context(|| format!("never planned: {number}"))?;
        if let Some(mismatch) = call.mismatch(planned, logged) {
            bail!("{mismatch}: {logged:?}, but {}", call.record);
        }
        let unknown = call.unknown(planned, logged);
        ensure!(unknown.is_empty(), "unknown: {unknown:?} of {logged:?}: {}", call.record);
    }
    ensure!(left.is_empty(), "not reported: {} of {}: {:?}", left.len(), logged.len(), left.values().next());
    Ok(())
}

/// What of the calls after joining in the middle was seen.
#[derive(Clone, Debug, Default)]
pub struct JoinedCalls {
    /// What an end logged since.
    pub logged: usize,
    /// Calls of which everything is known.
    pub complete: usize,
    /// Calls of which something is not known, and how often what is not.
    pub partial: usize,
    /// How often each fact is unknown.
    pub unknown: BTreeMap<&'static str, usize>,
    /// Exchanges of which nothing says which call they are.
    pub unidentified: usize,
    /// Calls of which nothing is there.
    pub missing: usize,
}

/// Checks that nothing that was captured contradicts what an end has logged, and that nothing was captured
/// twice. `since` is the number of the first call after the attach.
pub fn check_joined(
    captured: &[CapturedCall],
    planned: &[PlannedCall],
    logged: &[LoggedCall],
    since: usize,
) -> Result<JoinedCalls> {
    let mut left = by_number(logged)?;
    let is_since = |planned: &PlannedCall| planned.number >= since || planned.is_held;
    let mut counts =
        JoinedCalls { logged: planned.iter().filter(|call| is_since(call)).count(), ..Default::default() };
    for call in captured {
        let Some(number) = call.number() else {
            counts.unidentified += 1;
            continue;
        };
        let Some(logged) = left.remove(&number) else { bail!("twice, or never made: {}", call.record) };
        let planned = planned.get(number).with_context(|| format!("never planned: {number}"))?;
        if let Some(mismatch) = call.mismatch(planned, logged) {
            bail!("{mismatch}: {logged:?}, but {}", call.record);
        }
        let unknown = call.unknown(planned, logged);
        *(if unknown.is_empty() { &mut counts.complete } else { &mut counts.partial }) += 1;
        for what in unknown {
            *counts.unknown.entry(what).or_default() += 1;
        }
    }
    counts.missing = left.keys().filter(|number| planned.get(**number).is_some_and(is_since)).count();
    Ok(counts)
}

fn by_number(logged: &[LoggedCall]) -> Result<BTreeMap<usize, &LoggedCall>> {
    let mut all = BTreeMap::new();
    for call in logged {
        ensure!(all.insert(call.call, call).is_none(), "a peer logged {call:?} twice");
    }
    Ok(all)
}
