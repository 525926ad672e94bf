//! The line of a process that speaks TLS or QUIC of which no call is seen.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::line::{LineBody, Meanings};
use super::tls::TlsPart;
use crate::event::{
    Body, Context, Record, RecordKind, Role, UnknownTls, UnknownTlsProtocol, UnknownTlsReason,
};

/// A process in scope speaks TLS or QUIC, as its sockets show, and none of its calls is seen. Written once
/// for a process and its executable.
#[derive(Serialize, Deserialize, JsonSchema)]
pub(super) struct UnknownTlsBody<'a> {
    /// What it speaks.
    protocol: UnknownTlsProtocol,
    /// Whether it is the client or the server.
    role: Role,
    /// The OpenTelemetry namespace `tls`: what was seen of the handshake; null for QUIC, which encrypts it.
    tls: Option<TlsPart<'a>>,
    /// Why it is not seen.
    reason: UnknownTlsReason,
}

impl LineBody for UnknownTlsBody<'_> {
    const KIND: RecordKind = RecordKind::UnknownTls;
    const TIME: &'static str = "When the client's hello passed through the socket, in UTC.";
    const ORIGIN: Meanings =
        &[("process", "The process."), ("thread", "The thread that sent or received the hello.")];
}

impl<'a> UnknownTlsBody<'a> {
    pub(super) fn new(unknown: &'a UnknownTls) -> Self {
        let &UnknownTls { protocol, role, ref tls, reason } = unknown;
        Self { protocol, role, tls: tls.as_ref().map(TlsPart::new), reason }
    }

    /// The record of the line.
    pub(super) fn record(self, context: Context<'static>) -> Record<'static> {
        let Self { protocol, role, tls, reason } = self;
        let tls = tls.map(|tls| tls.info().tls.into_owned());
        Record { context, body: Body::UnknownTls(UnknownTls { protocol, role, tls, reason }) }
    }
}
