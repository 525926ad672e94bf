//! GnuTLS without symbols: `gnutls_assert` passes the names of source file and function to the log
//! (lib/errors.h).

use super::evidence::{Evidence, only, symbol};
use super::{Answer, Confidence, Locator, SignatureMatch};
use crate::elf::StringPattern::{Beside, Whole};
use crate::elf::{ObjectError, StringPattern, Uses};

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

/// The functions to find, with their source file.
const FUNCTIONS: [(&str, StringPattern); 7] = [
    ("gnutls_record_send2", Beside("record.c")),
    ("gnutls_record_send_early_data", Beside("record.c")),
    ("gnutls_record_recv", Beside("record.c")),
    ("gnutls_record_recv_early_data", Beside("record.c")),
    ("gnutls_record_recv_packet", Beside("record.c")),
    ("gnutls_packet_get", Beside("record.c")),
    ("gnutls_init", Beside("state.c")),
];

/// The functions that move bytes. If neither is found, the object does not contain GnuTLS.
const NEEDED: [&str; 2] = ["gnutls_record_send2", "gnutls_record_recv"];

/// GnuTLS from 3.6.3 on.
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
            Whole("gnutls_record_send2"),
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
            let mut found = evidence.with(&[Whole(name), ASSERT, file], &[LEVEL]);
            found.retain(|function| !NEEDED.contains(&name) || evidence.takes_length(function));
            functions.extend(only(&found).map(|function| (name, symbol(function))));
        }
        let recv = evidence.with(&[Whole("gnutls_record_recv"), ASSERT, Beside("record.c")], &[LEVEL]);
        let siblings = only(&recv).map(|recv| siblings(evidence, recv)).transpose()?.unwrap_or_default();
        if let [sibling] = siblings.as_slice() {
            functions.push(("gnutls_record_recv_seq", symbol(sibling)));
        }
        let mut missing: Vec<&str> =
            NEEDED.into_iter().filter(|name| functions.iter().all(|(found, _)| found != name)).collect();
        if missing.len() == NEEDED.len() {
            return Ok(Answer::NotMine);
        }
        if siblings.len() > 1 {
            missing.push("gnutls_record_recv_seq");
        }
        let is_sure = missing.is_empty();
        let why = if is_sure {
            "its functions log failed assertions with their own names and that of their source file"
                .to_owned()
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
            mark: None,
            why,
            certainty: if is_sure { Confidence::High } else { Confidence::Low },
        };
        Ok(Answer::Located(located))
    }
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
