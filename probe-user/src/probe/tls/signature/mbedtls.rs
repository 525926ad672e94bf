//! Mbed TLS without symbols: with debugging messages built in (`MBEDTLS_DEBUG_C`, the default), a function
//! logs when it is entered and left.

use super::evidence::{Evidence, only, symbol};
use super::{Answer, Confidence, Locator, SignatureMatch};
use crate::elf::StringPattern::{Beside, Whole};
use crate::elf::{ObjectError, StringPattern, Symbol, Uses};

/// A function, with its messages.
struct Function {
    name: &'static str,
    enters: StringPattern,
    leaves: StringPattern,
    /// Its source file, which was a different one before 2.19.
    files: [StringPattern; 2],
}

const MESSAGES: StringPattern = Beside("ssl_msg.c");
const BASE: StringPattern = Beside("ssl_tls.c");
/// The level of these messages.
const LEVEL: u64 = 2;

const FUNCTIONS: [Function; 3] = [
    Function {
        name: "mbedtls_ssl_read",
        enters: Whole("=> read"),
        leaves: Whole("<= read"),
        files: [MESSAGES, BASE],
    },
    Function {
        name: "mbedtls_ssl_write",
        enters: Whole("=> write"),
        leaves: Whole("<= write"),
        files: [MESSAGES, BASE],
    },
    Function {
        name: "mbedtls_ssl_free",
        enters: Whole("=> free"),
        leaves: Whole("<= free"),
        files: [BASE, MESSAGES],
    },
];

/// The errors that are logged while a connection is set up: no memory for its buffers (the text from 2.26 on,
/// and the one before), or for its handshake.
const NO_BUFFER: [StringPattern; 2] = [Whole("alloc(%zu bytes) failed"), Whole("alloc(%d bytes) failed")];
const NO_HANDSHAKE: StringPattern = Whole("alloc() of ssl sub-contexts failed");
const RENEGOTIATES: StringPattern = Whole("=> renegotiate");
const ERRORS: u64 = 1;

/// The functions that move bytes. If neither is found, the object does not contain Mbed TLS.
const NEEDED: [&str; 2] = ["mbedtls_ssl_read", "mbedtls_ssl_write"];

/// Mbed TLS 2 and 3.
pub(super) struct MbedTls;

impl Locator for MbedTls {
    fn api(&self) -> &'static str {
        "Mbed TLS"
    }

    fn needles(&self) -> &'static [StringPattern] {
        &[
            MESSAGES,
            BASE,
            Whole("=> read"),
            Whole("<= read"),
            Whole("=> write"),
            Whole("<= write"),
            Whole("=> free"),
            Whole("<= free"),
            NO_BUFFER[0],
            NO_BUFFER[1],
            NO_HANDSHAKE,
            RENEGOTIATES,
        ]
    }

    fn locate(&self, evidence: &Evidence<'_>) -> Result<Answer, ObjectError> {
        let mut functions = Vec::new();
        for function in &FUNCTIONS {
            functions.extend(find(evidence, function).map(|found| (function.name, symbol(found))));
        }
        let missing: Vec<&str> =
            NEEDED.into_iter().filter(|name| functions.iter().all(|(found, _)| found != name)).collect();
        if missing.len() == NEEDED.len() {
            return Ok(Answer::NotMine);
        }
        functions.extend(begins(evidence)?);
        let is_sure = missing.is_empty();
        let why = if is_sure {
            "its functions log when they are entered and left, with the name of their source file".to_owned()
        } else {
            format!("{}: no function logs its messages, or several do", missing.join(", "))
        };
        let located = SignatureMatch {
            api: self.api(),
            implementation: "Mbed TLS",
            version: None,
            functions,
            certain: Vec::new(),
            mark: None,
            why,
            certainty: if is_sure { Confidence::High } else { Confidence::Low },
        };
        Ok(Answer::Located(located))
    }
}

/// The only function that logs both messages, the first one together with its source file.
fn find<'u>(evidence: &'u Evidence<'_>, function: &Function) -> Option<&'u Uses> {
    let of = |file: StringPattern| {
        let mut enters = evidence.with(&[function.enters, file], &[LEVEL]);
        enters.retain(|found| evidence.places(found, &[function.leaves]).next().is_some());
        enters
    };
    let takes = |found: &&Uses| !NEEDED.contains(&function.name) || evidence.takes_length(found);
    function.files.into_iter().find_map(|file| only(&of(file)).filter(takes))
}

/// The functions that open a connection. Three functions call the one that reports a lack of memory for the
/// handshake: one sets up the connection, one logs that it renegotiates, and the remaining one resets the
/// connection for reuse. Returns the first and the last, or none: with only one of them hooked, bytes of the
/// next connection would be attributed to the first.
fn begins(evidence: &Evidence<'_>) -> Result<Vec<(&'static str, Symbol)>, ObjectError> {
    let prepares = evidence.with(&[NO_HANDSHAKE, BASE], &[ERRORS]);
    let Some(prepares) = only(&prepares) else { return Ok(Vec::new()) };
    let logs =
        |function: &Uses, text: StringPattern| evidence.places(function, &[text, BASE]).next().is_some();
    let (mut makes, mut resets) = (Vec::new(), Vec::new());
    for caller in evidence.callers(prepares.address)? {
        if NO_BUFFER.into_iter().any(|text| logs(&caller, text)) {
            makes.push(caller);
        } else if !logs(&caller, RENEGOTIATES) {
            resets.push(caller);
        }
    }
    Ok(match (makes.as_slice(), resets.as_slice()) {
        ([makes], [resets]) => {
            vec![("mbedtls_ssl_setup", symbol(makes)), ("mbedtls_ssl_session_reset_int", symbol(resets))]
        }
        _ => Vec::new(),
    })
}
