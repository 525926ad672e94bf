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

/// A library.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// The API.
    pub name: &'static str,
    /// What moves bytes; each is optional.
    pub functions: &'static [Function],
    /// What returns a new connection; each is optional.
    pub opens: &'static [&'static str],
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
        opens: &["SSL_new"],
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
            for name in functions.chain(row.opens.iter().copied()) {
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
