//! Connections that are joined in the middle, or of which bytes are missing. The rows that each response says
//! are the number of its request, so that a wrong pair shows.

use super::*;
use crate::test_rng::{TestRng, cases};

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Sequential,
    /// It sends up to this many groups ahead.
    Pipelining(usize),
}

/// The messages of a request and their answers.
fn exchange(
    rng: &mut TestRng,
    number: u64,
    prepared: &mut BTreeMap<String, u64>,
) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let text = format!("UPDATE t{number}");
    let tag = done(&format!("UPDATE {number}"));
    match rng.below(4) {
        0 => (vec![q(&text)], vec![m('D', [0; 40]), tag, ready('I')]),
        1 => (
            vec![parse("", &text), bind("", ""), execute(""), sync()],
            vec![m('1', ""), m('2', ""), m('D', [b'Z'; 30]), tag, ready('I')],
        ),
        2 => {
            let name = format!("s{}", rng.below(3));
            let close = m('C', format!("S{name}\0"));
            prepared.insert(name.clone(), number);
            (
                vec![close, parse(&name, &text), bind("", &name), execute(""), sync()],
                vec![m('3', ""), m('1', ""), m('2', ""), tag, ready('T')],
            )
        }
        _ => {
            let name = format!("s{}", rng.below(3));
            match prepared.get(&name) {
                // The statement's text has the number of the request that has prepared it.
                Some(of) => (
                    vec![bind("", &name), execute(""), sync()],
                    vec![m('2', ""), done(&format!("UPDATE {of}")), ready('I')],
                ),
                None => (vec![q(&text)], vec![error("22012", "x"), ready('I')]),
            }
        }
    }
}

/// The calls of a connection.
fn calls(rng: &mut TestRng, client: Client, exchanges: u64) -> Vec<Happening> {
    let mut prepared = BTreeMap::new();
    let mut events = startup().to_vec();
    let mut outstanding: Vec<Vec<Vec<u8>>> = Vec::new();
    let window = match client {
        Client::Sequential => 1,
        Client::Pipelining(window) => window,
    };
    let mut sent = 0;
    while sent < exchanges || !outstanding.is_empty() {
        let may_send = sent < exchanges && outstanding.len() < window;
        if may_send && (outstanding.is_empty() || rng.below(3) > 0) {
            if outstanding.is_empty() && rng.below(4) == 0 {
                events.push(Happening::Pause);
            }
            sent += 1;
            let (request, response) = exchange(rng, sent, &mut prepared);
            outstanding.push(response);
            events.push(up(&request));
        } else {
            let response = outstanding.remove(0);
            let cut = rng.below(response.len());
            let (one, other) = response.split_at(cut);
            events.extend([one, other].iter().filter(|part| !part.is_empty()).map(|part| down(part)));
        }
    }
    events
}

/// Checks that what is paired belongs together. Returns how many pairs there are.
#[track_caller]
fn paired(messages: &[Message]) -> usize {
    let mut requests: BTreeMap<u64, &Message> = BTreeMap::new();
    let mut pairs = 0;
    for message in messages {
        let Some(id) = message.id else { continue };
        if message.kind == MessageKind::Request {
            assert!(requests.insert(id, message).is_none());
        } else if let Some(request) = requests.get(&id) {
            pairs += 1;
            let statement = text(request, &QUERY).unwrap_or_default();
            let asked = statement.strip_prefix("UPDATE t").and_then(|number| number.parse::<u64>().ok());
            let answered = message.number(&AFFECTED_ROWS);
            if let Some((asked, answered)) = asked.zip(answered) {
                assert_eq!(asked, answered, "{}", shown(message));
            }
            assert!(request.first <= message.last);
        }
    }
    pairs
}

#[test]
fn joined_at_every_call() {
    let mut rng = TestRng(0x2545_f491_4f6c_dd1d);
    let events = calls(&mut rng, Client::Sequential, 40);
    for first in 0..events.len() {
        for hints in [joined(), Hints::default()] {
            let rest = &events[first..];
            let (messages, _) = run(Conversation::new(ALL, hints.clone()), rest, 1000);
            let pairs = paired(&messages);
            // Some exchanges pass until it is known that nothing is outstanding.
            let left =
                rest.iter().filter(|event| matches!(event, Happening::Call(Direction::Transmit, _))).count();
            let words: Vec<String> = messages.iter().map(shown).collect();
            assert!(first < 2 || pairs + 20 >= left, "{pairs} of {left} from {first}: {words:#?}");
        }
    }
}

#[test]
fn joined_within_calls() {
    let mut rng = TestRng(0x1545_f491_4f6c_dd1d);
    let events = calls(&mut rng, Client::Sequential, 12);
    for first in 0..events.len() {
        let Happening::Call(direction, data) = &events[first] else { continue };
        for at in 1..data.len() {
            let mut rest = events[first..].to_vec();
            rest[0] = Happening::Call(*direction, data[at..].to_vec());
            let events: Vec<Happening> = [Happening::Gap(*direction, 5)].into_iter().chain(rest).collect();
            paired(&run(Conversation::of(&POSTGRESQL, joined()), &events, 1000).0);
        }
    }
}

#[test]
fn a_gap_at_every_byte() {
    let mut rng = TestRng(0x0545_f491_4f6c_dd1d);
    let events = calls(&mut rng, Client::Sequential, 10);
    for index in 0..events.len() {
        let Happening::Call(direction, data) = &events[index] else { continue };
        for at in 0..data.len() {
            let parts = [
                Happening::Call(*direction, data[..at].to_vec()),
                Happening::Gap(*direction, (data.len() - at) as u64),
            ];
            let all = [&events[..index], &parts, &events[index + 1..]].concat();
            paired(&run(conversation(&client()), &all, 1000).0);
        }
    }
}

#[test]
fn random_gaps() {
    let mut rng = TestRng(0x9e37_79b9_7f4a_7c15);
    let (mut all, mut found) = (0, 0);
    for case in 0..cases(2000) {
        let client_is = if case % 4 == 0 { Client::Pipelining(2 + rng.below(6)) } else { Client::Sequential };
        let mut events = calls(&mut rng, client_is, 30);
        for _ in 0..=rng.below(3) {
            let index = rng.below(events.len());
            let Happening::Call(direction, data) = events[index].clone() else { continue };
            if data.is_empty() {
                continue;
            }
            let at = rng.below(data.len());
            let to = at + 1 + rng.below(data.len() - at);
            let parts = [
                Happening::Call(direction, data[..at].to_vec()),
                Happening::Gap(direction, (to - at) as u64),
                Happening::Call(direction, data[to..].to_vec()),
            ];
            events.splice(index..=index, parts);
        }
        events.retain(|event| !matches!(event, Happening::Call(_, data) if data.is_empty()));
        all += 31;
        found += paired(&run(conversation(&client()), &events, 1 + rng.below(200)).0);
    }
    assert!(found * 2 > all, "{found} of {all}");
}

#[test]
fn gaps_within_bodies_are_exact() {
    let row = m('D', [7; 5000]);
    check(
        &[
            up(&[q("SELECT 1")]),
            Happening::Call(Direction::Receive, row[..100].to_vec()),
            Happening::Gap(Direction::Receive, 4000),
            Happening::Call(Direction::Receive, row[4100..].to_vec()),
            down(&[done("SELECT 1"), ready('I')]),
        ],
        &[">2 SELECT `SELECT ?` 14", "<2 rows=1 tags=SELECT 1 idle 5025 -4000"],
    );
}
