//! Go programs, built by the distribution's Go.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::GoAbi;
use crate::elf::fixture::{parse, parse_bytes};
use crate::elf::{ElfFunction, Index, Language, NoReturn, Object, SymbolFilter, VirtAddr};
use crate::test_rng::TestRng;

const PROGRAM: &str = r"
package main

type Point struct{ X, Y int }

//go:noinline
func (p *Point) Move(dx, dy int) int {
	p.X += dx
	if p.X > 10 {
		return 1
	}
	p.Y += dy
	return p.Y
}

//go:noinline
func Deep(n int) int {
	var room [256]byte
	room[n&255] = byte(n)
	if n == 0 {
		return int(room[0])
	}
	return Deep(n-1) + int(room[n&255])
}

func main() {
	p := &Point{}
	println(Deep(1000), p.Move(3, 4))
}
";

const WITH_C: &str = r#"
package main

// int twice(int n) { return 2 * n; }
import "C"

//go:noinline
func Twice(n int) int { return int(C.twice(C.int(n))) }

func main() { println(Twice(4)) }
"#;

fn build(source: &str, flags: &[&str]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("main.go"), source).unwrap();
    let target: PathBuf = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("go-cache");
    let result = Command::new("go")
        .arg("build")
        .args(flags)
        .args(["-o", "fixture", "main.go"])
        .env("GOCACHE", target)
        .env("GOFLAGS", "-mod=mod")
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(result.status.success(), "go: {}", String::from_utf8_lossy(&result.stderr));
    fs::read(directory.path().join("fixture")).unwrap()
}

fn open(bytes: &[u8]) -> (Object, Index) {
    let object = parse_bytes(bytes, &SymbolFilter::default()).unwrap();
    let index = object.index().unwrap();
    assert!(index.notes().is_empty(), "{:?}", index.notes());
    (object, index)
}

fn one(index: &Index, requested: &str) -> ElfFunction {
    let mut found = index.select(10, |name| name.raw() == requested).unwrap();
    assert_eq!(found.len(), 1, "{requested}: {found:?}");
    found.remove(0)
}

/// Go's functions by name, which the pclntab and `.symtab` must agree on.
fn functions(index: &Index) -> BTreeMap<VirtAddr, Vec<String>> {
    let all = index.select(100_000, |_| true).unwrap();
    let go = all.into_iter().filter(|function| function.language == Language::Go);
    go.map(|function| {
        let mut names: Vec<_> = function.names.into_iter().map(|name| name.raw).collect();
        names.retain(|name| name.strip_suffix(".abi0").is_none());
        (function.address, names)
    })
    .collect()
}

#[test]
fn a_stripped_program_has_the_functions_of_the_whole_one() {
    for flags in [&[][..], &["-buildmode=pie"]] {
        let (whole, whole_index) = open(&build(PROGRAM, flags));
        let (stripped, stripped_index) = open(&build(PROGRAM, &[flags, &["-ldflags=-s -w"]].concat()));
        assert!(whole.is_program() && stripped.is_program());
        let expected = functions(&whole_index);
        let found = functions(&stripped_index);
        assert!(found.len() > 500);
        assert_eq!(found.len(), expected.len());
        for (address, names) in &found {
            assert!(
                names.iter().all(|name| expected[address].contains(name)),
                "{names:?} {:?}",
                expected[address]
            );
            // The whole program also has .symtab, which must agree; the name may have another form there.
            assert!(expected[address].len() <= names.len() + 1, "{names:?} {:?}", expected[address]);
        }
        let version = stripped_index.go().unwrap().version().unwrap();
        assert!(version.text.starts_with("go1.") && version.minor >= Some(19), "{version:?}");
        check_functions(&stripped, &stripped_index);
        check_functions(&whole, &whole_index);
    }
}

fn check_functions(object: &Object, index: &Index) {
    let moved = one(index, "main.(*Point).Move");
    assert_eq!((moved.language, moved.go_abi), (Language::Go, Some(GoAbi::Registers)));
    let returns = object.returns(index, &moved).unwrap();
    assert_eq!((returns.sites.len(), returns.tail_jumps, returns.indirect_jumps), (2, 0, 0), "{moved:?}");
    assert!(matches!(object.return_probe(&moved), Err(NoReturn::Go)));
    assert_eq!(object.site(&moved).unwrap().1.offset, 0, "a leaf has no check of the stack");
    let deep = one(index, "main.Deep");
    assert!(object.site(&deep).unwrap().1.offset > 0, "it begins again when the stack grows");
    let found = one(index, "runtime.memclrNoHeapPointers");
    assert!(matches!(found.go_abi, Some(GoAbi::Unknown | GoAbi::Stack)), "{found:?}");
}

#[test]
fn programs_with_c_in_them() {
    let (whole, whole_index) = open(&build(WITH_C, &[]));
    let (stripped, stripped_index) = open(&build(WITH_C, &["-ldflags=-s -w"]));
    for name in ["main.Twice", "main.main", "runtime.cgocall"] {
        let expected = one(&whole_index, name);
        let found = one(&stripped_index, name);
        assert_eq!(found.go_abi, Some(GoAbi::Registers));
        assert_eq!(expected.address, found.address, "{name}");
        let sites = |object: &Object, index: &Index, function| object.returns(index, function).unwrap().sites;
        assert_eq!(sites(&whole, &whole_index, &expected), sites(&stripped, &stripped_index, &found));
    }
    let c = whole_index.select(10, |name| name.raw().ends_with("_Cfunc_twice")).unwrap();
    assert!(c.iter().any(|function| function.language == Language::C && function.go_abi.is_none()), "{c:?}");
    // A C library written in Go.
    let (library, index) = open(&build(WITH_C, &["-buildmode=c-shared", "-ldflags=-s -w"]));
    assert!(!library.is_program());
    one(&index, "main.Twice");
}

#[test]
fn most_functions_of_the_runtime_are_understood() {
    let (object, index) = open(&build(PROGRAM, &["-ldflags=-s -w"]));
    let all = index.select(100_000, |_| true).unwrap();
    let refused: Vec<_> = all
        .iter()
        .filter(|function| function.size > 0)
        .filter(|function| {
            object.site(function).is_err()
                || matches!(object.returns(&index, function), Err(NoReturn::Unclear(_)))
        })
        .map(ElfFunction::shown)
        .collect();
    assert!(refused.len() * 100 < all.len(), "{refused:?} of {}", all.len());
    let grows =
        all.iter().filter(|function| object.site(function).is_ok_and(|(_, site)| site.offset > 0)).count();
    assert!(grows * 3 > all.len(), "{grows} of {}", all.len());
}

#[test]
fn what_is_not_go() {
    for path in ["/usr/lib/x86_64-linux-gnu/libc.so.6", "/proc/self/exe"] {
        let object = parse(path.as_ref(), &SymbolFilter::default()).unwrap();
        assert!(object.go().unwrap().is_none(), "{path}");
    }
}

#[test]
fn damaged_tables_cost_little() {
    let good = build(PROGRAM, &["-ldflags=-s -w"]);
    let needle = memchr::memmem::find(&good, b"\xf0\xff\xff\xff\0\0\x01\x08")
        .or_else(|| memchr::memmem::find(&good, b"\xf1\xff\xff\xff\0\0\x01\x08"))
        .unwrap();
    let mut noise = TestRng(0x9e37_79b9_7f4a_7c15);
    let begun = Instant::now();
    let file = tempfile::NamedTempFile::new().unwrap();
    for round in 0..60 {
        let mut bytes = good.clone();
        for _ in 0..=noise.below(6) {
            // Damage in the header, in the function list, or anywhere.
            let at = match round % 3 {
                0 => needle + noise.below(72),
                1 => needle + noise.below(200_000),
                _ => noise.below(bytes.len() - 8),
            };
            noise.damage(&mut bytes, at);
        }
        fs::write(file.path(), &bytes).unwrap();
        let Ok(object) = parse(file.path(), &SymbolFilter::default()) else { continue };
        let Ok(index) = object.index() else { continue };
        if let Ok(found) = index.select(5000, |name| name.raw().starts_with("main.")) {
            for function in found {
                let _ = object.site(&function);
                let _ = object.returns(&index, &function);
            }
        }
    }
    assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
}
