//! TLS without symbols: functions are recognised by what every build contains, the strings and numbers of
//! their error reports.
//!
//! Defines what an answer is, and the order in which evidence is gathered; each implementation has a file of
//! its own. A wrong answer would make ctrace report wrong data. So an answer counts only if several
//! independent facts agree (a string, a number next to it, the call graph) and exactly one function fits.
//! Byte patterns are never used.

mod boringssl;
mod evidence;
mod gnutls;
mod mbedtls;
mod openssl;
mod rustls;
#[cfg(test)]
mod tests;
mod wolfssl;

use crate::elf::{Object, ObjectError, StringPattern, StringRef, Symbol};
use crate::error_chain;

use evidence::Evidence;
pub(super) use rustls::mark_of_data;

/// Finds one implementation. Stateless: takes evidence, returns an answer.
trait Locator: Sync {
    /// The name of its row in the library table.
    fn api(&self) -> &'static str;

    /// The strings to search for in constant data.
    fn needles(&self) -> &'static [StringPattern];

    /// Finds its functions.
    fn locate(&self, evidence: &Evidence<'_>) -> Result<Answer, ObjectError>;
}

/// All implementations that can be found by a `Locator`; rustls has its own search.
const LOCATORS: &[&dyn Locator] =
    &[&openssl::OpenSsl, &boringssl::BoringSsl, &gnutls::GnuTls, &mbedtls::MbedTls, &wolfssl::WolfSsl];

/// The answer of a locator about one object.
enum Answer {
    /// The object does not contain the implementation.
    NotMine,
    /// The object contains it, and these are its functions.
    Located(SignatureMatch),
}

/// The functions of an implementation that were found by signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureMatch {
    /// The name of its row in the library table.
    pub api: &'static str,
    /// The name of the implementation in events.
    pub implementation: &'static str,
    /// The version, if the strings that identify the functions reveal it.
    pub version: Option<String>,
    /// The functions, under their names in the row.
    pub functions: Vec<(&'static str, Symbol)>,
    /// Those of the functions that are certain, if others are not.
    pub certain: Vec<&'static str>,
    /// For rustls handlers: the mark in the first word of a data message.
    pub mark: Option<u8>,
    /// How the functions were found, or what is missing for high confidence.
    pub why: String,
    /// Whether everything that was searched for was found.
    pub certainty: Confidence,
}

/// Whether functions may be hooked without the user's consent (`--guess`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confidence {
    /// Several independent facts agree.
    #[default]
    High,
    /// A part of the evidence is missing.
    Low,
}

/// The result of a search.
#[derive(Debug, Default)]
pub struct Search {
    /// The implementations that were found.
    pub located: Vec<SignatureMatch>,
    /// Those of the additional strings that were found.
    pub texts: Vec<StringPattern>,
    /// Why parts of the search failed.
    pub failed: Vec<String>,
}

/// Searches an object for those implementations that `is_wanted` accepts by row name, and for additional
/// strings.
pub fn locate(
    object: &Object,
    is_wanted: impl Fn(&str) -> bool,
    others: impl Iterator<Item = StringPattern>,
) -> Search {
    let locators: Vec<&dyn Locator> =
        LOCATORS.iter().copied().filter(|locator| is_wanted(locator.api())).collect();
    let mut search = Search::default();
    if let Err(error) = search.run(object, &locators, &others.collect::<Vec<_>>()) {
        search.failed.push(failure(&error));
    }
    // The strings of rustls do not end with a NUL, and an object may contain several versions of it.
    if is_wanted(super::rustls::API) {
        match rustls::locate(object) {
            Ok(located) => search.located.extend(located),
            Err(error) => search.failed.push(failure(&error)),
        }
    }
    search
}

impl Search {
    fn run(
        &mut self,
        object: &Object,
        locators: &[&dyn Locator],
        others: &[StringPattern],
    ) -> Result<(), ObjectError> {
        let of_locators = locators.iter().flat_map(|locator| locator.needles().iter());
        let needles: Vec<StringPattern> = of_locators.chain(others).copied().collect();
        let (others, texts): (Vec<StringRef>, Vec<StringRef>) =
            object.find_texts(&needles)?.into_iter().partition(|text| others.contains(&text.needle));
        self.texts = others.iter().map(|text| text.needle).collect();
        let Some(evidence) = Evidence::gather(object, texts)? else { return Ok(()) };
        for locator in locators {
            match locator.locate(&evidence) {
                Ok(Answer::NotMine) => {}
                Ok(Answer::Located(located)) => self.located.push(located),
                Err(error) => self.failed.push(failure(&error)),
            }
        }
        Ok(())
    }
}

fn failure(error: &ObjectError) -> String {
    format!("the search for signatures failed: {}", error_chain::in_one_line(error))
}
