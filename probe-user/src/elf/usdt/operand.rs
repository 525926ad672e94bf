//! The arguments of a USDT probe: where the program keeps each, in assembler syntax.
//!
//! Parses that small language (`-4@%edi 8@-16(%rbp) 4@$5 8@table(,%rax,8)`). An operand that is not
//! understood is kept as text; its meaning is never guessed.

use serde::Serialize;

/// Longest operand in bytes: it may contain a mangled name.
const MAX_OPERAND: usize = 1024;

/// A 64-bit register of the calling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they are the processor's names")]
pub enum Register {
    Rax,
    Rbx,
    Rcx,
    Rdx,
    Rsi,
    Rdi,
    Rbp,
    Rsp,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    /// The address of the probe itself, at run time.
    Rip,
}

/// Where an argument is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UsdtOperand {
    /// The argument is this number.
    Constant(i64),
    /// The lowest bytes of a register.
    Register(Register),
    /// In memory, at the sum of these parts.
    Memory {
        /// The base register.
        base: Option<Register>,
        /// The index register and its scale: 1, 2, 4 or 8.
        index: Option<(Register, u8)>,
        /// The constant part. With [`Register::Rip`] as the base it is the distance from the probe to the
        /// variable.
        displacement: i64,
    },
    /// An operand that ctrace does not support, as text.
    Unsupported(String),
}

/// An argument of a USDT probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UsdtArgument {
    /// Its size in bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// Whether it is a signed number.
    pub signed: bool,
    /// Whether it is a floating-point number.
    #[serde(skip_serializing_if = "is_false")]
    pub is_float: bool,
    /// Where the program keeps it.
    pub operand: UsdtOperand,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Resolves the symbols that operands refer to.
pub(super) trait Symbols {
    /// The distance from the probe to the symbol. None if the symbol is unknown.
    fn distance(&self, name: &str) -> Option<i64>;
}

/// Splits the text of a note into operands. Blanks inside of parentheses do not separate.
pub(super) fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    let ends = |letter: char| {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter.is_ascii_whitespace() && depth == 0
    };
    text.split(ends).filter(|part| !part.is_empty()).collect()
}

/// The name of the symbol in an operand, to be resolved before [`argument`] is called.
pub(super) fn symbol(text: &str) -> Option<&str> {
    let operand = text.split_once('@').map_or(text, |(_, operand)| operand);
    let outside = operand.split_once('(').map_or(operand, |(outside, _)| outside);
    let name = terms(outside)?.into_iter().find_map(|(_, term)| is_symbol(term).then_some(term));
    name.filter(|_| !operand.starts_with(['$', '%']))
}

/// Parses one argument.
pub(super) fn argument(text: &str, symbols: &impl Symbols) -> UsdtArgument {
    // Version 1 of the notes has no sizes: the argument is a whole register.
    let (size, operand) = text.split_once('@').unwrap_or(("8", text));
    let (signed, digits) = size.strip_prefix('-').map_or((false, size), |digits| (true, digits));
    let (is_float, digits) = digits.strip_suffix('f').map_or((false, digits), |digits| (true, digits));
    let unsupported = || UsdtOperand::Unsupported(text.chars().take(MAX_OPERAND).collect());
    let width = match digits {
        "1" => Some(1),
        "2" => Some(2),
        "4" => Some(4),
        "8" => Some(8),
        _ => None,
    };
    let width = width.filter(|width| !is_float || *width >= 4);
    let found = width.filter(|_| text.len() <= MAX_OPERAND).and_then(|_| place(operand, symbols));
    UsdtArgument { size: width.unwrap_or(8), signed, is_float, operand: found.unwrap_or_else(unsupported) }
}

fn place(operand: &str, symbols: &impl Symbols) -> Option<UsdtOperand> {
    if let Some(constant) = operand.strip_prefix('$') {
        return number(constant).map(UsdtOperand::Constant);
    }
    if operand.starts_with('%') {
        return register(operand).map(UsdtOperand::Register);
    }
    let (outside, inside) = match operand.split_once('(') {
        Some((outside, rest)) => (outside, Some(rest.strip_suffix(')')?)),
        None => (operand, None),
    };
    let mut displacement = 0_i64;
    let mut is_relative = false;
    for (negative, term) in terms(outside)? {
        let value = if is_symbol(term) {
            if is_relative || negative {
                return None;
            }
            is_relative = true;
            symbols.distance(term)?
        } else {
            let value = number(term)?;
            if negative { value.checked_neg()? } else { value }
        };
        displacement = displacement.checked_add(value)?;
    }
    let (base, index) = match inside {
        Some(inside) => registers(inside)?,
        // The address of a symbol. A number alone is not an operand in memory.
        None if is_relative => (None, None),
        None => return None,
    };
    match (base, is_relative) {
        // A number with `(%rip)` is relative to the next instruction, whose address is unknown here.
        (Some(Register::Rip), false) => None,
        // The address of a variable in a program at a fixed address: its distance from the probe is as in the
        // file.
        (None, true) => Some(UsdtOperand::Memory { base: Some(Register::Rip), index, displacement }),
        (Some(base), true) if base != Register::Rip => None,
        (base, _) => Some(UsdtOperand::Memory { base, index, displacement }),
    }
}

type Registers = (Option<Register>, Option<(Register, u8)>);

/// Parses the part in parentheses: `base`, `base,index` or `base,index,scale`.
fn registers(inside: &str) -> Option<Registers> {
    let mut parts = inside.split(',').map(str::trim);
    let base = match parts.next()? {
        "" => None,
        name => Some(register(name)?),
    };
    let index = match parts.next() {
        None => None,
        Some(name) => {
            let scale = match parts.next().unwrap_or("1") {
                "1" | "" => 1,
                "2" => 2,
                "4" => 4,
                "8" => 8,
                _ => return None,
            };
            Some((register(name)?, scale))
        }
    };
    let complete = parts.next().is_none() && (base.is_some() || index.is_some());
    // Addresses are computed from full 64-bit registers.
    let whole = inside.split(',').map(str::trim).filter(|part| part.starts_with('%')).all(|name| {
        name == "%rip" || WHOLE.iter().any(|(names, _)| names.first() == Some(&name.trim_start_matches('%')))
    });
    (complete && whole).then_some((base, index))
}

/// The terms before the parentheses, each with whether it is subtracted. None if this is not a sum.
fn terms(outside: &str) -> Option<Vec<(bool, &str)>> {
    let mut terms = Vec::new();
    let mut rest = outside.trim();
    let mut negative = false;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(['+', '-']) {
            negative ^= rest.starts_with('-');
            rest = after;
            if rest.is_empty() || terms.len() > 8 {
                return None;
            }
            continue;
        }
        let end = rest.find(['+', '-']).unwrap_or(rest.len());
        let (term, after) = rest.split_at(end);
        terms.push((negative, term));
        (rest, negative) = (after, false);
    }
    Some(terms)
}

fn is_symbol(term: &str) -> bool {
    term.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_' || letter == '.')
        && term.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$'))
}

/// A number in assembler syntax: -5, 0x1f. Values above `i64::MAX` keep their bits.
fn number(text: &str) -> Option<i64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let value = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        None => return None,
    };
    if negative { 0_i64.checked_sub_unsigned(value) } else { Some(value.cast_signed()) }
}

/// The names of each register, for 64, 32, 16 and 8 bits.
const WHOLE: [([&str; 4], Register); 16] = [
    (["rax", "eax", "ax", "al"], Register::Rax),
    (["rbx", "ebx", "bx", "bl"], Register::Rbx),
    (["rcx", "ecx", "cx", "cl"], Register::Rcx),
    (["rdx", "edx", "dx", "dl"], Register::Rdx),
    (["rsi", "esi", "si", "sil"], Register::Rsi),
    (["rdi", "edi", "di", "dil"], Register::Rdi),
    (["rbp", "ebp", "bp", "bpl"], Register::Rbp),
    (["rsp", "esp", "sp", "spl"], Register::Rsp),
    (["r8", "r8d", "r8w", "r8b"], Register::R8),
    (["r9", "r9d", "r9w", "r9b"], Register::R9),
    (["r10", "r10d", "r10w", "r10b"], Register::R10),
    (["r11", "r11d", "r11w", "r11b"], Register::R11),
    (["r12", "r12d", "r12w", "r12b"], Register::R12),
    (["r13", "r13d", "r13w", "r13b"], Register::R13),
    (["r14", "r14d", "r14w", "r14b"], Register::R14),
    (["r15", "r15d", "r15w", "r15b"], Register::R15),
];

/// Parses a register such as `%edi`. `%ah` and the like are refused, as they are not the lowest byte.
fn register(name: &str) -> Option<Register> {
    let name = name.strip_prefix('%')?;
    if name == "rip" {
        return Some(Register::Rip);
    }
    WHOLE.iter().find(|(names, _)| names.contains(&name)).map(|(_, register)| *register)
}

#[cfg(test)]
mod tests {
    use super::{Register, Symbols, UsdtArgument, UsdtOperand, argument, split, symbol};
    use crate::test_rng::TestRng;

    struct Known;

    impl Symbols for Known {
        fn distance(&self, name: &str) -> Option<i64> {
            (name == "counter").then_some(0x2000)
        }
    }

    fn memory(base: Option<Register>, index: Option<(Register, u8)>, displacement: i64) -> UsdtOperand {
        UsdtOperand::Memory { base, index, displacement }
    }

    #[test]
    fn operands() {
        use Register::{R8, Rax, Rbp, Rdi, Rip, Rsp};
        let unsupported = |text: &str| UsdtOperand::Unsupported(text.to_owned());
        let cases = [
            ("-4@%edi", 4, true, UsdtOperand::Register(Rdi)),
            ("8@%r8", 8, false, UsdtOperand::Register(R8)),
            ("1@%al", 1, false, UsdtOperand::Register(Rax)),
            ("-2@%r8w", 2, true, UsdtOperand::Register(R8)),
            ("1@%ah", 1, false, unsupported("1@%ah")),
            ("4@$5", 4, false, UsdtOperand::Constant(5)),
            ("-8@$-1", 8, true, UsdtOperand::Constant(-1)),
            ("8@$0xffffffffffffffff", 8, false, UsdtOperand::Constant(-1)),
            ("8@-16(%rbp)", 8, false, memory(Some(Rbp), None, -16)),
            ("8@(%rsp)", 8, false, memory(Some(Rsp), None, 0)),
            ("8@16+8(%rsp)", 8, false, memory(Some(Rsp), None, 24)),
            ("8@(%rax,%rdi,8)", 8, false, memory(Some(Rax), Some((Rdi, 8)), 0)),
            ("8@-8(%rax, %rdi, 4)", 8, false, memory(Some(Rax), Some((Rdi, 4)), -8)),
            ("8@4(,%rax,2)", 8, false, memory(None, Some((Rax, 2)), 4)),
            ("-4@counter(%rip)", 4, true, memory(Some(Rip), None, 0x2000)),
            ("-4@counter+8(%rip)", 4, true, memory(Some(Rip), None, 0x2008)),
            ("-4@8+counter(%rip)", 4, true, memory(Some(Rip), None, 0x2008)),
            ("-4@counter", 4, true, memory(Some(Rip), None, 0x2000)),
            ("8@counter(,%rax,8)", 8, false, memory(Some(Rip), Some((Rax, 8)), 0x2000)),
            ("-4@other(%rip)", 4, true, unsupported("-4@other(%rip)")),
            ("8@counter(%rax)", 8, false, unsupported("8@counter(%rax)")),
            ("8@16(%rip)", 8, false, unsupported("8@16(%rip)")),
            ("8@%fs:16", 8, false, unsupported("8@%fs:16")),
            ("8f@%xmm0", 8, false, unsupported("8f@%xmm0")),
            ("-4f@-20(%rbp)", 4, true, memory(Some(Rbp), None, -20)),
            ("2f@%rax", 8, false, unsupported("2f@%rax")),
            ("3@%rax", 8, false, unsupported("3@%rax")),
            ("8@16", 8, false, unsupported("8@16")),
            ("8@(%eax)", 8, false, unsupported("8@(%eax)")),
            ("%rax", 8, false, UsdtOperand::Register(Rax)),
            ("8@", 8, false, unsupported("8@")),
            ("8@()", 8, false, unsupported("8@()")),
        ];
        for (text, size, signed, operand) in cases {
            let is_float = text.contains("f@");
            assert_eq!(argument(text, &Known), UsdtArgument { size, signed, is_float, operand }, "{text}");
        }
    }

    #[test]
    fn texts() {
        assert_eq!(split(" 8@%rdi -4@(%rax, %rbx, 8)  1@$0 "), ["8@%rdi", "-4@(%rax, %rbx, 8)", "1@$0"]);
        assert_eq!(symbol("-4@4+counter(%rip)"), Some("counter"));
        assert_eq!(symbol("-4@%edi"), None);
        assert_eq!(symbol("4@$five"), None);
        assert_eq!(symbol("8@-16(%rbp)"), None);
    }

    #[test]
    fn junk_is_unsupported() {
        let letters = b"0123456789-+@%$(),rabcdexip. 8\xff";
        let mut noise = TestRng(0x2545_f491_4f6c_dd1d);
        for _ in 0..50_000 {
            let length = noise.below(13);
            let text: Vec<u8> = (0..length).filter_map(|_| letters.get(noise.below(30)).copied()).collect();
            let text = String::from_utf8_lossy(&text);
            for part in split(&text) {
                let _ = (symbol(part), argument(part, &Known));
            }
        }
    }
}
