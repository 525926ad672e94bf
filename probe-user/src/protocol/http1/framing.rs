//! Where a message ends: RFC 9112, section 6.3.

use super::head::{MessageHead, Violations};
use super::pairing::Method;
use crate::event::HeaderField;
use crate::protocol::http::head::values;

/// The violations that concern the length of a body.
const BOTH_LENGTHS: &str = "Content-Length beside Transfer-Encoding";
const REPEATED_LENGTH: &str = "repeated Content-Length";
const DIFFERENT_LENGTHS: &str = "different values of Content-Length";
const BAD_LENGTH: &str = "Content-Length that is not a number";
const NOT_CHUNKED: &str = "Transfer-Encoding of a request that does not end in chunked";
const CHUNKED_WITHIN: &str = "chunked is not the last Transfer-Encoding";
const OLD_CODING: &str = "Transfer-Encoding in HTTP/1.0";
const CODING_WITHOUT_BODY: &str = "Transfer-Encoding of a response that has no body";

/// How the end of a body is determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// This many bytes, which may be 0.
    Known(u64),
    /// Chunks.
    Chunked,
    /// Up to the end of the connection.
    UntilClose,
    /// Recipients do not agree on it, so that what follows cannot be decoded for sure.
    Unclear,
}

/// The length of the body of a request.
pub(super) fn request_body(head: &mut MessageHead, version: u8) -> BodyLength {
    let codings = transfer_codings(&head.headers);
    let length = content_length(&head.headers, &mut head.violations);
    if head.has_spaced_framing || head.is_cut {
        // A server has to reject the former.
        return BodyLength::Unclear;
    }
    if codings.is_empty() {
        return length.map_or(BodyLength::Unclear, |length| BodyLength::Known(length.unwrap_or(0)));
    }
    check_codings(head, &codings, length, version);
    if is_chunked(&codings) {
        return BodyLength::Chunked;
    }
    head.violations.add(NOT_CHUNKED);
    BodyLength::Unclear
}

/// How the body of a response ends. `method`: that of its request, if it is known.
pub(super) fn answer_body(
    head: &mut MessageHead,
    version: u8,
    code: u16,
    method: Option<Method>,
) -> BodyLength {
    let is_tunnel = method == Some(Method::Connect) && (200..300).contains(&code);
    if code < 200 || code == 204 || code == 304 || method == Some(Method::Head) || is_tunnel {
        return no_body(head, code);
    }
    response_body(head, version)
}

/// The length of the body of a response that may have one.
fn response_body(head: &mut MessageHead, version: u8) -> BodyLength {
    let codings = transfer_codings(&head.headers);
    let length = content_length(&head.headers, &mut head.violations);
    if head.is_cut {
        return BodyLength::Unclear;
    }
    if codings.is_empty() {
        return match length {
            Ok(Some(length)) => BodyLength::Known(length),
            Ok(None) => BodyLength::UntilClose,
            Err(InvalidLength) => BodyLength::Unclear,
        };
    }
    check_codings(head, &codings, length, version);
    if is_chunked(&codings) { BodyLength::Chunked } else { BodyLength::UntilClose }
}

/// The response has no body, whatever its header fields say.
fn no_body(head: &mut MessageHead, code: u16) -> BodyLength {
    // After HEAD and in 304, the fields describe the body that GET would get.
    let has_none = code < 200 || code == 204;
    if has_none && values(&head.headers, "transfer-encoding").next().is_some() {
        head.violations.add(CODING_WITHOUT_BODY);
    }
    BodyLength::Known(0)
}

fn check_codings(
    head: &mut MessageHead,
    codings: &[String],
    content_length: Result<Option<u64>, InvalidLength>,
    version: u8,
) {
    let violations = &mut head.violations;
    if content_length != Ok(None) {
        violations.add(BOTH_LENGTHS);
    }
    if version == 0 {
        violations.add(OLD_CODING);
    }
    let within = codings.split_last().map(|(_, within)| within).unwrap_or_default();
    if within.iter().any(|coding| coding == "chunked") {
        violations.add(CHUNKED_WITHIN);
    }
}

fn is_chunked(codings: &[String]) -> bool {
    codings.last().is_some_and(|coding| coding == "chunked")
}

/// The codings of the transfer in the order in which they were applied.
pub(super) fn transfer_codings(headers: &[HeaderField]) -> Vec<String> {
    let codings = values(headers, "transfer-encoding").flat_map(|value| value.split(','));
    let codings = codings.map(|coding| coding.trim_matches([' ', '\t']).to_ascii_lowercase());
    // An element that is not a name is kept: it is not `chunked`, which matters.
    let codings: Vec<String> = codings.collect();
    if codings.iter().all(String::is_empty) && !codings.is_empty() {
        return vec![String::new()];
    }
    codings.into_iter().filter(|coding| !coding.is_empty()).collect()
}

/// A Content-Length that is not one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InvalidLength;

/// The Content-Length. A list of equal values counts as one of them, as RFC 9110 allows.
fn content_length(
    headers: &[HeaderField],
    violations: &mut Violations,
) -> Result<Option<u64>, InvalidLength> {
    let mut length = None;
    let list = values(headers, "content-length").flat_map(|value| value.split(','));
    for text in list {
        let text = text.trim_matches([' ', '\t']);
        let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(number) = digits.and_then(|digits| digits.parse().ok()) else {
            violations.add(BAD_LENGTH);
            return Err(InvalidLength);
        };
        match length.replace(number) {
            Some(other) if other != number => {
                violations.add(DIFFERENT_LENGTHS);
                return Err(InvalidLength);
            }
            Some(_) => violations.add(REPEATED_LENGTH),
            None => {}
        }
    }
    Ok(length)
}
