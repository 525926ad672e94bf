//! The users of the host, from its /etc/passwd.
//!
//! Owns the reading of that file. It does not ask directory services, which a static build cannot do: a user
//! that only LDAP has must be given as a number.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use super::process::read_bounded;

/// Limit of the bytes that are read.
const FILE: u64 = 4 * 1024 * 1024;
const PASSWD: &str = "/etc/passwd";

/// Why a user was not found by name.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The file has no line for this name.
    #[error("no user {name:?} in {path:?}; for a user of a directory service (LDAP), give the user id")]
    Unknown {
        /// As the user wrote it.
        name: String,
        /// The path of the file.
        path: PathBuf,
    },
    /// The file could not be read.
    #[error("could not search {path:?} for user {name:?}; give the user id")]
    Unreadable {
        /// As the user wrote it.
        name: String,
        /// The path of the file.
        path: PathBuf,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
}

/// A user of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The login name.
    pub name: OsString,
    /// The user id.
    pub uid: u32,
    /// The id of the first group.
    pub gid: u32,
    /// The home directory.
    pub home: OsString,
    /// The shell. Empty means /bin/sh.
    pub shell: OsString,
}

/// The user with this id. None if the file has no such line or cannot be read.
pub fn user(uid: u32) -> Option<User> {
    user_in(uid, Path::new(PASSWD))
}

fn user_in(uid: u32, path: &Path) -> Option<User> {
    let text = read_bounded(path, FILE).ok()?;
    text.split(|byte| *byte == b'\n').filter_map(parse).find(|user| user.uid == uid)
}

/// Parses a line: name, password, uid, gid, comment, home, shell (passwd(5)).
fn parse(line: &[u8]) -> Option<User> {
    let mut fields = line.split(|byte| *byte == b':');
    let text = |field: &[u8]| OsString::from_vec(field.to_vec());
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
    let name = fields.next().filter(|name| !name.is_empty())?;
    let uid = number(fields.nth(1)?)?;
    let gid = number(fields.next()?)?;
    let home = text(fields.nth(1).unwrap_or_default());
    let shell = text(fields.next().unwrap_or_default());
    Some(User { name: text(name), uid, gid, home, shell })
}

/// The id of the user with this name.
pub fn uid(name: &str) -> Result<u32, UserError> {
    uid_in(name, Path::new(PASSWD))
}

fn uid_in(name: &str, path: &Path) -> Result<u32, UserError> {
    let text = read_bounded(path, FILE).map_err(|source| UserError::Unreadable {
        name: name.to_owned(),
        path: path.to_owned(),
        source,
    })?;
    let mut users = text.split(|byte| *byte == b'\n').filter_map(parse);
    let found = users.find(|user| user.name == name);
    found
        .map(|user| user.uid)
        .ok_or_else(|| UserError::Unknown { name: name.to_owned(), path: path.to_owned() })
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
        let user = user_in(33, &path).unwrap();
        assert_eq!((user.name.to_str(), user.gid, user.home.to_str()), (Some("www-data"), 33, Some("/")));
        assert_eq!((user.shell.to_str(), user_in(5, &path)), (Some("/bin/no"), None));
        let error = uid_in("\x1b[2J", &path).unwrap_err().to_string();
        assert!(error.contains("\\u{1b}") && !error.contains('\x1b'), "{error}");
    }
}
