//! What pymongo 4 sent to a small server that answers with documents by its own encoder, without compression
//! and with each kind of it. Each line of `recorded.txt` has that kind, the direction, and a message in
//! hexadecimal.

use super::*;

fn recorded(compressor: &str) -> TestCalls {
    let mut calls = TestCalls::default();
    for line in include_str!("recorded.txt").lines() {
        let mut parts = line.split(' ');
        if parts.next() != Some(compressor) {
            continue;
        }
        let is_up = parts.next() == Some(">");
        let digits = parts.next().unwrap().as_bytes().chunks(2);
        let bytes: Vec<u8> =
            digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
        if is_up {
            calls.up(bytes)
        } else {
            calls.down(bytes)
        };
    }
    calls
}

const EXPECTED: &[&str] = &[
    ">2 shop orders insert orders ordered: ?, documents: [{_id: ?, name: ?}, {_id: ?, tags: [?, ?]}] 2",
    "<2 2",
    ">3 shop orders find orders filter: {name: ?, qty: {$gt: ?, $in: [?, ?]}}, batchSize: ?",
    "<3 2",
    ">4 shop orders getMore: ?, collection: ?, batchSize: ?",
    "<4 1",
    ">5 shop orders update orders ordered: ?, updates: [{q: {a: ?}, u: {$set: {b: ?, c: ?}}, multi: ?, upsert: ?}] 1",
    "<5 3",
    ">6 shop orders aggregate orders pipeline: [{$match: {a: ?}}, {$count: ?}], cursor: {}",
    "<6 1",
    ">7 shop missing find missing filter: {}",
    "<7 26 ns '?' not found {?} NamespaceNotFound",
    ">8 shop orders delete orders ordered: ?, deletes: [{q: {_id: ?}, limit: ?}] 1",
    "<8 11000 E11000 duplicate key error collection: shop.orders index: _id_ dup key: {?} 0 11000",
    ">9 shop logs insert logs ordered: ?, writeConcern: {w: ?}, documents: [{_id: ?}] 1 one-way",
    ">10 shop createUser ***",
    "<10",
    ">11 shop ping",
    "<11",
];

/// A message in one line, with `?` in place of the values of its statement.
fn line(message: &Message) -> String {
    let mut message = message.clone();
    for (_, value) in &mut message.fields {
        if let crate::event::FieldValue::Statement(statement) = value {
            *value = crate::event::FieldValue::Text(statement.without_values());
        }
    }
    line_of(&message, SHOWN)
}

#[test]
fn a_session_of_a_driver_is_read() {
    for compressor in ["plain", "zlib", "snappy", "zstd"] {
        for split in [1, 7, 1000] {
            let decoded = run(&client(), &recorded(compressor), split);
            let shown: Vec<String> = decoded.messages.iter().map(line).collect();
            assert!(shown[0].contains("client: {driver: {name: ?"), "{}", shown[0]);
            assert_eq!(shown[2..shown.len() - 2], *EXPECTED, "{compressor}, cut after each {split}");
            assert!(shown[shown.len() - 2].contains("endSessions"), "{shown:?}");
            assert_eq!(decoded.undecoded, 0);
        }
    }
}

#[test]
fn values_are_there_for_who_asks_for_them_and_passwords_are_not() {
    let decoded = run(&client(), &recorded("zstd"), 1000);
    let statements: Vec<String> =
        decoded.messages.iter().filter_map(|message| field_text(message, &QUERY)).collect();
    assert!(statements.iter().any(|text| text.contains("name: \"secret\", qty: {$gt: 5, $in: [1, 2]}")));
    assert!(statements.iter().any(|text| text.contains("c: ObjectId(0123456789abcdef01234567)")));
    assert!(statements.iter().all(|text| !text.contains("pa55") && !text.contains("bob")));
}

#[test]
fn a_session_is_joined_at_every_message() {
    let calls = recorded("plain");
    let all: Vec<String> = run(&client(), &calls, 1000).messages.iter().map(line).collect();
    let without_id = |line: &String| line.split_once(' ').map(|(_, rest)| rest.to_owned());
    for first in 1..calls.list.len() {
        let decoded = run(&joined(), &calls.joined_at(first), 1000);
        for message in &decoded.messages {
            let line = line(message);
            let is_known = all.iter().any(|known| without_id(known) == without_id(&line));
            // How many were changed depends on the request.
            assert!(is_known || message.id.is_none(), "{line}");
        }
        assert!(decoded.messages.len() + first + 2 >= calls.list.len(), "{first}");
    }
}
