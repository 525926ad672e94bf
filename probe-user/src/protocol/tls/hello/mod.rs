//! ClientHello and ServerHello: bytes → what they say.
//!
//! Owns the reading of the two messages of the handshake that are in the clear (RFC 8446, section 4; RFC
//! 5246, section 7.4), and of the records around them. It is given foreign bytes: what is cut, or not as it
//! should be, is not known, and never an error; nothing is read but what is told.

use probe_common::{CLIENT_HELLO, HELLO_BYTES, RecordHeader, SERVER_HELLO};

use super::cursor::Cursor;

/// Extensions, by their numbers (RFC 6066, section 3; RFC 7301; RFC 8446, section 4.2).
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;

/// The random number of a ServerHello that asks for another ClientHello (RFC 8446, section 4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// What a hello says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// The client's.
    Client(ClientHello),
    /// The server wants another one of the client.
    Retry,
    /// The server's.
    Server(ServerHello),
}

/// What a client says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The name of the server that it wants (SNI).
    pub server_name: Option<Vec<u8>>,
    /// Protocols that it offers (ALPN), the one that it likes best first.
    pub protocols: Option<Vec<Vec<u8>>>,
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHello {
    /// The version that it has chosen, such as 0x0303 for TLS 1.2; none if it was cut before that was
    /// certain.
    pub version: Option<u16>,
    /// Its cipher suite.
    pub cipher: u16,
    /// The protocol that it has chosen (ALPN); with TLS 1.3 it tells that in secret.
    pub protocol: Option<Vec<u8>>,
}

/// The name that IANA gave a cipher suite.
pub fn cipher_name(cipher: u16) -> Option<&'static str> {
    tls_parser::TlsCipherSuite::from_id(cipher).map(|suite| suite.name)
}

/// What was taken of the parts of a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeParse {
    /// It is not whole yet.
    Nothing,
    /// It was none.
    Junk,
    /// It.
    Hello(Hello),
}

/// A hello as it comes, in parts.
#[derive(Clone, Debug, Default)]
pub struct HelloBuffer {
    /// Records, or the beginning of them.
    bytes: Vec<u8>,
    /// Bytes of the header that was added to them.
    added: usize,
}

impl HelloBuffer {
    /// Forgets what is there.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// A hello begins with `bytes`; after a header of a record of so many bytes, if that is not 0.
    pub fn begin(&mut self, record: u32, bytes: &[u8]) {
        self.bytes.clear();
        if let Ok(length) = u16::try_from(record)
            && length != 0
        {
            let [high, low] = length.to_be_bytes();
            self.bytes.extend([22, 3, 3, high, low]);
        }
        self.added = self.bytes.len();
        self.add(bytes);
    }

    /// It goes on.
    pub fn add(&mut self, bytes: &[u8]) {
        // One header may have been added to what the kernel told.
        let room = (HELLO_BYTES as usize + 5).saturating_sub(self.bytes.len());
        self.bytes.extend(bytes.iter().take(room));
    }

    /// Bytes that were told so far.
    pub fn told(&self) -> usize {
        self.bytes.len().saturating_sub(self.added)
    }

    /// Takes what is there, unless more is to come.
    pub fn take(&mut self) -> HandshakeParse {
        let (message, is_whole) = message(&self.bytes);
        if !is_whole && self.bytes.len() < HELLO_BYTES as usize {
            return HandshakeParse::Nothing;
        }
        self.clear();
        parse(&message).map_or(HandshakeParse::Junk, HandshakeParse::Hello)
    }
}

/// The first message of the handshake in these records, or the beginning of it; and whether that is all of
/// it.
fn message(records: &[u8]) -> (Vec<u8>, bool) {
    let mut cursor = Cursor(records);
    let mut message = Vec::new();
    while let Some(header) = cursor.take(5).and_then(|header| header.first_chunk::<5>()) {
        let header = RecordHeader(*header);
        if !header.is_valid() || !header.is_handshake() {
            return (Vec::new(), true);
        }
        let length = header.length() as usize;
        message.extend_from_slice(cursor.take_some(length));
        if let Some(&[_, a, b, c]) = message.first_chunk::<4>() {
            let whole = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
            if message.len() >= whole {
                message.truncate(whole);
                return (message, true);
            }
        }
    }
    (message, false)
}

/// What a message says, if it is a hello; it may be cut.
fn parse(message: &[u8]) -> Option<Hello> {
    let mut cursor = Cursor(message);
    let kind = cursor.u8()?;
    let length = u32::from_be_bytes([0, cursor.u8()?, cursor.u8()?, cursor.u8()?]);
    let is_whole = cursor.0.len() as u64 >= u64::from(length);
    let version = cursor.u16()?;
    let random = cursor.take(32)?;
    let _session = cursor.list8()?;
    match kind {
        CLIENT_HELLO => {
            let _ciphers = cursor.list16()?;
            let _compressions = cursor.list8()?;
            Some(Hello::Client(client(cursor)))
        }
        SERVER_HELLO if random == RETRY => Some(Hello::Retry),
        SERVER_HELLO => {
            let cipher = cursor.u16()?;
            let _compression = cursor.u8()?;
            Some(Hello::Server(server(is_whole.then_some(version), cipher, cursor)))
        }
        _ => None,
    }
}

fn client(cursor: Cursor<'_>) -> ClientHello {
    let mut hello = ClientHello::default();
    each_extension(cursor, |kind, data| match kind {
        SERVER_NAME => hello.server_name = server_name(data),
        ALPN => hello.protocols = protocols(data),
        _ => {}
    });
    hello
}

/// `version`: what it says at its beginning; none if it was cut.
fn server(version: Option<u16>, cipher: u16, cursor: Cursor<'_>) -> ServerHello {
    let (mut chosen, mut protocol) = (None, None);
    let is_read = each_extension(cursor, |kind, data| match kind {
        SUPPORTED_VERSIONS => chosen = Cursor(data).u16(),
        ALPN => protocol = protocols(data).and_then(|mut protocols| protocols.pop()),
        _ => {}
    });
    // A server of TLS 1.3 says 1.2 here, and 1.3 in an extension.
    let version = chosen.or(version.filter(|_| is_read));
    ServerHello { version, cipher, protocol }
}

/// Hands over each extension that is there; false if not all of them could be read.
fn each_extension<'a>(mut cursor: Cursor<'a>, mut take: impl FnMut(u16, &'a [u8])) -> bool {
    // Before TLS 1.2 there need not be any.
    let Some(length) = cursor.u16() else { return cursor.0.is_empty() };
    let is_whole = cursor.0.len() >= usize::from(length);
    let mut extensions = Cursor(cursor.take_some(usize::from(length)));
    while !extensions.0.is_empty() {
        let (Some(kind), Some(data)) = (extensions.u16(), extensions.list16()) else { return false };
        take(kind, data);
    }
    is_whole
}

/// The name of a host; there are no other names.
fn server_name(data: &[u8]) -> Option<Vec<u8>> {
    const HOST: u8 = 0;
    let mut names = Cursor(Cursor(data).list16()?);
    while let Some(kind) = names.u8() {
        let name = names.list16()?;
        if kind == HOST && !name.is_empty() {
            return Some(name.to_vec());
        }
    }
    None
}

fn protocols(data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut names = Cursor(Cursor(data).list16()?);
    let mut protocols = Vec::new();
    while !names.0.is_empty() {
        protocols.push(names.list8()?.to_vec());
    }
    Some(protocols)
}

#[cfg(test)]
mod tests;
