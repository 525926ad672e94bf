//! Whether a process is in a container.

use std::sync::Arc;

use super::Container;

/// Whether a process is in a container: that none is known does not mean that it is in none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Containment {
    /// In this one.
    In(Arc<Container>),
    /// In none.
    Host,
    /// Not known: it had ended before anybody looked, or no runtime has told yet whose cgroup it is in.
    Unknown,
}

impl Containment {
    /// The container, if it is in one that is known. JSON does not tell the other two apart: both are null.
    pub fn container(&self) -> Option<&Container> {
        match self {
            Self::In(container) => Some(container),
            Self::Host | Self::Unknown => None,
        }
    }
}
