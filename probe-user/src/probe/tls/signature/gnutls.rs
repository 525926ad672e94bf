//! GnuTLS without symbols: `gnutls_assert` passes the names of source file and function to the log
//! (lib/errors.h).

use super::evidence::{Evidence, only, symbol};
use super::{Answer, Confidence, Locator, SignatureMatch};
use crate::elf::StringPattern::{Beside, Whole};
use crate::elf::{AbstractValue, CallArguments, Callee, ObjectError, StringPattern, Symbol, Uses};

/// The log message of an assertion.
const ASSERT: StringPattern = Beside("ASSERT: %s[%s]:%d\n");
/// The log level of that message.
const LEVEL: u64 = 3;

/// `GNUTLS_APPLICATION_DATA`: the record type that gnutls_record_recv passes to the internal receive
/// function.
const DATA: u64 = 23;
/// A callee with at least this many other callers is the log function rather than the internal receive
/// function.
const MANY: usize = 16;

/// How many instructions before and after the name of a function belong to the same assertion. Code that is
/// not optimised has many.
const AROUND: u32 = 24;
/// The function with which others receive.
const INTERNAL: &str = "_gnutls_recv_int";

/// The functions to find, with their source file.
const FUNCTIONS: [(&str, StringPattern); 8] = [
    ("gnutls_record_send", Beside("record.c")),
    ("gnutls_record_send2", Beside("record.c")),
    ("gnutls_record_send_early_data", Beside("record.c")),
    ("gnutls_record_recv", Beside("record.c")),
    ("gnutls_record_recv_early_data", Beside("record.c")),
    ("gnutls_record_recv_packet", Beside("record.c")),
    ("gnutls_packet_get", Beside("record.c")),
    ("gnutls_init", Beside("state.c")),
];

/// The functions that move bytes: from 3.6.3 on, and before. If neither direction is found, the object does
/// not contain GnuTLS.
const NEEDED: [[&str; 2]; 2] =
    [["gnutls_record_send2", "gnutls_record_send"], ["gnutls_record_recv", "gnutls_record_recv_seq"]];

/// GnuTLS from 3.5 on.
pub(super) struct GnuTls;

impl Locator for GnuTls {
    fn api(&self) -> &'static str {
        "GnuTLS"
    }

    fn needles(&self) -> &'static [StringPattern] {
        &[
            ASSERT,
            Beside("record.c"),
            Beside("state.c"),
            Whole("gnutls_record_send"),
            Whole("gnutls_record_send2"),
            Whole(INTERNAL),
            Whole("gnutls_record_send_early_data"),
            Whole("gnutls_record_recv"),
            Whole("gnutls_record_recv_early_data"),
            Whole("gnutls_record_recv_packet"),
            Whole("gnutls_packet_get"),
            Whole("gnutls_init"),
        ]
    }

    fn locate(&self, evidence: &Evidence<'_>) -> Result<Answer, ObjectError> {
        let mut functions = Vec::new();
        for (name, file) in FUNCTIONS {
            let mut found = evidence.with_within(AROUND, &[Whole(name), ASSERT, file], &[LEVEL]);
            let is_needed = NEEDED.iter().flatten().any(|needed| *needed == name);
            found.retain(|function| !is_needed || evidence.takes_length(function));
            functions.extend(only(&found).map(|function| (name, symbol(function))));
        }
        let recv = evidence.with_within(
            AROUND,
            &[Whole("gnutls_record_recv"), ASSERT, Beside("record.c")],
            &[LEVEL],
        );
        let siblings = only(&recv).map(|recv| siblings(evidence, recv)).transpose()?.unwrap_or_default();
        if let [sibling] = siblings.as_slice() {
            functions.push(("gnutls_record_recv_seq", symbol(sibling)));
        }
        if recv.is_empty() {
            functions.extend(receivers(evidence)?);
        }
        let is_found = |names: &[&str; 2]| functions.iter().any(|(found, _)| names.contains(found));
        let mut missing: Vec<&str> =
            NEEDED.iter().filter(|names| !is_found(names)).map(|[name, _]| *name).collect();
        if missing.len() == NEEDED.len() {
            return Ok(Answer::NotMine);
        }
        if siblings.len() > 1 {
            missing.push("gnutls_record_recv_seq");
        }
        let certain = functions.iter().map(|(name, _)| *name).collect();
        let is_sure = missing.is_empty();
        let why = if is_sure {
            if recv.is_empty() { WITHOUT_ASSERTION } else { WITH_ASSERTIONS }.to_owned()
        } else {
            format!(
                "{}: no function logs failed assertions under this name, or several do",
                missing.join(", ")
            )
        };
        let located = SignatureMatch {
            api: self.api(),
            implementation: "GnuTLS",
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

/// How the functions were found.
const WITH_ASSERTIONS: &str =
    "its functions log failed assertions with their own names and that of their source file";
const WITHOUT_ASSERTION: &str = "the sending function logs failed assertions with its own name and that of its source \
                                 file; the receiving functions alone pass their connection and buffer, and the type \
                                 of application data, to the internal function that does";

/// gnutls_record_recv and gnutls_record_recv_seq before 3.6, which assert nothing themselves: they pass on
/// their arguments, and say that they want application data.
fn receivers(evidence: &Evidence<'_>) -> Result<Vec<(&'static str, Symbol)>, ObjectError> {
    let internal = evidence.with_within(AROUND, &[Whole(INTERNAL), ASSERT, Beside("record.c")], &[LEVEL]);
    let Some(internal) = only(&internal) else { return Ok(Vec::new()) };
    let mut found: Vec<(&'static str, Symbol)> = Vec::new();
    for caller in evidence.callers(internal.address)? {
        let hands_on = |call: CallArguments| {
            call.callee == Callee::Function(internal.address)
                && call.first == Some(AbstractValue::Argument(0, 0))
                && call.second == Some(AbstractValue::Number(DATA))
                && call.third == Some(AbstractValue::Argument(1, 0))
        };
        if evidence.takes_length(&caller) && evidence.flow(&caller)?.calls().any(hands_on) {
            // The sequence number is the fourth argument.
            let has_number = evidence.object.takes_four_arguments(&caller)?;
            let name = if has_number { "gnutls_record_recv_seq" } else { "gnutls_record_recv" };
            if found.iter().any(|(other, _)| *other == name) {
                return Ok(Vec::new());
            }
            found.push((name, symbol(&caller)));
        }
    }
    Ok(found)
}

/// The functions that receive application data through the same internal function as gnutls_record_recv:
/// gnutls_record_recv_seq, which asserts nothing itself.
fn siblings(evidence: &Evidence<'_>, recv: &Uses) -> Result<Vec<Uses>, ObjectError> {
    let mut siblings: Vec<Uses> = Vec::new();
    for call in &recv.calls.direct {
        let callers = evidence.callers(call.target)?;
        let others = callers.into_iter().filter(|caller| caller.address != recv.address).collect::<Vec<_>>();
        if others.len() >= MANY {
            continue;
        }
        for other in others {
            // It passes on its arguments and does nothing else; closing and handshaking receive too, but do
            // more.
            let hands_on = other.calls.direct.len() == 1 && other.calls.indirect == 0;
            let receives = other.any(|operand| operand == DATA) && evidence.takes_length(&other) && hands_on;
            if receives && siblings.iter().all(|sibling| sibling.address != other.address) {
                siblings.push(other);
            }
        }
    }
    Ok(siblings)
}

#[cfg(test)]
mod tests;
