//! The addresses where runtimes listen.
//!
//! Owns the addresses: those that distributions use, those from the environment, and those that the user
//! named. It searches for sockets and never connects to one ([`super::transport`] does).

use std::fmt;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

use super::{RuntimeClient, RuntimeError};
use crate::container::runtime::RuntimeSocket;

/// Limit of the users whose own sockets are searched for.
const USERS: usize = 64;
/// The parent of the users' runtime directories (XDG_RUNTIME_DIR of systemd-logind).
const USER_DIRECTORIES: &str = "/run/user";

/// A place where a runtime may listen.
#[derive(Clone, Debug)]
pub(super) struct RuntimeEndpoint {
    /// The runtime that is expected there.
    pub(super) runtime: &'static RuntimeClient,
    pub(super) address: Address,
    pub(super) owner: Owner,
}

/// Who vouches for a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Only root can have created it, or the environment names it.
    System,
    /// The user of ctrace named it; if nothing listens there, that is an error.
    Named,
    /// Another user of the machine, who controls what it reports.
    User(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A Unix socket of another user, found in that user's directory. It is kept open so that it cannot be
    /// replaced by another file.
    Held(PathBuf, Arc<Held>),
    /// `host:port`, without TLS.
    Tcp(String),
    /// An address that cannot be used: `ssh://…`.
    Other(String),
}

/// A file that was opened without following a link.
#[derive(Debug)]
pub(super) struct Held(OwnedFd);

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_raw_fd() == other.0.as_raw_fd()
    }
}

impl Eq for Held {}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) | Self::Held(path, _) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl Address {
    /// Parses a path or a URL.
    pub(super) fn parse(text: &str) -> Self {
        if let Some(path) = text.strip_prefix("unix://") {
            return Self::Unix(path.into());
        }
        if let Some(host) = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("http://")) {
            return Self::Tcp(host.trim_end_matches('/').to_owned());
        }
        if text.contains("://") { Self::Other(text.to_owned()) } else { Self::Unix(text.into()) }
    }

    /// The path to connect to, for a Unix socket.
    pub(super) fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Unix(path) => Some(path.clone()),
            Self::Held(_, held) => Some(format!("/proc/self/fd/{}", held.0.as_raw_fd()).into()),
            Self::Tcp(_) | Self::Other(_) => None,
        }
    }

    /// Whether a socket is there, even if ctrace may not connect to it. TCP addresses always count.
    fn exists(&self) -> bool {
        self.path().is_none_or(|path| fs::metadata(path).is_ok_and(|found| found.file_type().is_socket()))
    }

    /// An identity that is the same for two paths of one socket.
    fn identity(&self) -> String {
        let file = self.path().and_then(|path| fs::metadata(path).ok());
        file.map_or_else(|| self.to_string(), |file| format!("{}:{}", file.dev(), file.ino()))
    }
}

/// All places to ask, each once. Those in `wanted` replace the usual ones of their runtimes.
pub(super) fn endpoints(
    runtimes: &'static [RuntimeClient],
    wanted: &[RuntimeSocket],
) -> Result<Vec<RuntimeEndpoint>, RuntimeError> {
    for socket in wanted {
        if !runtimes.iter().any(|runtime| runtime.name == socket.runtime) {
            let supported = runtimes.iter().map(|runtime| runtime.name).collect::<Vec<_>>().join(", ");
            return Err(RuntimeError::Unknown { runtime: socket.runtime.clone(), supported });
        }
    }
    let mut found: Vec<RuntimeEndpoint> = Vec::new();
    let mut seen = Vec::new();
    for runtime in runtimes {
        let named: Vec<&RuntimeSocket> =
            wanted.iter().filter(|socket| socket.runtime == runtime.name).collect();
        let places = if named.is_empty() {
            known(runtime)
        } else {
            let address = |socket: &&RuntimeSocket| (Address::parse(&socket.address), Owner::Named);
            named.iter().map(address).collect()
        };
        for (address, owner) in places {
            let identity = (runtime.protocol, address.identity());
            if !seen.contains(&identity) {
                seen.push(identity);
                found.push(RuntimeEndpoint { runtime, address, owner });
            }
        }
    }
    Ok(found)
}

/// The usual places of a runtime: the address in the environment, or else the system's paths, and the sockets
/// of users.
fn known(runtime: &RuntimeClient) -> Vec<(Address, Owner)> {
    let variable = runtime.variable.and_then(|name| std::env::var(name).ok());
    let mut found: Vec<(Address, Owner)> = match variable.filter(|value| !value.is_empty()) {
        // An empty variable means the default, as it does for the runtimes' own clients.
        Some(address) => vec![(Address::parse(&address), Owner::System)],
        None => runtime.sockets.iter().map(|path| (Address::parse(path), Owner::System)).collect(),
    };
    // The first one is kept even if it does not exist, so that the messages can name it.
    let mut is_first = true;
    found.retain(|(address, _)| std::mem::take(&mut is_first) || address.exists());
    if let Some(below) = runtime.user_socket {
        found.extend(of_users(Path::new(USER_DIRECTORIES), below));
    }
    found
}

/// Sockets of rootless runtimes. Users control what is at these paths, so links are not followed, and a file
/// that belongs to somebody else is ignored.
fn of_users(directory: &Path, below: &str) -> Vec<(Address, Owner)> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut users: Vec<u32> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
    users.sort_unstable();
    let held = |uid: u32| {
        let path = directory.join(uid.to_string()).join(below);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(CWD, &path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).ok()?;
        let stat = rustix::fs::fstat(&file).ok()?;
        let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
        let owner = if uid == 0 { Owner::System } else { Owner::User(uid) };
        (is_socket && stat.st_uid == uid).then(|| (Address::Held(path, Arc::new(Held(file))), owner))
    };
    users.into_iter().take(USERS).filter_map(held).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::container::runtime::ALL;

    #[test]
    fn addresses_are_paths_or_urls() {
        for (text, expected) in [
            ("/run/x.sock", Address::Unix("/run/x.sock".into())),
            ("unix:///run/x.sock", Address::Unix("/run/x.sock".into())),
            ("tcp://1.2.3.4:2375/", Address::Tcp("1.2.3.4:2375".into())),
            ("http://host:1", Address::Tcp("host:1".into())),
            ("ssh://host", Address::Other("ssh://host".into())),
        ] {
            assert_eq!(Address::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_named_socket_replaces_the_known_ones_and_is_asked_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let link = directory.path().join("b.sock");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let socket = |runtime: &str, path: &Path| RuntimeSocket {
            runtime: runtime.into(),
            address: path.display().to_string(),
        };
        let wanted = [
            socket("docker", &path),
            socket("podman", &link),
            socket("containerd", &path),
            socket("cri", &link),
        ];
        let found = endpoints(ALL, &wanted).unwrap();
        let told: Vec<(&str, String)> =
            found.iter().map(|one| (one.runtime.name, one.address.to_string())).collect();
        // Docker and Podman have the same protocol, so only one of them is asked. The others have their own.
        assert_eq!(
            told,
            [
                ("docker", format!("unix://{}", path.display())),
                ("cri", format!("unix://{}", link.display())),
                ("containerd", format!("unix://{}", path.display())),
            ]
        );
        assert!(found.iter().all(|one| one.owner == Owner::Named));
        let unknown = endpoints(ALL, &[socket("rkt", &path)]).unwrap_err().to_string();
        assert!(unknown.contains("\"rkt\"") && unknown.contains("docker, podman"), "{unknown}");
    }

    #[test]
    fn sockets_of_users_are_theirs_and_no_links() {
        let directory = tempfile::tempdir().unwrap();
        let own = rustix::process::getuid().as_raw();
        let user = directory.path().join(own.to_string());
        fs::create_dir_all(user.join("podman")).unwrap();
        let _listener = UnixListener::bind(user.join("podman/podman.sock")).unwrap();
        fs::create_dir(directory.path().join("nobody")).unwrap();
        let found = of_users(directory.path(), "podman/podman.sock");
        assert_eq!(found.len(), 1);
        let (address, _) = found.first().unwrap();
        assert_eq!(address.to_string(), format!("unix://{}", user.join("podman/podman.sock").display()));
        assert!(address.exists());
        std::os::unix::fs::symlink(user.join("podman/podman.sock"), user.join("docker.sock")).unwrap();
        assert_eq!(of_users(directory.path(), "docker.sock"), []);
        // A user's directory that contains a file of another user.
        let other = directory.path().join((own + 1).to_string());
        fs::create_dir(&other).unwrap();
        let _other = UnixListener::bind(other.join("docker.sock")).unwrap();
        assert_eq!(of_users(directory.path(), "docker.sock"), []);
        fs::write(user.join("file"), "").unwrap();
        assert_eq!(of_users(directory.path(), "file"), []);
    }
}
