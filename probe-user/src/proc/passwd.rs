//! Names of users → ids, from the host's /etc/passwd.
//!
//! Owns the reading of that file. It asks no directory service: what only LDAP knows is given as a number.

use std::io;
use std::path::{Path, PathBuf};

use super::process::read_bounded;

/// Bytes of the file that are read.
const FILE: u64 = 4 * 1024 * 1024;
const PASSWD: &str = "/etc/passwd";

/// A name is nobody's.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The file has no such line.
    #[error(
        "no user is called {name:?} in {path:?}; a user that only a directory service knows is given by \
         number"
    )]
    Unknown {
        /// As the user wrote it.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("user {name:?} could not be looked up in {path:?}; give the number")]
    Unreadable {
        /// As the user wrote it.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The id of a user of this host.
pub fn uid(name: &str) -> Result<u32, UserError> {
    uid_in(name, Path::new(PASSWD))
}

fn uid_in(name: &str, path: &Path) -> Result<u32, UserError> {
    let text = read_bounded(path, FILE).map_err(|source| UserError::Unreadable {
        name: name.to_owned(),
        path: path.to_owned(),
        source,
    })?;
    let of_line = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b':');
        let is_it = !name.is_empty() && fields.next() == Some(name.as_bytes());
        std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok().filter(|_| is_it)
    };
    let found = text.split(|byte| *byte == b'\n').find_map(of_line);
    found.ok_or_else(|| UserError::Unknown { name: name.to_owned(), path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn lines_of_a_passwd() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwd");
        assert!(matches!(uid_in("root", &path), Err(UserError::Unreadable { .. })));
        std::fs::write(
            &path,
            b"root:x:0:0:root:/root:/bin/sh\n\xff\xfe\nshort\nshort:x\nwww-data:x:33:33::/:/bin/no\nodd:x:-1:0\n:x:5:5\n",
        )
        .unwrap();
        for (name, expected) in [
            ("root", Some(0)),
            ("www-data", Some(33)),
            ("www", None),
            ("short", None),
            ("odd", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(uid_in(name, &path).ok(), expected, "{name:?}");
        }
        let error = uid_in("\x1b[2J", &path).unwrap_err().to_string();
        assert!(error.contains("\\u{1b}") && !error.contains('\x1b'), "{error}");
    }
}
