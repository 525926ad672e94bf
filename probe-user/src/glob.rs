//! Names with `*` (any characters) and `?` (one character).

use std::fmt;

/// A name, or a pattern that matches names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Accepts any text.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The pattern as it was written.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether it contains wildcards, so that it can match more than one name.
    pub fn is_pattern(&self) -> bool {
        self.0.contains(['*', '?'])
    }

    /// Whether it matches the whole name.
    pub fn matches(&self, name: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.as_str(), name);
        // Where to continue if the part after the last `*` does not match: the `*` then takes one more
        // character.
        let mut again: Option<(&str, &str)> = None;
        loop {
            let mut tail = pattern.chars();
            match (tail.next(), rest.chars().next()) {
                (Some('*'), _) => {
                    pattern = tail.as_str();
                    again = Some((pattern, rest));
                    continue;
                }
                (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                    pattern = tail.as_str();
                    rest = after_first(rest);
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            match again {
                Some((from, taken)) if !taken.is_empty() => {
                    (pattern, rest) = (from, after_first(taken));
                    again = Some((from, rest));
                }
                _ => return false,
            }
        }
    }
}

fn after_first(text: &str) -> &str {
    let mut characters = text.chars();
    characters.next();
    characters.as_str()
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Glob;

    #[test]
    fn names_match() {
        for (pattern, name, expected) in [
            ("read", "read", true),
            ("read", "reads", false),
            ("read", "rea", false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("r*d", "read", true),
            ("r*d", "red herd", true),
            ("r*d", "reads", false),
            ("*ab*ab*", "abab", true),
            ("*ab*ab*", "abba", false),
            ("?", "ä", true),
            ("??", "ä", false),
            ("main.handle*", "main.handleIndex", true),
            ("a*a*a*a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(name), expected, "{pattern} {name}");
        }
    }
}
