//! rustls without symbols: what is found in a program that is built like it, and that damaged files do no
//! harm.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic fails the test")]

use super::{FILE, SignatureMatch, crate_version, locate};
use crate::elf::fixture::{compile, parse, parse_bytes, without_sections};
use crate::elf::{Object, SymbolFilter};
use crate::probe::tls::signature::tests::is_unsure;
use crate::probe::tls::{Confidence, SslProbe, hooks, hooks_of, symbol_filter};
use crate::test_rng::TestRng;

/// The functions and the layout of rustls 0.23, as far as the search depends on them.
pub(super) const RUSTLS: &str = r#"
typedef unsigned long size_t;
struct location { const char *file; size_t length; unsigned line, column; };
#define FILE_PATH "/cargo/registry/rustls-0.23.46/src/record_layer.rs"
static const char path[] = FILE_PATH;
static const struct location unwrap = { path, sizeof path - 1, 117, 14 };
struct deque { size_t room, *items, head, count; };
struct buffer { size_t is_limited, limit; struct deque chunks; size_t used; };
struct chunks { size_t *list; const char *one; size_t start, end; };
struct message { struct chunks payload; unsigned char kind[2]; unsigned short version[2]; };
struct methods { void (*drop)(void *); size_t size, align; void (*encrypt)(size_t *, void *, struct message *, size_t); };
struct connection { size_t side[2]; void *encrypter; const struct methods *methods; size_t number; OTHERS
                    struct buffer received, BETWEEN sendable; size_t most; unsigned char may_send; };
#define AWAY __attribute__((noipa, used)) static
volatile size_t sink;
AWAY void panic(const char *text, const struct location *at) { sink = text[0] + at->line; }
AWAY void grow(struct deque *queue) { queue->room = queue->room * 2 + sink; }
#define PUSH(queue, what) do { if ((queue)->count == (queue)->room) grow(queue); \
    size_t at = (queue)->head + (queue)->count++; if (at >= (queue)->room) at -= (queue)->room; \
    (queue)->items[3 * at] = (what)[0]; (queue)->items[3 * at + 1] = (what)[1]; (queue)->items[3 * at + 2] = (what)[2]; } while (0)
AWAY void queue_tls_message(struct connection *c, size_t *m) { if (m[2]) PUSH(&c->sendable.chunks, m); }
AWAY void send_msg_encrypt(struct connection *c, struct message *m) {
    size_t out[8];
    c->methods->encrypt(out, c->encrypter, m, c->number++);
    if (out[0] != 22) panic("unwrap", &unwrap);
    queue_tls_message(c, out + 1);
}
#ifdef DIVIDES
/* As LLVM 23 does: nothing follows the call that never returns, and behind it is code that something else leads to. */
AWAY __attribute__((noreturn)) void panic_const(void) { for (;;) sink++; }
#define DIVIDE(by) asm goto("test %0,%0; jne %l1; call panic_const" : : "r"(by) : "memory" : by_more); \
    __builtin_unreachable(); by_more:;
#else
#define DIVIDE(by)
#endif
AWAY size_t send_appdata_encrypt(struct connection *c, const struct chunks *chunks, int limit) {
    DIVIDE(c->most)
    const struct chunks all = *chunks, *p = &all;
    size_t length = p->list ? p->end - p->start : p->start;
    if (!limit && length > c->sendable.limit) length = c->sendable.limit;
    for (size_t done = 0; done < length; done += c->most) {
        size_t out[8];
        struct message m;
        m.payload.list = p->list, m.payload.one = p->one + done, m.payload.start = c->most, m.payload.end = p->end;
        m.kind[0] = 3, m.version[0] = VERSION;
        c->methods->encrypt(out, c->encrypter, &m, c->number++);
        if (out[0] != 22) panic("unwrap", &unwrap);
        queue_tls_message(c, out + 1);
    }
    return length;
}
AWAY size_t buffer_plaintext(struct connection *c, const struct chunks *p, struct buffer *waiting) {
    if (!c->may_send) { waiting->used++; return 0; }
    return send_appdata_encrypt(c, p, 0);
}
AWAY void start_outgoing_traffic(struct connection *c, struct buffer **waiting) {
    c->may_send = 1;
    struct chunks all = { 0, (const char *)*waiting, 8, 0 };
    if (*waiting) send_appdata_encrypt(c, &all, 1);
}
AWAY void take_received_plaintext(struct connection *c, size_t *payload) {
    size_t m[3] = { payload[0], payload[1], payload[2] };
    if (m[0] == 1UL << 63) m[1] = sink;
    if (m[2]) PUSH(&c->received.chunks, m);
}
MORE
void start(struct connection *c, struct chunks *p, struct message *m, struct buffer *waiting, size_t *payload) {
    start_outgoing_traffic(c, &waiting);
    sink = buffer_plaintext(c, p, waiting);
    send_msg_encrypt(c, m);
    take_received_plaintext(c, payload);
}
"#;

/// Another function that fills the same queue.
const SECOND: &str =
    "AWAY void another(struct connection *c, size_t *p) { size_t m[3] = { p[0], p[1], p[2] };
    if (m[2] > 5) PUSH(&c->received.chunks, m); }";

pub(super) const LINKAGE: [&[&str]; 4] = [
    &["-shared", "-Wl,-e,start"],
    &["-nostdlib", "-static", "-no-pie", "-fno-pie", "-Wl,-e,start"],
    &["-nostdlib", "-static-pie", "-fPIE", "-Wl,-e,start"],
    &["-nostdlib", "-static-pie", "-fPIE", "-fcf-protection=full", "-Wl,-e,start"],
];
pub(super) const USUAL: [&str; 4] = ["-DVERSION=4", "-DBETWEEN=", "-DOTHERS=", "-DMORE="];
const FUNCTIONS: [&str; 3] = ["send_appdata_encrypt", "start_outgoing_traffic", "take_received_plaintext"];

/// The bytes of the program without symbols.
pub(super) fn stripped(source: &str, flags: &[&str]) -> Vec<u8> {
    let directory = compile(source, &[&["-fno-tree-vectorize", "-s"], flags].concat());
    std::fs::read(directory.path().join("fixture")).unwrap()
}

pub(super) fn only(object: &Object) -> SignatureMatch {
    let mut found = locate(object).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[test]
fn stripped_functions_are_where_the_symbols_were_however_it_is_linked() {
    let panics: [&[&str]; 2] = [&[], &["-DDIVIDES"]];
    for (linkage, panics) in LINKAGE.into_iter().flat_map(|linkage| panics.map(|panics| (linkage, panics))) {
        let flags = [&USUAL[..], linkage, panics].concat();
        let directory = compile(RUSTLS, &[&["-fno-tree-vectorize"], &flags[..]].concat());
        let truth = parse(&directory.path().join("fixture"), &FUNCTIONS.into_iter().collect()).unwrap();
        let mut bytes = stripped(RUSTLS, &flags);
        if !linkage.contains(&"-static") {
            without_sections(&mut bytes);
        }
        let object = parse_bytes(&bytes, &symbol_filter()).unwrap();
        let located = only(&object);
        assert_eq!(located.certainty, Confidence::High, "{linkage:?} {panics:?}: {located:?}");
        assert_eq!(located.version.as_deref(), Some("0.23.46"));
        let mut names: Vec<&str> = located.functions.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        assert_eq!(names, FUNCTIONS, "{linkage:?}");
        for (name, symbol) in &located.functions {
            assert_eq!(
                Some(symbol.address),
                truth.function(name).map(|truth| truth.address),
                "{name} {linkage:?}"
            );
        }
        let found = hooks(&object).unwrap();
        assert_eq!((found.hooks.len(), found.evidence.len(), found.skipped.len()), (3, 1, 0), "{found:?}");
        assert_eq!(found.library.version.as_deref(), Some("0.23.46"));
    }
}

/// What the compiler keeps as functions of its own if it optimises for size.
const SMALL: [(&str, &str); 4] = [
    (
        "AWAY void queue_tls_message",
        "AWAY void push_back(struct deque *queue, size_t *what) { PUSH(queue, what); }\n\
         AWAY void append(struct buffer *b, size_t *m) { if (m[2]) push_back(&b->chunks, m); b->used += m[2]; }\n\
         AWAY void into_vec(size_t *out, const size_t *m) { out[0] = m[0], out[1] = m[1], out[2] = m[2]; }\n\
         AWAY void split(struct chunks *out, const struct chunks *all, size_t at) {\n\
             *out = *all; if (at < all->end) out->end = at; }\n\
         AWAY void queue_tls_message",
    ),
    ("if (m[2]) PUSH(&c->sendable.chunks, m);", "append(&c->sendable, m);"),
    (
        "const struct chunks all = *chunks, *p = &all;",
        "struct chunks all, *p = &all; split(p, chunks, chunks->list ? chunks->end - chunks->start : chunks->start);",
    ),
    (
        "size_t m[3] = { payload[0], payload[1], payload[2] };\n    if (m[0] == 1UL << 63) m[1] = sink;\n    \
         if (m[2]) PUSH(&c->received.chunks, m);",
        "size_t m[3];\n    into_vec(m, payload);\n    append(&c->received, m);",
    ),
];

#[test]
fn a_program_that_is_optimised_for_size() {
    let apart = SMALL.iter().fold(RUSTLS.to_owned(), |source, (from, to)| {
        assert!(source.contains(from), "{from}");
        source.replacen(from, to, 1)
    });
    let options: [&[&str]; 3] =
        [&[], &["-fno-omit-frame-pointer"], &["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"]];
    for (linkage, options) in LINKAGE.into_iter().flat_map(|linkage| options.map(|more| (linkage, more))) {
        let flags = [&USUAL[..], linkage, options].concat();
        let directory = compile(&apart, &[&["-fno-tree-vectorize"], &flags[..]].concat());
        let truth = parse(&directory.path().join("fixture"), &FUNCTIONS.into_iter().collect()).unwrap();
        let object = parse_bytes(&stripped(&apart, &flags), &symbol_filter()).unwrap();
        let located = only(&object);
        assert_eq!(located.certainty, Confidence::High, "{linkage:?} {options:?}: {located:?}");
        for (name, symbol) in &located.functions {
            let truth = truth.function(name).map(|truth| truth.address);
            assert_eq!(Some(symbol.address), truth, "{name} {linkage:?} {options:?}");
        }
        assert_eq!(located.functions.len(), 3, "{linkage:?} {options:?}: {located:?}");
    }
}

/// The source with other names for what it defines, and no version.
fn second_copy() -> String {
    let names = "location path unwrap deque buffer chunks message methods connection panic grow queue_tls_message \
                 send_msg_encrypt send_appdata_encrypt buffer_plaintext start_outgoing_traffic \
                 take_received_plaintext panic_const start";
    let mut renamed = String::from("#undef FILE_PATH\n#undef PUSH\n");
    for piece in RUSTLS
        .replace("/rustls-0.23.46/", "/rustls/")
        .split_inclusive(|c: char| !(c.is_alphanumeric() || c == '_'))
    {
        let word = piece.trim_end_matches(|c: char| !(c.is_alphanumeric() || c == '_'));
        if names.split_whitespace().any(|name| name == word) {
            renamed.push_str(&piece.replacen(word, &format!("{word}_2"), 1));
        } else {
            renamed.push_str(piece);
        }
    }
    renamed
}

#[test]
fn two_copies_are_found_each_with_its_version() {
    let both = format!("{RUSTLS}{}", second_copy());
    let object = parse_bytes(&stripped(&both, &[&USUAL[..], LINKAGE[0]].concat()), &symbol_filter()).unwrap();
    let located = locate(&object).unwrap();
    let versions: Vec<Option<&str>> = located.iter().map(|located| located.version.as_deref()).collect();
    assert_eq!(versions, [None, Some("0.23.46")]);
    let found = hooks(&object).unwrap();
    assert_eq!((found.hooks.len(), found.unseen.len(), found.skipped.len()), (6, 0, 0), "{found:?}");
    assert_eq!(found.library.version, None);
    let of_second = found.hooks.iter().filter_map(|hook| hook.implementation.as_ref()?.version.as_deref());
    assert_eq!(of_second.collect::<Vec<_>>(), ["0.23.46"; 3]);
}

#[test]
fn what_does_not_fit_is_not_attached_to() {
    let more = format!("-DMORE={}", SECOND.replace('\n', " "));
    let cases: [(&str, [&str; 4]); 3] = [
        ("records of another version", ["-DVERSION=5", "-DBETWEEN=", "-DOTHERS=", "-DMORE="]),
        ("the queues are apart", ["-DVERSION=4", "-DBETWEEN=other,", "-DOTHERS=", "-DMORE="]),
        ("two functions fill the queue", ["-DVERSION=4", "-DBETWEEN=", "-DOTHERS=", &more]),
    ];
    for (what, flags) in cases {
        let object =
            parse_bytes(&stripped(RUSTLS, &[&flags[..], LINKAGE[0]].concat()), &symbol_filter()).unwrap();
        assert_eq!(only(&object).certainty, Confidence::Low, "{what}");
        let found = hooks(&object).unwrap();
        assert!(found.hooks.is_empty() && is_unsure(&found), "{what}: {found:?}");
        let guessed = hooks_of(&object, SslProbe { least: Confidence::Low, ..SslProbe::default() }).unwrap();
        assert!(guessed.evidence[0].contains("guessed"), "{what}: {guessed:?}");
    }
    let others = RUSTLS.replace("/rustls-0.23.46/", "/another-0.23.46/");
    let object =
        parse_bytes(&stripped(&others, &[&USUAL[..], LINKAGE[0]].concat()), &symbol_filter()).unwrap();
    assert_eq!(locate(&object).unwrap(), []);
}

#[test]
fn the_path_of_a_source_file_contains_crate_and_version() {
    let some = |version: &str| Some(version.to_owned());
    assert_eq!(
        crate_version("/root/.cargo/registry/src/x/rustls-0.23.46/src/record_layer.rs", FILE),
        some("0.23.46")
    );
    assert_eq!(crate_version("rustls-0.23.5/src/record_layer.rs", FILE), some("0.23.5"));
    assert_eq!(crate_version("/build/vendor/rustls/src/record_layer.rs", FILE), some(""));
    assert_eq!(crate_version("/build/vendor/rustls-post/src/record_layer.rs", FILE), None);
    assert_eq!(crate_version("/build/vendor/others/src/record_layer.rs", FILE), None);
    assert_eq!(crate_version("/src/record_layer.rs", FILE), None);
}

#[test]
fn damage_never_panics_or_hangs() {
    let good = stripped(RUSTLS, &[&USUAL[..], LINKAGE[0]].concat());
    TestRng(0x2545_f491_4f6c_dd1d).mutations(&good, 500, |bytes| {
        if let Ok(object) = parse_bytes(bytes, &SymbolFilter::default()) {
            let _ = locate(&object);
        }
    });
}
