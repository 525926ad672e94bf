//! What the head of a message says, in HTTP/1 and HTTP/2 alike.

use super::{HOST, METHOD, PATH, PORT, QUERY, RPC_METHOD, RPC_STATUS, RPC_SYSTEM, STATUS};
use crate::event::{FieldValue, HeaderField, Role};
use crate::protocol::content::Framing;
use crate::protocol::{Message, RpcCall, grpc};

/// The values of a header field in order, by its name in lower case.
pub(in crate::protocol) fn values<'a>(
    headers: &'a [HeaderField],
    name: &'a str,
) -> impl Iterator<Item = &'a str> {
    let is_wanted = move |header: &&HeaderField| header.name.as_deref() == Some(name);
    headers.iter().filter(is_wanted).filter_map(|header| header.value.as_deref())
}

/// The elements of a header field that is a comma-separated list, in lower case and without parameters.
pub(in crate::protocol) fn elements<'a>(
    headers: &'a [HeaderField],
    name: &'a str,
) -> impl Iterator<Item = String> {
    let element = |text: &str| {
        text.split(';').next().unwrap_or_default().trim_matches([' ', '\t']).to_ascii_lowercase()
    };
    values(headers, name).flat_map(|value| value.split(',')).map(element).filter(|text| !text.is_empty())
}

/// Sets the media type and the encodings of the body.
pub(in crate::protocol) fn describe_body(message: &mut Message, headers: &[HeaderField]) {
    message.media_type = values(headers, "content-type").next().map(str::to_owned);
    message.encodings =
        elements(headers, "content-encoding").filter(|encoding| encoding != "identity").collect();
}

/// Adds the fields of a host with its port, without the user in front of it.
pub(in crate::protocol) fn push_authority(message: &mut Message, authority: &str) {
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') && (!host.contains(':') || host.ends_with(']')) => {
            (host, Some(port))
        }
        _ => (authority, None),
    };
    let number = port.filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.and_then(|port| port.parse::<u16>().ok());
    // A port that is not a number is shown, as a part of the host.
    let host = if number.is_none() && port.is_some_and(|port| !port.is_empty()) { authority } else { host };
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = inner.unwrap_or(host);
    if !host.is_empty() {
        message.fields.push((&HOST, FieldValue::Text(host.to_owned())));
    }
    if let Some(number) = number {
        message.fields.push((&PORT, FieldValue::Number(number.into())));
    }
}

/// Adds the fields of a path with its query.
pub(in crate::protocol) fn push_path(message: &mut Message, path: &str) {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    message.fields.push((&PATH, FieldValue::Text(path.to_owned())));
    if let Some(query) = query {
        message.fields.push((&QUERY, FieldValue::Text(query.to_owned())));
    }
}

/// The call that a request is, if its body may be in protocol buffers.
pub(in crate::protocol) fn call_of(message: &Message) -> Option<RpcCall> {
    match &message.media_type {
        Some(media_type) => {
            Framing::of(media_type)?;
        }
        None if message.field(&METHOD) == Some(&FieldValue::Text("POST".to_owned())) => {}
        None => return None,
    }
    match message.field(&PATH) {
        Some(FieldValue::Text(path)) => RpcCall::of_path(path),
        _ => None,
    }
}

/// Adds the fields of a call, if the message belongs to one. `path`: that of a request.
pub(in crate::protocol) fn add_call(message: &mut Message, headers: &[HeaderField], path: Option<&str>) {
    let Some(system) = grpc::system_name(message, headers) else { return };
    message.fields.push((&RPC_SYSTEM, FieldValue::Text(system.to_owned())));
    if let Some(method) = path.and_then(grpc::method) {
        message.fields.push((&RPC_METHOD, FieldValue::Text(method.to_owned())));
    }
}

/// The value of `error.type` for a status. To a client, an error of its own is one, too.
fn error_of_status(status: u16, role: Option<Role>) -> Option<FieldValue> {
    let least = if role == Some(Role::Client) { 400 } else { 500 };
    (status >= least).then(|| FieldValue::Text(status.to_string()))
}

/// Why a response that came is an error, for a process in this role. A server is only to blame for some of
/// its errors.
pub(in crate::protocol) fn error_of(message: &Message, role: Option<Role>) -> Option<FieldValue> {
    let is_client = role == Some(Role::Client);
    match message.field(&RPC_STATUS) {
        Some(FieldValue::Text(status)) => {
            let is_servers = matches!(
                status.as_str(),
                "UNKNOWN" | "DEADLINE_EXCEEDED" | "UNIMPLEMENTED" | "INTERNAL" | "UNAVAILABLE" | "DATA_LOSS"
            );
            return (is_servers || (is_client && status != "OK")).then(|| FieldValue::Text(status.clone()));
        }
        Some(_) => return None,
        None => {}
    }
    match message.field(&STATUS) {
        Some(FieldValue::Number(status)) => error_of_status(u16::try_from(*status).ok()?, role),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::event::Direction;
    use crate::protocol::MessageKind;

    fn message() -> Message {
        Message::new("http", MessageKind::Request, Direction::Transmit, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn authorities() {
        let check = |authority: &str, host: Option<&str>, port: Option<u64>| {
            let mut message = message();
            push_authority(&mut message, authority);
            let host = host.map(|host| FieldValue::Text(host.into()));
            assert_eq!(message.field(&HOST), host.as_ref(), "{authority}");
            assert_eq!(message.field(&PORT), port.map(FieldValue::Number).as_ref(), "{authority}");
        };
        check("api.example", Some("api.example"), None);
        check("api.example:8443", Some("api.example"), Some(8443));
        check("api.example:", Some("api.example"), None);
        check("user:secret@api.example:1", Some("api.example"), Some(1));
        check("[::1]:80", Some("::1"), Some(80));
        check("[::1]", Some("::1"), None);
        check("::1", Some("::1"), None);
        check("api.example:http", Some("api.example:http"), None);
        check("api.example:99999", Some("api.example:99999"), None);
        check(":80", None, Some(80));
        check("", None, None);
    }

    #[test]
    fn paths() {
        let check = |target: &str, path: &str, query: Option<&str>| {
            let mut message = message();
            push_path(&mut message, target);
            let text = |text: &str| FieldValue::Text(text.into());
            assert_eq!(message.field(&PATH), Some(&text(path)), "{target}");
            assert_eq!(message.field(&QUERY), query.map(text).as_ref(), "{target}");
        };
        check("/orders/7", "/orders/7", None);
        check("/orders?page=2?x", "/orders", Some("page=2?x"));
        check("/?", "/", Some(""));
        check("*", "*", None);
    }

    #[test]
    fn bodies() {
        let header =
            |name: &str, value: &str| HeaderField { name: Some(name.into()), value: Some(value.into()) };
        let mut message = message();
        let headers = [
            header("content-type", "text/html; charset=utf-8"),
            header("content-encoding", "GZip, identity"),
            header("content-encoding", " br"),
        ];
        describe_body(&mut message, &headers);
        assert_eq!(message.media_type.as_deref(), Some("text/html; charset=utf-8"));
        assert_eq!(message.encodings, ["gzip", "br"]);
    }
}
