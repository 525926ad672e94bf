//! Whether both what an implementation sends and what it receives is seen.

use crate::event::Direction;
use crate::plan::Hook;
use crate::probe::{ProbeMatch, UnseenPart};

/// How many reasons are given.
const REASONS: usize = 2;

/// The hooks of one implementation: those that are added between [`DirectionCheck::begin`] and
/// [`DirectionCheck::end`].
pub(super) struct DirectionCheck {
    hooks: usize,
    skipped: usize,
    shared: Vec<Direction>,
}

impl DirectionCheck {
    pub(super) fn begin(found: &ProbeMatch) -> Self {
        Self { hooks: found.hooks.len(), skipped: found.skipped.len(), shared: Vec::new() }
    }

    /// Takes note of a function that is hooked already, as part of another implementation: the linker folds
    /// identical code.
    pub(super) fn share(&mut self, hook: &Hook) {
        self.shared.extend(hook.direction());
    }

    /// Adds what is not seen of an implementation of this name.
    pub(super) fn end(self, name: &str, found: &mut ProbeMatch) {
        let hooks = found.hooks.get(self.hooks..).unwrap_or_default();
        let sees = |direction| {
            hooks.iter().any(|hook| hook.direction() == Some(direction)) || self.shared.contains(&direction)
        };
        let reasons = found.skipped.iter().skip(self.skipped).take(REASONS).map(String::as_str);
        let reasons = match reasons.collect::<Vec<_>>().join("; ") {
            none if none.is_empty() => "no function that does it was found".to_owned(),
            reasons => reasons,
        };
        let message = |what: &str| format!("{name}: what it {what} is not seen: {reasons}");
        let part = match (sees(Direction::Receive), sees(Direction::Transmit)) {
            (true, true) => return,
            (true, false) => UnseenPart::Direction(Direction::Transmit, message("sends")),
            (false, true) => UnseenPart::Direction(Direction::Receive, message("receives")),
            (false, false) => UnseenPart::Other(message("sends and receives")),
        };
        found.unseen.push(part);
    }
}

#[cfg(test)]
mod tests {
    use probe_common::{CallShape, Calls, IoDirection, LengthSource};

    use super::*;
    use crate::elf::FileOffset;
    use crate::plan::ProbeProgram;

    fn hook(direction: IoDirection) -> Hook {
        let length = LengthSource::Returned;
        let shape = CallShape { handle: 0, buffer: 1, length, direction, calls: Calls::All };
        Hook::new(ProbeProgram::Io, "x".into(), FileOffset(0), shape.pack())
    }

    fn check(directions: &[IoDirection], skipped: &[&str], expected: &[UnseenPart]) {
        let mut found = ProbeMatch { skipped: vec!["SSL_peek: of another".into()], ..ProbeMatch::default() };
        let begun = DirectionCheck::begin(&found);
        found.hooks.extend(directions.iter().map(|direction| hook(*direction)));
        found.skipped.extend(skipped.iter().map(|reason| (*reason).to_owned()));
        begun.end("TLS", &mut found);
        assert_eq!(found.unseen, expected);
    }

    #[test]
    fn a_missing_direction_is_named_with_its_reasons() {
        use IoDirection::{Receive, Transmit};
        let none = "no function that does it was found";
        check(&[Receive, Transmit], &["SSL_read_ex: why"], &[]);
        let sends = format!("TLS: what it sends is not seen: {none}");
        check(&[Receive], &[], &[UnseenPart::Direction(Direction::Transmit, sends)]);
        let receives = "TLS: what it receives is not seen: a: b; c: d".to_owned();
        check(&[Transmit], &["a: b", "c: d", "e: f"], &[UnseenPart::Direction(Direction::Receive, receives)]);
        let both = "TLS: what it sends and receives is not seen: a: b".to_owned();
        check(&[], &["a: b"], &[UnseenPart::Other(both)]);
        let mut found = ProbeMatch::default();
        let mut begun = DirectionCheck::begin(&found);
        for direction in [Receive, Transmit] {
            begun.share(&hook(direction));
        }
        begun.end("TLS", &mut found);
        assert_eq!(found.unseen, []);
    }
}
