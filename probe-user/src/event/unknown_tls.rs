//! TLS and QUIC that are not seen.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Role, Tls};

/// A process speaks TLS or QUIC, as its sockets show, and no call of it is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownTls {
    /// What it speaks.
    pub protocol: UnknownTlsProtocol,
    /// Whether it is the client or the server.
    pub role: Role,
    /// What was seen of the handshake. None for QUIC, which encrypts it.
    pub tls: Option<Tls>,
    /// Why it is not seen.
    pub reason: UnknownTlsReason,
}

/// An encrypting protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownTlsProtocol {
    /// TLS over a stream.
    Tls,
    /// QUIC over datagrams, which HTTP/3 uses.
    Quic,
}

/// Why TLS is not seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownTlsReason {
    /// The process does it by code that ctrace does not know.
    UnknownCode,
    /// The process does it by code that cannot be traced, which was reported for its file.
    CannotBeTraced,
    /// The process ended before its files were inspected.
    EndedUninspected,
}

impl fmt::Display for UnknownTls {
    /// Such as `speaks TLS (SNI example.org) by code that ctrace does not know`. The name is foreign and not
    /// escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.role, self.reason) {
            (Role::Client, UnknownTlsReason::EndedUninspected) => "spoke ",
            (Role::Client, _) => "speaks ",
            (Role::Server, UnknownTlsReason::EndedUninspected) => "served ",
            (Role::Server, _) => "serves ",
        })?;
        f.write_str(match self.protocol {
            UnknownTlsProtocol::Tls => "TLS",
            UnknownTlsProtocol::Quic => "QUIC (HTTP/3)",
        })?;
        if let Some(name) = self.tls.as_ref().and_then(|tls| tls.server_name.as_deref()) {
            write!(f, " (SNI {name})")?;
        }
        f.write_str(match self.reason {
            UnknownTlsReason::UnknownCode => " by code that ctrace does not know",
            UnknownTlsReason::CannotBeTraced => " by code that ctrace cannot trace",
            UnknownTlsReason::EndedUninspected => " and ended before ctrace had inspected its files",
        })
    }
}
