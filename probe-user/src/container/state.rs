//! What is known of one container, and when to ask for more.
//!
//! Owns the pauses between questions. It neither asks nor decides anything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::runtime::{Extent, Gaps, ImageNames};
use crate::event::Container;
use crate::proc::cgroup::ContainerKey;

/// How long the runtimes are not asked again for a container that they did not know: twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What is known of one container.
#[derive(Clone, Debug)]
pub(crate) struct ContainerState {
    pub(crate) container: Arc<Container>,
    /// All of its names.
    pub(crate) names: Vec<String>,
    /// Whether a runtime has told of it; otherwise nothing but its id is known.
    pub(crate) is_listed: bool,
    /// What its image is called.
    pub(crate) images: ImageNames,
    /// What else is not all known of it.
    pub(crate) gaps: Gaps,
    /// The runtimes that told of it.
    pub(crate) runtimes: Vec<&'static str>,
    /// How its processes are recognised, if a runtime told.
    pub(crate) mark: Option<ContainerKey>,
    /// Since when somebody wants to know more of it.
    pub(crate) sought: Option<Instant>,
    /// When to ask for it next, and how long to wait then.
    pub(crate) next: Instant,
    pub(crate) pause: Duration,
    /// Since when it has gone.
    pub(crate) gone: Option<Instant>,
}

impl ContainerState {
    pub(crate) fn new(key: &str) -> Self {
        Self {
            container: Arc::new(unnamed(key)),
            names: Vec::new(),
            is_listed: false,
            images: ImageNames::default(),
            gaps: Gaps::default(),
            runtimes: Vec::new(),
            mark: None,
            sought: None,
            next: Instant::now(),
            pause: FIRST_PAUSE,
            gone: None,
        }
    }

    /// Whether everything is known that it may be chosen by.
    pub(crate) fn is_told(&self) -> bool {
        self.is_listed && self.images.extent != Extent::Part && !self.gaps.pod
    }

    /// The runtimes were asked, and it is not known still.
    pub(crate) fn wait(&mut self, now: Instant) {
        self.next = now + self.pause;
        self.pause = LONGEST_PAUSE.min(self.pause * 2);
    }

    /// It runs, perhaps again: what could not be told of one that had ended can be told now.
    pub(crate) fn come_back(&mut self) {
        if self.gone.take().is_some() {
            self.next = Instant::now();
            self.pause = FIRST_PAUSE;
        }
    }
}

/// A container of which nothing but its key is known.
pub(crate) fn unnamed(key: &str) -> Container {
    let id = key.rsplit('/').next().unwrap_or(key).to_owned();
    Container { id, ..Container::default() }
}
