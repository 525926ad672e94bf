//! OpenSSL without symbols: the errors that a function reports identify it.
//!
//! From 3.0 on, an error is reported with the names of function and source file (`ERR_set_debug`) and the
//! numbers of library and reason (`ERR_set_error`). SSL_read reports a bad length, and calls the internal
//! function that reports a connection that is not set up. Before 3.0, the number of the function comes with
//! them (`ERR_put_error`; include/openssl/sslerr.h).

use super::evidence::{Evidence, calls, only, symbol};
use super::{Answer, Confidence, Locator, SignatureMatch};
use crate::elf::StringPattern::{End, Whole};
use crate::elf::{ObjectError, StringPattern, Symbol, Uses};

const FILE: StringPattern = End("ssl/ssl_lib.c");

/// `ERR_LIB_SSL`.
const LIBRARY: u64 = 20;
/// `SSL_R_BAD_LENGTH`.
const BAD_LENGTH: u64 = 271;
/// `SSL_R_UNINITIALIZED`.
const UNINITIALIZED: u64 = 276;
/// `SSL_R_NULL_SSL_CTX`.
const NO_CONTEXT: u64 = 195;
/// `SSL_F_SSL_NEW`.
const NEW: u64 = 186;

/// How a function is found whose internal function alone reports errors.
const FORWARDS: &str = "alone passes its arguments on to the internal function that reports errors under its name, \
                        with OpenSSL's numbers";
/// Ends the message about a direction of which no trace was found.
const ABSENT: &str = " is not there";

/// One direction of the data.
struct Way {
    public: &'static str,
    internal: &'static str,
    /// `SSL_F_SSL_READ` and the like: the number of the public function.
    number: u64,
    /// `SSL_F_SSL_READ_INTERNAL` and the like; only 1.1.1 has it.
    internal_number: u64,
    /// The public function with the same arguments as the internal one.
    forwarder: &'static str,
    /// The same, if the internal function has five arguments.
    forwarder_of_five: Option<&'static str>,
}

const WAYS: [Way; 2] = [
    Way {
        public: "SSL_read",
        internal: "ssl_read_internal",
        number: 223,
        internal_number: 523,
        forwarder: "SSL_read_ex",
        forwarder_of_five: None,
    },
    Way {
        public: "SSL_write",
        internal: "ssl_write_internal",
        number: 208,
        internal_number: 524,
        forwarder: "SSL_write_ex",
        forwarder_of_five: Some("SSL_write_ex2"),
    },
];

/// The functions that were found for one direction.
enum Side<'u> {
    /// SSL_read or SSL_write, with the internal function that it calls.
    Public { public: &'u Uses, internal: Option<&'u Uses>, facts: &'static str },
    /// Only the internal function: the program is linked with SSL_read_ex or SSL_write_ex alone.
    Internal(&'u Uses),
}

/// OpenSSL 1.0.2 to 3.x.
pub(super) struct OpenSsl;

impl Locator for OpenSsl {
    fn api(&self) -> &'static str {
        "OpenSSL API"
    }

    fn needles(&self) -> &'static [StringPattern] {
        &[
            FILE,
            Whole("SSL_read"),
            Whole("SSL_write"),
            Whole("ssl_read_internal"),
            Whole("ssl_write_internal"),
            Whole("SSL_new"),
        ]
    }

    fn locate(&self, evidence: &Evidence<'_>) -> Result<Answer, ObjectError> {
        let mut functions = Vec::new();
        let mut doubtful = Vec::new();
        let mut facts = Vec::new();
        let mut missing = Vec::new();
        for way in &WAYS {
            match side(evidence, way) {
                Ok(Some(Side::Public { public, .. })) if !evidence.takes_length(public) => {
                    missing.push(format!("{}: its arguments are not those of the source code", way.public));
                }
                Ok(Some(Side::Public { public, internal, facts: found })) => {
                    functions.push((way.public, symbol(public)));
                    if let Some(internal) = internal {
                        // The public function has three parameters, so a fifth argument belongs to the
                        // internal one.
                        let has_five = evidence.object.gives_five_arguments(public, internal.address)?;
                        let name = if has_five { way.forwarder_of_five } else { Some(way.forwarder) };
                        functions.extend(forwarder(evidence, internal, name)?);
                    }
                    facts.push(format!("{}: {found}", way.public));
                }
                Ok(Some(Side::Internal(internal))) => {
                    let has_five = evidence.object.takes_five_arguments(internal)?;
                    let name = if has_five { way.forwarder_of_five } else { Some(way.forwarder) };
                    let forwarder = forwarder(evidence, internal, name)?;
                    // Another caller may be SSL_read or SSL_write after all.
                    let is_alone = evidence.callers(internal.address)?.len() == 1;
                    match forwarder.filter(|_| is_alone && evidence.takes_length(internal)) {
                        Some((name, symbol)) => {
                            functions.push((name, symbol));
                            facts.push(format!("{name}: {FORWARDS}"));
                        }
                        None => missing.push(format!(
                            "{}: expected one function that passes its arguments on to the internal function \
                             that reports errors under its name",
                            way.forwarder
                        )),
                    }
                }
                Ok(None) => missing.push(format!("{}{ABSENT}", way.public)),
                Err(Doubt(doubt, candidate)) => {
                    doubtful.extend(candidate.map(|candidate| (way.public, candidate)));
                    missing.push(format!("{}: {doubt}", way.public));
                }
            }
        }
        if functions.is_empty()
            && doubtful.is_empty()
            && missing.iter().all(|missing| missing.ends_with(ABSENT))
        {
            return Ok(Answer::NotMine);
        }
        let new = [evidence.with(&[Whole("SSL_new")], &[LIBRARY, NO_CONTEXT]), {
            evidence.with(&[FILE], &[LIBRARY, NEW, NO_CONTEXT])
        }];
        let is_one_sure = !functions.is_empty();
        functions.extend(new.iter().find_map(|new| only(new)).map(|new| ("SSL_new", symbol(new))));
        let certain = functions.iter().map(|(name, _)| *name).filter(|_| is_one_sure).collect();
        functions.extend(doubtful);
        let is_sure = missing.is_empty();
        let why = if is_sure { facts.join("; ") } else { missing.join("; ") };
        let located = SignatureMatch {
            api: self.api(),
            implementation: "OpenSSL",
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

/// The reason to doubt a match, and the function that it may be nevertheless.
struct Doubt(&'static str, Option<Symbol>);

fn side<'u>(evidence: &'u Evidence<'_>, way: &Way) -> Result<Option<Side<'u>>, Doubt> {
    let named = evidence.with(&[Whole(way.public)], &[LIBRARY, BAD_LENGTH]);
    let internal = evidence.with(&[Whole(way.internal)], &[LIBRARY, UNINITIALIZED]);
    if named.is_empty() && internal.is_empty() {
        return numbered(evidence, way);
    }
    if let ([], [internal]) = (named.as_slice(), internal.as_slice()) {
        return Ok(Some(Side::Internal(internal)));
    }
    let Some(public) = only(&named) else {
        return Err(Doubt("expected one function that reports a bad length under its name", None));
    };
    let doubt = |why| Err(Doubt(why, Some(symbol(public))));
    match internal.as_slice() {
        // The internal function is inlined into the public one.
        [internal] if internal.address == public.address => {
            let facts =
                "reports errors under its own and its internal function's name, with OpenSSL's numbers";
            Ok(Some(Side::Public { public, internal: None, facts }))
        }
        [internal] if calls(public, internal.address) => {
            let facts = "reports errors under its name with OpenSSL's numbers, and calls the internal \
             function that does";
            Ok(Some(Side::Public { public, internal: Some(internal), facts }))
        }
        [_] => doubt("does not call the internal function that reports errors under its name"),
        [] => doubt("no internal function reports errors under its name"),
        // The internal function is inlined into each of its callers, as in builds of node.
        several if several.iter().any(|internal| internal.address == public.address) => {
            let facts =
                "alone reports errors under its own and its internal function's name, with OpenSSL's numbers";
            Ok(Some(Side::Public { public, internal: None, facts }))
        }
        _ => doubt("several internal functions report errors under its name, and it is none of them"),
    }
}

/// Finds the functions of a direction in OpenSSL before 3.0.
fn numbered<'u>(evidence: &'u Evidence<'_>, way: &Way) -> Result<Option<Side<'u>>, Doubt> {
    let of_length = evidence.with(&[FILE], &[LIBRARY, way.number, BAD_LENGTH]);
    let of_state = evidence.with(&[FILE], &[LIBRARY, way.number, UNINITIALIZED]);
    let internal = evidence.with(&[FILE], &[LIBRARY, way.internal_number, UNINITIALIZED]);
    let doubt = |why, public: &Uses| Err(Doubt(why, Some(symbol(public))));
    match (of_length.as_slice(), of_state.as_slice(), internal.as_slice()) {
        ([], [], []) => Ok(None),
        ([], [], [internal]) => Ok(Some(Side::Internal(internal))),
        // OpenSSL 1.1.1.
        ([public], [], [internal]) if calls(public, internal.address) => {
            let facts =
                "reports errors of ssl_lib.c under its number, and calls the internal function that does";
            Ok(Some(Side::Public { public, internal: Some(internal), facts }))
        }
        // OpenSSL 1.0.2 and 1.1.0.
        ([], [public], []) => {
            let facts = "alone reports an uninitialized connection in ssl_lib.c under its number";
            Ok(Some(Side::Public { public, internal: None, facts }))
        }
        ([public], ..) | ([], [public], _) => {
            doubt("the functions that report its errors do not fit", public)
        }
        _ => Err(Doubt("expected one function that reports errors under its number", None)),
    }
}

/// The function that passes its arguments on to the internal one, under its name, if it has one. Python and
/// Rust call it.
fn forwarder(
    evidence: &Evidence<'_>,
    internal: &Uses,
    name: Option<&'static str>,
) -> Result<Option<(&'static str, Symbol)>, ObjectError> {
    let Some(name) = name else { return Ok(None) };
    let mut forwarders = Vec::new();
    for caller in evidence.callers(internal.address)? {
        if evidence.forwards(&caller, internal.address)? {
            forwarders.push(symbol(&caller));
        }
    }
    Ok(match forwarders.as_slice() {
        [forwarder] => Some((name, *forwarder)),
        _ => None,
    })
}
