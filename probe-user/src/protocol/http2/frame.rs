//! The frames of HTTP/2 (RFC 9113, 4 and 6): their heads, and what is lawful for each type.

/// The bytes with which a client begins a connection.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The bytes before the payload of a frame.
pub(super) const HEAD: usize = 9;

/// The type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameType {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// Types of extensions are to be ignored.
    Other(u8),
}

impl FrameType {
    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Data,
            1 => Self::Headers,
            2 => Self::Priority,
            3 => Self::Reset,
            4 => Self::Settings,
            5 => Self::PushPromise,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::WindowUpdate,
            9 => Self::Continuation,
            other => Self::Other(other),
        }
    }
}

/// END_STREAM of DATA and HEADERS.
pub(super) const END_STREAM: u8 = 0x1;
/// ACK of SETTINGS and PING.
pub(super) const ACK: u8 = 0x1;
/// END_HEADERS of HEADERS, PUSH_PROMISE and CONTINUATION.
pub(super) const END_HEADERS: u8 = 0x4;
/// PADDED of DATA, HEADERS and PUSH_PROMISE.
pub(super) const PADDED: u8 = 0x8;
/// PRIORITY of HEADERS.
pub(super) const PRIORITY: u8 = 0x20;

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// The length of the payload.
    pub length: u32,
    pub kind: FrameType,
    pub flags: u8,
    /// The stream, 0 for the connection.
    pub stream: u32,
    /// The bit that is reserved and must be 0.
    pub reserved: bool,
}

impl FrameHead {
    /// The head at the beginning of `data`. None if that is too short.
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        let &[l0, l1, l2, kind, flags, s0, s1, s2, s3] = data.first_chunk::<HEAD>()?;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        Some(Self {
            length: u32::from_be_bytes([0, l0, l1, l2]),
            kind: FrameType::of(kind),
            flags,
            stream: stream & 0x7fff_ffff,
            reserved: stream >> 31 != 0,
        })
    }

    /// The length of the payload.
    pub(super) fn payload(&self) -> usize {
        usize::try_from(self.length).unwrap_or(usize::MAX)
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether the length and the stream are lawful for the type. A peer that sends anything else breaks the
    /// connection.
    pub(super) fn is_lawful(&self) -> bool {
        let (length, is_stream) = (self.length, self.stream != 0);
        match self.kind {
            FrameType::Data => is_stream && length >= u32::from(self.has(PADDED)),
            FrameType::Headers => {
                let optional = u32::from(self.has(PADDED)) + if self.has(PRIORITY) { 5 } else { 0 };
                is_stream && length >= optional
            }
            FrameType::PushPromise => is_stream && length >= 4 + u32::from(self.has(PADDED)),
            FrameType::Continuation => is_stream,
            FrameType::Priority => is_stream && length == 5,
            FrameType::Reset => is_stream && length == 4,
            FrameType::Settings if self.has(ACK) => !is_stream && length == 0,
            FrameType::Settings => !is_stream && length.is_multiple_of(6),
            FrameType::Ping => !is_stream && length == 8,
            FrameType::GoAway => !is_stream && length >= 8,
            FrameType::WindowUpdate => length == 4,
            FrameType::Other(_) => true,
        }
    }

    /// The flags that the type defines.
    pub(super) fn defined_flags(&self) -> u8 {
        match self.kind {
            FrameType::Data => END_STREAM | PADDED,
            FrameType::Headers => END_STREAM | END_HEADERS | PADDED | PRIORITY,
            FrameType::PushPromise => END_HEADERS | PADDED,
            FrameType::Continuation => END_HEADERS,
            FrameType::Settings | FrameType::Ping => ACK,
            _ => 0,
        }
    }
}

/// The part of a HEADERS or PUSH_PROMISE frame's payload that belongs to the header list: without padding,
/// priority and the promised stream. None if the payload is too short for what its flags say.
pub(super) fn block_fragment<'a>(head: &FrameHead, payload: &'a [u8]) -> Option<&'a [u8]> {
    let mut rest = payload;
    let mut padding = 0;
    if head.has(PADDED) {
        let (&first, behind) = rest.split_first()?;
        (padding, rest) = (usize::from(first), behind);
    }
    match head.kind {
        FrameType::PushPromise => rest = rest.get(4..)?,
        FrameType::Headers if head.has(PRIORITY) => rest = rest.get(5..)?,
        _ => {}
    }
    rest.get(..rest.len().checked_sub(padding)?)
}

/// The stream that a PUSH_PROMISE frame promises.
pub(super) fn promised_stream(head: &FrameHead, payload: &[u8]) -> Option<u32> {
    number(payload.get(usize::from(head.has(PADDED))..)?).map(|stream| stream & 0x7fff_ffff)
}

/// The 32-bit number at the beginning of `data`.
pub(super) fn number(data: &[u8]) -> Option<u32> {
    data.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// SETTINGS_HEADER_TABLE_SIZE.
pub(super) const HEADER_TABLE_SIZE: u16 = 1;

/// The settings in the payload of a SETTINGS frame.
pub(super) fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> + '_ {
    payload.chunks_exact(6).filter_map(|setting| match *setting {
        [i0, i1, v0, v1, v2, v3] => {
            Some((u16::from_be_bytes([i0, i1]), u32::from_be_bytes([v0, v1, v2, v3])))
        }
        _ => None,
    })
}

/// The names of the error codes (RFC 9113, 7), in order.
const ERRORS: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// The number of error codes that are defined.
pub(super) const ERROR_CODES: u32 = 14;
/// The code of a stream that was not processed.
pub(super) const REFUSED_STREAM: u32 = 7;

/// The name of an error code.
pub(super) fn error_name(code: u32) -> String {
    let name = usize::try_from(code).ok().and_then(|code| ERRORS.get(code));
    name.map_or_else(|| format!("error {code:#x}"), |name| (*name).to_owned())
}
