//! wolfSSL without symbols, where it keeps a queue of errors (`WOLFSSL_HAVE_ERROR_QUEUE`, a part of its API
//! like OpenSSL's): errors are reported with the names of function and source file. Otherwise it says nothing
//! of itself, and is not found.
//!
//! What is found are not the public functions but those that all of them call.

use super::evidence::{Evidence, calls, only, symbol};
use super::{Answer, Confidence, Locator, SignatureMatch};
use crate::elf::Pattern::{Beside, Whole};
use crate::elf::{ObjectError, Pattern, Symbol, Uses};

const FILE: Pattern = Beside("internal.c");

/// A function, the name that it reports errors under, and those of which it calls one.
struct Function {
    name: &'static str,
    reports: Pattern,
    calls: &'static [Pattern],
}

const RECEIVES: Function = Function {
    name: "ReceiveData of wolfSSL",
    reports: Whole("ReceiveData"),
    // Without the end before 5.2.
    calls: &[Whole("ProcessReplyEx"), Whole("ProcessReply")],
};
const SENDS: Function =
    Function { name: "SendData of wolfSSL", reports: Whole("SendData"), calls: &[Whole("BuildMessage")] };
/// Called for each new connection, and for no other.
const BEGINS: Function = Function {
    name: "SetSSL_CTX of wolfSSL",
    reports: Whole("SetSSL_CTX"),
    calls: &[Whole("InitSSL_Suites")],
};

/// wolfSSL from 3.x on.
pub(super) struct WolfSsl;

impl Locator for WolfSsl {
    fn api(&self) -> &'static str {
        "wolfSSL"
    }

    fn needles(&self) -> &'static [Pattern] {
        &[
            FILE,
            RECEIVES.reports,
            SENDS.reports,
            BEGINS.reports,
            Whole("ProcessReplyEx"),
            Whole("ProcessReply"),
            Whole("BuildMessage"),
            Whole("InitSSL_Suites"),
        ]
    }

    fn locate(&self, evidence: &Evidence<'_>) -> Result<Answer, ObjectError> {
        let moves = [&RECEIVES, &SENDS].map(|function| {
            find(evidence, function)
                .filter(|found| evidence.takes_length(found))
                .map(|found| (function, found))
        });
        let located: Vec<_> = moves
            .into_iter()
            .flatten()
            .chain(find(evidence, &BEGINS).map(|found| (&BEGINS, found)))
            .collect();
        let has = |wanted: &Function| located.iter().any(|(function, _)| function.name == wanted.name);
        if !has(&RECEIVES) && !has(&SENDS) {
            return Ok(Answer::NotMine);
        }
        let missing: Vec<&str> = [&RECEIVES, &SENDS, &BEGINS]
            .into_iter()
            .filter(|function| !has(function))
            .map(|function| function.name)
            .collect();
        let is_sure = missing.is_empty();
        let why = if is_sure {
            "they report errors under their names and that of their source file, and call those that they \
             call in the source"
                .to_owned()
        } else {
            format!("{} does not report errors under its name, or several functions do", missing.join(", "))
        };
        let functions: Vec<(&'static str, Symbol)> =
            located.into_iter().map(|(function, found)| (function.name, symbol(found))).collect();
        Ok(Answer::Located(SignatureMatch {
            api: self.api(),
            implementation: "wolfSSL",
            version: None,
            functions,
            mark: None,
            why,
            certainty: if is_sure { Confidence::High } else { Confidence::Low },
        }))
    }
}

/// The one function that reports under the name, if it calls one of the others.
fn find<'u>(evidence: &'u Evidence<'_>, function: &Function) -> Option<&'u Uses> {
    let found = evidence.with(&[function.reports, FILE], &[]);
    let callees: Vec<&Uses> =
        function.calls.iter().flat_map(|callee| evidence.with(&[*callee, FILE], &[])).collect();
    only(&found).filter(|found| callees.iter().any(|callee| calls(found, callee.address)))
}
