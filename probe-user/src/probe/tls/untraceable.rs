//! TLS that is recognised and cannot be traced: its plaintext never is an argument of a function that can be
//! found.
//!
//! Owns the marks of such implementations, and what their users can do instead. It says what is in a file,
//! never whether it is used.

use std::fmt::{self, Display, Formatter};

use crate::elf::{Object, Pattern};

/// An implementation that ctrace knows by name only.
#[derive(Debug, PartialEq, Eq)]
pub struct Untraceable {
    /// What it is.
    pub name: &'static str,
    marks: Marks,
    /// What to do instead.
    pub instead: &'static str,
}

/// What is in each file of an implementation, and in no other.
#[derive(Debug, PartialEq, Eq)]
enum Marks {
    /// A function that the file names.
    Function(&'static str),
    /// Constant texts, all of them.
    Texts(&'static [Pattern]),
}

/// The TLS of languages that have their own: each mark was seen in a program of theirs.
const ALL: [Untraceable; 4] = [
    Untraceable {
        name: "Java TLS (JSSE), which the JVM compiles while it runs,",
        // OpenJDK 17: libjvm.so.
        marks: Marks::Function("JNI_CreateJavaVM"),
        instead: "trace its peer or a proxy, start it with -Djavax.net.debug=ssl:record:plaintext, or let it \
         use OpenSSL (netty-tcnative)",
    },
    Untraceable {
        name: "Erlang TLS, which is in bytecode,",
        // Erlang/OTP 25: beam.smp.
        marks: Marks::Function("erl_start"),
        instead: "trace its peer or a proxy, or trace ssl:send/2 and ssl:recv/2 in a remote shell (dbg)",
    },
    Untraceable {
        name: "Haskell TLS (the package tls)",
        // pandoc 2.17, stripped: names of modules, which the types refer to.
        marks: Marks::Texts(&[Pattern::Beside("Network.TLS.Core"), Pattern::Beside("Network.TLS.Types")]),
        instead: "trace its peer or a proxy",
    },
    Untraceable {
        name: "Zig TLS (std.crypto.tls)",
        // Zig 0.13, stripped, in all four modes: names of errors.
        marks: Marks::Texts(&[
            Pattern::Beside("TlsRecordOverflow"),
            Pattern::Beside("TlsAlertUnknownPskIdentity"),
        ]),
        instead: "trace its peer or a proxy",
    },
];

impl Display for Untraceable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not seen: {}", self.name, self.instead)
    }
}

/// The functions that [`find`] looks at.
pub(super) fn functions() -> impl Iterator<Item = &'static str> {
    ALL.iter().filter_map(|one| match one.marks {
        Marks::Function(name) => Some(name),
        Marks::Texts(_) => None,
    })
}

/// The texts that [`find`] is to be told of.
pub(super) fn needles() -> impl Iterator<Item = Pattern> {
    let texts = ALL.iter().map(|one| match one.marks {
        Marks::Function(_) => &[],
        Marks::Texts(needles) => needles,
    });
    texts.flatten().copied()
}

/// What an object has, of which these texts are there.
pub(super) fn find(object: &Object, texts: &[Pattern]) -> Option<&'static Untraceable> {
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
            assert!(said.contains(" is not seen: trace its peer"), "{said}");
        }
    }

    #[test]
    fn texts_count_when_all_are_there() {
        let own = std::fs::File::open("/proc/self/exe").and_then(|file| Ok((file.metadata()?.len(), file)));
        let object = own.map(|(size, file)| Object::parse(file, size, &crate::probe::tls::wanted()));
        let Ok(Ok(object)) = object else { panic!("the test's own program cannot be read") };
        let all: Vec<Pattern> = needles().collect();
        assert_eq!(find(&object, &[]), None);
        assert_eq!(find(&object, all.get(..1).unwrap_or_default()), None);
        assert_eq!(find(&object, all.get(..2).unwrap_or_default()), ALL.get(2));
        assert_eq!(find(&object, all.get(2..).unwrap_or_default()), ALL.get(3));
    }
}
