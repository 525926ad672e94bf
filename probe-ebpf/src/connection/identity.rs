//! Which connection a handle stands for: its key, its id, and when the handle is reused for another one.
//!
//! A library may reuse a handle once its connection is closed, and a process that executes another program
//! starts over. So the key includes the number of the program, and a handle that is opened again gets a new
//! id.

use aya_ebpf::{EbpfContext, bindings::BPF_NOEXIST};
use probe_common::{
    ConnectionKey, ConnectionState, END_CLOSED, END_HANDLE_REUSED, FLAG_ENDED, FLAG_FROM_START,
    KIND_CONNECTION_CLOSE, Loss, NO_SITE, SOCKET_STAGES,
};

use crate::{
    constants::CONNECTION_RECORDS,
    current::Current,
    emit,
    maps::{CONNECTIONS, NEXT_CONNECTION, NEXT_PROGRAM, PROGRAMS},
    mem,
};

/// Whether records of opened and closed connections are wanted.
#[inline(always)]
pub fn enabled() -> bool {
    mem::constant(&CONNECTION_RECORDS) != 0
}

/// The hook that was hit, for a record of a connection.
#[inline(always)]
pub fn site(ctx: &impl EbpfContext) -> u32 {
    if enabled() { probe_common::site(mem::cookie(ctx)) } else { NO_SITE }
}

/// The key of the connection with this handle. None for a null pointer.
#[inline(always)]
pub fn key(current: Current, handle: u64) -> Option<ConnectionKey> {
    (handle != 0).then(|| ConnectionKey { handle, pid: current.pid(), program: program(current) })
}

/// The number of the program that the process runs, which distinguishes its handles from those of the
/// previous program.
#[inline(always)]
pub fn program(current: Current) -> u32 {
    PROGRAMS.get_ptr(current.pid()).map_or(0, |number| *mem::value(number))
}

/// Starts a new program in the process: its connections are new ones, even with the same handles. If the
/// table has no room, a handle that the previous program had too continues that connection.
#[inline(always)]
pub fn start_program(current: Current) {
    let Some(next) = NEXT_PROGRAM.get_ptr_mut(0) else { return };
    let number = mem::fetch_add(next, 1) + 1;
    PROGRAMS.insert(current.pid(), number as u32, 0).ok();
}

/// Assigns an id to a connection that is first seen at a hook mid-stream.
#[inline(always)]
pub fn ensure_connection(key: ConnectionKey, site: u32) {
    // Another thread may have been faster. Then the connection is the one that it has added.
    assign_id(key, 0, BPF_NOEXIST.into(), site);
    if CONNECTIONS.get_ptr(key).is_none() {
        emit::lost(Loss::ConnectionsFull, 0);
    }
}

/// Adds a connection and returns its id. None if there is no room, or if it exists although `how` forbids
/// that.
#[inline(always)]
fn assign_id(key: ConnectionKey, flags: u32, how: u64, site: u32) -> Option<u64> {
    let id = mem::fetch_add(NEXT_CONNECTION.get_ptr_mut(0)?, 1) + 1;
    let state = ConnectionState { id, flags: flags.into(), ..NEW_CONNECTION };
    CONNECTIONS.insert(key, state, how).ok()?;
    emit_open(&key, id, flags, site);
    Some(id)
}

const NEW_CONNECTION: ConnectionState =
    ConnectionState { id: 0, calls: 0, received: 0, transmitted: 0, flags: 0, socket: 0 };

/// Handles the opening of a connection with this handle.
#[inline(always)]
pub fn open(ctx: &impl EbpfContext, current: Current, handle: u64) -> Option<()> {
    let key = key(current, handle)?;
    let site = site(ctx);
    if reuse_or_close(&key, site) {
        return Some(());
    }
    let Some(id) = assign_id(key, FLAG_FROM_START, 0, site) else {
        emit::lost(Loss::ConnectionsFull, 0);
        return None;
    };
    emit::log_open(ctx, key.pid, id);
    Some(())
}

/// Prepares a handle for a new connection, and closes the previous one. Returns true if it still is the same
/// connection, which was prepared in two steps and not used in between.
#[inline(always)]
fn reuse_or_close(key: &ConnectionKey, site: u32) -> bool {
    if !enabled() {
        return false;
    }
    let Some(state) = CONNECTIONS.get_ptr_mut(key) else { return false };
    let state = mem::own(state);
    if state.calls == 0 && state.socket == 0 && state.flags == FLAG_FROM_START.into() {
        emit::connection_open(key, state.id, FLAG_FROM_START, site);
        return true;
    }
    if state.flags & u64::from(FLAG_ENDED) == 0 {
        emit::connection_close(
            emit::header(KIND_CONNECTION_CLOSE, Current::any()),
            state,
            (END_HANDLE_REUSED, NO_SITE),
        );
    }
    false
}

/// Reports a connection that has got its id.
#[inline(always)]
fn emit_open(key: &ConnectionKey, id: u64, flags: u32, site: u32) {
    if enabled() {
        emit::connection_open(key, id, flags, site);
    }
}

/// Handles the closing of the connection with this handle.
#[inline(always)]
pub fn close(ctx: &impl EbpfContext, current: Current, handle: u64) -> Option<()> {
    let key = key(current, handle)?;
    emit_close(&key, site(ctx));
    CONNECTIONS.remove(key).ok();
    Some(())
}

/// Reports that a function of the library closes the connection with this key, if there is one.
#[inline(always)]
fn emit_close(key: &ConnectionKey, site: u32) -> Option<()> {
    if !enabled() {
        return None;
    }
    let state = mem::own(CONNECTIONS.get_ptr_mut(key)?);
    if state.flags & u64::from(FLAG_ENDED) == 0 {
        emit::connection_close(
            emit::header(KIND_CONNECTION_CLOSE, Current::any()),
            state,
            (END_CLOSED, site),
        );
    }
    Some(())
}

/// Whether a connection that is seen on this socket is over: it was closed along with another socket.
#[inline(always)]
pub fn is_stale(state: &ConnectionState, socket: u64) -> bool {
    enabled() && state.flags & u64::from(FLAG_ENDED) != 0 && is_other(state, socket)
}

/// Whether the connection was last seen on another socket.
#[inline(always)]
pub fn is_other(state: &ConnectionState, socket: u64) -> bool {
    state.socket & !SOCKET_STAGES != socket
}
