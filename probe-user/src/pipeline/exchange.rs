//! Messages → exchanges: requests with their responses.
//!
//! Owns the messages that wait for their counterparts; it alone pairs. Decoders give each message a key, and
//! a pair is two messages with one key on one connection, whichever comes first: the records of two threads
//! may be out of order. What never gets its counterpart is told as such, with the reason. Memory is bounded:
//! the oldest message makes room, and is counted.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::Duration;

use jiff::Timestamp;

use crate::protocol::{ExchangeKey, Message, MessageKind};

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeLimits {
    /// Messages of one connection.
    pub connection_messages: usize,
    /// Messages in all.
    pub messages: usize,
    /// Bytes in all, about.
    pub bytes: usize,
}

impl Default for ExchangeLimits {
    fn default() -> Self {
        // HTTP/2 servers allow some hundred streams at once; 100 is common.
        Self { connection_messages: 1024, messages: 65_536, bytes: 32 << 20 }
    }
}

/// A message that is told, with its counterpart if it has one.
#[derive(Clone, Debug)]
pub enum Exchange {
    /// A request and its response.
    Complete {
        /// What was asked.
        request: Box<Message>,
        /// What was answered.
        response: Box<Message>,
    },
    /// A request or a response alone.
    Unpaired {
        /// It.
        message: Box<Message>,
        /// Why it is alone.
        reason: UnpairedReason,
    },
    /// A message that needs no counterpart.
    Event(Box<Message>),
}

/// Why a message is alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnpairedReason {
    /// The connection has ended.
    Closed,
    /// The trace has ended.
    TraceEnded,
    /// Another one with its key came.
    Superseded,
    /// There was no room to wait any longer.
    Evicted,
    /// It is a response, and what it answers did not come.
    NoRequest,
    /// Bytes are missing, and leave open what its counterpart is.
    Unknown,
}

impl Exchange {
    /// From the first byte of the request to the last one of the response, as the calls returned that moved
    /// them.
    pub fn duration(&self) -> Option<Duration> {
        self.since_request(|response| response.last)
    }

    /// From the first byte of the request to the first one of the response.
    pub fn first_byte(&self) -> Option<Duration> {
        self.since_request(|response| response.first)
    }

    /// Records may be out of order, and so may the times of calls: then it is 0.
    fn since_request(&self, time: fn(&Message) -> Timestamp) -> Option<Duration> {
        let Self::Complete { request, response } = self else { return None };
        Some(Duration::try_from(time(response).duration_since(request.first)).unwrap_or_default())
    }
}

/// A message that waits.
#[derive(Debug)]
struct PendingMessage {
    connection: u64,
    key: ExchangeKey,
    message: Box<Message>,
}

/// The exchanges of all connections that are not complete.
#[derive(Debug)]
pub struct Exchanges {
    limits: ExchangeLimits,
    /// By age.
    pending: BTreeMap<u64, PendingMessage>,
    /// The same by connection and key.
    ages: HashMap<u64, HashMap<ExchangeKey, u64>>,
    /// Messages that have ever waited.
    began: u64,
    bytes: usize,
    evicted: u64,
}

impl Exchanges {
    /// None yet.
    pub fn new(limits: ExchangeLimits) -> Self {
        Self { limits, pending: BTreeMap::new(), ages: HashMap::new(), began: 0, bytes: 0, evicted: 0 }
    }

    /// Messages that made room before their counterparts came.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Messages that wait.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes a message of a connection.
    pub fn message<E>(&mut self, connection: u64, message: Message, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Exchange) -> io::Result<()>,
    {
        let message = Box::new(message);
        if message.kind == MessageKind::Event {
            return emit(connection, Exchange::Event(message));
        }
        let Some(key) = message.key() else {
            return emit(connection, Exchange::Unpaired { message, reason: UnpairedReason::Unknown });
        };
        let age = self.ages.get(&connection).and_then(|ages| ages.get(&key)).copied();
        if let Some(PendingMessage { message: other, .. }) = age.and_then(|age| self.remove(age)) {
            let (request, response) = match (other.kind, message.kind) {
                (MessageKind::Request, MessageKind::Response) => (other, message),
                (MessageKind::Response, MessageKind::Request) => (message, other),
                _ => {
                    self.wait(connection, key, message);
                    let reason = UnpairedReason::Superseded;
                    return emit(connection, Exchange::Unpaired { message: other, reason });
                }
            };
            return emit(connection, Exchange::Complete { request, response });
        }
        self.wait(connection, key, message);
        self.keep_bounds(connection, emit)
    }

    /// A connection has ended: tells what waits of it, in the order in which it came.
    pub fn end<E>(&mut self, connection: u64, reason: UnpairedReason, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Exchange) -> io::Result<()>,
    {
        let mut ages: Vec<u64> =
            self.ages.get(&connection).into_iter().flat_map(HashMap::values).copied().collect();
        ages.sort_unstable();
        ages.into_iter().try_for_each(|age| self.unpaired(age, reason, emit))
    }

    /// Tells responses that came before a time: their requests come no more. To be called now and then, with
    /// a time that lies back by more than records can be late.
    pub fn settle<E>(&mut self, before: Timestamp, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Exchange) -> io::Result<()>,
    {
        let is_late = |message: &Message| message.kind == MessageKind::Response && message.last < before;
        let late = self.pending.iter().filter(|(_, pending)| is_late(&pending.message));
        let late: Vec<u64> = late.map(|(age, _)| *age).collect();
        late.into_iter().try_for_each(|age| self.unpaired(age, UnpairedReason::NoRequest, emit))
    }

    /// The trace has ended: tells all that waits, in the order in which it came.
    pub fn end_all<E>(&mut self, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Exchange) -> io::Result<()>,
    {
        while let Some((&age, _)) = self.pending.first_key_value() {
            self.unpaired(age, UnpairedReason::TraceEnded, emit)?;
        }
        Ok(())
    }

    fn wait(&mut self, connection: u64, key: ExchangeKey, message: Box<Message>) {
        self.began += 1;
        self.bytes = self.bytes.saturating_add(message.size());
        self.ages.entry(connection).or_default().insert(key.clone(), self.began);
        self.pending.insert(self.began, PendingMessage { connection, key, message });
    }

    fn remove(&mut self, age: u64) -> Option<PendingMessage> {
        let pending = self.pending.remove(&age)?;
        self.bytes = self.bytes.saturating_sub(pending.message.size());
        if let Some(ages) = self.ages.get_mut(&pending.connection) {
            ages.remove(&pending.key);
            if ages.is_empty() {
                self.ages.remove(&pending.connection);
            }
        }
        Some(pending)
    }

    /// Tells a message that has waited in vain. A response without a request was not cut off by the end: it
    /// had none.
    fn unpaired<E>(&mut self, age: u64, reason: UnpairedReason, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Exchange) -> io::Result<()>,
    {
        let Some(PendingMessage { connection, message, .. }) = self.remove(age) else { return Ok(()) };
        let is_end = matches!(reason, UnpairedReason::Closed | UnpairedReason::TraceEnded);
        let reason = match message.kind {
            MessageKind::Response if is_end => UnpairedReason::NoRequest,
            _ => reason,
        };
        emit(connection, Exchange::Unpaired { message, reason })
    }

    /// While too much waits, the oldest makes room: of the connection, then of all.
    fn keep_bounds<E>(&mut self, connection: u64, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Exchange) -> io::Result<()>,
    {
        let ages = self.ages.get(&connection);
        let own = ages.filter(|ages| ages.len() > self.limits.connection_messages);
        if let Some(&oldest) = own.and_then(|ages| ages.values().min()) {
            self.evicted = self.evicted.saturating_add(1);
            self.unpaired(oldest, UnpairedReason::Evicted, emit)?;
        }
        while (self.pending.len() > self.limits.messages || self.bytes > self.limits.bytes)
            && let Some((&oldest, _)) = self.pending.first_key_value()
        {
            self.evicted = self.evicted.saturating_add(1);
            self.unpaired(oldest, UnpairedReason::Evicted, emit)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
