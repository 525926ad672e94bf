//! Demangles C++ (Itanium ABI) and Rust (legacy and v0) names.
//!
//! A name comes from a foreign file. Whatever it contains, demangling takes bounded time, stack and memory; a
//! name beyond the limits stays as it is.

use std::fmt::{self, Write as _};
use std::panic;

use cpp_demangle::{DemangleOptions, ParseOptions, Symbol};
use serde::Serialize;

/// Longest mangled name that is demangled, in bytes. Longer ones are shown as they are.
const MAX_MANGLED: usize = 8 * 1024;
/// Longest demangled name in bytes: back references can make it exponentially longer than the mangled one.
const MAX_DEMANGLED: usize = 64 * 1024;
/// Depth limit of nested C++ names, for parsing and for printing.
const MAX_DEPTH: u32 = 96;

/// The language of a function, as its name or the file's tables reveal it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// C, assembler, or any language that does not mangle names.
    C,
    /// C++, or another language that uses its name mangling.
    Cpp,
    /// Rust.
    Rust,
    /// Go: the function is listed in the pclntab.
    Go,
}

/// A demangled name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demangled {
    /// The language of the name: C++ or Rust.
    pub language: Language,
    /// The name to show: C++ with parameter types, Rust without the hash.
    pub text: String,
    /// The name without parameters; equal to `text` for Rust.
    pub path: String,
}

/// Demangles a name. None if it is not mangled, or beyond the limits.
pub fn demangle(raw: &str) -> Option<Demangled> {
    if raw.len() > MAX_MANGLED || !(raw.starts_with("_Z") || raw.starts_with("_R")) {
        return None;
    }
    // No name is known to make the two crates panic. A panic here would end the session, so catch it.
    panic::catch_unwind(|| rust(raw).or_else(|| cpp(raw))).ok().flatten()
}

fn rust(raw: &str) -> Option<Demangled> {
    if raw.starts_with("_Z") && !has_rust_hash(raw) {
        return None;
    }
    let parsed = rustc_demangle::try_demangle(raw).ok()?;
    let mut text = Limited::default();
    write!(text, "{parsed:#}").ok()?;
    Some(Demangled { language: Language::Rust, path: text.0.clone(), text: text.0 })
}

/// Whether a name of the legacy scheme, which looks like a nested C++ name, ends with Rust's hash.
fn has_rust_hash(raw: &str) -> bool {
    let is_hash = |name: &str| {
        let hash = name.len().checked_sub(19).and_then(|at| name.get(at..));
        hash.and_then(|hash| hash.strip_prefix("17h"))
            .is_some_and(|hash| hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    // Dots occur in the names of trait methods as well as in front of a suffix that LLVM appended.
    let ends = raw.match_indices('E').map(|(end, _)| raw.split_at(end));
    ends.filter(|(_, rest)| *rest == "E" || rest.starts_with("E.")).any(|(name, _)| is_hash(name))
}

fn cpp(raw: &str) -> Option<Demangled> {
    let options = ParseOptions::default().recursion_limit(MAX_DEPTH);
    let symbol = Symbol::new_with_options(raw, &options).ok()?;
    let print = |options: DemangleOptions| {
        let mut text = Limited::default();
        symbol.structured_demangle(&mut text, &options.recursion_limit(MAX_DEPTH)).ok()?;
        Some(text.0)
    };
    let text = print(DemangleOptions::new().no_return_type())?;
    // A part or copy of a function (`.cold`, `.part.0`) must not be matched by the function's plain name.
    let path = if raw.contains('.') {
        text.clone()
    } else {
        print(DemangleOptions::new().no_return_type().no_params())?
    };
    Some(Demangled { language: Language::Cpp, text, path })
}

/// Collects text up to a limit. Writing beyond it fails, which ends the printing.
#[derive(Default)]
struct Limited(String);

impl fmt::Write for Limited {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len().saturating_add(text.len()) > MAX_DEMANGLED {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Language, MAX_DEMANGLED, demangle};
    use crate::test_rng::TestRng;

    #[test]
    fn names() {
        let cases = [
            ("main", None),
            ("_Z3addii", Some((Language::Cpp, "add(int, int)", "add"))),
            ("_ZN3foo3barEv", Some((Language::Cpp, "foo::bar()", "foo::bar"))),
            (
                "_ZNSt6vectorIiSaIiEE9push_backERKi",
                Some((
                    Language::Cpp,
                    "std::vector<int, std::allocator<int> >::push_back(int const&)",
                    "std::vector<int, std::allocator<int> >::push_back",
                )),
            ),
            ("_Z3foov.cold", Some((Language::Cpp, "foo() [clone .cold]", "foo() [clone .cold]"))),
            (
                "_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE",
                Some((Language::Rust, "core::fmt::Write::write_fmt", "core::fmt::Write::write_fmt")),
            ),
            (
                "_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE.llvm.12",
                Some((Language::Rust, "core::fmt::Write::write_fmt", "core::fmt::Write::write_fmt")),
            ),
            (
                "_ZN41_$LT$a..B$u20$as$u20$c..D$LT$E..F$GT$$GT$1g17h0123456789abcdefE.llvm.12",
                Some((Language::Rust, "<a::B as c::D<E::F>>::g", "<a::B as c::D<E::F>>::g")),
            ),
            ("_RNvC6_123foo3bar", Some((Language::Rust, "123foo::bar", "123foo::bar"))),
            (
                "_RINvNtC3std3mem8align_ofjE",
                Some((Language::Rust, "std::mem::align_of::<usize>", "std::mem::align_of::<usize>")),
            ),
            ("_Z", None),
            ("_ZN", None),
        ];
        for (raw, expected) in cases {
            let found = demangle(raw);
            let found = found.as_ref().map(|name| (name.language, name.text.as_str(), name.path.as_str()));
            assert_eq!(found, expected, "{raw}");
        }
    }

    #[test]
    fn a_hostile_name_costs_little() {
        let begun = Instant::now();
        // Each template argument is twice as long as the one before it.
        let digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let each = |one: fn(char) -> String| digits.chars().map(one).collect::<String>();
        let doubling = format!("_Z1fI1aIiiE{}Evv", each(|digit| format!("1bIS{digit}_S{digit}_E")));
        let packs = format!("_Z1fIJEJJEJEE{}Evv", each(|digit| format!("DpJS{digit}_S{digit}_E")));
        let mut names = vec![doubling, packs, format!("_ZN4core{}17h0123456789abcdefE", "1a".repeat(4000))];
        for part in [
            "P", "I1a", "N1a", "J", "X", "Xcv", "1aI", "Dp", "DT", "F", "M", "K", "Xpl", "sr", "on", "_",
            "TA_A_", "B_", "St", "L", "Z", "S_", "XadL_Z",
        ] {
            for count in [10, 100, 1000, 8000 / part.len()] {
                for prefix in ["_Z", "_Z1f", "_Z1fI", "_ZN1f", "_R", "_RINvC1a1b", "_RNv", "_ZTV"] {
                    names.push(format!("{prefix}{}", part.repeat(count)));
                    names.push(format!("{prefix}{}{}vv", part.repeat(count), "E".repeat(count)));
                }
            }
        }
        for name in names {
            let one = Instant::now();
            let found = demangle(&name);
            assert!(found.is_none_or(|name| name.text.len() <= MAX_DEMANGLED));
            let head: String = name.chars().take(60).collect();
            assert!(one.elapsed() < Duration::from_secs(1), "{head} {:?}", one.elapsed());
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }

    #[test]
    fn junk_never_panics_or_hangs() {
        const PIECES: [&str; 40] = [
            "N",
            "E",
            "I",
            "J",
            "S_",
            "S0_",
            "S1_",
            "St",
            "1a",
            "3foo",
            "T_",
            "T0_",
            "X",
            "L",
            "i",
            "P",
            "K",
            "F",
            "v",
            "Dp",
            "DT",
            "cl",
            "sr",
            "on",
            "pl",
            "Z",
            "_",
            "M",
            "A",
            "R",
            "C",
            "B_",
            "B0_",
            "h",
            "u",
            "17h0123456789abcdef",
            "Lj0",
            "cv",
            "fp",
            "sZ",
        ];
        let mut noise = TestRng(0x1234_5678_9abc_def1);
        let begun = Instant::now();
        for round in 0..20_000 {
            let mut name = if round % 3 == 0 { "_R".to_owned() } else { "_Z".to_owned() };
            for _ in 0..noise.below(if round % 100 == 0 { 400 } else { 30 }) {
                name.push_str(PIECES.get(noise.below(40)).copied().unwrap_or_default());
            }
            let one = Instant::now();
            let _ = demangle(&name);
            assert!(one.elapsed() < Duration::from_secs(1), "{name} {:?}", one.elapsed());
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}
