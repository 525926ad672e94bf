//! The smallest protocol: each line of the client is a request, and each line of the server answers the next
//! one.

use crate::event::{Direction, Field, FieldKind, FieldValue, Overview, Role};
use crate::protocol::*;

const TEXT: Field = Field { path: "line.text", help: "The line", kind: FieldKind::Text };

pub(crate) const LINE: Protocol = Protocol {
    name: "line",
    help: "Lines that are answered by lines",
    ports: &[7],
    has_exchanges: true,
    fields: &[TEXT],
    overview: |_, _| Overview::default(),
    detect: |prefix| {
        let is_line = prefix.sides().iter().any(|side| side.data.starts_with(b"line "));
        if is_line { Detect::Yes } else { Detect::No }
    },
    open: |hints| Box::new(LineDecoder { role: hints.role.unwrap_or(Role::Client), lines: [0; 2] }),
};

#[derive(Debug)]
struct LineDecoder {
    role: Role,
    /// The number of lines by direction.
    lines: [u64; 2],
}

impl Decoder for LineDecoder {
    fn data(&mut self, from: Direction, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        let Some(end) = input.data.iter().position(|byte| *byte == b'\n') else { return Ok(Step::More) };
        let is_asked = (from == Direction::Transmit) == (self.role == Role::Client);
        let kind = if is_asked { MessageKind::Request } else { MessageKind::Response };
        let count = &mut self.lines[usize::from(is_asked)];
        *count += 1;
        let mut line = Message::new(LINE.name, kind, from, input.time(0).unwrap_or_default());
        line.id = Some(*count);
        line.fields.push((&TEXT, FieldValue::Text(String::from_utf8_lossy(&input.data[..end]).into())));
        out.push(line);
        Ok(Step::Taken(end + 1))
    }

    fn gap(&mut self, _: Direction, _: Gap, _: &mut Messages) {}

    fn end(&mut self, _: &mut Messages) {}
}
