//! Chunks → calls.
//!
//! Owns the calls that wait for their rest. The chunks of a call come back to back from one thread, mixed
//! with those of other threads, and some may be missing. Contiguous chunks become one segment, so a call
//! without a gap is one segment. Memory never exceeds the bound, and no byte is lost.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use probe_common::{Call, Header};

use crate::event::{Plaintext, ProcessContext};

/// If the ring has been empty for this long, the rest of a call was lost. A processor of a virtual machine
/// may stand still for several hundred milliseconds between two chunks.
const PENDING_TIMEOUT: Duration = Duration::from_secs(2);
/// The most buffers that are kept for reuse.
const SPARE: usize = 4;

/// Contiguous bytes of a call.
pub(super) struct Segment<'a> {
    /// The call, as in the first chunk that arrived.
    pub(super) call: &'a Call,
    pub(super) origin: &'a ProcessContext,
    /// The offset of `data` in the call.
    pub(super) offset: u32,
    pub(super) data: &'a [u8],
}

/// Process and thread id in the initial namespace. With the process id, all threads of an ended process are
/// easy to find.
type ThreadKey = (u32, u32);

fn thread(header: &Header) -> ThreadKey {
    (header.pid, header.tid)
}

/// A call that waits for its rest.
#[derive(Debug)]
struct PendingCall {
    call: Call,
    origin: Arc<ProcessContext>,
    /// The offset of `data` in the call.
    offset: u32,
    data: Buffer,
    /// Whether a segment of it was reported already.
    reported: bool,
    /// When the ring was first seen empty since the call's last chunk.
    idle_since: Option<Instant>,
    /// Larger for calls that were begun later.
    age: u64,
}

/// Payload. Its `Debug` prints only the length.
#[derive(Default)]
struct Buffer(Vec<u8>);

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Plaintext::of(&self.0).fmt(f)
    }
}

impl PendingCall {
    /// The offset in the call of the next expected byte.
    fn next(&self) -> u64 {
        u64::from(self.offset) + self.data.0.len() as u64
    }

    /// Emits the bytes so far, and empties the buffer. Returns the number of bytes.
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
        // At most CALL_BYTES, which `decode` checks.
        self.offset = u32::try_from(self.next()).unwrap_or(u32::MAX);
        self.data.0.clear();
        Ok(length)
    }
}

/// The pending calls, at most one per thread.
#[derive(Debug)]
pub(super) struct CallAssembler {
    waiting: HashMap<ThreadKey, PendingCall>,
    /// The payload bytes of all pending calls.
    bytes: usize,
    /// The limit of `bytes`.
    bound: usize,
    /// The number of calls that have ever been pending.
    began: u64,
    spare: Vec<Buffer>,
}

impl CallAssembler {
    pub(super) fn new(bound: usize) -> Self {
        Self { waiting: HashMap::new(), bytes: 0, bound, began: 0, spare: Vec::new() }
    }

    /// Whether no call is pending.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a chunk continues the pending call of its thread.
    pub(super) fn is_continuation(&self, chunk: &Call) -> bool {
        if self.waiting.is_empty() {
            return false; // the usual case, without hashing
        }
        let Some(waiting) = self.waiting.get(&thread(&chunk.header)) else { return false };
        let call = &waiting.call;
        // All chunks of a call have the time of its return, which also distinguishes calls without a
        // connection.
        let identity = |call: &Call| (call.header.time, call.connection, call.number, call.site);
        let extent = |call: &Call| (call.stream_offset, call.length, call.captured);
        u64::from(chunk.offset) >= waiting.next()
            && chunk.offset != call.offset
            && identity(call) == identity(chunk)
            && extent(call) == extent(chunk)
    }

    /// Takes the first chunk that arrived of a call, if [`continues`](Self::is_continuation) returned false
    /// and the thread's previous call was [ended](Self::end_thread).
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

    /// Takes a chunk for which [`continues`](Self::is_continuation) returned true.
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

    /// Ends the pending call of the thread, even if a part of it is missing.
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

    /// Ends all pending calls of a process.
    pub(super) fn end_process<E>(&mut self, pid: u32, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(Segment<'_>) -> io::Result<()>,
    {
        self.end_where(|&(owner, _), _| owner == pid, emit)
    }

    /// To be called when the ring is empty: ends calls whose rest was lost.
    pub(super) fn idle<E>(&mut self, now: Instant, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(Segment<'_>) -> io::Result<()>,
    {
        // The time of the chunk is not used, because the chunk may have been in the ring for a long time.
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

    /// Ends calls in the order in which they were begun.
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
            // None of its bytes could be read, but the call itself is still worth a record.
            let PendingCall { call, origin, .. } = &waiting;
            emit(Segment { call, origin, offset: 0, data: &[] })?;
        }
        if self.spare.len() < SPARE {
            self.spare.push(waiting.data);
        }
        Ok(())
    }

    /// While too much is pending, reports the oldest calls in segments.
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
    // Both are at most CALL_BYTES, which `decode` checks.
    chunk.offset.saturating_add(chunk.chunk) == chunk.captured
}

#[cfg(test)]
mod tests;
