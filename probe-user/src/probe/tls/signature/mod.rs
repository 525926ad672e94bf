//! TLS without symbols: functions found by what no build leaves out, the texts and numbers of their error
//! reports.
//!
//! Owns what an answer is, and the order in which evidence is gathered; each implementation has a file of its
//! own. A wrong answer would corrupt what the user is told, so an answer counts only when several facts that
//! are independent of each other agree (a text, a number beside it, who calls whom), and only one function
//! fits. Nothing is guessed from a pattern of bytes.

mod boringssl;
mod evidence;
mod gnutls;
mod mbedtls;
mod openssl;
mod rustls;
#[cfg(test)]
mod tests;
mod wolfssl;

use crate::elf::{Object, ObjectError, Pattern, StringRef, Symbol};
use crate::error_chain;

use evidence::Evidence;
pub(super) use rustls::mark_of_data;

/// How an implementation is found. Stateless: evidence in, answer out.
trait Locator: Sync {
    /// The row of the table of libraries that it is of.
    fn api(&self) -> &'static str;

    /// What to search constants for.
    fn needles(&self) -> &'static [Pattern];

    /// Where its functions are.
    fn locate(&self, evidence: &Evidence<'_>) -> Result<Answer, ObjectError>;
}

/// All implementations that can be found.
const LOCATORS: &[&dyn Locator] =
    &[&openssl::OpenSsl, &boringssl::BoringSsl, &gnutls::GnuTls, &mbedtls::MbedTls, &wolfssl::WolfSsl];

/// What a locator says of an object.
enum Answer {
    /// Nothing of it is there.
    NotMine,
    /// Here.
    Located(SignatureMatch),
}

/// Functions of an implementation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureMatch {
    /// The row of the table of libraries.
    pub api: &'static str,
    /// As events name it.
    pub implementation: &'static str,
    /// Where the same texts that functions are found by tell it.
    pub version: Option<String>,
    /// By the names of the row.
    pub functions: Vec<(&'static str, Symbol)>,
    /// Of rustls's handlers: what number says that a message is data.
    pub mark: Option<u8>,
    /// How they were found; of an unsure answer, what is missing.
    pub why: String,
    /// Whether all that is asked for was found.
    pub certainty: Confidence,
}

/// Whether functions may be attached to without the user's word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confidence {
    /// Several independent facts say so.
    #[default]
    High,
    /// Something is missing.
    Low,
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Search {
    /// Implementations.
    pub located: Vec<SignatureMatch>,
    /// What of the texts that were searched for besides is there.
    pub texts: Vec<Pattern>,
    /// Why it did not get everywhere.
    pub failed: Vec<String>,
}

/// Searches an object for the implementations of the wanted rows of the table of libraries, and for other
/// texts.
pub fn locate(
    object: &Object,
    is_wanted: impl Fn(&str) -> bool,
    others: impl Iterator<Item = Pattern>,
) -> Search {
    let locators: Vec<&dyn Locator> =
        LOCATORS.iter().copied().filter(|locator| is_wanted(locator.api())).collect();
    let mut search = Search::default();
    if let Err(error) = search.run(object, &locators, &others.collect::<Vec<_>>()) {
        search.failed.push(failure(&error));
    }
    // Its texts do not end with a NUL, and there may be several versions.
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
        others: &[Pattern],
    ) -> Result<(), ObjectError> {
        let of_locators = locators.iter().flat_map(|locator| locator.needles().iter());
        let needles: Vec<Pattern> = of_locators.chain(others).copied().collect();
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
    format!("search for signatures: {}", error_chain::in_one_line(error))
}
