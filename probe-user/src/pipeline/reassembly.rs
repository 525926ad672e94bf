//! Chunks → calls.
//!
//! Owns the calls that wait for their rest. The chunks of a call come back to back from one thread, mixed
//! with those of other threads, and some may be missing. Contiguous chunks become one segment, so a call
//! without a gap is one segment. Memory never exceeds the bound, and no byte is lost.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use probe_common::{Call, Header};

use super::pending::{PendingBytes, PendingLimits, PendingTable};
use crate::event::{Plaintext, ProcessContext};

/// How much waits for the rest of its call. Beyond this, the bytes of the oldest calls are reported, and the
/// calls still wait. Entries are more than threads can be in the middle of a call.
pub(super) const LIMITS: PendingLimits = PendingLimits { entries: 65_536, bytes: 32 << 20 };
/// If records were lost, and the ring has been empty for this long, the rest of a call is taken for lost. A
/// processor of a virtual machine may stand still for several hundred milliseconds between two chunks.
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
}

/// Payload. Its `Debug` prints only the length.
#[derive(Default)]
struct Buffer(Vec<u8>);

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Plaintext::of(&self.0).fmt(f)
    }
}

impl PendingBytes for PendingCall {
    fn bytes(&self) -> usize {
        self.data.0.len()
    }
}

impl PendingCall {
    /// The offset in the call of the next expected byte.
    fn next(&self) -> u64 {
        u64::from(self.offset) + self.data.0.len() as u64
    }

    /// Emits the bytes so far, and empties the buffer.
    fn report<E>(&mut self, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(Segment<'_>) -> io::Result<()>,
    {
        let Self { call, origin, offset, data: Buffer(data), .. } = self;
        if !data.is_empty() {
            emit(Segment { call, origin, offset: *offset, data })?;
            self.reported = true;
        }
        // At most CALL_BYTES, which `decode` checks.
        self.offset = u32::try_from(self.next()).unwrap_or(u32::MAX);
        self.data.0.clear();
        Ok(())
    }
}

/// The pending calls, at most one per thread.
#[derive(Debug)]
pub(super) struct CallAssembler {
    waiting: PendingTable<ThreadKey, PendingCall>,
    spare: Vec<Buffer>,
}

impl CallAssembler {
    pub(super) fn new(limits: PendingLimits) -> Self {
        Self { waiting: PendingTable::new(limits), spare: Vec::new() }
    }

    /// The number of calls that were evicted.
    pub(super) fn evicted(&self) -> u64 {
        self.waiting.evicted()
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
        let waiting = PendingCall {
            call: *chunk,
            origin,
            offset: chunk.offset,
            data: buffer,
            reported: false,
            idle_since: None,
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
        let appended = self.waiting.update(&thread(&chunk.header), |waiting| {
            waiting.idle_since = None;
            if u64::from(chunk.offset) > waiting.next() {
                waiting.report(emit)?;
                waiting.offset = chunk.offset;
            }
            waiting.data.0.extend_from_slice(&data);
            io::Result::Ok(())
        });
        appended.transpose()?;
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

    /// To be called when records were lost and the ring is empty: ends calls whose rest was lost.
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
        is_over: impl FnMut(&ThreadKey, &mut PendingCall) -> bool,
        emit: &mut E,
    ) -> io::Result<()>
    where
        E: FnMut(Segment<'_>) -> io::Result<()>,
    {
        self.waiting.take_where(is_over).into_iter().try_for_each(|waiting| self.end(waiting, emit))
    }

    fn end<E>(&mut self, mut waiting: PendingCall, emit: &mut E) -> io::Result<()>
    where
        E: FnMut(Segment<'_>) -> io::Result<()>,
    {
        waiting.report(emit)?;
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
        self.waiting.shrink(|oldest| {
            oldest.report(emit)?;
            oldest.data = Buffer::default();
            io::Result::Ok(())
        })?;
        while let Some(oldest) = self.waiting.evict() {
            self.end(oldest, emit)?;
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
