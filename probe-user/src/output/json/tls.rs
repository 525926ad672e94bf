//! The OpenTelemetry namespace `tls`.

use schemars::JsonSchema;
use serde::Serialize;

use crate::event::{Protocol, Tls};

/// What the handshake says. What is null is not known, or was not said.
#[derive(Serialize, JsonSchema)]
pub(super) struct TlsPart<'a> {
    /// The version that the server has chosen.
    protocol: Option<ProtocolPart>,
    /// The cipher suite, by its name at IANA; as `0x1234` if it has none.
    cipher: Option<&'a str>,
    /// What the client says.
    client: ClientPart<'a>,
    /// The protocol above that the server has chosen (ALPN). Not to be seen with TLS 1.3.
    next_protocol: Option<&'a str>,
}

/// A version of TLS.
#[derive(Serialize, JsonSchema)]
struct ProtocolPart {
    /// `tls`; `ssl` up to 3.0.
    name: &'static str,
    /// Such as `1.3`.
    version: &'static str,
}

/// What the client of a connection says.
#[derive(Serialize, JsonSchema)]
struct ClientPart<'a> {
    /// The name of the server that it wants (SNI).
    server_name: Option<&'a str>,
    /// The protocols above that it offers (ALPN), the one that it likes best first.
    supported_protocols: Option<&'a [String]>,
}

impl From<Protocol> for ProtocolPart {
    fn from(protocol: Protocol) -> Self {
        Self { name: protocol.name(), version: protocol.version() }
    }
}

impl<'a> TlsPart<'a> {
    pub(super) fn new(tls: &'a Tls) -> Self {
        let Tls { protocol, cipher, server_name, offered, next_protocol } = tls;
        Self {
            protocol: protocol.map(ProtocolPart::from),
            cipher: cipher.as_deref(),
            client: ClientPart {
                server_name: server_name.as_deref(),
                supported_protocols: offered.as_deref(),
            },
            next_protocol: next_protocol.as_deref(),
        }
    }
}
