//! TestCalls → messages of Redis.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use super::*;
use crate::event::{Direction, Field, Role};
use crate::protocol::database::{NAMESPACE, QUERY, RETURNED_ROWS, STATUS, STATUS_MESSAGE, TRANSACTION};
use crate::protocol::tests::calls::{Decoded, TestCalls, count_pairs, decode, field_text, line_of};
use crate::protocol::{ALL, Conversation, Detect, Hints, Input, Prefix};
use crate::test_rng::{TestRng, cases};

mod messages;
mod random;

const SHOWN: &[&Field] = &[&NAMESPACE, &QUERY, &STATUS, &STATUS_MESSAGE, &RETURNED_ROWS, &TRANSACTION];

fn client() -> Hints {
    Hints { role: Some(Role::Client), from_start: true, ..Hints::default() }
}

fn joined() -> Hints {
    Hints { from_start: false, ..client() }
}

/// A command as clients send it, from its words.
fn command(words: &str) -> Vec<u8> {
    let words: Vec<&str> = words.split(' ').collect();
    let mut out = format!("*{}\r\n", words.len());
    for word in words {
        out.extend(format!("${}\r\n{word}\r\n", word.len()).chars());
    }
    out.into_bytes()
}

/// TestCalls: `>` the client sends these commands, each in a line; `<` the server sends these bytes; `~`
/// nothing happens for a second.
fn calls(lines: &[&str]) -> TestCalls {
    let mut calls = TestCalls::default();
    for line in lines {
        match line.split_at(1) {
            (">", commands) => calls.up(commands.split(" | ").flat_map(command).collect::<Vec<u8>>()),
            ("<", reply) => calls.down(reply),
            ("'", text) => calls.up(text),
            _ => calls.pause(1000),
        };
    }
    calls
}

fn run(hints: &Hints, calls: &TestCalls, split: usize) -> Decoded {
    decode(Conversation::new(ALL, hints.clone()), calls, split, None)
}

/// The same messages come out however the bytes are cut.
#[track_caller]
fn check(hints: &Hints, lines: &[&str], expected: &[&str]) {
    let calls = calls(lines);
    for split in [1, 2, 3, 5, 7, 1000] {
        let decoded = run(hints, &calls, split);
        let shown: Vec<String> = decoded.messages.iter().map(|message| line_of(message, SHOWN)).collect();
        assert_eq!(shown, expected, "cut after each {split}");
        assert!(decoded.messages.iter().all(|message| message.protocol == REDIS.name));
    }
}
