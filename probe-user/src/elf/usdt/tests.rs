//! USDT probes of a program compiled with the system's header and compiler.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic fails the test")]

use std::fs;

use super::{Register, UsdtOperand, UsdtProbes};
use crate::elf::fixture::{compile, parse, parse_bytes};
use crate::elf::{Object, SymbolFilter, VirtAddr};
use crate::test_rng::TestRng;

const PROGRAM: &str = r#"
#define _SDT_HAS_SEMAPHORES 1
#include <sys/sdt.h>
unsigned short web_request_semaphore __attribute__((section(".probes")));
unsigned short web_done_semaphore __attribute__((section(".probes")));
static volatile int counter = 7;
static long table[64];
__attribute__((noinline)) int handle(const char *path, int n, unsigned char c, long *a, short s) {
    volatile int local = n * 2;
    STAP_PROBE5(web, request, path, n, c, a[n], local);
    STAP_PROBE4(web, done, s, 5, counter, table[n]);
    return n + local;
}
int main(int argc, char **argv) { return handle(argv[0], argc, 'x', table, -3); }
"#;

fn probes(object: &Object) -> UsdtProbes {
    let found = object.usdt().unwrap();
    assert!(found.notes.is_empty(), "{:?}", found.notes);
    found
}

#[test]
fn probes_of_a_program() {
    for flags in [&[][..], &["-no-pie"], &["-O0"], &["-Wl,-Ttext=0x900000"]] {
        let directory = compile(PROGRAM, flags);
        let path = directory.path().join("fixture");
        let object = parse(&path, &SymbolFilter::default()).unwrap();
        let found = probes(&object).probes;
        let names: Vec<_> =
            found.iter().map(|probe| (probe.provider.as_str(), probe.name.as_str())).collect();
        assert_eq!(names, [("web", "done"), ("web", "request")]);
        let [done] = found[0].sites.as_slice() else { panic!("{found:?}") };
        let bytes = fs::read(&path).unwrap();
        let at = |offset: u64| bytes[usize::try_from(offset).unwrap()];
        assert_eq!(at(done.offset.0), 0x90, "a nop");
        assert_eq!(object.address(done.offset), Some(done.address));
        let index = object.index().unwrap();
        assert_eq!(index.function_at(index.at(done.address).unwrap().address).unwrap().shown(), "handle");
        assert!(done.semaphore.is_some() && done.semaphore != found[1].sites[0].semaphore);
        let sizes: Vec<_> = done.arguments.iter().map(|argument| (argument.size, argument.signed)).collect();
        assert_eq!(sizes, [(2, true), (4, true), (4, true), (8, true)]);
        assert_eq!(done.arguments[1].operand, UsdtOperand::Constant(5));
        for probe in &found {
            let supported = |operand: &UsdtOperand| !matches!(operand, UsdtOperand::Unsupported(_));
            assert!(
                probe.sites[0].arguments.iter().all(|argument| supported(&argument.operand)),
                "{probe:?}"
            );
        }
        if let UsdtOperand::Memory { base: Some(Register::Rip), displacement, .. } = done.arguments[2].operand
        {
            let counter = object.segments.from(done.address.0.wrapping_add_signed(displacement)).unwrap();
            assert_eq!(at(counter.offset), 7, "the variable");
        } else {
            assert!(flags == ["-O0"], "{:?}", done.arguments);
        }
    }
}

#[test]
fn moved_programs_have_moved_probes() {
    let directory = compile(PROGRAM, &[]);
    let mut bytes = fs::read(directory.path().join("fixture")).unwrap();
    let before = probes(&parse_bytes(&bytes, &SymbolFilter::default()).unwrap());
    // As if everything had been 4096 bytes lower when the note was written.
    let mut at = 0;
    while let Some(place) = memchr::memmem::find(&bytes[at..], b"stapsdt\0") {
        let description = at + place + 8;
        at = description;
        for field in [0, 8, 16].map(|field| description + field) {
            if field + 8 > bytes.len() {
                break;
            }
            let word = bytes[field..field + 8].try_into().map(u64::from_le_bytes).unwrap();
            if (0x1000..0x10_0000).contains(&word) {
                bytes[field..field + 8].copy_from_slice(&(word - 0x1000).to_le_bytes());
            }
        }
    }
    let after = probes(&parse_bytes(&bytes, &SymbolFilter::default()).unwrap());
    assert_eq!(before, after);
}

#[test]
fn probes_of_the_system() {
    for (path, provider, name) in [
        ("/usr/lib/x86_64-linux-gnu/libstdc++.so.6", "libstdcxx", "throw"),
        ("/usr/bin/python3", "python", "audit"),
    ] {
        let object = parse(path.as_ref(), &SymbolFilter::default()).unwrap();
        let found = probes(&object);
        let probe = found.probes.iter().find(|probe| probe.provider == provider && probe.name == name);
        let site = &probe.unwrap().sites[0];
        assert_eq!(site.arguments.len(), 2, "{site:?}");
        assert_eq!(site.semaphore.is_some(), provider == "python");
        let arguments = found.probes.iter().flat_map(|probe| &probe.sites).flat_map(|site| &site.arguments);
        let unsupported: Vec<_> =
            arguments.filter(|argument| matches!(argument.operand, UsdtOperand::Unsupported(_))).collect();
        assert!(unsupported.is_empty(), "{unsupported:?}");
    }
    let object = parse("/usr/lib/x86_64-linux-gnu/libc.so.6".as_ref(), &SymbolFilter::default()).unwrap();
    assert!(object.usdt().is_ok());
}

#[test]
fn damaged_notes_are_no_panic() {
    let directory = compile(PROGRAM, &[]);
    let good = fs::read(directory.path().join("fixture")).unwrap();
    let place = memchr::memmem::find(&good, b"stapsdt\0").unwrap();
    let mut noise = TestRng(0x9e37_79b9_7f4a_7c15);
    for _ in 0..1000 {
        let mut bytes = good.clone();
        for _ in 0..=noise.below(6) {
            bytes[place - 12 + noise.below(210)] =
                u8::try_from([0, 0xff, 0x28, 0x25, noise.below(256)][noise.below(5)]).unwrap();
        }
        let object = parse_bytes(&bytes, &SymbolFilter::default()).unwrap();
        let found = object.usdt().unwrap();
        assert!(found.probes.iter().flat_map(|probe| &probe.sites).all(|site| site.address != VirtAddr(0)));
    }
}
