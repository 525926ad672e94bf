//! Copies of OpenSSL's API under other names: built with a prefix so that several fit into one program
//! (`BORINGSSL_PREFIX`, as in aws-lc-sys and gRPC), or renamed as in Mono.

use crate::elf::Object;
use crate::probe::{LibraryInfo, ProbeMatch};

use super::SslProbe;
use super::directions::DirectionCheck;
use super::function_places::FunctionPlaces;
use super::libraries::{LIBRARIES, OPENSSL, TlsLibrary};

/// Parts of such names.
pub(super) const PARTS: &[&str] =
    &["_SSL_read", "_SSL_write", "_SSL_new", "_SSL_free", "_SSL_do_handshake", MONO];

/// The prefix of Mono's functions, which wrap functions without symbols.
const MONO: &str = "mono_btls_ssl_";

/// Parts of the names of wrappers with other arguments that call OpenSSL's functions (Python's cffi, Java).
const WRAPPERS: &[&str] = &["_cffi_", "Java_", "NativeCrypto_"];

/// Whether an object has a function that looks like the SSL_read of a copy.
pub(super) fn is_in(object: &Object) -> bool {
    object.symbols().keys().any(|name| prefix(name).is_some())
}

/// Adds the hooks of all copies. None if there are none. `beside` says whether the object has another
/// implementation besides that whose functions have their own names.
pub(super) fn add(
    object: &Object,
    (watched, beside): (SslProbe, bool),
    found: &mut ProbeMatch,
) -> Option<LibraryInfo> {
    let has = |name: &str| !object.functions(name).is_empty();
    // A wrapper around functions that are traced anyway would report their bytes twice.
    let is_around = has("SSL_read") || object.needed().iter().any(|name| name.starts_with("libssl"));
    if is_around && !beside {
        return None;
    }
    let row = LIBRARIES.iter().find(|row| row.name == OPENSSL)?;
    let prefixes: Vec<String> = object.symbols().keys().filter_map(|name| prefix(name)).collect();
    let prefixes: Vec<&String> = prefixes
        .iter()
        .filter(|prefix| has(&renamed(prefix, "SSL_read")) && has(&renamed(prefix, "SSL_write")))
        .collect();
    let places = if prefixes.is_empty() { None } else { super::places(object, watched, found) };
    for (places, prefix) in places.iter().flat_map(|places| prefixes.iter().map(move |one| (places, one))) {
        let check = DirectionCheck::begin(found);
        add_copy(places, row, prefix, found);
        check.end(&renamed(prefix, "SSL"), found);
        if watched.connections.enabled() {
            super::add_records(places, (row, watched.connections), |name| renamed(prefix, name), found);
        }
    }
    (!prefixes.is_empty()).then(|| super::facts(object, row))
}

fn add_copy(places: &FunctionPlaces<'_>, row: &TlsLibrary, prefix: &str, found: &mut ProbeMatch) {
    for function in row.functions {
        super::add_public(
            places,
            &renamed(prefix, function.name),
            function.program(),
            function.arguments(),
            found,
        );
    }
    for open in row.constructors {
        super::add_public(places, &renamed(prefix, open.name), open.handle.program(), 0, found);
    }
}

/// The prefix of a function, if it is the SSL_read of a copy.
pub(super) fn prefix(name: &str) -> Option<String> {
    if name == renamed(MONO, "SSL_read") {
        return Some(MONO.to_owned());
    }
    let prefix = name.strip_suffix("SSL_read").filter(|prefix| prefix.ends_with('_'))?;
    (!WRAPPERS.iter().any(|wrapper| prefix.contains(wrapper))).then(|| prefix.to_owned())
}

fn renamed(prefix: &str, name: &str) -> String {
    if prefix == MONO {
        format!("{prefix}{}", name.trim_start_matches("SSL_"))
    } else {
        format!("{prefix}{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::{prefix, renamed};

    #[test]
    fn prefixes() {
        for (name, expected) in [
            ("aws_lc_0_32_0_SSL_read", Some("aws_lc_0_32_0_")),
            ("GRPC_SHADOW_SSL_read", Some("GRPC_SHADOW_")),
            ("mono_btls_ssl_read", Some("mono_btls_ssl_")),
            ("_cffi_f_SSL_read", None),
            ("Java_org_example_SSL_read", None),
            ("SSL_read", None),
            ("wolfSSL_read", None),
            ("aws_lc_0_32_0_SSL_read_ex", None),
        ] {
            assert_eq!(prefix(name).as_deref(), expected, "{name}");
            if let Some(expected) = expected {
                assert_eq!(renamed(expected, "SSL_read"), name);
            }
        }
    }
}
