//! Server-sent events: the `text/event-stream` of the HTML standard.
//!
//! Each event becomes a message whose body is its data. Nothing but the part of the data that is kept and the
//! names are held, whatever the length of a line.

use jiff::Timestamp;

use super::http::PART_TYPE;
use super::{Message, MessageKind, Messages};
use crate::event::FieldValue;

/// The longest name of an event that is kept. Names are identifiers of a few words.
const MAX_EVENT_NAME: usize = 256;
/// The longest name of a field that has a meaning is `event`, which a byte order mark may precede.
const MAX_FIELD_NAME: usize = 16;
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A stream of events.
#[derive(Clone, Debug, Default)]
pub(super) struct EventStream {
    /// The event that is being read.
    event: Option<Message>,
    /// The name of that event.
    event_name: Vec<u8>,
    /// The number of its lines of data.
    data_lines: u64,
    line: Line,
    /// Whether the last byte was a carriage return, to whose line end a following line feed belongs.
    follows_cr: bool,
    /// Whether a byte of the stream was seen, after which no byte order mark comes.
    has_begun: bool,
    /// Whether bytes are missing, so that nothing makes sense up to the next empty line.
    is_lost: bool,
}

/// The line that is being read.
#[derive(Clone, Debug, Default)]
struct Line {
    /// Whether it has any bytes.
    has_bytes: bool,
    /// The name of the field, as far as it was read.
    name: Vec<u8>,
    /// The field whose value is being read.
    field: Option<LineField>,
    /// Whether a byte of the value was read.
    has_value: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineField {
    Data,
    Event,
    Other,
}

impl EventStream {
    /// Reads bytes of the body of a response.
    pub(super) fn data(&mut self, response: &Message, data: &[u8], time: Timestamp, out: &mut Messages) {
        let mut rest = data;
        while let Some(&first) = rest.first() {
            if std::mem::take(&mut self.follows_cr) && first == b'\n' {
                self.count(1);
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            let end = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
            let (text, after) = rest.split_at_checked(end).unwrap_or_default();
            self.text(response, text, time, out);
            let Some((&terminator, after)) = after.split_first() else { return };
            self.follows_cr = terminator == b'\r';
            self.count(1);
            self.end_line(time, out);
            rest = after;
        }
    }

    /// Handles missing bytes.
    pub(super) fn gap(&mut self, missing: u64, out: &mut Messages) {
        if let Some(event) = &mut self.event {
            event.partial.missing = event.partial.missing.saturating_add(missing);
        }
        self.end(out);
        *self = Self { is_lost: true, has_begun: true, ..Self::default() };
        // How the line begins is unknown, so its end is not an empty line.
        self.line.has_bytes = true;
    }

    /// Ends the stream. Without an empty line after it, an event is not complete.
    pub(super) fn end(&mut self, out: &mut Messages) {
        if let Some(mut event) = self.event.take()
            && self.data_lines > 0
        {
            event.partial.lacks_end = true;
            self.push(event, out);
        }
    }

    /// Counts bytes of the event that is being read.
    fn count(&mut self, bytes: usize) {
        if let Some(event) = &mut self.event {
            event.length = event.length.saturating_add(bytes as u64);
        }
    }

    /// Reads bytes of a line.
    fn text(&mut self, response: &Message, text: &[u8], time: Timestamp, out: &mut Messages) {
        if text.is_empty() {
            return;
        }
        self.line.has_bytes = true;
        if self.is_lost {
            return;
        }
        let event = self.event.get_or_insert_with(|| {
            let mut event = Message::new(response.protocol, MessageKind::Event, response.direction, time);
            event.join_exchange_of(response);
            event
        });
        event.last = time;
        self.count(text.len());
        if self.line.field.is_some() {
            return self.value(text, out);
        }
        let colon = memchr::memchr(b':', text);
        let name = text.get(..colon.unwrap_or(text.len())).unwrap_or_default();
        let room = (MAX_FIELD_NAME + 1).saturating_sub(self.line.name.len()).min(name.len());
        self.line.name.extend_from_slice(name.get(..room).unwrap_or_default());
        if let Some(colon) = colon {
            self.begin_value(out);
            self.value(text.get(colon + 1..).unwrap_or_default(), out);
        }
    }

    /// The name of the field is complete.
    fn begin_value(&mut self, out: &mut Messages) {
        let mut name = self.line.name.as_slice();
        if !std::mem::replace(&mut self.has_begun, true) {
            name = name.strip_prefix(BYTE_ORDER_MARK).unwrap_or(name);
        }
        let field = match name {
            b"data" => LineField::Data,
            b"event" => LineField::Event,
            _ => LineField::Other,
        };
        self.line.field = Some(field);
        match field {
            LineField::Data => {
                if let Some(event) = &mut self.event
                    && self.data_lines > 0
                {
                    event.add_body(b"\n", out.body_limit());
                }
                self.data_lines = self.data_lines.saturating_add(1);
            }
            LineField::Event => self.event_name.clear(),
            LineField::Other => {}
        }
    }

    fn value(&mut self, text: &[u8], out: &Messages) {
        let Some(&first) = text.first() else { return };
        let is_first = !std::mem::replace(&mut self.line.has_value, true);
        let text = if is_first && first == b' ' { text.get(1..).unwrap_or_default() } else { text };
        match self.line.field {
            Some(LineField::Data) => {
                if let Some(event) = &mut self.event {
                    event.add_body(text, out.body_limit());
                }
            }
            Some(LineField::Event) => {
                let room = MAX_EVENT_NAME.saturating_sub(self.event_name.len()).min(text.len());
                self.event_name.extend_from_slice(text.get(..room).unwrap_or_default());
            }
            Some(LineField::Other) | None => {}
        }
    }

    fn end_line(&mut self, time: Timestamp, out: &mut Messages) {
        if self.line.has_bytes {
            if !self.is_lost && self.line.field.is_none() {
                self.begin_value(out);
            }
        } else if !std::mem::take(&mut self.is_lost)
            && let Some(mut event) = self.event.take()
        {
            event.last = time;
            if self.data_lines > 0 {
                self.push(event, out);
            }
            self.data_lines = 0;
            self.event_name.clear();
        }
        self.has_begun = true;
        self.line = Line::default();
    }

    fn push(&mut self, mut event: Message, out: &mut Messages) {
        if !self.event_name.is_empty() {
            let name = String::from_utf8_lossy(&self.event_name).into_owned();
            event.fields.push((&PART_TYPE, FieldValue::Text(name)));
        }
        out.push(event);
    }
}

#[cfg(test)]
mod tests;
