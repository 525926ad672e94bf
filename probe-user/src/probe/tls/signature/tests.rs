//! Locators: what they find in our own programs, and that damaged files do no harm.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic fails the test")]

use std::collections::BTreeMap;
use std::path::Path;

use super::{Confidence, SignatureMatch, locate};
use crate::elf::fixture::{compile, parse, parse_bytes, without_sections};
use crate::elf::{Object, SymbolFilter, VirtAddr};
use crate::event::Direction;
use crate::plan::Hook;
use crate::probe::tls::{SslProbe, hooks, hooks_of, symbol_filter};
use crate::probe::{ProbeMatch, UnseenPart};
use crate::test_rng::TestRng;

/// Whether it is said that something was found without certainty.
pub(super) fn is_unsure(found: &ProbeMatch) -> bool {
    matches!(found.unseen.as_slice(), [UnseenPart::Other(why)] if why.contains("--guess"))
}

/// The functions and errors of OpenSSL 3.3, as far as the locator depends on them.
const OPENSSL: &str = r#"
typedef unsigned long size_t;
typedef struct ssl SSL;
struct ssl { int (*read)(SSL *, void *, size_t, size_t *); int (*write)(SSL *, const void *, size_t, size_t *);
             int (*ready)(SSL *); long state, done; };
#define AWAY __attribute__((noipa))
#define ERROR(reason) (ERR_new(), ERR_set_debug("../ssl/ssl_lib.c", __LINE__, __func__), ERR_set_error(20, reason, 0))
volatile long sink;
AWAY static void ERR_new(void) { sink = 1; }
AWAY static void ERR_set_debug(const char *file, int line, const char *function) { sink = file[line] + function[0]; }
AWAY static void ERR_set_error(int library, int reason, const char *text, ...) { sink = library + reason + (long)text; }
AWAY static int ssl_read_internal(SSL *s, void *buf, size_t num, size_t *done) {
    if (!s->ready(s)) { ERROR(276); return -1; }
    int r = s->read(s, buf, num, done);
    if (r > 0) { s->state++; s->done += *done; }
    return r;
}
AWAY static int ssl_write_internal(SSL *s, const void *buf, size_t num, size_t flags, size_t *done) {
    if (!s->ready(s) || flags > num) { ERROR(276); return -1; }
    int r = s->write(s, buf, num, done);
    if (r > 0) { s->state += flags; s->done += *done; }
    return r;
}
AWAY static int SSL_read(SSL *s, void *buf, int num) {
    size_t done;
    if (num < 0) { ERROR(271); return -1; }
    int r = ssl_read_internal(s, buf, (size_t)num, &done);
    return r > 0 ? (int)done : r;
}
AWAY static int SSL_read_ex(SSL *s, void *buf, size_t num, size_t *done) {
    int r = ssl_read_internal(s, buf, num, done);
    return r < 0 ? 0 : r;
}
AWAY static int SSL_write(SSL *s, const void *buf, int num) {
    size_t done;
    if (num < 0) { ERROR(271); return -1; }
    int r = ssl_write_internal(s, buf, (size_t)num, 0, &done);
    return r > 0 ? (int)done : r;
}
AWAY static int SSL_write_ex2(SSL *s, const void *buf, size_t num, size_t flags, size_t *done) {
    int r = ssl_write_internal(s, buf, num, flags, done);
    return r < 0 ? 0 : r;
}
AWAY static SSL *SSL_new(SSL *s) { if (!s) { ERROR(195); return 0; } s->state = 1; return s; }
void start(SSL *s, char *data, size_t *done) {
    sink = SSL_read(SSL_new(s), data, 3) + SSL_write(s, data, 4) + SSL_read_ex(s, data, 5, done);
    sink = SSL_write_ex2(s, data, 6, 7, done);
}
"#;

pub(super) const LINKAGE: [&[&str]; 5] = [
    &["-shared", "-Wl,-e,start"],
    &["-nostdlib", "-static", "-no-pie", "-fno-pie", "-Wl,-e,start"],
    &["-nostdlib", "-static-pie", "-fPIE", "-Wl,-e,start"],
    &["-shared", "-Wl,-z,noseparate-code", "-Wl,-e,start"],
    &["-nostdlib", "-static-pie", "-fPIE", "-fcf-protection=full", "-Wl,-e,start"],
];

/// A fixture with its symbols, and the bytes of the same file without.
pub(super) fn fixture(source: &str, flags: &[&str]) -> (Object, Vec<u8>) {
    let directory = compile(source, flags);
    let path = directory.path().join("fixture");
    let truth = parse(&path, &symbol_filter()).unwrap();
    let directory = compile(source, &[flags, &["-s"]].concat());
    (truth, std::fs::read(directory.path().join("fixture")).unwrap())
}

pub(super) fn stripped(bytes: &[u8]) -> Object {
    let object = parse_bytes(bytes, &symbol_filter()).unwrap();
    assert!(object.symbols().is_empty(), "{:?}", object.symbols());
    object
}

pub(super) fn only(object: &Object) -> SignatureMatch {
    let super::Search { located: mut found, failed, .. } = locate(object, |_| true, std::iter::empty());
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

pub(super) fn addresses(located: &SignatureMatch) -> BTreeMap<&'static str, VirtAddr> {
    located.functions.iter().map(|(name, symbol)| (*name, symbol.address)).collect()
}

#[test]
fn stripped_functions_are_where_the_symbols_were_however_it_is_linked() {
    for flags in LINKAGE {
        let (truth, mut bytes) = fixture(OPENSSL, flags);
        // Dynamically linked programs are recognised without any section headers.
        if !flags.contains(&"-static") {
            without_sections(&mut bytes);
        }
        let object = stripped(&bytes);
        let located = only(&object);
        assert_eq!(located.certainty, Confidence::High, "{flags:?}: {}", located.why);
        for (name, address) in addresses(&located) {
            assert_eq!(Some(address), truth.function(name).map(|symbol| symbol.address), "{name} {flags:?}");
        }
        assert_eq!(located.functions.len(), 5, "{flags:?}: {located:?}");
        // The internal functions of five and four arguments are proven as in a file with symbols.
        let found = hooks(&object).unwrap();
        let names: Vec<_> = found.hooks.iter().map(|hook| hook.function.as_str()).collect();
        assert!(names.contains(&"ssl_read_internal") && names.contains(&"ssl_write_internal"), "{names:?}");
        assert_eq!((found.evidence.len(), found.skipped.len()), (1, 0), "{found:?}");
        assert_eq!(found.library.implementation.as_deref(), Some("OpenSSL"));
    }
}

/// The layout of the builds in Bun, Deno and Chromium.
#[test]
fn functions_without_frames_are_found_by_who_calls_them() {
    for linkage in [LINKAGE[1], LINKAGE[2], LINKAGE[4]] {
        let flags = [linkage, &["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"]].concat();
        let (truth, bytes) = fixture(OPENSSL, &flags);
        let located = only(&stripped(&bytes));
        assert_eq!(located.certainty, Confidence::High, "{flags:?}: {}", located.why);
        for (name, address) in addresses(&located) {
            assert_eq!(Some(address), truth.function(name).map(|symbol| symbol.address), "{name} {flags:?}");
        }
        assert_eq!(located.functions.len(), 5, "{flags:?}: {located:?}");
    }
}

#[test]
fn internal_functions_that_are_part_of_each_caller() {
    let inlined = OPENSSL
        .replace("AWAY static int ssl_read_internal", "INLINED static int ssl_read_internal")
        .replace("AWAY static int ssl_write_internal", "INLINED static int ssl_write_internal");
    let source = format!("#define INLINED inline __attribute__((always_inline))\n{inlined}");
    for flags in LINKAGE {
        let (truth, bytes) = fixture(&source, flags);
        let located = only(&stripped(&bytes));
        assert_eq!(located.certainty, Confidence::High, "{flags:?}: {}", located.why);
        let found = addresses(&located);
        // Which of the other functions is which cannot be determined.
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), ["SSL_new", "SSL_read", "SSL_write"]);
        for (name, address) in found {
            assert_eq!(Some(address), truth.function(name).map(|symbol| symbol.address), "{name} {flags:?}");
        }
    }
}

#[test]
fn programs_that_are_linked_with_an_extended_function_alone() {
    let cases: [(&str, &str, &[&str]); 2] = [
        (" + SSL_write(s, data, 4)", "", &["SSL_new", "SSL_read", "SSL_read_ex", "SSL_write_ex2"]),
        (
            "SSL_read(SSL_new(s), data, 3)",
            "SSL_new(s)->state",
            &["SSL_new", "SSL_read_ex", "SSL_write", "SSL_write_ex2"],
        ),
    ];
    for (flags, (from, to, names)) in LINKAGE.into_iter().flat_map(|flags| cases.map(|case| (flags, case))) {
        let (truth, bytes) = fixture(&OPENSSL.replace(from, to), flags);
        let object = stripped(&bytes);
        let located = only(&object);
        assert_eq!(located.certainty, Confidence::High, "{flags:?}: {}", located.why);
        let found = addresses(&located);
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), names, "{flags:?}");
        for (name, address) in found {
            assert_eq!(Some(address), truth.function(name).map(|symbol| symbol.address), "{name} {flags:?}");
        }
        let found = hooks(&object).unwrap();
        assert_eq!((found.unseen.len(), found.skipped.len()), (0, 0), "{found:?}");
    }
}

#[test]
fn what_does_not_fit_is_not_attached_to() {
    let sure = &[("as it is", OPENSSL.to_owned())];
    let unsure = &[
        (
            "SSL_read has another error",
            OPENSSL.replacen("if (num < 0) { ERROR(271)", "if (num < 0) { ERROR(272)", 1),
        ),
        (
            "SSL_read does not call the internal function",
            OPENSSL.replacen(
                "ssl_read_internal(s, buf, (size_t)num, &done);",
                "s->read(s, buf, num, &done);",
                1,
            ),
        ),
        (
            "the compiler knows all callers of SSL_read",
            OPENSSL.replace("AWAY static int SSL_read(", "__attribute__((noinline)) static int SSL_read("),
        ),
        (
            "errors are another library's",
            OPENSSL.replace("ERR_set_error(20, reason", "ERR_set_error((int)s->state, reason"),
        ),
    ];
    for (what, source) in sure {
        let (_, bytes) = fixture(source, LINKAGE[0]);
        assert!(!hooks(&stripped(&bytes)).unwrap().hooks.is_empty(), "{what}");
    }
    for (what, source) in unsure {
        let (_, bytes) = fixture(source, LINKAGE[0]);
        let object = stripped(&bytes);
        let Ok(found) = hooks(&object) else { continue };
        // What is sent is certain all the same.
        let directions: Vec<_> = found.hooks.iter().filter_map(Hook::direction).collect();
        assert!(!directions.is_empty(), "{what}: {found:?}");
        assert!(!directions.contains(&Direction::Receive), "{what}: {found:?}");
        let [UnseenPart::Direction(Direction::Receive, why)] = found.unseen.as_slice() else {
            panic!("{what}: {found:?}");
        };
        assert!(why.contains("SSL_read") && why.contains("--guess"), "{what}: {why}");
        let guessed = hooks_of(&object, SslProbe { least: Confidence::Low, ..SslProbe::default() }).unwrap();
        assert!(guessed.evidence[0].contains("guessed"), "{what}: {guessed:?}");
    }
}

/// The functions and messages of Mbed TLS, as far as the locator depends on them.
const MBEDTLS: &str = r#"
typedef unsigned long size_t;
typedef struct { void *config, *in, *out, *handshake; int state, major; } SSL;
#define AWAY __attribute__((noipa))
#define SAY(level, file, ...) say(ssl, level, "../library/" file, __LINE__, __VA_ARGS__)
volatile long sink;
AWAY static void say(SSL *ssl, int level, const char *file, int line, const char *format, ...) { sink = level + file[line] + format[0]; }
AWAY static void *allocate(size_t size) { sink = size; return (void *)sink; }
AWAY static int handshake_init(SSL *ssl) {
    ssl->handshake = allocate(99);
    /* As long as it is: compilers jump to what is near by other instructions. */
    __asm__ volatile(".skip 300, 0x90");
    if (!ssl->handshake) { SAY(1, "ssl_tls.c", "alloc() of ssl sub-contexts failed"); return -0x7f00; }
    return 0;
}
AWAY static int mbedtls_ssl_setup(SSL *ssl, void *config) {
    ssl->config = config;
    if (!(ssl->in = allocate(16717))) { SAY(1, "ssl_tls.c", BUFFER, (size_t)16717); return -0x7f00; }
    if (!(ssl->out = allocate(16718))) { SAY(1, "ssl_tls.c", BUFFER, (size_t)16718); return -0x7f00; }
    return handshake_init(ssl);
}
AWAY static int mbedtls_ssl_session_reset_int(SSL *ssl, int partial) {
    ssl->state = partial;
    MORE
    return handshake_init(ssl);
}
AWAY static int renegotiate(SSL *ssl) {
    SAY(2, "ssl_tls.c", "=> renegotiate");
    int r = handshake_init(ssl);
    SAY(2, "ssl_tls.c", "<= renegotiate");
    return r;
}
AWAY static int mbedtls_ssl_read(SSL *ssl, void *data, size_t size) {
    SAY(2, "ssl_msg.c", "=> read");
    sink = (long)data + size;
    SAY(2, "ssl_msg.c", "<= read");
    return ssl->major;
}
AWAY static int mbedtls_ssl_write(SSL *ssl, const void *data, size_t size) {
    SAY(2, "ssl_msg.c", "=> write");
    sink = (long)data + size;
    SAY(2, "ssl_msg.c", "<= write");
    return ssl->major;
}
AWAY static void mbedtls_ssl_free(SSL *ssl) {
    SAY(2, "ssl_tls.c", "=> free");
    ssl->state = 0;
    SAY(2, "ssl_tls.c", "<= free");
}
void start(SSL *ssl, char *data) {
    sink = mbedtls_ssl_setup(ssl, data) + mbedtls_ssl_session_reset_int(ssl, 0) + renegotiate(ssl);
    sink = mbedtls_ssl_read(ssl, data, 7) + mbedtls_ssl_write(ssl, data, 8);
    OTHERS
    mbedtls_ssl_free(ssl);
}
"#;

#[test]
fn where_connections_of_mbed_tls_begin() {
    let source = |buffer: &str, more: &str, others: &str| {
        let source = MBEDTLS.replace("BUFFER", buffer).replace("MORE", more);
        source.replace("OTHERS", others)
    };
    let (new, old) = ("\"alloc(%zu bytes) failed\"", "\"alloc(%d bytes) failed\"");
    for (flags, buffer) in LINKAGE.into_iter().zip([new, old].into_iter().cycle()) {
        let (truth, bytes) = fixture(&source(buffer, "", ""), flags);
        let located = only(&stripped(&bytes));
        assert_eq!(located.certainty, Confidence::High, "{flags:?}: {}", located.why);
        for (name, address) in addresses(&located) {
            assert_eq!(Some(address), truth.function(name).map(|symbol| symbol.address), "{name} {flags:?}");
        }
        assert_eq!(located.functions.len(), 5, "{flags:?}: {located:?}");
    }
    let unknown = [
        ("it says nothing of buffers", source("\"no memory\"", "", "")),
        ("another one begins handshakes", source(new, "", "sink = handshake_init(ssl);")),
        ("what resets is not told apart", source(new, "SAY(2, \"ssl_tls.c\", \"=> renegotiate\");", "")),
    ];
    for (what, source) in unknown {
        let (_, bytes) = fixture(&source, LINKAGE[0]);
        let located = only(&stripped(&bytes));
        let names: Vec<_> = addresses(&located).into_keys().collect();
        assert_eq!(names, ["mbedtls_ssl_free", "mbedtls_ssl_read", "mbedtls_ssl_write"], "{what}");
        assert_eq!(located.certainty, Confidence::High, "{what}");
    }
}

/// The functions and errors of wolfSSL, as far as the locator depends on them.
const WOLFSSL: &str = r#"
typedef struct { int state, (*io)(void *, int); } SSL;
#define AWAY __attribute__((noipa))
#define ERROR(code) report(code, __func__, __LINE__, "src/internal.c", 0)
volatile long sink;
AWAY static int report(int code, const char *function, int line, const char *file, void *context) { sink = function[0] + file[line]; return code; }
AWAY static int InitSSL_Suites(SSL *s) { return s->state ? 0 : ERROR(-343); }
AWAY static int SetSSL_CTX(SSL *s, void *context, int dup) { return context || dup ? BEGIN(s) : ERROR(-173); }
AWAY static int ProcessReplyEx(SSL *s, int partial) { return s->io(s, partial) ? 0 : ERROR(-308); }
AWAY static int BuildMessage(SSL *s, const void *data, int size) { return s->io((void *)data, size) ? 0 : ERROR(-132); }
AWAY static int ReceiveData(SSL *s, void *data, int size, int peek) {
    if (ProcessReplyEx(s, peek) < 0) return ERROR(s->state);
    sink = (long)data;
    return size;
}
AWAY static int SendData(SSL *s, const void *data, int size) {
    if (BuildMessage(s, data, size) < 0) return ERROR(s->state);
    return size;
}
void start(SSL *s, char *data) {
    sink = SetSSL_CTX(s, data, 1) + ReceiveData(s, data, 4, 0) + SendData(s, data, 5);
}
"#;

#[test]
fn wolfssl_by_its_errors() {
    let source = WOLFSSL.replace("BEGIN", "InitSSL_Suites");
    for flags in LINKAGE {
        let wanted = ["ReceiveData", "SendData", "SetSSL_CTX"].into_iter().collect();
        let directory = compile(&source, flags);
        let truth = parse(&directory.path().join("fixture"), &wanted).unwrap();
        let (_, bytes) = fixture(&source, flags);
        let object = stripped(&bytes);
        let located = only(&object);
        assert_eq!(located.certainty, Confidence::High, "{flags:?}: {}", located.why);
        assert_eq!(located.functions.len(), 3, "{flags:?}: {located:?}");
        for (name, address) in addresses(&located) {
            let plain = name.trim_end_matches(" of wolfSSL");
            assert_eq!(Some(address), truth.function(plain).map(|symbol| symbol.address), "{name} {flags:?}");
        }
        assert_eq!(hooks(&object).unwrap().hooks.len(), 3, "{flags:?}");
    }
    for (what, source) in [
        ("where connections begin is not known", WOLFSSL.replace("BEGIN(s)", "s->io(s, 3)")),
        (
            "what sends calls something else",
            source.replace("BuildMessage(s, data, size) < 0", "s->io((void *)data, size) < 0"),
        ),
    ] {
        let (_, bytes) = fixture(&source, LINKAGE[0]);
        let Ok(found) = hooks(&stripped(&bytes)) else { panic!("{what}: nothing") };
        assert!(found.hooks.is_empty() && is_unsure(&found), "{what}: {found:?}");
    }
    let other = source.replace("src/internal.c", "src/other.c");
    let (_, bytes) = fixture(&other, LINKAGE[0]);
    assert!(hooks(&stripped(&bytes)).is_err());
}

#[test]
fn the_machines_libraries() {
    let directories = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let expected: [(&[&str], &str, usize); 3] = [
        (&["libssl.so.3", "libssl.so.1.1"], "OpenSSL", 5),
        (&["libgnutls.so.30"], "GnuTLS", 8),
        (&["libmbedtls.so.14", "libmbedtls.so.19", "libmbedtls.so.21"], "Mbed TLS", 5),
    ];
    for (names, implementation, functions) in expected {
        let paths =
            directories.iter().flat_map(|directory| names.iter().map(|name| Path::new(directory).join(name)));
        let Some(path) = paths.into_iter().find(|path| path.exists()) else { continue };
        let object = parse(&path, &symbol_filter()).unwrap();
        let located = only(&object);
        assert_eq!(
            (located.implementation, located.certainty),
            (implementation, Confidence::High),
            "{}",
            located.why
        );
        for (name, address) in addresses(&located) {
            assert_eq!(Some(address), object.function(name).map(|symbol| symbol.address), "{name}");
        }
        assert_eq!(located.functions.len(), functions, "{located:?}");
    }
}

#[test]
fn damage_never_panics_or_hangs() {
    let (_, good) = fixture(OPENSSL, LINKAGE[1]);
    TestRng(0x9e37_79b9_7f4a_7c15).mutations(&good, 500, |bytes| {
        if let Ok(object) = parse_bytes(bytes, &SymbolFilter::default()) {
            let _ = locate(&object, |_| true, std::iter::empty());
        }
    });
}
