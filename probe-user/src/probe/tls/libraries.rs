//! The TLS libraries with a C ABI: one row each. To add one, add a row.

use probe_common::{BufferLayout, CallShape, Calls, Direction, Length};

use crate::plan::ProbeProgram;

/// A function that moves plaintext.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    /// Its symbol.
    pub name: &'static str,
    /// The argument with the connection.
    pub handle: u8,
    /// The argument with the bytes.
    pub buffer: u8,
    /// Where the number of bytes is.
    pub length: Length,
    /// Which way they go.
    pub direction: Direction,
    /// Which calls are of TLS connections.
    pub calls: Calls,
    /// Where the bytes are, if buffer and length do not say it.
    pub form: Option<BufferLayout>,
}

impl Function {
    /// For the kernel.
    pub(super) const fn arguments(&self) -> u32 {
        let &Self { name: _, handle, buffer, length, direction, calls, form } = self;
        let shape = CallShape { handle, buffer, length, direction, calls };
        match form {
            None => shape.pack(),
            Some(form) => shape.pack() | form.pack(),
        }
    }

    /// What runs there.
    pub(super) const fn program(&self) -> ProbeProgram {
        match self.form {
            None => ProbeProgram::Io,
            Some(BufferLayout::IoVec | BufferLayout::IoVecFrom) => ProbeProgram::IoVec,
            Some(BufferLayout::RustChunks) => ProbeProgram::IoVecAtRets,
            Some(
                BufferLayout::PtrLen
                | BufferLayout::BeginEnd
                | BufferLayout::Payload
                | BufferLayout::Message(_)
                | BufferLayout::AckBuffer,
            ) => ProbeProgram::IoAtEntry,
            Some(BufferLayout::LendBuffer | BufferLayout::PacketOut) => ProbeProgram::BorrowBuffer,
            Some(BufferLayout::PacketGet) => ProbeProgram::UnwrapPacket,
        }
    }

    const fn of(mut self, calls: Calls) -> Self {
        self.calls = calls;
        self
    }
}

/// An internal function that several public ones may share: one cheaper hook in place of theirs, where
/// the machine code proves it (see [`super::internal`]).
#[derive(Clone, Copy, Debug)]
pub(super) struct Internal {
    /// Its name in the library's source.
    pub name: &'static str,
    /// Public functions that hand on exactly their own arguments; the first that is there is followed.
    pub forwarders: &'static [&'static str],
    /// The public function that must call the same internal one.
    pub witness: &'static str,
}

/// Where a function that makes a connection has its handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handle {
    /// It returns it.
    Returned,
    /// In its first argument.
    First,
    /// Where its first argument points to, once it has returned.
    BehindFirst,
    /// It is that of the call that it is a part of: the function encrypts or decrypts.
    OfOuterCall,
}

impl Handle {
    /// What runs there.
    pub(super) const fn program(self) -> ProbeProgram {
        match self {
            Self::Returned => ProbeProgram::Open,
            Self::First => ProbeProgram::OpenFirst,
            Self::BehindFirst => ProbeProgram::OpenOutArg,
            Self::OfOuterCall => ProbeProgram::MarkTls,
        }
    }
}

/// A function that makes a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    /// Its symbol.
    pub name: &'static str,
    /// Where the connection is.
    pub handle: Handle,
}

/// A library.
#[derive(Clone, Copy, Debug)]
pub(super) struct Library {
    /// The API; of one that has a single implementation, that one's name.
    pub name: &'static str,
    /// What moves bytes; each is optional.
    pub functions: &'static [Function],
    /// What makes a connection; each is optional.
    pub constructors: &'static [Open],
    /// The same, of a library that is made of several, each of which is looked at for itself: they are enough
    /// to know it by.
    pub external_constructors: &'static [Open],
    /// What ends the connection in its first argument; each is optional. Not needed where what makes one is
    /// told: a handle that comes again is a new connection then.
    pub destructors: &'static [&'static str],
    /// The same, hooked only where the ends of connections are told.
    pub optional_destructors: &'static [&'static str],
    /// What does the handshake of the connection in its first argument; each is optional, and hooked only
    /// where connections are told: one whose handshake fails has its socket by it.
    pub handshakes: &'static [&'static str],
    /// How the name of the library begins that knows the version, if it is not this one.
    pub version_in: Option<&'static str>,
    /// Shared internal functions.
    pub internals: &'static [Internal],
}

const fn function(name: &'static str, direction: Direction, length: Length) -> Function {
    Function { name, handle: 0, buffer: 1, length, direction, calls: Calls::All, form: None }
}

pub(super) const fn with_layout(name: &'static str, direction: Direction, form: BufferLayout) -> Function {
    let mut function = function(name, direction, Length::Returned);
    function.form = Some(form);
    function
}

const fn returned(name: &'static str) -> Open {
    Open { name, handle: Handle::Returned }
}

pub(super) const fn first(name: &'static str) -> Open {
    Open { name, handle: Handle::First }
}

const fn of_outer_call(name: &'static str) -> Open {
    Open { name, handle: Handle::OfOuterCall }
}

/// Name of the row of OpenSSL and what has its API.
pub(super) const OPENSSL: &str = "OpenSSL API";

/// All rows.
///
/// A public function that calls another one (`SSL_read_ex` → `SSL_read` in LibreSSL) is hooked as well:
/// the kernel reports only the outer of two nested calls with the same handle and buffer. `SSL_peek` is
/// not here: the same bytes come again with the read.
pub(super) const LIBRARIES: &[Library] = &[
    // OpenSSL 1.0 to 3.x, LibreSSL, BoringSSL, AWS-LC.
    Library {
        name: OPENSSL,
        functions: &[
            function("SSL_read", Direction::Receive, Length::Returned),
            function("SSL_write", Direction::Transmit, Length::Returned),
            // (ssl, buf, num, *done), from OpenSSL 1.1.1.
            function("SSL_read_ex", Direction::Receive, Length::OutArgument(3)),
            function("SSL_write_ex", Direction::Transmit, Length::OutArgument(3)),
            // (ssl, buf, num, flags, *done), from OpenSSL 3.3.
            function("SSL_write_ex2", Direction::Transmit, Length::OutArgument(4)),
            function("SSL_read_early_data", Direction::Receive, Length::OutArgument(3)),
            function("SSL_write_early_data", Direction::Transmit, Length::OutArgument(3)),
        ],
        constructors: &[returned("SSL_new")],
        external_constructors: &[],
        destructors: &[],
        optional_destructors: &["SSL_free"],
        handshakes: &["SSL_do_handshake", "SSL_connect", "SSL_accept"],
        version_in: Some("libcrypto"),
        internals: &[
            // ssl_read_internal(ssl, buf, num, *done), from OpenSSL 1.1.1.
            Internal { name: "ssl_read_internal", forwarders: &["SSL_read_ex"], witness: "SSL_read" },
            // ssl_write_internal(ssl, buf, num, *done); with flags before done from OpenSSL 3.3.
            Internal {
                name: "ssl_write_internal",
                forwarders: &["SSL_write_ex2", "SSL_write_ex"],
                witness: "SSL_write",
            },
        ],
    },
    Library {
        name: "GnuTLS",
        functions: &[
            function("gnutls_record_send", Direction::Transmit, Length::Returned),
            // (session, data, size, padding, flags), from 3.6.3.
            function("gnutls_record_send2", Direction::Transmit, Length::Returned),
            function("gnutls_record_send_early_data", Direction::Transmit, Length::Returned),
            function("gnutls_record_recv", Direction::Receive, Length::Returned),
            // (session, data, size, *number of the record).
            function("gnutls_record_recv_seq", Direction::Receive, Length::Returned),
            function("gnutls_record_recv_early_data", Direction::Receive, Length::Returned),
            // (session, *packet), from 3.3.5; then (packet, *datum, *number of the record).
            with_layout("gnutls_record_recv_packet", Direction::Receive, BufferLayout::PacketOut),
            with_layout("gnutls_packet_get", Direction::Receive, BufferLayout::PacketGet),
        ],
        constructors: &[Open { name: "gnutls_init", handle: Handle::BehindFirst }],
        external_constructors: &[],
        destructors: &["gnutls_deinit"],
        optional_destructors: &[],
        handshakes: &["gnutls_handshake"],
        version_in: None,
        internals: &[],
    },
    Library {
        name: "Mbed TLS",
        functions: &[
            function("mbedtls_ssl_read", Direction::Receive, Length::Returned),
            function("mbedtls_ssl_write", Direction::Transmit, Length::Returned),
            // From 3.6.
            function("mbedtls_ssl_read_early_data", Direction::Receive, Length::Returned),
            function("mbedtls_ssl_write_early_data", Direction::Transmit, Length::Returned),
        ],
        constructors: &[
            first("mbedtls_ssl_setup"),
            first("mbedtls_ssl_session_reset"),
            // What it calls, by which it is found without symbols.
            first("mbedtls_ssl_session_reset_int"),
        ],
        external_constructors: &[],
        destructors: &["mbedtls_ssl_free"],
        optional_destructors: &[],
        handshakes: &["mbedtls_ssl_handshake"],
        version_in: Some("libmbedcrypto"),
        internals: &[],
    },
    Library {
        name: "wolfSSL",
        functions: &[
            function("wolfSSL_read", Direction::Receive, Length::Returned),
            function("wolfSSL_write", Direction::Transmit, Length::Returned),
            // (ssl, data, size, flags).
            function("wolfSSL_recv", Direction::Receive, Length::Returned),
            function("wolfSSL_send", Direction::Transmit, Length::Returned),
            // What these call, by which they are found without symbols: (ssl, data, size, whether it only
            // looks). No symbol has such a name.
            function("ReceiveData of wolfSSL", Direction::Receive, Length::Returned)
                .of(Calls::AllUnlessPeeking),
            function("SendData of wolfSSL", Direction::Transmit, Length::Returned),
        ],
        constructors: &[returned("wolfSSL_new"), first("SetSSL_CTX of wolfSSL")],
        external_constructors: &[],
        destructors: &[],
        optional_destructors: &["wolfSSL_free"],
        handshakes: &["wolfSSL_negotiate", "wolfSSL_connect", "wolfSSL_accept"],
        version_in: None,
        internals: &[],
    },
    // Its functions are NSPR's, for files and pipes as well: a descriptor is one of TLS when SSL_ImportFD has
    // returned it, or when a call with it encrypts or decrypts (it was accepted, or imported before ctrace
    // came).
    Library {
        name: "NSS",
        functions: &[
            function("PR_Read", Direction::Receive, Length::Returned).of(Calls::OfTls),
            function("PR_Write", Direction::Transmit, Length::Returned).of(Calls::OfTls),
            // (descriptor, data, size, flags, timeout).
            function("PR_Recv", Direction::Receive, Length::Returned).of(Calls::OfTlsUnlessPeeking),
            function("PR_Send", Direction::Transmit, Length::Returned).of(Calls::OfTls),
            // (descriptor, pieces, count, timeout).
            with_layout("PR_Writev", Direction::Transmit, BufferLayout::IoVec).of(Calls::OfTls),
        ],
        constructors: &[],
        external_constructors: &[
            returned("SSL_ImportFD"),
            returned("DTLS_ImportFD"),
            of_outer_call("PK11_AEADOp"),
            of_outer_call("PK11_CipherOp"),
            of_outer_call("PK11_Encrypt"),
            of_outer_call("PK11_Decrypt"),
        ],
        destructors: &["PR_Close"],
        optional_destructors: &[],
        handshakes: &["SSL_ForceHandshake"],
        version_in: None,
        internals: &[],
    },
    Library {
        name: "s2n-tls",
        functions: &[
            // (connection, data, size, *blocked); the sending ones end in s2n_sendv_with_offset.
            function("s2n_recv", Direction::Receive, Length::Returned),
            function("s2n_send", Direction::Transmit, Length::Returned),
            with_layout("s2n_sendv", Direction::Transmit, BufferLayout::IoVec),
            with_layout("s2n_sendv_with_offset", Direction::Transmit, BufferLayout::IoVecFrom),
        ],
        constructors: &[returned("s2n_connection_new"), first("s2n_connection_wipe")],
        external_constructors: &[],
        destructors: &["s2n_connection_free"],
        optional_destructors: &[],
        handshakes: &["s2n_negotiate"],
        version_in: None,
        internals: &[],
    },
    // What br_sslio_read and br_sslio_write are built on, and event loops.
    Library {
        name: "BearSSL",
        functions: &[
            with_layout("br_ssl_engine_recvapp_buf", Direction::Receive, BufferLayout::LendBuffer),
            with_layout("br_ssl_engine_recvapp_ack", Direction::Receive, BufferLayout::AckBuffer),
            with_layout("br_ssl_engine_sendapp_buf", Direction::Transmit, BufferLayout::LendBuffer),
            with_layout("br_ssl_engine_sendapp_ack", Direction::Transmit, BufferLayout::AckBuffer),
        ],
        // Their contexts begin with the engine.
        constructors: &[first("br_ssl_client_reset"), first("br_ssl_server_reset")],
        external_constructors: &[],
        destructors: &[],
        optional_destructors: &[],
        handshakes: &[],
        version_in: None,
        internals: &[],
    },
    super::botan::ROW,
];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use std::collections::BTreeSet;

    use probe_common::{BufferLayout, CallShape};

    use super::LIBRARIES;

    #[test]
    fn every_row_is_consistent() {
        let mut names = BTreeSet::new();
        for row in LIBRARIES {
            assert!(names.insert(row.name), "{} twice", row.name);
            assert!(!row.functions.is_empty(), "{} has no function", row.name);
            let functions = row.functions.iter().map(|function| function.name);
            let opens = row.constructors.iter().chain(row.external_constructors).map(|open| open.name);
            let ends = row.destructors.iter().chain(row.optional_destructors).chain(row.handshakes).copied();
            for name in functions.chain(opens).chain(ends) {
                assert!(names.insert(name), "{name} twice");
                assert!(!name.contains("peek"), "{name} gives bytes that a read gives again");
            }
            for function in row.functions {
                let arguments = function.arguments();
                assert_eq!(CallShape::unpack(arguments).direction, function.direction, "{}", function.name);
                assert_eq!(BufferLayout::unpack(arguments), function.form, "{}", function.name);
                assert!(function.handle < CallShape::ARGUMENTS && function.buffer < CallShape::ARGUMENTS);
            }
            let direction =
                |name: &str| row.functions.iter().find(|function| function.name == name).unwrap().direction;
            for internal in row.internals {
                for forwarder in internal.forwarders {
                    assert_eq!(direction(forwarder), direction(internal.witness), "{forwarder}");
                }
            }
        }
    }
}
