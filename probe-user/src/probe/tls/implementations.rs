//! Two implementations of OpenSSL's API in one file: which functions are whose.
//!
//! Their functions have the same names, or one has names with a prefix, or none. The names of source files
//! say that both are there; functions that only one has, or signatures, say whose a name is.

use super::libraries::{LIBRARIES, OPENSSL};
use super::signature::SignatureMatch;
use super::version::{self, Version};
use super::{LibraryInfo, prefixed};
use crate::elf::StringPattern::End;
use crate::elf::{Object, StringPattern};

/// Error reports name the source file, which is in C or in C++.
const OPENSSL_FILE: StringPattern = End("ssl/ssl_lib.c");
const BORINGSSL_FILE: StringPattern = End("ssl/ssl_lib.cc");

/// The implementations of one file.
#[derive(Clone, Debug)]
pub(super) struct TwoImplementations {
    /// OpenSSL or LibreSSL.
    openssl: Version,
    /// BoringSSL or AWS-LC.
    boringssl: Version,
}

/// By which names the functions of an implementation are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// Their own.
    Plain,
    /// These with a prefix.
    Prefixed,
    /// They have no symbols.
    Unnamed,
}

impl TwoImplementations {
    /// None if there is only one, or none.
    pub(super) fn of(object: &Object) -> Option<Self> {
        let texts = object.find_texts(&[OPENSSL_FILE, BORINGSSL_FILE]).ok()?;
        if ![OPENSSL_FILE, BORINGSSL_FILE].iter().all(|file| texts.iter().any(|text| text.needle == *file)) {
            return None;
        }
        let unknown = |implementation| Version { implementation, version: None };
        let [openssl, boringssl] = version::of_both_kinds(object);
        let openssl = openssl.unwrap_or_else(|| unknown("OpenSSL"));
        Some(Self { openssl, boringssl: boringssl.unwrap_or_else(|| unknown("BoringSSL")) })
    }

    /// The implementation that a signature has found.
    pub(super) fn located(&self, located: &SignatureMatch) -> &Version {
        if located.implementation == "OpenSSL" { &self.openssl } else { &self.boringssl }
    }

    /// The implementations whose functions have their own names, and names with a prefix.
    pub(super) fn by_naming(&self, object: &Object, located: &[SignatureMatch]) -> [&Version; 2] {
        let located: Vec<&SignatureMatch> = located.iter().filter(|located| located.api == OPENSSL).collect();
        let named = |wanted| located.iter().find(|located| naming(object, located) == wanted);
        if let Some(plain) = self.marked(object).or(named(Naming::Plain).map(|located| self.located(located)))
        {
            return [plain, self.other(plain)];
        }
        // Without evidence: what is built to be a part of something else has a prefix.
        let other = named(Naming::Prefixed).or_else(|| named(Naming::Unnamed));
        let other = other.map_or(&self.boringssl, |located| self.located(located));
        [self.other(other), other]
    }

    /// The one that has functions of their own names that the other one lacks.
    fn marked(&self, object: &Object) -> Option<&Version> {
        let row = LIBRARIES.iter().find(|row| row.name == OPENSSL)?;
        let only = version::guess(object, row)?;
        [&self.openssl, &self.boringssl].into_iter().find(|version| version.implementation == only)
    }

    fn other(&self, one: &Version) -> &Version {
        if *one == self.openssl { &self.boringssl } else { &self.openssl }
    }
}

impl Version {
    /// The same as what is known of a library.
    pub(super) fn info(&self, object: &Object) -> LibraryInfo {
        LibraryInfo {
            name: object.soname().map(str::to_owned),
            implementation: Some(self.implementation.to_owned()),
            version: self.version.clone(),
            version_in: None,
        }
    }
}

/// By which names the functions that a signature has found are known.
pub(super) fn naming(object: &Object, located: &SignatureMatch) -> Naming {
    let is = |name: &str| {
        let all = object.functions(name).iter();
        all.into_iter().any(|symbol| located.functions.iter().any(|(_, own)| own.address == symbol.address))
    };
    if ["SSL_read", "SSL_write"].into_iter().any(is) {
        Naming::Plain
    } else if object.symbols().keys().any(|name| prefixed::prefix(name).is_some() && is(name)) {
        Naming::Prefixed
    } else {
        Naming::Unnamed
    }
}
