//! wolfSSL without symbols, in builds with an error queue (`WOLFSSL_HAVE_ERROR_QUEUE`, part of its
//! OpenSSL-compatible API), which report errors with the names of function and source file. Other builds
//! contain no such strings and are not found.
//!
//! What is found are internal functions that all public ones call.

use super::evidence::{Evidence, calls, only, symbol};
use super::{Answer, Confidence, Locator, SignatureMatch};
use crate::elf::StringPattern::{Beside, Whole};
use crate::elf::{ObjectError, StringPattern, Symbol, Uses};

const FILE: StringPattern = Beside("internal.c");

/// A function, the name under which it reports errors, and the functions of which it calls at least one.
struct Function {
    name: &'static str,
    reports: StringPattern,
    calls: &'static [StringPattern],
}

const RECEIVES: Function = Function {
    name: "ReceiveData of wolfSSL",
    reports: Whole("ReceiveData"),
    // Called ProcessReply before 5.2.
    calls: &[Whole("ProcessReplyEx"), Whole("ProcessReply")],
};
const SENDS: Function =
    Function { name: "SendData of wolfSSL", reports: Whole("SendData"), calls: &[Whole("BuildMessage")] };
/// Called for each new connection, and only then.
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

    fn needles(&self) -> &'static [StringPattern] {
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
            "its functions report errors under their names and that of their source file, and call the same \
             functions as in the source code"
                .to_owned()
        } else {
            format!("{}: no function reports errors under this name, or several do", missing.join(", "))
        };
        let functions: Vec<(&'static str, Symbol)> =
            located.into_iter().map(|(function, found)| (function.name, symbol(found))).collect();
        Ok(Answer::Located(SignatureMatch {
            api: self.api(),
            implementation: "wolfSSL",
            version: None,
            functions,
            certain: Vec::new(),
            mark: None,
            why,
            certainty: if is_sure { Confidence::High } else { Confidence::Low },
        }))
    }
}

/// The only function that reports errors under this name, if it calls one of the others.
fn find<'u>(evidence: &'u Evidence<'_>, function: &Function) -> Option<&'u Uses> {
    let found = evidence.with(&[function.reports, FILE], &[]);
    let callees: Vec<&Uses> =
        function.calls.iter().flat_map(|callee| evidence.with(&[*callee, FILE], &[])).collect();
    only(&found).filter(|found| callees.iter().any(|callee| calls(found, callee.address)))
}
