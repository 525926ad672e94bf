//! The initial stack of a program: finds its strings. Every layout here is part of the ABI between the kernel
//! and programs (System V, processor supplements), not an internal matter of the kernel.

use aya_ebpf::bindings::pt_regs;

use crate::mem;

/// The selector of the code segment of 32-bit programs (`__USER32_CS` of x86), whose addresses have four
/// bytes.
const NARROW: u64 = 0x23;
/// `AT_NULL` and `AT_EXECFN` of the auxiliary vector (uapi/linux/auxvec.h).
const AT_NULL: u64 = 0;
const AT_EXECFN: u64 = 31;
/// The most entries of the auxiliary vector that are read. Kernels write about twenty.
const AUXILIARIES: u32 = 40;
/// The most arguments of a program: the kernel's own limit (`MAX_ARG_STRINGS`), which fits into an `i32`.
const ARGUMENTS: u64 = 0x7fff_ffff;

/// The position of the strings.
#[derive(Clone, Copy)]
pub struct ExecStrings {
    /// The stack pointer.
    pub stack: u64,
    /// The number of arguments.
    pub count: u64,
    /// The address of the first byte of the first argument.
    pub arguments: u64,
    /// The length of all arguments in bytes.
    pub length: u64,
    /// The address of the first byte of the environment, or 0 if it is empty.
    pub environment: u64,
}

/// The strings of the program that the current thread is about to start. None if they cannot be read.
#[inline(always)]
pub fn strings() -> Option<ExecStrings> {
    let registers = mem::user_registers();
    let stack: u64 = mem::kernel(registers + core::mem::offset_of!(pt_regs, rsp) as u64)?;
    let segment: u64 = mem::kernel(registers + core::mem::offset_of!(pt_regs, cs) as u64)?;
    let words = Words { first: stack, bytes: if segment == NARROW { 4 } else { 8 } };
    // The stack holds the number of arguments, their addresses, 0, the addresses of the environment, 0, and
    // the auxiliary vector.
    let count = words.get(0)?;
    if count > ARGUMENTS {
        return None;
    }
    let environment = words.get(count + 2)?;
    if count == 0 {
        return Some(ExecStrings { stack, count, arguments: 0, length: 0, environment });
    }
    let arguments = words.get(1)?;
    // The strings follow each other: arguments, environment, path.
    let end = if environment == 0 { words.path(count + 3)? } else { environment };
    let length = end.checked_sub(arguments)?;
    Some(ExecStrings { stack, count, arguments, length, environment })
}

/// The words of the stack.
#[derive(Clone, Copy)]
struct Words {
    first: u64,
    bytes: u64,
}

impl Words {
    #[inline(always)]
    fn get(self, index: u64) -> Option<u64> {
        let word = mem::user(self.first + index * self.bytes)?;
        Some(if self.bytes == 4 { word & 0xffff_ffff } else { word })
    }

    /// The address of the path, from the auxiliary vector that begins with the word `first`.
    #[inline(always)]
    fn path(self, first: u64) -> Option<u64> {
        let mut index = 0;
        while index < AUXILIARIES {
            let entry = first + 2 * u64::from(index);
            match self.get(entry)? {
                AT_EXECFN => return self.get(entry + 1),
                AT_NULL => return None,
                _ => {}
            }
            index += 1;
        }
        None
    }
}
