//! Offsets of fields of the kernel's structures, from the kernel's own description of them (BTF).
//!
//! Owns the parser for that format (Documentation/bpf/btf.rst of the kernel). Every use is optional: what is
//! not described is simply not reported.

use std::path::Path;

use probe_common::NO_FIELD;

use crate::proc::process::read_bounded;

/// The description of the running kernel.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
/// At most this much of the file is read. Kernels have about 6 MiB.
const FILE: u64 = 64 << 20;
/// How deep unnamed structures are searched, one within the other.
const DEPTH: u32 = 4;

/// The magic number at the start, in the machine's byte order.
const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;

pub(super) struct Btf {
    bytes: Vec<u8>,
    strings: usize,
    /// The offset of each type, starting with type 1.
    types: Vec<usize>,
    /// The offsets of structures and unions, which are few among the types.
    structures: Vec<usize>,
}

#[derive(Clone, Copy)]
struct Structure {
    size: u32,
    members: usize,
    count: usize,
    has_bit_fields: bool,
}

impl Btf {
    pub(super) fn is_there() -> bool {
        Path::new(VMLINUX).exists()
    }

    /// Parses the description of the running kernel. None if there is none that can be read.
    pub(super) fn read() -> Option<Self> {
        Self::parse(read_bounded(Path::new(VMLINUX), FILE).ok()?)
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        if bytes.first_chunk().map(|magic| u16::from_ne_bytes(*magic)) != Some(MAGIC) {
            return None;
        }
        let header = usize::try_from(word(&bytes, 4)?).ok()?;
        let place = |at| Some(header.checked_add(usize::try_from(word(&bytes, at)?).ok()?));
        let (first, strings) = (place(8)??, place(16)??);
        let end = first.checked_add(usize::try_from(word(&bytes, 12)?).ok()?)?;
        let (mut types, mut structures) = (Vec::new(), Vec::new());
        let mut at = first;
        while at < end {
            types.push(at);
            let info = word(&bytes, at.checked_add(4)?)?;
            if matches!(kind(info), STRUCT | UNION) {
                structures.push(at);
            }
            at = at.checked_add(12 + extra(info)?)?;
        }
        Some(Self { bytes, strings, types, structures })
    }

    /// The offset of a structure's field in bytes, or [`NO_FIELD`].
    pub(super) fn offset(&self, structure: &str, field: &str) -> u32 {
        self.structure(structure)
            .and_then(|structure| self.field(structure, field.as_bytes(), DEPTH))
            .unwrap_or(NO_FIELD)
    }

    /// The size of a structure in bytes.
    pub(super) fn size(&self, structure: &str) -> Option<u32> {
        Some(self.structure(structure)?.size)
    }

    fn structure(&self, name: &str) -> Option<Structure> {
        let is_it =
            |at: &&usize| word(&self.bytes, **at).is_some_and(|named| self.is_named(named, name.as_bytes()));
        self.structure_at(*self.structures.iter().find(is_it)?)
    }

    fn structure_at(&self, at: usize) -> Option<Structure> {
        let info = word(&self.bytes, at.checked_add(4)?)?;
        if !matches!(kind(info), STRUCT | UNION) {
            return None;
        }
        Some(Structure {
            size: word(&self.bytes, at.checked_add(8)?)?,
            members: at.checked_add(12)?,
            count: usize::try_from(info & 0xffff).ok()?,
            has_bit_fields: info >> 31 != 0,
        })
    }

    fn field(&self, structure: Structure, name: &[u8], depth: u32) -> Option<u32> {
        let members = (0..structure.count).map(|index| structure.members + 12 * index);
        members.into_iter().find_map(|at| {
            let (named, id, bits) =
                (word(&self.bytes, at)?, word(&self.bytes, at + 4)?, word(&self.bytes, at + 8)?);
            let bits = if structure.has_bit_fields { bits & 0x00ff_ffff } else { bits };
            if self.is_named(named, name) {
                return Some(bits / 8);
            }
            if !self.is_named(named, b"") || depth == 0 {
                return None;
            }
            let inner = self.types.get(usize::try_from(id).ok()?.checked_sub(1)?)?;
            let inner = self.field(self.structure_at(*inner)?, name, depth - 1)?;
            inner.checked_add(bits / 8)
        })
    }

    /// Whether the string at an offset equals this name.
    fn is_named(&self, offset: u32, name: &[u8]) -> bool {
        let string = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.bytes.get(self.strings.checked_add(offset)?..))
            .unwrap_or_default();
        string.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// The size of a type beyond its first twelve bytes. None for an unknown kind: the types behind it cannot be
/// found then.
fn extra(info: u32) -> Option<usize> {
    let count = usize::try_from(info & 0xffff).ok()?;
    Some(match kind(info) {
        // Pointers, forward declarations, names, qualifiers, functions, floating point numbers, tags.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, tags of declarations.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Structures, unions, sections, 64-bit enumerations.
        STRUCT | UNION | 15 | 19 => count * 12,
        // Enumerations, prototypes.
        6 | 13 => count * 8,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map(|word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use crate::test_rng::TestRng;

    /// `struct a { int x; struct { int : 3; int y; }; }` with a pointer before it.
    fn sample() -> Vec<u8> {
        let strings = b"\0a\0x\0y\0int\0";
        let types: Vec<u32> = vec![
            // 1: int
            7,
            1 << 24,
            4,
            32, //
            // 2: a pointer to 1
            0,
            2 << 24,
            1, //
            // 3: the inner structure, with a bit field
            0,
            1 << 31 | 4 << 24 | 2,
            8,
            0,
            1,
            3 << 24,
            5,
            1,
            32, //
            // 4: the outer structure
            1,
            4 << 24 | 2,
            12,
            3,
            1,
            0,
            0,
            3,
            32,
        ];
        let length = u32::try_from(types.len() * 4).unwrap();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let header = [24, 0, length, length, u32::try_from(strings.len()).unwrap()];
        bytes.extend(header.iter().chain(&types).flat_map(|word| word.to_ne_bytes()));
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn fields_are_found_in_structures_without_a_name_too() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!((btf.offset("a", "x"), btf.offset("a", "y")), (0, 8));
        assert_eq!((btf.offset("a", "z"), btf.offset("b", "x")), (NO_FIELD, NO_FIELD));
        assert_eq!((btf.size("a"), btf.size("int")), (Some(12), None));
    }

    #[test]
    fn junk_does_not_panic() {
        let mut noise = TestRng(0x5eed_0011);
        for _ in 0..5000 {
            let mut bytes = sample();
            for byte in &mut bytes {
                if noise.next().is_multiple_of(16) {
                    *byte = noise.next().to_le_bytes()[0];
                }
            }
            bytes.truncate(usize::try_from(noise.next() % 200).unwrap());
            for bytes in [bytes, noise.bytes(b"")] {
                if let Some(btf) = Btf::parse(bytes) {
                    let _ = (btf.offset("a", "y"), btf.size("a"));
                }
            }
        }
    }
}
