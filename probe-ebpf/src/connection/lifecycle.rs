//! The hooks at which connections are opened and closed. Which connection a handle stands for is determined
//! by [`identity`].
//!
//! A close is reported once. Calls on a connection that was closed along with its socket are still counted
//! for it, until its handle opens another connection or is seen on another socket.

use aya_ebpf::programs::{ProbeContext, RawTracePointContext};
use probe_common::{
    CallShape, ConnectionKey, ConnectionState, END_SOCKET_CLOSED, FLAG_ENDED, Header, KIND_CONNECTION_CLOSE,
    NO_SITE, SocketConnection,
};

use super::identity;
use crate::{
    current::Current,
    emit,
    io::{
        cleartext,
        frame::{self, ReturnContext},
    },
    maps::{CALLS, CONNECTIONS, SOCKETS},
    mem,
};

/// The tracepoint `tcp_destroy_sock`: `(struct sock *)`, when nothing more can pass through the socket. Its
/// ports may already be gone.
#[inline(always)]
pub fn socket_closed(ctx: &RawTracePointContext) -> Option<()> {
    let sock: u64 = ctx.arg(0);
    if cleartext::enabled() {
        cleartext::socket_closed(sock);
    }
    let SocketConnection { key, socket } = mem::copied(SOCKETS.get_ptr(sock)?);
    SOCKETS.remove(sock).ok();
    let state = mem::own(CONNECTIONS.get_ptr_mut(key)?);
    if state.flags & u64::from(FLAG_ENDED) != 0 || identity::is_other(state, socket) {
        return None;
    }
    state.flags |= u64::from(FLAG_ENDED);
    // The current thread is unrelated to the connection, so the header does not describe it.
    let header = Header {
        kind: KIND_CONNECTION_CLOSE,
        pid: key.pid,
        tid: key.pid,
        reserved: 0,
        time: mem::now(),
        cgroup: 0,
        comm: [0; 16],
    };
    emit::connection_close(header, state, (END_SOCKET_CLOSED, NO_SITE));
    Some(())
}

/// At the return of a function that does the handshake, at whose entry [`crate::io::call::enter`] ran.
/// Whatever passed through a socket in between belongs to the connection.
#[inline(always)]
pub fn on_handshake_return(ctx: &impl ReturnContext) -> Option<()> {
    frame::take_frame(ctx, Current::any()).map(drop)
}

/// At the return of a function that creates a connection and returns its handle.
#[inline(always)]
pub fn opened(ctx: &impl ReturnContext) -> Option<()> {
    let current = Current::any();
    // An exit may be shared with functions that return something else.
    frame::take_frame(ctx, current)?;
    identity::open(ctx, current, ctx.registers().rax)
}

/// At the entry of a function that prepares the connection in its first argument.
#[inline(always)]
pub fn open_first(ctx: &ProbeContext) -> Option<()> {
    identity::open(ctx, Current::in_scope()?, mem::registers(ctx.regs).rdi)
}

/// At the entry of a function that marks the connection in its first argument as new, possibly more than
/// once. It is the same connection as long as it has received nothing. Servers of rustls may send before the
/// client has answered.
#[inline(always)]
pub fn open_if_new(ctx: &ProbeContext) -> Option<()> {
    let current = Current::in_scope()?;
    let handle = mem::registers(ctx.regs).rdi;
    match CONNECTIONS.get_ptr_mut(identity::key(current, handle)?) {
        Some(state) if is_at_its_beginning(mem::own(state)) => None,
        _ => identity::open(ctx, current, handle),
    }
}

#[inline(always)]
fn is_at_its_beginning(state: &ConnectionState) -> bool {
    state.received == 0 && state.flags & u64::from(FLAG_ENDED) == 0
}

/// At the return of a function that stores a connection's handle where its first argument points to.
#[inline(always)]
pub fn opened_out_argument(ctx: &impl ReturnContext) -> Option<()> {
    let current = Current::any();
    let (frame, _) = frame::take_frame(ctx, current)?;
    identity::open(ctx, current, mem::user(frame.handle)?)
}

/// At the entry of a function that closes the connection in its first argument. The next connection with this
/// handle is another one.
#[inline(always)]
pub fn close_first(ctx: &ProbeContext) -> Option<()> {
    identity::close(ctx, Current::in_scope()?, mem::registers(ctx.regs).rdi)
}

/// At the entry of a function that encrypts or decrypts: the enclosing calls belong to TLS connections.
#[inline(always)]
pub fn mark_tls(ctx: &ProbeContext) -> Option<()> {
    let current = Current::in_scope()?;
    let frames = mem::own(CALLS.get_ptr_mut(current.id)?);
    let stack = mem::registers(ctx.regs).rsp;
    for frame in &frames.frames {
        let shape = CallShape::unpack(probe_common::arguments(frame.cookie));
        if frame.stack > stack && !shape.calls.is_for_all() {
            let key =
                ConnectionKey { handle: frame.handle, pid: current.pid(), program: frames.program as u32 };
            if CONNECTIONS.get_ptr(key).is_none() {
                identity::ensure_connection(key, probe_common::site(frame.cookie));
            }
        }
    }
    Some(())
}
