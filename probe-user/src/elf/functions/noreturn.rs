//! Finds functions that never return to their caller, such as those that panic.
//!
//! The proof covers all of a function's code: nothing in it returns, or jumps to code that may return.
//! Without a proof, the function is assumed to return.

use crate::elf::code::function_body::FunctionBody;
use crate::elf::{FunctionTable, ObjectError, VirtAddr};

/// Size limit of such a function in bytes: those that panic are small.
const MAX_BODY: u64 = 4096;
/// How many tail jumps from one function to the next are followed.
const MAX_JUMPS: usize = 4;
/// Limit of the cached answers.
const MAX_CACHED: usize = 16_384;

impl FunctionTable<'_> {
    /// Whether the function at this address provably never returns.
    pub fn never_returns(&self, function: VirtAddr) -> Result<bool, ObjectError> {
        self.ends(function, MAX_JUMPS)
    }

    fn ends(&self, function: VirtAddr, jumps: usize) -> Result<bool, ObjectError> {
        if let Some(cached) = self.ends.borrow().get(&function) {
            return Ok(*cached);
        }
        let ends = self.find_ends(function, jumps)?;
        let mut cached = self.ends.borrow_mut();
        if cached.len() < MAX_CACHED {
            cached.insert(function, ends);
        }
        Ok(ends)
    }

    fn find_ends(&self, function: VirtAddr, jumps: usize) -> Result<bool, ObjectError> {
        let Some(left) = jumps.checked_sub(1) else { return Ok(false) };
        let extents = self.at(function)?;
        let Some(extents) = extents.filter(|found| found.address == function && found.size <= MAX_BODY)
        else {
            return Ok(false);
        };
        let code = self.object().code(function, extents.size)?;
        let Ok(body) = FunctionBody::decode(&code, function) else { return Ok(false) };
        if !body.returns.is_empty() || body.indirect_jumps > 0 {
            return Ok(false);
        }
        for exit in body.exits {
            if !self.ends(exit, left)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a panic fails the test")]

    use crate::elf::VirtAddr;
    use crate::elf::fixture::{compile, parse};

    /// Each function, with whether it never returns.
    const FUNCTIONS: [(&str, bool); 8] = [
        ("loops", true),
        ("calls_loops", true),
        ("jumps_to_loops", true),
        ("traps", true),
        ("returns", false),
        ("jumps_to_returns", false),
        ("jumps_to_a_register", false),
        ("may_return", false),
    ];
    const SOURCE: &str = r#"
    #define FUNCTION(name, code) asm(".type " name ",@function\n" name ":\n.cfi_startproc\n" code \
                                     "\n.cfi_endproc\n.size " name ",.-" name "\n.p2align 4,0xcc\n")
    asm(".text\n.p2align 4\n");
    FUNCTION("loops", "push %rax\n1: jmp 1b");
    FUNCTION("calls_loops", "push %rax\nlea loops(%rip),%rdi\n.byte 0xe8\n.long loops-.-4");
    FUNCTION("jumps_to_loops", "xor %edi,%edi\n.byte 0xe9\n.long loops-.-4");
    FUNCTION("traps", "ud2");
    FUNCTION("returns", "test %edi,%edi\nje 1f\nud2\n1: ret");
    FUNCTION("jumps_to_returns", ".byte 0xe9\n.long returns-.-4");
    FUNCTION("jumps_to_a_register", "jmp *%rdi");
    FUNCTION("may_return", ".byte 0x0f,0x84\n.long returns-.-4\nud2");
    "#;

    #[test]
    fn what_never_returns_is_proven_by_its_code() {
        let directory = compile(SOURCE, &["-shared", "-nostdlib"]);
        let wanted = FUNCTIONS.iter().map(|(name, _)| *name).collect();
        let object = parse(&directory.path().join("fixture"), &wanted).unwrap();
        let frames = object.frames().unwrap();
        for (name, never) in FUNCTIONS {
            let address = object.function(name).unwrap().address;
            assert_eq!(frames.never_returns(address).unwrap(), never, "{name}");
            // An address in the middle of a function is not a function.
            assert!(!frames.never_returns(VirtAddr(address.0 + 1)).unwrap(), "{name}");
        }
        assert!(!frames.never_returns(VirtAddr(0)).unwrap());
    }
}
