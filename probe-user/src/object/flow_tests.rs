//! What code of a few instructions does with its arguments.

use super::{Callee, Effect, Value, VirtAddr, read};

const AT: VirtAddr = VirtAddr(0x1000);

fn check(name: &str, code: &[u8], expected: &[Effect]) {
    assert_eq!(read(code, AT, &[]), expected, "{name}");
}

#[test]
fn arguments_are_followed() {
    let calls = |callee, first, second| Effect::Calls { callee, first, second };
    let (first, second) = (Some(Value::Argument(0, 0)), Some(Value::Argument(1, 0)));
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
        &[Effect::Reads(0, 8), Effect::Changes(0, 8)],
    );
    let written = Effect::Writes { argument: 0, offset: 2, number: 1, bytes: 1 };
    check("movb $1,2(%rdi)", &[0xc6, 0x47, 2, 1], &[written]);
    check("jmp out", &[0xe9, 0, 1, 0, 0], &[calls(Callee::Function(VirtAddr(0x1105)), first, second)]);
    let method = Callee::Method(0, 24, 0x18);
    check(
        "mov 24(%rdi),%rax; mov 16(%rdi),%rsi; call *0x18(%rax); call *0(%rip)",
        &[0x48, 0x8b, 0x47, 24, 0x48, 0x8b, 0x77, 16, 0xff, 0x50, 0x18, 0xff, 0x15, 0, 0, 0, 0],
        &[
            Effect::Reads(0, 24),
            Effect::Reads(0, 16),
            calls(method, first, Some(Value::Loaded(0, 16))),
            calls(Callee::Slot(0x1011), None, None),
        ],
    );
}

#[test]
fn the_stack_and_jumps_keep_what_is_known() {
    check(
        "mov %rdi,(%rsp); call; mov (%rsp),%rax; mov 4(%rax),%rcx",
        &[0x48, 0x89, 0x3c, 0x24, 0xff, 0xd0, 0x48, 0x8b, 4, 0x24, 0x48, 0x8b, 0x48, 4],
        &[
            Effect::Calls {
                callee: Callee::Unknown,
                first: Some(Value::Argument(0, 0)),
                second: Some(Value::Argument(1, 0)),
            },
            Effect::Reads(0, 4),
        ],
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
    let panics = Effect::Calls {
        callee: Callee::Function(VirtAddr(0x1109)),
        first: Some(Value::Argument(0, 0)),
        second: Some(Value::Argument(1, 0)),
    };
    assert_eq!(read(&code, AT, &[]), [panics]);
    assert_eq!(read(&code, AT, &[AT.0 + 4]), [panics, Effect::Reads(1, 0)]);
    // Nothing leads there.
    assert_eq!(read(&code[4..], VirtAddr(AT.0 + 4), &[AT.0 + 4]), [panics]);
}
