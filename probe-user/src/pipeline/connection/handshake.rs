//! Hello messages → the TLS details of each socket.
//!
//! Owns the parts of hellos that are not complete, and which hello belongs to which handshake. Details of one
//! handshake never leak into another on the same socket: a ClientHello starts a new handshake, and so does a
//! ServerHello that answers none.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use probe_common::{HELLO_SENT, HelloChunk as Wire};

use crate::event::{Direction, Role, Tls, TlsVersion};
use crate::pipeline::pending::{PendingBytes, PendingLimits, PendingTable};
use crate::protocol::tls::hello::{self, HandshakeParse, Hello, HelloBuffer};

/// The most sockets whose handshakes are remembered.
const SOCKETS: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
/// How much waits for the rest of hellos. A hello has at most [`HELLO_BYTES`](probe_common::HELLO_BYTES).
const LIMITS: PendingLimits = PendingLimits { entries: 65_536, bytes: 32 << 20 };

/// The handshakes, by [`probe_common::Socket::socket`].
#[derive(Debug)]
pub(in crate::pipeline) struct Handshakes {
    /// The parts of hellos, by socket and direction.
    parts: PendingTable<(u64, Direction), HelloBuffer>,
    latest: LruCache<u64, Handshake>,
}

impl PendingBytes for HelloBuffer {
    fn bytes(&self) -> usize {
        self.received()
    }
}

/// The latest handshake on a socket.
#[derive(Debug, Default)]
struct Handshake {
    tls: Arc<Tls>,
    role: Option<Role>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// No hello has been seen.
    #[default]
    Before,
    /// The client's hello has been seen.
    Asked,
    /// The server's hello has been seen.
    Answered,
}

impl Handshakes {
    pub(in crate::pipeline) fn new() -> Self {
        Self { parts: PendingTable::new(LIMITS), latest: LruCache::sparse(SOCKETS) }
    }

    /// Adds a part of a hello. If that completes a ClientHello, returns its direction and its random value.
    pub(in crate::pipeline) fn hello(&mut self, wire: &Wire, data: &[u8]) -> Option<(Direction, [u8; 32])> {
        let is_sent = wire.flags & HELLO_SENT != 0;
        let way = if is_sent { Direction::Transmit } else { Direction::Receive };
        let mut parts = self.parts.remove(&(wire.socket, way)).unwrap_or_default();
        if wire.offset == 0 {
            parts.begin(wire.record, data);
        } else if parts.received() == wire.offset as usize {
            parts.add(data);
        } else {
            // A part is missing, so the hello cannot be read.
            return None;
        }
        match parts.take() {
            HandshakeParse::Nothing => {
                self.parts.insert((wire.socket, way), parts);
                while self.parts.evict().is_some() {}
                None
            }
            HandshakeParse::Junk => None,
            HandshakeParse::Hello(hello) => {
                let random = match &hello {
                    Hello::Client(client) => Some((way, client.random)),
                    Hello::Retry | Hello::Server(_) => None,
                };
                self.latest.get_or_insert_mut(wire.socket, Handshake::default).take(hello, way);
                random
            }
        }
    }

    /// The number of incomplete hellos that were evicted.
    pub(in crate::pipeline) fn evicted(&self) -> u64 {
        self.parts.evicted()
    }

    /// The details of the handshake on a socket, and the role of the process.
    pub(in crate::pipeline) fn get(&mut self, socket: u64) -> Option<(&Arc<Tls>, Option<Role>)> {
        let handshake = self.latest.get(&socket)?;
        (handshake.stage != Stage::Before).then_some((&handshake.tls, handshake.role))
    }
}

impl Handshake {
    fn take(&mut self, hello: Hello, way: Direction) {
        let sender = match hello {
            Hello::Client(_) => Role::Client,
            Hello::Retry | Hello::Server(_) => Role::Server,
        };
        self.role = Some(match way {
            Direction::Transmit => sender,
            Direction::Receive => sender.other(),
        });
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match hello {
            Hello::Client(client) => {
                let offered = client.protocols.map(|names| names.iter().map(|name| text(name)).collect());
                let server_name = client.server_name.as_deref().map(text);
                self.tls = Arc::new(Tls { server_name, offered, ..Tls::default() });
                self.stage = Stage::Asked;
            }
            Hello::Retry => {}
            Hello::Server(server) => {
                // If this does not answer the last ClientHello, the details from that belong to another
                // handshake.
                let asked = if self.stage == Stage::Asked { Tls::clone(&self.tls) } else { Tls::default() };
                let cipher = server.cipher;
                self.tls = Arc::new(Tls {
                    protocol: server.version.and_then(TlsVersion::of),
                    cipher: Some(match hello::cipher_name(cipher) {
                        Some(name) => Cow::Borrowed(name),
                        None => Cow::Owned(format!("{cipher:#06x}")),
                    }),
                    next_protocol: server.protocol.as_deref().map(text),
                    ..asked
                });
                self.stage = Stage::Answered;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

    use zerocopy::FromZeros;

    use super::*;

    const ASKED: &[u8] = include_bytes!("../../protocol/tls/hello/data/tls12-c0.bin");
    const ANSWERED: &[u8] = include_bytes!("../../protocol/tls/hello/data/tls12-s0.bin");
    const ASKED_AGAIN: [&[u8]; 4] = [
        include_bytes!("../../protocol/tls/hello/data/retry-c0.bin"),
        include_bytes!("../../protocol/tls/hello/data/retry-s0.bin"),
        include_bytes!("../../protocol/tls/hello/data/retry-c1.bin"),
        include_bytes!("../../protocol/tls/hello/data/retry-s1.bin"),
    ];

    fn part(flags: u32, offset: usize, bytes: &[u8], handshakes: &mut Handshakes) {
        let mut wire = Wire::new_zeroed();
        (wire.socket, wire.flags, wire.offset) = (9, flags, u32::try_from(offset).unwrap());
        wire.bytes = u32::try_from(bytes.len()).unwrap();
        handshakes.hello(&wire, bytes);
    }

    fn known(handshakes: &mut Handshakes) -> (Tls, Option<Role>) {
        let (tls, role) = handshakes.get(9).unwrap();
        (Tls::clone(tls), role)
    }

    #[test]
    fn a_handshake_is_an_offer_and_its_answer() {
        let mut handshakes = Handshakes::new();
        part(HELLO_SENT, 0, &ASKED[..300], &mut handshakes);
        assert!(handshakes.get(9).is_none());
        part(HELLO_SENT, 300, &ASKED[300..], &mut handshakes);
        let (tls, role) = known(&mut handshakes);
        assert_eq!((tls.server_name.as_deref(), role), (Some("hello.test"), Some(Role::Client)));
        assert_eq!((tls.protocol, tls.cipher, tls.next_protocol), (None, None, None));
        part(0, 0, ANSWERED, &mut handshakes);
        let (tls, role) = known(&mut handshakes);
        assert_eq!((tls.protocol, role), (Some(TlsVersion::Tls12), Some(Role::Client)));
        assert_eq!(tls.cipher.as_deref(), Some("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"));
        assert_eq!(
            (tls.server_name.as_deref(), tls.next_protocol.as_deref()),
            (Some("hello.test"), Some("h2"))
        );
        assert_eq!(tls.offered, Some(vec!["h2".to_owned(), "http/1.1".to_owned()]));
    }

    #[test]
    fn a_server_may_want_another_offer() {
        let mut handshakes = Handshakes::new();
        for (hello, flags) in ASKED_AGAIN.iter().zip([0, HELLO_SENT].into_iter().cycle()) {
            part(flags, 0, hello, &mut handshakes);
        }
        let (tls, role) = known(&mut handshakes);
        assert_eq!((tls.protocol, role), (Some(TlsVersion::Tls13), Some(Role::Server)));
        assert_eq!(tls.server_name.as_deref(), Some("hello.test"));
        assert!(tls.offered.is_some() && tls.next_protocol.is_none());
    }

    #[test]
    fn what_is_missing_is_not_taken_from_another_handshake() {
        let mut handshakes = Handshakes::new();
        part(HELLO_SENT, 0, ASKED, &mut handshakes);
        part(0, 0, ANSWERED, &mut handshakes);
        // The next offer on the socket was lost.
        part(0, 0, ASKED_AGAIN[3], &mut handshakes);
        let (tls, _) = known(&mut handshakes);
        assert_eq!((tls.protocol, tls.server_name, tls.next_protocol), (Some(TlsVersion::Tls13), None, None));
        // The next answer is still to come.
        part(HELLO_SENT, 0, ASKED, &mut handshakes);
        let (tls, _) = known(&mut handshakes);
        assert_eq!((tls.protocol, tls.server_name.as_deref()), (None, Some("hello.test")));
        // A part in the middle was lost.
        let mut handshakes = Handshakes::new();
        part(HELLO_SENT, 0, &ASKED[..100], &mut handshakes);
        part(HELLO_SENT, 200, &ASKED[200..], &mut handshakes);
        part(HELLO_SENT, 100, &ASKED[100..], &mut handshakes);
        assert!(handshakes.get(9).is_none());
    }
}
