//! ClientHello and ServerHello: bytes → their contents.
//!
//! Owns the parser for the two messages of the handshake that are sent in the clear (RFC 8446, section 4; RFC
//! 5246, section 7.4), and for the records around them. The bytes are foreign: a part that is cut or
//! malformed is treated as absent and is never an error. Only what is reported is parsed.

use probe_common::{CLIENT_HELLO, HELLO_BYTES, RecordHeader, SERVER_HELLO};

use super::cursor::Cursor;

/// Extension numbers (RFC 6066, section 3; RFC 7301; RFC 8446, section 4.2).
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;

/// The random value of a ServerHello that requests another ClientHello (RFC 8446, section 4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// A hello message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// From the client.
    Client(ClientHello),
    /// The server requests another ClientHello.
    Retry,
    /// From the server.
    Server(ServerHello),
}

/// The contents of a ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The random value, which no two hellos have in common unless they belong to one handshake.
    pub random: [u8; 32],
    /// The name of the requested server (SNI).
    pub server_name: Option<Vec<u8>>,
    /// The offered protocols (ALPN), the preferred one first.
    pub protocols: Option<Vec<Vec<u8>>>,
}

/// The contents of a ServerHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHello {
    /// The chosen version, such as 0x0303 for TLS 1.2. None if the message was cut before the version is
    /// certain.
    pub version: Option<u16>,
    /// The chosen cipher suite.
    pub cipher: u16,
    /// The chosen protocol (ALPN). With TLS 1.3 it is sent encrypted, and so is not here.
    pub protocol: Option<Vec<u8>>,
}

/// The IANA name of a cipher suite.
pub fn cipher_name(cipher: u16) -> Option<&'static str> {
    tls_parser::TlsCipherSuite::from_id(cipher).map(|suite| suite.name)
}

/// The result of reading the parts of a hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandshakeParse {
    /// The message is not complete yet.
    Nothing,
    /// The bytes are not a hello.
    Junk,
    /// A hello.
    Hello(Hello),
}

/// The parts of a hello that were received so far.
#[derive(Clone, Debug, Default)]
pub struct HelloBuffer {
    /// The bytes of records, possibly cut.
    bytes: Vec<u8>,
    /// The length of the header that was added to them.
    added: usize,
}

impl HelloBuffer {
    /// Starts a hello with `bytes`. If `record` is not 0, adds the header of a record of this length first.
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

    /// Adds the next part.
    pub fn add(&mut self, bytes: &[u8]) {
        // A header may have been added to what the kernel emitted.
        let room = (HELLO_BYTES as usize + 5).saturating_sub(self.bytes.len());
        self.bytes.extend(bytes.iter().take(room));
    }

    /// The number of bytes from the kernel so far.
    pub fn received(&self) -> usize {
        self.bytes.len().saturating_sub(self.added)
    }

    /// Parses the parts, unless more are to come.
    pub fn take(&mut self) -> HandshakeParse {
        let (message, is_whole) = message(&self.bytes);
        if !is_whole && self.bytes.len() < HELLO_BYTES as usize {
            return HandshakeParse::Nothing;
        }
        *self = Self::default();
        parse(&message).map_or(HandshakeParse::Junk, HandshakeParse::Hello)
    }
}

/// The first handshake message in these records, or the beginning of it, and whether it is complete.
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

/// Parses a message, which may be cut. None if it is not a hello.
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
            let random = *random.first_chunk()?;
            Some(Hello::Client(ClientHello { random, ..client(cursor) }))
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

/// `version` is the version at the beginning of the message. None if it was cut.
fn server(version: Option<u16>, cipher: u16, cursor: Cursor<'_>) -> ServerHello {
    let (mut chosen, mut protocol) = (None, None);
    let is_read = each_extension(cursor, |kind, data| match kind {
        SUPPORTED_VERSIONS => chosen = Cursor(data).u16(),
        ALPN => protocol = protocols(data).and_then(|mut protocols| protocols.pop()),
        _ => {}
    });
    // A TLS 1.3 server sends 1.2 in this field, and 1.3 in an extension.
    let version = chosen.or(version.filter(|_| is_read));
    ServerHello { version, cipher, protocol }
}

/// Calls `take` for each extension. Returns false if not all of them could be read.
fn each_extension<'a>(mut cursor: Cursor<'a>, mut take: impl FnMut(u16, &'a [u8])) -> bool {
    // Before TLS 1.2, extensions are optional.
    let Some(length) = cursor.u16() else { return cursor.0.is_empty() };
    let is_whole = cursor.0.len() >= usize::from(length);
    let mut extensions = Cursor(cursor.take_some(usize::from(length)));
    while !extensions.0.is_empty() {
        let (Some(kind), Some(data)) = (extensions.u16(), extensions.list16()) else { return false };
        take(kind, data);
    }
    is_whole
}

/// The name of a host, which is the only kind of name.
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
