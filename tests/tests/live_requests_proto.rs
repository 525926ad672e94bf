//! `ctrace requests --proto` with a service of grpcio and Google's implementation of protocol buffers:
//! messages have the names of their schema, and are what the client says of them. Needs root, BPF, Docker,
//! and once the machine's package sources.

#![expect(clippy::indexing_slicing, reason = "what a JSON value does not have is null")]

use anyhow::{Context as _, Result, ensure};
use ctrace_tests::third_party::{HTTP, Pair, PairSetup};
use ctrace_tests::{RunningTrace, TestContainer, script};
use serde::Deserialize;
use serde_json::{Value, json};

const PORT: u16 = 8443;
const MAPPED: [&str; 1] = ["/app/grpc/_cython/cygrpc.cpython-311-x86_64-linux-gnu.so"];
const SHOP: [&str; 2] = ["/usr/bin/python3", "/programs/grpc-shop.py"];
/// A unary call, and one whose answers are a stream, each with this method.
const METHODS: [&str; 2] = ["shop.v1.Shop/Order", "shop.v1.Shop/Watch"];

/// A message as the client logs it, with its direction there.
#[derive(Debug, Deserialize)]
struct LoggedMessage {
    direction: String,
    value: Value,
}

/// The values of the messages in one direction of the client, as an end has them.
fn values(trace: &RunningTrace, container: &TestContainer, direction: &str) -> Result<Vec<Value>> {
    let mut lines = trace.lines()?;
    lines.retain(|line| line["type"] == "message" && line["container"]["name"] == container.name());
    lines.retain(|line| line["message"]["direction"] == direction);
    let value = |line: Value| line.get("value").cloned().with_context(|| format!("no value: {line}"));
    lines.into_iter().map(value).collect()
}

/// The record of a call.
fn call(trace: &RunningTrace, container: &TestContainer, method: &str) -> Result<Value> {
    let mut lines = trace.lines()?;
    lines.retain(|line| line["type"] == "request" && line["container"]["name"] == container.name());
    let found = lines.into_iter().find(|line| line["rpc"]["method"] == method);
    found.with_context(|| format!("no call of {method}: {}", trace.stderr))
}

/// Checks the messages of one end, on their own and in the bodies of calls.
fn check(
    trace: &RunningTrace,
    container: &TestContainer,
    ways: [&str; 2],
    logged: &[LoggedMessage],
) -> Result<()> {
    let of = |direction: &str| {
        let messages = logged.iter().filter(|message| message.direction == direction);
        messages.map(|message| message.value.clone()).collect::<Vec<_>>()
    };
    let (sent, received) = (of("transmit"), of("receive"));
    for (way, expected) in ways.into_iter().zip([&sent, &received]) {
        let found = values(trace, container, way)?;
        ensure!(found == *expected, "{found:?}, not {expected:?}");
    }
    for (index, method) in METHODS.into_iter().enumerate() {
        let call = call(trace, container, method)?;
        let replies = if index == 0 { &received[..1] } else { &received[1..] };
        ensure!(call["complete"] == true && call["rpc"]["response"]["status_code"] == "OK", "{call}");
        ensure!(call["request"]["body"]["messages"] == json!([sent[index]]), "{call}, not {sent:?}");
        ensure!(call["response"]["body"]["messages"] == json!(replies), "{call}, not {replies:?}");
    }
    Ok(())
}

#[test]
fn a_service_by_its_schema() -> Result<()> {
    let server = [SHOP.as_slice(), &["server"]].concat();
    let setup = PairSetup { release: &HTTP, label: "shop", options: &[], server: &server, mapped: &MAPPED };
    let pair = Pair::start(&setup)?;
    pair.wait_for_port(PORT)?;
    let schema = script("shop.proto").display().to_string();
    let options = ["requests", "--messages", "--body", "4k", "-o", "json"];
    let by_name = pair.trace(&[&options[..], &["--proto", &schema]].concat())?;
    let unnamed = pair.trace(&options)?;
    let text = pair.trace(&["requests", "--body", "4k", "-o", "text", "--proto", &schema])?;
    let text_unnamed = pair.trace(&["requests", "--body", "4k", "-o", "text"])?;
    let said = pair.client.exec(&[SHOP.as_slice(), &["client"]].concat())?;
    let logged: Vec<LoggedMessage> =
        said.lines().map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<_>>()?;
    ensure!(logged.len() == 6, "{said}");

    let by_name = by_name.finish()?;
    check(&by_name, &pair.client, ["transmit", "receive"], &logged)?;
    check(&by_name, &pair.server, ["receive", "transmit"], &logged)?;
    let unnamed = unnamed.finish()?;
    for container in [&pair.client, &pair.server] {
        for method in METHODS {
            let body = call(&unnamed, container, method)?["request"]["body"].clone();
            let is_raw = body["data_base64"].is_string() || body["data"].is_string();
            ensure!(is_raw && body["messages"].is_null(), "{body}");
        }
    }
    let names = [
        "\"customerName\": \"Grete Müller\"",
        "\"articleNumber\": \"18446744073709551615\"",
        "STATE_SHIPPED",
    ];
    for (trace, has_names) in [(text, true), (text_unnamed, false)] {
        let text = String::from_utf8_lossy(&trace.finish()?.stdout).into_owned();
        ensure!(names.iter().all(|name| text.contains(name) == has_names), "{text}");
        ensure!(text.contains("Grete Müller"), "{text}");
    }
    Ok(())
}
