//! Turns argument types into what the kernel reads of a call, and how it is shown.
//!
//! Knows the calling conventions: in which registers C and Go pass arguments.

use probe_common::{
    ArgumentSpec, CAPTURE_BYTES, CAPTURE_LIBCXX_STRING, CAPTURE_NONE, CAPTURE_STRING, FUNCTION_VALUES,
    FunctionSpec, NO_REGISTER, Operand, SOURCE_CONSTANT, SOURCE_MEMORY, SOURCE_REGISTER, SPEC_COUNT,
    SPEC_ENTER, SPEC_GO, SPEC_LATENCY, SPEC_RETURN, SPEC_STACK, size_class,
};

use super::{Mode, Stacks, Uprobe};
use crate::plan::capture::{Capture, CapturedValue};
use crate::plan::value_type::{Length, MAX_BYTES, TextLayout, Type};

/// Size of a register in bytes.
const WORD: u8 = 8;

/// A calling convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// C, and languages that use its convention.
    C,
    /// Go, from 1.17 on.
    Go,
}

/// Argument registers by their DWARF numbers.
#[cfg(not(target_arch = "aarch64"))]
mod registers {
    /// System V AMD64 ABI, section 3.2.3.
    pub(super) const C: &[u8] = &[5, 4, 1, 2, 8, 9];
    /// "Go internal ABI specification", amd64: rax, rbx, rcx, rdi, rsi, r8 to r11.
    pub(super) const GO: &[u8] = &[0, 3, 2, 5, 4, 8, 9, 10, 11];
    pub(super) const STACK: u8 = 7;
    /// The first stack argument follows the return address.
    pub(super) const FIRST_ON_STACK: i64 = 8;
    pub(super) const RETURNED: u8 = 0;
    /// rdx.
    pub(super) const SECOND_RETURNED: u8 = 1;
}

/// Argument registers by their DWARF numbers.
#[cfg(target_arch = "aarch64")]
mod registers {
    /// AAPCS64, section 6.8.2.
    pub(super) const C: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7];
    /// "Go internal ABI specification", arm64: R0 to R15.
    pub(super) const GO: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    pub(super) const STACK: u8 = 31;
    pub(super) const FIRST_ON_STACK: i64 = 0;
    pub(super) const RETURNED: u8 = 0;
    pub(super) const SECOND_RETURNED: u8 = 1;
}

/// An argument of a USDT probe, with its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// Where the value is.
    pub operand: Operand,
    /// How to show it.
    pub kind: Type,
}

impl Capture {
    /// The capture for a function with these argument types.
    pub fn of_function(
        uprobe: &Uprobe,
        types: &[Type],
        returned: Option<Type>,
        convention: Convention,
    ) -> Result<Self, String> {
        let words = words(types, convention)?;
        let length = |length: Length, own: Option<Operand>| match length {
            Length::Fixed(number) => Ok(constant(number)),
            Length::Own => own.ok_or_else(|| {
                "`bytes` without a length is for Go slices only slices only: write bytes(N) \
                                or bytes(#n)"
                    .to_owned()
            }),
            Length::Argument(number) => {
                let kind = types.get(number).copied().unwrap_or(Type::Skip);
                let place = words.get(number).and_then(|words| words.first()).copied();
                place.map(|place| sized(place, kind, convention)).ok_or_else(|| "no such argument".to_owned())
            }
        };
        let mut reading = Self::empty(uprobe, convention, returned);
        for (index, (kind, words)) in types.iter().zip(&words).enumerate() {
            let Some(first) = words.first().filter(|_| *kind != Type::Skip) else { continue };
            if let Type::Text(layout) = *kind {
                let (value, length) = text(layout, *first, words.get(1).copied())?;
                reading.add(argument(uprobe, *kind, value, length), CapturedValue { index, kind: *kind })?;
                continue;
            }
            let length = match kind {
                Type::Bytes(of) => length(*of, words.get(1).copied())?,
                // A Go string does not end with a NUL; its length is in the next word.
                Type::Str if convention == Convention::Go => words.get(1).copied().unwrap_or_default(),
                _ => Operand::default(),
            };
            let argument = argument(uprobe, *kind, sized(*first, *kind, convention), length);
            reading.add(argument, CapturedValue { index, kind: resolved(*kind, convention) })?;
        }
        if let Some(kind) = returned {
            reading.set_returned(uprobe, kind, convention)?;
        }
        reading.make_room()?;
        Ok(reading)
    }

    /// The capture for a USDT probe. Arguments that cannot be read are None and left out.
    pub fn of_usdt(uprobe: &Uprobe, given: &[Option<Given>]) -> Result<Self, String> {
        let mut reading = Self::empty(uprobe, Convention::C, None);
        for (index, one) in given.iter().enumerate() {
            let Some(Given { operand, kind }) = *one else { continue };
            let length = match kind {
                Type::Skip => continue,
                Type::Bytes(Length::Fixed(number)) => constant(number),
                Type::Bytes(Length::Argument(number)) => {
                    let of = given.get(number).copied().flatten().map(|given| given.operand);
                    of.ok_or("the length of `bytes` must be an argument that can be read")?
                }
                Type::Bytes(Length::Own) => {
                    return Err("`bytes` without a length is for Go slices only".to_owned());
                }
                Type::Text(layout) if layout.words() > 1 => {
                    return Err(format!(
                        "`{kind}` is two arguments of a function, but a USDT probe has the address and the \
                         length each as an argument of its own: write bytes(#n)"
                    ));
                }
                Type::Text(layout) => {
                    let (value, length) = text(layout, operand, None)?;
                    reading.add(argument(uprobe, kind, value, length), CapturedValue { index, kind })?;
                    continue;
                }
                _ => Operand::default(),
            };
            if reading.arguments.len() < FUNCTION_VALUES {
                reading.add(argument(uprobe, kind, operand, length), CapturedValue { index, kind })?;
            }
        }
        reading.make_room()?;
        Ok(reading)
    }

    fn empty(uprobe: &Uprobe, convention: Convention, returned: Option<Type>) -> Self {
        let flags = match uprobe.mode {
            Mode::Count => SPEC_COUNT,
            Mode::Latency => SPEC_LATENCY | SPEC_RETURN,
            Mode::ReturnsOnly => SPEC_RETURN,
            Mode::Calls if returned.is_some() => SPEC_ENTER | SPEC_RETURN,
            Mode::Calls => SPEC_ENTER,
        };
        let go = if convention == Convention::Go { SPEC_GO } else { 0 };
        let stack = if uprobe.stacks == Stacks::Captured { SPEC_STACK } else { 0 };
        let spec = FunctionSpec { flags: flags | go | stack, ..FunctionSpec::default() };
        Self { spec, arguments: Vec::new(), returned: None }
    }

    fn add(&mut self, mut argument: ArgumentSpec, shown: CapturedValue) -> Result<(), String> {
        let before = self.spec.list.iter().filter(|argument| argument.capture != CAPTURE_NONE).count();
        argument.slot = u16::try_from(before).unwrap_or(u16::MAX);
        let place = self.spec.list.get_mut(self.arguments.len());
        *place.ok_or_else(|| {
            format!(
                "more than {FUNCTION_VALUES} arguments cannot be read: write _ for those that you do not need"
            )
        })? = argument;
        self.arguments.push(shown);
        Ok(())
    }

    fn set_returned(&mut self, uprobe: &Uprobe, kind: Type, convention: Convention) -> Result<(), String> {
        let first = register(registers::RETURNED);
        if kind == Type::Text(TextLayout::RustString) {
            return Err(
                "a returned String is where the caller has asked for it, and a function of Rust need \
                        not say where that is when it returns: write -> _ for the time of the return"
                    .to_owned(),
            );
        }
        if let Type::Text(layout) = kind {
            // A returned object is where the caller has asked for it, and its address is returned.
            let (value, length) = text(layout, first, Some(register(registers::SECOND_RETURNED)))?;
            self.spec.returned = argument(uprobe, kind, value, length);
            self.returned = Some(CapturedValue { index: 0, kind });
            return Ok(());
        }
        let second = || match convention {
            Convention::Go => registers::GO.get(1).copied().map(register),
            Convention::C => None,
        };
        let length = match kind {
            Type::Bytes(Length::Fixed(number)) => constant(number),
            Type::Bytes(_) => return Err("a returned value can only be bytes(N)".to_owned()),
            Type::Str => second().unwrap_or_default(),
            _ => Operand::default(),
        };
        // A value that is skipped must not be able to fault.
        let value = if kind == Type::Skip { constant(0) } else { sized(first, kind, convention) };
        self.spec.returned = argument(uprobe, kind, value, length);
        self.returned = Some(CapturedValue { index: 0, kind: resolved(kind, convention) });
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), String> {
        let room = |list: &[ArgumentSpec]| {
            let capturing = || list.iter().filter(|argument| argument.capture != CAPTURE_NONE);
            let values = u32::try_from(capturing().count()).unwrap_or(u32::MAX);
            let bytes = capturing().map(|argument| argument.limit).max().unwrap_or(0);
            size_class(values, bytes).ok_or_else(|| {
                format!(
                    "{values} arguments of up to {bytes} bytes do not fit into one record: read fewer of \
                     them, or lower --max-bytes"
                )
            })
        };
        self.spec.arguments = u32::try_from(self.arguments.len()).unwrap_or(u32::MAX);
        self.spec.room = room(&self.spec.list)?;
        self.spec.returned_room = room(std::slice::from_ref(&self.spec.returned))?;
        Ok(())
    }
}

/// Where the text of a string is, and its length, from the word or the two words in which it is passed.
fn text(layout: TextLayout, first: Operand, second: Option<Operand>) -> Result<(Operand, Operand), String> {
    let second = second.unwrap_or_default();
    let field = |offset| match first.source {
        SOURCE_REGISTER => Ok(memory(first.register, offset)),
        _ => {
            Err("a string object whose address is on the stack cannot be read: only the first six words of \
                  a call are in registers"
                .to_owned())
        }
    };
    Ok(match layout {
        TextLayout::RustStr | TextLayout::LibcxxStringView => (first, second),
        TextLayout::CppStringView => (second, first),
        TextLayout::CppString => (field(0)?, field(8)?),
        TextLayout::RustString => (field(8)?, field(16)?),
        TextLayout::LibcxxString => (first, Operand::default()),
    })
}

/// The words in which each argument is passed.
fn words(types: &[Type], convention: Convention) -> Result<Vec<Vec<Operand>>, String> {
    let mut next = 0;
    let mut word = |kind: &Type| {
        let number = next;
        next += 1;
        let registers = match convention {
            Convention::C => registers::C,
            Convention::Go => registers::GO,
        };
        if number == registers.len() - 1 && is_undivided(*kind) {
            return Err(format!(
                "`{kind}` does not fit into the last register, and where it is then is not certain"
            ));
        }
        match registers.get(number) {
            Some(&number) => Ok(register(number)),
            None if convention == Convention::C => {
                let on_stack = i64::try_from(number - registers.len()).unwrap_or(i64::MAX);
                Ok(memory(registers::STACK, registers::FIRST_ON_STACK + on_stack * i64::from(WORD)))
            }
            None => Err(format!("Go passes only {} words in registers", registers.len())),
        }
    };
    let count = |kind: &Type| match (convention, kind) {
        (Convention::Go, Type::Str) => 2,
        (Convention::Go, Type::Bytes(Length::Own)) => 3,
        (Convention::C, Type::Text(layout)) => layout.words(),
        _ => 1,
    };
    let is_foreign = |kind: &Type| convention == Convention::Go && matches!(kind, Type::Text(_));
    if let Some(kind) = types.iter().find(|kind| is_foreign(kind)) {
        return Err(format!("`{kind}` is of another language: a string of Go is `str`"));
    }
    types.iter().map(|kind| (0..count(kind)).map(|_| word(kind)).collect()).collect()
}

/// Whether C's convention passes its two words in registers only if both fit.
fn is_undivided(kind: Type) -> bool {
    matches!(kind, Type::Text(TextLayout::CppStringView | TextLayout::LibcxxStringView))
}

fn argument(uprobe: &Uprobe, kind: Type, value: Operand, length: Operand) -> ArgumentSpec {
    let (capture, limit) = match kind {
        // Two bytes more: one reveals that the string was cut, the other is for the NUL.
        Type::Str if length == Operand::default() => (CAPTURE_STRING, uprobe.max_bytes.min(MAX_BYTES) + 2),
        Type::Text(TextLayout::LibcxxString) => (CAPTURE_LIBCXX_STRING, uprobe.max_bytes.min(MAX_BYTES)),
        Type::Str | Type::Text(_) | Type::Bytes(Length::Own | Length::Argument(_)) => {
            (CAPTURE_BYTES, uprobe.max_bytes.min(MAX_BYTES))
        }
        Type::Bytes(Length::Fixed(number)) => (CAPTURE_BYTES, number.min(MAX_BYTES)),
        _ => (CAPTURE_NONE, 0),
    };
    ArgumentSpec { value, length, capture, slot: 0, limit }
}

/// The operand with the width of its type.
fn sized(operand: Operand, kind: Type, convention: Convention) -> Operand {
    let (size, signed) = match resolved(kind, convention) {
        Type::Int(size) => (size, 1),
        Type::Uint(size) | Type::Float(size) => (size, 0),
        Type::Bool => (1, 0),
        _ => (WORD, 0),
    };
    Operand { size, signed, ..operand }
}

/// The type, with the width that the language gives to `int`.
fn resolved(kind: Type, convention: Convention) -> Type {
    let usual = match convention {
        Convention::C => 4,
        Convention::Go => 8,
    };
    match kind {
        Type::Int(0) => Type::Int(usual),
        Type::Uint(0) => Type::Uint(usual),
        other => other,
    }
}

fn constant(value: u32) -> Operand {
    Operand {
        source: SOURCE_CONSTANT,
        index: NO_REGISTER,
        size: WORD,
        offset: value.into(),
        ..Operand::default()
    }
}

fn register(number: u8) -> Operand {
    Operand {
        source: SOURCE_REGISTER,
        register: number,
        index: NO_REGISTER,
        size: WORD,
        ..Operand::default()
    }
}

fn memory(register: u8, offset: i64) -> Operand {
    Operand { source: SOURCE_MEMORY, register, index: NO_REGISTER, size: WORD, offset, ..Operand::default() }
}
