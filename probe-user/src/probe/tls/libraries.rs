//! The TLS libraries with a C ABI: one row each. To add one, add a row.

use probe_common::{BufferLayout, CallShape, Calls, IoDirection, LengthSource};

use crate::plan::ProbeProgram;

/// A function that sends or receives plaintext.
#[derive(Clone, Copy, Debug)]
pub(super) struct LibraryFunction {
    /// Its symbol.
    pub name: &'static str,
    /// The index of the argument that is the connection handle.
    pub handle: u8,
    /// The index of the argument that is the buffer.
    pub buffer: u8,
    /// Where the number of bytes is found.
    pub length: LengthSource,
    /// Whether the function sends or receives.
    pub direction: IoDirection,
    /// Which of its calls belong to TLS connections.
    pub calls: Calls,
    /// The layout of the data, if it is not simply a buffer with a length.
    pub form: Option<BufferLayout>,
}

impl LibraryFunction {
    /// Everything the BPF program must know, packed into its cookie.
    pub(super) const fn arguments(&self) -> u32 {
        let &Self { name: _, handle, buffer, length, direction, calls, form } = self;
        let shape = CallShape { handle, buffer, length, direction, calls };
        match form {
            None => shape.pack(),
            Some(form) => shape.pack() | form.pack(),
        }
    }

    /// The BPF program for this function.
    pub(super) const fn program(&self) -> ProbeProgram {
        match self.form {
            None => ProbeProgram::Io,
            Some(BufferLayout::IoVec | BufferLayout::IoVecFrom | BufferLayout::RustChunks) => {
                ProbeProgram::IoVec
            }
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

/// An internal function that several public ones may share. Hooking it instead of them is cheaper, where the
/// machine code proves that they use it (see [`super::shared_impl`]).
#[derive(Clone, Copy, Debug)]
pub(super) struct Internal {
    /// Its name in the library's source.
    pub name: &'static str,
    /// Public functions that pass exactly their own arguments on to it. The first one in the object is
    /// followed.
    pub forwarders: &'static [&'static str],
    /// The public function that must also call it, to confirm the match.
    pub witness: &'static str,
    /// The public function that reaches it by other functions of the library, which have no symbols.
    pub indirect: &'static str,
}

/// Where a constructor has the handle of the new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handle {
    /// It returns the handle.
    Returned,
    /// Its first argument is the handle.
    First,
    /// Its first argument points to where it stores the handle before it returns.
    BehindFirst,
    /// The handle of the enclosing I/O call. The function encrypts or decrypts on behalf of that call.
    OfOuterCall,
}

impl Handle {
    /// The BPF program for this kind of constructor.
    pub(super) const fn program(self) -> ProbeProgram {
        match self {
            Self::Returned => ProbeProgram::Open,
            Self::First => ProbeProgram::OpenFirst,
            Self::BehindFirst => ProbeProgram::OpenOutArg,
            Self::OfOuterCall => ProbeProgram::MarkTls,
        }
    }
}

/// A function that creates a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    /// Its symbol.
    pub name: &'static str,
    /// Where it has the handle.
    pub handle: Handle,
}

/// A TLS library.
#[derive(Clone, Copy, Debug)]
pub(super) struct TlsLibrary {
    /// The name of the API, or of its only implementation.
    pub name: &'static str,
    /// What the names of its shared libraries begin with; the version follows.
    pub sonames: &'static [&'static str],
    /// Functions that send or receive; each is optional.
    pub functions: &'static [LibraryFunction],
    /// Functions that create a connection; each is optional.
    pub constructors: &'static [Open],
    /// The same, for an implementation that is split into several shared libraries, each inspected by itself:
    /// one of these functions is enough to recognise it.
    pub external_constructors: &'static [Open],
    /// Functions that close the connection in their first argument; each is optional. Not needed where
    /// constructors are hooked: a reused handle then implies a new connection.
    pub destructors: &'static [&'static str],
    /// The same, but hooked only if connection records are on.
    pub optional_destructors: &'static [&'static str],
    /// Functions that do the handshake of the connection in their first argument; each is optional. Hooked
    /// only if connection records are on: they associate the socket with a connection whose handshake fails.
    pub handshakes: &'static [&'static str],
    /// The start of the soname of the library that contains the version, if it is not this one.
    pub version_in: Option<&'static str>,
    /// Internal functions that public ones share.
    pub internals: &'static [Internal],
}

const fn function(name: &'static str, direction: IoDirection, length: LengthSource) -> LibraryFunction {
    LibraryFunction { name, handle: 0, buffer: 1, length, direction, calls: Calls::All, form: None }
}

pub(super) const fn with_layout(
    name: &'static str,
    direction: IoDirection,
    form: BufferLayout,
) -> LibraryFunction {
    let mut function = function(name, direction, LengthSource::Returned);
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

/// The name of the row for OpenSSL and everything with its API.
pub(super) const OPENSSL: &str = "OpenSSL API";

/// All supported TLS libraries.
///
/// A public function that calls another one (`SSL_read_ex` calls `SSL_read` in LibreSSL) is hooked as well:
/// of two nested calls with the same handle and buffer, the kernel reports only the outer one. `SSL_peek` is
/// not hooked, because the same bytes come again with the read.
pub(super) const LIBRARIES: &[TlsLibrary] = &[
    // OpenSSL 1.0 to 3.x, LibreSSL, BoringSSL, AWS-LC.
    TlsLibrary {
        name: OPENSSL,
        sonames: &["libssl.so"],
        functions: &[
            function("SSL_read", IoDirection::Receive, LengthSource::Returned),
            function("SSL_write", IoDirection::Transmit, LengthSource::Returned),
            // (ssl, buf, num, *done), from OpenSSL 1.1.1.
            function("SSL_read_ex", IoDirection::Receive, LengthSource::OutArgument(3)),
            function("SSL_write_ex", IoDirection::Transmit, LengthSource::OutArgument(3)),
            // (ssl, buf, num, flags, *done), from OpenSSL 3.3.
            function("SSL_write_ex2", IoDirection::Transmit, LengthSource::OutArgument(4)),
            function("SSL_read_early_data", IoDirection::Receive, LengthSource::OutArgument(3)),
            function("SSL_write_early_data", IoDirection::Transmit, LengthSource::OutArgument(3)),
        ],
        constructors: &[returned("SSL_new")],
        external_constructors: &[],
        destructors: &[],
        optional_destructors: &["SSL_free"],
        handshakes: &["SSL_do_handshake", "SSL_connect", "SSL_accept"],
        version_in: Some("libcrypto"),
        internals: &[
            // ssl_read_internal(ssl, buf, num, *done), from OpenSSL 1.1.1.
            Internal {
                name: "ssl_read_internal",
                forwarders: &["SSL_read_ex"],
                witness: "SSL_read",
                indirect: "BIO_read",
            },
            // ssl_write_internal(ssl, buf, num, *done); with flags before done from OpenSSL 3.3.
            Internal {
                name: "ssl_write_internal",
                forwarders: &["SSL_write_ex2", "SSL_write_ex"],
                witness: "SSL_write",
                indirect: "BIO_write",
            },
        ],
    },
    TlsLibrary {
        name: "GnuTLS",
        sonames: &["libgnutls.so"],
        functions: &[
            function("gnutls_record_send", IoDirection::Transmit, LengthSource::Returned),
            // (session, data, size, padding, flags), from 3.6.3.
            function("gnutls_record_send2", IoDirection::Transmit, LengthSource::Returned),
            function("gnutls_record_send_early_data", IoDirection::Transmit, LengthSource::Returned),
            function("gnutls_record_recv", IoDirection::Receive, LengthSource::Returned),
            // (session, data, size, *record number).
            function("gnutls_record_recv_seq", IoDirection::Receive, LengthSource::Returned),
            function("gnutls_record_recv_early_data", IoDirection::Receive, LengthSource::Returned),
            // (session, *packet), from 3.3.5; then (packet, *datum, *record number).
            with_layout("gnutls_record_recv_packet", IoDirection::Receive, BufferLayout::PacketOut),
            with_layout("gnutls_packet_get", IoDirection::Receive, BufferLayout::PacketGet),
        ],
        constructors: &[Open { name: "gnutls_init", handle: Handle::BehindFirst }],
        external_constructors: &[],
        destructors: &["gnutls_deinit"],
        optional_destructors: &[],
        handshakes: &["gnutls_handshake"],
        version_in: None,
        internals: &[],
    },
    TlsLibrary {
        name: "Mbed TLS",
        sonames: &["libmbedtls.so"],
        functions: &[
            function("mbedtls_ssl_read", IoDirection::Receive, LengthSource::Returned),
            function("mbedtls_ssl_write", IoDirection::Transmit, LengthSource::Returned),
            // From 3.6.
            function("mbedtls_ssl_read_early_data", IoDirection::Receive, LengthSource::Returned),
            function("mbedtls_ssl_write_early_data", IoDirection::Transmit, LengthSource::Returned),
        ],
        constructors: &[
            first("mbedtls_ssl_setup"),
            first("mbedtls_ssl_session_reset"),
            // The function that both call, and by which they are found without symbols.
            first("mbedtls_ssl_session_reset_int"),
        ],
        external_constructors: &[],
        destructors: &["mbedtls_ssl_free"],
        optional_destructors: &[],
        handshakes: &["mbedtls_ssl_handshake"],
        version_in: Some("libmbedcrypto"),
        internals: &[],
    },
    TlsLibrary {
        name: "wolfSSL",
        sonames: &["libwolfssl.so"],
        functions: &[
            function("wolfSSL_read", IoDirection::Receive, LengthSource::Returned),
            function("wolfSSL_write", IoDirection::Transmit, LengthSource::Returned),
            // (ssl, data, size, flags).
            function("wolfSSL_recv", IoDirection::Receive, LengthSource::Returned),
            function("wolfSSL_send", IoDirection::Transmit, LengthSource::Returned),
            // The functions that these call, and by which they are found without symbols: (ssl, data, size,
            // whether it only peeks). No symbol has such a name.
            function("ReceiveData of wolfSSL", IoDirection::Receive, LengthSource::Returned)
                .of(Calls::AllUnlessPeeking),
            function("SendData of wolfSSL", IoDirection::Transmit, LengthSource::Returned),
        ],
        constructors: &[returned("wolfSSL_new"), first("SetSSL_CTX of wolfSSL")],
        external_constructors: &[],
        destructors: &[],
        optional_destructors: &["wolfSSL_free"],
        handshakes: &["wolfSSL_negotiate", "wolfSSL_connect", "wolfSSL_accept"],
        version_in: None,
        internals: &[],
    },
    // NSS uses the functions of NSPR, which serve files and pipes as well. A descriptor is a TLS connection
    // if SSL_ImportFD returned it, or if a call with it encrypts or decrypts. The latter recognises those
    // that were accepted, or imported before ctrace started.
    TlsLibrary {
        name: "NSS",
        sonames: &["libnspr4.so", "libnss3.so", "libssl3.so"],
        functions: &[
            function("PR_Read", IoDirection::Receive, LengthSource::Returned).of(Calls::OfTls),
            function("PR_Write", IoDirection::Transmit, LengthSource::Returned).of(Calls::OfTls),
            // (descriptor, data, size, flags, timeout).
            function("PR_Recv", IoDirection::Receive, LengthSource::Returned).of(Calls::OfTlsUnlessPeeking),
            function("PR_Send", IoDirection::Transmit, LengthSource::Returned).of(Calls::OfTls),
            // (descriptor, pieces, count, timeout).
            with_layout("PR_Writev", IoDirection::Transmit, BufferLayout::IoVec).of(Calls::OfTls),
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
    TlsLibrary {
        name: "s2n-tls",
        sonames: &["libs2n.so"],
        functions: &[
            // (connection, data, size, *blocked). All sending functions call s2n_sendv_with_offset in the
            // end.
            function("s2n_recv", IoDirection::Receive, LengthSource::Returned),
            function("s2n_send", IoDirection::Transmit, LengthSource::Returned),
            with_layout("s2n_sendv", IoDirection::Transmit, BufferLayout::IoVec),
            with_layout("s2n_sendv_with_offset", IoDirection::Transmit, BufferLayout::IoVecFrom),
        ],
        constructors: &[returned("s2n_connection_new"), first("s2n_connection_wipe")],
        external_constructors: &[],
        destructors: &["s2n_connection_free"],
        optional_destructors: &[],
        handshakes: &["s2n_negotiate"],
        version_in: None,
        internals: &[],
    },
    // br_sslio_read, br_sslio_write and event loops are built on these functions.
    TlsLibrary {
        name: "BearSSL",
        sonames: &["libbearssl.so"],
        functions: &[
            with_layout("br_ssl_engine_recvapp_buf", IoDirection::Receive, BufferLayout::LendBuffer),
            with_layout("br_ssl_engine_recvapp_ack", IoDirection::Receive, BufferLayout::AckBuffer),
            with_layout("br_ssl_engine_sendapp_buf", IoDirection::Transmit, BufferLayout::LendBuffer),
            with_layout("br_ssl_engine_sendapp_ack", IoDirection::Transmit, BufferLayout::AckBuffer),
        ],
        // The contexts that these functions take begin with the engine.
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
            for soname in row.sonames {
                assert!(names.insert(soname), "{soname} twice");
                assert!(soname.starts_with("lib"), "{soname} is no library");
            }
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
