//! Which socket a connection is on: the one that TLS records go through inside of its calls, or right after
//! them.
//!
//! The addresses are read where the kernel uses them: a descriptor that is looked up later may be another
//! socket's by then. What is not sure is marked ([`SOCKET_GUESSED`]), or not told.

use aya_ebpf::programs::{FEntryContext, FExitContext, RawTracePointContext};
use probe_common::{
    ADDRESS_BYTES, CLIENT_HELLO, CallShape, ConnectionKey, ConnectionState, FAMILY_INET, FAMILY_INET6,
    FAMILY_UNIX, KIND_SOCKET, NO_SITE, RecordHeader, SERVER_HELLO, SOCKET_CLIENT, SOCKET_GUESSED,
    SOCKET_SERVER, Socket,
};

use super::{
    hello::{self, BEGIN, Moved},
    lifecycle,
};
use crate::{
    emit,
    io::{call, go},
    maps::{AMBIGUOUS, CALLS, CONNECTIONS, Frames, GO_CONNECTIONS, SOCKET_FIELDS},
    mem::{self, SystemCall},
    scope::Current,
};

/// Bits of `ConnectionState::socket`: one was told; it was seen inside of a call; its handshake is over.
const REPORTED: u64 = 1 << 0;
const CONFIRMED: u64 = 1 << 1;
const ESTABLISHED: u64 = 1 << 2;
/// What of it tells how a socket was seen, and not which one it is.
pub const STAGES: u64 = CONFIRMED | ESTABLISHED;

/// A flag of recv(2): the same bytes come again.
const MSG_PEEK: u64 = 2;

/// Which way the bytes of a system call go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the peer.
    Out,
    /// From it.
    In,
}

/// The tracepoints `sock_send_length` and `sock_recv_length`: `(struct sock *, int moved, int flags)`, when
/// it is done.
#[inline(always)]
pub fn done(ctx: &RawTracePointContext, way: Way) -> Option<()> {
    on_transfer(ctx.arg(0), way, ctx.arg(1), ctx.arg(2))
}

/// For kernels without them, before 6.3: `security_socket_sendmsg(struct socket *, struct msghdr *, int
/// size)`, which every way of sending comes through.
#[inline(always)]
pub fn sends(ctx: &FEntryContext) -> Option<()> {
    on_transfer(sock(ctx.arg(0))?, Way::Out, ctx.arg(2), 0)
}

/// The same: the end of a protocol's `int recvmsg(struct socket *, struct msghdr *, size_t, int flags)`.
#[inline(always)]
pub fn received(ctx: &FExitContext) -> Option<()> {
    on_transfer(sock(ctx.arg(0))?, Way::In, ctx.arg(4), ctx.arg(3))
}

/// The `struct sock` of a `struct socket`.
#[inline(always)]
fn sock(socket: u64) -> Option<u64> {
    mem::kernel(socket + u64::from(mem::socket_fields(&SOCKET_FIELDS).sk))
}

/// Whose bytes are moved. No `Option`s: the compiler would keep on the stack what they do not hold, which
/// verifiers refuse.
struct Owner {
    /// With the handle 0: nobody's.
    key: ConnectionKey,
    /// Bytes of the call, if it is over; 0: it is not.
    unsent: u64,
}

const NOBODY: Owner = Owner { key: ConnectionKey { handle: 0, pid: 0, program: 0 }, unsent: 0 };

#[inline(always)]
fn on_transfer(sock: u64, way: Way, bytes: u64, flags: u64) -> Option<()> {
    // An int: negative if it has failed.
    let bytes = bytes as i32;
    if bytes <= 0 || flags & MSG_PEEK != 0 {
        return None;
    }
    let current = Current::any();
    let frames = CALLS.get_ptr_mut(current.id).map(mem::own);
    // Most threads of the machine are out of scope, and have never called anything: nothing is looked at for
    // them.
    if frames.is_none() {
        Current::in_scope()?;
    }
    let system_call = mem::system_call()?;
    let socket = identity(sock)?;
    let mut owner = match &frames {
        Some(frames) => of_thread(frames, way, current, &system_call),
        None => NOBODY,
    };
    if is_settled(&owner, socket) {
        return count(frames, way);
    }
    if frames.is_some() {
        Current::in_scope()?;
    } else {
        owner = of_goroutine(current, &system_call);
        if is_settled(&owner, socket) {
            return None;
        }
    }
    let (address, there) = system_call.buffer()?;
    let begin: [u8; BEGIN] = mem::user(address)?;
    let moved = Moved { sock, socket, way, bytes: bytes as u64, address, there, begin };
    hello::moved(current, &moved);
    if owner.key.handle == 0 {
        return None;
    }
    tell(&moved, current, &owner)?;
    count(frames, way)
}

/// The usual case: what is moved inside of a call, on the socket that it was before.
#[inline(always)]
fn is_settled(owner: &Owner, socket: u64) -> bool {
    let is = |state: *mut ConnectionState| mem::own(state).socket == socket | CONFIRMED | ESTABLISHED;
    owner.key.handle != 0 && owner.unsent == 0 && CONNECTIONS.get_ptr_mut(owner.key).is_some_and(is)
}

/// What a thread had to send is sent.
#[inline(always)]
fn count(frames: Option<&mut Frames>, way: Way) -> Option<()> {
    let frames = frames?;
    if way == Way::Out {
        frames.sends += 1;
        (frames.unsent, frames.unsent_bytes) = (0, 0);
    }
    Some(())
}

/// Whose bytes a goroutine moves.
#[inline(always)]
fn of_goroutine(current: Current, system_call: &SystemCall) -> Owner {
    match GO_CONNECTIONS.get_ptr(go::goroutine(current, system_call.goroutine)) {
        Some(key) => Owner { key: mem::copied(key), unsent: 0 },
        None => NOBODY,
    }
}

/// Whose bytes a thread moves that has called functions of TLS.
#[inline(always)]
fn of_thread(frames: &Frames, way: Way, current: Current, system_call: &SystemCall) -> Owner {
    let mut stack = u64::MAX;
    let mut handle = 0;
    let mut is_for_all = true;
    for frame in &frames.frames {
        // One below the stack pointer was left by longjmp; of several the innermost moves the bytes.
        if frame.stack > system_call.stack && frame.stack < stack {
            (stack, handle) = (frame.stack, frame.handle);
            is_for_all = CallShape::unpack(probe_common::arguments(frame.cookie)).calls.is_for_all();
        }
    }
    let mut unsent = 0;
    if handle == 0 {
        (handle, unsent) = (frames.unsent, frames.unsent_bytes);
    }
    if handle == 0 || unsent != 0 && way == Way::In {
        return NOBODY;
    }
    let key = ConnectionKey { handle, pid: current.pid(), program: frames.program as u32 };
    // A descriptor of NSPR's that is not of TLS may carry somebody else's records.
    if !is_for_all && CONNECTIONS.get_ptr(key).is_none() {
        return NOBODY;
    }
    Owner { key, unsent }
}

/// Tells a connection's socket, unless it was told; none if what is moved is not TLS.
#[inline(always)]
fn tell(moved: &Moved, current: Current, owner: &Owner) -> Option<()> {
    let header = moved.header();
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
        Some(state) if !lifecycle::is_stale(state, moved.socket) => state,
        known => {
            if known.is_some() {
                CONNECTIONS.remove(owner.key).ok();
            }
            call::ensure_connection(owner.key, NO_SITE);
            mem::own(CONNECTIONS.get_ptr_mut(owner.key)?)
        }
    };
    let sure = if owner.unsent == 0 { CONFIRMED } else { 0 };
    // Both hellos have gone through by the first record of data.
    let settled = if header.is_data() && owner.unsent == 0 { ESTABLISHED } else { 0 };
    // What is sure is never taken back for a guess.
    if owner.unsent != 0 && state.socket & CONFIRMED != 0 {
        return Some(());
    }
    if state.socket & !ESTABLISHED == moved.socket | sure {
        state.socket |= settled;
        return Some(());
    }
    // Of a header that came alone, nothing behind it.
    if header.is_handshake() && moved.bytes > size_of::<RecordHeader>() as u64 {
        flags |= match (moved.begin[5], moved.way) {
            (CLIENT_HELLO, Way::Out) | (SERVER_HELLO, Way::In) => SOCKET_CLIENT,
            (SERVER_HELLO, Way::Out) | (CLIENT_HELLO, Way::In) => SOCKET_SERVER,
            _ => 0,
        };
    }
    let Some(mut entry) = emit::socket() else { return Some(()) };
    let record = mem::slot(&mut entry);
    record.header = emit::header(KIND_SOCKET, current);
    record.connection = state.id;
    record.socket = moved.socket;
    record.flags = flags;
    describe(record, moved.sock);
    lifecycle::bind_socket(&owner.key, moved.sock, moved.socket, record.protocol);
    emit::submit(entry);
    state.socket = moved.socket | sure | settled;
    Some(())
}

/// What tells a socket from one that is at the same address later: its peer and both ports.
#[inline(always)]
fn identity(sock: u64) -> Option<u64> {
    /// Odd: so that different numbers stay different.
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let fields = mem::socket_fields(&SOCKET_FIELDS);
    let peer: u64 = mem::kernel(sock + u64::from(fields.peer))?;
    let ports: u32 = mem::kernel(sock + u64::from(fields.peer_port))?;
    // It has a peer still and no port of its own any more: what is read now was there when the peer reset it.
    if ports != 0 && ports >> 16 == 0 {
        return None;
    }
    let mixed = (sock ^ peer.rotate_left(32)).wrapping_mul(MIX).rotate_left(29) ^ u64::from(ports);
    Some(mixed.wrapping_mul(MIX) & !STAGES | REPORTED)
}

/// Writes what a socket is.
#[inline(always)]
fn describe(record: &mut Socket, sock: u64) -> Option<()> {
    let fields = mem::socket_fields(&SOCKET_FIELDS);
    let at = |field: u32| sock + u64::from(field);
    (record.local_port, record.peer_port, record.local_bytes, record.peer_bytes) = (0, 0, 0, 0);
    (record.family, record.protocol) = (0, 0);
    (record.namespace, record.reserved) = (0, 0);
    record.family = mem::kernel(at(fields.family))?;
    if fields.namespace_inode != 0 {
        let namespace: u64 = mem::kernel(at(fields.namespace))?;
        record.namespace = mem::kernel(namespace + u64::from(fields.namespace_inode))?;
    }
    if record.family == FAMILY_UNIX {
        if fields.unix_name != 0 {
            record.local_bytes = unix_name(&mut record.local, sock).unwrap_or(0);
            let peer: u64 = mem::kernel(at(fields.unix_peer))?;
            record.peer_bytes = unix_name(&mut record.peer, peer).unwrap_or(0);
        }
        return Some(());
    }
    let (bytes, local, peer) = match record.family {
        FAMILY_INET => (4, fields.local, fields.peer),
        FAMILY_INET6 => (16, fields.local6, fields.peer6),
        _ => return None,
    };
    record.protocol = mem::kernel(at(fields.protocol))?;
    record.local_port = mem::kernel(at(fields.local_port))?;
    record.peer_port = u16::from_be(mem::kernel(at(fields.peer_port))?);
    if mem::copy_kernel(&mut record.local, at(local), bytes) {
        record.local_bytes = bytes as u16;
    }
    if mem::copy_kernel(&mut record.peer, at(peer), bytes) {
        record.peer_bytes = bytes as u16;
    }
    Some(())
}

/// The path that a unix socket is bound to; gives its length.
#[inline(always)]
fn unix_name(to: &mut [u8; ADDRESS_BYTES], sock: u64) -> Option<u16> {
    /// Bytes of the family, which a name begins with.
    const FAMILY: u32 = 2;
    let fields = mem::socket_fields(&SOCKET_FIELDS);
    if sock == 0 {
        return None;
    }
    let address: u64 = mem::kernel(sock + u64::from(fields.unix_address))?;
    if address == 0 {
        return None;
    }
    let length: u32 = mem::kernel(address + u64::from(fields.unix_length))?;
    let length = length.checked_sub(FAMILY)?.min(ADDRESS_BYTES as u32);
    let name = address + u64::from(fields.unix_name) + u64::from(FAMILY);
    mem::copy_kernel(to, name, length).then_some(length as u16)
}
