//! Calls → messages of MongoDB.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use super::*;
use crate::event::Role;
use crate::protocol::database::{
    AFFECTED_ROWS, BATCH, COLLECTION, ERROR_TYPE, NAMESPACE, QUERY, RETURNED_ROWS, STATUS, STATUS_MESSAGE,
};
use crate::protocol::tests::calls::{
    Decoded, TestCalls, check_any_cut, count_pairs, decode, field_text, line_of,
};
use crate::protocol::{ALL, Conversation, Detect, Hints, Input, Prefix};
use crate::test_rng::{TestRng, cases};

mod messages;
mod random;
mod recorded;

const SHOWN: &[&Field] = &[
    &NAMESPACE,
    &COLLECTION,
    &QUERY,
    &BATCH,
    &STATUS,
    &STATUS_MESSAGE,
    &RETURNED_ROWS,
    &AFFECTED_ROWS,
    &ERROR_TYPE,
    &NOT_DECODED,
];

fn client() -> Hints {
    Hints { role: Some(Role::Client), from_start: true, ..Hints::default() }
}

fn joined() -> Hints {
    Hints { from_start: false, ..client() }
}

/// A value of BSON.
enum Value<'a> {
    Text(&'a str),
    Number(i32),
    Real(f64),
    Document(Vec<u8>),
    Array(Vec<u8>),
}
use Value::{Array, Document, Number, Real, Text};

/// A document of these elements.
fn document(elements: &[(&str, Value<'_>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in elements {
        let (kind, value) = match value {
            Text(text) => {
                let length = u32::try_from(text.len() + 1).unwrap().to_le_bytes();
                (2, [&length[..], text.as_bytes(), &[0]].concat())
            }
            Number(number) => (16, number.to_le_bytes().to_vec()),
            Real(number) => (1, number.to_le_bytes().to_vec()),
            Document(document) => (3, document.clone()),
            Array(array) => (4, array.clone()),
        };
        bytes.push(kind);
        bytes.extend([name.as_bytes(), &[0]].concat());
        bytes.extend(value);
    }
    let length = u32::try_from(bytes.len() + 5).unwrap().to_le_bytes();
    [&length[..], &bytes, &[0]].concat()
}

fn message(id: u32, response_to: u32, opcode: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 16).unwrap();
    [length, id, response_to, opcode]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .chain(body.iter().copied())
        .collect()
}

/// A message of the current form with one document.
fn msg(id: u32, response_to: u32, flags: u32, document: &[u8]) -> Vec<u8> {
    let checksum: &[u8] = if flags & 1 != 0 { &[1, 2, 3, 4] } else { &[] };
    message(id, response_to, 2013, &[&flags.to_le_bytes()[..], &[0], document, checksum].concat())
}

fn find(id: u32, collection: &str) -> Vec<u8> {
    msg(id, 0, 0, &document(&[("find", Text(collection)), ("$db", Text("shop"))]))
}

fn found(id: u32, response_to: u32, collection: &str, count: usize) -> Vec<u8> {
    let names: Vec<String> = (0..count).map(|index| index.to_string()).collect();
    let documents: Vec<_> =
        names.iter().map(|name| (&**name, Document(document(&[("x", Number(1))])))).collect();
    let cursor = [("firstBatch", Array(document(&documents))), ("ns", Text(collection))];
    msg(id, response_to, 0, &document(&[("cursor", Document(document(&cursor))), ("ok", Real(1.0))]))
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
        assert!(decoded.messages.iter().all(|message| message.protocol == MONGODB.name));
    }
}
