//! The TLS libraries with a C ABI: one row each. To add one, add a row.

use probe_common::{CallShape, Direction, Length};

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
}

impl Function {
    /// For the kernel.
    pub(super) const fn shape(&self) -> CallShape {
        let &Self { name: _, handle, buffer, length, direction } = self;
        CallShape { handle, buffer, length, direction }
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
    /// What ends the connection in its first argument; each is optional. Not needed where what makes one is told:
    /// a handle that comes again is a new connection then.
    pub closes: &'static [&'static str],
    /// How the name of the library begins that knows the version, if it is not this one.
    pub version_in: Option<&'static str>,
    /// Shared internal functions.
    pub internals: &'static [Internal],
}

const fn function(name: &'static str, direction: Direction, length: Length) -> Function {
    Function { name, handle: 0, buffer: 1, length, direction }
}

/// All rows.
///
/// A public function that calls another one (`SSL_read_ex` → `SSL_read` in LibreSSL) is hooked as well:
/// the kernel reports only the outer of two nested calls with the same handle and buffer. `SSL_peek` is
/// not here: the same bytes come again with the read.
pub(super) const ROWS: &[Row] = &[
    // OpenSSL 1.0 to 3.x, LibreSSL, BoringSSL, AWS-LC.
    Row {
        name: "OpenSSL API",
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
        opens: &[Open { name: "SSL_new", handle: Handle::Returned }],
        closes: &[],
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
        ],
        opens: &[Open { name: "gnutls_init", handle: Handle::BehindFirst }],
        closes: &["gnutls_deinit"],
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
            Open { name: "mbedtls_ssl_setup", handle: Handle::First },
            Open { name: "mbedtls_ssl_session_reset", handle: Handle::First },
        ],
        closes: &["mbedtls_ssl_free"],
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
        ],
        opens: &[Open { name: "wolfSSL_new", handle: Handle::Returned }],
        closes: &[],
        version_in: None,
        internals: &[],
    },
];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use std::collections::BTreeSet;

    use probe_common::CallShape;

    use super::ROWS;

    #[test]
    fn every_row_is_consistent() {
        let mut names = BTreeSet::new();
        for row in ROWS {
            assert!(names.insert(row.name), "{} twice", row.name);
            assert!(!row.functions.is_empty(), "{} has no function", row.name);
            let functions = row.functions.iter().map(|function| function.name);
            let opens = row.opens.iter().map(|open| open.name);
            for name in functions.chain(opens).chain(row.closes.iter().copied()) {
                assert!(names.insert(name), "{name} twice");
                assert!(!name.contains("peek"), "{name} gives bytes that a read gives again");
            }
            for function in row.functions {
                assert_eq!(CallShape::unpack(function.shape().pack()), function.shape(), "{}", function.name);
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
