//! Finds the socket of a connection: the one that TLS records pass through during its calls, or right after
//! them.
//!
//! The addresses are read while the kernel uses the socket, because a descriptor that is looked up later may
//! already be another socket. What is not certain is marked ([`SOCKET_GUESSED`]), or not reported.

use aya_ebpf::programs::{FExitContext, RawTracePointContext};
use probe_common::{
    CLIENT_HELLO, CallShape, ConnectionKey, ConnectionState, FLAG_FROM_START, IoDirection, KIND_SOCKET,
    NO_SITE, OpenCall, RecordHeader, SERVER_HELLO, SOCKET_CLIENT, SOCKET_CONFIRMED, SOCKET_ESTABLISHED,
    SOCKET_FROM_START, SOCKET_GUESSED, SOCKET_SERVER, SocketConnection,
};

use super::{
    hello::{self, BEGIN, SocketTransfer},
    identity, socket_address, unattributed,
};
use crate::{
    constants::SOCKET_FIELDS,
    current::Current,
    emit,
    io::{cleartext, go},
    maps::{AMBIGUOUS, CALLS, CONNECTIONS, Frames, GO_CONNECTIONS, GoWork, OPEN_CALLS, SOCKETS},
    mem::{self, SystemCall},
};

/// `IPPROTO_TCP`. There is no event for the end of other sockets.
const TCP: u16 = 6;

/// The size of the header of a TLS record.
const HEADER: i32 = size_of::<RecordHeader>() as i32;

/// The tracepoint `sock_send_length`: `(struct sock *, int bytes, int flags)`, after the bytes were sent.
#[inline(always)]
pub fn sent(ctx: &RawTracePointContext) -> Option<()> {
    on_transfer(ctx.arg(0), IoDirection::Transmit, ctx.arg(1), ctx.arg(2))
}

/// The tracepoint `sock_recv_length`, with the same arguments.
#[inline(always)]
pub fn received(ctx: &RawTracePointContext) -> Option<()> {
    on_transfer(ctx.arg(0), IoDirection::Receive, ctx.arg(1), ctx.arg(2))
}

/// For kernels before 6.3, which lack these tracepoints: the return of a protocol's `int sendmsg(struct
/// socket *, struct msghdr *, size_t)`.
#[inline(always)]
pub fn on_sendmsg(ctx: &FExitContext) -> Option<()> {
    on_transfer(sock(ctx.arg(0))?, IoDirection::Transmit, ctx.arg(3), 0)
}

/// For the same kernels: the return of `ssize_t inet_sendpage(struct socket *, struct page *, int, size_t,
/// int flags)`, by which they send files.
#[inline(always)]
pub fn on_sendpage(ctx: &FExitContext) -> Option<()> {
    on_transfer(sock(ctx.arg(0))?, IoDirection::Transmit, ctx.arg(5), 0)
}

/// For the same kernels: the return of a protocol's `int recvmsg(struct socket *, struct msghdr *, size_t,
/// int flags)`.
#[inline(always)]
pub fn on_recvmsg(ctx: &FExitContext) -> Option<()> {
    on_transfer(sock(ctx.arg(0))?, IoDirection::Receive, ctx.arg(4), ctx.arg(3))
}

/// At the same tracepoint, after [`sent`] has found that the bytes have no TLS. It is a program of its own
/// because before Linux 6.13 the stack of one has no room for both.
#[inline(always)]
pub fn sent_in_clear(ctx: &RawTracePointContext) -> Option<()> {
    cleartext::on_transfer(ctx.arg(0), IoDirection::Transmit, ctx.arg(1), ctx.arg(2))
}

/// The same after [`received`].
#[inline(always)]
pub fn received_in_clear(ctx: &RawTracePointContext) -> Option<()> {
    cleartext::on_transfer(ctx.arg(0), IoDirection::Receive, ctx.arg(1), ctx.arg(2))
}

/// The same after [`on_sendmsg`].
#[inline(always)]
pub fn on_sendmsg_in_clear(ctx: &FExitContext) -> Option<()> {
    cleartext::on_transfer(sock(ctx.arg(0))?, IoDirection::Transmit, ctx.arg(3), 0)
}

/// The same after [`on_sendpage`].
#[inline(always)]
pub fn on_sendpage_in_clear(ctx: &FExitContext) -> Option<()> {
    cleartext::on_transfer(sock(ctx.arg(0))?, IoDirection::Transmit, ctx.arg(5), 0)
}

/// The same after [`on_recvmsg`].
#[inline(always)]
pub fn on_recvmsg_in_clear(ctx: &FExitContext) -> Option<()> {
    cleartext::on_transfer(sock(ctx.arg(0))?, IoDirection::Receive, ctx.arg(4), ctx.arg(3))
}

/// The `struct sock` of a `struct socket`.
#[inline(always)]
fn sock(socket: u64) -> Option<u64> {
    mem::kernel(socket + u64::from(mem::socket_fields(&SOCKET_FIELDS).sk))
}

/// The connection whose bytes are transferred. There are no `Option`s here, because the compiler would keep
/// their unused parts on the stack, which verifiers refuse.
struct Owner {
    /// The handle is 0 if the bytes belong to no connection.
    key: ConnectionKey,
    /// The number of bytes of the call, if it has returned already. 0 while it runs.
    unsent: u64,
    /// The position of the call on the stack, or 0.
    stack: u64,
}

const NOBODY: Owner = Owner { key: ConnectionKey { handle: 0, pid: 0, program: 0 }, unsent: 0, stack: 0 };

#[inline(always)]
fn on_transfer(sock: u64, direction: IoDirection, bytes: u64, flags: u64) -> Option<()> {
    // An int, which is negative on failure.
    let bytes = bytes as i32;
    if bytes == 0 && direction == IoDirection::Receive && cleartext::enabled() {
        return cleartext::peer_closed(sock);
    }
    if bytes <= 0 || flags & cleartext::OUTSIDE_OF_STREAM != 0 {
        return None;
    }
    let current = Current::any();
    let frames = CALLS.get_ptr_mut(current.id).map(mem::own);
    // Most threads of the machine are out of scope and have never made a call. Nothing is read for them.
    if frames.is_none() {
        Current::in_scope()?;
    }
    let system_call = mem::system_call()?;
    let socket = socket_address::identity(sock)?;
    let mut owner = match &frames {
        Some(frames) => of_thread(frames, direction, current, &system_call),
        None => NOBODY,
    };
    if is_established(&owner, socket) {
        return note_sent(frames, direction);
    }
    let mut work = NO_WORK;
    if frames.is_some() {
        Current::in_scope()?;
    } else {
        if let Some(known) = GO_CONNECTIONS.get_ptr(current.goroutine(system_call.goroutine)) {
            work = mem::copied(known);
            owner = Owner { key: work.key, ..NOBODY };
        }
        if is_established(&owner, socket) {
            return note_sent_by_goroutine(current, &system_call, &work, direction, bytes as u64);
        }
    }
    let (address, there) = system_call.place().first().unwrap_or((0, 0));
    // What is shorter than the header of a record is none.
    let begin: [u8; BEGIN] = match bytes {
        ..HEADER => [0; BEGIN],
        _ => mem::user(address).unwrap_or([0; BEGIN]),
    };
    let transfer = SocketTransfer { sock, socket, direction, bytes: bytes as u64, address, there, begin };
    let hello = hello::inspect(current, &transfer);
    // What a thread sends after a call may be of another connection, which need not have TLS.
    let is_of_nobody =
        owner.key.handle == 0 || cleartext::enabled() && owner.unsent != 0 && !transfer.header().is_valid();
    if is_of_nobody {
        unattributed::on_transfer(current, &transfer, hello);
    }
    if is_of_nobody || has_returned(&owner) {
        return None;
    }
    report(&transfer, current, &owner)?;
    if transfer.header().is_data() {
        note_sent_by_goroutine(current, &system_call, &work, direction, transfer.bytes);
    }
    note_sent(frames, direction)
}

const NO_WORK: GoWork = GoWork { key: NOBODY.key, sends_at: 0 };

/// Records that a goroutine has sent data of a connection.
#[inline(always)]
fn note_sent_by_goroutine(
    current: Current,
    system_call: &SystemCall,
    work: &GoWork,
    direction: IoDirection,
    bytes: u64,
) -> Option<()> {
    if direction == IoDirection::Transmit {
        go::passed_to_socket(current, system_call.goroutine, work, bytes);
    }
    None
}

/// The usual case: the transfer is inside a call, on the same socket as before.
#[inline(always)]
fn is_established(owner: &Owner, socket: u64) -> bool {
    let is = |state: *mut ConnectionState| {
        mem::own(state).socket == socket | SOCKET_CONFIRMED | SOCKET_ESTABLISHED
    };
    owner.key.handle != 0 && owner.unsent == 0 && CONNECTIONS.get_ptr_mut(owner.key).is_some_and(is)
}

/// Whether the call that the thread remembers has returned: on another thread, by a switch of stacks.
#[inline(always)]
fn has_returned(owner: &Owner) -> bool {
    owner.stack != 0 && OPEN_CALLS.get_ptr(OpenCall::at(owner.stack, owner.key.pid)).is_none()
}

/// Records that the pending data of a thread was sent.
#[inline(always)]
fn note_sent(frames: Option<&mut Frames>, direction: IoDirection) -> Option<()> {
    let frames = frames?;
    if direction == IoDirection::Transmit {
        frames.sends += 1;
        (frames.unsent, frames.unsent_bytes) = (0, 0);
    }
    Some(())
}

/// The owner of bytes that a thread transfers which has called TLS functions.
#[inline(always)]
fn of_thread(frames: &Frames, direction: IoDirection, current: Current, system_call: &SystemCall) -> Owner {
    let mut stack = u64::MAX;
    let mut handle = 0;
    let mut is_for_all = true;
    for frame in &frames.frames {
        // A frame below the stack pointer was left by longjmp. Of the others, the innermost transfers the
        // bytes.
        if frame.stack > system_call.stack && frame.stack < stack {
            (stack, handle) = (frame.stack, frame.handle);
            is_for_all = CallShape::unpack(probe_common::arguments(frame.cookie)).calls.is_for_all();
        }
    }
    let mut unsent = 0;
    if handle == 0 {
        (handle, unsent, stack) = (frames.unsent, frames.unsent_bytes, 0);
    }
    if handle == 0 || unsent != 0 && direction == IoDirection::Receive {
        return NOBODY;
    }
    let key = ConnectionKey { handle, pid: current.pid(), program: frames.program as u32 };
    // A descriptor of NSPR that is not TLS itself may carry the records of another connection.
    if !is_for_all && CONNECTIONS.get_ptr(key).is_none() {
        return NOBODY;
    }
    Owner { key, unsent, stack }
}

/// Reports the socket of a connection, unless that was done. None if the transferred bytes are not TLS.
#[inline(always)]
fn report(transfer: &SocketTransfer, current: Current, owner: &Owner) -> Option<()> {
    let header = transfer.header();
    if !header.is_valid() {
        return None;
    }
    let mut flags = 0;
    if owner.unsent != 0 {
        if owner.unsent == AMBIGUOUS || !header.carries(owner.unsent) {
            return Some(());
        }
        flags |= SOCKET_GUESSED;
    }
    let state = match CONNECTIONS.get_ptr_mut(owner.key).map(mem::own) {
        Some(state) if !identity::is_stale(state, transfer.socket) => state,
        known => {
            if known.is_some() {
                CONNECTIONS.remove(owner.key).ok();
            }
            identity::ensure_connection(owner.key, NO_SITE);
            mem::own(CONNECTIONS.get_ptr_mut(owner.key)?)
        }
    };
    let confirmed = if owner.unsent == 0 { SOCKET_CONFIRMED } else { 0 };
    // By the first record with data, both hellos have passed.
    let established = if header.is_data() && owner.unsent == 0 { SOCKET_ESTABLISHED } else { 0 };
    // A confirmed socket is never replaced by a guess.
    if owner.unsent != 0 && state.socket & SOCKET_CONFIRMED != 0 {
        return Some(());
    }
    if state.socket & !SOCKET_ESTABLISHED == transfer.socket | confirmed {
        state.socket |= established;
        return Some(());
    }
    // If the header arrived alone, there are no bytes behind it to read.
    if header.is_handshake() && transfer.bytes > size_of::<RecordHeader>() as u64 {
        flags |= match (transfer.begin[5], transfer.direction) {
            (CLIENT_HELLO, IoDirection::Transmit) | (SERVER_HELLO, IoDirection::Receive) => SOCKET_CLIENT,
            (SERVER_HELLO, IoDirection::Transmit) | (CLIENT_HELLO, IoDirection::Receive) => SOCKET_SERVER,
            _ => 0,
        };
    }
    if state.flags & u64::from(FLAG_FROM_START) != 0 {
        flags |= SOCKET_FROM_START;
    }
    let Some(mut entry) = emit::socket() else { return Some(()) };
    let record = mem::slot(&mut entry);
    record.header = emit::header(KIND_SOCKET, current);
    record.connection = state.id;
    record.socket = transfer.socket;
    record.handle = owner.key.handle;
    (record.calls, record.received, record.transmitted) = (state.calls, state.received, state.transmitted);
    record.flags = flags;
    socket_address::describe(record, transfer.sock);
    bind_socket(&owner.key, transfer.sock, transfer.socket, record.protocol);
    emit::submit(entry);
    unattributed::end(transfer);
    state.socket = transfer.socket | confirmed | established;
    Some(())
}

/// Records that a connection uses this socket, by its address and its identity.
#[inline(always)]
pub fn bind_socket(key: &ConnectionKey, sock: u64, socket: u64, protocol: u16) {
    if identity::enabled() && protocol == TCP {
        // If there is no room, the connection closes with its handle or its process.
        SOCKETS.insert(sock, SocketConnection { key: *key, socket }, 0).ok();
    }
}
