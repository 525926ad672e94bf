//! Opens and closes of connections → records.
//!
//! Owns which connections are live, and when their open records are emitted: with the first call, so that
//! they include what is known by then, or with the close, or after a timeout. No close is emitted twice.
//! Nothing is emitted for connections whose opens and closes the kernel does not report.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use probe_common::{
    Call, ConnectionClose, ConnectionKey, ConnectionOpen, ConnectionState, END_CLOSED, END_HANDLE_REUSED,
    END_SOCKET_CLOSED, FLAG_FROM_START, FLAG_TRANSMIT, Header, NO_SITE,
};

use crate::event::{
    Body, CloseReason, Connection, Context, Library, ProcessContext, Record, SslClose, SslOpen, Thread,
    Traffic,
};
use crate::pipeline::emitter::Emitter;
use crate::pipeline::{Pipeline, ProcessInfo};

/// The most live connections that are remembered: as many as the kernel's table has.
const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
/// How long an open record waits for the first call.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(in crate::pipeline) struct ConnectionLifecycles {
    live: LruCache<u64, ConnectionLifecycle>,
    /// The ids of the live connections by process.
    processes: HashMap<u32, BTreeSet<u64>>,
    /// Connections whose open records may not have been emitted, and when the ring was first seen empty since
    /// they were opened.
    waiting: VecDeque<(u64, Option<Instant>)>,
    /// Connections that were closed because their process ended. The kernel may report their closes too.
    ended: LruCache<u64, ()>,
    /// Connections closed in this way whose records were not emitted yet, with the reason and the time.
    pending_close: Vec<(ConnectionLifecycle, CloseReason, u64)>,
    /// The connections that several processes use, by id.
    shared: HashMap<u64, SharedLifecycle>,
}

/// A connection that several processes use after a fork. It is closed with the last of its parts.
#[derive(Debug, Default)]
struct SharedLifecycle {
    /// The ids of the parts that are live.
    parts: BTreeSet<u64>,
    /// The part that opened it, once that is closed.
    opener: Option<ConnectionLifecycle>,
    /// What the closed parts have transferred.
    traffic: Traffic,
}

#[derive(Debug)]
pub(in crate::pipeline) struct ConnectionLifecycle {
    id: u64,
    /// The id of the connection that this is a part of: its own, unless several processes use it.
    whole: u64,
    key: ConnectionKey,
    origin: Arc<ProcessContext>,
    thread: Thread,
    /// Nanoseconds of `CLOCK_BOOTTIME`. None if the open was not reported.
    began: Option<u64>,
    from_start: bool,
    /// A hook in the connection's library.
    site: u32,
    traffic: Traffic,
    open_emitted: bool,
}

impl ConnectionLifecycle {
    fn new(id: u64, key: ConnectionKey, header: &Header, origin: Arc<ProcessContext>) -> Self {
        Self {
            id,
            whole: id,
            key,
            origin,
            thread: Thread { id: header.tid, comm: header.comm },
            began: None,
            from_start: false,
            site: NO_SITE,
            traffic: Traffic::default(),
            open_emitted: false,
        }
    }
}

impl ConnectionLifecycles {
    pub(in crate::pipeline) fn new() -> Self {
        Self {
            live: LruCache::sparse(CONNECTIONS),
            processes: HashMap::new(),
            waiting: VecDeque::new(),
            ended: LruCache::sparse(CONNECTIONS),
            pending_close: Vec::new(),
            shared: HashMap::new(),
        }
    }

    /// Makes a connection a part of another one. Returns that, if its open record is to be emitted now.
    fn join(&mut self, part: u64, whole: u64) -> Option<&ConnectionLifecycle> {
        let open_emitted = self.live.contains(&whole) || self.shared.contains_key(&whole);
        let lifetime = self.live.peek_mut(&part)?;
        lifetime.whole = whole;
        // If the other process has closed it already, this one opens it again.
        lifetime.open_emitted |= open_emitted;
        let parts = &mut self.shared.entry(whole).or_default().parts;
        parts.insert(part);
        let first = self.live.peek_mut(&whole)?;
        parts.insert(whole);
        (!std::mem::replace(&mut first.open_emitted, true)).then_some(first)
    }

    /// Removes a part that was closed. Returns the connection, if that was the last part.
    fn close_part(&mut self, part: ConnectionLifecycle) -> Option<ConnectionLifecycle> {
        let Some(shared) = self.shared.get_mut(&part.whole) else { return Some(part) };
        let whole = part.whole;
        shared.parts.remove(&part.id);
        shared.traffic = shared.traffic.sum(part.traffic);
        if part.id == whole || shared.opener.is_none() {
            shared.opener = Some(part);
        }
        if !shared.parts.is_empty() {
            return None;
        }
        let SharedLifecycle { opener, traffic, .. } = self.shared.remove(&whole)?;
        opener.map(|opener| ConnectionLifecycle { traffic, ..opener })
    }

    /// Closes all parts of a connection, because its socket was closed. Returns false if it has no parts.
    fn close_parts(&mut self, whole: u64, time: u64) -> bool {
        let Some(shared) = self.shared.get(&whole) else { return false };
        for part in shared.parts.clone() {
            if let Some(lifetime) = self.end(part) {
                self.ended.put(part, ());
                self.pending_close.push((lifetime, CloseReason::SocketClosed, time));
            }
        }
        true
    }

    /// Adds a connection. Returns the connection that was evicted for it, if any.
    fn begin(&mut self, opened: &ConnectionOpen, origin: Arc<ProcessContext>) -> Option<ConnectionLifecycle> {
        let id = opened.connection;
        let new = ConnectionLifecycle::new(id, opened.key(), &opened.header, origin);
        // One without TLS belongs to its socket, which may be used by other processes, too.
        if new.key.pid != 0 {
            self.processes.entry(new.key.pid).or_default().insert(id);
        }
        let lifetime = ConnectionLifecycle {
            began: Some(opened.header.time),
            from_start: opened.flags & FLAG_FROM_START != 0,
            site: opened.site,
            ..new
        };
        let (other, lifetime) = self.live.push(id, lifetime)?;
        if other != id {
            self.leave(&lifetime);
            // Nothing more is reported of it, unless other processes use it.
            return self.close_part(lifetime);
        }
        // The connection was opened again before it was used, so it is waiting already.
        None
    }

    /// Records a call. Returns the connection if its open record is to be emitted now.
    fn call(&mut self, call: &Call) -> Option<&ConnectionLifecycle> {
        if self.live.is_empty() {
            return None; // the usual case, without hashing
        }
        let lifetime = self.live.get_mut(&call.connection)?;
        let end = call.stream_offset.saturating_add(call.length);
        let (received, transmitted) = if call.flags & FLAG_TRANSMIT == 0 { (end, 0) } else { (0, end) };
        lifetime.traffic = lifetime.traffic.max(Traffic { calls: call.number, received, transmitted });
        lifetime.site = call.site;
        (!std::mem::replace(&mut lifetime.open_emitted, true)).then_some(lifetime)
    }

    /// Removes a connection whose close was reported, and returns it if it was live.
    fn end(&mut self, id: u64) -> Option<ConnectionLifecycle> {
        let lifetime = self.live.pop(&id)?;
        self.leave(&lifetime);
        Some(lifetime)
    }

    /// Removes the connections of a process that has ended or executes another program, in the order of their
    /// ids.
    fn end_process(&mut self, pid: u32) -> Vec<ConnectionLifecycle> {
        let ids = self.processes.remove(&pid).unwrap_or_default();
        ids.into_iter()
            .filter_map(|id| {
                self.ended.put(id, ());
                self.live.pop(&id)
            })
            .collect()
    }

    fn leave(&mut self, lifetime: &ConnectionLifecycle) {
        if let Some(ids) = self.processes.get_mut(&lifetime.key.pid) {
            ids.remove(&lifetime.id);
            if ids.is_empty() {
                self.processes.remove(&lifetime.key.pid);
            }
        }
    }

    /// Removes and returns the next connection that has waited for the timeout, at a time when the ring is
    /// empty. Without a time, any connection that waits.
    fn next(&mut self, now: Option<Instant>) -> Option<u64> {
        let &(id, since) = self.waiting.front()?;
        let is_due = match (now, since) {
            (Some(now), Some(since)) => now.saturating_duration_since(since) >= PATIENCE,
            (Some(_), None) => self.waiting.len() > CONNECTIONS.get(),
            (None, _) => true,
        };
        if is_due {
            self.waiting.pop_front();
        }
        is_due.then_some(id)
    }
}

impl Pipeline {
    /// Handles the report that a connection was opened.
    pub(in crate::pipeline) fn opened(
        &mut self,
        opened: &ConnectionOpen,
        info: &mut dyn ProcessInfo,
    ) -> io::Result<()> {
        if self.is_full() {
            return Ok(());
        }
        let origin = info.origin(&opened.header);
        let id = opened.connection;
        self.report.seen(id, opened.site, opened.header.time);
        let is_new = self.lifetimes.live.peek(&id).is_none();
        let forgotten = self.lifetimes.begin(opened, origin);
        if is_new {
            self.lifetimes.waiting.push_back((id, None));
        }
        match forgotten {
            Some(lifetime) if !lifetime.open_emitted => self.report.opened(&lifetime),
            _ => Ok(()),
        }
    }

    /// Emits the open record before the connection's first call, if it is due.
    pub(in crate::pipeline) fn is_called(&mut self, call: &Call) -> io::Result<()> {
        self.lifetimes.call(call).map_or(Ok(()), |lifetime| self.report.opened(lifetime))
    }

    /// Handles that a connection is a part of another one, which another process has opened.
    pub(in crate::pipeline) fn joined(&mut self, part: u64, whole: u64) -> io::Result<()> {
        self.lifetimes.join(part, whole).map_or(Ok(()), |lifetime| self.report.opened(lifetime))
    }

    /// Handles the report that a connection was closed.
    pub(in crate::pipeline) fn closed(
        &mut self,
        closed: &ConnectionClose,
        info: &mut dyn ProcessInfo,
    ) -> io::Result<()> {
        let id = closed.connection;
        if closed.end == END_SOCKET_CLOSED {
            let whole = self.report.connections.whole(id);
            if self.lifetimes.close_parts(whole, closed.header.time) {
                return Ok(());
            }
        }
        if self.is_full() || self.lifetimes.ended.contains(&id) {
            return Ok(());
        }
        let known = self.lifetimes.end(id);
        let mut lifetime = match (known, closed.end) {
            (Some(known), _) => known,
            // The open was lost or evicted, and nothing says which process the socket belonged to.
            (None, END_SOCKET_CLOSED) => return Ok(()),
            (None, _) => {
                let origin = info.origin(&closed.header);
                let key = ConnectionKey { handle: 0, pid: closed.header.pid, program: 0 };
                let from_start = closed.flags & FLAG_FROM_START != 0;
                let new = ConnectionLifecycle::new(id, key, &closed.header, origin);
                ConnectionLifecycle { open_emitted: true, from_start, ..new }
            }
        };
        if closed.end != END_SOCKET_CLOSED {
            // The thread has gone on, so if part of its last call is missing, it was lost.
            self.join.end_thread(&closed.header, &mut |piece| self.report.piece(&piece))?;
        }
        if lifetime.site == NO_SITE {
            lifetime.site = closed.site;
        }
        let &ConnectionClose { calls, received, transmitted, .. } = closed;
        lifetime.traffic = lifetime.traffic.max(Traffic { calls, received, transmitted });
        let end = match closed.end {
            END_CLOSED => CloseReason::Closed,
            END_HANDLE_REUSED => CloseReason::HandleReused,
            _ => CloseReason::SocketClosed,
        };
        match self.lifetimes.close_part(lifetime) {
            Some(lifetime) => self.report.closed(&lifetime, end, closed.header.time),
            None => Ok(()),
        }
    }

    /// Closes the connections of a process that has ended or executes another program.
    pub(in crate::pipeline) fn end_connections(&mut self, header: &Header, end: CloseReason) {
        if !self.is_full() {
            let ended = self.lifetimes.end_process(header.pid);
            self.lifetimes
                .pending_close
                .extend(ended.into_iter().map(|lifetime| (lifetime, end, header.time)));
        }
    }

    /// Emits the closes of connections whose processes have ended. To be called after each drain of the ring.
    /// `counted` returns the kernel's counters of a connection, if they still exist.
    pub fn emit_closes(
        &mut self,
        counted: impl Fn(ConnectionKey) -> Option<ConnectionState>,
    ) -> io::Result<()> {
        for (mut lifetime, end, time) in std::mem::take(&mut self.lifetimes.pending_close) {
            // The kernel's entry may already belong to a newer connection that reused the handle. Its
            // counters are ignored then.
            if let Some(state) = counted(lifetime.key).filter(|state| state.id == lifetime.id) {
                let ConnectionState { calls, received, transmitted, .. } = state;
                lifetime.traffic = lifetime.traffic.max(Traffic { calls, received, transmitted });
            }
            if let Some(lifetime) = self.lifetimes.close_part(lifetime) {
                self.report.closed(&lifetime, end, time)?;
            }
        }
        Ok(())
    }

    /// To be called when the ring is empty: emits open records that have waited for the timeout.
    pub(in crate::pipeline) fn idle_connections(&mut self, now: Instant) -> io::Result<()> {
        let new = self.lifetimes.waiting.iter_mut().rev().take_while(|(_, since)| since.is_none());
        new.for_each(|(_, since)| *since = Some(now));
        self.emit_waiting_opens(Some(now))
    }

    /// Emits open records that have waited for the timeout. Without a time, all that wait.
    pub(in crate::pipeline) fn emit_waiting_opens(&mut self, now: Option<Instant>) -> io::Result<()> {
        while let Some(id) = self.lifetimes.next(now) {
            if let Some(lifetime) = self.lifetimes.live.peek_mut(&id)
                && !std::mem::replace(&mut lifetime.open_emitted, true)
            {
                self.report.opened(lifetime)?;
            }
        }
        Ok(())
    }
}

impl Emitter {
    fn opened(&mut self, lifetime: &ConnectionLifecycle) -> io::Result<()> {
        self.connection(lifetime, lifetime.began.unwrap_or_default(), |library| {
            Body::SslOpen(SslOpen { library })
        })
    }

    /// Emits the close record, after the open record if that was not emitted.
    fn closed(&mut self, lifetime: &ConnectionLifecycle, reason: CloseReason, time: u64) -> io::Result<()> {
        if !lifetime.open_emitted {
            self.opened(lifetime)?;
        }
        let began = lifetime.began.filter(|_| lifetime.from_start);
        let duration = began.map(|began| time.saturating_sub(began));
        let traffic = lifetime.traffic;
        self.connection(lifetime, time, |library| {
            Body::SslClose(SslClose { library, duration, traffic, reason })
        })?;
        // After a fork, another process may go on with what this one has closed.
        if reason != CloseReason::Closed {
            self.connections.forget(lifetime.whole);
        }
        Ok(())
    }

    fn connection(
        &mut self,
        lifetime: &ConnectionLifecycle,
        time: u64,
        body: impl for<'r> FnOnce(Option<Cow<'r, Library>>) -> Body<'r>,
    ) -> io::Result<()> {
        let &ConnectionLifecycle { id, ref origin, thread, from_start, site, .. } = lifetime;
        let mut context = Context::of_thread(self.time(time), origin, thread);
        let connection = Connection { id, from_start, partial_attach: false, socket: None, tls: None };
        context.connection = Some(self.connections.describe(connection));
        let body = body(self.sites.get(&site).map(|site| Cow::Borrowed(&*site.library)));
        self.sink.write(&Record { context, body })
    }
}
