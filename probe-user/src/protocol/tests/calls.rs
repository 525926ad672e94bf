//! Connections of any protocol for the tests of decoders: calls with their bytes, as a whole, cut anywhere,
//! with parts of them missing, or joined in the middle.

use std::time::Duration;

use super::*;
use crate::test_rng::TestRng;

/// A call, of which parts may be missing.
#[derive(Clone, Debug)]
pub(crate) struct TestCall {
    pub(crate) direction: Direction,
    pub(crate) data: Vec<u8>,
    /// When it was made, in milliseconds.
    pub(crate) time: i64,
    /// The parts that are missing, as ranges of bytes in order.
    pub(crate) missing: Vec<(usize, usize)>,
}

/// TestCalls in order, each a millisecond after the previous one.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestCalls {
    pub(crate) list: Vec<TestCall>,
    time: i64,
}

impl TestCalls {
    pub(crate) fn up(&mut self, data: impl Into<Vec<u8>>) -> &mut Self {
        self.call(Direction::Transmit, data.into())
    }

    pub(crate) fn down(&mut self, data: impl Into<Vec<u8>>) -> &mut Self {
        self.call(Direction::Receive, data.into())
    }

    pub(crate) fn pause(&mut self, milliseconds: i64) -> &mut Self {
        self.time += milliseconds;
        self
    }

    fn call(&mut self, direction: Direction, data: Vec<u8>) -> &mut Self {
        self.time += 1;
        self.list.push(TestCall { direction, data, time: self.time, missing: Vec::new() });
        self
    }

    /// The calls without the first ones.
    pub(crate) fn joined_at(&self, first: usize) -> Self {
        Self { list: self.list[first..].to_vec(), time: self.time }
    }

    /// The calls with some bytes missing, in up to four places.
    pub(crate) fn with_gaps(&self, rng: &mut TestRng) -> Self {
        let mut calls = self.clone();
        for _ in 0..=rng.below(4) {
            let index = rng.below(calls.list.len());
            let count = [1, 1, 1, 3][rng.below(4)];
            for call in calls.list.iter_mut().skip(index).take(count) {
                let length = call.data.len();
                let start = if rng.below(3) == 0 { 0 } else { rng.below(length) };
                let end = if rng.below(2) == 0 { length } else { start + 1 + rng.below(length - start) };
                call.missing = vec![(start, end)];
            }
        }
        calls
    }
}

/// What was made of some calls.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub(crate) messages: Vec<Message>,
    /// The protocol before the end of the connection.
    pub(crate) protocol: Option<&'static str>,
    pub(crate) undecoded: u64,
    /// The most bytes that were held.
    pub(crate) held: usize,
}

/// Decodes calls whose bytes come in pieces of at most `split`. If `late` is not 0, a direction may be behind
/// by that many calls.
pub(crate) fn decode(
    conversation: Conversation,
    calls: &TestCalls,
    split: usize,
    late: Option<(&mut TestRng, usize)>,
) -> Decoded {
    let mut conversation = conversation;
    let mut out = Messages::new(1000);
    let mut order: Vec<(usize, Direction)> = match late {
        None => calls.list.iter().enumerate().map(|(index, call)| (index, call.direction)).collect(),
        Some((rng, late)) => {
            let places = calls.list.iter().enumerate();
            let mut order: Vec<_> =
                places.map(|(index, call)| (index + rng.below(late + 1), index, call.direction)).collect();
            order.sort_by_key(|(place, index, _)| (*place, *index));
            order.into_iter().map(|(_, index, direction)| (index, direction)).collect()
        }
    };
    // Within a direction, the order is that of the calls.
    let mut sides = [Direction::Transmit, Direction::Receive]
        .map(|direction| calls.list.iter().enumerate().filter(move |(_, call)| call.direction == direction));
    let mut offsets = [0_u64; 2];
    let mut gaps: [Option<Gap>; 2] = [None; 2];
    let mut held = 0;
    for (_, direction) in order.drain(..) {
        let side = usize::from(direction == Direction::Receive);
        let (index, call) = sides[side].next().unwrap();
        let time =
            Timestamp::from_second(1_000_000).unwrap() + Duration::from_millis(call.time.unsigned_abs());
        let mark = CallMark { offset: offsets[side], call: index as u64, time, starts_call: true };
        let mut at = 0;
        while at < call.data.len() {
            if let Some((_, end)) = call.missing.iter().find(|(from, to)| (*from..*to).contains(&at)) {
                let length = (end - at) as u64;
                let gap =
                    gaps[side].get_or_insert(Gap { offset: offsets[side], length: 0, cause: GapCause::Lost });
                gap.length += length;
                offsets[side] += length;
                at = *end;
                continue;
            }
            if let Some(gap) = gaps[side].take() {
                conversation.gap(direction, gap, &mut out);
            }
            let next = call.missing.iter().map(|(from, _)| *from).find(|from| *from > at);
            let end = at.saturating_add(split).min(next.unwrap_or(usize::MAX)).min(call.data.len());
            let mark =
                if at == 0 { mark } else { CallMark { offset: offsets[side], starts_call: false, ..mark } };
            let chunk = Chunk { offset: offsets[side], data: &call.data[at..end], mark };
            conversation.data(direction, &chunk, &mut out);
            held = held.max(conversation.held_bytes());
            offsets[side] += (end - at) as u64;
            at = end;
        }
    }
    let protocol = conversation.protocol().map(|protocol| protocol.name);
    conversation.end(&mut out);
    Decoded { messages: out.drain().collect(), protocol, undecoded: conversation.undecoded_bytes(), held }
}

/// Checks that the same messages of each direction come out of any bytes, however they are cut.
#[track_caller]
pub(crate) fn check_any_cut(protocol: &'static Protocol, hints: &Hints, calls: &TestCalls, split: usize) {
    let messages = |split| {
        let decoded = decode(Conversation::of(protocol, hints.clone()), calls, split, None);
        [Direction::Transmit, Direction::Receive].map(|direction| {
            let of_direction = decoded.messages.iter().filter(|message| message.direction == direction);
            let fields: Vec<&Field> = protocol.fields.iter().collect();
            of_direction.map(|message| (line_of(message, &fields), message.length)).collect::<Vec<_>>()
        })
    };
    assert_eq!(messages(split), messages(usize::MAX), "cut after each {split}: {hints:?} {calls:?}");
}

/// Counts requests, and pairs. `belong` says whether a response answers a request. No pair may be wrong, and
/// no id may be given twice.
#[track_caller]
pub(crate) fn count_pairs(
    messages: &[Message],
    belong: impl Fn(&Message, &Message) -> bool,
    context: &dyn fmt::Debug,
) -> (usize, usize) {
    let mut requests = BTreeMap::new();
    let of = |kind: MessageKind| messages.iter().filter(move |message| message.kind == kind);
    for request in of(MessageKind::Request) {
        if let Some(id) = request.id {
            assert!(requests.insert(id, request).is_none(), "an id was given twice: {context:?}");
        }
    }
    let mut pairs = 0;
    for response in of(MessageKind::Response) {
        if let Some(request) = response.id.and_then(|id| requests.remove(&id)) {
            assert!(belong(request, response), "{request:?} is not answered by {response:?}: {context:?}");
            pairs += 1;
        }
    }
    (of(MessageKind::Request).count(), pairs)
}

/// The value of a field as text.
pub(crate) fn field_text(message: &Message, field: &Field) -> Option<String> {
    match message.field(field)? {
        FieldValue::Text(text) => Some(text.clone()),
        FieldValue::Number(number) => Some(number.to_string()),
        FieldValue::Statement(statement) => Some(statement.text()),
        FieldValue::List(list) => Some(list.join(",")),
        FieldValue::Headers(_) | FieldValue::Unknown => Some("?".to_owned()),
    }
}

/// A message in one line: its kind and id, the values of its fields, and what it lacks.
pub(crate) fn line_of(message: &Message, fields: &[&Field]) -> String {
    let kind = match message.kind {
        MessageKind::Request => '>',
        MessageKind::Response => '<',
        MessageKind::Event => '!',
    };
    let id = message.id.map_or("?".to_owned(), |id| id.to_string());
    let mut words = vec![format!("{kind}{id}")];
    words.extend(fields.iter().filter_map(|field| field_text(message, field)));
    let Partial { missing, lacks_start, lacks_end, may_lack } = message.partial;
    words.extend((missing > 0).then(|| format!("-{missing}")));
    words.extend((lacks_start || may_lack).then(|| "^".to_owned()));
    words.extend(lacks_end.then(|| "$".to_owned()));
    words.extend(message.is_one_way.then(|| "one-way".to_owned()));
    words.join(" ")
}
