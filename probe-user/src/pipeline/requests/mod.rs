//! Records of calls → records of requests: the bytes of each connection, decoded, paired, chosen, counted.
//!
//! An output around another one, so that a trace and a recording are decoded by the same code. Owns the
//! connections whose bytes are decoded, and how much memory they take together: a hostile peer makes ctrace
//! forget connections, each with the messages that it had of them, and never grow or stop.

mod connection;
mod filter;
mod open;
mod record;
mod stats;

use std::io;
use std::num::NonZeroUsize;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lru::LruCache;

use super::exchange::{Exchange, ExchangeLimits, Exchanges};
use super::stream::{Piece, StreamLimits, StreamPart, Streams};
use crate::event::{
    Body, CaptureVerdict, Context, Direction, Output, Record, Redaction, RequestCounts, RequestKey, Summary,
    Traffic, UnpairedReason,
};
use crate::protocol::content::Schema;
use crate::protocol::{Message, Messages, Protocol};

use connection::{Interest, RequestConnection};
pub use filter::{RequestFilter, StatusPattern};
use record::ReportReason;
use stats::Groups;

/// How long no record comes before what is missing is not waited for any more.
const QUIET: SignedDuration = SignedDuration::from_secs(1);
/// After how many bytes the protocol of a connection that was joined in the middle is not looked for any
/// more. A body may come first.
const UNDECIDED: u64 = 1 << 20;
/// How late the record of a call may come.
const LATE: SignedDuration = SignedDuration::from_secs(2);

/// What is shown of requests.
#[derive(Clone, Debug, Default)]
pub struct RequestSettings {
    /// Whether header fields are shown.
    pub headers: bool,
    /// How many bytes of each body are shown. None: no bodies.
    pub body: Option<usize>,
    /// The names of what is in bodies of protocol buffers.
    pub schema: Option<Schema>,
    /// Whether messages that are parts of an exchange are shown. Those of a protocol that has no exchanges
    /// always are.
    pub messages: bool,
    /// Whether calls on connections whose protocol is unknown are shown.
    pub unknown: bool,
    /// Which exchanges are shown.
    pub filter: RequestFilter,
    /// What is hidden of them.
    pub redaction: Redaction,
    /// What exchanges are grouped by, if figures are shown instead of them.
    pub stats: Option<RequestKey>,
    /// How often figures are shown, or exchanges that go on. None: at the end.
    pub interval: Option<Duration>,
    /// After how many shown records the output is complete.
    pub limit: Option<u64>,
}

/// How much memory is used.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// The most connections. The least recently used one is forgotten.
    pub connections: NonZeroUsize,
    /// What waits for bytes that are missing.
    pub streams: StreamLimits,
    /// The most bytes of incomplete messages, over all connections.
    pub messages: usize,
    /// Messages that wait for their counterparts.
    pub exchanges: ExchangeLimits,
}

impl Default for RequestLimits {
    /// 64 MiB in all.
    fn default() -> Self {
        let streams = StreamLimits { bytes: 16 << 20, ..StreamLimits::default() };
        let exchanges = ExchangeLimits { bytes: 24 << 20, ..ExchangeLimits::default() };
        Self { connections: streams.connections, streams, messages: 24 << 20, exchanges }
    }
}

/// The output.
#[derive(Debug)]
pub struct Requests {
    streams: Streams,
    decoding: Decoding,
}

/// What is made of the bytes in order.
#[derive(Debug)]
struct Decoding {
    protocols: &'static [&'static Protocol],
    limits: RequestLimits,
    connections: LruCache<u64, RequestConnection>,
    /// The bytes that all connections hold.
    held: usize,
    /// Of which it was found out whether their bytes are wanted.
    verdicts: Vec<(u64, CaptureVerdict)>,
    /// Messages that were decoded and are about to be paired.
    messages: Messages,
    exchanges: Exchanges,
    chosen: ChosenRequests,
    /// The latest time of a record.
    latest: Timestamp,
    /// When late responses were last looked for.
    settled: Timestamp,
}

/// What is shown of the exchanges.
#[derive(Debug)]
struct ChosenRequests {
    protocols: &'static [&'static Protocol],
    settings: RequestSettings,
    output: Box<dyn Output>,
    counts: RequestCounts,
    stats: Option<Groups>,
    /// When figures, or exchanges that go on, are due.
    due: Option<Timestamp>,
    /// Why the connection ends whose messages come.
    ending: Option<UnpairedReason>,
}

impl Requests {
    /// Decodes these protocols, and passes records on to `output`.
    pub fn new(
        protocols: &'static [&'static Protocol],
        settings: RequestSettings,
        limits: RequestLimits,
        output: Box<dyn Output>,
    ) -> Self {
        let decoding = Decoding {
            protocols,
            limits,
            connections: LruCache::sparse(limits.connections),
            held: 0,
            verdicts: Vec::new(),
            messages: Messages::new(settings.body.unwrap_or(0)),
            exchanges: Exchanges::new(limits.exchanges),
            chosen: ChosenRequests {
                protocols,
                settings,
                output,
                counts: RequestCounts::default(),
                stats: None,
                due: None,
                ending: None,
            },
            latest: Timestamp::MIN,
            settled: Timestamp::MIN,
        };
        Self { streams: Streams::new(limits.streams), decoding }
    }

    /// Decodes the bytes of a call.
    fn call(&mut self, record: &Record<'_>) -> io::Result<()> {
        let Self { streams, decoding } = self;
        let Some(piece) = Piece::of(record) else {
            return decoding.undecodable(record);
        };
        let connection = piece.connection;
        if decoding.connections.len() >= decoding.limits.connections.get()
            && !decoding.connections.contains(&connection)
            && let Some((&oldest, _)) = decoding.connections.peek_lru()
        {
            decoding.chosen.counts.evicted_connections += 1;
            end(streams, decoding, oldest, None, UnpairedReason::Evicted)?;
        }
        if !decoding.open(connection, &record.context, piece.data.0.len()) {
            return decoding.undecodable(record);
        }
        streams
            .piece(&piece, &mut |connection, direction, part| decoding.part(connection, direction, part))?;
        if decoding.held > decoding.limits.messages {
            self.make_room()?;
        }
        let is_decoded = |state: &RequestConnection| state.conversation.protocol().is_some();
        let decoding = &mut self.decoding;
        decoding.judge(connection);
        if decoding.chosen.settings.unknown && !decoding.connections.peek(&connection).is_some_and(is_decoded)
        {
            return decoding.chosen.output.write(record);
        }
        Ok(())
    }

    /// Forgets the connections that hold most, until half of the memory is free.
    fn make_room(&mut self) -> io::Result<()> {
        let Self { streams, decoding } = self;
        let mut holding: Vec<(usize, u64)> =
            decoding.connections.iter().map(|(connection, state)| (state.held, *connection)).collect();
        holding.sort_unstable();
        while decoding.held > decoding.limits.messages / 2
            && let Some((_, connection)) = holding.pop()
        {
            decoding.chosen.counts.evicted_connections += 1;
            end(streams, decoding, connection, None, UnpairedReason::Evicted)?;
        }
        Ok(())
    }

    /// Does what is due at a time, which is that of a record or of a pause.
    fn pass(&mut self, now: Timestamp) -> io::Result<()> {
        let Self { streams, decoding } = self;
        let is_first = decoding.latest == Timestamp::MIN;
        if !is_first && now.duration_since(decoding.latest) > QUIET {
            streams.settle(&mut |connection, direction, part| decoding.part(connection, direction, part))?;
        }
        decoding.latest = decoding.latest.max(now);
        if is_first {
            decoding.settled = now;
        } else if now.duration_since(decoding.settled) > QUIET {
            decoding.settled = now;
            decoding.settle(now)?;
        }
        match decoding.chosen.take_due(now) {
            Some(interval) if decoding.chosen.settings.stats.is_none() => decoding.report_open(now, interval),
            Some(_) => decoding.chosen.figures(now),
            None => Ok(()),
        }
    }
}

impl Output for Requests {
    fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        self.pass(record.context.time)?;
        match &record.body {
            Body::Ssl(_) => self.call(record),
            Body::SslOpen(_) => Ok(()),
            Body::SslClose(close) => {
                let Some(connection) = &record.context.connection else { return Ok(()) };
                let Self { streams, decoding } = self;
                end(streams, decoding, connection.id, Some(close.traffic), UnpairedReason::Closed)
            }
            _ => self.decoding.chosen.output.write(record),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.decoding.chosen.output.flush()
    }

    fn finish(&mut self, summary: &mut Summary) -> io::Result<()> {
        let Self { streams, decoding } = self;
        while let Some((&connection, _)) = decoding.connections.peek_lru() {
            end(streams, decoding, connection, None, UnpairedReason::Open)?;
        }
        let ChosenRequests { output, counts, stats, .. } = &mut decoding.chosen;
        if let Some(stats) = stats {
            let figures = Body::RequestStats(stats.take(summary.time));
            output.write(&Record { context: Context::of_trace(summary.time), body: figures })?;
        }
        counts.missing_bytes = streams.counts().missing;
        summary.requests = Some(*counts);
        output.finish(summary)
    }

    fn pause(&mut self, now: Timestamp) -> io::Result<()> {
        self.pass(now)
    }

    fn take_verdicts(&mut self) -> Vec<(u64, CaptureVerdict)> {
        std::mem::take(&mut self.decoding.verdicts)
    }

    fn is_complete(&self) -> bool {
        let ChosenRequests { settings, counts, .. } = &self.decoding.chosen;
        settings.limit.is_some_and(|limit| counts.shown >= limit)
    }
}

/// Ends a connection: emits what is left of it and forgets it.
fn end(
    streams: &mut Streams,
    decoding: &mut Decoding,
    connection: u64,
    counted: Option<Traffic>,
    reason: UnpairedReason,
) -> io::Result<()> {
    streams.end(connection, counted, &mut |connection, direction, part| {
        decoding.part(connection, direction, part)
    })?;
    decoding.end(connection, reason)
}

impl Decoding {
    /// Prepares for the bytes of a call. Returns whether its connection is known.
    fn open(&mut self, connection: u64, context: &Context<'_>, bytes: usize) -> bool {
        if !self.connections.contains(&connection) {
            let Some(new) = RequestConnection::new(context, self.protocols) else { return false };
            self.connections.put(connection, new);
        }
        let Some(state) = self.connections.get_mut(&connection) else { return false };
        state.update(context);
        state.bytes = state.bytes.saturating_add(bytes as u64);
        true
    }

    /// Finds out whether more bytes of a connection are wanted, once.
    fn judge(&mut self, connection: u64) {
        let Some(state) = self.connections.peek_mut(&connection) else { return };
        if state.interest == Interest::Decided {
            return;
        }
        let is_lost = state.conversation.is_unknown() || state.bytes > UNDECIDED;
        let verdict = match state.conversation.protocol() {
            Some(_) => CaptureVerdict::Wanted,
            None if self.chosen.settings.unknown => CaptureVerdict::Wanted,
            None if is_lost => CaptureVerdict::Unwanted,
            None => return,
        };
        state.interest = Interest::Decided;
        self.verdicts.push((connection, verdict));
    }

    /// Counts a call whose place is not known.
    fn undecodable(&mut self, record: &Record<'_>) -> io::Result<()> {
        let ChosenRequests { settings, counts, output, .. } = &mut self.chosen;
        if let Body::Ssl(ssl) = &record.body {
            counts.undecoded_bytes = counts.undecoded_bytes.saturating_add(ssl.data.0.len() as u64);
        }
        if settings.unknown { output.write(record) } else { Ok(()) }
    }

    /// Decodes the next part of a stream.
    fn part(&mut self, connection: u64, direction: Direction, part: StreamPart<'_>) -> io::Result<()> {
        let Some(state) = self.connections.peek_mut(&connection) else { return Ok(()) };
        match part {
            StreamPart::Chunk(chunk) => state.conversation.data(direction, &chunk, &mut self.messages),
            StreamPart::Gap(gap) => {
                state.is_gapless = false;
                state.conversation.gap(direction, gap, &mut self.messages);
            }
        }
        let held = state.conversation.held_bytes();
        self.held = self.held.saturating_sub(state.held).saturating_add(held);
        state.held = held;
        self.pair(connection)
    }

    /// Pairs the messages that were decoded, and emits what is complete.
    fn pair(&mut self, connection: u64) -> io::Result<()> {
        let Self { connections, messages, exchanges, chosen, .. } = self;
        messages.drain().try_for_each(|message| {
            exchanges.message(connection, message, &mut |connection, exchange| {
                connections
                    .peek_mut(&connection)
                    .map_or(Ok(()), |state| chosen.exchange(state, connection, exchange))
            })
        })
    }

    /// Emits what waits for records that will not come any more. For a response where nothing is missing, the
    /// request is still being sent: a server may answer before it has read all of it.
    fn settle(&mut self, now: Timestamp) -> io::Result<()> {
        let before = now.checked_sub(LATE).unwrap_or(Timestamp::MIN);
        let Self { connections, messages, exchanges, chosen, held, .. } = self;
        connections.iter_mut().try_for_each(|(&connection, state)| {
            state.conversation.settle(before, messages);
            let now_held = state.conversation.held_bytes();
            *held = held.saturating_sub(state.held).saturating_add(now_held);
            state.held = now_held;
            let is_gapless = state.is_gapless;
            let mut emit = |_, exchange| chosen.exchange(state, connection, exchange);
            messages.drain().try_for_each(|message| exchanges.message(connection, message, &mut emit))?;
            if is_gapless { Ok(()) } else { exchanges.settle(connection, before, &mut emit) }
        })
    }

    /// Emits what is left of a connection, and forgets it.
    fn end(&mut self, connection: u64, reason: UnpairedReason) -> io::Result<()> {
        let Some(state) = self.connections.peek_mut(&connection) else { return Ok(()) };
        let is_unknown = state.conversation.protocol().is_none();
        state.conversation.end(&mut self.messages);
        let counts = &mut self.chosen.counts;
        counts.unknown_connections += u64::from(is_unknown && state.bytes > 0);
        counts.undecoded_bytes = counts.undecoded_bytes.saturating_add(state.conversation.undecoded_bytes());
        self.held = self.held.saturating_sub(std::mem::take(&mut state.held));
        self.chosen.ending = Some(reason);
        let ended = self.pair(connection).and_then(|()| {
            let Self { connections, exchanges, chosen, .. } = self;
            exchanges.end(connection, reason, &mut |connection, exchange| {
                let state = connections.peek_mut(&connection);
                state.map_or(Ok(()), |state| chosen.exchange(state, connection, exchange))
            })
        });
        self.chosen.ending = None;
        self.connections.pop(&connection);
        ended
    }
}

impl ChosenRequests {
    /// Shows or counts an exchange, or shows a message that is a part of one.
    fn exchange(
        &mut self,
        state: &mut RequestConnection,
        connection: u64,
        exchange: Exchange,
    ) -> io::Result<()> {
        let (messages, unpaired) = match record::sides(exchange) {
            Ok(sides) => sides,
            Err(message) => return self.message(state, connection, *message),
        };
        let key = [&messages.0, &messages.1].into_iter().flatten().find_map(|message| message.key());
        let numbers = key.and_then(|key| state.end_numbers(&key)).unwrap_or_default();
        let reason = ReportReason { unpaired, ending: self.ending, is_gapless: state.is_gapless };
        let mut request = record::request(connection, messages, reason, self.protocols, &self.settings);
        request.role = state.role();
        if self.settings.messages {
            request.mark_bodies_in_messages(numbers);
        }
        self.counts.exchanges += 1;
        self.counts.incomplete += u64::from(!request.is_complete());
        if self.is_full() || !self.settings.filter.matches(&request) {
            return Ok(());
        }
        let time = request.sides().map(|side| side.first).next().unwrap_or_default();
        let context = state.context(time);
        if let Some(by) = self.settings.stats {
            let groups = self.stats.get_or_insert_with(|| Groups::new(by, time));
            groups.add(&context, &request);
            return Ok(());
        }
        self.counts.shown += 1;
        self.output.write(&Record { context, body: Body::Request(request) })
    }

    fn message(
        &mut self,
        state: &mut RequestConnection,
        connection: u64,
        message: Message,
    ) -> io::Result<()> {
        let key = message.key();
        let number = key.as_ref().and_then(|key| state.next_number(key, message.direction));
        let is_all = || {
            let protocol = self.protocols.iter().find(|protocol| protocol.name == message.protocol);
            protocol.is_some_and(|protocol| !protocol.has_exchanges)
        };
        let is_wanted = self.settings.messages || is_all();
        if self.is_full() || !is_wanted || self.settings.stats.is_some() {
            return Ok(());
        }
        let time = message.first;
        let mut body = record::stream_message(connection, number, message, self.protocols, &self.settings);
        body.role = state.role();
        self.counts.shown += 1;
        self.output.write(&Record { context: state.context(time), body: Body::Message(body) })
    }

    fn is_full(&self) -> bool {
        self.settings.limit.is_some_and(|limit| self.counts.shown >= limit)
    }

    /// The interval, if it is over.
    fn take_due(&mut self, now: Timestamp) -> Option<Duration> {
        let interval = self.settings.interval?;
        let next = now.checked_add(interval).unwrap_or(Timestamp::MAX);
        let due = *self.due.get_or_insert(next);
        if now < due {
            return None;
        }
        self.due = Some(next);
        Some(interval)
    }

    /// Shows figures.
    fn figures(&mut self, now: Timestamp) -> io::Result<()> {
        let Some(by) = self.settings.stats else { return Ok(()) };
        let figures = self.stats.get_or_insert_with(|| Groups::new(by, now)).take(now);
        self.output.write(&Record { context: Context::of_trace(now), body: Body::RequestStats(figures) })
    }
}

#[cfg(test)]
mod tests;
