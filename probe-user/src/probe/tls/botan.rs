//! Botan 3 passes received data to the program by a virtual call, `tls_record_received` of the callbacks
//! object, made inside of `from_peer`. The functions that make this call have no exported names, so they are
//! found by the errors that they report instead of calling. `from_peer` identifies the connection: its first
//! argument is the same object as that of `to_peer`, which sends.
//!
//! This file has these errors, the index of the virtual method, and the row of the library table for the rest
//! of Botan 3 and for Botan 2.

use probe_common::{BufferLayout, CallShape, Calls, IoDirection, LengthSource};

use crate::elf::{Object, StringPattern};
use crate::error_chain;
use crate::plan::{Hook, ProbeProgram};
use crate::probe::ProbeMatch;

use super::libraries::{TlsLibrary, first, with_layout};
use super::{SslProbe, add_public, places};

/// Botan::TLS::{Client,Server}::from_peer(std::span<unsigned char const>).
pub(super) const FROM_PEER: [&str; 2] = [
    "_ZN5Botan3TLS6Client9from_peerESt4spanIKhLm18446744073709551615EE",
    "_ZN5Botan3TLS6Server9from_peerESt4spanIKhLm18446744073709551615EE",
];

/// The errors that are reported instead of passing data on, in TLS 1.2 and in TLS 1.3.
const ERRORS: &[StringPattern] = &[
    StringPattern::Whole("Application data before handshake done"),
    StringPattern::Whole("decrypted application traffic had a sequence number"),
];

/// The function name in events.
const RECEIVED: &str = "Botan::TLS::Callbacks::tls_record_received";
/// The offset of `(callbacks, record number, address, length)` in the vtable: after two destructors and
/// `tls_emit_data`, since Botan 2.
const METHOD: u64 = 0x18;

/// The part of Botan that needs no code of its own.
pub(super) const ROW: TlsLibrary = TlsLibrary {
    name: "Botan",
    sonames: &["libbotan-"],
    functions: &[
        // Botan 2: Botan::TLS::Channel::send(unsigned char const*, unsigned long).
        with_layout("_ZN5Botan3TLS7Channel4sendEPKhm", IoDirection::Transmit, BufferLayout::PtrLen),
        // process_application_data(unsigned long, Botan::secure_vector<unsigned char> const&), which calls
        // the program's callback.
        with_layout(
            "_ZN5Botan3TLS7Channel24process_application_dataEmRKSt6vectorIhNS_16secure_allocatorIhEEE",
            IoDirection::Receive,
            BufferLayout::BeginEnd,
        ),
        // Botan 3: Botan::TLS::{Client,Server}::to_peer(std::span<unsigned char const>). `add` hooks what
        // Botan 3 receives.
        with_layout(
            "_ZN5Botan3TLS6Client7to_peerESt4spanIKhLm18446744073709551615EE",
            IoDirection::Transmit,
            BufferLayout::PtrLen,
        ),
        with_layout(
            "_ZN5Botan3TLS6Server7to_peerESt4spanIKhLm18446744073709551615EE",
            IoDirection::Transmit,
            BufferLayout::PtrLen,
        ),
    ],
    // Botan 2: Channel(Callbacks&, Session_Manager&, RandomNumberGenerator&, Policy const&, bool, bool,
    // unsigned long). Botan 3: Client and Server(std::shared_ptr<Callbacks> const&, ...).
    constructors: &[
        first(
            "_ZN5Botan3TLS7ChannelC2ERNS0_9CallbacksERNS0_15Session_ManagerERNS_21RandomNumberGeneratorERKNS0_6PolicyEbbm",
        ),
        first(
            "_ZN5Botan3TLS6ClientC2ERKSt10shared_ptrINS0_9CallbacksEERKS2_INS0_15Session_ManagerEERKS2_INS_19Credentials_ManagerEERKS2_IKNS0_6PolicyEERKS2_INS_21RandomNumberGeneratorEENS0_18Server_InformationENS0_16Protocol_VersionERKSt6vectorINSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEESaISW_EEm",
        ),
        first(
            "_ZN5Botan3TLS6ServerC2ERKSt10shared_ptrINS0_9CallbacksEERKS2_INS0_15Session_ManagerEERKS2_INS_19Credentials_ManagerEERKS2_IKNS0_6PolicyEERKS2_INS_21RandomNumberGeneratorEEbm",
        ),
    ],
    external_constructors: &[],
    destructors: &[],
    optional_destructors: &[
        // Botan 2: ~Channel(); Botan 3: ~Client() and ~Server().
        "_ZN5Botan3TLS7ChannelD2Ev",
        "_ZN5Botan3TLS6ClientD2Ev",
        "_ZN5Botan3TLS6ServerD2Ev",
    ],
    handshakes: &[],
    version_in: None,
    internals: &[],
};

/// Adds the hooks for data that Botan 3 receives.
pub(super) fn add(object: &Object, watched: SslProbe, found: &mut ProbeMatch) {
    if FROM_PEER.iter().all(|name| object.functions(name).is_empty()) {
        return;
    }
    let calls = match object.guarded_calls(ERRORS, METHOD) {
        Ok(calls) if !calls.is_empty() => calls,
        Ok(_) => {
            return found
                .skipped
                .push(unseen("the error messages by which ctrace recognises it are missing"));
        }
        Err(reason) => return found.skipped.push(unseen(&error_chain::in_one_line(&reason))),
    };
    let shape = CallShape {
        handle: 0,
        buffer: 2,
        length: LengthSource::Returned,
        direction: IoDirection::Receive,
        calls: Calls::All,
    };
    for offset in calls.into_iter().filter_map(|call| object.file_offset(call)) {
        found.hooks.push(Hook::new(ProbeProgram::CallbackData, RECEIVED.to_owned(), offset, shape.pack()));
    }
    found.evidence.push(
        "the calls by which Botan 3 passes on received data were found by the error messages beside them"
            .to_owned(),
    );
    let Some(places) = places(object, watched, found) else { return };
    for name in FROM_PEER {
        add_public(&places, name, ProbeProgram::CallbackScope, 0, found);
    }
}

fn unseen(why: &str) -> String {
    format!("{RECEIVED}: data that Botan 3 receives is not traced: {why}")
}
