//! A message that is being read: its payload, unmasked, is inflated as it comes.

use jiff::Timestamp;

use super::frame::{CLOSE, PING, PONG, TEXT, WebSocketFrameHead};
use super::inflate::{InflateError, Inflated, Inflater, Out};
use super::{CLOSE_CODE, CLOSE_REASON, Ending, FRAMES, NOT_DECODED, TYPE};
use crate::event::FieldValue;
use crate::protocol::Message;
use crate::protocol::http::PART_COMPRESSED;

/// What was done to the payload of a message before it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transformation {
    None,
    Deflate,
    /// An extension that is not known did something.
    Unknown,
    /// Its beginning is missing, which would say.
    Lost,
}

/// A message that is being read.
#[derive(Debug)]
pub(super) struct OpenWebSocketMessage {
    pub(super) message: Message,
    pub(super) transformation: Transformation,
    frames: u64,
    /// The bytes of its payload.
    compressed: u64,
    /// How many of the bytes that they were inflated to are unknown.
    unknown: u64,
    /// Why it is not decoded further.
    stopped: Option<&'static str>,
}

impl OpenWebSocketMessage {
    pub(super) fn new(message: Message, head: &WebSocketFrameHead, transformation: Transformation) -> Self {
        let mut message = message;
        let name = if head.opcode == TEXT { "text" } else { "binary" };
        let name =
            if message.partial.lacks_start { FieldValue::Unknown } else { FieldValue::Text(name.to_owned()) };
        message.fields.push((&TYPE, name));
        let compressed = match transformation {
            Transformation::Deflate => Some(FieldValue::Text("permessage-deflate".to_owned())),
            Transformation::Unknown | Transformation::Lost => Some(FieldValue::Unknown),
            Transformation::None => None,
        };
        message.fields.extend(compressed.map(|value| (&PART_COMPRESSED, value)));
        let stopped = match transformation {
            Transformation::Unknown => Some("unknown extension"),
            Transformation::Lost => Some("part missing"),
            Transformation::Deflate | Transformation::None => None,
        };
        Self { message, transformation, frames: 0, compressed: 0, unknown: 0, stopped }
    }

    /// Notes the head of another frame.
    pub(super) fn begin_frame(&mut self, size: usize, last: Timestamp) {
        self.frames += 1;
        self.message.length = self.message.length.saturating_add(size as u64);
        self.message.last = last;
    }

    /// Adds the next bytes of the payload.
    pub(super) fn add(
        &mut self,
        data: &[u8],
        time: Timestamp,
        inflater: Option<&mut Inflater>,
        limit: usize,
    ) {
        self.message.length = self.message.length.saturating_add(data.len() as u64);
        self.message.last = time;
        match self.transformation {
            Transformation::None => self.message.add_body(data, limit),
            // What these bytes mean is unknown.
            Transformation::Unknown | Transformation::Lost => self.message.add_body_gap(data.len() as u64),
            Transformation::Deflate => {
                self.compressed = self.compressed.saturating_add(data.len() as u64);
                self.inflate(inflater, limit, |inflater, out| inflater.inflate(data, out));
            }
        }
    }

    /// Notes that bytes of the payload are missing.
    pub(super) fn add_gap(&mut self, missing: u64) {
        self.message.length = self.message.length.saturating_add(missing);
        if self.transformation == Transformation::Deflate {
            // How many bytes they would have been inflated to is unknown, and so is what comes after them.
            self.message.partial.missing = self.message.partial.missing.saturating_add(missing);
            self.stop("part missing");
        } else {
            self.message.add_body_gap(missing);
        }
    }

    /// Ends the message.
    pub(super) fn end(&mut self, ending: Ending, inflater: Option<&mut Inflater>, limit: usize) {
        if ending == Ending::Whole && self.compressed > 0 {
            self.inflate(inflater, limit, Inflater::end_message);
        } else if let Some(inflater) = inflater.filter(|_| self.transformation != Transformation::None) {
            // The rest of it would be a part of what later messages refer to.
            if ending == Ending::CutOff || self.stopped.is_some() {
                inflater.forget();
            }
        }
    }

    /// The message with all fields.
    pub(super) fn into_message(self) -> Message {
        let Self { mut message, frames, unknown, stopped, .. } = self;
        if frames > 1 {
            message.fields.push((&FRAMES, FieldValue::Number(frames)));
        }
        let reason = stopped.or((unknown > 0).then_some("context unknown"));
        message.fields.extend(reason.map(|reason| (&NOT_DECODED, FieldValue::Text(reason.to_owned()))));
        message
    }

    fn stop(&mut self, reason: &'static str) {
        self.stopped = self.stopped.or(Some(reason));
        self.message.partial.lacks_end = true;
    }

    /// Inflates some bytes, as long as that makes sense.
    fn inflate<F>(&mut self, inflater: Option<&mut Inflater>, limit: usize, mut step: F)
    where
        F: FnMut(&mut Inflater, &mut Out<'_>) -> Result<(), InflateError>,
    {
        let Some(inflater) = inflater.filter(|_| self.stopped.is_none()) else { return };
        let Self { message, unknown, .. } = self;
        let result = step(inflater, &mut |piece| match piece {
            Inflated::Known(data) => message.add_body(data, limit),
            Inflated::Unknown(length) => {
                message.add_body_gap(length as u64);
                *unknown = unknown.saturating_add(length as u64);
            }
        });
        if let Err(error) = result {
            inflater.forget();
            self.stop(match error {
                InflateError::Damaged => "damaged",
                InflateError::ExpandsTooMuch => "expands too much",
            });
        }
    }
}

/// Fills in the message of a control frame.
pub(super) fn control(head: &WebSocketFrameHead, payload: &[u8], message: &mut Message, limit: usize) {
    let name = match head.opcode {
        CLOSE => "close",
        PING => "ping",
        PONG => "pong",
        _ => "control",
    };
    message.fields.push((&TYPE, FieldValue::Text(name.to_owned())));
    match payload {
        [high, low, reason @ ..] if head.opcode == CLOSE => {
            let code = u16::from_be_bytes([*high, *low]);
            message.fields.push((&CLOSE_CODE, FieldValue::Number(code.into())));
            let reason = String::from_utf8_lossy(reason).into_owned();
            if !reason.is_empty() {
                message.fields.push((&CLOSE_REASON, FieldValue::Text(reason)));
            }
        }
        _ => message.add_body(payload, limit),
    }
}
