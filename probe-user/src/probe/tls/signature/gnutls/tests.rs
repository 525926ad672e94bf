//! GnuTLS 3.5 without symbols: what is found in a program that is built like it.

use crate::probe::tls::signature::Confidence;
use crate::probe::tls::signature::tests::{LINKAGE, addresses, fixture, only, stripped};

/// The functions and assertions of GnuTLS 3.5, as far as the locator depends on them.
const GNUTLS: &str = r#"
typedef unsigned long size_t;
typedef struct session { int ready; long (*move)(const void *, size_t); unsigned timeout; } *session;
#define AWAY __attribute__((noipa, used)) static
volatile int level;
volatile long sink;
AWAY void log_message(int at, const char *format, const char *file, const char *function, int line) {
    sink = at + format[0] + file[0] + function[0] + line;
}
static inline __attribute__((always_inline)) int failed(int value, const char *file, const char *function, int line) {
    if (level >= 3) log_message(3, "ASSERT: %s[%s]:%d\n", file, function, line);
    return value;
}
AWAY long _gnutls_recv_int(session s, int type, char *data, size_t size, void *seq, unsigned timeout) {
    if (type != 23 && (size == 0 || data == 0)) return failed(-50, "record.c", __func__, __LINE__);
    if (timeout > 5) return failed(-28, "record.c", __func__, __LINE__);
    sink = (long)seq;
    return s->move(data, size);
}
AWAY long gnutls_record_recv(session s, char *data, size_t size) {
    return _gnutls_recv_int(s, 23, data, size, 0, s->timeout);
}
AWAY long gnutls_record_recv_seq(session s, char *data, size_t size, void *seq) {
    return _gnutls_recv_int(s, 23, data, size, seq, s->timeout);
}
AWAY long gnutls_bye(session s) { return _gnutls_recv_int(s, BYE, 0, 0, 0, s->timeout); }
AWAY long gnutls_record_send(session s, const char *data, size_t size) {
    if (!s->ready) return failed(-7, "record.c", __func__, __LINE__);
    return s->move(data, size);
}
AWAY int gnutls_init(session *s) {
    if (!*s) return failed(-25, "state.c", __func__, __LINE__);
    (*s)->timeout = 3;
    return 0;
}
void start(session s, char *data) {
    sink = gnutls_init(&s) + gnutls_record_send(s, data, 3) + gnutls_bye(s);
    sink = gnutls_record_recv(s, data, 4) + gnutls_record_recv_seq(s, data, 5, data);
}
"#;

#[test]
fn receiving_functions_without_assertions() {
    for (flags, optimised) in LINKAGE.into_iter().flat_map(|flags| ["-O0", "-O2"].map(|level| (flags, level)))
    {
        let (truth, bytes) = fixture(GNUTLS, &[flags, &[optimised, "-DBYE=21"]].concat());
        let located = only(&stripped(&bytes));
        assert_eq!(located.certainty, Confidence::High, "{flags:?} {optimised}: {}", located.why);
        let found = addresses(&located);
        let names = ["gnutls_init", "gnutls_record_recv", "gnutls_record_recv_seq", "gnutls_record_send"];
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), names, "{flags:?} {optimised}");
        for (name, address) in found {
            assert_eq!(Some(address), truth.function(name).map(|symbol| symbol.address), "{name} {flags:?}");
        }
    }
}

#[test]
fn a_type_that_is_not_certain() {
    let source = GNUTLS
        .replace("_gnutls_recv_int(s, 23, data, size, 0", "_gnutls_recv_int(s, s->ready, data, size, 0");
    let source = source
        .replace("_gnutls_recv_int(s, 23, data, size, seq", "_gnutls_recv_int(s, s->ready, data, size, seq");
    let located = only(&stripped(&fixture(&source, &[LINKAGE[0], &["-DBYE=21"]].concat()).1));
    assert_eq!(located.certainty, Confidence::Low, "{located:?}");
}
