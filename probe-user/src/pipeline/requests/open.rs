//! Exchanges that go on, as far as they came.
//!
//! Owns which of them are reported at an interval: those that are at least as old as it. Nothing is taken
//! away from the connections, so that each exchange is reported as usual when it ends.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use jiff::Timestamp;

use super::record::ReportReason;
use super::{Decoding, record};
use crate::event::{Body, Record, UnpairedReason};
use crate::protocol::{ExchangeKey, Message, MessageKind};

/// The messages of an exchange.
type Sides = (Option<Box<Message>>, Option<Box<Message>>);

impl Decoding {
    /// Reports the exchanges that go on, and did so for an interval.
    pub(super) fn report_open(&mut self, now: Timestamp, interval: Duration) -> io::Result<()> {
        let mut connections: Vec<u64> = self.connections.iter().map(|(connection, _)| *connection).collect();
        connections.sort_unstable();
        connections.into_iter().try_for_each(|connection| {
            let mut open: Vec<(Timestamp, Sides)> =
                self.open_exchanges(connection).into_iter().map(|sides| (first_of(&sides), sides)).collect();
            open.sort_by_key(|(first, _)| *first);
            let ages = open.into_iter().filter_map(|(first, sides)| {
                let age = Duration::try_from(now.duration_since(first)).ok()?;
                (age >= interval).then_some((age, sides))
            });
            ages.collect::<Vec<_>>()
                .into_iter()
                .try_for_each(|(age, sides)| self.open_exchange(connection, sides, age))
        })
    }

    /// The exchanges of a connection of which a message is not complete, or not there yet.
    fn open_exchanges(&mut self, connection: u64) -> Vec<Sides> {
        let Self { connections, messages, exchanges, .. } = self;
        let Some(state) = connections.peek(&connection) else { return Vec::new() };
        state.conversation.under_way(messages);
        messages.remove_events();
        let (mut paired, mut alone) = (BTreeMap::<ExchangeKey, Sides>::new(), Vec::new());
        for message in messages.drain().chain(exchanges.pending(connection).cloned()) {
            let message = Box::new(message);
            if let Some(key) = message.key() {
                put(paired.entry(key).or_default(), message);
                continue;
            }
            let mut sides = Sides::default();
            put(&mut sides, message);
            alone.push(sides);
        }
        paired.into_values().chain(alone).collect()
    }

    fn open_exchange(&mut self, connection: u64, sides: Sides, age: Duration) -> io::Result<()> {
        let Self { connections, chosen, .. } = self;
        let Some(state) = connections.peek(&connection) else { return Ok(()) };
        let unpaired = match &sides {
            (Some(_), Some(_)) => None,
            (None, Some(response)) if response.id.is_some() => Some(UnpairedReason::NoRequest),
            (Some(message), None) | (None, Some(message)) if message.id.is_none() => {
                Some(UnpairedReason::Unknown)
            }
            _ => Some(UnpairedReason::Open),
        };
        let time = first_of(&sides);
        let reason =
            ReportReason { unpaired, ending: Some(UnpairedReason::Open), is_gapless: state.is_gapless };
        let key = sides.0.iter().chain(&sides.1).find_map(|message| message.key());
        let mut request = record::request(connection, sides, reason, chosen.protocols, &chosen.settings);
        request.role = state.role();
        if chosen.settings.messages {
            request.mark_bodies_in_messages(key.and_then(|key| state.numbers(&key)).unwrap_or_default());
        }
        request.open_for = Some(age);
        if chosen.is_full() || !chosen.settings.filter.matches(&request) {
            return Ok(());
        }
        chosen.output.write(&Record { context: state.context(time), body: Body::Request(request) })
    }
}

fn put(sides: &mut Sides, message: Box<Message>) {
    let side = if message.kind == MessageKind::Request { &mut sides.0 } else { &mut sides.1 };
    *side = Some(message);
}

/// When the first byte was transferred.
fn first_of((request, response): &Sides) -> Timestamp {
    let firsts = request.iter().chain(response).map(|message| message.first);
    firsts.min().unwrap_or_default()
}
