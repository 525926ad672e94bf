//! GnuTLS without symbols: `gnutls_assert` gives the names of source file and function to its log (lib/errors.h).

use super::evidence::{Evidence, only, symbol};
use super::{Answer, Certainty, Located, Locator};
use crate::object::Needle::{End, Whole};
use crate::object::{Needle, ObjectError};

/// What an assertion says.
const ASSERT: Needle = Whole("ASSERT: %s[%s]:%d\n");
/// The level of the log that it is written at.
const LEVEL: u64 = 3;

/// Functions with their source file. What else moves bytes calls one of them.
const FUNCTIONS: [(&str, Needle); 3] = [
    ("gnutls_record_send2", End("record.c")),
    ("gnutls_record_recv", End("record.c")),
    ("gnutls_init", End("state.c")),
];

/// What moves bytes: without them there is no answer.
const NEEDED: [&str; 2] = ["gnutls_record_send2", "gnutls_record_recv"];

/// GnuTLS from 3.6.3 on.
pub(super) struct GnuTls;

impl Locator for GnuTls {
    fn api(&self) -> &'static str {
        "GnuTLS"
    }

    fn needles(&self) -> &'static [Needle] {
        &[
            ASSERT,
            End("record.c"),
            End("state.c"),
            Whole("gnutls_record_send2"),
            Whole("gnutls_record_recv"),
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
        let missing: Vec<&str> =
            NEEDED.into_iter().filter(|name| functions.iter().all(|(known, _)| known != name)).collect();
        if missing.len() == NEEDED.len() {
            return Ok(Answer::NotMine);
        }
        let is_sure = missing.is_empty();
        let why = if is_sure {
            "they log failed assertions under their names and that of their source file".to_owned()
        } else {
            format!(
                "{} does not log failed assertions under its name, or several functions do",
                missing.join(", ")
            )
        };
        let located = Located {
            api: self.api(),
            implementation: "GnuTLS",
            functions,
            why,
            certainty: if is_sure { Certainty::Sure } else { Certainty::Unsure },
        };
        Ok(Answer::Located(located))
    }
}
