//! The socket under a connection.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use probe_common::{
    FAMILY_INET, FAMILY_INET6, FAMILY_UNIX, SOCKET_CLIENT, SOCKET_GUESSED, SOCKET_SERVER,
    SocketRecord as Wire,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The socket of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The transport protocol; none if it is another one.
    pub transport: Option<Transport>,
    /// The version of IP; none for a unix socket, and if neither address is known.
    pub ip: Option<IpVersion>,
    /// The local address, as the process sees it.
    pub local: Option<Endpoint>,
    /// The address of the peer, as the process sees it: address translation (NAT) is not undone.
    pub peer: Option<Endpoint>,
    /// Whether the process is client or server; none if that is not known.
    pub role: Option<Role>,
    /// How the socket was found.
    pub evidence: SocketEvidence,
}

/// The transport protocol (`network.transport`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP or MPTCP.
    Tcp,
    /// UDP.
    Udp,
    /// A Unix domain socket.
    Unix,
}

/// The version of IP (`network.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IpVersion {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// The address of one side of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Endpoint {
    /// An IP address, or the path that a Unix domain socket is bound to (after an `@` if it is in the
    /// abstract namespace).
    pub address: String,
    /// The port; null for a Unix domain socket.
    pub port: Option<u16>,
}

/// Whether a process is client or server of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It connected.
    Client,
    /// It accepted the connection.
    Server,
}

impl Role {
    /// The role of the peer.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// How a socket was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SocketEvidence {
    /// TLS records passed through it during a call on the connection.
    #[serde(rename = "seen")]
    Observed,
    /// A TLS record of a matching length passed through it right after such a call, on the same thread.
    #[serde(rename = "guessed")]
    Inferred,
}

impl Socket {
    /// A socket as the kernel's side describes it.
    pub fn of(wire: &Wire) -> Self {
        let &Wire { flags, family, protocol, local_port, peer_port, .. } = wire;
        let address = |bytes: &[u8], length: u16| ip(family, bytes.get(..usize::from(length))?);
        let (local, peer) = (address(&wire.local, wire.local_bytes), address(&wire.peer, wire.peer_bytes));
        let version = peer.or(local).map(|address| match address {
            IpAddr::V4(_) => IpVersion::Ipv4,
            IpAddr::V6(_) => IpVersion::Ipv6,
        });
        let path = |bytes: &[u8], length: u16| unix(family, bytes.get(..usize::from(length))?);
        let has = |flag| flags & flag != 0;
        let role = match (has(SOCKET_CLIENT), has(SOCKET_SERVER)) {
            (true, false) => Some(Role::Client),
            (false, true) => Some(Role::Server),
            _ => None,
        };
        Self {
            transport: transport(family, protocol),
            ip: version,
            local: inet(local, local_port).or_else(|| path(&wire.local, wire.local_bytes)),
            peer: inet(peer, peer_port).or_else(|| path(&wire.peer, wire.peer_bytes)),
            role,
            evidence: if has(SOCKET_GUESSED) { SocketEvidence::Inferred } else { SocketEvidence::Observed },
        }
    }
}

fn transport(family: u16, protocol: u16) -> Option<Transport> {
    // Numbers of IPPROTO_ in linux/in.h.
    match (family, protocol) {
        (FAMILY_UNIX, _) => Some(Transport::Unix),
        (_, 6 | 262) => Some(Transport::Tcp),
        (_, 17) => Some(Transport::Udp),
        _ => None,
    }
}

/// An address of this family.
fn ip(family: u16, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        FAMILY_INET => Some(IpAddr::V4(Ipv4Addr::from(*bytes.first_chunk::<4>()?))),
        FAMILY_INET6 => Some(IpAddr::V6(Ipv6Addr::from(*bytes.first_chunk::<16>()?)).to_canonical()),
        _ => None,
    }
}

/// An Internet endpoint; none without a peer, or if the socket is not bound.
fn inet(address: Option<IpAddr>, port: u16) -> Option<Endpoint> {
    let address = address.filter(|address| port != 0 && !address.is_unspecified())?;
    Some(Endpoint { address: address.to_string(), port: Some(port) })
}

/// An endpoint of a Unix domain socket; none if it has no name.
fn unix(family: u16, path: &[u8]) -> Option<Endpoint> {
    let (mark, path) = match path {
        _ if family != FAMILY_UNIX => return None,
        [] => return None,
        [0, name @ ..] => ("@", name),
        path => ("", path.split(|byte| *byte == 0).next().unwrap_or_default()),
    };
    Some(Endpoint { address: format!("{mark}{}", String::from_utf8_lossy(path)), port: None })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.address, self.port) {
            (address, Some(port)) if address.contains(':') => write!(f, "[{address}]:{port}"),
            (address, Some(port)) => write!(f, "{address}:{port}"),
            (path, None) => f.write_str(path),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn ends_are_shown_as_people_write_them() {
        let shown = |family, bytes: &[u8]| inet(ip(family, bytes), 443).unwrap().to_string();
        assert_eq!(shown(FAMILY_INET, &[10, 0, 0, 7]), "10.0.0.7:443");
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 7];
        assert_eq!(shown(FAMILY_INET6, &mapped), "10.0.0.7:443");
        assert_eq!(shown(FAMILY_INET6, &Ipv6Addr::LOCALHOST.octets()), "[::1]:443");
        let unix = |path: &[u8]| unix(FAMILY_UNIX, path).map(|end| end.to_string());
        assert_eq!(unix(b"/run/a.sock\0"), Some("/run/a.sock".to_owned()));
        assert_eq!(unix(b"\0name"), Some("@name".to_owned()));
        assert_eq!(unix(b""), None);
    }

    #[test]
    fn what_has_no_name_is_not_known() {
        assert_eq!(inet(ip(FAMILY_INET, &[0; 4]), 443), None);
        assert_eq!(inet(ip(FAMILY_INET, &[10, 0, 0, 7]), 0), None);
        assert_eq!((ip(FAMILY_INET6, &[0; 4]), ip(40, &[1; 16])), (None, None));
    }
}
