//! The images of a namespace of containerd: names, each of which leads to a digest.
//!
//! A container of containerd has the name of its image, but no digest. The other names of its image can be
//! found only if that name has not been moved since the container was created.

use std::collections::{BTreeSet, HashMap};

use super::messages::{Images, Timestamp};
use crate::container::runtime::images::{Extent, ImageNames};

/// Limit of the images that are read.
const IMAGES: usize = 100_000;

/// The names and digests of the images. None if containerd did not list them.
pub(super) struct ContainerdStore(Option<Names>);

#[derive(Default)]
struct Names {
    /// By name: the digest, and when the name was last moved.
    by_name: HashMap<String, (String, Option<Timestamp>)>,
    by_digest: HashMap<String, BTreeSet<String>>,
}

impl ContainerdStore {
    pub(super) fn new(images: Option<Images>) -> Self {
        Self(images.map(|list| {
            let mut all = Names::default();
            for image in list.images.into_iter().take(IMAGES) {
                let Some(target) = image.target else { continue };
                all.by_digest.entry(target.digest.clone()).or_default().insert(image.name.clone());
                all.by_name.insert(image.name, (target.digest, image.updated));
            }
            all
        }))
    }

    /// The image names of a container that was created at this time from an image with this name.
    pub(super) fn names(
        &self,
        image: &str,
        started: Option<String>,
        created: Option<Timestamp>,
    ) -> ImageNames {
        let own = started.into_iter().chain([image.to_owned()]);
        if image.is_empty() {
            // Docker manages images itself, outside of containerd; and a container may have been created from
            // a directory.
            return ImageNames::new(own, Extent::NoImage);
        }
        let found = self.0.as_ref().and_then(|all| Some((all, all.by_name.get(image)?)));
        match found {
            Some((all, (digest, moved))) if moved.is_some() && *moved <= created => {
                let mut names = ImageNames::new(own, Extent::All);
                let others = all.by_digest.get(digest).into_iter().flatten();
                let by_digest =
                    others.clone().filter_map(|name| Some(format!("{}@{digest}", repository(name)?)));
                names.add(others.cloned().chain(by_digest).chain([digest.clone()]).collect::<BTreeSet<_>>());
                names
            }
            _ => ImageNames::new(own, Extent::Part),
        }
    }
}

/// The name without its tag. None if it contains a digest, or is one.
fn repository(name: &str) -> Option<&str> {
    if name.contains('@') || name.starts_with("sha256:") {
        return None;
    }
    let tag = name.rfind(':').filter(|at| !name.get(*at..).unwrap_or_default().contains('/'));
    name.get(..tag.unwrap_or(name.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::runtime::containerd::messages::{Descriptor, Image};

    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanoseconds: 0 }
    }

    fn store() -> ContainerdStore {
        let image = |name: &str, digest: &str, updated| Image {
            name: name.to_owned(),
            target: Some(Descriptor { digest: digest.to_owned() }),
            updated: Some(at(updated)),
        };
        let images = vec![
            image("host:5000/app:1", "sha256:aa", 10),
            image("other:2", "sha256:aa", 90),
            image("moved:1", "sha256:bb", 50),
            Image { name: "odd".to_owned(), ..Image::default() },
        ];
        ContainerdStore::new(Some(Images { images }))
    }

    #[test]
    fn a_name_that_has_moved_since_is_ignored() {
        let check = |store: &ContainerdStore, image: &str, created, names: &[&str], extent| {
            let found = store.names(image, None, created);
            let found: (Vec<&str>, _) = (found.names.iter().map(String::as_str).collect(), found.extent);
            assert_eq!(found, (names.to_vec(), extent), "{image}");
        };
        let app = ["host:5000/app:1", "host:5000/app@sha256:aa", "other:2", "other@sha256:aa", "sha256:aa"];
        check(&store(), "host:5000/app:1", Some(at(20)), &app, Extent::All);
        check(&store(), "moved:1", Some(at(20)), &["moved:1"], Extent::Part);
        check(&store(), "moved:1", None, &["moved:1"], Extent::Part);
        check(&store(), "moved:1", Some(at(60)), &["moved:1", "moved@sha256:bb", "sha256:bb"], Extent::All);
        check(&store(), "removed:1", Some(at(60)), &["removed:1"], Extent::Part);
        check(&store(), "odd", Some(at(60)), &["odd"], Extent::Part);
        check(&store(), "", Some(at(60)), &[], Extent::NoImage);
        check(&ContainerdStore::new(None), "app:1", Some(at(60)), &["app:1"], Extent::Part);
        let started = store().names("sha256:aa", Some("app:3".to_owned()), Some(at(60)));
        assert!(started.names.contains("app:3"), "as kubelet asked for it");
    }
}
