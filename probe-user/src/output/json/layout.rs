//! Fields by their paths → the text of objects that are nested at the dots.
//!
//! Owns where each field is in that text. It depends on the paths alone, and most records of a trace have the
//! same ones: so it is determined once for each list of paths, as the text before each value. What peers send
//! decides which fields there are, so the number of layouts is limited.

use std::fmt::{self, Write as _};
use std::num::NonZeroUsize;

use lru::LruCache;

use super::line::TimeText;
use super::nested::Leaf;

/// The most layouts that are kept. The least recently used one is determined anew.
const LAYOUTS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// A field of an object by its path.
pub(super) type FieldOf<'a> = (&'static str, Leaf<'a>);

/// Where the fields of a list are in the text.
struct Layout {
    /// The paths of the list.
    paths: Vec<&'static str>,
    /// For each value in the order of the text: the text before it, and its index in the list.
    values: Vec<(String, usize)>,
    /// The text after the last one.
    end: String,
}

/// The layouts so far.
pub(super) struct Layouts {
    /// By a hash of their paths.
    known: LruCache<u64, Layout>,
    /// The memory of the last record's fields, for those of the next one.
    spare: Vec<FieldOf<'static>>,
    times: TimeText,
}

impl fmt::Debug for Layouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layouts").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

impl Layouts {
    pub(super) fn new() -> Self {
        Self { known: LruCache::sparse(LAYOUTS), spare: Vec::new(), times: TimeText::default() }
    }

    /// An empty list of fields.
    pub(super) fn fields<'a>(&mut self) -> Vec<FieldOf<'a>> {
        recycled(std::mem::take(&mut self.spare))
    }

    /// Appends the object of these fields. Of fields with the same path, the first one counts.
    pub(super) fn append(&mut self, fields: Vec<FieldOf<'_>>, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let hash = hash(&fields);
        let is_of = |layout: &Layout| {
            let paths = fields.iter().map(|(path, _)| *path);
            layout.paths.len() == fields.len()
                && layout.paths.iter().zip(paths).all(|(one, other)| is_same(one, other))
        };
        if !self.known.get(&hash).is_some_and(is_of) {
            self.known.put(hash, Layout::of(fields.iter().map(|(path, _)| *path).collect()));
        }
        let Some(layout) = self.known.peek(&hash) else { return Ok(()) };
        for (text, index) in &layout.values {
            out.extend_from_slice(text.as_bytes());
            if let Some((_, leaf)) = fields.get(*index) {
                leaf.append(&mut self.times, out)?;
            }
        }
        out.extend_from_slice(layout.end.as_bytes());
        self.spare = recycled(fields);
        Ok(())
    }
}

/// An empty list in the memory of another one.
fn recycled<'to>(mut fields: Vec<FieldOf<'_>>) -> Vec<FieldOf<'to>> {
    fields.clear();
    // Nothing is left to be converted. Collecting from a list of the same size of elements takes its memory.
    fields.into_iter().map_while(|_| None).collect()
}

/// Paths are constants: the same one is at the same address. If it is not, there is one more layout.
fn is_same(one: &'static str, other: &'static str) -> bool {
    std::ptr::eq(one, other)
}

fn hash(fields: &[FieldOf<'_>]) -> u64 {
    /// An odd number without a pattern in its bits.
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    fields.iter().fold(fields.len() as u64, |hash, (path, _)| {
        (hash.rotate_left(5) ^ path.as_ptr().addr() as u64 ^ (path.len() as u64) << 56).wrapping_mul(MIX)
    })
}

impl Layout {
    fn of(paths: Vec<&'static str>) -> Self {
        let mut sorted: Vec<(&'static str, usize)> = paths.iter().copied().zip(0..).collect();
        sorted.sort_by_key(|(path, _)| *path);
        sorted.dedup_by_key(|(path, _)| *path);
        let mut layout = Self { paths, values: Vec::new(), end: String::new() };
        let mut text = String::new();
        layout.level(&sorted, 0, &mut text);
        layout.end = text;
        layout
    }

    /// Adds the object of sorted fields whose paths are equal in the first `depth` bytes. `text` is what
    /// comes before the next value.
    fn level(&mut self, fields: &[(&'static str, usize)], depth: usize, text: &mut String) {
        let name =
            |path: &'static str| path.get(depth..).unwrap_or_default().split('.').next().unwrap_or_default();
        text.push('{');
        for (index, same) in fields.chunk_by(|one, other| name(one.0) == name(other.0)).enumerate() {
            let Some(&(path, field)) = same.first() else { continue };
            let comma = if index > 0 { "," } else { "" };
            // Names of fields need no escapes. Writing to a String cannot fail.
            let _ = write!(text, "{comma}\"{}\":", name(path));
            let end = depth + name(path).len();
            if end == path.len() {
                self.values.push((std::mem::take(text), field));
            } else {
                self.level(same, end + 1, text);
            }
        }
        text.push('}');
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn check(layouts: &mut Layouts, paths: &[&'static str], expected: &str) {
        let mut fields = layouts.fields();
        fields.extend(paths.iter().zip(1..).map(|(path, number)| (*path, Leaf::Number(number))));
        let mut text = Vec::new();
        layouts.append(fields, &mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), expected, "{paths:?}");
    }

    #[test]
    fn paths_become_nested_objects() {
        let mut layouts = Layouts::new();
        for _ in 0..2 {
            for (paths, expected) in [
                (&[][..], "{}"),
                (&["b", "a.c", "a.b.d", "a.b.c"], r#"{"a":{"b":{"c":4,"d":3},"c":2},"b":1}"#),
                (&["a.b", "a.b"], r#"{"a":{"b":1}}"#),
                (&["a", "ab.c"], r#"{"a":1,"ab":{"c":2}}"#),
            ] {
                check(&mut layouts, paths, expected);
            }
        }
        assert_eq!(layouts.known.len(), 4);
    }

    #[test]
    fn memory_is_used_again() {
        let mut layouts = Layouts::new();
        check(&mut layouts, &["a"; 100], r#"{"a":1}"#);
        assert!(layouts.fields().capacity() >= 100);
    }

    #[test]
    fn layouts_are_limited() {
        let mut layouts = Layouts::new();
        for number in 0..2 * LAYOUTS.get() {
            check(&mut layouts, &vec!["a"; number + 1], r#"{"a":1}"#);
        }
        assert_eq!(layouts.known.len(), LAYOUTS.get());
    }
}
