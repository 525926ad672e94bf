//! BoringSSL and AWS-LC without symbols. Each error report names the source file, the library and a reason
//! (`OPENSSL_PUT_ERROR`), and the set of reasons in a function identifies it.
//!
//! SSL_read and SSL_peek report the same errors. SSL_read is the one that consumes the bytes, so it writes to
//! the connection.

use super::evidence::{Evidence, calls, has_all, only, symbol};
use super::{Answer, Confidence, Locator, SignatureMatch};
use crate::elf::StringPattern::End;
use crate::elf::{AbstractValue, CallArguments, Callee, Effect, Flow, ObjectError, StringPattern, Uses};

const FILE: StringPattern = End("ssl_lib.cc");

/// `ERR_LIB_SSL`.
const LIBRARY: u64 = 16;
/// `SSL_R_SHOULD_NOT_HAVE_BEEN_CALLED`, reported with QUIC.
const NOT_CALLED: u64 = 66;
/// `SSL_R_BAD_LENGTH`.
const BAD_LENGTH: u64 = 111;
/// `SSL_R_NULL_SSL_CTX`.
const NO_CONTEXT: u64 = 185;
/// `SSL_R_SSL_HANDSHAKE_FAILURE`.
const HANDSHAKE: u64 = 215;
/// `SSL_R_UNINITIALIZED`.
const UNINITIALIZED: u64 = 226;

/// BoringSSL since its move to C++ (2017), and AWS-LC.
pub(super) struct BoringSsl;

impl Locator for BoringSsl {
    fn api(&self) -> &'static str {
        "OpenSSL API"
    }

    fn needles(&self) -> &'static [StringPattern] {
        &[FILE]
    }

    fn locate(&self, evidence: &Evidence<'_>) -> Result<Answer, ObjectError> {
        let write: Vec<&Uses> = with(evidence, &[NOT_CALLED, UNINITIALIZED, BAD_LENGTH, HANDSHAKE]);
        let inner: Vec<&Uses> = with(evidence, &[UNINITIALIZED, HANDSHAKE])
            .into_iter()
            .filter(|function| !reports(evidence, function, BAD_LENGTH))
            .collect();
        let mut functions = Vec::new();
        let mut missing = Vec::new();
        match only(&write) {
            Some(write) if !evidence.takes_length(write) => {
                missing.push("SSL_write: its arguments are not those of SSL_write in the source");
            }
            Some(write) => functions.push(("SSL_write", symbol(write))),
            None if write.is_empty() && inner.is_empty() => return Ok(Answer::NotMine),
            None => missing.push("SSL_write: expected one function that reports its four errors"),
        }
        match reader(evidence, &inner)? {
            Ok(read) => functions.push(("SSL_read", symbol(&read))),
            Err(doubt) => missing.push(doubt),
        }
        let is_one_sure = !functions.is_empty();
        functions.extend(only(&with(evidence, &[NO_CONTEXT])).map(|new| ("SSL_new", symbol(new))));
        let certain = functions.iter().map(|(name, _)| *name).filter(|_| is_one_sure).collect();
        let is_sure = missing.is_empty();
        let why = if is_sure {
            "SSL_write: the only function that reports its four errors of ssl_lib.cc; SSL_read: calls the \
             function that reports the errors of reading, and consumes bytes, which SSL_peek does not"
                .to_owned()
        } else {
            missing.join("; ")
        };
        let located = SignatureMatch {
            api: self.api(),
            implementation: "BoringSSL",
            version: None,
            functions,
            certain,
            mark: None,
            why,
            certainty: if is_sure { Confidence::High } else { Confidence::Low },
        };
        Ok(Answer::Located(located))
    }
}

/// The functions that report all of these errors.
fn with<'u>(evidence: &'u Evidence<'_>, reasons: &[u64]) -> Vec<&'u Uses> {
    let all = evidence.with(&[FILE], &[LIBRARY]).into_iter();
    all.filter(|function| reasons.iter().all(|reason| reports(evidence, function, *reason))).collect()
}

fn reports(evidence: &Evidence<'_>, function: &Uses, reason: u64) -> bool {
    evidence.places(function, &[FILE]).any(|near| has_all(&near, &[LIBRARY, reason]))
}

/// SSL_read, or the reason why it is not certain.
fn reader(evidence: &Evidence<'_>, inner: &[&Uses]) -> Result<Result<Uses, &'static str>, ObjectError> {
    let Some(inner) = only(inner) else {
        return Ok(Err("SSL_read: expected one function that reports the errors of reading"));
    };
    let mut candidates = with(evidence, &[NOT_CALLED]);
    candidates.retain(|function| {
        function.address != inner.address && calls(function, inner.address) && evidence.takes_length(function)
    });
    let tested = evidence.flow(inner)?;
    let mut consuming = Vec::new();
    for candidate in &candidates {
        if consumes(&evidence.flow(candidate)?, &tested) {
            consuming.push(*candidate);
        }
    }
    match (candidates.as_slice(), consuming.as_slice()) {
        // SSL_read has what it shares with SSL_peek inlined, and SSL_peek may not be there at all.
        ([_] | [_, _], [reader]) => Ok(Ok((*reader).clone())),
        // SSL_read passes its arguments on to SSL_peek, and then consumes the bytes that it returned.
        // AWS-LC's SSL_peek_ex only passes them on.
        ([peek], []) => {
            let mut readers = Vec::new();
            for caller in evidence.callers(peek.address)? {
                let flow = evidence.flow(&caller)?;
                let hands_on = |call: CallArguments| {
                    call.callee == Callee::Function(peek.address)
                        && call.first == Some(AbstractValue::Argument(0, 0))
                        && call.second == Some(AbstractValue::Argument(1, 0))
                };
                if consumes(&flow, &tested) && flow.calls().any(hands_on) {
                    readers.push(caller);
                }
            }
            match <[Uses; 1]>::try_from(readers) {
                Ok([reader]) => Ok(Ok(reader)),
                Err(_) => Ok(Err("SSL_read: expected one function that consumes what SSL_peek returns")),
            }
        }
        ([_, _], _) => Ok(Err("SSL_read: cannot be distinguished from SSL_peek")),
        _ => Ok(Err(
            "SSL_read: expected one or two callers of the function that reports the errors of reading",
        )),
    }
}

/// Whether a function changes a word of the connection that the function for reading tests: the length of the
/// data that waits to be read, and none of them is 0.
fn consumes(flow: &Flow, inner: &Flow) -> bool {
    flow.effects.iter().any(|effect| match effect {
        Effect::ChangesBehind(0, owner, place) => {
            inner.effects.contains(&Effect::ReadsBehind(0, *owner, *place))
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests;
