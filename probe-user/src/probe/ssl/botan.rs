//! Botan 3: what it receives is handed to the program by a virtual call, `tls_record_received` of its callbacks, from inside of
//! `from_peer`. The functions that do so have no names outside of the library; they are found by the errors that they report instead.
//! Which connection it is, `from_peer` says, whose first argument is the same as that of `to_peer`, which sends.
//!
//! Owns these errors and the method's place. What is sent, and where connections begin, is in the table of libraries.

use probe_common::{CallShape, Calls, Direction, Length};

use crate::object::{Needle, Object, with_causes};
use crate::plan::{Hook, Program};
use crate::probe::Found;

use super::add_public;

/// Botan::TLS::{Client,Server}::from_peer(std::span<unsigned char const>).
pub(super) const FROM_PEER: [&str; 2] = [
    "_ZN5Botan3TLS6Client9from_peerESt4spanIKhLm18446744073709551615EE",
    "_ZN5Botan3TLS6Server9from_peerESt4spanIKhLm18446744073709551615EE",
];

/// What is reported instead of handing data over, in TLS 1.2 and in 1.3.
const ERRORS: &[Needle] = &[
    Needle::Whole("Application data before handshake done"),
    Needle::Whole("decrypted application traffic had a sequence number"),
];

/// As events name it.
const RECEIVED: &str = "Botan::TLS::Callbacks::tls_record_received";
/// Where `(callbacks, number of the record, address, length)` is in the table of virtual functions: behind two destructors and
/// `tls_emit_data`, since Botan 2.
const METHOD: u64 = 0x18;

/// Adds the hooks of what is received.
pub(super) fn add(object: &Object, found: &mut Found) {
    if FROM_PEER.iter().all(|name| object.functions(name).is_empty()) {
        return;
    }
    let calls = match object.guarded_calls(ERRORS, METHOD) {
        Ok(calls) if !calls.is_empty() => calls,
        Ok(_) => return found.skipped.push(unseen("it does not report the errors that it is known by")),
        Err(reason) => return found.skipped.push(unseen(&with_causes(&reason))),
    };
    let shape = CallShape {
        handle: 0,
        buffer: 2,
        length: Length::Returned,
        direction: Direction::Receive,
        calls: Calls::All,
    };
    for offset in calls.into_iter().filter_map(|call| object.file_offset(call)) {
        found.hooks.push(Hook::new(Program::Handed, RECEIVED.to_owned(), offset, shape.pack()));
    }
    found.evidence.push(
        "where Botan 3 hands over what it has received was found by the errors that it reports instead of it"
            .to_owned(),
    );
    for name in FROM_PEER {
        add_public(object, name, Program::Outer, 0, found);
    }
}

fn unseen(why: &str) -> String {
    format!("{RECEIVED}: what Botan 3 receives is not seen: {why}")
}
