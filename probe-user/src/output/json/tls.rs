//! The OpenTelemetry namespace `tls`.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::event::{Tls, TlsInfo, TlsVersion};

/// What was seen of the handshake. A null field was not sent, or not seen.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct TlsPart<'a> {
    /// The version that the server chose.
    protocol: Option<ProtocolPart>,
    /// The cipher suite by its IANA name; as `0x1234` if it has none.
    cipher: Option<Cow<'a, str>>,
    /// What the client sent.
    client: ClientPart<'a>,
    /// The application protocol that the server chose (ALPN). TLS 1.3 sends it encrypted: null.
    next_protocol: Option<Cow<'a, str>>,
}

/// A version of TLS.
#[derive(Serialize, Deserialize, JsonSchema)]
struct ProtocolPart {
    /// `tls`; `ssl` up to 3.0.
    name: Cow<'static, str>,
    /// Such as `1.3`.
    version: Cow<'static, str>,
}

/// What the client sent in its hello.
#[derive(Serialize, Deserialize, JsonSchema)]
struct ClientPart<'a> {
    /// The name of the server that it asked for (SNI).
    server_name: Option<Cow<'a, str>>,
    /// The application protocols that it offered (ALPN), the preferred one first.
    supported_protocols: Option<Cow<'a, [String]>>,
}

impl From<TlsVersion> for ProtocolPart {
    fn from(protocol: TlsVersion) -> Self {
        Self { name: protocol.name().into(), version: protocol.version().into() }
    }
}

impl<'a> TlsPart<'a> {
    pub(super) fn new(tls: &'a Tls) -> Self {
        let Tls { protocol, cipher, server_name, offered, next_protocol } = tls;
        Self {
            protocol: protocol.map(ProtocolPart::from),
            cipher: cipher.as_deref().map(Cow::Borrowed),
            client: ClientPart {
                server_name: server_name.as_deref().map(Cow::Borrowed),
                supported_protocols: offered.as_deref().map(Cow::Borrowed),
            },
            next_protocol: next_protocol.as_deref().map(Cow::Borrowed),
        }
    }

    /// The handshake of a line. Whether it is new on its connection is not known from the line alone.
    pub(super) fn info(self) -> TlsInfo<'static> {
        let Self { protocol, cipher, client, next_protocol } = self;
        let ClientPart { server_name, supported_protocols } = client;
        let tls = Tls {
            protocol: protocol.and_then(|said| TlsVersion::named(&said.name, &said.version)),
            cipher: cipher.map(|cipher| Cow::Owned(cipher.into_owned())),
            server_name: server_name.map(Cow::into_owned),
            offered: supported_protocols.map(Cow::into_owned),
            next_protocol: next_protocol.map(Cow::into_owned),
        };
        TlsInfo { tls: Cow::Owned(tls), is_first: true }
    }
}
