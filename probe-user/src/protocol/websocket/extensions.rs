//! What both ends have agreed on when they upgraded to WebSocket.

use crate::event::Role;
use crate::protocol::Hints;

/// What both ends have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    /// Whether messages may be compressed by permessage-deflate.
    pub(super) may_deflate: bool,
    /// Whether there are extensions of other kinds, which may use the reserved bits.
    pub(super) has_others: bool,
    resets: Resets,
}

/// The ends whose compressed messages do not refer to earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Resets {
    client: bool,
    server: bool,
}

impl Agreement {
    /// What is assumed of a connection that was joined in the middle.
    pub(super) const UNKNOWN: Self =
        Self { may_deflate: true, has_others: false, resets: Resets { client: false, server: false } };

    pub(super) fn of(hints: &Hints) -> Self {
        hints.extensions.as_deref().map_or(Self::UNKNOWN, Self::parse)
    }

    /// Parses the value of the server's `Sec-WebSocket-Extensions`.
    fn parse(text: &str) -> Self {
        let mut parsed = Self { may_deflate: false, ..Self::UNKNOWN };
        for extension in text.split(',').map(str::trim).filter(|extension| !extension.is_empty()) {
            let mut words = extension.split(';').map(str::trim);
            if !words.next().is_some_and(|name| name.eq_ignore_ascii_case("permessage-deflate")) {
                parsed.has_others = true;
                continue;
            }
            parsed.may_deflate = true;
            for word in words {
                parsed.resets.client |= word.eq_ignore_ascii_case("client_no_context_takeover");
                parsed.resets.server |= word.eq_ignore_ascii_case("server_no_context_takeover");
            }
        }
        parsed
    }

    /// Whether no compressed message of an end refers to an earlier one.
    pub(super) fn resets(self, sender: Option<Role>) -> bool {
        match sender {
            Some(Role::Client) => self.resets.client,
            Some(Role::Server) => self.resets.server,
            None => self.resets.client && self.resets.server,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions() {
        let check = |text: &str, expected: [bool; 4]| {
            let Agreement { may_deflate, has_others, resets } = Agreement::parse(text);
            assert_eq!([may_deflate, has_others, resets.client, resets.server], expected, "{text}");
        };
        check("", [false, false, false, false]);
        check("permessage-deflate", [true, false, false, false]);
        let parameters = "Permessage-Deflate ;client_no_context_takeover ; server_max_window_bits=\"10\"";
        check(parameters, [true, false, true, false]);
        check("foo; bar=1, permessage-deflate; server_no_context_takeover", [true, true, false, true]);
        check(";;,, ;", [false, true, false, false]);
    }
}
