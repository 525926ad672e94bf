//! Determines implementation and version of a TLS library from strings and symbols.
//!
//! OpenSSL keeps its version in libcrypto, and in most builds in libssl too; a caller may ask both.

use super::TlsLibrary;
use crate::elf::{Object, Symbol};

/// Longest version text that is read, in bytes: `OpenSSL 1.1.1 (compatible; AWS-LC FIPS 2.0.0)` has 46.
const CONTEXT: usize = 96;

/// Implementation and version, as the strings of an object state them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// `OpenSSL`, `LibreSSL`, `BoringSSL`, `AWS-LC`, `GnuTLS`, `Mbed TLS`, `wolfSSL`, `NSS` or `Botan`.
    pub implementation: &'static str,
    /// The version, such as `3.0.19`. BoringSSL has none.
    pub version: Option<String>,
}

/// What a version text contains.
#[derive(Debug, PartialEq, Eq)]
enum Text {
    Version(String),
    NameOnly,
}

/// How to recognise an implementation: the start of its version text, and functions that no other one
/// exports. In order of precedence: a fork contains the text of its origin as well, so the fork comes first.
struct Mark {
    /// The name of the row of the API.
    api: &'static str,
    implementation: &'static str,
    text: &'static str,
    read: fn(&[u8], Option<u8>) -> Option<Text>,
    symbols: &'static [&'static str],
}

/// A text that is in no file but this one, for implementations without a version text. It must not be empty.
const NOWHERE: &str = "ctrace: no version text: ";

/// The API with several implementations.
const OPENSSL: &str = "OpenSSL API";

const MARKS: &[Mark] = &[
    Mark {
        api: OPENSSL,
        implementation: "AWS-LC",
        text: "AWS-LC ",
        read: aws_lc,
        symbols: &["SSL_to_bytes"],
    },
    Mark {
        api: OPENSSL,
        implementation: "LibreSSL",
        text: "LibreSSL ",
        read: libressl,
        symbols: &["SSL_CTX_use_certificate_chain_mem"],
    },
    Mark {
        api: OPENSSL,
        implementation: "OpenSSL",
        text: "OpenSSL ",
        read: openssl,
        symbols: &["SSL_CTX_set_stateless_cookie_generate_cb", "SSL_write_ex2", "SSL_CTX_SRP_CTX_init"],
    },
    Mark {
        api: OPENSSL,
        implementation: "BoringSSL",
        text: "BoringSSL",
        read: boringssl,
        symbols: &["SSL_CTX_set_grease_enabled"],
    },
    // GnuTLS logs at startup: `Enabled GnuTLS 3.7.9 logging...`.
    Mark { api: "GnuTLS", implementation: "GnuTLS", text: "Enabled GnuTLS ", read: leading, symbols: &[] },
    Mark { api: "Mbed TLS", implementation: "Mbed TLS", text: "bed TLS ", read: leading, symbols: &[] },
    Mark { api: "wolfSSL", implementation: "wolfSSL", text: "wolfSSL ", read: leading, symbols: &[] },
    Mark { api: "NSS", implementation: "NSS", text: "Version: NSS ", read: nss, symbols: &[] },
    Mark { api: "Botan", implementation: "Botan", text: "Botan ", read: leading, symbols: &[] },
    // These contain no version text.
    Mark { api: "s2n-tls", implementation: "s2n-tls", text: NOWHERE, read: leading, symbols: &[] },
    Mark { api: "BearSSL", implementation: "BearSSL", text: NOWHERE, read: leading, symbols: &[] },
];

/// Finds the version text of any implementation in constant data. None if there is none, or if it cannot be
/// read.
pub fn find(object: &Object) -> Option<Version> {
    find_among(object, &MARKS.iter().collect::<Vec<_>>())
}

/// The same, for the implementations of one API.
pub(super) fn find_of(object: &Object, row: &TlsLibrary) -> Option<Version> {
    find_among(object, &MARKS.iter().filter(|mark| mark.api == row.name).collect::<Vec<_>>())
}

/// The versions of both kinds of OpenSSL's API in an object: OpenSSL or LibreSSL, then BoringSSL or AWS-LC. A
/// fork contains the text of its origin as well, but not one of the other kind.
pub(super) fn of_both_kinds(object: &Object) -> [Option<Version>; 2] {
    let marks: Vec<&Mark> = MARKS.iter().filter(|mark| mark.api == OPENSSL).collect();
    let is_openssl = |version: &Version| ["OpenSSL", "LibreSSL"].contains(&version.implementation);
    let versions = all_among(object, &marks).into_iter().flatten();
    let (openssl, boringssl): (Vec<_>, Vec<_>) = versions.partition(is_openssl);
    [openssl, boringssl].map(|versions| versions.into_iter().next())
}

fn find_among(object: &Object, marks: &[&Mark]) -> Option<Version> {
    all_among(object, marks).into_iter().flatten().next()
}

/// The version of each implementation, in the order of the marks.
fn all_among(object: &Object, marks: &[&Mark]) -> Vec<Option<Version>> {
    let needles: Vec<&[u8]> = marks.iter().map(|mark| mark.text.as_bytes()).collect();
    let mut found: Vec<Option<Version>> = vec![None; marks.len()];
    let result = object.find_rodata(&needles, CONTEXT, |hit| {
        let mark = marks.get(hit.needle)?;
        let rest = hit.text.get(mark.text.len()..)?;
        let version = found.get_mut(hit.needle).filter(|found| found.is_none())?;
        *version = (mark.read)(rest, hit.before).map(|text| Version {
            implementation: mark.implementation,
            version: match text {
                Text::Version(version) => Some(version),
                Text::NameOnly => None,
            },
        });
        // Search to the end, because the texts may come in any order.
        None::<()>
    });
    if let Err(reason) = result {
        tracing::debug!(%reason, "the search for the version was not finished");
    }
    found
}

/// The implementation, by functions that no other one exports, or because the API has only one.
pub(super) fn guess(object: &Object, row: &TlsLibrary) -> Option<&'static str> {
    let defines = |name: &&str| !<[Symbol]>::is_empty(object.functions(name));
    let mut marks = MARKS.iter().filter(|mark| mark.api == row.name);
    let marked = marks.clone().find(|mark| mark.symbols.iter().any(defines));
    let only = || marks.next().filter(|_| marks.next().is_none());
    marked.or_else(only).map(|mark| mark.implementation)
}

/// The symbols that [`guess`] needs.
pub(super) fn marks() -> impl Iterator<Item = &'static str> {
    MARKS.iter().flat_map(|mark| mark.symbols.iter().copied()).filter(|name| {
        !super::LIBRARIES.iter().any(|row| row.functions.iter().any(|function| function.name == *name))
    })
}

/// A version such as `1.2.3` with its suffix (`1.0.2u-fips`, `3.0.13+quic`), and the rest of the text.
pub(super) fn number(text: &[u8]) -> Option<(String, &[u8])> {
    let end = text
        .iter()
        .position(|byte| !(byte.is_ascii_alphanumeric() || b".-+".contains(byte)))
        .unwrap_or(text.len());
    let (number, rest) = text.split_at_checked(end)?;
    let mut parts = number.split(|byte| *byte == b'.');
    let digit = |part: Option<&[u8]>| part.and_then(<[u8]>::first).is_some_and(u8::is_ascii_digit);
    let numeric = digit(parts.next()) && digit(parts.next()) && digit(parts.next());
    numeric.then(|| (String::from_utf8_lossy(number).into_owned(), rest))
}

/// OpenSSL's text: `3.0.19 27 Jan 2026`. Without a date it is another program's message about OpenSSL.
fn openssl(text: &[u8], _: Option<u8>) -> Option<Text> {
    let (version, rest) = number(text)?;
    let mut words = rest.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let day = words.next()?;
    let month = words.next()?;
    let year = words.next()?.get(..4)?;
    let all = |word: &[u8], test: fn(&u8) -> bool| !word.is_empty() && word.iter().all(test);
    let dated = (all(day, u8::is_ascii_digit) || day == b"xx") && all(month, u8::is_ascii_alphabetic);
    (dated && (all(year, u8::is_ascii_digit) || year == b"xxxx")).then_some(Text::Version(version))
}

/// LibreSSL's text: `3.8.2` and nothing else.
fn libressl(text: &[u8], _: Option<u8>) -> Option<Text> {
    let (version, rest) = number(text)?;
    rest.is_empty().then_some(Text::Version(version))
}

/// BoringSSL's text: the whole string, or as in `OpenSSL 1.1.1 (compatible; BoringSSL)`.
fn boringssl(text: &[u8], before: Option<u8>) -> Option<Text> {
    let whole = text.is_empty() && before.is_none_or(|byte| byte == 0);
    let compatible = text == b")" && before == Some(b' ');
    (whole || compatible).then_some(Text::NameOnly)
}

/// A version, followed by anything: no other text starts with such a name.
fn leading(text: &[u8], _: Option<u8>) -> Option<Text> {
    number(text).map(|(version, _)| Text::Version(version))
}

/// NSS's text: `3.87.1`, or `3.88` for a new branch.
fn nss(text: &[u8], _: Option<u8>) -> Option<Text> {
    let end = text.iter().position(|byte| !(byte.is_ascii_digit() || *byte == b'.')).unwrap_or(text.len());
    let version = text.get(..end).filter(|version| version.contains(&b'.'))?;
    Some(Text::Version(String::from_utf8_lossy(version).into_owned()))
}

/// AWS-LC's text: `1.2.3`, `FIPS 2.0.0`, or either in `OpenSSL 1.1.1 (compatible; AWS-LC 1.2.3)`.
fn aws_lc(text: &[u8], _: Option<u8>) -> Option<Text> {
    let (version, rest) = number(text.strip_prefix(b"FIPS ").unwrap_or(text))?;
    (rest.is_empty() || rest == b")").then_some(Text::Version(version))
}

#[cfg(test)]
mod tests {
    use super::{Text, aws_lc, boringssl, leading, libressl, nss, openssl};

    #[test]
    fn version_texts() {
        let some = |version: &str| Some(Text::Version(version.to_owned()));
        assert_eq!(openssl(b"3.0.19 27 Jan 2026", None), some("3.0.19"));
        assert_eq!(openssl(b"1.0.2u-fips  20 Dec 2019", None), some("1.0.2u-fips"));
        assert_eq!(openssl(b"3.0.13+quic 30 Jan 2024\n", None), some("3.0.13+quic"));
        assert_eq!(openssl(b"1.1.1 (compatible; BoringSSL)", None), None);
        assert_eq!(openssl(b"1.0.1 or later is required", None), None);
        assert_eq!(openssl(b"3.0.19", None), None);
        assert_eq!(openssl(b"project", None), None);
        assert_eq!(libressl(b"3.8.2", None), some("3.8.2"));
        assert_eq!(libressl(b"3.8.2 is too old", None), None);
        assert_eq!(boringssl(b"", Some(0)), Some(Text::NameOnly));
        assert_eq!(boringssl(b")", Some(b' ')), Some(Text::NameOnly));
        assert_eq!(boringssl(b" is not supported", Some(0)), None);
        assert_eq!(leading(b"3.7.9 logging...\n", None), some("3.7.9"));
        assert_eq!(leading(b"is not 3.7.9", None), None);
        assert_eq!(nss(b"3.87.1", None), some("3.87.1"));
        assert_eq!(nss(b"3.88 Basic ECC", None), some("3.88"));
        assert_eq!(nss(b"of this", None), None);
        assert_eq!(aws_lc(b"1.2.3", None), some("1.2.3"));
        assert_eq!(aws_lc(b"FIPS 2.0.0)", None), some("2.0.0"));
    }
}
