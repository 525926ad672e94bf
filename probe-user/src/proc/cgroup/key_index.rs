//! Finds containers by the cgroups of their processes.

use std::collections::HashMap;

use super::{ContainerKey, ProcCgroups};

/// Values of containers, which can be found by the cgroups of a process.
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
    /// Adds a container, or replaces its value.
    pub fn insert(&mut self, mark: ContainerKey, value: T) {
        match mark {
            ContainerKey::Path(path) => self.by_path.insert(path, value),
            ContainerKey::Id { within: None, id } => self.by_id.insert(id, value),
            ContainerKey::Id { within: Some(within), id } => {
                self.by_id.insert(format!("{within}/{id}"), value)
            }
        };
    }

    /// The value of the container with this mark.
    pub fn get(&self, mark: &ContainerKey) -> Option<&T> {
        match mark {
            ContainerKey::Path(path) => self.by_path.get(path),
            ContainerKey::Id { within: None, id } => self.by_id.get(id),
            ContainerKey::Id { within: Some(within), id } => self.by_id.get(&format!("{within}/{id}")),
        }
    }

    /// The containers around a process with these cgroups, outermost first. Below a container that is
    /// identified by its path, ids do not count, because that container chose them itself.
    pub fn holders(&self, cgroups: &ProcCgroups) -> Vec<&T> {
        if !self.by_path.is_empty()
            && let Some(found) = cgroups.paths().find_map(|path| self.at_path(path))
        {
            return vec![found];
        }
        let paths = (1..=cgroups.links.len()).filter_map(|count| cgroups.path_to(count));
        paths.filter_map(|path| self.by_id.get(&path)).collect()
    }

    /// The innermost container around a process with these cgroups.
    pub fn find(&self, cgroups: &ProcCgroups) -> Option<&T> {
        self.holders(cgroups).pop()
    }

    /// The number of containers.
    pub fn len(&self) -> usize {
        self.by_id.len() + self.by_path.len()
    }

    /// Whether there are no containers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values of all containers.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.by_id.values().chain(self.by_path.values())
    }

    /// The outermost ancestor of a path that is a container, or the path itself.
    fn at_path(&self, path: &[u8]) -> Option<&T> {
        let slashes = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/');
        let mut ends = slashes.map(|(at, _)| at).chain([path.len()]);
        ends.find_map(|end| self.by_path.get(path.get(..end)?))
    }
}
