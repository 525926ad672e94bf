//! Which parts are joined, and where their calls belong.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use probe_common::FLAG_FROM_START;
use zerocopy::FromZeros as _;

use super::*;

const PARENT: u64 = 3;
const CHILD: u64 = 7;

fn shared() -> SharedConnections {
    SharedConnections::new(NonZeroUsize::new(16).unwrap())
}

/// The record of a connection's socket, which is number 40 and has the handle 0x1000.
fn socket(connection: u64, pid: u32) -> SocketRecord {
    let mut socket = SocketRecord::new_zeroed();
    (socket.connection, socket.header.pid, socket.socket, socket.handle) = (connection, pid, 40, 0x1000);
    socket
}

/// A call, its number, its offset and its length.
fn call(connection: u64, flags: u32, (number, stream_offset, length): (u64, u64, u64)) -> Call {
    let call = Call::new_zeroed();
    Call { connection, flags: flags | FLAG_FROM_START, number, stream_offset, length, ..call }
}

/// Joins the child's part to the parent's, which has made 5 calls, received 100 bytes and sent 30.
fn joined() -> (SharedConnections, Traffic) {
    let mut shared = shared();
    let whole = Traffic { calls: 5, received: 100, transmitted: 30 };
    assert_eq!(shared.join(&socket(PARENT, 10), |_| None), None);
    assert_eq!(shared.join(&socket(CHILD, 11), |id| (id == PARENT).then_some(whole)), Some(PARENT));
    (shared, whole)
}

#[test]
fn what_is_not_the_same_connection_is_not_joined() {
    let check = |change: &dyn Fn(&mut SocketRecord)| {
        let mut shared = shared();
        assert_eq!(shared.join(&socket(PARENT, 10), |_| None), None);
        let mut other = socket(CHILD, 11);
        change(&mut other);
        shared.join(&other, |_| Some(Traffic::default()))
    };
    assert_eq!(check(&|_| ()), Some(PARENT));
    assert_eq!(check(&|other| other.socket += 8), None);
    assert_eq!(check(&|other| other.handle += 8), None);
    assert_eq!(check(&|other| other.header.pid = 10), None, "another connection of the same process");
    assert_eq!(check(&|other| other.flags = SOCKET_FROM_START), None, "its own handshake");
    assert_eq!(check(&|other| other.flags = SOCKET_GUESSED), None);
    assert_eq!(check(&|other| other.calls = 1), None, "its calls were reported as another connection's");
}

#[test]
fn each_direction_is_one_stream_whoever_uses_it() {
    let (mut shared, mut whole) = joined();
    assert_eq!((shared.whole(PARENT), shared.whole(CHILD), shared.whole(9)), (Some(3), Some(3), None));
    let mut at = |connection, flags, counts| {
        let position = shared.position(&call(connection, flags, counts), &mut whole);
        (position.call, position.stream_offset)
    };
    assert_eq!(at(CHILD, FLAG_TRANSMIT, (1, 0, 10)), (6, 30));
    assert_eq!(at(PARENT, 0, (6, 100, 7)), (7, 100));
    // The same call once more: a further piece of it.
    assert_eq!(at(CHILD, FLAG_TRANSMIT, (1, 0, 10)), (6, 30));
    assert_eq!(at(CHILD, FLAG_TRANSMIT, (2, 10, 5)), (8, 40));
    // A call and 20 bytes were lost.
    assert_eq!(at(PARENT, 0, (8, 127, 1)), (10, 127));
    // The parent sends again.
    assert_eq!(at(PARENT, FLAG_TRANSMIT, (9, 30, 2)), (11, 45));
    assert_eq!(at(CHILD, FLAG_TRANSMIT, (3, 15, 1)), (12, 47));
    assert_eq!(whole, Traffic { calls: 12, received: 128, transmitted: 48 });
}

#[test]
fn a_connection_of_one_process_is_where_the_kernel_says() {
    let (mut shared, mut whole) = (shared(), Traffic::default());
    let position = shared.position(&call(PARENT, 0, (4, 1000, 24)), &mut whole);
    assert_eq!((position.call, position.stream_offset), (4, 1000));
    assert_eq!(whole, Traffic { calls: 4, received: 1024, transmitted: 0 });
}
