//! Small compiled functions, and every exported function of libraries of this machine against what objdump
//! and the unwind tables say of them.
#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use probe_common::{ReturnSlot, StackBase};

use super::{ExitSite, UncertainExits};
use crate::elf::fixture::{compile, parse};
use crate::elf::{FunctionKind, Language, Object, SymbolFilter};

/// The exits of a function: the offset from its entry, the register, the distance in words, and whether the
/// kernel emulates the instruction.
type Found = Vec<Exit>;

fn exits(object: &Object, name: &str) -> Result<Found, UncertainExits> {
    let symbol = object.function(name).unwrap();
    let entry = object.file_offset(symbol.address).unwrap().0;
    let found = object.frames().unwrap().exits(symbol.address, symbol.size)?;
    let told =
        |exit: &ExitSite| (exit.offset.0.wrapping_sub(entry), exit.slot.base, exit.slot.words, exit.emulated);
    Ok(found.iter().map(told).collect())
}

/// An exit of [`Found`].
type Exit = (u64, StackBase, u32, bool);

/// Functions in assembler, each with its exits. None: refused.
const FUNCTIONS: &[(&str, &str, Option<&[Exit]>)] = &[
    ("plain", "xor %eax,%eax; ret", Some(&[(2, SP, 0, false)])),
    (
        "checked",
        "push %rbx; sub $16,%rsp; mov 8(%rsp),%rdx; sub %fs:0x28,%rdx; jne 1f; add $16,%rsp; pop %rbx; ret; \
         1: call fail",
        Some(&[(19, SP, 3, true)]),
    ),
    (
        "checked_with_a_frame_pointer",
        "push %rbp; mov %rsp,%rbp; sub $32,%rsp; mov -8(%rbp),%rdx; xor %fs:0x28,%rdx; jne 1f; leave; ret; \
         1: call fail",
        Some(&[(21, BP, 1, true)]),
    ),
    (
        "checked_the_way_of_clang",
        "push %rax; mov %fs:0x28,%rcx; cmp (%rsp),%rcx; jne 1f; pop %rcx; ret; 1: call fail",
        Some(&[(14, SP, 1, true)]),
    ),
    (
        "checked_without_optimisation",
        "push %rbp; mov %rsp,%rbp; mov -8(%rbp),%rdx; sub %fs:0x28,%rdx; je 1f; call fail; 1: leave; ret",
        Some(&[(17, BP, 1, true)]),
    ),
    // The returned value changes behind the check, or is stored there.
    (
        "value_behind_the_check",
        "push %rbx; mov (%rsp),%rdx; sub %fs:0x28,%rdx; jne 1f; mov %ebx,%eax; pop %rbx; ret; 1: call fail",
        Some(&[(19, SP, 0, false)]),
    ),
    (
        "stored_behind_the_check",
        "push %rbx; mov (%rsp),%rdx; sub %fs:0x28,%rdx; jne 1f; mov %ecx,(%rdi); pop %rbx; ret; 1: call fail",
        Some(&[(19, SP, 0, false)]),
    ),
    // A jump leads behind the check.
    (
        "around_the_check",
        "push %rbx; test %edi,%edi; js 2f; mov (%rsp),%rdx; sub %fs:0x28,%rdx; jne 1f; 2: pop %rbx; ret; \
         1: call fail",
        Some(&[(21, SP, 0, false)]),
    ),
    // Any other comparison proves nothing.
    (
        "another_comparison",
        "push %rbx; mov (%rsp),%rdx; sub %fs:0x30,%rdx; jne 1f; pop %rbx; ret; 1: pop %rbx; ret",
        Some(&[(17, SP, 0, false), (19, SP, 0, false)]),
    ),
    (
        "two",
        "test %edi,%edi; je 1f; mov $1,%eax; ret; 1: xor %eax,%eax; ret",
        Some(&[(9, SP, 0, false), (12, SP, 0, false)]),
    ),
    ("jumps_to_plain", "xor %edi,%edi; .byte 0xe9; .long plain - . - 4", None),
    ("jumps_through_a_register", "jmp *%rax", None),
    ("may_jump_through_memory", "test %edi,%edi; je 1f; jmp *(%rdi); 1: ret", None),
    // Through a table, if as much of the index is compared as is used, and nothing changes it in between.
    (
        "through_a_table",
        "cmp $1,%dil; ja 9f; movzbl %dil,%edi; lea 7f(%rip),%rdx; movslq (%rdx,%rdi,4),%rax; add %rdx,%rax; \
         jmp *%rax; 1: ret; 2: ret; 9: ret; .section .rodata; 7: .long 1b-7b,2b-7b; .previous",
        Some(&[(26, SP, 0, false), (27, SP, 0, false), (28, SP, 0, false)]),
    ),
    (
        "through_a_table_by_a_part",
        "cmp $1,%dil; ja 9f; lea 7f(%rip),%rdx; movslq (%rdx,%rdi,4),%rax; add %rdx,%rax; \
         jmp *%rax; 1: ret; 2: ret; 9: ret; .section .rodata; 7: .long 1b-7b,2b-7b; .previous",
        None,
    ),
    (
        "through_a_table_by_a_part_of_memory",
        "cmpb $1,8(%rdi); ja 9f; mov 8(%rdi),%eax; lea 7f(%rip),%rdx; movslq (%rdx,%rax,4),%rax; \
         add %rdx,%rax; jmp *%rax; 1: ret; 2: ret; 9: ret; .section .rodata; 7: .long 1b-7b,2b-7b; .previous",
        None,
    ),
    (
        "through_a_table_by_other_memory",
        "cmpb $1,8(%rdi); ja 9f; mov %sil,8(%rdi); movzbl 8(%rdi),%eax; lea 7f(%rip),%rdx; \
         movslq (%rdx,%rax,4),%rax; add %rdx,%rax; \
         jmp *%rax; 1: ret; 2: ret; 9: ret; .section .rodata; 7: .long 1b-7b,2b-7b; .previous",
        None,
    ),
    ("never", "1: jmp 1b", None),
    ("runs_over", "xor %eax,%eax; nop", None),
    ("far", "lret", None),
    ("into_the_middle", "jmp . + 3; .byte 0xb8,0x90,0x90,0x90,0x90; ret", None),
    ("prefixed", ".byte 0x2e; ret", None),
];
const SP: StackBase = StackBase::StackPointer;
const BP: StackBase = StackBase::FramePointer;

#[test]
fn exits_of_small_functions() {
    let mut source = String::new();
    for (name, code, _) in FUNCTIONS {
        let lines: [&str; 9] = [
            ".text",
            &format!(".globl {name}"),
            &format!(".type {name},@function"),
            &format!("{name}:"),
            ".cfi_startproc",
            &code.replace("; ", "\\n"),
            ".cfi_endproc",
            &format!(".size {name},.-{name}"),
            ".p2align 4,0xcc\\n",
        ];
        source.extend(["__asm__(\"", &lines.join("\\n"), "\");\n"]);
    }
    source += "void fail(void) { __builtin_trap(); }";
    let directory = compile(&source, &["-shared", "-Wl,-Bsymbolic"]);
    let wanted = FUNCTIONS.iter().map(|(name, ..)| *name).collect();
    let object = parse(&directory.path().join("fixture"), &wanted).unwrap();
    for (name, _, expected) in FUNCTIONS {
        let found = exits(&object, name);
        match (expected, *name) {
            (Some(expected), _) => assert_eq!(found.unwrap(), *expected, "{name}"),
            // What a function jumps to returns in its place.
            (None, "jumps_to_plain") => {
                let plain = object.function("plain").unwrap().address.0;
                let own = object.function(name).unwrap().address.0;
                assert_eq!(found.unwrap(), [((plain + 2).wrapping_sub(own), SP, 0, false)]);
            }
            (None, _) => assert!(found.is_err(), "{name}: {found:?}"),
        }
    }
}

#[test]
fn jumps_through_the_linkage_table_are_followed_within_the_file() {
    let source = r#"
        int puts(const char *);
        int other(int value) { return value * 3; }
        int tail(int value) { return other(value + 1); }
        int into_another_file(const char *text) { return puts(text); }
        static int implementation(int value) { return value; }
        static void *resolve(void) { return implementation; }
        int chosen(int) __attribute__((ifunc("resolve")));
        int chosen_at_load(int value) { return chosen(value + 1); }
    "#;
    for (flag, jump) in [("-fplt", "jmp    "), ("-fno-plt", "jmp    *0x")] {
        let directory = compile(source, &["-shared", flag]);
        let path = directory.path().join("fixture");
        let file = Disassembly::of(&path);
        assert!(file.lines.values().any(|line| line.text.starts_with(jump)), "{flag}: no {jump:?}");
        let names = ["tail", "into_another_file", "chosen_at_load"];
        let object = parse(&path, &names.into_iter().collect()).unwrap();
        let all = parse(&path, &["other"].into_iter().collect()).unwrap();
        let other = all.function("other").unwrap();
        let [exit] = all.frames().unwrap().exits(other.address, other.size).unwrap()[..] else { panic!() };
        let tail = object.function("tail").unwrap();
        assert_eq!(object.frames().unwrap().exits(tail.address, tail.size).unwrap(), [exit], "{flag}");
        for name in ["into_another_file", "chosen_at_load"] {
            let found = exits(&object, name);
            assert!(found.is_err(), "{flag}: {name}: {found:?}");
        }
    }
}

#[test]
fn a_switch_is_followed_through_its_table() {
    let source = r"
        int f(int), g(int);
        int choose(int what, int value) {
            switch (what) {
                case 0: return f(value) + 1;
                case 1: return g(value) - 7;
                case 2: return f(g(value)) * 3;
                case 3: return value;
                case 4: return g(f(value)) ^ what;
                case 5: return f(f(value)) + g(1);
                case 6: return g(g(value)) + f(2);
                default: return -1;
            }
        }
        int f(int v) { return v + 1; }
        int g(int v) { return v * 5; }
    ";
    for flags in [&["-shared", "-Wl,-Bsymbolic"][..], &["-shared", "-Wl,-Bsymbolic", "-fcf-protection=full"]]
    {
        let directory = compile(source, flags);
        let path = directory.path().join("fixture");
        let has_jump = Disassembly::of(&path).lines.values().any(|line| line.text.contains("jmp    *%"));
        let object = parse(&path, &["choose"].into_iter().collect()).unwrap();
        let found = exits(&object, "choose");
        assert!(has_jump && found.is_ok(), "{has_jump} {found:?}");
    }
}

/// A line of objdump.
struct Line {
    text: String,
    next: u64,
}

/// What objdump says of a file.
struct Disassembly {
    lines: BTreeMap<u64, Line>,
    targets: BTreeSet<u64>,
    /// What is called, or has a symbol.
    entries: BTreeSet<u64>,
}

impl Disassembly {
    fn of(path: &Path) -> Self {
        let output =
            Command::new("objdump").args(["-d", "-w", "--no-show-raw-insn"]).arg(path).output().unwrap();
        assert!(output.status.success(), "objdump {}", path.display());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = BTreeMap::new();
        let mut targets = BTreeSet::new();
        let mut entries = BTreeSet::new();
        let mut last = None;
        for line in text.lines() {
            if let Some((address, _)) = line.split_once(" <").filter(|_| line.ends_with(">:")) {
                entries.extend(u64::from_str_radix(address, 16));
            }
            let Some((address, text)) = line.split_once(":\t") else { continue };
            let Ok(address) = u64::from_str_radix(address.trim(), 16) else { continue };
            let text = text.trim().to_owned();
            targets.extend(jump(&text));
            if let Some((_, to)) = text.split_once("call ") {
                entries.extend(u64::from_str_radix(to.split_whitespace().next().unwrap_or_default(), 16));
            }
            if let Some(last) = last.and_then(|last| lines.get_mut(&last)) {
                let last: &mut Line = last;
                last.next = address;
            }
            lines.insert(address, Line { text, next: u64::MAX });
            last = Some(address);
        }
        Self { lines, targets, entries }
    }

    /// Whether a jump leads to the address, as far as the text shows.
    fn is_target(&self, address: u64) -> bool {
        self.targets.contains(&address)
    }
}

/// The mnemonic without prefixes.
fn mnemonic(text: &str) -> &str {
    let is_prefix =
        |word: &&str| ["repz", "bnd", "notrack", "cs", "ds", "data16", "lock", "rep"].contains(word);
    text.split_whitespace().find(|word| !is_prefix(word)).unwrap_or_default()
}

/// The target of a direct jump.
fn jump(text: &str) -> Option<u64> {
    let name = mnemonic(text);
    (name.starts_with('j') || name.starts_with("loop"))
        .then(|| u64::from_str_radix(text.split_once(name)?.1.split_whitespace().next()?, 16).ok())?
}

/// Whether the text of an instruction changes the returned value.
fn changes_value(text: &str) -> bool {
    let operands = text.split_once(mnemonic(text)).map(|(_, rest)| rest.trim()).unwrap_or_default();
    let last = operands.rsplit(',').next().unwrap_or_default();
    ["%rax", "%eax", "%ax", "%al"].contains(&last) && !["cmp", "test"].contains(&mnemonic(text))
        || mnemonic(text).starts_with("call")
}

/// The rule by which the unwind tables find the caller's frame at each address.
struct CallFrames(BTreeMap<u64, (u64, String)>);

impl CallFrames {
    fn of(path: &Path) -> Self {
        let output = Command::new("readelf").args(["-wF"]).arg(path).output().unwrap();
        // It fails if it does not understand every entry, but prints the others.
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut rules = BTreeMap::new();
        let mut end = 0;
        for line in text.lines() {
            if let Some((_, range)) = line.split_once(" pc=") {
                end = u64::from_str_radix(range.split_once("..").unwrap().1, 16).unwrap();
            } else if line.contains(" CIE ") {
                end = 0;
            } else if end != 0
                && let Some((address, rest)) = line.split_once(' ')
                && let Ok(address) = u64::from_str_radix(address, 16)
            {
                rules.insert(address, (end, rest.split_whitespace().next().unwrap().to_owned()));
            }
        }
        assert!(rules.len() > 100, "readelf {}: {} rules", path.display(), rules.len());
        Self(rules)
    }

    /// `rsp+16`.
    fn at(&self, address: u64) -> Option<&str> {
        let (_, (end, rule)) = self.0.range(..=address).next_back()?;
        (address < *end).then_some(rule.as_str())
    }
}

/// Checks one exit of a library: whether the unwind tables agree on the frame, and whether the code runs from
/// there straight to a `ret`, which nothing else reaches and on the way to which the value stays. Returns the
/// address of the `ret`.
fn check_exit(file: &Disassembly, frames: &CallFrames, exit: &ExitSite, address: u64) -> Result<u64, String> {
    let ReturnSlot { base, words } = exit.slot;
    let register = if base == SP { "rsp" } else { "rbp" };
    let expected = format!("{register}+{}", words * 8 + 8);
    let rule = frames.at(address);
    // Where the tables find the frame by another register, they prove nothing.
    if rule.is_some_and(|rule| rule.starts_with(register) && rule != expected) {
        return Err(format!("{address:#x}: the tables say {rule:?}, not {expected}"));
    }
    let mut at = address;
    let first = file.lines.get(&at).ok_or_else(|| format!("{address:#x} is in no instruction"))?;
    if exit.emulated {
        let over = jump(&first.text).ok_or_else(|| format!("{address:#x}: {}", first.text))?;
        at = if mnemonic(&first.text) == "je" { over } else { first.next };
        let jumped =
            file.lines.range(..at).filter(|(from, line)| **from != address && jump(&line.text) == Some(at));
        if mnemonic(&first.text) == "je" && jumped.count() > 0 {
            return Err(format!("{address:#x}: others jump behind it"));
        }
    }
    loop {
        let line = file.lines.get(&at).ok_or_else(|| format!("{at:#x} is in no instruction"))?;
        if at != address && file.is_target(at) && !(exit.emulated && jump(&first.text) == Some(at)) {
            return Err(format!("{address:#x}: a jump leads behind it, to {at:#x}"));
        }
        if mnemonic(&line.text).starts_with("ret") {
            return Ok(at);
        }
        if changes_value(&line.text) || jump(&line.text).is_some() {
            return Err(format!("{address:#x}: behind it is {}", line.text));
        }
        at = line.next;
    }
}

/// Checks that a walk through the code, as objdump shows it, that ends with a return has passed one exit. The
/// walk ends without a result where objdump does not show where it goes on, and where a call that never
/// returns seems to run into what is behind it.
fn walk(file: &Disassembly, entry: u64, exits: &BTreeSet<u64>, random: &mut Random) -> Result<bool, String> {
    let (mut at, mut passed) = (entry, 0);
    for _ in 0..4000 {
        let Some(line) = file.lines.get(&at) else { return Ok(false) };
        passed += usize::from(exits.contains(&at));
        match mnemonic(&line.text) {
            name if name.starts_with("ret") => {
                return match passed {
                    1 => Ok(true),
                    _ => Err(format!("{entry:#x}: passes {passed} exits before it returns at {at:#x}")),
                };
            }
            "ud2" | "hlt" | "int3" => return Ok(false),
            name if name.starts_with("call") => {
                let next = file.lines.get(&line.next).map(|next| next.text.as_str()).unwrap_or_default();
                if line.text.contains("__stack_chk_fail") || next.contains("nop") || next.contains("xchg") {
                    return Ok(false);
                }
                at = line.next;
                // Something else begins there.
                if file.entries.contains(&at) {
                    return Ok(false);
                }
            }
            "jmp" => match jump(&line.text) {
                Some(to) => at = to,
                None => return Ok(false),
            },
            name if name.starts_with('j') => {
                at = jump(&line.text).filter(|_| random.next().is_multiple_of(2)).unwrap_or(line.next);
            }
            _ => at = line.next,
        }
    }
    Ok(false)
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

/// How many functions of a library have exits, and how many exits are emulated.
#[derive(Debug, Default)]
struct Tally {
    functions: usize,
    certain: usize,
    all_emulated: usize,
    exits: usize,
    walks: usize,
}

fn check_library(path: &Path) -> (Tally, Vec<String>) {
    let object = parse(path, &SymbolFilter::default()).unwrap();
    let index = object.index().unwrap();
    let table = object.frames().unwrap();
    let (file, frames) = (Disassembly::of(path), CallFrames::of(path));
    let (mut tally, mut wrong, mut random) = (Tally::default(), Vec::new(), Random(7));
    for function in index.select(100_000, |_| true).unwrap() {
        if function.kind != FunctionKind::Body || function.size == 0 || function.language != Language::C {
            continue;
        }
        tally.functions += 1;
        let Ok(exits) = table.exits(function.address, function.size) else { continue };
        tally.certain += 1;
        tally.exits += exits.len();
        tally.all_emulated += usize::from(exits.iter().all(|exit| exit.emulated));
        let mut places = BTreeSet::new();
        for exit in &exits {
            let address = object.address(exit.offset).unwrap().0;
            places.insert(address);
            if let Err(why) = check_exit(&file, &frames, exit, address) {
                wrong.push(format!("{}: {why}", function.shown()));
            }
        }
        for _ in 0..8 {
            match walk(&file, function.address.0, &places, &mut random) {
                Ok(returned) => tally.walks += usize::from(returned),
                Err(why) => wrong.push(format!("{}: {why}", function.shown())),
            }
        }
    }
    (tally, wrong)
}

#[test]
fn exits_of_every_function_of_libraries_agree_with_objdump() {
    let mut checked = 0;
    for name in
        ["libssl.so.3", "libgnutls.so.30", "libc.so.6", "libmbedtls.so.14", "libnspr4.so", "libwolfssl.so.35"]
    {
        let path = Path::new("/usr/lib/x86_64-linux-gnu").join(name);
        if !path.exists() {
            continue;
        }
        let (tally, wrong) = check_library(&path);
        assert!(
            wrong.is_empty(),
            "{name}: {} wrong, such as {:#?}",
            wrong.len(),
            wrong.iter().take(12).collect::<Vec<_>>()
        );
        assert!(tally.certain * 2 > tally.functions && tally.walks > tally.certain, "{name}: {tally:?}");
        checked += 1;
    }
    assert!(checked > 0, "no library was there to check");
}
