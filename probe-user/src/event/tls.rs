//! What client and server have negotiated in a TLS handshake.

use std::borrow::Cow;

/// What was seen of a connection's handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// The version that the server chose.
    pub protocol: Option<TlsVersion>,
    /// The cipher suite by its IANA name; as `0x1234` if it has none.
    pub cipher: Option<Cow<'static, str>>,
    /// The name of the server that the client asked for (SNI).
    pub server_name: Option<String>,
    /// The protocols that the client offered (ALPN), the preferred one first.
    pub offered: Option<Vec<String>>,
    /// The protocol that the server chose (ALPN); TLS 1.3 sends it encrypted.
    pub next_protocol: Option<String>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsVersion {
    /// SSL 3.0
    Ssl3,
    /// TLS 1.0
    Tls10,
    /// TLS 1.1
    Tls11,
    /// TLS 1.2
    Tls12,
    /// TLS 1.3
    Tls13,
}

impl TlsVersion {
    /// The version with this number in hellos.
    pub fn of(number: u16) -> Option<Self> {
        match number {
            0x0300 => Some(Self::Ssl3),
            0x0301 => Some(Self::Tls10),
            0x0302 => Some(Self::Tls11),
            0x0303 => Some(Self::Tls12),
            0x0304 => Some(Self::Tls13),
            _ => None,
        }
    }

    /// The version with this [`name`](Self::name) and this [`version`](Self::version).
    pub fn named(name: &str, version: &str) -> Option<Self> {
        let all = [Self::Ssl3, Self::Tls10, Self::Tls11, Self::Tls12, Self::Tls13];
        all.into_iter().find(|known| known.name() == name && known.version() == version)
    }

    /// `tls.protocol.name`
    pub fn name(self) -> &'static str {
        if self == Self::Ssl3 { "ssl" } else { "tls" }
    }

    /// `tls.protocol.version`
    pub fn version(self) -> &'static str {
        match self {
            Self::Ssl3 => "3.0",
            Self::Tls10 => "1.0",
            Self::Tls11 => "1.1",
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}
