//! The headers of requests and responses, and how certain it is that bytes are one.

use super::api::{self, API_VERSIONS, Api, CONTROLLED_SHUTDOWN, Form};
use super::walk::Walk;

/// The longest message. Brokers take 100 MiB unless they are told otherwise.
const MAX_LENGTH: u32 = 128 << 20;
/// The longest name of a client.
const MAX_CLIENT: i16 = 1024;
/// The length of what all requests begin with: their length, kind, version and number.
const FIXED: usize = 12;
/// The length of a response's length and number.
pub(super) const RESPONSE_HEADER: usize = 8;

/// The header of a request.
#[derive(Clone, Debug)]
pub(super) struct RequestHeader<'a> {
    pub(super) api: &'static Api,
    pub(super) key: i16,
    pub(super) version: i16,
    pub(super) correlation: u32,
    pub(super) client: Option<&'a str>,
    /// The bytes that it takes, without tagged fields.
    pub(super) taken: usize,
    /// The length of the whole request.
    pub(super) length: u64,
}

/// Whether bytes are a header.
#[derive(Clone, Debug)]
pub(super) enum HeaderRead<T> {
    Yes(T),
    No,
    More,
}

impl<'a> RequestHeader<'a> {
    pub(super) fn read(data: &'a [u8]) -> HeaderRead<Self> {
        let array = |at: usize| data.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
        let length = match length(data) {
            HeaderRead::Yes(length) if length >= 8 => length,
            HeaderRead::More => return HeaderRead::More,
            HeaderRead::Yes(_) | HeaderRead::No => return HeaderRead::No,
        };
        let Some(key) = array(4).map(i16::from_be_bytes) else { return HeaderRead::More };
        let Some(api) = api::of_key(key) else { return HeaderRead::No };
        let Some(version) = array(6).map(i16::from_be_bytes) else { return HeaderRead::More };
        // Brokers are upgraded before ctrace is.
        if !(0..=api.newest.saturating_add(4)).contains(&version) {
            return HeaderRead::No;
        }
        let Some(correlation) = data.get(8..FIXED).and_then(|bytes| bytes.try_into().ok()) else {
            return HeaderRead::More;
        };
        let correlation = u32::from_be_bytes(correlation);
        let whole = length + 4;
        let header = |client, taken| Self { api, key, version, correlation, client, taken, length: whole };
        if key == CONTROLLED_SHUTDOWN && version == 0 {
            return HeaderRead::Yes(header(None, FIXED));
        }
        let Some(client_length) = array(FIXED).map(i16::from_be_bytes) else { return HeaderRead::More };
        if client_length == -1 {
            return if whole >= FIXED as u64 + 2 {
                HeaderRead::Yes(header(None, FIXED + 2))
            } else {
                HeaderRead::No
            };
        }
        let client_length = match usize::try_from(client_length) {
            Ok(client) if client <= MAX_CLIENT.unsigned_abs().into() => client,
            _ => return HeaderRead::No,
        };
        let taken = FIXED + 2 + client_length;
        if taken as u64 > whole {
            return HeaderRead::No;
        }
        let so_far = data.get(FIXED + 2..).unwrap_or_default();
        let client = so_far.get(..client_length);
        match std::str::from_utf8(client.unwrap_or(so_far)) {
            Ok(text) if text.chars().any(char::is_control) => HeaderRead::No,
            Ok(text) if client.is_some() => HeaderRead::Yes(header(Some(text), taken)),
            Err(error) if client.is_some() || error.error_len().is_some() => HeaderRead::No,
            _ => HeaderRead::More,
        }
    }

    /// The form of the request. In the flexible one, tagged fields follow the header.
    pub(super) fn form(&self) -> Form {
        self.api.form(self.version)
    }

    /// The place behind its header.
    pub(super) fn walk(&self) -> Walk {
        let walk = Walk::new(self.api.request, self.version, self.form());
        match self.form() {
            _ if !self.is_known() => Walk::rest(),
            Form::Flexible => walk.behind_tags(),
            Form::Plain => walk,
        }
    }

    /// Whether the parts of its version are known.
    pub(super) fn is_known(&self) -> bool {
        self.version <= self.api.newest
    }
}

/// Whether tagged fields follow the header of a response.
pub(super) fn is_response_tagged(key: i16, api: &Api, version: i16) -> bool {
    // A client must be able to read the response before it knows what versions the broker has.
    api.form(version) == Form::Flexible && key != API_VERSIONS
}

/// The length of a response, and the number of its request.
pub(super) fn response(data: &[u8]) -> HeaderRead<(u64, u32)> {
    let length = match length(data) {
        HeaderRead::Yes(length) if length >= 4 => length,
        HeaderRead::More => return HeaderRead::More,
        HeaderRead::Yes(_) | HeaderRead::No => return HeaderRead::No,
    };
    match data.get(4..RESPONSE_HEADER).and_then(|bytes| bytes.try_into().ok()) {
        Some(correlation) => HeaderRead::Yes((length + 4, u32::from_be_bytes(correlation))),
        None => HeaderRead::More,
    }
}

/// The length of a message behind its length.
fn length(data: &[u8]) -> HeaderRead<u64> {
    // A wrong one mostly shows in its first byte.
    if data.first().is_some_and(|first| *first > 8) {
        return HeaderRead::No;
    }
    match data.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes) {
        Some(length) if length <= MAX_LENGTH => HeaderRead::Yes(length.into()),
        Some(_) => HeaderRead::No,
        None => HeaderRead::More,
    }
}
