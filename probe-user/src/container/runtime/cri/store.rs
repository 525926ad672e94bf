//! The images of a CRI runtime, by their ids and digests.

use std::collections::HashMap;

use super::messages::{StoredImage, StoredImages};
use crate::container::runtime::images::{Extent, ImageNames, hexadecimal, is_id};

/// Limit of the images that are read.
const IMAGES: usize = 100_000;

/// The images by id and digest. None if the runtime did not list them.
pub(super) struct CriStore(Option<HashMap<String, StoredImage>>);

impl CriStore {
    pub(super) fn new(images: Option<StoredImages>) -> Self {
        Self(images.map(|list| {
            let mut all = HashMap::new();
            for image in list.images.into_iter().take(IMAGES) {
                let digests = image.digests.iter().filter_map(|name| Some(name.split_once('@')?.1));
                for key in digests.chain([image.id.as_str()]) {
                    all.insert(hexadecimal(key).to_owned(), image.clone());
                }
            }
            all
        }))
    }

    /// The names of a container's image. They always include the names in `started`, by which the container
    /// was requested. Its image is found by one of `references`, or else by an id in `started`.
    pub(super) fn names(&self, started: &[String], references: &[String]) -> ImageNames {
        let is_set = |name: &String| !name.is_empty();
        let ids =
            references.iter().chain(started.iter().filter(|name| is_id(name))).filter(|name| is_set(name));
        let digest = |name: &'_ str| name.split_once('@').map_or(name, |(_, digest)| digest).to_owned();
        let found =
            self.0.as_ref().and_then(|all| ids.clone().find_map(|name| all.get(hexadecimal(&digest(name)))));
        let extent = if found.is_some() { Extent::All } else { Extent::Part };
        let own = started.iter().chain(references).filter(|name| is_set(name)).cloned();
        let mut names = ImageNames::new(own, extent);
        if let Some(image) = found {
            names.add(image.tags.iter().chain(&image.digests).chain([&image.id]).cloned());
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(|one| (*one).to_owned()).collect()
    }

    #[test]
    fn an_image_by_its_id_and_by_its_digest() {
        // CRI-O writes ids without the name of the hash algorithm.
        let images = vec![
            StoredImage { id: "aa".into(), tags: strings(&["app:2"]), digests: strings(&["app@sha256:dd"]) },
            StoredImage { id: "sha256:bb".into(), ..StoredImage::default() },
        ];
        let store = CriStore::new(Some(StoredImages { images }));
        let check = |started: &[&str], references: &[&str], has: &str, extent| {
            let found = store.names(&strings(started), &strings(references));
            assert!(found.extent == extent && found.names.contains(has), "{started:?}: {found:?}");
        };
        check(&["app:1", ""], &["", "sha256:aa"], "app:2", Extent::All);
        check(&["app:1", ""], &["", "reg.example/app@sha256:dd"], "app:2", Extent::All);
        check(&["app:1", ""], &["", "aa"], "app:1", Extent::All);
        check(&["", "sha256:bb"], &["", ""], "sha256:bb", Extent::All);
        // A tag may lead to another image by now, so it does not show from which image the container was
        // created.
        check(&["app:2", ""], &["", ""], "app:2", Extent::Part);
        check(&["app:1", ""], &["", "sha256:cc"], "app:1", Extent::Part);
        assert_eq!(CriStore::new(None).names(&[], &strings(&["sha256:aa"])).extent, Extent::Part);
    }
}
