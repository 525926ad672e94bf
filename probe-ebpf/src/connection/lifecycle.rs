//! Connections as they begin and end: tells both, where that is wanted. Which connection a handle is decides
//! [`crate::io::call`].
//!
//! An end is told once. What still comes of a connection that ended with its socket is counted with it, until
//! its handle begins another, or is seen on another socket.

use aya_ebpf::{
    EbpfContext,
    programs::{RawTracePointContext, RetProbeContext},
};
use probe_common::{
    ConnectionKey, ConnectionState, END_CLOSED, END_HANDLE_REUSED, END_SOCKET_CLOSED, FLAG_ENDED,
    FLAG_FROM_START, Header, KIND_CONNECTION_CLOSE, NO_SITE, SocketConnection,
};

use crate::{
    emit,
    io::call,
    maps::{CONNECTION_RECORDS, CONNECTIONS, SOCKETS},
    mem,
    scope::Current,
};

/// `IPPROTO_TCP`: of other sockets nothing tells the end.
const TCP: u16 = 6;

/// Whether beginnings and ends are told.
#[inline(always)]
pub fn enabled() -> bool {
    mem::constant(&CONNECTION_RECORDS) != 0
}

/// The hook that was hit, for a record.
#[inline(always)]
pub fn site(ctx: &impl EbpfContext) -> u32 {
    if enabled() { probe_common::site(mem::cookie(ctx)) } else { NO_SITE }
}

/// A connection has got its number.
#[inline(always)]
pub fn emit_open(key: &ConnectionKey, id: u64, flags: u32, site: u32) {
    if enabled() {
        emit::opened(key, id, flags, site);
    }
}

/// A handle is to begin a connection, whatever it was until now. Whether that is the same one still: prepared
/// in two steps, and not used in between.
#[inline(always)]
pub fn reuse_or_close(key: &ConnectionKey, site: u32) -> bool {
    if !enabled() {
        return false;
    }
    let Some(state) = CONNECTIONS.get_ptr_mut(key) else { return false };
    let state = mem::own(state);
    if state.calls == 0 && state.socket == 0 && state.flags == FLAG_FROM_START.into() {
        emit::opened(key, state.id, FLAG_FROM_START, site);
        return true;
    }
    if state.flags & u64::from(FLAG_ENDED) == 0 {
        emit::closed(
            emit::header(KIND_CONNECTION_CLOSE, Current::any()),
            state,
            (END_HANDLE_REUSED, NO_SITE),
        );
    }
    false
}

/// A function of the library ends the connection with this handle, if it is one.
#[inline(always)]
pub fn emit_close(key: &ConnectionKey, site: u32) -> Option<()> {
    if !enabled() {
        return None;
    }
    let state = mem::own(CONNECTIONS.get_ptr_mut(key)?);
    if state.flags & u64::from(FLAG_ENDED) == 0 {
        emit::closed(emit::header(KIND_CONNECTION_CLOSE, Current::any()), state, (END_CLOSED, site));
    }
    Some(())
}

/// Whether a connection is over that is seen on a socket: it ended with another one.
#[inline(always)]
pub fn is_stale(state: &ConnectionState, socket: u64) -> bool {
    enabled() && state.flags & u64::from(FLAG_ENDED) != 0 && is_other(state, socket)
}

#[inline(always)]
fn is_other(state: &ConnectionState, socket: u64) -> bool {
    state.socket & !super::socket::STAGES != socket
}

/// A connection is on a socket, by its address and what tells it from others.
#[inline(always)]
pub fn bind_socket(key: &ConnectionKey, sock: u64, socket: u64, protocol: u16) {
    if enabled() && protocol == TCP {
        // Without room its end is that of its handle or process.
        SOCKETS.insert(sock, SocketConnection { key: *key, socket }, 0).ok();
    }
}

/// The tracepoint `tcp_destroy_sock`: `(struct sock *)`, when nothing more can go through it. Its ports may
/// be gone already.
#[inline(always)]
pub fn socket_closed(ctx: &RawTracePointContext) -> Option<()> {
    let sock: u64 = ctx.arg(0);
    let SocketConnection { key, socket } = mem::copied(SOCKETS.get_ptr(sock)?);
    SOCKETS.remove(sock).ok();
    let state = mem::own(CONNECTIONS.get_ptr_mut(key)?);
    if state.flags & u64::from(FLAG_ENDED) != 0 || is_other(state, socket) {
        return None;
    }
    state.flags |= u64::from(FLAG_ENDED);
    // Whoever runs now has nothing to do with it.
    let header = Header {
        kind: KIND_CONNECTION_CLOSE,
        pid: key.pid,
        tid: key.pid,
        reserved: 0,
        time: mem::now(),
        cgroup: 0,
        comm: [0; 16],
    };
    emit::closed(header, state, (END_SOCKET_CLOSED, NO_SITE));
    Some(())
}

/// At the return of a function that does the handshake, at whose entry [`call::enter`] was: what went through
/// a socket in between has told it.
#[inline(always)]
pub fn on_handshake_return(ctx: &RetProbeContext) -> Option<()> {
    call::entered(ctx, Current::any()).map(drop)
}
