//! The facts about one container, and when to ask the runtimes for more.
//!
//! Owns the delays between questions. It does not ask the runtimes itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::runtime::{Extent, Gaps, ImageNames};
use crate::event::Container;
use crate::proc::cgroup::ContainerKey;

/// The first and the longest delay before the runtimes are asked again about a container that they did not
/// report. It doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The facts about one container.
#[derive(Clone, Debug)]
pub(crate) struct ContainerState {
    pub(crate) container: Arc<Container>,
    /// All of its names.
    pub(crate) names: Vec<String>,
    /// Whether a runtime, or the path of its cgroup, has described the container. If not, only its id is set.
    pub(crate) is_listed: bool,
    /// The names of its image.
    pub(crate) images: ImageNames,
    /// Which other facts may be incomplete.
    pub(crate) gaps: Gaps,
    /// The runtimes that reported it.
    pub(crate) runtimes: Vec<&'static str>,
    /// How its processes are recognised, if a runtime reported it.
    pub(crate) mark: Option<ContainerKey>,
    /// Since when somebody wants to know more about it.
    pub(crate) wanted_since: Option<Instant>,
    /// When to ask about it next, and the delay after that.
    pub(crate) next: Instant,
    pub(crate) pause: Duration,
    /// When it ended.
    pub(crate) ended_at: Option<Instant>,
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
            wanted_since: None,
            next: Instant::now(),
            pause: FIRST_PAUSE,
            ended_at: None,
        }
    }

    /// Whether everything by which it may be selected has been reported.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_listed && self.images.extent != Extent::Part && !self.gaps.pod
    }

    /// Whether somebody wants to know more about it than has been reported.
    pub(crate) fn is_open(&self) -> bool {
        self.wanted_since.is_some() && !self.is_complete() && self.ended_at.is_none()
    }

    /// Postpones the next question, because the runtimes were asked and the facts are still incomplete.
    pub(crate) fn postpone(&mut self, now: Instant) {
        self.next = now + self.pause;
        self.pause = LONGEST_PAUSE.min(self.pause * 2);
    }

    /// Records that the container runs, perhaps again. If it had ended, the runtimes may now report more
    /// about it, so they are asked at once.
    pub(crate) fn mark_running(&mut self) {
        if self.ended_at.take().is_some() {
            self.next = Instant::now();
            self.pause = FIRST_PAUSE;
        }
    }
}

/// A container of which only the key is available.
pub(crate) fn unnamed(key: &str) -> Container {
    let id = key.rsplit('/').next().unwrap_or(key).to_owned();
    Container { id, ..Container::default() }
}
