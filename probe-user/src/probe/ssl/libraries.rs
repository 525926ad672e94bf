//! The TLS libraries with a C ABI: one row each. To add one, add a row.

use probe_common::{CallShape, Calls, Direction, Form, Length};

use crate::plan::Program;

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
    pub form: Option<Form>,
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
    pub(super) const fn program(&self) -> Program {
        match self.form {
            None => Program::Call,
            Some(Form::Pieces | Form::PiecesFrom) => Program::Pieces,
            Some(Form::Chunks) => Program::PiecesToEnds,
            Some(Form::Span | Form::Range | Form::Payload | Form::Message(_) | Form::Acknowledged) => {
                Program::Whole
            }
            Some(Form::Lent | Form::Packet) => Program::Lend,
            Some(Form::Unpacked) => Program::Unpack,
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
    pub(super) const fn program(self) -> Program {
        match self {
            Self::Returned => Program::Open,
            Self::First => Program::OpenFirst,
            Self::BehindFirst => Program::OpenBehindFirst,
            Self::OfOuterCall => Program::Cipher,
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
pub(super) struct Row {
    /// The API; of one that has a single implementation, that one's name.
    pub name: &'static str,
    /// What moves bytes; each is optional.
    pub functions: &'static [Function],
    /// What makes a connection; each is optional.
    pub opens: &'static [Open],
    /// The same, of a library that is made of several, each of which is looked at for itself: they are enough to know it by.
    pub opens_apart: &'static [Open],
    /// What ends the connection in its first argument; each is optional. Not needed where what makes one is told:
    /// a handle that comes again is a new connection then.
    pub closes: &'static [&'static str],
    /// The same, hooked only where the ends of connections are told.
    pub ends: &'static [&'static str],
    /// What does the handshake of the connection in its first argument; each is optional, and hooked only where connections are
    /// told: one whose handshake fails has its socket by it.
    pub handshakes: &'static [&'static str],
    /// How the name of the library begins that knows the version, if it is not this one.
    pub version_in: Option<&'static str>,
    /// Shared internal functions.
    pub internals: &'static [Internal],
}

const fn function(name: &'static str, direction: Direction, length: Length) -> Function {
    Function { name, handle: 0, buffer: 1, length, direction, calls: Calls::All, form: None }
}

pub(super) const fn formed(name: &'static str, direction: Direction, form: Form) -> Function {
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
pub(super) const ROWS: &[Row] = &[
    // OpenSSL 1.0 to 3.x, LibreSSL, BoringSSL, AWS-LC.
    Row {
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
        opens: &[returned("SSL_new")],
        opens_apart: &[],
        closes: &[],
        ends: &["SSL_free"],
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
    Row {
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
            formed("gnutls_record_recv_packet", Direction::Receive, Form::Packet),
            formed("gnutls_packet_get", Direction::Receive, Form::Unpacked),
        ],
        opens: &[Open { name: "gnutls_init", handle: Handle::BehindFirst }],
        opens_apart: &[],
        closes: &["gnutls_deinit"],
        ends: &[],
        handshakes: &["gnutls_handshake"],
        version_in: None,
        internals: &[],
    },
    Row {
        name: "Mbed TLS",
        functions: &[
            function("mbedtls_ssl_read", Direction::Receive, Length::Returned),
            function("mbedtls_ssl_write", Direction::Transmit, Length::Returned),
            // From 3.6.
            function("mbedtls_ssl_read_early_data", Direction::Receive, Length::Returned),
            function("mbedtls_ssl_write_early_data", Direction::Transmit, Length::Returned),
        ],
        opens: &[
            first("mbedtls_ssl_setup"),
            first("mbedtls_ssl_session_reset"),
            // What it calls, by which it is found without symbols.
            first("mbedtls_ssl_session_reset_int"),
        ],
        opens_apart: &[],
        closes: &["mbedtls_ssl_free"],
        ends: &[],
        handshakes: &["mbedtls_ssl_handshake"],
        version_in: Some("libmbedcrypto"),
        internals: &[],
    },
    Row {
        name: "wolfSSL",
        functions: &[
            function("wolfSSL_read", Direction::Receive, Length::Returned),
            function("wolfSSL_write", Direction::Transmit, Length::Returned),
            // (ssl, data, size, flags).
            function("wolfSSL_recv", Direction::Receive, Length::Returned),
            function("wolfSSL_send", Direction::Transmit, Length::Returned),
            // What these call, by which they are found without symbols: (ssl, data, size, whether it only looks). No symbol
            // has such a name.
            function("ReceiveData of wolfSSL", Direction::Receive, Length::Returned)
                .of(Calls::AllUnlessPeeking),
            function("SendData of wolfSSL", Direction::Transmit, Length::Returned),
        ],
        opens: &[returned("wolfSSL_new"), first("SetSSL_CTX of wolfSSL")],
        opens_apart: &[],
        closes: &[],
        ends: &["wolfSSL_free"],
        handshakes: &["wolfSSL_negotiate", "wolfSSL_connect", "wolfSSL_accept"],
        version_in: None,
        internals: &[],
    },
    // Its functions are NSPR's, for files and pipes as well: a descriptor is one of TLS when SSL_ImportFD has returned it, or when
    // a call with it encrypts or decrypts (it was accepted, or imported before ctrace came).
    Row {
        name: "NSS",
        functions: &[
            function("PR_Read", Direction::Receive, Length::Returned).of(Calls::OfTls),
            function("PR_Write", Direction::Transmit, Length::Returned).of(Calls::OfTls),
            // (descriptor, data, size, flags, timeout).
            function("PR_Recv", Direction::Receive, Length::Returned).of(Calls::OfTlsUnlessPeeking),
            function("PR_Send", Direction::Transmit, Length::Returned).of(Calls::OfTls),
            // (descriptor, pieces, count, timeout).
            formed("PR_Writev", Direction::Transmit, Form::Pieces).of(Calls::OfTls),
        ],
        opens: &[],
        opens_apart: &[
            returned("SSL_ImportFD"),
            returned("DTLS_ImportFD"),
            of_outer_call("PK11_AEADOp"),
            of_outer_call("PK11_CipherOp"),
            of_outer_call("PK11_Encrypt"),
            of_outer_call("PK11_Decrypt"),
        ],
        closes: &["PR_Close"],
        ends: &[],
        handshakes: &["SSL_ForceHandshake"],
        version_in: None,
        internals: &[],
    },
    Row {
        name: "s2n-tls",
        functions: &[
            // (connection, data, size, *blocked); the sending ones end in s2n_sendv_with_offset.
            function("s2n_recv", Direction::Receive, Length::Returned),
            function("s2n_send", Direction::Transmit, Length::Returned),
            formed("s2n_sendv", Direction::Transmit, Form::Pieces),
            formed("s2n_sendv_with_offset", Direction::Transmit, Form::PiecesFrom),
        ],
        opens: &[returned("s2n_connection_new"), first("s2n_connection_wipe")],
        opens_apart: &[],
        closes: &["s2n_connection_free"],
        ends: &[],
        handshakes: &["s2n_negotiate"],
        version_in: None,
        internals: &[],
    },
    // What br_sslio_read and br_sslio_write are built on, and event loops.
    Row {
        name: "BearSSL",
        functions: &[
            formed("br_ssl_engine_recvapp_buf", Direction::Receive, Form::Lent),
            formed("br_ssl_engine_recvapp_ack", Direction::Receive, Form::Acknowledged),
            formed("br_ssl_engine_sendapp_buf", Direction::Transmit, Form::Lent),
            formed("br_ssl_engine_sendapp_ack", Direction::Transmit, Form::Acknowledged),
        ],
        // Their contexts begin with the engine.
        opens: &[first("br_ssl_client_reset"), first("br_ssl_server_reset")],
        opens_apart: &[],
        closes: &[],
        ends: &[],
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

    use probe_common::{CallShape, Form};

    use super::ROWS;

    #[test]
    fn every_row_is_consistent() {
        let mut names = BTreeSet::new();
        for row in ROWS {
            assert!(names.insert(row.name), "{} twice", row.name);
            assert!(!row.functions.is_empty(), "{} has no function", row.name);
            let functions = row.functions.iter().map(|function| function.name);
            let opens = row.opens.iter().chain(row.opens_apart).map(|open| open.name);
            let ends = row.closes.iter().chain(row.ends).chain(row.handshakes).copied();
            for name in functions.chain(opens).chain(ends) {
                assert!(names.insert(name), "{name} twice");
                assert!(!name.contains("peek"), "{name} gives bytes that a read gives again");
            }
            for function in row.functions {
                let arguments = function.arguments();
                assert_eq!(CallShape::unpack(arguments).direction, function.direction, "{}", function.name);
                assert_eq!(Form::unpack(arguments), function.form, "{}", function.name);
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
