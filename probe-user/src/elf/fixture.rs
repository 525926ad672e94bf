//! Small ELF files for tests, compiled from C with the linker driver that Rust needs anyway.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic fails the test")]

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use super::{Object, ObjectError, SymbolFilter};

/// The layout of OpenSSL 3.3 and later: public functions call internal ones. Like the real ones they start
/// with a call, so that they save registers first.
pub(crate) const OPENSSL: &str = r#"
typedef unsigned long size_t;
typedef struct ssl SSL;
struct ssl { int (*read)(SSL *, void *, size_t, size_t *); int (*write)(SSL *, const void *, size_t, size_t \
*);
             int (*ready)(SSL *); long state, done; };
const char version[] = "OpenSSL 3.4.5 1 Feb 2026";
__attribute__((noinline)) static int read_internal(SSL *s, void *buf, size_t num, size_t *done) {
    if (!s->ready(s)) return -1;
    int r = s->read(s, buf, num, done);
    if (r > 0) { s->state++; s->done += *done; }
    return r;
}
__attribute__((noinline)) static int write_internal(SSL *s, const void *buf, size_t num, size_t flags, \
size_t *done) {
    if (!s->ready(s) || flags > num) return -1;
    int r = s->write(s, buf, num, done);
    if (r > 0) { s->state += flags; s->done += *done; }
    return r;
}
int SSL_read(SSL *s, void *buf, int num) {
    size_t done;
    if (num < 0) return -1;
    int r = read_internal(s, buf, (size_t)num, &done);
    return r > 0 ? (int)done : r;
}
int SSL_read_ex(SSL *s, void *buf, size_t num, size_t *done) {
    int r = read_internal(s, buf, num, done);
    return r < 0 ? 0 : r;
}
int SSL_peek(SSL *s, void *buf, int num) { return s->read(s, buf, num, 0); }
int SSL_write(SSL *s, const void *buf, int num) {
    size_t done;
    if (num < 0) return -1;
    int r = write_internal(s, buf, (size_t)num, 0, &done);
    return r > 0 ? (int)done : r;
}
int SSL_write_ex2(SSL *s, const void *buf, size_t num, size_t flags, size_t *done) {
    int r = write_internal(s, buf, num, flags, done);
    return r < 0 ? 0 : r;
}
int SSL_write_ex(SSL *s, const void *buf, size_t num, size_t *done) {
    int r = SSL_write_ex2(s, buf, num, 0, done);
    return r < 0 ? 0 : r;
}
SSL *SSL_new(SSL *s) { s->state = 1; return s; }
"#;

/// Compiles `source`. The file is removed together with the returned directory.
pub(crate) fn compile(source: &str, flags: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("fixture.c"), source).unwrap();
    let result = Command::new("cc")
        .args(["-O2", "-fno-stack-protector", "-fPIC", "-o", "fixture", "fixture.c"])
        .args(flags)
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(result.status.success(), "cc: {}", String::from_utf8_lossy(&result.stderr));
    directory
}

/// Parses the file at `path`.
pub(crate) fn parse(path: &Path, wanted: &SymbolFilter) -> Result<Object, ObjectError> {
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    Object::parse(file, size, wanted)
}

/// Parses `bytes` as a file.
pub(crate) fn parse_bytes(bytes: &[u8], wanted: &SymbolFilter) -> Result<Object, ObjectError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bytes");
    fs::write(&path, bytes).unwrap();
    parse(&path, wanted)
}

/// Removes the section headers, as `sstrip` does.
pub(crate) fn without_sections(bytes: &mut [u8]) {
    bytes[0x28..0x30].fill(0); // e_shoff
    bytes[0x3c..0x40].fill(0); // e_shnum, e_shstrndx
}
