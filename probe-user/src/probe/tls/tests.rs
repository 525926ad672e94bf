//! The function layouts of TLS libraries, as small compiled fixtures, and this machine's OpenSSL if it has
//! one.
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use probe_common::{CallShape, LengthSource, pushed_bytes};

use super::{SslProbe, hooks, hooks_of, is_expected_library, symbol_filter, version};
use crate::elf::code::decode::CallSite;
use crate::elf::fixture::{OPENSSL, compile, parse, parse_bytes, without_sections};
use crate::elf::{FileOffset, SymbolFilter, VirtAddr};
use crate::event::Direction;
use crate::plan::program_set::ConnectionRecords;
use crate::plan::{Hook, ProbeProgram};
use crate::probe::{NoHooks, ProbeMatch, UnseenPart};

/// LibreSSL: the `_ex` functions check the size and call the plain ones.
const LIBRESSL: &str = r#"
typedef unsigned long size_t;
typedef struct ssl { int (*io)(struct ssl *, void *, int); int state; } SSL;
const char version[] = "LibreSSL 3.8.2";
int SSL_read(SSL *s, void *buf, int num) { if (num < 0 || !s->io) return -1; s->state = 1; return s->io(s, buf, num); }
int SSL_read_ex(SSL *s, void *buf, size_t num, size_t *done) {
    *done = 0;
    if (num > 0x7fffffff) return 0;
    int r = SSL_read(s, buf, (int)num);
    if (r <= 0) return 0;
    *done = r;
    return 1;
}
int SSL_write(SSL *s, void *buf, int num) { if (num < 0 || !s->io) return -1; s->state = 2; return s->io(s, buf, num); }
"#;

/// BoringSSL: only the two plain functions.
const BORINGSSL: &str = r#"
int state;
const char version[] = "BoringSSL";
int SSL_read(void *s, void *buf, int num) { return state += num; }
int SSL_write(void *s, void *buf, int num) { return state -= num; }
void SSL_CTX_set_grease_enabled(void *s, int on) { state = on; }
"#;

fn names(found: &ProbeMatch) -> Vec<&str> {
    let mut names: Vec<_> = found.hooks.iter().map(|hook| hook.function.as_str()).collect();
    names.sort_unstable();
    names
}

fn hook<'f>(found: &'f ProbeMatch, function: &str) -> &'f Hook {
    found.hooks.iter().find(|hook| hook.function == function).unwrap()
}

/// The offsets of the internal functions, from `.symtab`.
fn internals(path: &Path) -> BTreeMap<String, FileOffset> {
    let names = ["read_internal", "write_internal"];
    let object = parse(path, &names.into_iter().collect()).unwrap();
    let offset = |name: &str| object.file_offset(object.function(name).unwrap().address).unwrap();
    names.into_iter().map(|name| (name.to_owned(), offset(name))).collect()
}

fn check_internal(found: &ProbeMatch, truth: &BTreeMap<String, FileOffset>) {
    assert_eq!(names(found), ["SSL_new", "ssl_read_internal", "ssl_write_internal"]);
    let (read, write) = (hook(found, "ssl_read_internal"), hook(found, "ssl_write_internal"));
    for (hook, name) in [(read, "read_internal"), (write, "write_internal")] {
        // The probe is at the entry, or after its endbr64.
        let behind = hook.offset.0 - truth.get(name).unwrap().0;
        assert!(behind == 0 || behind == 4, "{name} +{behind}");
        assert_eq!((hook.program, hook.call_sites.len()), (ProbeProgram::Io, 2));
    }
    assert_eq!(CallShape::unpack(read.cookie_args).length, LengthSource::OutArgument(3));
    assert_eq!(CallShape::unpack(write.cookie_args).length, LengthSource::OutArgument(4));
    assert_eq!(hook(found, "SSL_new").program, ProbeProgram::Open);
    assert_eq!(found.library.implementation.as_deref(), Some("OpenSSL"));
    assert_eq!(found.library.version.as_deref(), Some("3.4.5"));
    assert!(found.skipped.is_empty(), "{:?}", found.skipped);
}

#[test]
fn a_hook_has_the_library_that_its_function_is_of() {
    const GNUTLS: &str =
        "long gnutls_record_recv(void *s, void *b, unsigned long n) { return state + (long)n; }
        long gnutls_record_send(void *s, void *b, unsigned long n) { return state - (long)n; }";
    let both = compile(&format!("{BORINGSSL}{GNUTLS}"), &["-shared"]);
    let found = hooks(&parse(&both.path().join("fixture"), &symbol_filter()).unwrap()).unwrap();
    assert_eq!(found.library.implementation.as_deref(), Some("BoringSSL"));
    let of = |function: &str| hook(&found, function).implementation.as_ref().map(|of| of.name.as_str());
    assert_eq!([of("SSL_read"), of("SSL_write")], [None, None]);
    assert_eq!([of("gnutls_record_recv"), of("gnutls_record_send")], [Some("GnuTLS"); 2]);
}

#[test]
fn internal_functions_replace_public_ones_however_it_is_linked() {
    let executable = format!("{OPENSSL}\nint main(void) {{ return SSL_read(0, 0, 0); }}");
    let cases: &[(&str, &[&str])] = &[
        (OPENSSL, &["-shared"]),
        (OPENSSL, &["-shared", "-Wl,-Bsymbolic"]),
        (OPENSSL, &["-shared", "-fcf-protection=full"]),
        (OPENSSL, &["-shared", "-Wl,-z,now"]),
        (OPENSSL, &["-shared", "-Wl,-z,noseparate-code"]),
        (&executable, &["-nostdlib", "-static", "-no-pie", "-Wl,-e,main"]),
        (&executable, &["-nostdlib", "-static-pie", "-Wl,-e,main"]),
    ];
    for (source, flags) in cases {
        let directory = compile(source, flags);
        let path = directory.path().join("fixture");
        check_internal(&hooks(&parse(&path, &symbol_filter()).unwrap()).unwrap(), &internals(&path));
    }
}

#[test]
fn a_stripped_library_gives_the_same_hooks() {
    let whole = compile(OPENSSL, &["-shared"]);
    let path = whole.path().join("fixture");
    let truth = internals(&path);
    let expected = hooks(&parse(&path, &symbol_filter()).unwrap()).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    without_sections(&mut bytes);
    let found = hooks(&parse_bytes(&bytes, &symbol_filter()).unwrap()).unwrap();
    check_internal(&found, &truth);
    assert_eq!(found, expected);
}

#[test]
fn callers_are_the_public_functions() {
    let directory = compile(OPENSSL, &["-shared"]);
    let object = parse(&directory.path().join("fixture"), &symbol_filter()).unwrap();
    let found = hooks(&object).unwrap();
    for (low, name) in &hook(&found, "ssl_read_internal").call_sites {
        let symbol = object.function(name).unwrap();
        let inside =
            (symbol.address.0..symbol.address.0 + symbol.size).any(|at| at & 0xfff == u64::from(*low));
        assert!(inside, "{name} does not contain ...{low:03x}");
    }
}

#[test]
fn calls_of_an_internal_function_are_found_without_the_symbols_of_callers() {
    let directory = compile(OPENSSL, &["-shared"]);
    let path = directory.path().join("fixture");
    let object = parse(&path, &symbol_filter()).unwrap();
    let table = object.frames().unwrap();
    let found = hooks(&object).unwrap();
    for (internal, in_source) in
        [("ssl_read_internal", "read_internal"), ("ssl_write_internal", "write_internal")]
    {
        let address = object.address(*internals(&path).get(in_source).unwrap()).unwrap();
        let calls = table.calls_to(address).unwrap();
        let low = |call: &CallSite| u16::try_from(call.return_address.0 & 0xfff).unwrap();
        let expected: BTreeSet<_> = hook(&found, internal).call_sites.iter().map(|(low, _)| *low).collect();
        assert_eq!(calls.iter().map(low).collect::<BTreeSet<_>>(), expected);
        assert!(calls.iter().all(|call| call.target == address && !call.tail));
    }
    // Nothing calls the beginning of the code.
    assert!(table.calls_to(VirtAddr(object.function("SSL_new").unwrap().address.0)).unwrap().is_empty());
}

#[test]
fn without_proof_the_public_functions_are_hooked() {
    let all = ["SSL_read", "SSL_read_ex", "SSL_write"];
    let cases: &[(&str, String, &[&str])] = &[
        ("LibreSSL's layout", LIBRESSL.to_owned(), &all),
        ("BoringSSL's layout", BORINGSSL.to_owned(), &["SSL_read", "SSL_write"]),
        (
            "the forwarder calls something else too",
            OPENSSL.replace("return r < 0 ? 0 : r;", "return r < 0 ? s->ready(s) : r;"),
            &["SSL_new", "SSL_read", "SSL_read_ex", "SSL_write", "SSL_write_ex", "SSL_write_ex2"],
        ),
        (
            "only the forwarder calls the internal function",
            OPENSSL.replace(
                "int r = read_internal(s, buf, (size_t)num, &done);",
                "int r = s->read(s, buf, num, &done);",
            ),
            &["SSL_new", "SSL_read", "SSL_read_ex", "ssl_write_internal"],
        ),
        (
            "the forwarder changes its arguments",
            OPENSSL.replace(
                "int r = read_internal(s, buf, num, done);",
                "int r = read_internal(s, buf, num - 1, done);",
            ),
            &["SSL_new", "SSL_read", "SSL_read_ex", "ssl_write_internal"],
        ),
    ];
    for (name, source, expected) in cases {
        let directory = compile(source, &["-shared"]);
        let object = parse(&directory.path().join("fixture"), &symbol_filter()).unwrap();
        assert_eq!(names(&hooks(&object).unwrap()), *expected, "{name}");
    }
}

#[test]
fn implementations_are_distinguished() {
    let cases = [
        (LIBRESSL.to_owned(), Some("LibreSSL"), Some("3.8.2")),
        (BORINGSSL.to_owned(), Some("BoringSSL"), None),
        (BORINGSSL.replace("\"BoringSSL\"", "\"\""), Some("BoringSSL"), None),
        (
            BORINGSSL.replace("BoringSSL", "OpenSSL 1.1.1 (compatible; AWS-LC 1.30.0)"),
            Some("AWS-LC"),
            Some("1.30.0"),
        ),
        (LIBRESSL.replace("LibreSSL 3.8.2", ""), None, None),
    ];
    for (source, implementation, version) in cases {
        let directory = compile(&source, &["-shared"]);
        let object = parse(&directory.path().join("fixture"), &symbol_filter()).unwrap();
        let library = hooks(&object).unwrap().library;
        assert_eq!(
            (library.implementation.as_deref(), library.version.as_deref()),
            (implementation, version)
        );
    }
}

#[test]
fn copies_under_other_names_are_found_and_wrappers_are_not() {
    let names_of = |source: &str, flags: &[&str]| {
        let directory = compile(source, flags);
        let object = parse(&directory.path().join("fixture"), &symbol_filter()).unwrap();
        hooks(&object).map(|found| names(&found).into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let renamed = |prefix: &str| {
        let names = BORINGSSL.replace("SSL_read", &format!("{prefix}read"));
        names.replace("SSL_write", &format!("{prefix}write"))
    };
    let copy = renamed("aws_lc_0_32_0_SSL_");
    assert_eq!(names_of(&copy, &["-shared"]).unwrap(), ["aws_lc_0_32_0_SSL_read", "aws_lc_0_32_0_SSL_write"]);
    let mono = renamed("mono_btls_ssl_");
    assert_eq!(names_of(&mono, &["-shared"]).unwrap(), ["mono_btls_ssl_read", "mono_btls_ssl_write"]);
    assert_eq!(names_of(&renamed("_cffi_f_SSL_"), &["-shared"]), Err(NoHooks::Ssl));
    let both =
        format!("{BORINGSSL}\nint x_SSL_read(void) {{ return 1; }}\nint x_SSL_write(void) {{ return 2; }}");
    assert_eq!(names_of(&both, &["-shared"]).unwrap(), ["SSL_read", "SSL_write"]);
}

#[test]
fn an_object_without_tls_says_so() {
    let directory =
        compile("int SSL_peek(void) { return 1; }\nint SSL_new(void) { return 2; }", &["-shared"]);
    let object = parse(&directory.path().join("fixture"), &symbol_filter()).unwrap();
    assert_eq!(hooks(&object), Err(NoHooks::Ssl));
}

#[test]
fn the_machines_openssl() {
    let directories = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/lib"];
    let path = directories.iter().map(|directory| Path::new(directory).join("libssl.so.3"));
    let Some(path) = path.into_iter().find(|path| path.exists()) else {
        return; // OpenSSL's layouts are covered by the fixtures.
    };
    let object = parse(&path, &symbol_filter()).unwrap();
    let found = hooks(&object).unwrap();
    assert_eq!(object.soname(), Some("libssl.so.3"));
    assert!(found.skipped.is_empty(), "{:?}", found.skipped);
    for name in ["SSL_read", "SSL_write", "SSL_read_ex", "SSL_write_ex", "SSL_new"] {
        // The function is hooked itself, or through what it calls.
        let address = object.function(name).unwrap().address;
        assert!(object.file_offset(address).is_some() && address != VirtAddr(0), "{name}");
    }
    assert!(found.hooks.iter().any(|hook| hook.function.contains("read")));
    assert!(found.hooks.iter().any(|hook| hook.function.contains("write")));
    assert!(found.hooks.is_sorted_by_key(|hook| hook.offset));

    let libcrypto = match (found.library.version, found.library.version_in) {
        (None, Some(name)) => parse(&path.with_file_name(name), &SymbolFilter::default()).unwrap(),
        _ => object,
    };
    let version = version::find(&libcrypto).unwrap();
    assert_eq!(version.implementation, "OpenSSL");
    assert!(version.version.is_some_and(|version| version.starts_with("3.")));
}

/// s2n-tls as in awscrt: meaningless prefixes pad the first instructions, on which a uprobe never fires.
#[test]
fn functions_that_begin_with_prefixes_are_hooked_behind_them() {
    let source = r#"
        #define BEGIN(name) ".globl " name "; .type " name ", @function;" name ": .byte 0x2e,0x2e; push %r12; .byte 0x2e; push %rbx; sub $8,%rsp;"
        #define END(name) "add $8,%rsp; pop %rbx; pop %r12; ret; .size " name ", .-" name ";"
        __asm__(".text;"
            BEGIN("s2n_recv") "xor %eax,%eax; test %rdi,%rdi; je 1f; mov $1,%eax; 1:" END("s2n_recv")
            BEGIN("s2n_sendv_with_offset") "mov $2,%eax;" END("s2n_sendv_with_offset")
            BEGIN("s2n_connection_new") "mov $3,%eax;" END("s2n_connection_new")
            BEGIN("s2n_connection_free") "mov $4,%eax; jmp s2n_out" "; .size s2n_connection_free, .-s2n_connection_free;"
            BEGIN("s2n_send") "mov $5,%eax; jmp s2n_out" "; .size s2n_send, .-s2n_send;"
            "s2n_out: ret;");
    "#;
    let directory = compile(source, &["-shared"]);
    let object = parse(&directory.path().join("fixture"), &symbol_filter()).unwrap();
    let found = hooks(&object).unwrap();
    let entry = |name: &str| object.file_offset(object.function(name).unwrap().address).unwrap().0;
    let cases = [
        // At the `je`, which the kernel emulates.
        ("s2n_recv", ProbeProgram::Io, 1, (15, 24)),
        // After cs cs push %r12 (4 bytes), cs push %rbx (2).
        ("s2n_sendv_with_offset", ProbeProgram::IoVec, 1, (6, 16)),
        ("s2n_connection_new", ProbeProgram::Open, 1, (6, 16)),
        ("s2n_connection_free", ProbeProgram::Close, 0, (6, 16)),
    ];
    for (name, program, ends, (place, pushed)) in cases {
        let hook = hook(&found, name);
        assert_eq!((hook.program, hook.offset.0 - entry(name)), (program, place), "{name}");
        assert_eq!(pushed_bytes(hook.cookie_args.into()), pushed, "{name}");
        assert_eq!(hook.exits.len(), ends, "{name}");
        let code = object.code(object.function(name).unwrap().address, 64).unwrap();
        for end in &hook.exits {
            assert_eq!(code.get(usize::try_from(end.offset.0 - entry(name)).unwrap()), Some(&0xc3), "{name}");
        }
    }
    // s2n_send has no hook, because its return sites cannot be determined.
    assert_eq!(found.hooks.len(), cases.len(), "{found:?}");
    assert!(found.skipped.iter().any(|reason| reason.starts_with("s2n_send: ")), "{found:?}");
}

/// Botan 3 passes received data to the program from functions without names.
#[test]
fn botan_3_is_hooked_where_it_hands_over() {
    let source = r#"
        typedef struct { const unsigned char *begin, *end; } vector;
        typedef struct callbacks callbacks;
        struct callbacks { struct { void *others[3]; void (*received)(callbacks *, long, const void *, long); } *table; };
        typedef struct { void *state; callbacks *callbacks; } channel;
        __attribute__((cold, noreturn, noinline)) void fail(const char *text) {
            for (;;) __asm__ volatile("" :: "r"(text));
        }
        __attribute__((noinline)) static void process(channel *c, long number, vector *record) {
            if (!c->state) fail(ERROR);
            c->callbacks->table->received(c->callbacks, number, record->begin, record->end - record->begin);
        }
        long from_peer(channel *c, void *data, long size) __asm__("_ZN5Botan3TLS6Client9from_peerESt4spanIKhLm18446744073709551615EE");
        long from_peer(channel *c, void *data, long size) { process(c, size, data); process(c, 1, data); return 0; }
        void to_peer(channel *c, void *data, long size) __asm__("_ZN5Botan3TLS6Client7to_peerESt4spanIKhLm18446744073709551615EE");
        void to_peer(channel *c, void *data, long size) { c->state = data; }
    "#;
    let found = |error: &str| {
        let flags = ["-shared", &format!("-DERROR=\"{error}\"")];
        let directory = compile(source, &flags);
        hooks(&parse(&directory.path().join("fixture"), &symbol_filter()).unwrap()).unwrap()
    };
    let all = found("Application data before handshake done");
    let programs: Vec<_> = all.hooks.iter().map(|hook| (hook.function.as_str(), hook.program)).collect();
    for expected in [
        ("Botan::TLS::Callbacks::tls_record_received", ProbeProgram::CallbackData),
        ("Botan::TLS::Client::from_peer", ProbeProgram::CallbackScope),
        ("Botan::TLS::Client::to_peer", ProbeProgram::IoAtEntry),
    ] {
        assert!(programs.contains(&expected), "{expected:?} is not among {programs:?}");
    }
    assert_eq!((programs.len(), all.skipped.len(), all.unseen.len()), (3, 0, 0), "{all:?}");
    assert_eq!(all.library.implementation.as_deref(), Some("Botan"));
    // If the receiving functions are not found, the user is told.
    let sends = found("Something else");
    assert_eq!(names(&sends), ["Botan::TLS::Client::to_peer"]);
    let [UnseenPart::Direction(Direction::Receive, why)] = sends.unseen.as_slice() else {
        panic!("{sends:?}")
    };
    assert!(why.starts_with("Botan: what it receives is not seen: "), "{why}");
}

/// Functions that open, handshake and close, besides those that move bytes.
const WITH_ENDS: &str = r"
static int state;
int SSL_read(void *s, void *buf, int num) { return state += num; }
int SSL_write(void *s, void *buf, int num) { return state -= num; }
void *SSL_new(void *context) { state *= 3; return &state; }
void SSL_free(void *s) { state *= 5; }
int SSL_do_handshake(void *s) { return state *= 7; }
";

#[test]
fn ends_are_hooked_on_request() {
    let directory = compile(WITH_ENDS, &["-shared"]);
    let object = parse(&directory.path().join("fixture"), &symbol_filter()).unwrap();
    assert_eq!(names(&hooks(&object).unwrap()), ["SSL_new", "SSL_read", "SSL_write"]);
    let with_connections = SslProbe { connections: ConnectionRecords::On, ..SslProbe::default() };
    let found = hooks_of(&object, with_connections).unwrap();
    assert_eq!(names(&found), ["SSL_do_handshake", "SSL_free", "SSL_new", "SSL_read", "SSL_write"]);
    assert_eq!(hook(&found, "SSL_free").program, ProbeProgram::Close);
    assert_eq!(hook(&found, "SSL_do_handshake").program, ProbeProgram::Handshake);
    assert!(hook(&found, "SSL_do_handshake").public_names.is_empty());
    // A copy under another name gets the same hooks.
    let renamed = WITH_ENDS.replace("SSL_", "copy_SSL_");
    let directory = compile(&renamed, &["-shared"]);
    let object = parse(&directory.path().join("fixture"), &symbol_filter()).unwrap();
    assert_eq!(hooks(&object).unwrap().hooks.len(), 3);
    assert_eq!(
        hook(&hooks_of(&object, with_connections).unwrap(), "copy_SSL_free").program,
        ProbeProgram::Close
    );
}

#[test]
fn libraries_that_serve_tls_alone_are_expected() {
    for name in ["libssl.so.3", "libgnutls.so.30", "libwolfssl.so"] {
        assert!(is_expected_library(name), "{name}");
    }
    for name in ["libnspr4.so", "libc.so.6", "ssl"] {
        assert!(!is_expected_library(name), "{name}");
    }
}
