//! The function index of real files and of damaged ones.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic fails the test")]

use std::path::Path;
use std::time::{Duration, Instant};

use crate::elf::fixture::{compile, parse, parse_bytes};
use crate::elf::{
    Binding, ElfFunction, FunctionKind, Index, Language, Name, Object, ObjectError, SymbolFilter, VirtAddr,
};
use crate::test_rng::TestRng;

const LIBC: &str = "/usr/lib/x86_64-linux-gnu/libc.so.6";
const LIBSTDCXX: &str = "/usr/lib/x86_64-linux-gnu/libstdc++.so.6";

fn open(path: &str) -> (Object, Index) {
    let object = parse(Path::new(path), &SymbolFilter::default()).unwrap();
    let index = object.index().unwrap();
    assert!(index.notes().is_empty(), "{:?}", index.notes());
    (object, index)
}

fn named(index: &Index, requested: &str) -> Vec<ElfFunction> {
    index.select(100, |name: &Name<'_>| name.is(requested)).unwrap()
}

#[test]
fn functions_of_libc() {
    let (object, index) = open(LIBC);
    assert!(!object.is_program());
    assert!(index.len() > 2000);
    let found = named(&index, "getaddrinfo");
    let [function] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(
        (function.shown(), function.kind, function.language),
        ("getaddrinfo", FunctionKind::Body, Language::C)
    );
    assert!(function.size > 100 && function.is_sized && function.binding == Binding::Global);
    // The names of this function are merged: __libc_malloc, malloc.
    let malloc = &named(&index, "__libc_malloc")[0];
    assert!(malloc.names.iter().any(|name| name.raw == "malloc"), "{malloc:?}");
    assert_eq!(malloc.shown(), "__libc_malloc", "what was asked for comes first");
    assert_eq!(index.function_at(malloc.address).unwrap().shown(), "malloc");
    assert_eq!(named(&index, "memcpy").iter().map(|found| found.kind).max(), Some(FunctionKind::Resolver));
    let inside = index.at(VirtAddr(function.address.0 + 17)).unwrap();
    assert_eq!((inside.address, inside.offset), (function.address, 17));
    assert_eq!(index.at(VirtAddr(0)), None);
    assert_eq!(index.at(VirtAddr(u64::MAX)), None);
    assert!(matches!(index.select(100, |_| true), Err(ObjectError::TooLarge { found: 101, limit: 100, .. })));
    assert!(index.nearest("getadrinfo", 3).contains(&"getaddrinfo".to_owned()));
    assert!(index.nearest("nothing_is_like_this_at_all", 3).is_empty());
}

#[test]
fn functions_of_cpp() {
    let (_, index) = open(LIBSTDCXX);
    let found = named(&index, "std::ostream::flush");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].shown(), "std::ostream::flush()");
    assert_eq!(found[0].language, Language::Cpp);
    assert_eq!(named(&index, "_ZNSo5flushEv"), found);
}

#[test]
fn functions_of_rust() {
    // The function of this test itself.
    let path = std::env::current_exe().unwrap();
    let object = parse(&path, &SymbolFilter::default()).unwrap();
    assert!(object.is_program());
    let begun = Instant::now();
    let index = object.index().unwrap();
    let mine = "ctrace::elf::symbols::index::tests::functions_of_rust";
    let found = index.select(10, |name| name.raw().contains("functions_of_rust") && name.is(mine)).unwrap();
    let [function] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((function.shown(), function.language), (mine, Language::Rust));
    assert_eq!(index.at(function.address).unwrap().size, function.size);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn programs_differ_from_libraries() {
    let source = "int main(void) { return 0; }";
    for (flags, expected) in [
        (&["-no-pie"][..], true),
        (&["-pie"], true),
        (&["-static"], true),
        (&["-static-pie"], true),
        (&["-shared"], false),
        (&["-shared", "-Wl,-soname,x", "-Wl,--dynamic-linker=/lib64/ld-linux-x86-64.so.2"], false),
    ] {
        let directory = compile(source, flags);
        let object = parse(&directory.path().join("fixture"), &SymbolFilter::default()).unwrap();
        assert_eq!(object.is_program(), expected, "{flags:?}");
        assert_eq!(object.entry() == VirtAddr(0), !expected, "{flags:?}");
    }
    assert!(!open(LIBC).0.is_program(), "it has an interpreter, but is a library");
}

#[test]
fn sizes_and_parts() {
    let source = r#"
        __asm__(".text\n.type bare,@function\nbare: nop\n nop\n.type next,@function\nnext: ret\n.size next,1\n"
                ".type part.cold,@function\npart.cold: ret\n.size part.cold,1\n");
        int main(void) { return 0; }
    "#;
    let directory = compile(source, &[]);
    let object = parse(&directory.path().join("fixture"), &SymbolFilter::default()).unwrap();
    let index = object.index().unwrap();
    let one = |name| named(&index, name).remove(0);
    assert_eq!((one("bare").size, one("bare").is_sized), (2, false));
    assert_eq!((one("next").size, one("next").is_sized), (1, true));
    assert_eq!(one("next").binding, Binding::Local);
    assert_eq!(one("part.cold").kind, FunctionKind::Fragment);
    assert_eq!(index.at(VirtAddr(one("next").address.0)).unwrap().address, one("next").address);
}

#[test]
fn damaged_tables_cost_little() {
    let directory = compile("int f(void) { return 1; } int g(void) { return 2; }", &["-shared"]);
    let good = std::fs::read(directory.path().join("fixture")).unwrap();
    let mut noise = TestRng(0x9e37_79b9_7f4a_7c15);
    let begun = Instant::now();
    for _ in 0..1500 {
        let mut bytes = good.clone();
        for _ in 0..=noise.below(20) {
            let at = noise.below(bytes.len() - 8);
            noise.damage(&mut bytes, at);
        }
        let Ok(object) = parse_bytes(&bytes, &SymbolFilter::default()) else { continue };
        let Ok(index) = object.index() else { continue };
        if let Ok(found) = index.select(1000, |_| true) {
            assert!(found.iter().all(|function| index.at(function.address).is_some() || function.size == 0));
        }
        index.nearest("main", 3);
    }
    assert!(begun.elapsed() < Duration::from_secs(30));
}
