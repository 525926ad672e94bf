//! The exits of a function: where its return address is when a probe there is hit.

/// The register from which the return address is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StackBase {
    /// RSP.
    StackPointer,
    /// RBP.
    FramePointer,
}

/// Where the return address is at an exit: this many words above what a register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReturnSlot {
    /// The register.
    pub base: StackBase,
    /// The distance in words.
    pub words: u32,
}

const SPEC: u32 = (1 << 12) - 1;
const FRAME_POINTER: u32 = 1 << 12;
const WORDS_SHIFT: u32 = 13;
/// Limit of [`ReturnSlot::words`].
pub const MAX_SLOT_WORDS: u32 = u32::MAX >> WORDS_SHIFT;
const WORD_BYTES: u64 = 8;

const _: () = assert!(crate::FUNCTION_SPECS == SPEC + 1);

impl ReturnSlot {
    /// At a `ret`, the return address is on top of the stack.
    pub const ON_TOP: Self = Self { base: StackBase::StackPointer, words: 0 };

    /// The lower half of the cookie of an exit: the index of the function's spec, which is 0 if it has none,
    /// in bits 0 to 11; the register in bit 12; the distance above that.
    pub const fn pack(self, spec: u32) -> u32 {
        let base = match self.base {
            StackBase::StackPointer => 0,
            StackBase::FramePointer => FRAME_POINTER,
        };
        spec & SPEC | base | self.words << WORDS_SHIFT
    }

    /// The slot in the lower half of a cookie.
    pub const fn unpack(arguments: u32) -> Self {
        let base =
            if arguments & FRAME_POINTER == 0 { StackBase::StackPointer } else { StackBase::FramePointer };
        Self { base, words: arguments >> WORDS_SHIFT }
    }

    /// The address of the return address.
    pub const fn address(self, stack_pointer: u64, frame_pointer: u64) -> u64 {
        let base = match self.base {
            StackBase::StackPointer => stack_pointer,
            StackBase::FramePointer => frame_pointer,
        };
        base.wrapping_add(self.words as u64 * WORD_BYTES)
    }
}

/// The index of a function's spec in the lower half of a cookie, at its entry or at one of its exits.
pub const fn spec_index(arguments: u32) -> u32 {
    arguments & SPEC
}

#[cfg(test)]
mod tests {
    use super::{MAX_SLOT_WORDS, ReturnSlot, StackBase, spec_index};

    #[test]
    fn every_slot_survives_packing() {
        for base in [StackBase::StackPointer, StackBase::FramePointer] {
            for words in [0, 1, 511, MAX_SLOT_WORDS] {
                for spec in [0, 1, crate::FUNCTION_SPECS - 1] {
                    let slot = ReturnSlot { base, words };
                    let packed = slot.pack(spec);
                    assert_eq!((ReturnSlot::unpack(packed), spec_index(packed)), (slot, spec));
                }
            }
        }
        assert_eq!(ReturnSlot::ON_TOP.pack(7), 7);
    }

    #[test]
    fn the_register_is_the_one_that_was_chosen() {
        let address = |base, words| ReturnSlot { base, words }.address(0x1000, 0x2000);
        assert_eq!(address(StackBase::StackPointer, 3), 0x1018);
        assert_eq!(address(StackBase::FramePointer, 1), 0x2008);
    }
}
