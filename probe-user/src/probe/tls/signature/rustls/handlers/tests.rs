//! rustls handlers that receive data: what is found in a program that is built like one with them, and what
//! stays uncertain.

use crate::elf::SymbolFilter;
use crate::elf::fixture::{compile, parse, parse_bytes};
use crate::probe::tls::signature::rustls::locate;
use crate::probe::tls::signature::rustls::tests::{LINKAGE, RUSTLS, USUAL, only, stripped};
use crate::probe::tls::{Confidence, hooks, symbol_filter};
use crate::test_rng::TestRng;

/// Two handlers: one has everything inlined, the other calls a function for it.
const HANDLERS: &str = r#"
struct context { struct connection *common; void *data, *sendable; };
struct incoming { size_t mark, payload[3]; unsigned short version; };
struct result { unsigned char kind; void *state; const void *methods; };
static const char client_path[] = "/cargo/registry/rustls-0.23.46/src/client/hs.rs";
static const struct location client = { client_path, sizeof client_path - 1, 213, 5 };
static const char tls12_path[] = "/cargo/registry/rustls-0.23.46/src/tls12/mod.rs";
static const struct location tls12 = { tls12_path, sizeof tls12_path - 1, 151, 14 };
AWAY void copy(size_t to, size_t from, size_t length) { sink = to + from + length; }
AWAY void inappropriate(struct result *out, struct incoming *m, const char *types, size_t count) {
    if (m->version == 5) panic("types", &client);
    out->kind = types[count];
}
AWAY void drop(struct incoming *m) { if (m->mark < 1UL << 63) panic("drop", &tls12); }
AWAY void into_vec(size_t *to, const size_t *payload) {
    size_t m[3] = { payload[0], payload[1], payload[2] };
    if (m[0] == 1UL << 63) { m[1] = sink; copy(m[1], payload[1], m[2]); }
    to[0] = m[0], to[1] = m[1], to[2] = m[2];
}
AWAY void append(struct buffer *b, size_t *m) { if (m[2]) PUSH(&b->chunks, m); }
AWAY void *handle_tls13(struct result *out, void *state, struct context *cx, struct incoming *in) {
    size_t variant = in->mark ^ 1UL << 63;
    if (variant > 4) variant = 1;
    switch (variant) {
    case DATA: {
        struct connection *c = cx->common;
        c->may_send |= 2;
        size_t m[3] = { in->payload[0], in->payload[1], in->payload[2] };
        if (m[0] == ~0UL) { m[1] = sink; copy(m[1], in->payload[1], in->payload[LENGTH]); m[0] = m[2]; }
        if (m[2]) PUSH(&c->received.chunks, m);
        break;
    }
    case 1:
        if (in->payload[2] == 15) { cx->common->may_send |= 4; break; }
    default: inappropriate(out, in, "\x17\x16", 2); drop(in); return out;
    }
    out->kind = 255, out->state = state, out->methods = &client;
    return out;
}
AWAY void *handle_tls12(struct result *out, void *state, struct context *cx, struct incoming *in) {
    if (in->mark CONDITION) { inappropriate(out, in, "\x17", 1); drop(in); return out; }
    size_t m[3];
    into_vec(m, in->payload);
    append(&cx->common->received, m);
    out->kind = 255, out->state = state, out->methods = &tls12;
    return out;
}
#ifdef THIRD
AWAY void *handle_third(struct result *out, void *state, struct context *cx, struct incoming *in) {
    if (in->mark == (1UL << 63 | 4)) take_received_plaintext(cx->common, in->payload);
    out->state = state;
    return out;
}
#define HANDLE_THIRD sink = (size_t)handle_third(&out, payload, (struct context *)c, (struct incoming *)waiting);
#else
#define HANDLE_THIRD
#endif
"#;

const HANDLE: &str = "    struct result out;
    sink = (size_t)handle_tls13(&out, payload, (struct context *)c, (struct incoming *)waiting);
    sink = (size_t)handle_tls12(&out, payload, (struct context *)c, (struct incoming *)waiting);
    HANDLE_THIRD
";
const TAKES: &str = "    take_received_plaintext(c, payload);\n";
const TAKE: &str = "AWAY void take_received_plaintext(";

/// A program in which `take_received_plaintext` is inlined into its callers.
fn source() -> String {
    let source = RUSTLS.replace(TAKES, HANDLE).replace("MORE\n", HANDLERS);
    source.replace(TAKE, "static inline __attribute__((always_inline)) void take_received_plaintext(")
}

const DATA: &str = "-DDATA=4";
const LENGTH: &str = "-DLENGTH=2";
const CONDITION: &str = "-DCONDITION=!=(1UL<<63|4)";

#[test]
fn handlers_are_found_where_they_receive_themselves() {
    for linkage in LINKAGE {
        let flags = [&USUAL[..], &[DATA, LENGTH, CONDITION], linkage].concat();
        let located = only(&parse_bytes(&stripped(&source(), &flags), &symbol_filter()).unwrap());
        assert_eq!(
            (located.certainty, located.mark),
            (Confidence::High, Some(4)),
            "{linkage:?}: {located:?}"
        );
        let directory = compile(&source(), &[&["-fno-tree-vectorize"], &flags[..]].concat());
        let names = ["handle_tls13", "handle_tls12"];
        let truth = parse(&directory.path().join("fixture"), &names.into_iter().collect()).unwrap();
        let mut expected = names.map(|name| truth.function(name).unwrap().address);
        expected.sort_unstable();
        let handlers = located.functions.iter().filter(|(name, _)| *name == "handle");
        let handlers: Vec<_> = handlers.map(|(_, symbol)| symbol.address).collect();
        assert_eq!(handlers, expected, "{linkage:?}");
    }
    let flags = [&USUAL[..], &[DATA, LENGTH, CONDITION], LINKAGE[0]].concat();
    let found = hooks(&parse_bytes(&stripped(&source(), &flags), &symbol_filter()).unwrap()).unwrap();
    let names: Vec<&str> = found.hooks.iter().map(|hook| hook.function.as_str()).collect();
    assert_eq!(names.iter().filter(|name| **name == "rustls::ExpectTraffic::handle").count(), 2, "{names:?}");
    assert_eq!((names.len(), found.skipped.len()), (4, 0), "{found:?}");
}

#[test]
fn the_function_that_receives_wins_over_those_that_call_it() {
    // One side of the program calls it; it is inlined into the handlers of the other side.
    let server = HANDLERS.replace("/src/client/hs.rs\";", "/src/client/hs.rs\";\n#define THIRD 1");
    let apart = RUSTLS.replace(TAKES, HANDLE).replace("MORE\n", &server);
    let flags = [&USUAL[..], &[DATA, LENGTH, CONDITION], LINKAGE[0]].concat();
    let three = only(&parse_bytes(&stripped(&apart, &flags), &symbol_filter()).unwrap());
    assert_eq!(three.certainty, Confidence::Low, "one side of two versions has two: {three:?}");
    // The number of functions fits: a second side, with TLS 1.3 only.
    let sides = apart.replace("/src/tls12/mod.rs", "/src/server/hs.rs");
    let without_third = sides.replace("#define THIRD 1", "");
    for (source, certainty) in [(&sides, Confidence::Low), (&without_third, Confidence::High)] {
        let located = only(&parse_bytes(&stripped(source, &flags), &symbol_filter()).unwrap());
        assert_eq!(located.certainty, certainty, "{located:?}");
    }
    // All handlers call it.
    let calls = "append(&cx->common->received, m);";
    let all = RUSTLS.replace(TAKES, HANDLE).replace("MORE\n", HANDLERS);
    let all = all.replace("into_vec(m, in->payload);", "(void)m;");
    let all = all.replace(calls, "take_received_plaintext(cx->common, in->payload);");
    let located = only(&parse_bytes(&stripped(&all, &flags), &symbol_filter()).unwrap());
    let mut names: Vec<&str> = located.functions.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    // The handler of TLS 1.3 has it inlined, that of TLS 1.2 calls it.
    assert_eq!((located.certainty, located.mark), (Confidence::High, Some(4)), "{located:?}");
    assert_eq!(
        names,
        ["handle", "send_appdata_encrypt", "start_outgoing_traffic", "take_received_plaintext"]
    );
}

#[test]
fn handlers_that_do_not_fit_are_not_attached_to() {
    let cases: [(&str, [&str; 3]); 6] = [
        ("all messages are taken for data", [DATA, LENGTH, "-DCONDITION===7"]),
        ("two numbers have data", [DATA, LENGTH, "-DCONDITION=<(1UL<<63|4)"]),
        ("what is data differs", ["-DDATA=3", LENGTH, CONDITION]),
        ("what is data has no mark", [DATA, LENGTH, "-DCONDITION=!=4096"]),
        ("another word is the length", [DATA, "-DLENGTH=1", CONDITION]),
        ("more of the message is read", [DATA, "-DLENGTH=3", CONDITION]),
    ];
    for (what, options) in cases {
        let flags = [&USUAL[..], &options, LINKAGE[0]].concat();
        let object = parse_bytes(&stripped(&source(), &flags), &symbol_filter()).unwrap();
        let located = only(&object);
        assert_eq!((located.certainty, located.mark), (Confidence::Low, None), "{what}: {located:?}");
        assert!(hooks(&object).unwrap().hooks.is_empty(), "{what}");
    }
    let usual = [&USUAL[..], &[DATA, LENGTH, CONDITION], LINKAGE[0]].concat();
    let others = [
        ("a side is missing", "/src/client/hs.rs", "/src/client/xy.rs"),
        ("a version is missing", "/src/tls12/mod.rs", "/src/tls21/mod.rs"),
        ("another version of the crate", "rustls-0.23.46/src/client", "rustls-0.23.45/src/client"),
        ("the queue of what is sent", "append(&cx->common->received", "append(&cx->common->sendable"),
        (
            "another word of the context",
            "struct connection *common; void *data",
            "void *data; struct connection *common; void *d",
        ),
    ];
    for (what, from, to) in others {
        let object = parse_bytes(&stripped(&source().replace(from, to), &usual), &symbol_filter()).unwrap();
        assert_eq!(only(&object).certainty, Confidence::Low, "{what}");
    }
}

#[test]
fn what_receives_is_found_beside_symbols_that_do_not_name_it() {
    let name = |method: &str| {
        format!("_ZN6rustls12common_state11CommonState{}{method}17hd72d5c6f82e88ef5E", method.len())
    };
    let methods = ["send_appdata_encrypt", "start_outgoing_traffic"];
    let source = methods.into_iter().fold(source(), |source, method| source.replace(method, &name(method)));
    let flags = [&["-fno-tree-vectorize"], &USUAL[..], &[DATA, LENGTH, CONDITION], LINKAGE[0]].concat();
    let directory = compile(&source, &flags);
    let found = hooks(&parse(&directory.path().join("fixture"), &symbol_filter()).unwrap()).unwrap();
    let mut names: Vec<&str> = found.hooks.iter().map(|hook| hook.function.as_str()).collect();
    names.sort_unstable();
    let of_state = methods.map(|method| format!("rustls::common_state::CommonState::{method}"));
    let handler = "rustls::ExpectTraffic::handle";
    assert_eq!(names, [handler, handler, of_state[0].as_str(), of_state[1].as_str()], "{found:?}");
}

/// rustls before 0.23, where handlers are found by symbols only.
#[test]
fn handlers_that_symbols_name_need_a_mark_alone() {
    let mut source = source().replace("rustls-0.23.46", "rustls-0.22.4");
    let sends = "_ZN6rustls12common_state11CommonState19send_some_plaintext17hd72d5c6f82e88ef5E";
    let begins = "_ZN6rustls12common_state11CommonState22start_outgoing_traffic17hd72d5c6f82e88ef5E";
    source = source.replace("send_appdata_encrypt", sends).replace("start_outgoing_traffic", begins);
    for version in ["tls12", "tls13"] {
        let of = format!(
            "_ZN141_$LT$rustls..client..{version}..ExpectTraffic$u20$as$u20$rustls..common_state..State$LT$\
                          rustls..client..client_conn..ClientConnectionData$GT$$GT$6handle17h206a11a2c98cd86fE"
        );
        let handler = format!(
            "AWAY void *handle_{version}(struct result *out, void *state, struct context *cx, struct incoming *in)"
        );
        assert!(source.contains(&handler));
        source = source.replace(&handler, &format!("{handler} __asm__(\"{of}\");\n{handler}"));
    }
    let found = |options: [&str; 3]| {
        let flags = [&["-fno-tree-vectorize"], &USUAL[..], &options, LINKAGE[0]].concat();
        let directory = compile(&source, &flags);
        hooks(&parse(&directory.path().join("fixture"), &symbol_filter()).unwrap()).unwrap()
    };
    let sure = found([DATA, LENGTH, CONDITION]);
    let mut names: Vec<&str> = sure.hooks.iter().map(|hook| hook.function.as_str()).collect();
    names.sort_unstable();
    let handler = "rustls::ExpectTraffic::handle";
    let of_state = ["send_some_plaintext", "start_outgoing_traffic"];
    let [sends, begins] = of_state.map(|method| format!("rustls::common_state::CommonState::{method}"));
    assert_eq!(names, [handler, handler, sends.as_str(), begins.as_str()], "{sure:?}");
    assert_eq!(sure.library.version.as_deref(), Some("0.22.4"));
    for options in [["-DDATA=3", LENGTH, CONDITION], [DATA, LENGTH, "-DCONDITION=<(1UL<<63|4)"]] {
        let unsure = found(options);
        assert_eq!(unsure.hooks.len(), 2, "no handler: {unsure:?}");
        assert!(unsure.skipped[0].contains(handler), "{unsure:?}");
    }
}

#[test]
fn damage_never_panics_or_hangs() {
    let flags = [&USUAL[..], &[DATA, LENGTH, CONDITION], LINKAGE[0]].concat();
    let good = stripped(&source(), &flags);
    TestRng(0x9e37_79b9_7f4a_7c15).mutations(&good, 200, |bytes| {
        if let Ok(object) = parse_bytes(bytes, &SymbolFilter::default()) {
            let _ = locate(&object);
        }
    });
}
