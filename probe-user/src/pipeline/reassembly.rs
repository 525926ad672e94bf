//! Chunks → calls.
//!
//! Owns the calls that wait for their rest. The chunks of a call come back to back from one thread,
//! mixed with those of other threads, and some may be missing. Contiguous chunks become one piece; a
//! call without a gap is one piece. It never holds more than its bound, and never loses a byte.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use probe_common::{Call, Header};

use crate::event::{Plaintext, ProcessContext};

/// After so long with an empty ring the rest of a call does not come: it was lost. A processor of a virtual
/// machine may stand still for some hundred milliseconds between two chunks.
const PENDING_TIMEOUT: Duration = Duration::from_secs(2);
/// Buffers that are kept for the next call in chunks.
const SPARE: usize = 4;

/// Contiguous bytes of a call.
pub(super) struct Segment<'a> {
    /// The call, from the first of its chunks that came.
    pub(super) call: &'a Call,
    pub(super) origin: &'a ProcessContext,
    /// Offset of `data` in the call.
    pub(super) offset: u32,
    pub(super) data: &'a [u8],
}

/// Thread ids in the initial namespace; the process id makes the end of a process cheap to find.
type ThreadKey = (u32, u32);

fn thread(header: &Header) -> ThreadKey {
    (header.pid, header.tid)
}

/// A call that waits for its rest.
#[derive(Debug)]
struct PendingCall {
    call: Call,
    origin: Arc<ProcessContext>,
    /// Offset of `data` in the call.
    offset: u32,
    data: Buffer,
    /// Whether a piece of it was reported already.
    reported: bool,
    /// When the ring was first seen empty since its last chunk.
    idle_since: Option<Instant>,
    /// Larger for calls that began later.
    age: u64,
}

/// Payload; its `Debug` prints only its length.
#[derive(Default)]
struct Buffer(Vec<u8>);

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Plaintext::of(&self.0).fmt(f)
    }
}

impl PendingCall {
    /// Offset in the call of the next byte that is expected.
    fn next(&self) -> u64 {
        u64::from(self.offset) + self.data.0.len() as u64
    }

    /// Reports what is there and makes room; gives the number of bytes.
    fn report<E>(&mut self, emit: &mut E) -> io::Result<usize>
    where
        E: FnMut(Segment<'_>) -> io::Result<()>,
    {
        let Self { call, origin, offset, data: Buffer(data), .. } = self;
        let length = data.len();
        if length > 0 {
            emit(Segment { call, origin, offset: *offset, data })?;
            self.reported = true;
        }
        // At most CALL_BYTES, checked by `decode`.
        self.offset = u32::try_from(self.next()).unwrap_or(u32::MAX);
        self.data.0.clear();
        Ok(length)
    }
}

/// The calls that wait, at most one a thread.
#[derive(Debug)]
pub(super) struct CallAssembler {
    waiting: HashMap<ThreadKey, PendingCall>,
    /// Bytes of all of them.
    bytes: usize,
    /// What `bytes` may be.
    bound: usize,
    /// Calls that have ever waited.
    began: u64,
    spare: Vec<Buffer>,
}

impl CallAssembler {
    pub(super) fn new(bound: usize) -> Self {
        Self { waiting: HashMap::new(), bytes: 0, bound, began: 0, spare: Vec::new() }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a chunk belongs to the call that its thread waits with.
    pub(super) fn is_continuation(&self, chunk: &Call) -> bool {
        if self.waiting.is_empty() {
            return false; // the usual case, without hashing
        }
        let Some(waiting) = self.waiting.get(&thread(&chunk.header)) else { return false };
        let call = &waiting.call;
        // The time of the return is in all chunks of a call, and tells calls without connection apart.
        let identity = |call: &Call| (call.header.time, call.connection, call.number, call.site);
        let extent = |call: &Call| (call.stream_offset, call.length, call.captured);
        u64::from(chunk.offset) >= waiting.next()
            && chunk.offset != call.offset
            && identity(call) == identity(chunk)
            && extent(call) == extent(chunk)
    }

    /// Takes the first chunk that came of a call, when [`continues`](Self::is_continuation) said no and the
    /// thread's call before it was [ended](Self::end_thread).
    pub(super) fn begin<E>(
        &mut self,
        chunk: &Call,
        Plaintext(data): Plaintext<'_>,
        origin: Arc<ProcessContext>,
        emit: &mut E,
    ) -> io::Result<()>
    where
        E: FnMut(Segment<'_>) -> io::Result<()>,
    {
        if is_last(chunk) {
            return emit(Segment { call: chunk, origin: &origin, offset: chunk.offset, data: &data });
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.0.reserve(chunk.captured.saturating_sub(chunk.offset) as usize);
        buffer.0.extend_from_slice(&data);
        self.began += 1;
        self.bytes += data.len();
        let waiting = PendingCall {
            call: *chunk,
            origin,
            offset: chunk.offset,
            data: buffer,
            reported: false,
            idle_since: None,
            age: self.began,
        };
        self.waiting.insert(thread(&chunk.header), waiting);
        self.keep_bound(emit)
    }

    /// Takes a chunk of which [`continues`](Self::is_continuation) said yes.
    pub(super) fn append<E>(
        &mut self,
        chunk: &Call,
        Plaintext(data): Plaintext<'_>,
        emit: &mut E,
    ) -> io::Result<()>
    where
        E: FnMut(Segment<'_>) -> io::Result<()>,
    {
        let Some(waiting) = self.waiting.get_mut(&thread(&chunk.header)) else { return Ok(()) };
        waiting.idle_since = None;
        if u64::from(chunk.offset) > waiting.next() {
            self.bytes -= waiting.report(emit)?;
            waiting.offset = chunk.offset;
        }
        waiting.data.0.extend_from_slice(&data);
        self.bytes += data.len();
        if is_last(chunk) { self.end_thread(&chunk.header, emit) } else { self.keep_bound(emit) }
    }

    /// The thread's call is over, whatever is missing of it.
    pub(super) fn end_thread<E>(&mut self, header: &Header, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(Segment<'_>) -> io::Result<()>,
    {
        if self.waiting.is_empty() {
            return Ok(());
        }
        match self.waiting.remove(&thread(header)) {
            Some(waiting) => self.end(waiting, emit),
            None => Ok(()),
        }
    }

    /// The process has no calls any more.
    pub(super) fn end_process<E>(&mut self, pid: u32, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(Segment<'_>) -> io::Result<()>,
    {
        self.end_where(|&(owner, _), _| owner == pid, emit)
    }

    /// The ring is empty at this moment.
    pub(super) fn idle<E>(&mut self, now: Instant, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(Segment<'_>) -> io::Result<()>,
    {
        // Not the time of the chunk: it may have been in the ring for long.
        self.end_where(
            |_, waiting| {
                now.saturating_duration_since(*waiting.idle_since.get_or_insert(now)) > PENDING_TIMEOUT
            },
            emit,
        )
    }

    /// Nothing more comes.
    pub(super) fn end_all<E>(&mut self, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(Segment<'_>) -> io::Result<()>,
    {
        self.end_where(|_, _| true, emit)
    }

    /// Ends calls in the order in which they began.
    fn end_where<E>(
        &mut self,
        mut over: impl FnMut(&ThreadKey, &mut PendingCall) -> bool,
        emit: &mut E,
    ) -> io::Result<()>
    where
        E: FnMut(Segment<'_>) -> io::Result<()>,
    {
        let mut ended: Vec<PendingCall> =
            self.waiting.extract_if(|key, waiting| over(key, waiting)).map(|(_, waiting)| waiting).collect();
        ended.sort_unstable_by_key(|waiting| waiting.age);
        ended.into_iter().try_for_each(|waiting| self.end(waiting, emit))
    }

    fn end<E>(&mut self, mut waiting: PendingCall, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(Segment<'_>) -> io::Result<()>,
    {
        self.bytes -= waiting.report(emit)?;
        if !waiting.reported {
            // No byte of it could be read; that it was made is still worth a record.
            let PendingCall { call, origin, .. } = &waiting;
            emit(Segment { call, origin, offset: 0, data: &[] })?;
        }
        if self.spare.len() < SPARE {
            self.spare.push(waiting.data);
        }
        Ok(())
    }

    /// Reports the oldest calls in pieces while too much waits.
    fn keep_bound<E>(&mut self, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(Segment<'_>) -> io::Result<()>,
    {
        while self.bytes > self.bound {
            let some = self.waiting.values_mut().filter(|waiting| !waiting.data.0.is_empty());
            let Some(oldest) = some.min_by_key(|waiting| waiting.age) else { break };
            self.bytes -= oldest.report(emit)?;
            oldest.data = Buffer::default();
        }
        Ok(())
    }
}

fn is_last(chunk: &Call) -> bool {
    // Both are at most CALL_BYTES, checked by `decode`.
    chunk.offset.saturating_add(chunk.chunk) == chunk.captured
}

#[cfg(test)]
mod tests;
