//! Content encodings. Only user of brotli_decompressor and ruzstd.
//!
//! The kept part of a body may be only its first bytes, so each decoder gives what these yield. The output is
//! bounded, and so is the memory for windows: a peer chooses what is decoded.

use std::fmt;
use std::io::{ErrorKind, Read};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::bufread::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};

use super::Whole;

mod zstd;

/// The most encodings of a body. More than two are not in use, and each may multiply the size.
const MAX_ENCODINGS: usize = 4;
/// A body that decodes to more than this many times its size is not decoded further: it was made to exhaust
/// whoever decodes it. Text compresses to a tenth, logs to a fiftieth.
const MAX_RATIO: usize = 200;
/// The output up to which the ratio does not matter: a short body of zeros is harmless.
const RATIO_MATTERS: usize = 256 * 1024;
/// The output of one step.
const STEP: usize = 16 * 1024;

/// A decoded body.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    /// What was decoded, from the first byte of the body. If an encoding is unknown, this is still encoded.
    pub data: Vec<u8>,
    /// Where that ends, and why.
    pub end: ContentEnd,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { data, end } = self;
        write!(f, "Content({} bytes, {end:?})", data.len())
    }
}

/// Why a decoded body ends where it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentEnd {
    /// It is all of the body.
    Whole,
    /// Only the first bytes of the body were kept.
    Cut,
    /// It reaches the limit.
    Limit,
    /// The body expands so much that decoding it was given up.
    ExpandsTooMuch,
    /// What follows is no valid data of this encoding, or needs more memory than a peer may ask for.
    Damaged(&'static str),
    /// The bytes are still encoded in this way, which is not known.
    UnknownEncoding(String),
}

/// Decodes the first bytes of a body, which are all of it or not. `encodings` are in the order in which they
/// were applied. At most `limit` bytes are returned.
pub fn decode(encodings: &[String], data: &[u8], is_whole: Whole, limit: usize) -> Content {
    let names =
        encodings.iter().flat_map(|names| names.split(',')).map(|name| name.trim().to_ascii_lowercase());
    let mut names: Vec<String> =
        names.filter(|name| !matches!(name.as_str(), "" | "identity" | "none")).collect();
    let mut end = if is_whole == Whole::Yes { ContentEnd::Whole } else { ContentEnd::Cut };
    let mut current: Option<Vec<u8>> = None;
    let mut left = MAX_ENCODINGS;
    while let Some(name) = names.pop() {
        let input = current.as_deref().unwrap_or(data);
        let is_last = names.is_empty();
        // What is encoded once more is seldom larger than what it decodes to.
        let limit = if is_last { limit } else { limit.max(data.len()) };
        let decoder = decoder(&name).filter(|_| left > 0);
        let Some((name, decoder)) = decoder else {
            names.push(name);
            end = ContentEnd::UnknownEncoding(names.join(", "));
            break;
        };
        left -= 1;
        let mut output = Output { data: Vec::new(), limit, input: input.len() };
        let stop = decoder(input, &mut output);
        current = Some(output.data);
        let is_broken = matches!(end, ContentEnd::Damaged(_) | ContentEnd::ExpandsTooMuch);
        end = match stop {
            Err(Stop::Limit) => ContentEnd::Limit,
            Err(Stop::ExpandsTooMuch) => ContentEnd::ExpandsTooMuch,
            // What is wrong with an outer encoding is the cause of what is wrong here.
            _ if is_broken => end,
            Ok(()) => ContentEnd::Whole,
            Err(Stop::NeedsMore) if end != ContentEnd::Whole => end,
            Err(Stop::NeedsMore | Stop::Damaged) => ContentEnd::Damaged(name),
        };
    }
    let mut data = current.unwrap_or_else(|| data.get(..=limit).unwrap_or(data).to_vec());
    if data.len() > limit {
        data.truncate(limit);
        end = if matches!(end, ContentEnd::UnknownEncoding(_)) { end } else { ContentEnd::Limit };
    }
    Content { data, end }
}

/// Why a decoder stops before the end of its data.
enum Stop {
    /// The input ends early.
    NeedsMore,
    Damaged,
    Limit,
    ExpandsTooMuch,
}

/// The output of a decoder.
struct Output {
    data: Vec<u8>,
    limit: usize,
    /// The size of the input.
    input: usize,
}

impl Output {
    fn push(&mut self, data: &[u8]) -> Result<(), Stop> {
        let room = self.limit.saturating_sub(self.data.len());
        if data.len() > room {
            self.data.extend_from_slice(data.get(..room).unwrap_or_default());
            return Err(Stop::Limit);
        }
        self.data.extend_from_slice(data);
        if self.data.len() > self.most() { Err(Stop::ExpandsTooMuch) } else { Ok(()) }
    }

    /// The output that is not too much for the input.
    fn most(&self) -> usize {
        self.input.saturating_mul(MAX_RATIO).max(RATIO_MATTERS)
    }

    /// How much output is left.
    fn room(&self) -> usize {
        self.limit.min(self.most()).saturating_sub(self.data.len())
    }
}

type Decode = fn(&[u8], &mut Output) -> Result<(), Stop>;

fn decoder(name: &str) -> Option<(&'static str, Decode)> {
    match name {
        "gzip" | "x-gzip" => Some(("gzip", gzip)),
        "deflate" => Some(("deflate", deflate)),
        "br" => Some(("br", brotli)),
        "zstd" => Some(("zstd", zstd::zstd)),
        _ => None,
    }
}

fn gzip(input: &[u8], out: &mut Output) -> Result<(), Stop> {
    let mut reader = MultiGzDecoder::new(input);
    let mut step = vec![0; STEP];
    loop {
        match reader.read(&mut step) {
            Ok(0) => return Ok(()),
            Ok(length) => out.push(step.get(..length).unwrap_or_default())?,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(Stop::NeedsMore),
            Err(_) => return Err(Stop::Damaged),
        }
    }
}

/// The standard says that this is the format of zlib; some servers send it without its head.
fn deflate(input: &[u8], out: &mut Output) -> Result<(), Stop> {
    let is_zlib = match input {
        [head, flags, ..] => {
            head & 0xf == 8 && head >> 4 <= 7 && u16::from_be_bytes([*head, *flags]).is_multiple_of(31)
        }
        _ => true,
    };
    let begin = out.data.len();
    match inflate(Decompress::new(is_zlib), input, out) {
        // What looks like a head may be data.
        Err(Stop::Damaged) if is_zlib && out.data.len() == begin => {
            inflate(Decompress::new(false), input, out)
        }
        result => result,
    }
}

fn inflate(mut decoder: Decompress, input: &[u8], out: &mut Output) -> Result<(), Stop> {
    let mut step = vec![0; STEP];
    loop {
        let consumed = usize::try_from(decoder.total_in()).unwrap_or(usize::MAX);
        let produced = decoder.total_out();
        let rest = input.get(consumed..).unwrap_or_default();
        let status = decoder.decompress(rest, &mut step, FlushDecompress::None);
        let length = usize::try_from(decoder.total_out() - produced).unwrap_or(0);
        out.push(step.get(..length).unwrap_or_default())?;
        match status {
            Ok(Status::StreamEnd) => return Ok(()),
            Ok(_) if length > 0 || decoder.total_in() > consumed as u64 => {}
            Ok(_) => return Err(Stop::NeedsMore),
            Err(_) => return Err(Stop::Damaged),
        }
    }
}

fn brotli(input: &[u8], out: &mut Output) -> Result<(), Stop> {
    let allocator = StandardAlloc::default;
    // The strict form has no windows over 16 MiB.
    let mut state = BrotliState::new_strict(allocator(), allocator(), allocator());
    let (mut available, mut offset, mut total) = (input.len(), 0, 0);
    let mut step = vec![0; STEP];
    loop {
        let (mut room, mut length) = (STEP, 0);
        let result = BrotliDecompressStream(
            &mut available,
            &mut offset,
            input,
            &mut room,
            &mut length,
            &mut step,
            &mut total,
            &mut state,
        );
        out.push(step.get(..length).unwrap_or_default())?;
        match result {
            BrotliResult::ResultSuccess => return Ok(()),
            BrotliResult::NeedsMoreOutput => {}
            BrotliResult::NeedsMoreInput => return Err(Stop::NeedsMore),
            BrotliResult::ResultFailure => return Err(Stop::Damaged),
        }
    }
}
