//! Calls → messages of Kafka.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use super::*;
use crate::event::Role;
use crate::protocol::tests::calls::{
    Decoded, TestCalls, check_any_cut, count_pairs, decode, field_text, line_of,
};
use crate::protocol::{ALL, Conversation, Detect, Hints, Input, Message, Prefix};
use crate::test_rng::{TestRng, cases};

mod messages;
mod random;
mod versions;

const SHOWN: &[&Field] = &[&OPERATION, &VERSION, &CLIENT, &TOPIC, &TOPICS, &GROUP, &COUNT, &ERROR_TYPE];

fn client() -> Hints {
    Hints { role: Some(Role::Client), from_start: true, ..Hints::default() }
}

fn joined() -> Hints {
    Hints { from_start: false, ..client() }
}

/// Messages in the plain form.
#[derive(Clone, Debug, Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn i8(mut self, value: i8) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn i16(mut self, value: i16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn i32(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn i64(mut self, value: i64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    fn text(self, text: &str) -> Self {
        let mut bytes = self.i16(i16::try_from(text.len()).unwrap());
        bytes.0.extend(text.as_bytes());
        bytes
    }

    fn bytes(self, data: &[u8]) -> Self {
        let mut bytes = self.i32(i32::try_from(data.len()).unwrap());
        bytes.0.extend(data);
        bytes
    }

    fn framed(self) -> Vec<u8> {
        Self::default().bytes(&self.0).0
    }
}

fn request(key: i16, version: i16, number: i32) -> Bytes {
    Bytes::default().i16(key).i16(version).i32(number).text("app")
}

fn response(number: i32) -> Bytes {
    Bytes::default().i32(number)
}

/// A batch of records without the records.
fn batch(records: i32, attributes: i16, padding: usize) -> Vec<u8> {
    let length = i32::try_from(49 + padding).unwrap();
    let head = Bytes::default().i64(0).i32(length).i32(0).i8(2).i32(0).i16(attributes).i32(0).i64(0).i64(0);
    let mut bytes = head.i64(-1).i16(-1).i32(-1).i32(records).0;
    bytes.extend(vec![b'r'; padding]);
    bytes
}

/// Produce of version 7.
fn produce(number: i32, acks: i16, topic: &str, records: &[u8]) -> Vec<u8> {
    let head = request(0, 7, number).i16(-1).i16(acks).i32(1000);
    head.i32(1).text(topic).i32(1).i32(0).bytes(records).framed()
}

fn produced(number: i32, topic: &str, error: i16) -> Vec<u8> {
    response(number).i32(1).text(topic).i32(1).i32(0).i16(error).i64(5).i64(-1).i64(0).i32(0).framed()
}

/// Fetch of version 11.
fn fetch(number: i32, topic: &str) -> Vec<u8> {
    let head = request(1, 11, number).i32(-1).i32(500).i32(1).i32(1000).i8(0).i32(0).i32(-1);
    head.i32(1).text(topic).i32(1).i32(0).i32(-1).i64(7).i64(0).i32(1000).i32(0).text("").framed()
}

fn fetched(number: i32, topic: &str, records: &[u8]) -> Vec<u8> {
    let head = response(number).i32(0).i16(0).i32(0).i32(1).text(topic).i32(1).i32(0).i16(0).i64(9);
    head.i64(9).i64(0).i32(-1).i32(-1).bytes(records).framed()
}

fn heartbeat(number: i32, group: &str) -> Vec<u8> {
    request(12, 1, number).text(group).i32(3).text("member").framed()
}

fn beaten(number: i32, error: i16) -> Vec<u8> {
    response(number).i32(0).i16(error).framed()
}

fn run(hints: &Hints, calls: &TestCalls, split: usize) -> Decoded {
    decode(Conversation::new(ALL, hints.clone()), calls, split, None)
}

/// The same messages come out however the bytes are cut.
#[track_caller]
fn check(hints: &Hints, calls: &TestCalls, expected: &[&str]) {
    for split in [1, 2, 3, 5, 7, 1000] {
        let decoded = run(hints, calls, split);
        let shown: Vec<String> = decoded.messages.iter().map(|message| line_of(message, SHOWN)).collect();
        assert_eq!(shown, expected, "cut after each {split}");
        assert!(decoded.messages.iter().all(|message| message.protocol == KAFKA.name));
    }
}
