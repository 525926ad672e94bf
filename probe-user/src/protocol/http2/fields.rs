//! Header lists → the fields of messages.

use super::hpack::{HeaderList, HpackField};
use super::tunnel::Connect;
use crate::event::{Field, FieldValue, HeaderField};
use crate::protocol::http::head::{call_of, describe_body, push_authority, push_path};
use crate::protocol::{Message, grpc, http};

/// What a list says about a field that it can have once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lookup<'a> {
    Value(&'a str),
    /// A field whose name is unknown may be it.
    Unknown,
    Absent,
}

impl Lookup<'_> {
    fn value(self) -> Option<FieldValue> {
        match self {
            Self::Value(text) => Some(FieldValue::Text(text.to_owned())),
            Self::Unknown => Some(FieldValue::Unknown),
            Self::Absent => None,
        }
    }
}

/// What a list says about a field. If there are several, the first one counts.
pub(super) fn lookup<'a>(list: &'a HeaderList, name: &str) -> Lookup<'a> {
    lookup_in(&list.fields, name, if list.is_cut { Lookup::Unknown } else { Lookup::Absent })
}

/// The same of a pseudo-header. These precede all other fields.
pub(super) fn pseudo<'a>(list: &'a HeaderList, name: &str) -> Lookup<'a> {
    let is_other = |field: &HpackField| field.name.as_ref().is_some_and(|name| !name.starts_with(':'));
    let end = list.fields.iter().position(is_other);
    let fields = list.fields.get(..end.unwrap_or(list.fields.len())).unwrap_or_default();
    lookup_in(fields, name, Lookup::Absent)
}

/// The same of some fields, with the result if none of them can be it.
fn lookup_in<'a>(fields: &'a [HpackField], name: &str, mut otherwise: Lookup<'a>) -> Lookup<'a> {
    for field in fields {
        match (&field.name, &field.value) {
            (Some(has), Some(value)) if **has == *name => return Lookup::Value(value),
            (Some(has), _) if **has != *name => {}
            _ => otherwise = Lookup::Unknown,
        }
    }
    otherwise
}

/// Whether a list begins a message, in contrast to trailers. None if its first fields are unknown.
pub(super) fn is_head(list: &HeaderList) -> Option<bool> {
    let first = list.fields.first().map(|field| &field.name);
    match first {
        Some(Some(name)) => Some(name.starts_with(':')),
        Some(None) if list.fields.iter().any(has_pseudo_name) => Some(true),
        Some(None) => None,
        None => Some(false),
    }
}

fn has_pseudo_name(field: &HpackField) -> bool {
    field.name.as_ref().is_some_and(|name| name.starts_with(':'))
}

/// The number of fields at the beginning of a list that are pseudo-headers, of which the given ones must be
/// there.
fn pseudo_headers(list: &HeaderList, required: &[&str]) -> usize {
    let end = list.fields.iter().rposition(has_pseudo_name).map_or(0, |last| last + 1);
    let (before, after) = list.fields.split_at_checked(end).unwrap_or_default();
    let is_unknown = |field: &&HpackField| field.name.is_none();
    let known = |name: &&&str| before.iter().any(|field| field.name.as_deref() == Some(**name));
    let missing = required.len() - required.iter().filter(known).count();
    let unknown = after.iter().take_while(is_unknown).count();
    end + unknown.min(missing.saturating_sub(before.iter().filter(is_unknown).count()))
}

/// The fields of a list as a message has them, without the given number of pseudo-headers.
pub(super) fn headers(list: &HeaderList, pseudo_headers: usize) -> Vec<HeaderField> {
    let fields = list.fields.iter().skip(pseudo_headers);
    let header = |field: &HpackField| HeaderField {
        name: field.name.as_ref().map(|name| name.to_ascii_lowercase()),
        value: field.value.as_ref().map(|value| value.as_ref().to_owned()),
    };
    let mut headers: Vec<HeaderField> = fields.map(header).collect();
    if list.is_cut {
        headers.push(HeaderField { name: None, value: None });
    }
    headers
}

/// Adds the fields of a request's head. `list` is None if that was lost.
pub(super) fn add_request(message: &mut Message, list: Option<&HeaderList>) {
    let Some(list) = list else {
        let fields = [&http::METHOD, &http::HOST, &http::PATH, &http::REQUEST_HEADERS];
        message.fields.extend(fields.map(|field| (field, FieldValue::Unknown)));
        return;
    };
    message.fields.extend(pseudo(list, ":method").value().map(|value| (&http::METHOD, value)));
    message.fields.extend(pseudo(list, ":scheme").value().map(|value| (&http::SCHEME, value)));
    let authority = match pseudo(list, ":authority") {
        Lookup::Absent => lookup(list, "host"),
        authority => authority,
    };
    match authority {
        Lookup::Value(authority) => push_authority(message, authority),
        Lookup::Unknown => message.fields.push((&http::HOST, FieldValue::Unknown)),
        Lookup::Absent => {}
    }
    let path = pseudo(list, ":path");
    match path {
        Lookup::Value(path) => push_path(message, path),
        Lookup::Unknown => message.fields.push((&http::PATH, FieldValue::Unknown)),
        Lookup::Absent => {}
    }
    let pseudo_headers = pseudo_headers(list, &[":method", ":scheme", ":path"]);
    add_headers(message, &http::REQUEST_HEADERS, headers(list, pseudo_headers));
    message.call = call_of(message);
    if add_rpc_system(message, list) {
        add_rpc_method(message);
    }
}

/// What a request with the method CONNECT asks for. None if it has another one, or if that is unknown.
pub(super) fn connect(list: &HeaderList) -> Option<Connect> {
    match (pseudo(list, ":method"), pseudo(list, ":protocol")) {
        (Lookup::Value("CONNECT"), Lookup::Value(name)) => Some(Connect::Protocol(name.to_owned())),
        (Lookup::Value("CONNECT"), Lookup::Absent) => Some(Connect::Host),
        _ => None,
    }
}

/// Adds the fields of a response's head. `list` is None if that was lost.
pub(super) fn add_response(message: &mut Message, list: Option<&HeaderList>) {
    let Some(list) = list else {
        let fields = [&http::STATUS, &http::RESPONSE_HEADERS];
        message.fields.extend(fields.map(|field| (field, FieldValue::Unknown)));
        return;
    };
    let status = match pseudo(list, ":status") {
        Lookup::Value(status) => status.parse().ok().map(FieldValue::Number),
        Lookup::Unknown => Some(FieldValue::Unknown),
        Lookup::Absent => None,
    };
    message.fields.extend(status.map(|status| (&http::STATUS, status)));
    add_headers(message, &http::RESPONSE_HEADERS, headers(list, pseudo_headers(list, &[":status"])));
    add_rpc_system(message, list);
}

fn add_headers(message: &mut Message, field: &'static Field, headers: Vec<HeaderField>) {
    describe_body(message, &headers);
    message.fields.push((field, FieldValue::Headers(headers)));
}

/// Adds the system of a message whose head is decoded, if it is known to belong to a call. Returns whether it
/// is.
fn add_rpc_system(message: &mut Message, list: &HeaderList) -> bool {
    let field = [&http::REQUEST_HEADERS, &http::RESPONSE_HEADERS];
    let headers = field.into_iter().find_map(|field| match message.field(field) {
        Some(FieldValue::Headers(headers)) => Some(headers.as_slice()),
        _ => None,
    });
    let system = grpc::system_name(message, headers.unwrap_or_default());
    let system = system.or_else(|| is_named(list).then_some("grpc"));
    message.fields.extend(system.map(|name| (&http::RPC_SYSTEM, FieldValue::Text(name.to_owned()))));
    system.is_some()
}

/// Whether a list whose content type is unknown has a field that nothing but a call has.
fn is_named(list: &HeaderList) -> bool {
    lookup(list, "content-type") == Lookup::Unknown && has_field_of_call(list)
}

fn has_field_of_call(list: &HeaderList) -> bool {
    let is_of_call =
        |field: &HpackField| grpc::FIELDS.iter().any(|name| field.name.as_deref() == Some(*name));
    list.fields.iter().any(is_of_call)
}

fn push_rpc_system(message: &mut Message) {
    message.fields.push((&http::RPC_SYSTEM, FieldValue::Text("grpc".to_owned())));
}

/// Adds the method that a request calls.
pub(super) fn add_rpc_method(message: &mut Message) {
    if message.field(&http::RPC_METHOD).is_some() {
        return;
    }
    let method = match message.field(&http::PATH) {
        Some(FieldValue::Text(path)) => grpc::method(path).map(|method| FieldValue::Text(method.to_owned())),
        Some(_) => Some(FieldValue::Unknown),
        None => None,
    };
    message.fields.extend(method.map(|method| (&http::RPC_METHOD, method)));
}

/// Adds that a response is one of gRPC: its body is a sequence of messages, and it has trailers that may have
/// a status. Of all that have such bodies, only gRPC has trailers.
pub(super) fn add_rpc_system_of_trailers(message: &mut Message, list: &HeaderList) {
    let has_system = message.field(&http::RPC_SYSTEM).is_some();
    if !has_system && lookup(list, "grpc-status") == Lookup::Unknown {
        push_rpc_system(message);
    }
}

/// Adds the status of a call, if a list has one or may have one.
pub(super) fn add_rpc_status(message: &mut Message, list: &HeaderList) {
    let status = lookup(list, "grpc-status");
    if status != Lookup::Absent && message.field(&http::RPC_SYSTEM).is_none() {
        if status == Lookup::Unknown && !has_field_of_call(list) {
            return;
        }
        // The content type is unknown, but nothing else has these fields.
        push_rpc_system(message);
    }
    if status == Lookup::Absent {
        return;
    }
    let text = match lookup(list, "grpc-message") {
        Lookup::Value(text) => Some(text),
        Lookup::Unknown | Lookup::Absent => None,
    };
    grpc::add_status(message, &status.value().unwrap_or(FieldValue::Unknown), text);
}
