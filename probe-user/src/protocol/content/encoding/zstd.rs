//! Zstandard.
//!
//! ruzstd keeps the last window of a frame back until the frame ends. To get what a frame that is cut off, or
//! damaged, or too long, has yielded so far, the last block is followed by an empty one that ends the frame.

use std::io::Read;

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::{Output, Stop};

/// The largest window. All decoders must support this one, and a server may not expect more (RFC 9659).
const MAX_WINDOW: u64 = 8 * 1024 * 1024;
/// An empty block that ends a frame, and room for a checksum.
const END: [u8; 7] = [1, 0, 0, 0, 0, 0, 0];
/// The longest head of a frame.
const MAX_HEAD: usize = 18;

pub(super) fn zstd(input: &[u8], out: &mut Output) -> Result<(), Stop> {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(MAX_WINDOW);
    let mut rest = input;
    while !rest.is_empty() {
        rest = frame(&mut decoder, rest, out)?;
    }
    // A body has a frame at least.
    if input.is_empty() { Err(Stop::NeedsMore) } else { Ok(()) }
}

/// Decodes a frame. Returns what follows it.
fn frame<'a>(decoder: &mut FrameDecoder, input: &'a [u8], out: &mut Output) -> Result<&'a [u8], Stop> {
    let mut body = input;
    match decoder.init(&mut body) {
        Ok(()) => {}
        Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
            let length = usize::try_from(length).map_err(|_| Stop::Damaged)?;
            return body.get(length..).ok_or(Stop::NeedsMore);
        }
        // Its head is cut off.
        Err(FrameDecoderError::ReadFrameHeaderError(_)) if body.is_empty() && input.len() < MAX_HEAD => {
            return Err(Stop::NeedsMore);
        }
        Err(_) => return Err(Stop::Damaged),
    }
    let Blocks { length, has_end } = Blocks::of(body);
    let (blocks, rest) = body.split_at_checked(length).unwrap_or((body, &[]));
    // One byte more than is allowed shows that there is more.
    let room = out.room().saturating_add(1);
    let result = decoder.decode_blocks(blocks.chain(&END[..]), BlockDecodingStrategy::UptoBytes(room));
    if result.is_err() {
        // The damaged block may have yielded bytes, which cannot be told from the valid ones before it.
        let valid = decoder.blocks_decoded();
        let mut body = input;
        decoder.init(&mut body).map_err(|_| Stop::Damaged)?;
        if valid > 0 {
            let strategy = BlockDecodingStrategy::UptoBlocks(valid);
            decoder.decode_blocks(&mut body, strategy).map_err(|_| Stop::Damaged)?;
        }
    }
    if !decoder.is_finished() {
        decoder.decode_blocks(&END[..], BlockDecodingStrategy::All).map_err(|_| Stop::Damaged)?;
    }
    out.push(&decoder.collect().unwrap_or_default())?;
    match result {
        Err(_) => Err(Stop::Damaged),
        Ok(_) if !has_end => Err(Stop::NeedsMore),
        Ok(_) => {
            let checksum = if decoder.get_checksum_from_data().is_some() { 4 } else { 0 };
            Ok(rest.get(checksum..).unwrap_or_default())
        }
    }
}

/// The blocks of a frame that are not cut off.
struct Blocks {
    length: usize,
    /// Whether the last one ends the frame.
    has_end: bool,
}

impl Blocks {
    fn of(body: &[u8]) -> Self {
        let mut length = 0;
        let mut has_end = false;
        while let Some(&[low, middle, high]) = body.get(length..length + 3).and_then(|head| head.as_array())
            && !has_end
        {
            let head = u32::from_le_bytes([low, middle, high, 0]);
            let is_repeated = head >> 1 & 3 == 1;
            let size = if is_repeated { 1 } else { usize::try_from(head >> 3).unwrap_or(usize::MAX) };
            let end = length.saturating_add(3).saturating_add(size);
            if end > body.len() {
                break;
            }
            length = end;
            has_end = head & 1 == 1;
        }
        Self { length, has_end }
    }
}
