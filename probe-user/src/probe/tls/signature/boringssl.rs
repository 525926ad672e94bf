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

/// What has the errors of SSL_read and calls the function for reading, but takes no length, may have SSL_read
/// as a part of it: those bytes would not be seen.
const PART_OF_OTHERS: &str = "SSL_read: another function reports its errors, of which it may be a part";

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
    // SSL_read or SSL_peek may have the function for reading inlined. Others, such as SSL_shutdown, still
    // call that one.
    let (whole, inner): (Vec<&Uses>, Vec<&Uses>) =
        inner.iter().partition(|function| reports(evidence, function, NOT_CALLED));
    let (whole, others): (Vec<&Uses>, Vec<&Uses>) =
        whole.into_iter().partition(|function| evidence.takes_length(function));
    let mut readers: Vec<Uses> = Vec::new();
    for function in whole {
        let flow = evidence.flow(function)?;
        if consumes(&flow, &flow) {
            readers.push(function.clone());
        } else {
            readers.extend(callers_of_peek(evidence, function, &flow)?);
        }
    }
    for other in others {
        let flow = evidence.flow(other)?;
        let flows: Result<Vec<Flow>, _> = readers.iter().map(|reader| evidence.flow(reader)).collect();
        if !flows?.iter().any(|reader| consumes(reader, &flow)) || consumes(&flow, &flow) {
            return Ok(Err(PART_OF_OTHERS));
        }
    }
    let outer = match only(&inner) {
        Some(inner) => caller_that_reads(evidence, inner)?,
        None => Err("SSL_read: expected one function that reports the errors of reading"),
    };
    match (readers.as_slice(), outer) {
        ([], outer) => Ok(outer),
        ([reader], Err(_)) => Ok(Ok(reader.clone())),
        _ => Ok(Err("SSL_read: several functions report the errors of reading and consume bytes")),
    }
}

/// SSL_read, if it or SSL_peek calls the function for reading.
fn caller_that_reads(
    evidence: &Evidence<'_>,
    inner: &Uses,
) -> Result<Result<Uses, &'static str>, ObjectError> {
    let (candidates, others): (Vec<&Uses>, Vec<&Uses>) = with(evidence, &[NOT_CALLED])
        .into_iter()
        .filter(|function| function.address != inner.address && calls(function, inner.address))
        .partition(|function| evidence.takes_length(function));
    let tested = evidence.flow(inner)?;
    for other in others {
        if !only_tests(&evidence.flow(other)?, inner, &tested) {
            return Ok(Err(PART_OF_OTHERS));
        }
    }
    let mut consuming = Vec::new();
    for candidate in &candidates {
        if consumes(&evidence.flow(candidate)?, &tested) {
            consuming.push(*candidate);
        }
    }
    match (candidates.as_slice(), consuming.as_slice()) {
        // SSL_read has what it shares with SSL_peek inlined, and SSL_peek may not be there at all.
        ([_] | [_, _], [reader]) => Ok(Ok((*reader).clone())),
        ([peek], []) => match <[Uses; 1]>::try_from(callers_of_peek(evidence, peek, &tested)?) {
            Ok([reader]) => Ok(Ok(reader)),
            Err(_) => Ok(Err("SSL_read: expected one function that consumes what SSL_peek returns")),
        },
        ([_, _], _) => Ok(Err("SSL_read: cannot be distinguished from SSL_peek")),
        _ => Ok(Err(
            "SSL_read: expected one or two callers of the function that reports the errors of reading",
        )),
    }
}

/// Whether a function has the connection as its first argument, calls the function for reading with it, and
/// leaves what waits to be read alone, as AWS-LC's SSL_shutdown does.
fn only_tests(flow: &Flow, inner: &Uses, tested: &Flow) -> bool {
    let callee = Callee::Function(inner.address);
    let mut tests = flow.calls().filter(|call| call.callee == callee).peekable();
    tests.peek().is_some()
        && tests.all(|call| call.first == Some(AbstractValue::Argument(0, 0)))
        && !consumes(flow, tested)
}

/// The functions that pass their arguments on to SSL_peek, and then consume the bytes that it returned:
/// SSL_read. AWS-LC's SSL_peek_ex only passes them on.
fn callers_of_peek(evidence: &Evidence<'_>, peek: &Uses, tested: &Flow) -> Result<Vec<Uses>, ObjectError> {
    let hands_on = |call: CallArguments| {
        call.callee == Callee::Function(peek.address)
            && call.first == Some(AbstractValue::Argument(0, 0))
            && call.second == Some(AbstractValue::Argument(1, 0))
    };
    let mut readers = Vec::new();
    for caller in evidence.callers(peek.address)? {
        let flow = evidence.flow(&caller)?;
        if !flow.calls().any(hands_on) {
            // SSL_read may be a part of it, as in Chromium: its bytes would not be seen.
            return Ok(Vec::new());
        }
        if consumes(&flow, tested) {
            readers.push(caller);
        }
    }
    Ok(readers)
}

/// Whether a function changes the place and the length of the data that waits to be read: two words of the
/// connection beside each other, of which the function for reading tests the second one.
fn consumes(flow: &Flow, inner: &Flow) -> bool {
    flow.effects.iter().any(|effect| match effect {
        Effect::ChangesBehind(0, owner, length) => {
            let place = Effect::ChangesBehind(0, *owner, length.wrapping_sub(8));
            flow.effects.contains(&place) && inner.effects.contains(&Effect::ReadsBehind(0, *owner, *length))
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests;
