//! What HTTP/1 and HTTP/2 have in common: their fields, by OpenTelemetry's names, and how an exchange looks
//! at a glance.

pub(super) mod body;
pub(super) mod head;

use std::borrow::Cow;

use crate::event::{Field, FieldKind, Outcome, Overview};
use crate::protocol::Message;

macro_rules! fields {
    ($($name:ident: $kind:ident = $path:literal, $help:literal;)*) => {
        $(pub(super) const $name: Field = Field { path: $path, help: $help, kind: FieldKind::$kind };)*
        /// The fields of HTTP.
        pub(super) const FIELDS: &[Field] = &[$($name),*];
    };
}

fields! {
    VERSION: Text = "network.protocol.version", "The version of HTTP: `1.0`, `1.1`, `2`";
    METHOD: Text = "http.request.method", "The method, as it was sent";
    SCHEME: Text = "url.scheme", "The scheme, if the request names one";
    HOST: Text = "server.address", "The host that the request is for (Host, :authority or the target)";
    PORT: Number = "server.port", "Its port, if the request names one";
    PATH: Text = "url.path", "The path of the target, as it was sent";
    QUERY: Text = "url.query", "What follows the first `?` of the target";
    REQUEST_HEADERS: Headers = "http.request.header", "The header fields of the request";
    REQUEST_TRAILERS: Headers = "http.request.trailer", "The trailer fields of the request";
    REQUEST_BODY_SIZE: Number = "http.request.body.size", "The bytes of its body, as they were transferred";
    REQUEST_VIOLATIONS: List = "http.request.violations", "How the request violates the specification";
    STATUS: Number = "http.response.status_code", "The status of the response";
    RESPONSE_HEADERS: Headers = "http.response.header", "The header fields of the response";
    RESPONSE_TRAILERS: Headers = "http.response.trailer", "The trailer fields of the response";
    RESPONSE_BODY_SIZE: Number = "http.response.body.size", "The bytes of its body, as they were transferred";
    RESPONSE_VIOLATIONS: List = "http.response.violations", "How the response violates the specification";
    RPC_SYSTEM: Text = "rpc.system.name", "`grpc` or `connectrpc`, if the exchange is a call of such a system";
    RPC_METHOD: Text = "rpc.method", "The service and the method that are called";
    RPC_STATUS: Text = "rpc.response.status_code", "The status of the call by its name, such as `OK`";
    RPC_STATUS_MESSAGE: Text = "rpc.response.status_message", "What the status says in words";
    RPC_REQUESTS: Number = "rpc.request.messages", "How many messages the client sent";
    RPC_RESPONSES: Number = "rpc.response.messages", "How many messages the server sent";
    ERROR_TYPE: Text = "error.type", "Why the exchange failed: a status of the server or of the call, the code of an \
        error, or how it was broken off";
    PART_TYPE: Text = "message.event", "The name of a server-sent event";
    PART_COMPRESSED: Text = "message.compressed", "The encoding of a message of a stream that is compressed";
}

/// Summarises an exchange.
pub(super) fn overview<'m>(request: Option<&'m Message>, response: Option<&'m Message>) -> Overview {
    let text = |message: Option<&'m Message>, field: &Field| message?.text(field);
    let number = |message: Option<&Message>, field: &Field| message?.number(field);
    let either = |field: &Field| text(request, field).or_else(|| text(response, field));
    let port = || number(request, &PORT).or_else(|| number(response, &PORT));
    let host = either(&HOST).map(|host| match port() {
        Some(port) if host.contains(':') => format!("[{host}]:{port}"),
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    });
    let target = either(&PATH).map(|path| match either(&QUERY) {
        Some(query) => [path, "?", query].concat(),
        None => path.to_owned(),
    });
    let code = number(response, &STATUS);
    let rpc_status = text(response, &RPC_STATUS);
    let by_code = match code {
        Some(500..) => Outcome::ServerError,
        Some(400..) => Outcome::ClientError,
        Some(300..) => Outcome::Redirect,
        Some(_) => Outcome::Success,
        None => Outcome::Unknown,
    };
    Overview {
        protocol: match (either(&RPC_SYSTEM), either(&VERSION)) {
            (Some("grpc"), _) => Cow::Borrowed("gRPC"),
            (Some("connectrpc"), _) => Cow::Borrowed("Connect"),
            (_, None) => Cow::Borrowed("HTTP"),
            (_, Some("1.1")) => Cow::Borrowed("HTTP/1.1"),
            (_, Some("2")) => Cow::Borrowed("HTTP/2"),
            (_, Some(version)) => Cow::Owned(format!("HTTP/{version}")),
        },
        method: either(&METHOD).map(str::to_owned),
        host,
        target,
        outcome: rpc_status.map_or(by_code, outcome_of_rpc),
        status: rpc_status.map(str::to_owned).or_else(|| code.map(|code| code.to_string())),
        ..Overview::default()
    }
}

/// Which codes of gRPC are the server's fault follows OpenTelemetry's semantic conventions of RPC.
fn outcome_of_rpc(status: &str) -> Outcome {
    match status {
        "OK" => Outcome::Success,
        "UNKNOWN" | "DEADLINE_EXCEEDED" | "UNIMPLEMENTED" | "INTERNAL" | "UNAVAILABLE" | "DATA_LOSS" => {
            Outcome::ServerError
        }
        _ => Outcome::ClientError,
    }
}
