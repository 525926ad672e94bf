//! Small compiled functions, and functions of the libraries on this machine.
#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use std::path::Path;
use std::time::{Duration, Instant};

use super::{AmbiguousCode, NoReturn, SiteError, UnprobeableCode, special};
use crate::elf::fixture::{compile, parse};
use crate::elf::{ElfFunction, FunctionKind, Index, ObjectError, SymbolFilter, VirtAddr};

fn one(index: &Index, requested: &str) -> ElfFunction {
    index.select(10, |name| name.is(requested)).unwrap().remove(0)
}

#[test]
fn places_in_functions() {
    let source = r#"
        __asm__(".text\n.globl f\n.type f,@function\nf: push %rbx\n mov $0xc3c3c3, %eax\n test %eax,%eax\n jne 1f\n"
                " pop %rbx\n ret\n1: pop %rbx\n jmp g\n.size f,.-f\n"
                ".globl odd\n.type odd,@function\nodd: jmp . + 3\n .byte 0xb8,0x90,0x90,0x90,0x90\n ret\n.size odd,.-odd\n"
                ".globl spin\n.type spin,@function\nspin: jmp spin\n.size spin,.-spin\n");
        int g(void) { return 0; }
    "#;
    let directory = compile(source, &["-shared"]);
    let object = parse(&directory.path().join("fixture"), &SymbolFilter::default()).unwrap();
    let index = object.index().unwrap();
    let f = one(&index, "f");
    let entry = object.site(&f).unwrap();
    assert_eq!(object.address(entry.0), Some(f.address));
    assert!(entry.1.emulated);
    assert_eq!(object.site_at(&f, 1).unwrap().0.0, entry.0.0 + 1);
    assert!(matches!(object.site_at(&f, 3), Err(SiteError::NotBoundary { offset: 3, begin: 1 })));
    assert!(matches!(object.site_at(&f, f.size), Err(SiteError::Beyond { .. })));
    let (offset, site, found) = object.site_at_address(&index, VirtAddr(f.address.0 + 6)).unwrap();
    assert_eq!((offset.0, site.offset, found.address), (entry.0.0 + 6, 6, f.address));
    assert!(matches!(object.site_at_address(&index, VirtAddr(1)), Err(SiteError::Object(_))));
    let returns = object.returns(&index, &f).unwrap();
    assert_eq!((returns.sites.len(), returns.tail_jumps, returns.indirect_jumps), (1, 1, 0));
    assert_eq!(returns.sites.first().unwrap().0.0, f.address.0 + 11);
    object.return_probe(&f).unwrap();
    let odd = one(&index, "odd");
    assert!(matches!(object.returns(&index, &odd), Err(NoReturn::Unclear(AmbiguousCode::Overlap(3)))));
    assert!(matches!(object.site_at(&odd, 2), Err(SiteError::Unclear { .. })));
    assert!(matches!(object.returns(&index, &one(&index, "spin")), Err(NoReturn::Never)));
}

#[test]
fn nops_that_the_kernel_replaces_are_left_alone() {
    let source = r#"
        __asm__(".text\n.globl f\n.type f,@function\nf: .byte 0x0f,0x1f,0x44,0,0\n mov %edi,-4(%rsp)\n"
                " .byte 0x0f,0x1f,0x44,0,0\n mov -4(%rsp),%eax\n ret\n.size f,.-f\n");
    "#;
    let directory = compile(source, &["-shared"]);
    let object = parse(&directory.path().join("fixture"), &SymbolFilter::default()).unwrap();
    let index = object.index().unwrap();
    let f = one(&index, "f");
    assert_eq!(object.site(&f).unwrap().1.offset, 0, "at the entry nothing is in the red zone");
    assert!(matches!(object.site_at(&f, 9), Err(SiteError::Site(UnprobeableCode::RedZone(9)))));
    let address = |offset| VirtAddr(f.address.0 + offset);
    assert!(matches!(object.bare_site(address(9)), Err(SiteError::Site(UnprobeableCode::RedZone(0)))));
    assert_eq!(object.bare_site(address(5)).unwrap(), object.site_at(&f, 5).unwrap().0);
    assert!(matches!(object.bare_site(VirtAddr(1)), Err(SiteError::Object(_))));
}

#[test]
fn cold_parts_belong_to_their_function() {
    let source = r#"
        __asm__(".text\n.globl f\n.type f,@function\nf: test %edi,%edi\n jne f.cold\n ret\n.size f,.-f\n"
                ".type f.cold,@function\nf.cold: nop\n ret\n jmp f\n.size f.cold,.-f.cold\n");
    "#;
    let directory = compile(source, &["-shared", "-Wl,-Bsymbolic"]);
    let object = parse(&directory.path().join("fixture"), &SymbolFilter::default()).unwrap();
    let index = object.index().unwrap();
    let returns = object.returns(&index, &one(&index, "f")).unwrap();
    assert_eq!((returns.sites.len(), returns.tail_jumps), (2, 0));
    let cold = one(&index, "f.cold");
    assert!(matches!(object.return_probe(&cold), Err(NoReturn::Fragment)));
}

#[test]
fn absurd_functions_cost_little() {
    let source = r#"
        __asm__(".text\n.type rets,@function\nrets: .fill 3000000,1,0xc3\n.size rets,.-rets\n"
                ".type jumps,@function\njumps: .rept 400000\n jmp far\n .endr\n.size jumps,.-jumps\n"
                ".type far,@function\nfar: ret\n.size far,1\n");
    "#;
    let directory = compile(source, &["-shared"]);
    let object = parse(&directory.path().join("fixture"), &SymbolFilter::default()).unwrap();
    let index = object.index().unwrap();
    let begun = Instant::now();
    let rets = object.returns(&index, &one(&index, "rets"));
    assert!(matches!(rets, Err(NoReturn::Object(ObjectError::TooLarge { .. }))), "{rets:?}");
    let jumps = object.returns(&index, &one(&index, "jumps")).unwrap();
    assert!(jumps.sites.is_empty() && jumps.tail_jumps > 100_000);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn what_must_not_be_probed() {
    let directory = compile("int main(void) { return 0; }", &[]);
    let object = parse(&directory.path().join("fixture"), &SymbolFilter::default()).unwrap();
    let start = object.index().unwrap().function_at(object.entry()).unwrap();
    assert_eq!(start.shown(), "_start");
    assert!(matches!(object.return_probe(&start), Err(NoReturn::Start)));
    let libc = Path::new("/usr/lib/x86_64-linux-gnu/libc.so.6");
    let object = parse(libc, &SymbolFilter::default()).unwrap();
    let index = object.index().unwrap();
    let refused = |name| object.return_probe(&one(&index, name)).is_err();
    assert!(refused("__sigsetjmp") && refused("getcontext") && !refused("getaddrinfo"));
    let resolver = index.select(10, |name| name.is("memcpy")).unwrap();
    let resolver = resolver.iter().find(|function| function.kind == FunctionKind::Resolver).unwrap();
    assert!(matches!(object.site(resolver), Err(SiteError::Resolver)));
    assert!(special("_Unwind_Resume").is_some() && special("main").is_none());
}

#[test]
fn most_functions_of_libc_are_understood() {
    let object = parse(Path::new("/usr/lib/x86_64-linux-gnu/libc.so.6"), &SymbolFilter::default()).unwrap();
    let index = object.index().unwrap();
    let functions = index.select(100_000, |_| true).unwrap();
    let bodies: Vec<_> = functions.iter().filter(|function| function.kind == FunctionKind::Body).collect();
    let refused = bodies.iter().filter(|function| object.site(function).is_err()).count();
    assert!(refused < 5, "{refused} of {}", bodies.len());
    let count = |wanted: fn(&NoReturn) -> bool| {
        bodies
            .iter()
            .filter(|function| object.returns(&index, function).is_err_and(|error| wanted(&error)))
            .count()
    };
    assert!(count(|error| matches!(error, NoReturn::Unclear(_))) * 50 < bodies.len());
}
