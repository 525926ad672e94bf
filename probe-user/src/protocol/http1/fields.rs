//! The head of a message → its fields.

use super::head::{MessageHead, Violations};
use super::pairing::{Method, PendingRequest};
use crate::event::{Field, FieldValue, HeaderField};
use crate::protocol::http::head::{elements, push_authority, push_path, values};
use crate::protocol::http::{HOST, RPC_SYSTEM, SCHEME};
use crate::protocol::http2::HTTP2;
use crate::protocol::websocket::WEBSOCKET;
use crate::protocol::{Message, MessageKind, Protocol, grpc};

const NO_HOST: &str = "no Host";
const SEVERAL_HOSTS: &str = "several Host fields";

/// Adds the fields of the target of a request.
pub(super) fn push_target(
    message: &mut Message,
    method: &str,
    target: &str,
    version: u8,
    head: &mut MessageHead,
) {
    let mut hosts = values(&head.headers, "host");
    let host = hosts.next();
    let has_other_host = values(&head.headers, "host").any(|other| Some(other) != host);
    if host.is_none() && version > 0 {
        head.violations.add(NO_HOST);
    }
    if hosts.next().is_some() {
        head.violations.add(SEVERAL_HOSTS);
    }
    if method == "CONNECT" {
        return push_authority(message, target);
    }
    // The host of an absolute target takes precedence.
    if !target.starts_with('/')
        && let Some((scheme, rest)) = target.split_once("://")
    {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).unwrap_or_default();
        message.fields.push((&SCHEME, FieldValue::Text(scheme.to_ascii_lowercase())));
        push_authority(message, authority);
        if !path.is_empty() {
            push_path(message, path);
        }
        return;
    }
    match host {
        Some(_) if has_other_host => message.fields.push((&HOST, FieldValue::Unknown)),
        Some(host) => push_authority(message, host),
        None => {}
    }
    push_path(message, target);
}

/// Adds the status of a call, which gRPC-Web has in the head if there are no messages.
pub(super) fn add_call_status(message: &mut Message, headers: &[HeaderField]) {
    if message.kind == MessageKind::Response
        && message.field(&RPC_SYSTEM).is_some()
        && let Some(status) = values(headers, "grpc-status").next()
    {
        let text = values(headers, "grpc-message").next();
        grpc::add_status(message, &FieldValue::Text(status.to_owned()), text);
    }
}

pub(super) fn push_violations(message: &mut Message, field: &'static Field, violations: Violations) {
    let texts = violations.into_texts();
    if !texts.is_empty() {
        message.fields.push((field, FieldValue::List(texts)));
    }
}

pub(super) fn asks_to_upgrade(headers: &[HeaderField]) -> bool {
    elements(headers, "connection").any(|option| option == "upgrade")
        && elements(headers, "upgrade").next().is_some()
}

/// A switch to another protocol, with what that protocol has to know.
#[derive(Debug, Default)]
pub(super) struct Switch {
    /// None if it is unknown, as in a tunnel.
    pub to: Option<&'static Protocol>,
    pub extensions: Option<String>,
    /// The id of the request that asked for it, if the next protocol answers it.
    pub unanswered: Option<u64>,
}

impl Switch {
    /// The switch that a response makes.
    pub(super) fn of(headers: &[HeaderField], code: u16, request: Option<PendingRequest>) -> Option<Self> {
        let is_connect = request.is_some_and(|request| request.sent.method == Method::Connect);
        if is_connect && (200..300).contains(&code) {
            return Some(Self::default());
        }
        if code != 101 {
            return None;
        }
        let extensions = || values(headers, "sec-websocket-extensions").collect::<Vec<_>>().join(", ");
        Some(match elements(headers, "upgrade").next().as_deref() {
            Some("websocket") => {
                Self { to: Some(&WEBSOCKET), extensions: Some(extensions()), unanswered: None }
            }
            // The response comes in stream 1 (RFC 7540, 3.2).
            Some("h2c") => {
                Self { to: Some(&HTTP2), extensions: None, unanswered: request.map(|request| request.id) }
            }
            _ => Self::default(),
        })
    }
}
