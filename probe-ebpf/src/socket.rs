//! Which socket a connection is on: the one that TLS records go through inside of its calls, or right after them.
//!
//! The addresses are read where the kernel uses them: a descriptor that is looked up later may be another socket's by
//! then. What is not sure is marked ([`SOCKET_GUESSED`]), or not told.

use aya_ebpf::programs::{FEntryContext, FExitContext, RawTracePointContext};
use probe_common::{
    ADDRESS_BYTES, CallShape, Calls, ConnectionKey, ConnectionState, FAMILY_INET, FAMILY_INET6, FAMILY_UNIX,
    KIND_SOCKET, RecordHeader, SOCKET_CLIENT, SOCKET_GUESSED, SOCKET_SERVER, Socket,
};

use crate::{
    call, emit, go,
    maps::{AMBIGUOUS, CALLS, CONNECTIONS, Frames, GO_CONNECTIONS, SOCKET_FIELDS},
    mem::{self, SystemCall},
    scope::Current,
};

/// Bits of `ConnectionState::socket`: one was told; it was seen inside of a call.
const TOLD: u64 = 1 << 0;
const SURE: u64 = 1 << 1;

/// Types of messages of the handshake (RFC 8446, section 4).
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

/// Which way the bytes of a system call go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the peer.
    Out,
    /// From it.
    In,
}

/// The tracepoints `sock_send_length` and `sock_recv_length`: `(struct sock *, int moved, int flags)`, when it is done.
#[inline(always)]
pub fn done(ctx: &RawTracePointContext, way: Way) -> Option<()> {
    moved(ctx.arg(0), way)
}

/// For kernels without them, before 6.3: `security_socket_sendmsg(struct socket *, …)`, which every way of sending comes
/// through.
#[inline(always)]
pub fn sends(ctx: &FEntryContext) -> Option<()> {
    moved(sock(ctx.arg(0))?, Way::Out)
}

/// The same: the end of a protocol's `recvmsg(struct socket *, …)`.
#[inline(always)]
pub fn received(ctx: &FExitContext) -> Option<()> {
    moved(sock(ctx.arg(0))?, Way::In)
}

/// The `struct sock` of a `struct socket`.
#[inline(always)]
fn sock(socket: u64) -> Option<u64> {
    mem::kernel(socket + u64::from(mem::socket_fields(&SOCKET_FIELDS).sk))
}

/// Whose bytes are moved.
struct Owner {
    key: ConnectionKey,
    /// Bytes of the call, if it is over.
    unsent: Option<u64>,
}

#[inline(always)]
fn moved(sock: u64, way: Way) -> Option<()> {
    let current = Current::any();
    let system_call = match CALLS.get_ptr_mut(current.id) {
        Some(frames) => return of_thread(sock, way, current, mem::own(frames)),
        None => mem::system_call()?,
    };
    let key = mem::copied(GO_CONNECTIONS.get_ptr(go::goroutine(current, system_call.goroutine))?);
    tell(sock, way, current, &system_call, &Owner { key, unsent: None })
}

/// Of a thread that has called functions of TLS.
#[inline(always)]
fn of_thread(sock: u64, way: Way, current: Current, frames: &mut Frames) -> Option<()> {
    let system_call = mem::system_call()?;
    let mut stack = u64::MAX;
    let mut handle = 0;
    let mut is_for_all = true;
    for frame in &frames.frames {
        // One below the stack pointer was left by longjmp; of several the innermost moves the bytes.
        if frame.stack > system_call.stack && frame.stack < stack {
            (stack, handle) = (frame.stack, frame.handle);
            is_for_all = CallShape::unpack(probe_common::arguments(frame.cookie)).calls == Calls::All;
        }
    }
    let unsent = (handle == 0).then_some(frames.unsent_bytes);
    if unsent.is_some() {
        handle = frames.unsent;
    }
    if handle == 0 || unsent.is_some() && way == Way::In {
        return None;
    }
    let key = ConnectionKey { handle, pid: current.pid(), program: frames.program as u32 };
    // A descriptor of NSPR's that is not of TLS may carry somebody else's records.
    if !is_for_all && CONNECTIONS.get_ptr(key).is_none() {
        return None;
    }
    tell(sock, way, current, &system_call, &Owner { key, unsent })?;
    if way == Way::Out {
        frames.sends += 1;
        (frames.unsent, frames.unsent_bytes) = (0, 0);
    }
    Some(())
}

/// Tells a connection's socket, unless it was told; none if what is moved is not TLS.
#[inline(always)]
fn tell(sock: u64, way: Way, current: Current, system_call: &SystemCall, owner: &Owner) -> Option<()> {
    let fields = mem::socket_fields(&SOCKET_FIELDS);
    let identity = identity(sock, fields.peer, fields.local_port)?;
    let is_known = |state: *mut ConnectionState| mem::own(state).socket == identity | SURE;
    // The usual case: what is moved inside of a call, on the socket that it was before.
    if owner.unsent.is_none() && CONNECTIONS.get_ptr_mut(owner.key).is_some_and(is_known) {
        return Some(());
    }
    let begin: [u8; 6] = mem::user(system_call.buffer()?)?;
    let header = RecordHeader([begin[0], begin[1], begin[2], begin[3], begin[4]]);
    if !header.is_valid() {
        return None;
    }
    let mut flags = 0;
    if let Some(unsent) = owner.unsent {
        if unsent == AMBIGUOUS || !header.carries(unsent) {
            return Some(());
        }
        flags |= SOCKET_GUESSED;
    }
    let state = match CONNECTIONS.get_ptr_mut(owner.key) {
        Some(state) => state,
        None => {
            call::meet(owner.key);
            CONNECTIONS.get_ptr_mut(owner.key)?
        }
    };
    let state = mem::own(state);
    let told = identity | if owner.unsent.is_none() { SURE } else { 0 };
    // What is sure is never taken back for a guess.
    if state.socket == told || owner.unsent.is_some() && state.socket & SURE != 0 {
        return Some(());
    }
    if header.is_handshake() {
        flags |= match (begin[5], way) {
            (CLIENT_HELLO, Way::Out) | (SERVER_HELLO, Way::In) => SOCKET_CLIENT,
            (SERVER_HELLO, Way::Out) | (CLIENT_HELLO, Way::In) => SOCKET_SERVER,
            _ => 0,
        };
    }
    let is_told = emit::socket(|record| {
        record.header = emit::header(KIND_SOCKET, current);
        record.connection = state.id;
        record.flags = flags;
        describe(record, sock);
    });
    if is_told {
        state.socket = told;
    }
    Some(())
}

/// What tells a socket from one that is at the same address later: its peer and its port.
#[inline(always)]
fn identity(sock: u64, peer: u32, local_port: u32) -> Option<u64> {
    let peer: u64 = mem::kernel(sock + u64::from(peer))?;
    let port: u16 = mem::kernel(sock + u64::from(local_port))?;
    Some((sock ^ peer.rotate_left(20) ^ u64::from(port) << 8) & !SURE | TOLD)
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
