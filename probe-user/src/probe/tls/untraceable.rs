//! TLS implementations that are recognised but cannot be traced, because plaintext is never an argument of a
//! function that could be found.
//!
//! Lists how to recognise them and what their users can do instead. It can tell that one is in a file, but
//! not whether it is used.

use std::fmt::{self, Display, Formatter};

use crate::elf::{Object, StringPattern};

/// An implementation that ctrace recognises but cannot trace.
#[derive(Debug, PartialEq, Eq)]
pub struct Untraceable {
    /// Its name, for messages.
    pub name: &'static str,
    marks: Marks,
    /// What the user can do instead.
    pub instead: &'static str,
}

/// Marks that are in every file of an implementation, and in no other.
#[derive(Debug, PartialEq, Eq)]
enum Marks {
    /// A function that has a symbol in the file.
    Function(&'static str),
    /// Strings in constant data, all of which must be there.
    Texts(&'static [StringPattern]),
}

/// TLS implementations of other languages. Each mark was found in a real program.
const ALL: [Untraceable; 4] = [
    Untraceable {
        name: "Java TLS (JSSE), which the JVM compiles at run time,",
        // OpenJDK 17: libjvm.so.
        marks: Marks::Function("JNI_CreateJavaVM"),
        instead: "trace its peer or a proxy, start it with -Djavax.net.debug=ssl:record:plaintext, or let it \
         use OpenSSL (netty-tcnative)",
    },
    Untraceable {
        name: "Erlang TLS, which runs as bytecode,",
        // Erlang/OTP 25: beam.smp.
        marks: Marks::Function("erl_start"),
        instead: "trace its peer or a proxy, or trace ssl:send/2 and ssl:recv/2 in a remote shell (dbg)",
    },
    Untraceable {
        name: "Haskell TLS (the package tls)",
        // pandoc 2.17, stripped: names of modules, which its types refer to.
        marks: Marks::Texts(&[
            StringPattern::Beside("Network.TLS.Core"),
            StringPattern::Beside("Network.TLS.Types"),
        ]),
        instead: "trace its peer or a proxy",
    },
    Untraceable {
        name: "Zig TLS (std.crypto.tls)",
        // Zig 0.13 and 0.17, stripped, in all build modes: names of errors.
        marks: Marks::Texts(&[
            StringPattern::Beside("TlsRecordOverflow"),
            StringPattern::Beside("TlsBadRsaSignatureBitCount"),
        ]),
        instead: "trace its peer or a proxy",
    },
];

impl Display for Untraceable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be traced: {}", self.name, self.instead)
    }
}

/// The symbols that [`find`] needs.
pub(super) fn functions() -> impl Iterator<Item = &'static str> {
    ALL.iter().filter_map(|one| match one.marks {
        Marks::Function(name) => Some(name),
        Marks::Texts(_) => None,
    })
}

/// The strings to search for before [`find`].
pub(super) fn needles() -> impl Iterator<Item = StringPattern> {
    let texts = ALL.iter().map(|one| match one.marks {
        Marks::Function(_) => &[],
        Marks::Texts(needles) => needles,
    });
    texts.flatten().copied()
}

/// The implementation in an object, given which of the strings were found in it.
pub(super) fn find(object: &Object, texts: &[StringPattern]) -> Option<&'static Untraceable> {
    ALL.iter().find(|one| match one.marks {
        Marks::Function(name) => !object.functions(name).is_empty(),
        Marks::Texts(needles) => needles.iter().all(|needle| texts.contains(needle)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_says_what_it_is_and_what_to_do() {
        for one in &ALL {
            let said = one.to_string();
            assert!(said.contains(" cannot be traced: trace its peer"), "{said}");
        }
    }

    #[test]
    fn texts_count_when_all_are_there() {
        let own = std::fs::File::open("/proc/self/exe").and_then(|file| Ok((file.metadata()?.len(), file)));
        let object = own.map(|(size, file)| Object::parse(file, size, &crate::probe::tls::symbol_filter()));
        let Ok(Ok(object)) = object else { panic!("the test's own program cannot be read") };
        let all: Vec<StringPattern> = needles().collect();
        assert_eq!(find(&object, &[]), None);
        assert_eq!(find(&object, all.get(..1).unwrap_or_default()), None);
        assert_eq!(find(&object, all.get(..2).unwrap_or_default()), ALL.get(2));
        assert_eq!(find(&object, all.get(2..).unwrap_or_default()), ALL.get(3));
    }
}
