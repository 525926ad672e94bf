//! Whole files: checks what is found in good ones, and that bad ones are refused in time and without a panic.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic fails the test")]

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use super::fixture::{OPENSSL, compile, parse, parse_bytes, without_sections};
use super::{FileOffset, Object, ObjectError, SymbolFilter, VirtAddr};
use crate::test_rng::TestRng;

fn wanted() -> SymbolFilter {
    ["SSL_read", "SSL_write", "read_internal", "SSL_missing"].into_iter().collect()
}

fn library(flags: &[&str]) -> Vec<u8> {
    let flags = [&["-shared", "-Wl,-soname,libfixture.so.7", "-Wl,--build-id=0xc0ffee"], flags].concat();
    fs::read(compile(OPENSSL, &flags).path().join("fixture")).unwrap()
}

#[test]
fn a_library_gives_its_symbols_and_names() {
    let object = parse_bytes(&library(&["-Wl,--no-as-needed", "-lc"]), &wanted()).unwrap();
    let names: Vec<_> = object.symbols().keys().map(String::as_str).collect();
    assert_eq!(names, ["SSL_read", "SSL_write", "read_internal"]);
    assert_eq!(object.soname(), Some("libfixture.so.7"));
    assert_eq!(object.needed(), ["libc.so.6"]);
    assert_eq!(object.build_id(), Some("c0ffee"));
    assert!(object.notes().is_empty(), "{:?}", object.notes());
    let symbol = object.function("SSL_read").unwrap();
    assert!(symbol.size > 16);
    assert_eq!(object.code(symbol.address, symbol.size).unwrap().len() as u64, symbol.size);
    let internal = object.function("read_internal").unwrap();
    assert!(object.same_segment(symbol.address, internal.address));
}

#[test]
fn addresses_are_not_offsets() {
    // Places code at an address that differs from its file offset.
    let object = parse_bytes(&library(&["-Wl,-Ttext=0x200000"]), &wanted()).unwrap();
    let symbol = object.function("SSL_read").unwrap();
    let offset = object.file_offset(symbol.address).unwrap();
    assert!(symbol.address.0 >= 0x20_0000 && offset.0 < 0x20_0000, "{symbol:?} {offset:?}");
    assert_eq!(object.file_offset(VirtAddr(0)), None, "the headers are not code");
    assert_eq!(object.file_offset(VirtAddr(u64::MAX)), None);
    assert!(matches!(object.code(VirtAddr(1), 16), Err(ObjectError::NotCode { address: 1 })));
}

#[test]
fn exported_symbols_are_found_however_the_file_was_stripped() {
    for style in ["gnu", "sysv", "both"] {
        let hash = format!("-Wl,--hash-style={style}");
        let full = parse_bytes(&library(&[&hash]), &wanted()).unwrap();
        let mut bytes = library(&["-s", &hash]);
        for stage in ["strip", "sstrip"] {
            let object = parse_bytes(&bytes, &wanted()).unwrap();
            assert_eq!(object.function("SSL_read"), full.function("SSL_read"), "{style} {stage}");
            assert_eq!(object.function("read_internal"), None);
            without_sections(&mut bytes);
        }
    }
}

#[test]
fn versions_and_namesakes() {
    let versioned = r#"
        __asm__(".symver old, SSL_read@V1\n.symver new, SSL_read@@V2");
        int old(void) { return 1; }
        int new(void) { return 2; }
        int SSL_write(void) { return 3; }
    "#;
    let directory = compile("", &["-c"]);
    let map = directory.path().join("map");
    fs::write(&map, "V1 { global: SSL_read; }; V2 { global: SSL_read; SSL_write; };").unwrap();
    let map = format!("-Wl,--version-script={}", map.display());
    let library = compile(versioned, &["-shared", &map]);
    let object = parse(&library.path().join("fixture"), &wanted()).unwrap();
    assert_eq!(object.functions("SSL_read").len(), 2, "both versions");
    assert_eq!(object.function("SSL_read"), None, "which one is not known");
    assert!(object.function("SSL_write").is_some());
}

#[test]
fn constants_are_found_with_and_without_section_headers() {
    let mut bytes = library(&[]);
    for stage in ["whole", "sstrip"] {
        let object = parse_bytes(&bytes, &wanted()).unwrap();
        let needles: &[&[u8]] = &[b"LibreSSL ", b"OpenSSL "];
        let text = object.find_rodata(needles, 64, |hit| Some((hit.needle, hit.text.to_owned()))).unwrap();
        assert_eq!(text, Some((1, b"OpenSSL 3.4.5 1 Feb 2026".to_vec())), "{stage}");
        without_sections(&mut bytes);
    }
}

#[test]
fn what_is_not_for_us_differs_from_what_is_broken() {
    let good = library(&[]);
    let patched = |at: usize, patch: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        parse_bytes(&bytes, &wanted()).unwrap_err()
    };
    let cases = [
        (parse_bytes(b"", &wanted()).unwrap_err(), true, "not an ELF file"),
        (parse_bytes(b"#!/bin/sh\n", &wanted()).unwrap_err(), true, "not an ELF file"),
        (patched(4, &[1]), true, "a 32-bit ELF file: not supported yet, only 64-bit x86-64 is"),
        (patched(5, &[2]), true, "a big-endian ELF file: not supported, only x86-64 is"),
        (patched(18, &[183, 0]), true, "an ELF file for aarch64: not supported yet, only x86-64 is"),
        (
            patched(16, &[1, 0]),
            true,
            "an ELF file of type 1 (object file or core dump): it cannot be run, so nothing to probe",
        ),
        (patched(4, &[9]), false, "broken ELF file: unknown class"),
        (patched(0x36, &[0, 0]), false, "broken ELF file: program headers of unknown size"),
        (patched(0x38, &[0, 0]), false, "broken ELF file: nothing of it is loaded (no PT_LOAD with bytes)"),
        (
            parse_bytes(&good[..32], &wanted()).unwrap_err(),
            false,
            "truncated: the ELF header ends at byte 64 of a file of 32",
        ),
        (parse_bytes(&good[..4], &wanted()).unwrap_err(), false, "broken ELF file: unknown class"),
    ];
    for (error, foreign, message) in cases {
        assert_eq!((error.is_foreign(), error.to_string().as_str()), (foreign, message));
    }
}

#[test]
fn stale_section_headers_are_a_note() {
    let mut bytes = library(&[]);
    bytes[0x28..0x30].copy_from_slice(&u64::MAX.to_le_bytes());
    let object = parse_bytes(&bytes, &wanted()).unwrap();
    assert!(object.function("SSL_read").is_some());
    assert_eq!(object.notes().len(), 1, "{:?}", object.notes());
}

/// Runs the TLS matching on an object, and thereby everything that reads it.
fn exercise(object: &Object) {
    if let Ok(found) = crate::probe::tls::hooks(object) {
        assert!(found.hooks.iter().all(|hook| hook.offset < FileOffset(1 << 32)));
    }
}

#[test]
fn a_truncated_file_is_refused() {
    let bytes = library(&[]);
    let wanted = crate::probe::tls::symbol_filter();
    let begun = Instant::now();
    for length in (0..bytes.len()).step_by(64) {
        if let Ok(object) = parse_bytes(&bytes[..length], &wanted) {
            exercise(&object);
        }
    }
    assert!(begun.elapsed() < Duration::from_mins(1));
}

#[test]
fn a_file_that_shrinks_after_it_was_opened_is_an_error() {
    let directory = compile(OPENSSL, &["-shared"]);
    let path = directory.path().join("fixture");
    let object = parse(&path, &wanted()).unwrap();
    let address = object.function("SSL_read").unwrap().address;
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    assert!(matches!(object.code(address, 16), Err(ObjectError::Read { .. })));
}

#[test]
fn random_damage_never_panics_or_hangs() {
    let good = library(&[]);
    let wanted = crate::probe::tls::symbol_filter();
    let begun = Instant::now();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&good).unwrap();
    TestRng(0x9e37_79b9_7f4a_7c15).mutations(&good, 3000, |bytes| {
        if let Ok(object) = parse_bytes(bytes, &wanted) {
            exercise(&object);
        }
    });
    assert!(begun.elapsed() < Duration::from_mins(2));
}

#[test]
fn a_huge_table_costs_no_memory_and_little_time() {
    // A sparse file of 8 GiB whose section headers announce the largest tables that are allowed.
    let mut bytes = library(&[]);
    let at = usize::try_from(u64::from_le_bytes(bytes[0x28..0x30].try_into().unwrap())).unwrap();
    for header in bytes[at..].chunks_exact_mut(64) {
        let kind = header[4];
        if kind == 2 || kind == 3 {
            header[0x18..0x20].copy_from_slice(&(1_u64 << 30).to_le_bytes());
            let size: u64 = if kind == 2 { 240_000_000 } else { 256 << 20 };
            header[0x20..0x28].copy_from_slice(&size.to_le_bytes());
        }
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    file.as_file().set_len(8 << 30).unwrap();
    let begun = Instant::now();
    let object = parse(file.path(), &wanted()).unwrap();
    assert!(object.function("SSL_read").is_some());
    assert!(begun.elapsed() < Duration::from_mins(1));
}
