//! Strings in objects, and the code that refers to them.
#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use super::*;
use crate::elf::StringPattern::{End, Whole};
use crate::elf::SymbolFilter;
use crate::elf::fixture::{compile, parse};

const SOURCE: &str = r#"
volatile long sink;
const char whole[] = "needle";
const char longer[] = "a needle";
const char other[] = "needle and more";
__attribute__((noinline)) void first(void) { sink = (long)whole; }
__attribute__((noinline)) void second(void) { sink = (long)longer; }
__attribute__((noinline)) void third(void) { sink = (long)other; first(); second(); }
"#;

fn object(flags: &[&str]) -> Object {
    let directory = compile(SOURCE, flags);
    let wanted: SymbolFilter = ["first", "second", "third"].into_iter().collect();
    parse(&directory.path().join("fixture"), &wanted).unwrap()
}

/// The functions that refer to one of the strings.
fn holders(object: &Object, texts: &[StringRef]) -> Vec<VirtAddr> {
    let frames = object.frames().unwrap();
    let found = object.references(texts).unwrap();
    found.into_iter().map(|at| frames.at(at).unwrap().unwrap().address).collect()
}

#[test]
fn a_pattern_that_does_not_end_its_string_hides_no_other_one() {
    // The longest match is not at the end of a string, and another one begins within it.
    let patterns = ["edle", "needle an", "an", "needle"];
    let searcher = searcher(MatchKind::LeftmostLongest, patterns).unwrap();
    let check = |chunk: &[u8], expected: &[(usize, usize)]| {
        let found = terminated(&searcher, chunk).map(|it| (it.pattern().as_usize(), it.start()));
        assert_eq!(found.collect::<Vec<_>>(), expected, "{}", chunk.escape_ascii());
    };
    check(b"needle\0needle", &[(3, 0)]);
    check(b"needle an\0edle\0", &[(1, 0), (0, 10)]);
    check(b"needle anneedle\0", &[(3, 9)]);
    check(b"needle anan\0\0an\0", &[(2, 9), (2, 13)]);
    check(b"needle an", &[]);
}

#[test]
fn texts_and_the_functions_that_refer_to_them() {
    for flags in
        [&["-shared", "-Wl,-Bsymbolic"][..], &["-nostdlib", "-static", "-no-pie", "-fno-pie", "-Wl,-e,third"]]
    {
        let object = object(flags);
        let of = |name| object.function(name).unwrap().address;
        let whole = object.find_texts(&[Whole("needle")]).unwrap();
        assert_eq!(whole.len(), 1, "{whole:?}");
        assert_eq!(holders(&object, &whole), [of("first")]);
        let ends = object.find_texts(&[End("needle")]).unwrap();
        assert_eq!(ends.len(), 2, "{ends:?}");
        assert!(ends.iter().any(|text| text.needle_at.0 - text.begin.0 == 2), "{ends:?}");
        assert_eq!(holders(&object, &ends), [of("first"), of("second")]);
        assert_eq!(object.find_texts(&[Whole("none")]).unwrap(), []);
        assert_eq!(object.references(&[]).unwrap(), []);
    }
}

#[test]
fn callers_and_extents() {
    let object = object(&["-nostdlib", "-static-pie", "-fPIE", "-fno-toplevel-reorder", "-Wl,-e,third"]);
    let third = object.function("third").unwrap();
    let frames = object.frames().unwrap();
    let called = frames.callers_of(&[object.function("first").unwrap().address], &[]).unwrap();
    let inside = |at: &VirtAddr| (third.address.0..third.address.0 + third.size).contains(&at.0);
    assert!(!called.is_empty() && called.iter().all(inside), "{called:?}");
    let extents = frames.at(VirtAddr(third.address.0 + 1)).unwrap().unwrap();
    assert_eq!(extents.address, third.address);
    assert!(extents.size >= third.size, "{extents:?}");
    assert_eq!(frames.at(VirtAddr(0)).unwrap(), None);
}
