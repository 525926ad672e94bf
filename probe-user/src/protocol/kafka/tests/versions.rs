//! Messages of all versions that an encoder which is not ctrace's has made: the crate kafka-protocol 0.18.
//! Each line of `versions.txt` has the kind, the version, a request and its response, in hexadecimal. Each is
//! about the topics `orders` and `bills`, or `orders` alone, or the group `group`.

use super::*;

struct Exchange {
    kind: String,
    version: i16,
    up: Vec<u8>,
    down: Vec<u8>,
}

fn exchanges() -> Vec<Exchange> {
    let bytes = |text: &str| {
        let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect::<Vec<u8>>()
    };
    let lines = include_str!("versions.txt").lines();
    lines
        .map(|line| {
            let mut parts = line.split(' ');
            let mut next = || parts.next().unwrap();
            let (kind, version) = (next().to_owned(), next().parse().unwrap());
            Exchange { kind, version, up: bytes(next()), down: bytes(next()) }
        })
        .collect()
}

/// What a request and its response are about, by the encoder's program.
fn expected(kind: &str, version: i16) -> (String, String) {
    let (topics, two) = ("orders", "orders,bills");
    let both = |text: &str| (text.to_owned(), text.to_owned());
    let failed = |text: &str, error: &str| {
        (
            text.to_owned(),
            [text, error].iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join(" "),
        )
    };
    match (kind, version) {
        ("Metadata", _) => both(two),
        ("Produce", _) => (format!("{two} 10"), format!("{two} NOT_LEADER_OR_FOLLOWER")),
        ("Fetch", _) => (two.to_owned(), format!("{two} 16")),
        ("ListOffsets", _) => failed(topics, "UNKNOWN_TOPIC_OR_PARTITION"),
        ("OffsetCommit", _) => ("orders group".into(), "orders REBALANCE_IN_PROGRESS".into()),
        ("OffsetFetch", 8..) => both("orders group"),
        ("OffsetFetch", _) => ("orders group".into(), "orders".into()),
        ("FindCoordinator", _) => ("group".into(), "COORDINATOR_NOT_AVAILABLE".into()),
        ("JoinGroup", _) => ("group".into(), "MEMBER_ID_REQUIRED".into()),
        ("LeaveGroup", _) => ("group".into(), "UNKNOWN_MEMBER_ID".into()),
        ("DescribeGroups", _) => ("group".into(), "NOT_COORDINATOR".into()),
        ("DeleteGroups", _) => ("group".into(), "NON_EMPTY_GROUP".into()),
        ("ConsumerGroupHeartbeat", _) => ("group".into(), "FENCED_MEMBER_EPOCH".into()),
        ("Heartbeat" | "SyncGroup" | "AddOffsetsToTxn", _) => ("group".into(), String::new()),
        ("TxnOffsetCommit", _) => ("group".into(), topics.into()),
        ("SaslAuthenticate", _) => (String::new(), "SASL_AUTHENTICATION_FAILED".into()),
        ("CreateTopics", _) => failed(topics, "TOPIC_ALREADY_EXISTS"),
        ("DeleteTopics", _) => both(topics),
        ("InitProducerId", _) => (String::new(), "CONCURRENT_TRANSACTIONS".into()),
        ("EndTxn", _) => (String::new(), "INVALID_TXN_STATE".into()),
        ("ListGroups", _) => (String::new(), "COORDINATOR_LOAD_IN_PROGRESS".into()),
        _ => (String::new(), String::new()),
    }
}

#[test]
fn messages_of_all_versions_are_read() {
    const FOUND: &[&Field] = &[&TOPIC, &TOPICS, &GROUP, &COUNT, &ERROR_TYPE];
    let found = |message: &Message| {
        let texts: Vec<String> = FOUND.iter().filter_map(|field| field_text(message, field)).collect();
        // The group is behind the topics.
        texts.join(" ")
    };
    let exchanges = exchanges();
    assert!(exchanges.len() > 150, "{}", exchanges.len());
    for split in [1, 7, 1000] {
        let mut calls = TestCalls::default();
        for exchange in &exchanges {
            calls.up(exchange.up.clone()).down(exchange.down.clone());
        }
        let decoded = run(&client(), &calls, split);
        assert_eq!((decoded.messages.len(), decoded.undecoded), (2 * exchanges.len(), 0));
        for (pair, exchange) in decoded.messages.chunks(2).zip(&exchanges) {
            let context = format!("{} {}", exchange.kind, exchange.version);
            assert_eq!(pair[0].id, pair[1].id, "{context}");
            assert_eq!(pair[0].text(&OPERATION), Some(&*exchange.kind));
            assert_eq!(
                (pair[0].length, pair[1].length),
                (exchange.up.len() as u64, exchange.down.len() as u64)
            );
            let (request, response) = expected(&exchange.kind, exchange.version);
            assert_eq!((found(&pair[0]), found(&pair[1])), (request, response), "{context}");
        }
    }
}

#[test]
fn parts_end_where_messages_do() {
    use super::super::api::Form;
    use super::super::{api, header, walk::Walk};
    for exchange in exchanges() {
        let key = i16::from_be_bytes(exchange.up[4..6].try_into().unwrap());
        let kind = api::of_key(key).unwrap();
        let header::HeaderRead::Yes(read) = header::RequestHeader::read(&exchange.up) else {
            panic!("no header")
        };
        let (form, version) = (kind.form(exchange.version), exchange.version);
        let is_tagged = header::is_response_tagged(key, kind, version);
        let request = Walk::new(kind.request, version, form);
        let response = Walk::new(kind.response, version, form);
        let request = if form == Form::Flexible { request.behind_tags() } else { request };
        let response = if is_tagged { response.behind_tags() } else { response };
        for (mut walk, bytes) in [(request, &exchange.up[read.taken..]), (response, &exchange.down[8..])] {
            let mut rest = bytes;
            while !rest.is_empty() {
                let (taken, _) = walk.next(rest).unwrap().unwrap();
                rest = &rest[taken..];
            }
            assert!(walk.ends_here() || walk.is_rest(), "{} {version}: {walk:?}", exchange.kind);
        }
    }
}

#[test]
fn ids_of_topics_are_learned_from_the_connection_alone() {
    let of = |kind: &str, version| {
        exchanges().into_iter().find(|it| it.kind == kind && it.version == version).unwrap()
    };
    let (metadata, fetch) = (of("Metadata", 12), of("Fetch", 13));
    for (learns, expected) in [(true, "orders,bills"), (false, "?")] {
        let mut calls = TestCalls::default();
        if learns {
            calls.up(metadata.up.clone()).down(metadata.down.clone());
        }
        calls.up(fetch.up.clone()).down(fetch.down.clone());
        let messages = run(&client(), &calls, 100).messages;
        for message in messages.iter().rev().take(2) {
            let shown = field_text(message, &TOPIC).or_else(|| field_text(message, &TOPICS));
            assert_eq!(shown.as_deref(), Some(expected));
        }
    }
}
