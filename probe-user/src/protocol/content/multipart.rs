//! Bodies of several parts: forms with files, mixed bodies, ranges.

use std::fmt;

use memchr::memmem;

use super::Whole;
use super::charset;
use super::media_type::MediaType;
use crate::event::percent_decoded;

/// The most parts that are shown.
const MAX_PARTS: usize = 100;
/// The most bytes of the head of a part. Those in use have some hundred.
const MAX_HEAD: usize = 16 * 1024;
/// The longest boundary. The standard allows 70.
const MAX_BOUNDARY: usize = 256;

/// A part.
#[derive(Clone, PartialEq, Eq)]
pub struct FormPart<'a> {
    /// The name of the field.
    pub name: Option<String>,
    /// The name of the file.
    pub file_name: Option<String>,
    /// The media type with its parameters.
    pub media_type: Option<String>,
    /// The contents, as far as they were kept.
    pub data: &'a [u8],
    /// Whether that is all.
    pub whole: Whole,
}

impl fmt::Debug for FormPart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { data, whole, .. } = self;
        write!(f, "FormPart({} bytes, whole: {whole:?})", data.len())
    }
}

/// The parts of a body, in order. The last one may be cut off.
pub(super) fn parts<'a>(data: &'a [u8], boundary: &str, is_whole: Whole) -> Vec<FormPart<'a>> {
    if boundary.is_empty() || boundary.len() > MAX_BOUNDARY {
        return Vec::new();
    }
    let delimiter = format!("--{boundary}");
    let finder = memmem::Finder::new(&delimiter);
    // A delimiter is at the beginning of a line.
    let is_line = |at: usize| at == 0 || data.get(at - 1) == Some(&b'\n');
    let mut delimiters = finder.find_iter(data).filter(|at| is_line(*at));
    let mut parts = Vec::new();
    let Some(mut begin) = delimiters.next() else { return parts };
    while parts.len() < MAX_PARTS {
        let Some(rest) = data.get(begin + delimiter.len()..).filter(|rest| !rest.starts_with(b"--")) else {
            break;
        };
        let Some(line) = memchr::memchr(b'\n', rest) else { break };
        let start = begin + delimiter.len() + line + 1;
        let next = delimiters.next();
        let Some(part) = data.get(start..next.unwrap_or(data.len())) else { break };
        let whole = if next.is_some() { Whole::Yes } else { is_whole };
        let without_line_end = |part: FormPart<'a>| FormPart { data: without_line_end(part.data), ..part };
        let part = parse(part, whole);
        parts.extend(if next.is_some() { part.map(without_line_end) } else { part });
        let Some(next) = next else { break };
        begin = next;
    }
    parts
}

fn parse(part: &[u8], whole: Whole) -> Option<FormPart<'_>> {
    let mut parsed = FormPart { name: None, file_name: None, media_type: None, data: &[], whole };
    let mut rest = part;
    loop {
        if part.len() - rest.len() > MAX_HEAD {
            return None;
        }
        let Some(end) = memchr::memchr(b'\n', rest) else { break };
        let line = rest.get(..end)?.trim_ascii();
        rest = rest.get(end + 1..)?;
        if line.is_empty() {
            parsed.data = rest;
            return Some(parsed);
        }
        let line = charset::text(line, None, Whole::Yes).unwrap_or_default();
        let Some((name, value)) = line.split_once(':') else { continue };
        match name.trim().to_ascii_lowercase().as_str() {
            "content-type" => parsed.media_type = Some(value.trim().to_owned()),
            "content-disposition" => {
                let value = MediaType::parse(value)?;
                let parameter = |name: &str| {
                    let extended = value.parameter(&format!("{name}*")).and_then(extended);
                    extended.or_else(|| value.parameter(name).map(str::to_owned))
                };
                (parsed.name, parsed.file_name) = (parameter("name"), parameter("filename"));
            }
            _ => {}
        }
    }
    // Its head is cut off.
    Some(FormPart { whole: Whole::No, ..parsed })
}

/// The line end in front of a delimiter belongs to the delimiter.
fn without_line_end(data: &[u8]) -> &[u8] {
    let data = data.strip_suffix(b"\n").unwrap_or(data);
    data.strip_suffix(b"\r").unwrap_or(data)
}

/// The value of a parameter whose name ends with `*`: `UTF-8''na%C3%AFve`.
fn extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_, text) = rest.split_once('\'')?;
    charset.eq_ignore_ascii_case("utf-8").then(|| percent_decoded(text))
}
