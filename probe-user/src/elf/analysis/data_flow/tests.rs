//! Effects of short instruction sequences on arguments.

use super::{AbstractValue, Assumption, CallArguments, Callee, Effect, VirtAddr, read};

const AT: VirtAddr = VirtAddr(0x1000);

fn check(name: &str, code: &[u8], expected: &[Effect]) {
    assert_eq!(read(code, AT, &[], None), expected, "{name}");
}

#[test]
fn arguments_are_followed() {
    let [first, second, third] = [0, 1, 2].map(|number| Some(AbstractValue::Argument(number, 0)));
    let calls = |callee, first, second, third| Effect::Calls(CallArguments { callee, first, second, third });
    check("mov 8(%rsi),%rax", &[0x48, 0x8b, 0x46, 8], &[Effect::Reads(1, 8)]);
    check("add $8,%rsi; mov (%rsi),%rax", &[0x48, 0x83, 0xc6, 8, 0x48, 0x8b, 6], &[Effect::Reads(1, 8)]);
    check(
        "mov %rdi,%rbx; mov 16(%rbx),%rsi",
        &[0x48, 0x89, 0xfb, 0x48, 0x8b, 0x73, 16],
        &[Effect::Reads(0, 16)],
    );
    check("xor %edi,%edi; mov (%rdi),%rax", &[0x31, 0xff, 0x48, 0x8b, 7], &[]);
    let kept = Effect::Keeps { offset: 8, number: 3, bytes: 1 };
    check("movb $3,8(%rsp)", &[0xc6, 0x44, 0x24, 8, 3], &[kept]);
    check("mov $3,%eax; mov %al,8(%rsp)", &[0xb8, 3, 0, 0, 0, 0x88, 0x44, 0x24, 8], &[kept]);
    check(
        "mov 8(%rdi),%rax; mov %rcx,(%rax)",
        &[0x48, 0x8b, 0x47, 8, 0x48, 0x89, 8],
        &[Effect::Reads(0, 8), Effect::ChangesBehind(0, 8, 0)],
    );
    check(
        "mov 8(%rdi),%rax; add %rcx,16(%rax)",
        &[0x48, 0x8b, 0x47, 8, 0x48, 1, 0x48, 16],
        &[Effect::Reads(0, 8), Effect::ReadsBehind(0, 8, 16), Effect::ChangesBehind(0, 8, 16)],
    );
    check(
        "lea -0x90(%rbp),%r15; movl $4,0x28(%r15)",
        &[0x4c, 0x8d, 0xbd, 0x70, 0xff, 0xff, 0xff, 0x41, 0xc7, 0x47, 0x28, 4, 0, 0, 0],
        &[Effect::Keeps { offset: -0x68, number: 4, bytes: 4 }],
    );
    let written = Effect::Writes { argument: 0, offset: 2, number: 1, bytes: 1 };
    check("movb $1,2(%rdi)", &[0xc6, 0x47, 2, 1], &[written]);
    check("jmp out", &[0xe9, 0, 1, 0, 0], &[calls(Callee::Function(VirtAddr(0x1105)), first, second, third)]);
    let method = Callee::Method(0, 24, 0x18);
    check(
        "mov 24(%rdi),%rax; mov 16(%rdi),%rsi; call *0x18(%rax); call *0(%rip)",
        &[0x48, 0x8b, 0x47, 24, 0x48, 0x8b, 0x77, 16, 0xff, 0x50, 0x18, 0xff, 0x15, 0, 0, 0, 0],
        &[
            Effect::Reads(0, 24),
            Effect::Reads(0, 16),
            Effect::ReadsBehind(0, 24, 0x18),
            calls(method, first, Some(AbstractValue::Loaded(0, 16)), third),
            calls(Callee::Slot(0x1011), None, None, None),
        ],
    );
}

#[test]
fn the_stack_and_jumps_keep_known_values() {
    check(
        "mov %rdi,(%rsp); call; mov (%rsp),%rax; mov 4(%rax),%rcx",
        &[0x48, 0x89, 0x3c, 0x24, 0xff, 0xd0, 0x48, 0x8b, 4, 0x24, 0x48, 0x8b, 0x48, 4],
        &[Effect::Calls(call(Callee::Unknown)), Effect::Reads(0, 4)],
    );
    // je over; xor %edi,%edi; over: mov (%rdi),%rax; mov (%rsi),%rax
    check(
        "only what both ways know",
        &[0x74, 2, 0x31, 0xff, 0x48, 0x8b, 7, 0x48, 0x8b, 6],
        &[Effect::Reads(1, 0)],
    );
    // jmp over; xor %edi,%edi; over: mov (%rdi),%rax
    check("what is jumped over", &[0xeb, 2, 0x31, 0xff, 0x48, 0x8b, 7], &[Effect::Reads(0, 0)]);
    check("cut", &[0x48], &[]);
}

#[test]
fn what_follows_a_call_that_never_returns_is_not_behind_it() {
    // test; jne over; call; over: mov (%rsi),%rax
    let code = [0x85, 0xd2, 0x75, 5, 0xe8, 0, 1, 0, 0, 0x48, 0x8b, 6];
    let panics = Effect::Calls(call(Callee::Function(VirtAddr(0x1109))));
    assert_eq!(read(&code, AT, &[], None), [panics]);
    assert_eq!(read(&code, AT, &[AT.0 + 4], None), [panics, Effect::Reads(1, 0)]);
    // Nothing leads there, so the code is not reachable.
    assert_eq!(read(&code[4..], VirtAddr(AT.0 + 4), &[AT.0 + 4], None), [panics]);
}

#[test]
fn parts_of_what_an_argument_points_to_are_followed() {
    // mov (%rdx),%rbp; lea 0x60(%rbp),%rdi; test %rdi,%rdi; mov 8(%rdi),%rsi; sub $-128,%rbp; mov %rbp,%rdx;
    // call
    let code = [
        0x48, 0x8b, 0x2a, 0x48, 0x8d, 0x7d, 0x60, 0x48, 0x85, 0xff, 0x48, 0x8b, 0x77, 8, 0x48, 0x83, 0xed,
        0x80, 0x48, 0x89, 0xea, 0xe8, 0, 1, 0, 0,
    ];
    let (first, second) = (Some(AbstractValue::Inside(2, 0, 0x60)), Some(AbstractValue::Entry(2, 0, 0x68)));
    let callee = Callee::Function(VirtAddr(0x111a));
    let calls =
        Effect::Calls(CallArguments { callee, first, second, third: Some(AbstractValue::Inside(2, 0, 128)) });
    check("the part of a connection", &code, &[Effect::Reads(2, 0), calls]);
}

/// Code as compilers generate it to distinguish enum variants whose tag is in a niche.
#[test]
fn ways_that_a_given_word_does_not_take_are_left_out() {
    const NICHE: u64 = 1 << 63;
    // movabs $NICHE,%r13; mov (%rcx),%rsi; xor %r13,%rsi; cmp $5,%rsi; mov $1,%eax; cmovb %rsi,%rax; cmp
    // $4,%rax; jne over
    let by_number: &[u8] = &[
        0x49, 0xbd, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x48, 0x8b, 0x31, 0x4c, 0x31, 0xee, 0x48, 0x83, 0xfe, 5, 0xb8,
        1, 0, 0, 0, 0x48, 0x0f, 0x42, 0xc6, 0x48, 0x83, 0xf8, 4, 0x75, 4,
    ];
    // movabs $NICHE|1,%rax; add $3,%rax; cmp %rax,(%rcx); jne over
    let in_memory: &[u8] =
        &[0x48, 0xb8, 1, 0, 0, 0, 0, 0, 0, 0x80, 0x48, 0x83, 0xc0, 3, 0x48, 0x39, 1, 0x75, 4];
    // mov 8(%rdx),%rax; over: mov (%rdi),%rax
    let (data, over) = (Effect::Reads(2, 8), Effect::Reads(0, 0));
    for before in [by_number, in_memory] {
        let code = [before, &[0x48, 0x8b, 0x42, 8, 0x48, 0x8b, 7]].concat();
        let with = |word: Option<u64>| {
            let given = word.map(|word| Assumption { argument: 3, offset: 0, word });
            read(&code, AT, &[], given).split_off(1)
        };
        assert_eq!(with(None), [data, over]);
        assert_eq!(with(Some(NICHE | 4)), [data, over]);
        for other in [0, 4, NICHE, NICHE | 1, NICHE | 3, NICHE | 5, u64::MAX] {
            assert_eq!(with(Some(other)), [over], "{other:#x}");
        }
    }
    // A movq $0,(%rcx) in front overwrites the assumed word, so it is no longer known.
    let code = [&[0x48, 0xc7, 1, 0, 0, 0, 0], in_memory, &[0x48, 0x8b, 0x42, 8, 0x48, 0x8b, 7]].concat();
    let given = Assumption { argument: 3, offset: 0, word: 0 };
    assert!(read(&code, AT, &[], Some(given)).contains(&data));
}

fn call(callee: Callee) -> CallArguments {
    let [first, second, third] = [0, 1, 2].map(|number| Some(AbstractValue::Argument(number, 0)));
    CallArguments { callee, first, second, third }
}
