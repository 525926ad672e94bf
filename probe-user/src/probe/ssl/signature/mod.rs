//! TLS without symbols: functions found by what no build leaves out, the texts and numbers of their error reports.
//!
//! Owns what an answer is, and the order in which evidence is gathered; each implementation has a file of its own. A
//! wrong answer would corrupt what the user is told, so an answer counts only when several facts that are independent
//! of each other agree (a text, a number beside it, who calls whom), and only one function fits. Nothing is guessed from
//! a pattern of bytes.

mod boringssl;
mod evidence;
mod gnutls;
mod mbedtls;
mod openssl;
mod rustls;
#[cfg(test)]
mod tests;

use crate::object::{Needle, Object, ObjectError, Symbol, with_causes};

use evidence::Evidence;

/// How an implementation is found. Stateless: evidence in, answer out.
trait Locator: Sync {
    /// The row of the table of libraries that it is of.
    fn api(&self) -> &'static str;

    /// What to search constants for.
    fn needles(&self) -> &'static [Needle];

    /// Where its functions are.
    fn locate(&self, evidence: &Evidence<'_>) -> Result<Answer, ObjectError>;
}

/// All implementations that can be found.
const LOCATORS: &[&dyn Locator] =
    &[&openssl::OpenSsl, &boringssl::BoringSsl, &gnutls::GnuTls, &mbedtls::MbedTls];

/// What a locator says of an object.
enum Answer {
    /// Nothing of it is there.
    NotMine,
    /// Here.
    Located(Located),
}

/// Functions of an implementation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The row of the table of libraries.
    pub api: &'static str,
    /// As events name it.
    pub implementation: &'static str,
    /// Where the same texts that functions are found by tell it.
    pub version: Option<String>,
    /// By the names of the row.
    pub functions: Vec<(&'static str, Symbol)>,
    /// How they were found; of an unsure answer, what is missing.
    pub why: String,
    /// Whether all that is asked for was found.
    pub certainty: Certainty,
}

/// Whether functions may be attached to without the user's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Several independent facts say so.
    Sure,
    /// Something is missing.
    Unsure,
}

/// Searches an object for the implementations of the wanted rows of the table of libraries. Gives also what failed.
pub fn locate(object: &Object, is_wanted: impl Fn(&str) -> bool) -> (Vec<Located>, Vec<String>) {
    let locators = || LOCATORS.iter().filter(|locator| is_wanted(locator.api()));
    let needles: Vec<Needle> = locators().flat_map(|locator| locator.needles().iter().copied()).collect();
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    match Evidence::gather(object, &needles) {
        Ok(Some(evidence)) => {
            for locator in locators() {
                match locator.locate(&evidence) {
                    Ok(Answer::NotMine) => {}
                    Ok(Answer::Located(located)) => found.push(located),
                    Err(error) => failed.push(failure(&error)),
                }
            }
        }
        Ok(None) => {}
        Err(error) => failed.push(failure(&error)),
    }
    // Its texts do not end with a NUL, and there may be several versions.
    if is_wanted(super::rustls::API) {
        match rustls::locate(object) {
            Ok(located) => found.extend(located),
            Err(error) => failed.push(failure(&error)),
        }
    }
    (found, failed)
}

fn failure(error: &ObjectError) -> String {
    format!("search for signatures: {}", with_causes(error))
}
