//! What the user asked for, as questions about one container or one process.
//!
//! Owns the logic of selecting, narrowing and excluding. Pure: it uses only the facts that it is given.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{ContainerName, Criteria, PodName, Properties, Selector, image_ref};
use crate::container::runtime::Extent;
use crate::container::state::ContainerState;

/// The labels in which Docker Compose and Podman Compose keep the service.
const SERVICE_LABELS: [&str; 2] = ["com.docker.compose.service", "io.podman.compose.service"];
/// The bytes of a process's name that the kernel keeps (`TASK_COMM_LEN` without the NUL).
const COMM: usize = 15;

/// An answer. Of several answers, the minimum means "all of them" and the maximum "any of them".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    No,
    /// The facts that it depends on have not been reported.
    Unknown,
    Yes,
}

impl From<bool> for Match {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

/// What the selector decides about a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContainerDecision {
    /// The container is in scope.
    Include,
    /// The container is excluded.
    Exclude,
    /// The container may be excluded. It is kept out of the scope until the facts are complete.
    ExcludeUntilDecided,
    /// The container may be selected. It enters the scope only when the facts are complete.
    IncludeWhenConfirmed,
    /// The selector does not mention the container.
    Unrelated,
}

/// A selector whose names have been resolved.
#[derive(Clone, Debug, Default)]
pub(super) struct Matcher {
    /// Every process is selected, unless it is filtered or excluded.
    pub(super) everything: bool,
    wanted: ResolvedCriteria,
    excluded_criteria: ResolvedCriteria,
    process_filter: ProcessFilter,
    /// Whether processes enter the scope one by one.
    pub(super) granularity: Granularity,
}

/// Filters the processes that are otherwise in scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessFilter {
    include: Properties,
    exclude: Properties,
}

impl ProcessFilter {
    /// Whether it matches every process.
    pub fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether a process matches.
    pub fn matches(&self, attrs: &dyn ProcessAttrs) -> bool {
        self.include.all(attrs) && self.exclude.any(attrs) == Match::No
    }
}

impl Selector {
    /// Splits off the filter of processes, for callers that filter each program themselves. The first part
    /// selects a process whatever its own properties are.
    pub fn split(&self) -> (Self, ProcessFilter) {
        let process_filter =
            ProcessFilter { include: self.processes.clone(), exclude: self.exclude_processes.clone() };
        let scope = Self {
            all: self.all || self.is_everything(),
            processes: Properties::default(),
            exclude_processes: Properties::default(),
            ..self.clone()
        };
        (scope, process_filter)
    }

    /// Whether the kernel may have to report new processes and containers ([`Scope::watch`]). This is known
    /// before names are resolved.
    ///
    /// [`Scope::watch`]: super::Scope::watch
    pub fn may_need_events(&self) -> bool {
        let (scope, process_filter) = self.split();
        let by_container = !scope.containers.is_empty() || !scope.exclude.is_empty();
        scope.all || by_container || !process_filter.is_empty()
    }

    /// Whether processes are selected by pid.
    pub fn has_pids(&self) -> bool {
        !self.pids.is_empty() || !self.inner_pids.is_empty()
    }

    /// Whether processes are filtered from the whole machine.
    fn is_everything(&self) -> bool {
        !self.has_pids() && self.containers.is_empty() && !self.processes.is_empty()
    }
}

/// The granularity of the kernel's filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Granularity {
    /// Whole containers and process trees, or everything.
    #[default]
    Whole,
    /// Single processes, matched again at every exec.
    Process,
}

/// Criteria whose names have been resolved.
#[derive(Clone, Debug, Default)]
pub(super) struct ResolvedCriteria {
    /// The keys of the containers that the names matched.
    pub(super) ids: BTreeSet<String>,
    /// The criteria, without names that were only a part of a container's name: another container may have a
    /// whole name later.
    pub(super) criteria: Criteria,
}

impl Matcher {
    pub(super) fn new(
        selector: &Selector,
        wanted: ResolvedCriteria,
        excluded_criteria: ResolvedCriteria,
    ) -> Self {
        let (scope, process_filter) = selector.split();
        let granularity = if process_filter.is_empty() { Granularity::Whole } else { Granularity::Process };
        Self { everything: scope.all, wanted, excluded_criteria, process_filter, granularity }
    }

    /// The keys of the containers that were named.
    pub(super) fn named(&self) -> impl Iterator<Item = &String> {
        self.wanted.ids.iter()
    }

    /// Whether the container of a process matters.
    pub(super) fn matches_by_container(&self) -> bool {
        (!self.everything && !self.wanted.is_empty()) || self.has_exclusions()
    }

    /// Whether any containers are excluded.
    pub(super) fn has_exclusions(&self) -> bool {
        !self.excluded_criteria.is_empty()
    }

    /// Whether a match may start at any time: the selection is not limited to containers or processes that
    /// were named.
    pub(super) fn is_open_ended(&self) -> bool {
        self.everything || self.wanted.criteria.has_properties()
    }

    /// Whether something may match later, even if nothing does now.
    pub(super) fn can_match_later(&self) -> bool {
        self.is_open_ended() || !self.process_filter.include.is_empty()
    }

    /// Whether the kernel must report new processes and containers.
    pub(super) fn needs_events(&self) -> bool {
        self.everything || self.matches_by_container() || self.granularity == Granularity::Process
    }

    /// The decision about a container.
    pub(super) fn decision(&self, id: &str, fact: Option<&ContainerState>) -> ContainerDecision {
        let excluded_criteria = self.excluded_criteria.any(id, fact);
        let wanted = if self.everything { Match::Yes } else { self.wanted.all(id, fact) };
        match (wanted, excluded_criteria) {
            (_, Match::Yes) => ContainerDecision::Exclude,
            (_, Match::Unknown) => ContainerDecision::ExcludeUntilDecided,
            (Match::Yes, Match::No) => ContainerDecision::Include,
            (Match::Unknown, Match::No) => ContainerDecision::IncludeWhenConfirmed,
            (Match::No, Match::No) => ContainerDecision::Unrelated,
        }
    }

    /// Whether any processes are excluded by their own properties.
    pub(super) fn excludes_processes(&self) -> bool {
        !self.process_filter.exclude.is_empty()
    }

    /// Whether a process is, or may be, excluded.
    pub(super) fn excludes_process(&self, attrs: &dyn ProcessAttrs) -> bool {
        self.process_filter.exclude.any(attrs) != Match::No
    }

    /// Whether a process matches by its own properties.
    pub(super) fn matches_process(&self, attrs: &dyn ProcessAttrs) -> bool {
        self.process_filter.matches(attrs)
    }
}

impl ResolvedCriteria {
    fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.criteria.is_empty()
    }

    /// The container must match one value of each list that is not empty.
    fn all(&self, id: &str, fact: Option<&ContainerState>) -> Match {
        self.lists(id, fact).min().unwrap_or(Match::No)
    }

    /// The container must match one value of any list.
    fn any(&self, id: &str, fact: Option<&ContainerState>) -> Match {
        self.lists(id, fact).max().unwrap_or(Match::No)
    }

    /// The answer of each list that is not empty.
    fn lists(&self, id: &str, fact: Option<&ContainerState>) -> impl Iterator<Item = Match> {
        let Criteria { names, images, labels, services, pods, namespaces } = &self.criteria;
        // An id can be matched without facts.
        let is_id =
            self.ids.contains(id) || names.iter().any(|name| name.runtime.is_none() && name.name == id);
        let of_names = match matches_any(names, fact, is_named) {
            _ if is_id => Some(Match::Yes),
            None if !self.ids.is_empty() => Some(Match::No),
            answer => answer,
        };
        let of_labels = matches_any(labels, fact, |(key, value), fact| {
            let pod = fact.container.pod.as_ref().and_then(|pod| pod.labels.as_deref());
            std::iter::once(&*fact.container.labels)
                .chain(pod)
                .any(|labels| has_label(labels, key, value.as_deref()))
        });
        let of_services = matches_any(services, fact, |service, fact| {
            SERVICE_LABELS.iter().any(|key| has_label(&fact.container.labels, key, Some(service)))
        });
        let of_namespaces = matches_any(namespaces, fact, |namespace, fact| {
            let pod = fact.container.pod.as_ref();
            pod.and_then(|pod| pod.namespace.as_ref()).is_some_and(|found| found == namespace)
        });
        // Whether a pod has a certain owner is unknown while its labels are.
        let of_pods = matches_any(pods, fact, |wanted, fact| is_in_pod(wanted, fact) == Match::Yes);
        let may_be = |fact: &ContainerState| pods.iter().any(|one| is_in_pod(one, fact) == Match::Unknown);
        let of_pods = unknown_if_incomplete(of_pods, fact, |fact| !may_be(fact));
        let lists = [
            of_names,
            unknown_if_incomplete(
                matches_any(images, fact, |image, fact| is_of_image(image, fact)),
                fact,
                |fact| fact.images.extent != Extent::Part,
            ),
            unknown_if_incomplete(of_labels, fact, |fact| !fact.gaps.labels && has_pod_labels(fact)),
            unknown_if_incomplete(of_services, fact, |fact| !fact.gaps.labels),
            unknown_if_incomplete(of_pods, fact, |fact| !fact.gaps.pod),
            unknown_if_incomplete(of_namespaces, fact, |fact| !fact.gaps.pod),
        ];
        lists.into_iter().flatten()
    }
}

/// The answer of one list. None if the list is empty.
fn matches_any<T>(
    list: &[T],
    fact: Option<&ContainerState>,
    matches_one: impl Fn(&T, &ContainerState) -> bool,
) -> Option<Match> {
    if list.is_empty() {
        return None;
    }
    Some(match fact.filter(|fact| fact.is_listed) {
        Some(fact) => list.iter().any(|wanted| matches_one(wanted, fact)).into(),
        None => Match::Unknown,
    })
}

/// Turns No into Unknown if the facts are incomplete: a missing one might have matched.
fn unknown_if_incomplete(
    answer: Option<Match>,
    fact: Option<&ContainerState>,
    is_complete: impl Fn(&ContainerState) -> bool,
) -> Option<Match> {
    match answer {
        Some(Match::No) if !fact.is_some_and(is_complete) => Some(Match::Unknown),
        answer => answer,
    }
}

/// Whether any name of the container's image matches.
fn is_of_image(wanted: &str, fact: &ContainerState) -> bool {
    let shown = fact.container.image.iter().map(|image| image.name.as_str());
    let names: Vec<&str> = fact.images.names.iter().map(String::as_str).chain(shown).collect();
    image_ref::is_any_meant(wanted, &names)
}

/// Matches whole names only: prefixes were resolved at the start.
fn is_named(wanted: &ContainerName, fact: &ContainerState) -> bool {
    let runtime = fact.container.runtime.as_ref().map(|runtime| runtime.name.as_str());
    wanted.runtime.as_deref().is_none_or(|wanted| Some(wanted) == runtime)
        && fact.names.contains(&wanted.name)
}

fn is_in_pod(wanted: &PodName, fact: &ContainerState) -> Match {
    let Some(pod) = &fact.container.pod else { return Match::No };
    wanted.matches(pod).map_or(Match::Unknown, Match::from)
}

/// Whether the labels of the container's pod are complete. Podman's pods have none that could be selected.
fn has_pod_labels(fact: &ContainerState) -> bool {
    let pod = fact.container.pod.as_ref();
    pod.is_none_or(|pod| pod.labels.is_some() || pod.namespace.is_none())
}

fn has_label(labels: &BTreeMap<String, String>, key: &str, value: Option<&str>) -> bool {
    labels.get(key).is_some_and(|found| value.is_none_or(|value| value == found))
}

impl Criteria {
    /// Whether there are no criteria.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && !self.has_properties()
    }

    fn has_properties(&self) -> bool {
        let Self { names: _, images, labels, services, pods, namespaces } = self;
        !(images.is_empty()
            && labels.is_empty()
            && services.is_empty()
            && pods.is_empty()
            && namespaces.is_empty())
    }
}

/// The properties of a process that are matched. None if one cannot be read.
pub trait ProcessAttrs {
    /// The name of its main thread.
    fn comm(&self) -> &str;
    /// Its executable.
    fn executable(&self) -> Option<PathBuf>;
    /// The other paths by which its program was started: those of a script, or of a link.
    fn start_names(&self) -> Vec<PathBuf>;
    /// Its effective user.
    fn uid(&self) -> Option<u32>;
}

impl Properties {
    /// Whether there are no properties.
    pub fn is_empty(&self) -> bool {
        self.comms.is_empty() && self.executables.is_empty() && self.uids.is_empty()
    }

    /// The process must match one value of each list that is not empty. A property that cannot be read does
    /// not match.
    fn all(&self, attrs: &dyn ProcessAttrs) -> bool {
        self.lists(attrs).min().is_none_or(|answer| answer == Match::Yes)
    }

    /// The process must match one value of any list.
    fn any(&self, attrs: &dyn ProcessAttrs) -> Match {
        self.lists(attrs).max().unwrap_or(Match::No)
    }

    fn lists(&self, attrs: &dyn ProcessAttrs) -> impl Iterator<Item = Match> {
        let Self { comms, executables, uids } = self;
        let comms = (!comms.is_empty()).then(|| comms.iter().any(|comm| cut(comm) == attrs.comm()).into());
        let executables = (!executables.is_empty()).then(|| {
            let is_any = |path: &PathBuf| executables.iter().any(|wanted| is_executable(wanted, path));
            let path = attrs.executable();
            match path.as_ref().is_some_and(is_any) || attrs.start_names().iter().any(is_any) {
                true => Match::Yes,
                false if path.is_some() => Match::No,
                false => Match::Unknown,
            }
        });
        let uids = (!uids.is_empty()).then(|| match attrs.uid() {
            Some(uid) => uids.contains(&uid).into(),
            None => Match::Unknown,
        });
        [comms, executables, uids].into_iter().flatten()
    }
}

/// Truncates a name as the kernel does, and decodes it as ctrace decodes the kernel's.
fn cut(comm: &str) -> Cow<'_, str> {
    String::from_utf8_lossy(comm.as_bytes().get(..COMM).unwrap_or(comm.as_bytes()))
}

fn is_executable(wanted: &str, path: &Path) -> bool {
    if wanted.starts_with('/') {
        return path.as_os_str() == wanted;
    }
    path.file_name().is_some_and(|name| name == wanted)
}

#[cfg(test)]
mod tests;
