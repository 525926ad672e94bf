//! Node.js: `--use-largepages` as an option, or in the variable `NODE_OPTIONS` (Node.js's documentation,
//! "CLI").

use crate::proc::start_arguments::StartArguments;

/// The option, which is also a text in every file that has the code for it.
pub(super) const TEXT: &[u8] = b"--use-largepages";

/// The option by which a program is asked to copy its code, if it is Node.js. Options of a script count as
/// well, because the script may pass them on.
pub(super) fn request(started: &StartArguments) -> Option<String> {
    let arguments = started.arguments.iter().skip(1).map(Vec::as_slice);
    if let Some(mode) = copies(arguments) {
        return Some(format!("--use-largepages={mode}"));
    }
    let options = words(started.variable("NODE_OPTIONS")?);
    let mode = copies(options.iter().map(Vec::as_slice))?;
    Some(format!("NODE_OPTIONS=--use-largepages={mode}"))
}

/// The mode of the option in which it copies the code: `on` or `silent`, not `off`.
fn copies<'a>(words: impl Iterator<Item = &'a [u8]>) -> Option<&'static str> {
    let mode = |value: &[u8]| match value {
        b"on" => Some("on"),
        b"silent" => Some("silent"),
        _ => None,
    };
    let mut is_value = false;
    for word in words {
        if is_value && let Some(mode) = mode(word) {
            return Some(mode);
        }
        // Node.js takes underscores for dashes in names of options.
        let name: Vec<u8> =
            word.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).take(TEXT.len() + 1).collect();
        is_value = name == TEXT;
        if name.strip_prefix(TEXT) == Some(b"=")
            && let Some(mode) = word.get(TEXT.len() + 1..).and_then(mode)
        {
            return Some(mode);
        }
    }
    None
}

/// The words of `NODE_OPTIONS`: spaces separate them, quotes join them, and within quotes a backslash takes
/// the next character as it is.
fn words(text: &[u8]) -> Vec<Vec<u8>> {
    let (mut words, mut word) = (Vec::new(), Vec::new());
    let mut is_quoted = false;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if is_quoted => word.extend(bytes.next()),
            b'"' => is_quoted = !is_quoted,
            b' ' if !is_quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(*byte),
        }
    }
    words.push(word);
    words
}
