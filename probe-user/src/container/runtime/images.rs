//! The names of a container's image: the name that was used to start the container, and every tag, digest and
//! id that its runtime has for the image now.
//!
//! Owns which of these is shown, and how many are kept. A tag may have moved to another image since the
//! container was started. The name that was used to start it still counts, and so do the other names of its
//! image.

use std::collections::BTreeSet;

/// Limit of the names of one image. If there are more, the list counts as incomplete.
const NAMES: usize = 256;
/// Limit of the bytes of a name: more than any registry accepts (255 for a repository, 128 for a tag).
const LENGTH: usize = 1024;
/// The number of hexadecimal digits in a SHA-256.
const DIGITS: usize = 64;

/// Names of the image of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageNames {
    /// The names, in no particular order. The id is among them.
    pub names: BTreeSet<String>,
    /// Whether there may be other names.
    pub extent: Extent,
}

/// How complete the names of an image are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// There is no image, as far as this runtime can say.
    #[default]
    NoImage,
    /// Its runtime could not be asked, or cannot say: there may be other names.
    Part,
    /// The names are complete.
    All,
}

impl ImageNames {
    /// The given names, without empty ones.
    pub(super) fn new(names: impl IntoIterator<Item = String>, extent: Extent) -> Self {
        let mut new = Self { names: BTreeSet::new(), extent };
        new.add(names);
        new
    }

    pub(super) fn add(&mut self, names: impl IntoIterator<Item = String>) {
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            if name.len() > LENGTH || (self.names.len() >= NAMES && !self.names.contains(&name)) {
                self.extent = Extent::Part;
                return;
            }
            self.names.insert(name);
        }
    }

    /// Adds the names that another runtime has. Each runtime lists all of its own names, so the list is
    /// complete if one runtime could be asked.
    pub(super) fn merge(&mut self, other: Self) {
        self.extent = self.extent.max(other.extent);
        self.add(other.names);
    }

    /// The name for records: the name that was used to start the container, unless it is an id; else a tag,
    /// else a digest, else the id.
    pub(super) fn shown(&self, started: Option<&str>) -> Option<String> {
        let names = || self.names.iter().map(String::as_str).filter(|name| !is_id(name));
        let started = started.filter(|name| !name.is_empty());
        started
            .filter(|name| !self.is_own_id(name))
            .or_else(|| names().find(|name| !name.contains('@') && !self.is_own_id(name)))
            .or_else(|| names().find(|name| name.contains('@')))
            .or(started)
            .or_else(|| self.names.first().map(String::as_str))
            .map(str::to_owned)
    }

    /// Whether a name is this image's id or the start of it. A container may be started by such a name.
    fn is_own_id(&self, name: &str) -> bool {
        let begins = |id: &&String| is_id(id) && hexadecimal(id).starts_with(hexadecimal(name));
        is_id(name) || (is_hexadecimal(name) && self.names.iter().any(|id| begins(&id)))
    }
}

/// Whether a name is an image's id, with or without the name of the hash algorithm.
pub(super) fn is_id(name: &str) -> bool {
    let digits = hexadecimal(name);
    name.starts_with("sha256:") || (digits.len() == DIGITS && is_hexadecimal(digits))
}

/// The digits of an id, for comparison: CRI-O writes ids without the name of the hash algorithm.
pub(super) fn hexadecimal(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id)
}

fn is_hexadecimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn names(all: &[&str]) -> ImageNames {
        ImageNames::new(all.iter().map(|name| (*name).to_owned()), Extent::All)
    }

    #[test]
    fn an_id_is_shown_only_when_there_is_no_name() {
        let id = format!("sha256:{DIGEST}");
        let digest = format!("nginx@{id}");
        let check = |started: &str, all: &[&str], expected: &str| {
            let found = names(&[all, &[&id]].concat()).shown(Some(started));
            assert_eq!(found.as_deref(), Some(expected), "{started} of {all:?}");
        };
        check("moved:1", &[], "moved:1");
        check("moved:1", &["newer:2"], "moved:1");
        check(&id, &["app:2", &digest], "app:2");
        check("0123456789ab", &["app:2"], "app:2");
        check(DIGEST, &[&digest], &digest);
        check(&id, &[], &id);
        check("0123456789ab", &[], "0123456789ab");
        // These letters could be hexadecimal digits, but are not a prefix of this id.
        check("cafe", &["app:2"], "cafe");
        assert_eq!(names(&[]).shown(None), None);
        assert_eq!(names(&["a:1"]).shown(Some("")).as_deref(), Some("a:1"));
    }

    #[test]
    fn more_names_than_are_kept_are_not_all() {
        let many = (0..NAMES).map(|number| format!("app:{number}"));
        let mut all = ImageNames::new(many, Extent::All);
        assert_eq!((all.names.len(), all.extent), (NAMES, Extent::All));
        all.add(["app:0".to_owned()]);
        assert_eq!(all.extent, Extent::All, "it is among them");
        all.add(["app".to_owned()]);
        assert_eq!((all.names.len(), all.extent), (NAMES, Extent::Part));
        assert_eq!(ImageNames::new(["x".repeat(LENGTH + 1)], Extent::All).extent, Extent::Part);
    }

    #[test]
    fn one_runtime_with_all_names_is_enough() {
        let of = |extent| ImageNames { names: BTreeSet::new(), extent };
        for (one, other, expected) in [
            (Extent::NoImage, Extent::Part, Extent::Part),
            (Extent::Part, Extent::All, Extent::All),
            (Extent::NoImage, Extent::NoImage, Extent::NoImage),
        ] {
            for (mut one, other) in [(of(one), of(other)), (of(other), of(one))] {
                one.merge(other);
                assert_eq!(one.extent, expected);
            }
        }
    }
}
