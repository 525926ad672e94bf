//! Messages → exchanges: requests with their responses.
//!
//! Owns the messages that wait for their counterparts. All pairing happens here. Decoders give each message a
//! key, and two messages with the same key on one connection are a pair, whichever comes first: the records
//! of two threads may be out of order. A message that never gets its counterpart is emitted alone, with the
//! reason. Memory is bounded: the oldest message is evicted and counted.

use std::collections::{BTreeMap, HashMap};
use std::io;

use jiff::Timestamp;

pub use crate::event::UnpairedReason;
use crate::protocol::{ExchangeKey, Message, MessageKind};

/// How much may be pending.
#[derive(Clone, Copy, Debug)]
pub struct ExchangeLimits {
    /// The most messages of one connection.
    pub connection_messages: usize,
    /// The most messages in total.
    pub messages: usize,
    /// The most bytes in total, approximately.
    pub bytes: usize,
}

impl Default for ExchangeLimits {
    fn default() -> Self {
        // HTTP/2 servers allow some hundred streams at once; 100 is common.
        Self { connection_messages: 1024, messages: 65_536, bytes: 32 << 20 }
    }
}

/// A message that is emitted, with its counterpart if it has one.
#[derive(Clone, Debug)]
pub enum Exchange {
    /// A request and its response.
    Complete {
        /// The request.
        request: Box<Message>,
        /// The response.
        response: Box<Message>,
    },
    /// A request or a response alone.
    Unpaired {
        /// The message.
        message: Box<Message>,
        /// Why the message is alone.
        reason: UnpairedReason,
    },
    /// A message that needs no counterpart.
    Event(Box<Message>),
}

/// A message that waits for its counterpart.
#[derive(Debug)]
struct PendingMessage {
    connection: u64,
    key: ExchangeKey,
    message: Box<Message>,
    size: usize,
}

/// The incomplete exchanges of all connections.
#[derive(Debug)]
pub struct Exchanges {
    limits: ExchangeLimits,
    /// The pending messages by age.
    pending: BTreeMap<u64, PendingMessage>,
    /// The ages by connection and key.
    ages: HashMap<u64, BTreeMap<ExchangeKey, u64>>,
    /// The number of messages that have ever been pending.
    began: u64,
    bytes: usize,
    evicted: u64,
}

impl Exchanges {
    /// Creates an empty table.
    pub fn new(limits: ExchangeLimits) -> Self {
        Self { limits, pending: BTreeMap::new(), ages: HashMap::new(), began: 0, bytes: 0, evicted: 0 }
    }

    /// The number of messages that were evicted before their counterparts came.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The number of pending messages.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether no message is pending.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The messages of a connection that are pending.
    pub fn pending(&self, connection: u64) -> impl Iterator<Item = &Message> + '_ {
        let ages = self.ages.get(&connection).into_iter().flat_map(BTreeMap::values);
        ages.filter_map(|age| Some(self.pending.get(age)?.message.as_ref()))
    }

    /// Adds a message of a connection.
    pub fn message<E>(&mut self, connection: u64, message: Message, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Exchange) -> io::Result<()>,
    {
        let message = Box::new(message);
        if message.kind == MessageKind::Event {
            return emit(connection, Exchange::Event(message));
        }
        if message.is_one_way {
            return emit(connection, Exchange::Unpaired { message, reason: UnpairedReason::OneWay });
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

    /// Ends a connection that was closed: emits its pending messages in the order in which they came.
    pub fn end<E>(&mut self, connection: u64, reason: UnpairedReason, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Exchange) -> io::Result<()>,
    {
        let mut ages: Vec<u64> =
            self.ages.get(&connection).into_iter().flat_map(BTreeMap::values).copied().collect();
        ages.sort_unstable();
        ages.into_iter().try_for_each(|age| self.unpaired(age, reason, emit))
    }

    /// Emits responses of a connection from before a time, because their requests will not come any more. To
    /// be called regularly for connections whose requests may have been missed, with a time that is further
    /// in the past than records can be late.
    pub fn settle<E>(&mut self, connection: u64, before: Timestamp, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Exchange) -> io::Result<()>,
    {
        let is_late = |message: &Message| message.kind == MessageKind::Response && message.last < before;
        let ages = self.ages.get(&connection).into_iter().flat_map(BTreeMap::values).copied();
        let mut late: Vec<u64> = ages
            .filter(|age| self.pending.get(age).is_some_and(|pending| is_late(&pending.message)))
            .collect();
        late.sort_unstable();
        late.into_iter().try_for_each(|age| self.unpaired(age, UnpairedReason::NoRequest, emit))
    }

    /// Ends the trace: emits all pending messages in the order in which they came.
    pub fn end_all<E>(&mut self, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Exchange) -> io::Result<()>,
    {
        while let Some((&age, _)) = self.pending.first_key_value() {
            self.unpaired(age, UnpairedReason::Open, emit)?;
        }
        Ok(())
    }

    fn wait(&mut self, connection: u64, key: ExchangeKey, message: Box<Message>) {
        self.began += 1;
        let size = message.size();
        self.bytes = self.bytes.saturating_add(size);
        self.ages.entry(connection).or_default().insert(key.clone(), self.began);
        self.pending.insert(self.began, PendingMessage { connection, key, message, size });
    }

    fn remove(&mut self, age: u64) -> Option<PendingMessage> {
        let pending = self.pending.remove(&age)?;
        self.bytes = self.bytes.saturating_sub(pending.size);
        if let Some(ages) = self.ages.get_mut(&pending.connection) {
            ages.remove(&pending.key);
            if ages.is_empty() {
                self.ages.remove(&pending.connection);
            }
        }
        Some(pending)
    }

    /// Emits a message whose counterpart did not come. For a response that is left at the end, the reason is
    /// that it has no request, because the end cannot have cut that off.
    fn unpaired<E>(&mut self, age: u64, reason: UnpairedReason, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Exchange) -> io::Result<()>,
    {
        let Some(PendingMessage { connection, message, .. }) = self.remove(age) else { return Ok(()) };
        let is_end = matches!(reason, UnpairedReason::Closed | UnpairedReason::Open);
        let reason = match message.kind {
            MessageKind::Response if is_end => UnpairedReason::NoRequest,
            _ => reason,
        };
        emit(connection, Exchange::Unpaired { message, reason })
    }

    /// While too much is pending, evicts the oldest message: first of the connection, then of all.
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
