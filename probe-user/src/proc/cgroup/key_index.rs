//! Containers by the marks of their processes.

use std::collections::HashMap;

use super::{ContainerKey, ProcCgroups};

/// What is known of containers, to be found by the cgroups of a process.
#[derive(Clone, Debug)]
pub struct KeyIndex<T> {
    by_id: HashMap<String, T>,
    by_path: HashMap<Vec<u8>, T>,
}

impl<T> Default for KeyIndex<T> {
    fn default() -> Self {
        Self { by_id: HashMap::new(), by_path: HashMap::new() }
    }
}

impl<T> FromIterator<(ContainerKey, T)> for KeyIndex<T> {
    fn from_iter<I: IntoIterator<Item = (ContainerKey, T)>>(marks: I) -> Self {
        let mut all = Self::default();
        for (mark, value) in marks {
            all.insert(mark, value);
        }
        all
    }
}

impl<T> KeyIndex<T> {
    /// Adds a container, or replaces what is known of it.
    pub fn insert(&mut self, mark: ContainerKey, value: T) {
        match mark {
            ContainerKey::Path(path) => self.by_path.insert(path, value),
            ContainerKey::Id { within: None, id } => self.by_id.insert(id, value),
            ContainerKey::Id { within: Some(within), id } => {
                self.by_id.insert(format!("{within}/{id}"), value)
            }
        };
    }

    /// What is known of the container with this mark.
    pub fn get(&self, mark: &ContainerKey) -> Option<&T> {
        match mark {
            ContainerKey::Path(path) => self.by_path.get(path),
            ContainerKey::Id { within: None, id } => self.by_id.get(id),
            ContainerKey::Id { within: Some(within), id } => self.by_id.get(&format!("{within}/{id}")),
        }
    }

    /// The containers that hold a process with these cgroups, outermost first. Below the path of a container
    /// that is known by it, ids are that container's own words.
    pub fn holders(&self, cgroups: &ProcCgroups) -> Vec<&T> {
        if !self.by_path.is_empty()
            && let Some(found) = cgroups.paths().find_map(|path| self.at_path(path))
        {
            return vec![found];
        }
        let paths = (1..=cgroups.links.len()).filter_map(|count| cgroups.path_to(count));
        paths.filter_map(|path| self.by_id.get(&path)).collect()
    }

    /// The innermost of them.
    pub fn find(&self, cgroups: &ProcCgroups) -> Option<&T> {
        self.holders(cgroups).pop()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len() + self.by_path.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.by_id.values().chain(self.by_path.values())
    }

    /// The outermost of a path's ancestors that is known.
    fn at_path(&self, path: &[u8]) -> Option<&T> {
        let slashes = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/');
        let mut ends = slashes.map(|(at, _)| at).chain([path.len()]);
        ends.find_map(|end| self.by_path.get(path.get(..end)?))
    }
}
