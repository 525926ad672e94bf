//! Media types and what else has parameters: `text/html; charset="utf-8"`.

/// The most parameters of a value that are read. Those in use have one or two.
const MAX_PARAMETERS: usize = 32;

/// A media type, or another value with parameters.
pub(super) struct MediaType {
    /// What is in front of the parameters, in lower case.
    pub(super) essence: String,
    /// The parameters with their names in lower case.
    parameters: Vec<(String, String)>,
}

impl MediaType {
    /// Parses a value. None if it is empty.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (essence, mut rest) = text.split_once(';').unwrap_or((text, ""));
        let essence = essence.trim().to_ascii_lowercase();
        let mut parameters = Vec::new();
        while !rest.is_empty() && parameters.len() < MAX_PARAMETERS {
            let (name, after) = match rest.find(['=', ';']) {
                Some(at) => rest.split_at_checked(at)?,
                None => (rest, ""),
            };
            let name = name.trim().to_ascii_lowercase();
            let Some(value) = after.strip_prefix('=') else {
                rest = after.strip_prefix(';').unwrap_or_default();
                continue;
            };
            let value = value.trim_start();
            let (value, after) = value.strip_prefix('"').map_or_else(|| unescaped(value), unquoted);
            parameters.push((name, value));
            rest = after.split_once(';').map_or("", |(_, rest)| rest);
        }
        (!essence.is_empty()).then_some(Self { essence, parameters })
    }

    /// The value of a parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(has, _)| has == name).map(|(_, value)| value.as_str())
    }
}

/// A text that is not quoted, and what follows it.
fn unescaped(text: &str) -> (String, &str) {
    let end = text.find(';').unwrap_or(text.len());
    let (value, after) = text.split_at_checked(end).unwrap_or((text, ""));
    (value.trim_end().to_owned(), after)
}

/// The contents of a quoted text, and what follows it.
fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, text.get(at + 1..).unwrap_or_default()),
            // Browsers do not escape the backslashes of a file's name, so only these two are escapes.
            '\\' if text.get(at + 1..).is_some_and(|rest| rest.starts_with(['"', '\\'])) => {
                value.extend(chars.next().map(|(_, c)| c));
            }
            _ => value.push(c),
        }
    }
    (value, "")
}
