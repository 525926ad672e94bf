//! Secrets in the values of fields, which records do not show unless asked to.
//!
//! Owns which names are secret, and what of a secret value is shown: its length in characters, and its scheme
//! if it has a known one (`Bearer ***(184)`). In doubt more is hidden, never less.

mod names;

use std::borrow::Cow;
use std::collections::HashSet;

use super::{Field, FieldValue, HeaderField, Overview, Statement};

/// The field that is a query: it begins with the name of a parameter.
const QUERY: &str = "url.query";
/// The field that is the authority of a URL, without a scheme before it.
const HOST: &str = "server.address";
/// How often percent-encoding is removed to find a secret below it: a URL within a parameter of a URL within
/// a parameter.
const MAX_ENCODED: usize = 3;
/// The characters after which a parameter may begin, beside `&`: of a query, of a path (`;jsessionid=`), of
/// a fragment.
const INTRODUCERS: [char; 3] = ['?', ';', '#'];

/// Whether records show secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Secrets {
    /// They show the length of each.
    #[default]
    Redacted,
    /// They show them.
    Shown,
}

/// What is hidden of the values of fields.
#[derive(Clone, Debug, Default)]
pub struct Redaction {
    secrets: Secrets,
    /// Names that the user added.
    names: HashSet<String>,
}

/// What a text begins with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Parameter,
    Other,
}

impl Redaction {
    /// Hides secrets, and the values of header fields and parameters of the names given, in any spelling.
    pub fn new(secrets: Secrets, names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let names = names.into_iter().map(|name| names::reduced(name.as_ref()));
        Self { secrets, names: names.filter(|name| !name.is_empty()).collect() }
    }

    /// The value of a field without its secrets.
    pub fn value<'a>(&self, field: &Field, value: &'a FieldValue) -> Cow<'a, FieldValue> {
        if let FieldValue::Statement(statement) = value {
            return Cow::Owned(FieldValue::Text(self.statement(statement)));
        }
        if self.secrets == Secrets::Shown {
            return Cow::Borrowed(value);
        }
        match value {
            FieldValue::Text(text) => match self.text(field, text) {
                Cow::Borrowed(_) => Cow::Borrowed(value),
                Cow::Owned(text) => Cow::Owned(FieldValue::Text(text)),
            },
            FieldValue::List(list) => {
                Cow::Owned(FieldValue::List(list.iter().map(|text| self.url(text).into_owned()).collect()))
            }
            FieldValue::Headers(list) => {
                let shown = |header: &HeaderField| HeaderField {
                    name: header.name.clone(),
                    value: header
                        .value
                        .as_deref()
                        .map(|value| self.header(header.name.as_deref(), value).into_owned()),
                };
                Cow::Owned(FieldValue::Headers(list.iter().map(shown).collect()))
            }
            FieldValue::Number(_) | FieldValue::Unknown | FieldValue::Statement(_) => Cow::Borrowed(value),
        }
    }

    /// An overview without secrets.
    pub fn overview(&self, overview: Overview) -> Overview {
        let kept = |text: String, redacted: Option<String>| redacted.unwrap_or(text);
        let owned = |text: Cow<'_, str>| match text {
            Cow::Owned(text) => Some(text),
            Cow::Borrowed(_) => None,
        };
        let target = overview.target.map(|target| {
            let redacted = owned(self.url(&target));
            kept(target, redacted)
        });
        let host = overview.host.map(|host| {
            let redacted = owned(self.authority(&host));
            kept(host, redacted)
        });
        let target = overview.statement.as_ref().map(|statement| self.statement(statement)).or(target);
        Overview { host, target, ..overview }
    }

    /// A statement without its values.
    pub fn statement(&self, statement: &Statement) -> String {
        match self.secrets {
            Secrets::Shown => statement.text(),
            Secrets::Redacted => statement.without_values(),
        }
    }

    fn text<'a>(&self, field: &Field, text: &'a str) -> Cow<'a, str> {
        match field.path {
            QUERY => self.query(text),
            HOST => self.authority(text),
            _ => self.url(text),
        }
    }

    /// The value of a header field without secrets. A field whose name is unknown may be any.
    pub fn header<'a>(&self, name: Option<&str>, value: &'a str) -> Cow<'a, str> {
        if self.secrets == Secrets::Shown || value.is_empty() {
            return Cow::Borrowed(value);
        }
        let name = name.map(names::reduced).unwrap_or_default();
        match name.as_str() {
            "cookie" | "cookie2" => Cow::Owned(cookies(value, |_, _| false)),
            "setcookie" | "setcookie2" => Cow::Owned(cookies(value, is_harmless_attribute)),
            "" => Cow::Owned(credentials(value)),
            _ if self.names.contains(&name) => Cow::Owned(masked(value)),
            _ if names::is_secret_header(&name) => Cow::Owned(credentials(value)),
            "secwebsocketprotocol" => subprotocols(value),
            "host" | "authority" => self.authority(value),
            _ => self.url(value),
        }
    }

    /// A text with URLs, or parts of them, without secrets: passwords, and the values of secret parameters.
    pub fn url<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.parts(text, Start::Other)
    }

    /// A query or a form without secrets.
    pub fn query<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.parts(text, Start::Parameter)
    }

    fn authority<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match (self.secrets, text.rfind('@').and_then(|at| text.split_at_checked(at))) {
            (Secrets::Redacted, Some((user, host))) => Cow::Owned(user_masked(user) + host),
            _ => Cow::Borrowed(text),
        }
    }

    fn parts<'a>(&self, text: &'a str, start: Start) -> Cow<'a, str> {
        let is_plain = || memchr::memchr3(b'=', b'%', b'@', text.as_bytes()).is_none();
        if self.secrets == Secrets::Shown || is_plain() {
            return Cow::Borrowed(text);
        }
        let text = without_passwords(text).map_or(Cow::Borrowed(text), Cow::Owned);
        match self.parameters(&text, start) {
            Some(redacted) => Cow::Owned(redacted),
            None => text,
        }
    }

    /// The text without the values of secret parameters. None if there are none.
    fn parameters(&self, text: &str, start: Start) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let mut has_secret = false;
        for (index, part) in text.split('&').enumerate() {
            let start = if index == 0 { start } else { Start::Parameter };
            if index > 0 {
                out.push('&');
            }
            let secret = self.secret_within(part, start).and_then(|at| part.split_at_checked(at));
            match secret {
                Some((shown, secret)) if !secret.is_empty() => {
                    has_secret = true;
                    out.push_str(shown);
                    out.push_str(&masked(secret));
                }
                _ => out.push_str(part),
            }
        }
        has_secret.then_some(out)
    }

    /// Where a secret begins within a part of a text between two `&`. It ends at the end of the part: what
    /// looks like another parameter may belong to it.
    fn secret_within(&self, part: &str, start: Start) -> Option<usize> {
        if let Some(at) = self.plain_secret(part, start) {
            return Some(at);
        }
        let encoded = part.find('%')?;
        let mut decoded = Cow::Borrowed(part);
        for _ in 0..MAX_ENCODED {
            if !decoded.contains('%') {
                break;
            }
            decoded = Cow::Owned(percent_decoded(&decoded));
            let mut parts = decoded.split('&');
            let is_secret = without_passwords(&decoded).is_some()
                || parts.next().is_some_and(|part| self.plain_secret(part, start).is_some())
                || parts.any(|part| self.plain_secret(part, Start::Parameter).is_some());
            if is_secret {
                // The first `%` is in front of the secret or within it. What is in front of that may be a
                // part of the secret only if it is the value of a parameter or follows a scheme.
                let begins = [part.find('=').map(|at| at + 1), part.find("://").map(|at| at + 3)];
                return begins.into_iter().flatten().chain([encoded]).min();
            }
        }
        None
    }

    /// The same for names that are not encoded as a whole.
    fn plain_secret(&self, part: &str, start: Start) -> Option<usize> {
        let first = (start == Start::Parameter).then_some(0);
        let others = part.match_indices(INTRODUCERS).map(|(at, _)| at + 1);
        for begin in first.into_iter().chain(others) {
            let rest = part.get(begin..)?;
            let end = rest.find(['=', '?', ';', '#']).unwrap_or(rest.len());
            let (name, rest) = rest.split_at_checked(end)?;
            if rest.starts_with('=') && self.is_secret_parameter(name) {
                return Some(begin + end + 1);
            }
        }
        None
    }

    /// Whether a parameter is secret: `token`, `p%61ssword`, `user[password]`, `auth.token`.
    fn is_secret_parameter(&self, name: &str) -> bool {
        let mut name = Cow::Borrowed(name);
        for _ in 0..MAX_ENCODED {
            if name.contains('%') {
                name = Cow::Owned(percent_decoded(&name));
            }
        }
        let is_secret = |part: &str| {
            let part = names::reduced(part);
            names::is_secret_parameter(&part) || self.names.contains(&part)
        };
        is_secret(&name) || name.split(['[', ']', '.']).any(is_secret)
    }
}

/// What is shown of a secret.
fn masked(secret: &str) -> String {
    format!("***({})", secret.chars().count())
}

fn is_masked(text: &str) -> bool {
    let length = text.strip_prefix("***(").and_then(|rest| rest.strip_suffix(')'));
    length.is_some_and(|length| length.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What is shown of credentials: their scheme, if it is known, and their length.
fn credentials(value: &str) -> String {
    let value = value.trim();
    match value.split_once([' ', '\t']) {
        Some((scheme, rest)) if names::is_scheme(scheme) && !rest.trim().is_empty() => {
            format!("{scheme} {}", masked(rest.trim()))
        }
        _ => masked(value),
    }
}

/// Cookies with their names, but without their values. `is_shown` says which name and value are shown.
fn cookies(value: &str, is_shown: fn(&str, &str) -> bool) -> String {
    let mut out = String::new();
    let mut rest = value;
    let mut is_first = true;
    loop {
        let end = cookie_length(rest);
        let (cookie, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let trimmed = cookie.trim_start();
        let indent = cookie.len() - trimmed.len();
        out.push_str(cookie.get(..indent).unwrap_or_default());
        match trimmed.split_once('=') {
            Some((name, value)) if !is_first && is_shown(name.trim(), value) => out.push_str(trimmed),
            None if trimmed.is_empty() || !is_first && is_shown(trimmed.trim(), "") => out.push_str(trimmed),
            Some((name, value)) if !value.is_empty() => {
                out.push_str(name);
                out.push('=');
                out.push_str(&masked(value));
            }
            Some(_) => out.push_str(trimmed),
            None => out.push_str(&masked(trimmed)),
        }
        is_first = false;
        let Some(next) = after.strip_prefix(';') else { return out };
        out.push(';');
        rest = next;
    }
}

/// The length of the first cookie, up to its `;`. One within quotes belongs to the value.
fn cookie_length(text: &str) -> usize {
    let end = text.find(';').unwrap_or(text.len());
    let Some(begin) = text.get(..end).and_then(|cookie| cookie.find("=\"")).map(|at| at + 2) else {
        return end;
    };
    let Some(close) = text.get(begin..).and_then(|quoted| quoted.find('"')) else { return text.len() };
    let after = begin + close;
    text.get(after..).and_then(|rest| rest.find(';')).map_or(text.len(), |at| after + at)
}

/// Whether a part of `Set-Cookie` is an attribute with a value that can hold no other cookie: some programs
/// join several of these fields by commas.
fn is_harmless_attribute(name: &str, value: &str) -> bool {
    let is_date = name.eq_ignore_ascii_case("expires");
    names::is_cookie_attribute(name) && !value.contains('=') && (is_date || !value.contains(','))
}

/// The protocols that a client of WebSocket offers. Browsers can send credentials only there.
fn subprotocols(value: &str) -> Cow<'_, str> {
    /// Longer than all registered names.
    const MAX_NAME: usize = 40;
    let mut follows_word = false;
    let mut is_secret = |item: &str| {
        let item = item.trim();
        let name = names::reduced(item);
        let has_word = ["bearer", "token", "apikey", "auth", "jwt", "secret"].iter();
        let has_word = has_word.clone().any(|word| name.contains(word));
        let is_secret = follows_word || item.len() > MAX_NAME || (has_word && item.contains('.'));
        follows_word = has_word && !is_secret;
        is_secret
    };
    let items: Vec<String> = value
        .split(',')
        .map(|item| if is_secret(item) { format!(" {}", masked(item.trim())) } else { item.to_owned() })
        .collect();
    Cow::Owned(items.join(",").trim_start().to_owned())
}

/// The text without the passwords of URLs. None if there are none.
fn without_passwords(text: &str) -> Option<String> {
    let last_at = text.rfind('@')?;
    let mut out = String::new();
    let mut rest = text;
    let mut is_changed = false;
    let mut next = if text.starts_with("//") { Some(2) } else { text.find("://").map(|at| at + 3) };
    while let Some((before, after)) = next.and_then(|at| rest.split_at_checked(at)) {
        out.push_str(before);
        rest = after;
        let last_at = last_at.checked_sub(text.len() - rest.len());
        if let Some((user, host)) = user_length(rest, last_at).and_then(|at| rest.split_at_checked(at)) {
            let shown = user_masked(user);
            is_changed |= shown != user;
            out.push_str(&shown);
            rest = host;
        }
        next = rest.find("://").map(|at| at + 3);
    }
    out.push_str(rest);
    is_changed.then_some(out)
}

/// The length of the user and the password at the beginning of a text that follows `://`. They end at the
/// last `@` of the authority. A password that is not encoded may hold a `/`, so that what is before that
/// would be the port: then they end at `last_at`.
fn user_length(text: &str, last_at: Option<usize>) -> Option<usize> {
    let end = text.find(['/', '?', '#']).unwrap_or(text.len());
    let authority = text.get(..end)?;
    if let Some(at) = authority.rfind('@') {
        return Some(at);
    }
    let port = authority.rsplit_once(']').map_or(authority, |(_, port)| port).split_once(':')?.1;
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if is_port { None } else { last_at }
}

/// A user and a password without the password. A user whose password is missing, or says so, is a token.
fn user_masked(user: &str) -> String {
    match user.split_once(':') {
        Some((_, password)) if is_masked(password) => user.to_owned(),
        Some((user, password)) if !["", "x-oauth-basic"].contains(&password) => {
            format!("{user}:{}", masked(password))
        }
        _ if user.is_empty() || is_masked(user) => user.to_owned(),
        _ => masked(user),
    }
}

/// Removes one layer of percent-encoding. U+FFFD stands for what is not UTF-8 then.
pub(crate) fn percent_decoded(text: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let value = match (digit(bytes.get(index + 1)), digit(bytes.get(index + 2))) {
            (Some(high), Some(low)) if byte == b'%' => u8::try_from(high << 4 | low).ok(),
            _ => None,
        };
        out.push(value.unwrap_or(byte));
        index += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests;
