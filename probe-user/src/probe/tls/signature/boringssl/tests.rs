//! BoringSSL without symbols: what is found in a program that is built like it.

use crate::probe::tls::signature::Confidence;
use crate::probe::tls::signature::tests::{LINKAGE, addresses, fixture, only, stripped};

/// The functions and errors of BoringSSL, as far as the locator depends on them. `PEEK` decides whether
/// SSL_peek is a function of its own, `INNER` whether the function for reading is,
/// and `LIKELY` whether an error comes before the use of the arguments.
const BORINGSSL: &str = r"
typedef unsigned long size_t;
typedef struct ssl SSL;
struct state { long error; const char *data; size_t waits; };
struct ssl { int (*fill)(SSL *); int (*ready)(SSL *); struct state *s3; void *quic; long done; };
#define AWAY __attribute__((noipa, used)) static
#define ERROR(reason) ERR_put_error(16, 0, reason, FILE_PATH, __LINE__)
volatile long sink;
AWAY void ERR_put_error(int library, int unused, int reason, const char *file, unsigned line) { sink = library + reason + file[line]; }
AWAY void copy(void *to, const void *from, size_t length) { sink = length + (long)to + (long)from; }
INNER int ssl_read_impl(SSL *s) {
    if (!s->ready) { ERROR(226); return -1; }
    while (s->s3->waits == 0) {
        int r = s->ready(s);
        if (r < 0) return r;
        if (r == 0) { ERROR(215); return -1; }
        if (s->fill(s) <= 0) return -1;
    }
    return 1;
}
PEEK int SSL_peek(SSL *s, void *buf, int num) {
    if (__builtin_expect(!!s->quic, LIKELY)) { ERROR(66); return -1; }
    int r = ssl_read_impl(s);
    if (r <= 0) return r;
    if (num <= 0) return num;
    size_t todo = s->s3->waits < (size_t)num ? s->s3->waits : (size_t)num;
    copy(buf, s->s3->data, todo);
    return (int)todo;
}
AWAY int SSL_read(SSL *s, void *buf, int num) {
    int r = SSL_peek(s, buf, num);
    if (r <= 0) return r;
    CONSUME
    return r;
}
AWAY int SSL_write(SSL *s, const void *buf, int num) {
    if (s->quic) { ERROR(66); return -1; }
    if (!s->ready) { ERROR(226); return -1; }
    int r = s->ready(s);
    if (r < 0) return r;
    if (r == 0) { ERROR(215); return -1; }
    if (num < 0) { ERROR(111); return -1; }
    copy(s, buf, (size_t)num);
    return num;
}
AWAY int SSL_shutdown(SSL *s) {
    SHUTDOWN
    if (!s->ready) { ERROR(226); return -1; }
    if (s->done) { ERROR(194); return -1; }
    return ssl_read_impl(s);
}
struct stream { long unused; SSL *s; char data[16]; };
static inline __attribute__((always_inline)) int read_some(SSL *s, void *buf, int num) {
    if (s->quic) { ERROR(66); return -1; }
    int r = ssl_read_impl(s);
    if (r <= 0) return r;
    size_t todo = s->s3->waits < (size_t)num ? s->s3->waits : (size_t)num;
    copy(buf, s->s3->data, todo);
    s->s3->data += todo;
    s->s3->waits -= todo;
    return (int)todo;
}
static __attribute__((noipa)) int read_line(struct stream *stream) { return read_some(stream->s, stream->data, 16); }
static __attribute__((noipa)) int read_own(SSL *s) { static char data[16]; return read_some(s, data, 16); }
AWAY SSL *SSL_new(SSL *s) { if (!s) { ERROR(185); return 0; } s->done = 1; return s; }
void start(SSL *s, char *data) {
    sink = SSL_read(SSL_new(s), data, 3) + SSL_write(s, data, 4) + SSL_shutdown(s);
    MORE
}
";

const CONSUME: &str = "-DCONSUME=s->s3->data+=r; s->s3->waits-=r;";
const PLAIN: &str = "-DSHUTDOWN=";
const PATH: &str = "-DFILE_PATH=\"../../vendor/boringssl/ssl/ssl_lib.cc\"";
const OWN: &str = "-DPEEK=AWAY";
const INNER: &str = "-DINNER=AWAY";
const INNER_INLINED: &str = "-DINNER=static inline __attribute__((always_inline))";
const INLINED: &str = "-DPEEK=static inline __attribute__((always_inline))";

#[test]
fn read_is_found_whether_or_not_peek_is_a_function_of_its_own() {
    let cases: [(&str, &[&str]); 5] = [
        ("peek is called", &[OWN, "-DMORE=", "-DLIKELY=0"]),
        ("peek is called, errors first", &[OWN, "-DMORE=", "-DLIKELY=1"]),
        ("peek is inlined and gone", &[INLINED, "-DMORE=", "-DLIKELY=0"]),
        ("peek is inlined and gone, errors first", &[INLINED, "-DMORE=", "-DLIKELY=1"]),
        ("peek is inlined and there", &[INLINED, "-DMORE=sink=(long)&SSL_peek;", "-DLIKELY=1"]),
    ];
    for (linkage, inner) in
        LINKAGE.into_iter().flat_map(|linkage| [(linkage, INNER), (linkage, INNER_INLINED)])
    {
        for (what, flags) in cases {
            // If it is inlined, it is a part of SSL_shutdown as well.
            let flags = [linkage, &[PATH, CONSUME, inner, PLAIN], flags].concat();
            let (truth, bytes) = fixture(BORINGSSL, &flags);
            let located = only(&stripped(&bytes));
            assert_eq!(located.certainty, Confidence::High, "{what} {linkage:?}: {}", located.why);
            let found = addresses(&located);
            assert_eq!(found.keys().copied().collect::<Vec<_>>(), ["SSL_new", "SSL_read", "SSL_write"]);
            for (name, address) in found {
                assert_eq!(Some(address), truth.function(name).map(|symbol| symbol.address), "{name} {what}");
            }
        }
    }
}

/// SSL_read may be a part of another function: what that reads would not be seen.
#[test]
fn a_function_with_read_inside_makes_read_doubtful() {
    const QUIC: &str = "-DSHUTDOWN=if (s->quic) { ERROR(66); return -1; }";
    let line = "-DMORE=sink=(long)&read_line;";
    let own = "-DMORE=sink=(long)&read_own;";
    for (what, more, inner, certainty) in [
        ("SSL_shutdown tests for QUIC", "-DMORE=", INNER, Confidence::High),
        ("SSL_shutdown tests for QUIC, all inlined", "-DMORE=", INNER_INLINED, Confidence::High),
        ("a connection behind an argument", line, INNER, Confidence::Low),
        ("a connection behind an argument, all inlined", line, INNER_INLINED, Confidence::Low),
        ("its own connection", own, INNER, Confidence::Low),
        ("its own connection, all inlined", own, INNER_INLINED, Confidence::Low),
    ] {
        for peek in [OWN, INLINED] {
            let flags = [LINKAGE[0], &[PATH, CONSUME, peek, inner, more, QUIC, "-DLIKELY=0"]].concat();
            let located = only(&stripped(&fixture(BORINGSSL, &flags).1));
            assert_eq!(located.certainty, certainty, "{what} {peek}: {located:?}");
            assert!(located.certain.contains(&"SSL_write"), "{what}: {located:?}");
        }
    }
}

#[test]
fn a_function_that_does_not_consume_is_not_read() {
    for (what, peek) in [("peek is called", OWN), ("peek is inlined", INLINED)] {
        let other = "-DCONSUME=s->s3->error=r;";
        let flags = [LINKAGE[0], &[PATH, other, peek, INNER, PLAIN, "-DMORE=", "-DLIKELY=0"]].concat();
        let located = only(&stripped(&fixture(BORINGSSL, &flags).1));
        assert_eq!(located.certainty, Confidence::Low, "{what}: {located:?}");
        assert_eq!(located.certain, ["SSL_write", "SSL_new"], "{what}: {located:?}");
    }
}
