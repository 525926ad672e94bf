//! Calls → the bytes of each direction of a connection, in order.
//!
//! Owns the bytes that came too early. Threads of a program call in one order and their records come in
//! another: what follows on bytes that are missing waits for them, until they come or a bound is reached, and
//! then they are a gap. Bytes are never joined over a gap, never given twice, and offsets are foreign
//! numbers: whatever they are, memory is bounded for each connection and in all.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;

use jiff::Timestamp;
use lru::LruCache;

use crate::event::{Direction, Plaintext, Ssl, Traffic};
use crate::protocol::{CallMark, Chunk, Gap, GapCause};

/// What a held piece takes beside its bytes, about.
const OVERHEAD: usize = 128;

/// Contiguous captured bytes of a call, with the place of the call on its connection.
#[derive(Clone, Debug)]
pub struct Piece<'a> {
    /// Number of the connection.
    pub connection: u64,
    /// Which way the bytes went.
    pub direction: Direction,
    /// Offset in the stream of this direction of the first byte of the call.
    pub stream_offset: u64,
    /// Number of the call on the connection.
    pub call: u64,
    /// When it returned.
    pub time: Timestamp,
    /// Bytes that the call moved.
    pub length: u64,
    /// How many of them were captured, from the first one on.
    pub captured: u64,
    /// Offset of `data` in the call.
    pub offset: u64,
    /// The bytes.
    pub data: Plaintext<'a>,
}

impl<'a> Piece<'a> {
    /// The piece of a record of a call; none if it is of no connection that is known.
    pub fn of(ssl: &'a Ssl<'_>) -> Option<Self> {
        let connection = ssl.connection?;
        Some(Self {
            connection: connection.id,
            direction: ssl.direction,
            stream_offset: connection.stream_offset,
            call: connection.call,
            time: ssl.time,
            length: ssl.length,
            captured: ssl.captured.into(),
            offset: ssl.offset.into(),
            data: Plaintext::of(&ssl.data.0),
        })
    }
}

/// What a stream says next.
#[derive(Clone, Copy, Debug)]
pub enum StreamPart<'a> {
    /// Bytes that follow on what was given before.
    Chunk(Chunk<'a>),
    /// Bytes that are missing.
    Gap(Gap),
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// Connections of which the offsets are remembered; the least recently used makes room.
    pub connections: NonZeroUsize,
    /// Bytes that wait in one direction of a connection.
    pub direction_bytes: usize,
    /// Pieces that wait in one direction of a connection.
    pub direction_pieces: usize,
    /// Bytes that wait in all.
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

/// What went wrong, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Bytes that are missing, in gaps of any cause.
    pub missing: u64,
    /// Bytes that came again, and were left out.
    pub repeated: u64,
    /// Pieces whose numbers contradict each other, and were left out.
    pub malformed: u64,
    /// Gaps that were made because too much waited in all.
    pub released: u64,
    /// Connections that were forgotten because there are too many.
    pub evicted: u64,
}

/// The streams of all connections.
#[derive(Debug)]
pub struct Streams {
    limits: StreamLimits,
    connections: LruCache<u64, ConnectionStreams>,
    /// Connections of which something waits, by when it began to.
    waiting: BTreeMap<u64, u64>,
    /// Connections that have ever begun to wait.
    began: u64,
    /// Bytes that wait in all, with what holding them takes.
    bytes: usize,
    counts: StreamCounts,
}

/// The two directions of a connection.
#[derive(Debug, Default)]
struct ConnectionStreams {
    directions: [DirectionStream; 2],
    /// Its key in [`Streams::waiting`].
    waiting: Option<u64>,
}

/// One direction.
#[derive(Debug, Default)]
struct DirectionStream {
    /// Offset of the next byte to be given.
    next: u64,
    /// What came too early, by its offset.
    held: BTreeMap<u64, HeldPiece>,
    /// Of all that is held, with what holding it takes.
    bytes: usize,
}

/// What came too early.
struct HeldPiece {
    /// Offset of the byte behind it.
    end: u64,
    /// The bytes; none of the tail that a limit cut off a call.
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

/// A piece whose numbers agree: where its parts are in the stream.
#[derive(Clone, Copy)]
struct PieceExtent {
    /// Of the bytes.
    start: u64,
    end: u64,
    /// Of what a limit cut off the call, which ends where the call does.
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

/// Where the parts of one direction go.
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
    /// Takes a piece: gives it at once if it is what comes next, else holds it.
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
        // The pieces of a call come in order: what is missing before this one within the call was lost.
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

    /// Gives bytes, or the gap that a limit made, without what was given before.
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
        // Of two that begin at one place the longer one has all the bytes; bytes win over a gap.
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

    /// Gives what is held and is next.
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

    /// Gives all that is held before `offset`; what is missing up to there is a gap.
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

    /// Stops waiting for what is missing before the first piece that is held.
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
    /// No connections yet.
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

    /// Bytes that wait in all, with what holding them takes.
    pub fn waiting_bytes(&self) -> usize {
        self.bytes
    }

    /// What went wrong so far.
    pub fn counts(&self) -> StreamCounts {
        self.counts
    }

    /// Takes a piece, in the order in which records came. A connection of which nothing was taken yet begins
    /// at offset 0.
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

    /// A connection has ended: gives what waits of it, and forgets it. What the kernel counted in all says
    /// what is missing at its end.
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

    /// Nothing that is missing comes any more: gives all that waits. To be called when no record came for a
    /// while.
    pub fn settle<E>(&mut self, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(u64, Direction, StreamPart<'_>) -> io::Result<()>,
    {
        while let Some((_, &connection)) = self.waiting.first_key_value() {
            self.skip_holes(connection, emit)?;
        }
        Ok(())
    }

    /// Nothing more comes: ends all connections, the one that was used least recently first.
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

    /// Changes one direction of a connection, and keeps count of what waits.
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

    /// Makes room for a connection: what waits of the least recently used one is given before that is
    /// forgotten.
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

    /// Stops waiting for what is missing of the connection that has waited for longest, while too much waits.
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
