//! Computes results and flags of instructions with constant operands, and so the direction of branches.
//!
//! Covers the instructions that compilers use to distinguish the variants of an enum. After any other
//! instruction neither result nor flags are known: nothing is guessed.

use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind, RflagsBits};

/// The flags that conditions test, except for parity.
#[expect(clippy::struct_excessive_bools, reason = "each is one of the processor's")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::elf) struct Flags {
    carry: bool,
    zero: bool,
    sign: bool,
    overflow: bool,
}

impl Flags {
    /// Whether a condition holds. None for conditions on parity.
    pub(in crate::elf) fn hold(self, condition: ConditionCode) -> Option<bool> {
        let Self { carry, zero, sign, overflow } = self;
        Some(match condition {
            ConditionCode::o => overflow,
            ConditionCode::no => !overflow,
            ConditionCode::b => carry,
            ConditionCode::ae => !carry,
            ConditionCode::e => zero,
            ConditionCode::ne => !zero,
            ConditionCode::be => carry || zero,
            ConditionCode::a => !carry && !zero,
            ConditionCode::s => sign,
            ConditionCode::ns => !sign,
            ConditionCode::l => sign != overflow,
            ConditionCode::ge => sign == overflow,
            ConditionCode::le => zero || sign != overflow,
            ConditionCode::g => !zero && sign == overflow,
            ConditionCode::None | ConditionCode::p | ConditionCode::np => return None,
        })
    }
}

/// The whole register that an instruction writes and the flags after it, as far as they follow from its first
/// two operands and the flags before it.
pub(in crate::elf) fn compute(
    instruction: &Instruction,
    [first, second]: [Option<u64>; 2],
    flags: Option<Flags>,
) -> (Option<u64>, Option<Flags>) {
    let width = Width::of(instruction);
    let cut = |value: Option<u64>| value.map(|value| width.cut(value));
    let (first, second) = (cut(first), cut(second));
    let both = || first.zip(second);
    let made = match instruction.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movzx => return (second.filter(|_| width.is_whole()), flags),
        Mnemonic::Not => return (first.map(|a| width.cut(!a)).filter(|_| width.is_whole()), flags),
        Mnemonic::Btc => {
            let bit = second.and_then(|number| 1_u64.checked_shl(u32::try_from(number).ok()?));
            return (first.zip(bit).map(|(a, bit)| width.cut(a ^ bit)).filter(|_| width.is_whole()), None);
        }
        _ if is_conditional_move(instruction) => {
            let holds = flags.and_then(|flags| flags.hold(instruction.condition_code()));
            let value = holds.and_then(|holds| if holds { second } else { first });
            return (value.filter(|_| width.is_whole()), flags);
        }
        Mnemonic::Add => both().map(|(a, b)| width.add(a, b)),
        Mnemonic::Sub | Mnemonic::Cmp => both().map(|(a, b)| width.subtract(a, b)),
        Mnemonic::Neg => first.map(|a| width.subtract(0, a)),
        Mnemonic::Xor if clears(instruction) => Some(width.logic(0)),
        Mnemonic::Xor => both().map(|(a, b)| width.logic(a ^ b)),
        Mnemonic::And | Mnemonic::Test => both().map(|(a, b)| width.logic(a & b)),
        Mnemonic::Or => both().map(|(a, b)| width.logic(a | b)),
        // Inc and dec do not change the carry flag.
        Mnemonic::Inc => first.zip(flags).map(|(a, flags)| flags.carry_to(width.add(a, 1))),
        Mnemonic::Dec => first.zip(flags).map(|(a, flags)| flags.carry_to(width.subtract(a, 1))),
        _ if instruction.rflags_modified() == RflagsBits::NONE => return (None, flags),
        _ => None,
    };
    let writes = !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test) && width.is_whole();
    (made.map(|(value, _)| value).filter(|_| writes), made.map(|(_, flags)| flags))
}

fn is_conditional_move(instruction: &Instruction) -> bool {
    instruction.condition_code() != ConditionCode::None && instruction.op_count() == 2
}

/// Whether this is an instruction such as `xor %eax,%eax`.
fn clears(instruction: &Instruction) -> bool {
    let is_register = |kind| kind == OpKind::Register;
    is_register(instruction.op0_kind())
        && is_register(instruction.op1_kind())
        && instruction.op0_register() == instruction.op1_register()
}

/// The width of the first operand in bits.
#[derive(Clone, Copy)]
struct Width(u32);

impl Width {
    fn of(instruction: &Instruction) -> Self {
        let bytes = match instruction.op0_kind() {
            OpKind::Register => instruction.op0_register().size(),
            _ => instruction.memory_size().size(),
        };
        Self(u32::try_from(bytes).unwrap_or(0).saturating_mul(8))
    }

    /// Whether writing this width replaces the whole register.
    fn is_whole(self) -> bool {
        matches!(self.0, 32 | 64)
    }

    fn cut(self, value: u64) -> u64 {
        value & 1_u64.checked_shl(self.0).map_or(u64::MAX, |bit| bit.wrapping_sub(1))
    }

    fn sign(self, value: u64) -> bool {
        value.checked_shr(self.0.wrapping_sub(1)).is_some_and(|sign| sign & 1 == 1)
    }

    fn add(self, a: u64, b: u64) -> (u64, Flags) {
        let sum = self.cut(a.wrapping_add(b));
        (sum, Flags { carry: sum < a, ..self.flags(sum, (a ^ sum) & (b ^ sum)) })
    }

    fn subtract(self, a: u64, b: u64) -> (u64, Flags) {
        let difference = self.cut(a.wrapping_sub(b));
        (difference, Flags { carry: a < b, ..self.flags(difference, (a ^ b) & (a ^ difference)) })
    }

    fn logic(self, value: u64) -> (u64, Flags) {
        (value, self.flags(value, 0))
    }

    /// The flags of a result without carry. The sign bit of `overflow` is the overflow flag.
    fn flags(self, value: u64, overflow: u64) -> Flags {
        Flags { carry: false, zero: value == 0, sign: self.sign(value), overflow: self.sign(overflow) }
    }
}

impl Flags {
    fn carry_to(self, (value, flags): (u64, Self)) -> (u64, Self) {
        (value, Self { carry: self.carry, ..flags })
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{ConditionCode, Decoder, DecoderOptions};

    use super::{Flags, compute};

    /// An instruction: name, code, operands, and the expected result.
    type Case = (&'static str, &'static [u8], [Option<u64>; 2], Option<u64>);

    const BEFORE: Flags = Flags { carry: true, zero: false, sign: false, overflow: false };

    fn after(code: &[u8], operands: [Option<u64>; 2]) -> (Option<u64>, Option<Flags>) {
        let instruction = Decoder::new(64, code, DecoderOptions::NONE).decode();
        assert!(!instruction.is_invalid(), "{code:x?}");
        compute(&instruction, operands, Some(BEFORE))
    }

    #[test]
    fn results() {
        const NICHE: u64 = 1 << 63;
        let some = |a, b| [Some(a), Some(b)];
        let cases: [Case; 17] = [
            ("mov %rcx,%rax", &[0x48, 0x89, 0xc8], some(1, 2), Some(2)),
            ("mov %cl,%al leaves the rest", &[0x88, 0xc8], some(1, 2), None),
            ("add", &[0x48, 0x01, 0xc8], some(u64::MAX, 2), Some(1)),
            ("add %ecx,%eax", &[0x01, 0xc8], some(0xffff_ffff, 2), Some(1)),
            ("sub", &[0x48, 0x29, 0xc8], some(1, 2), Some(u64::MAX)),
            ("xor", &[0x48, 0x31, 0xc8], some(NICHE | 4, NICHE), Some(4)),
            ("xor %eax,%eax", &[0x31, 0xc0], [None, None], Some(0)),
            ("xor of what is not known", &[0x48, 0x31, 0xc8], [Some(1), None], None),
            ("and", &[0x48, 0x21, 0xc8], some(6, 3), Some(2)),
            ("or", &[0x48, 0x09, 0xc8], some(6, 3), Some(7)),
            ("neg", &[0x48, 0xf7, 0xd8], [Some(1), None], Some(u64::MAX)),
            ("not", &[0x48, 0xf7, 0xd0], [Some(1), None], Some(u64::MAX - 1)),
            ("dec", &[0x48, 0xff, 0xc8], [Some(0), None], Some(u64::MAX)),
            ("btc $63", &[0x48, 0x0f, 0xba, 0xf8, 63], some(NICHE | 4, 63), Some(4)),
            ("cmovb, and it is", &[0x48, 0x0f, 0x42, 0xc1], some(1, 2), Some(2)),
            ("cmove, and it is not", &[0x48, 0x0f, 0x44, 0xc1], [Some(1), None], Some(1)),
            ("cmp writes nothing", &[0x48, 0x39, 0xc8], some(1, 1), None),
        ];
        for (name, code, operands, expected) in cases {
            assert_eq!(after(code, operands).0, expected, "{name}");
        }
    }

    #[test]
    fn conditions() {
        use ConditionCode as C;
        let cmp: &[u8] = &[0x48, 0x39, 0xc8];
        let all = [C::o, C::b, C::e, C::be, C::s, C::l, C::le];
        let opposite = [C::no, C::ae, C::ne, C::a, C::ns, C::ge, C::g];
        let cases: [(u64, u64, [bool; 7]); 5] = [
            (4, 4, [false, false, true, true, false, false, true]),
            (3, 4, [false, true, false, true, true, true, true]),
            (5, 4, [false; 7]),
            (1 << 63, 1, [true, false, false, false, false, true, true]),
            (0, 1 << 63, [true, true, false, true, true, false, false]),
        ];
        for (a, b, expected) in cases {
            let flags = after(cmp, [Some(a), Some(b)]).1;
            let holds = |condition| flags.and_then(|flags| flags.hold(condition));
            assert_eq!(all.map(holds), expected.map(Some), "{a:#x} {b:#x}");
            assert_eq!(opposite.map(holds), expected.map(|holds| Some(!holds)), "{a:#x} {b:#x}");
            assert_eq!(holds(C::p), None);
        }
    }

    #[test]
    fn an_unknown_value_leaves_no_flags() {
        let known = |code: &[u8], operands| after(code, operands).1;
        assert_eq!(known(&[0x48, 0x39, 0xc8], [Some(1), None]), None, "cmp");
        assert_eq!(known(&[0x48, 0xc1, 0xe0, 3], [Some(1), Some(3)]), None, "shl");
        assert_eq!(known(&[0x48, 0x0f, 0xba, 0xf8, 63], [Some(1), Some(63)]), None, "btc");
        assert_eq!(known(&[0x48, 0x89, 0xc8], [None, None]), Some(BEFORE), "mov leaves them");
        assert_eq!(known(&[0x48, 0x8d, 0x01], [None, None]), Some(BEFORE), "lea leaves them");
        let counted = known(&[0x48, 0xff, 0xc0], [Some(1), None]);
        assert_eq!(counted, Some(BEFORE), "inc leaves the carry");
    }
}
