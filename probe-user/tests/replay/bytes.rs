//! Records of the ring, made by hand.

use probe_common::{
    Call, FAMILY_UNIX, FLAG_FROM_START, FLAG_TRANSMIT, Header, HelloChunk, KIND_CALL, KIND_HELLO,
    KIND_SOCKET, KIND_TASK_EXIT, SocketRecord, TaskExit,
};
use zerocopy::{FromZeros, IntoBytes};

/// What OpenSSL has sent with TLS 1.2, and the beginning of the answer.
pub(super) const ASKED: &[u8] = include_bytes!("../../src/protocol/tls/hello/data/tls12-c0.bin");
pub(super) const ANSWERED: &[u8] = include_bytes!("../../src/protocol/tls/hello/data/tls12-s0.bin");

/// A record of the ring, aligned as there, with some room that is not used.
#[derive(Clone)]
pub(super) struct Raw(pub(super) Vec<u64>);

impl Raw {
    pub(super) fn new(parts: &[&[u8]]) -> Self {
        let bytes = parts.concat();
        let mut words = vec![0xA5A5_A5A5_A5A5_A5A5; bytes.len().div_ceil(8) + 2];
        words.as_mut_bytes()[..bytes.len()].copy_from_slice(&bytes);
        Self(words)
    }
}

pub(super) fn header(kind: u32, pid: u32, comm: &[u8]) -> Header {
    let mut header = Header::new_zeroed();
    (header.kind, header.pid, header.tid) = (kind, pid, pid);
    header.comm[..comm.len()].copy_from_slice(comm);
    header
}

/// A process ends, long after its program was executed.
pub(super) fn exit(pid: u32, comm: &[u8]) -> Raw {
    let header = header(KIND_TASK_EXIT, pid, comm);
    Raw::new(&[TaskExit { header, ..TaskExit::new_zeroed() }.as_bytes()])
}

/// A call of a connection of its own site; the default is a whole SSL_write of the server.
pub(super) fn call(number: u64, length: usize) -> Call {
    let mut call = Call::new_zeroed();
    call.header = header(KIND_CALL, 1234, b"tls-server");
    call.header.time = 5_000_000_000 + number * 1_000_123;
    call.entered = call.header.time - 2_345;
    (call.connection, call.number) = (7, number);
    call.length = length as u64;
    call.captured = u32::try_from(length).unwrap();
    call.flags = FLAG_TRANSMIT | FLAG_FROM_START;
    call
}

/// A call in chunks of `size`.
pub(super) fn chunks(call: Call, data: &[u8], size: usize) -> Vec<Raw> {
    if data.is_empty() {
        return vec![Raw::new(&[call.as_bytes()])];
    }
    let chunk = |(part, offset): (&[u8], usize)| {
        let chunk = u32::try_from(part.len()).unwrap();
        let call = Call { offset: u32::try_from(offset).unwrap(), chunk, ..call };
        Raw::new(&[call.as_bytes(), part])
    };
    data.chunks(size).zip((0..).step_by(size)).map(chunk).collect()
}

pub(super) fn whole(call: Call, data: &[u8]) -> Raw {
    chunks(call, data, 16384).pop().unwrap()
}

/// A connection's socket.
pub(super) fn socket(
    connection: u64,
    flags: u32,
    family: u16,
    local: (&[u8], u16),
    peer: (&[u8], u16),
) -> Raw {
    let mut socket = SocketRecord::new_zeroed();
    socket.header = header(KIND_SOCKET, 1234, b"tls-server");
    (socket.connection, socket.socket, socket.flags, socket.family) =
        (connection, connection << 1, flags, family);
    socket.protocol = if family == FAMILY_UNIX { 0 } else { 6 };
    (socket.local_port, socket.peer_port) = (local.1, peer.1);
    socket.local_bytes = u16::try_from(local.0.len()).unwrap();
    socket.peer_bytes = u16::try_from(peer.0.len()).unwrap();
    socket.local[..local.0.len()].copy_from_slice(local.0);
    socket.peer[..peer.0.len()].copy_from_slice(peer.0);
    Raw::new(&[socket.as_bytes()])
}

/// A hello on the socket of a connection, in parts as they were moved.
pub(super) fn hello(connection: u64, flags: u32, bytes: &[u8], size: usize) -> Vec<Raw> {
    let part = |(part, offset): (&[u8], usize)| {
        let mut hello = HelloChunk::new_zeroed();
        hello.header = header(KIND_HELLO, 1234, b"tls-server");
        (hello.socket, hello.flags) = (connection << 1, flags);
        (hello.bytes, hello.offset) = (u32::try_from(part.len()).unwrap(), u32::try_from(offset).unwrap());
        Raw::new(&[hello.as_bytes(), part])
    };
    bytes.chunks(size).zip((0..).step_by(size)).map(part).collect()
}
