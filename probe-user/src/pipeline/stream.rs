//! Calls → the bytes of each direction of a connection, in order.
//!
//! Owns the bytes that came too early. The threads of a program make calls in one order, but their records
//! arrive in another. Bytes that follow missing ones wait for these, until they come or a bound is reached;
//! then what is missing becomes a gap. Bytes are never joined over a gap and never emitted twice. Offsets
//! come from traced processes, so whatever their values are, memory is bounded per connection and in total.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;

use jiff::Timestamp;
use lru::LruCache;

use crate::event::{Body, Direction, Plaintext, Record, Traffic};
use crate::protocol::{CallMark, Chunk, Gap, GapCause};

/// The approximate size of a held piece without its bytes.
const OVERHEAD: usize = 128;

/// Contiguous captured bytes of a call, with the position of the call on its connection.
#[derive(Clone, Debug)]
pub struct Piece<'a> {
    /// The id of the connection.
    pub connection: u64,
    /// The direction of the bytes.
    pub direction: Direction,
    /// The offset of the first byte of the call in the stream of this direction.
    pub stream_offset: u64,
    /// The number of the call on the connection.
    pub call: u64,
    /// When its bytes were transferred: at the entry of a call that sends, because the peer may answer before
    /// that returns, and at the return of one that receives.
    pub time: Timestamp,
    /// The number of bytes that the call transferred.
    pub length: u64,
    /// How many of them were captured, counted from the first.
    pub captured: u64,
    /// The offset of `data` in the call.
    pub offset: u64,
    /// The bytes.
    pub data: Plaintext<'a>,
}

impl<'a> Piece<'a> {
    /// The piece of a record. None if it is not of a call, or if its connection could not be determined.
    pub fn of(record: &'a Record<'_>) -> Option<Self> {
        let Record { context, body: Body::Ssl(ssl) } = record else { return None };
        let position = ssl.position?;
        Some(Self {
            connection: context.connection.as_ref()?.id,
            direction: ssl.direction,
            stream_offset: position.stream_offset,
            call: position.call,
            time: match ssl.direction {
                Direction::Transmit => ssl
                    .duration
                    .and_then(|duration| context.time.checked_sub(duration).ok())
                    .unwrap_or(context.time),
                Direction::Receive => context.time,
            },
            length: ssl.length,
            captured: ssl.captured.into(),
            offset: ssl.offset.into(),
            data: Plaintext::of(&ssl.data.0),
        })
    }
}

/// The next part of a stream.
#[derive(Clone, Copy, Debug)]
pub enum StreamPart<'a> {
    /// The bytes that follow those emitted before.
    Chunk(Chunk<'a>),
    /// Bytes that are missing.
    Gap(Gap),
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// The most connections whose offsets are remembered. The least recently used one is evicted.
    pub connections: NonZeroUsize,
    /// The most bytes that wait in one direction of a connection.
    pub direction_bytes: usize,
    /// The most pieces that wait in one direction of a connection.
    pub direction_pieces: usize,
    /// The most bytes that wait in total.
    pub bytes: usize,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            // As many as the kernel's table has.
            connections: NonZeroUsize::new(65_536).unwrap_or(NonZeroUsize::MIN),
            direction_bytes: 1 << 20,
            direction_pieces: 64,
            bytes: 32 << 20,
        }
    }
}

/// Counters of irregularities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Bytes that are missing, in gaps of any cause.
    pub missing: u64,
    /// Bytes that came more than once. The repetitions were dropped.
    pub repeated: u64,
    /// Pieces with contradictory numbers, which were dropped.
    pub malformed: u64,
    /// Gaps that were made because too much was waiting in total.
    pub released: u64,
    /// Connections that were evicted because there were too many.
    pub evicted: u64,
}

/// The streams of all connections.
#[derive(Debug)]
pub struct Streams {
    limits: StreamLimits,
    connections: LruCache<u64, ConnectionStreams>,
    /// The connections with waiting pieces, in the order in which they began to wait.
    waiting: BTreeMap<u64, u64>,
    /// The number of times that a connection has begun to wait.
    began: u64,
    /// The waiting bytes in total, including the overhead of holding them.
    bytes: usize,
    counts: StreamCounts,
}

/// The two directions of a connection.
#[derive(Debug, Default)]
struct ConnectionStreams {
    directions: [DirectionStream; 2],
    /// The connection's key in [`Streams::waiting`].
    waiting: Option<u64>,
}

/// One direction.
#[derive(Debug, Default)]
struct DirectionStream {
    /// The offset of the next byte to emit.
    next: u64,
    /// The pieces that came too early, by their offset.
    held: BTreeMap<u64, HeldPiece>,
    /// The size of all held pieces, including the overhead.
    bytes: usize,
}

/// A piece that came too early.
struct HeldPiece {
    /// The offset of the first byte after it.
    end: u64,
    /// The bytes. None for the tail of a call that a limit cut off.
    data: Option<Vec<u8>>,
    mark: CallMark,
}

impl fmt::Debug for HeldPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = self.data.as_deref().map(Plaintext::of);
        let mut shown = f.debug_struct("HeldPiece");
        shown.field("end", &self.end).field("data", &data).field("mark", &self.mark).finish()
    }
}

impl HeldPiece {
    fn size(&self) -> usize {
        self.data.as_ref().map_or(0, Vec::len) + OVERHEAD
    }
}

/// The position in the stream of a piece whose numbers are consistent.
#[derive(Clone, Copy)]
struct PieceExtent {
    /// The captured bytes.
    start: u64,
    end: u64,
    /// The part that a limit cut off the call, up to the end of the call.
    cut: (u64, u64),
}

impl PieceExtent {
    fn of(piece: &Piece<'_>) -> Option<Self> {
        let start = piece.stream_offset.checked_add(piece.offset)?;
        let end = start.checked_add(piece.data.0.len() as u64)?;
        let captured = piece.stream_offset.checked_add(piece.captured)?;
        let call_end = piece.stream_offset.checked_add(piece.length)?;
        (end <= captured && captured <= call_end).then_some(Self { start, end, cut: (captured, call_end) })
    }
}

/// Emits the parts of one direction.
struct DirectionEmitter<'a, E> {
    emit: &'a mut E,
    connection: u64,
    direction: Direction,
    counts: &'a mut StreamCounts,
}

impl<E: FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()>> DirectionEmitter<'_, E> {
    fn gap(&mut self, from: u64, to: u64, cause: GapCause) -> io::Result<()> {
        let length = to.saturating_sub(from);
        self.counts.missing = self.counts.missing.saturating_add(length);
        (self.emit)(self.connection, self.direction, StreamPart::Gap(Gap { offset: from, length, cause }))
    }

    fn chunk(&mut self, chunk: Chunk<'_>) -> io::Result<()> {
        (self.emit)(self.connection, self.direction, StreamPart::Chunk(chunk))
    }

    fn repeated(&mut self, bytes: usize) {
        self.counts.repeated = self.counts.repeated.saturating_add(bytes as u64);
    }
}

impl DirectionStream {
    /// Takes a piece: emits it at once if it comes next, otherwise holds it.
    fn piece<E>(
        &mut self,
        piece: &Piece<'_>,
        extent: PieceExtent,
        out: &mut DirectionEmitter<'_, E>,
    ) -> io::Result<()>
    where
        E: FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()>,
    {
        let PieceExtent { start, end, cut } = extent;
        let &Piece { stream_offset, call, time, offset, data: Plaintext(ref data), .. } = piece;
        // The pieces of a call arrive in order, so what is missing before this one within the call was lost.
        if stream_offset <= self.next {
            self.advance(start, out)?;
        }
        let mark = CallMark { offset: start, call, time, starts_call: offset == 0 };
        if start <= self.next {
            self.give(start, end, Some(data), mark, out)?;
        } else if !data.is_empty() {
            self.hold(start, HeldPiece { end, data: Some(data.to_vec()), mark }, out);
        }
        if cut.0 < cut.1 {
            let mark = CallMark { offset: cut.0, starts_call: piece.captured == 0, ..mark };
            if cut.0 <= self.next {
                self.give(cut.0, cut.1, None, mark, out)?;
            } else {
                self.hold(cut.0, HeldPiece { end: cut.1, data: None, mark }, out);
            }
        }
        self.drain(out)
    }

    /// Emits bytes, or the gap that a limit made, without what was emitted before.
    fn give<E>(
        &mut self,
        start: u64,
        end: u64,
        data: Option<&[u8]>,
        mark: CallMark,
        out: &mut DirectionEmitter<'_, E>,
    ) -> io::Result<()>
    where
        E: FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()>,
    {
        let skipped = self.next.saturating_sub(start);
        let rest = data.map(|data| {
            let skipped = usize::try_from(skipped).unwrap_or(usize::MAX).min(data.len());
            out.repeated(skipped);
            data.get(skipped..).unwrap_or_default()
        });
        if end <= self.next {
            return Ok(());
        }
        let offset = std::mem::replace(&mut self.next, end);
        match rest {
            None => out.gap(offset, end, GapCause::Truncated),
            Some(data) => {
                let mark = CallMark { offset, starts_call: mark.starts_call && skipped == 0, ..mark };
                out.chunk(Chunk { offset, data, mark })
            }
        }
    }

    fn hold<E>(&mut self, start: u64, held: HeldPiece, out: &mut DirectionEmitter<'_, E>)
    where
        E: FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()>,
    {
        let mut left_out = held;
        // Of two pieces with the same start, the longer one has all the bytes. Bytes win over a gap.
        let is_better = |new: &HeldPiece, old: &HeldPiece| match (&new.data, &old.data) {
            (Some(_), None) => true,
            (None, Some(_)) => false,
            _ => new.end > old.end,
        };
        if let Some(old) = self.held.get_mut(&start) {
            if is_better(&left_out, old) {
                self.bytes = self.bytes.saturating_sub(old.size()).saturating_add(left_out.size());
                std::mem::swap(old, &mut left_out);
            }
            out.repeated(left_out.data.as_ref().map_or(0, Vec::len));
        } else {
            self.bytes = self.bytes.saturating_add(left_out.size());
            self.held.insert(start, left_out);
        }
    }

    /// Emits held pieces as long as they come next.
    fn drain<E>(&mut self, out: &mut DirectionEmitter<'_, E>) -> io::Result<()>
    where
        E: FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()>,
    {
        while let Some(entry) = self.held.first_entry()
            && *entry.key() <= self.next
        {
            let (start, held) = entry.remove_entry();
            self.bytes = self.bytes.saturating_sub(held.size());
            self.give(start, held.end, held.data.as_deref(), held.mark, out)?;
        }
        Ok(())
    }

    /// Emits everything that is held before `offset`. What is missing up to there is a gap.
    fn advance<E>(&mut self, offset: u64, out: &mut DirectionEmitter<'_, E>) -> io::Result<()>
    where
        E: FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()>,
    {
        while self.next < offset {
            let held = self.held.first_key_value().map(|(start, _)| *start);
            let until = held.map_or(offset, |start| start.min(offset));
            if self.next < until {
                let from = std::mem::replace(&mut self.next, until);
                out.gap(from, until, GapCause::Lost)?;
            }
            self.drain(out)?;
        }
        Ok(())
    }

    /// Stops waiting for what is missing before the first held piece.
    fn skip_hole<E>(&mut self, out: &mut DirectionEmitter<'_, E>) -> io::Result<()>
    where
        E: FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()>,
    {
        match self.held.first_key_value() {
            Some((&start, _)) => self.advance(start, out).and_then(|()| self.drain(out)),
            None => Ok(()),
        }
    }
}

const DIRECTIONS: [Direction; 2] = [Direction::Transmit, Direction::Receive];

impl ConnectionStreams {
    fn bytes(&self) -> usize {
        self.directions.iter().map(|direction| direction.bytes).sum()
    }

    fn direction(&mut self, direction: Direction) -> &mut DirectionStream {
        let [transmit, receive] = &mut self.directions;
        match direction {
            Direction::Transmit => transmit,
            Direction::Receive => receive,
        }
    }
}

impl Streams {
    /// Creates the state without any connections.
    pub fn new(limits: StreamLimits) -> Self {
        Self {
            limits,
            connections: LruCache::sparse(limits.connections),
            waiting: BTreeMap::new(),
            began: 0,
            bytes: 0,
            counts: StreamCounts::default(),
        }
    }

    /// The waiting bytes in total, including the overhead of holding them.
    pub fn waiting_bytes(&self) -> usize {
        self.bytes
    }

    /// The irregularities so far.
    pub fn counts(&self) -> StreamCounts {
        self.counts
    }

    /// Takes a piece. Pieces are passed in the order in which their records came. A new connection begins at
    /// offset 0.
    pub fn piece<E>(&mut self, piece: &Piece<'_>, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()>,
    {
        let Some(extent) = PieceExtent::of(piece) else {
            self.counts.malformed = self.counts.malformed.saturating_add(1);
            return Ok(());
        };
        let &Piece { connection, direction, .. } = piece;
        self.make_room(connection, emit)?;
        let StreamLimits { direction_bytes, direction_pieces, .. } = self.limits;
        let result = self.with(connection, direction, emit, |stream, out| {
            stream.piece(piece, extent, out)?;
            while stream.bytes > direction_bytes || stream.held.len() > direction_pieces {
                stream.skip_hole(out)?;
            }
            Ok(())
        });
        result.and_then(|()| self.keep_bound(emit))
    }

    /// Ends a connection that was closed: emits what waits and forgets the connection. The kernel's counters
    /// show what is missing at its end.
    pub fn end<E>(&mut self, connection: u64, counted: Option<Traffic>, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()>,
    {
        if self.connections.peek(&connection).is_none() {
            return Ok(());
        }
        for direction in DIRECTIONS {
            let end = counted.map_or(0, |traffic| match direction {
                Direction::Transmit => traffic.transmitted,
                Direction::Receive => traffic.received,
            });
            self.with(connection, direction, emit, |stream, out| {
                while !stream.held.is_empty() {
                    stream.skip_hole(out)?;
                }
                stream.advance(end, out)
            })?;
        }
        self.connections.pop(&connection);
        Ok(())
    }

    /// To be called when no record came for a while: emits everything that waits, because what is missing
    /// will not come any more.
    pub fn settle<E>(&mut self, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()>,
    {
        while let Some((_, &connection)) = self.waiting.first_key_value() {
            self.skip_holes(connection, emit)?;
        }
        Ok(())
    }

    /// Ends all connections, the least recently used one first.
    pub fn end_all<E>(&mut self, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()>,
    {
        while let Some((&connection, _)) = self.connections.peek_lru() {
            self.end(connection, None, emit)?;
        }
        Ok(())
    }

    /// Stops waiting for what is missing before the first held pieces of a connection.
    fn skip_holes<E>(&mut self, connection: u64, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()>,
    {
        DIRECTIONS
            .into_iter()
            .try_for_each(|direction| self.with(connection, direction, emit, DirectionStream::skip_hole))
    }

    /// Changes one direction of a connection, and updates the counters of what waits.
    fn with<E>(
        &mut self,
        connection: u64,
        direction: Direction,
        emit: &mut E,
        change: impl FnOnce(&mut DirectionStream, &mut DirectionEmitter<'_, E>) -> io::Result<()>,
    ) -> io::Result<()>
    where
        E: FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()>,
    {
        let streams = self.connections.get_or_insert_mut(connection, ConnectionStreams::default);
        let before = streams.bytes();
        let mut out = DirectionEmitter { emit, connection, direction, counts: &mut self.counts };
        let result = change(streams.direction(direction), &mut out);
        let after = streams.bytes();
        self.bytes = self.bytes.saturating_sub(before).saturating_add(after);
        match (streams.waiting, after) {
            (None, 1..) => {
                self.began += 1;
                streams.waiting = Some(self.began);
                self.waiting.insert(self.began, connection);
            }
            (Some(since), 0) => {
                streams.waiting = None;
                self.waiting.remove(&since);
            }
            _ => {}
        }
        result
    }

    /// Makes room for a connection: emits what waits for the least recently used one, and forgets that.
    fn make_room<E>(&mut self, connection: u64, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()>,
    {
        if self.connections.len() < self.limits.connections.get() || self.connections.contains(&connection) {
            return Ok(());
        }
        match self.connections.peek_lru() {
            Some((&oldest, _)) => {
                self.counts.evicted = self.counts.evicted.saturating_add(1);
                self.end(oldest, None, emit)
            }
            None => Ok(()),
        }
    }

    /// While too much waits, stops waiting for what is missing of the connection that has waited longest.
    fn keep_bound<E>(&mut self, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()>,
    {
        while self.bytes > self.limits.bytes
            && let Some((_, &oldest)) = self.waiting.first_key_value()
        {
            self.counts.released = self.counts.released.saturating_add(1);
            self.skip_holes(oldest, emit)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
