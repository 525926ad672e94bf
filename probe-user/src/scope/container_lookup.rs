//! The meaning of `--container X`: finds the container among the candidates.
//!
//! Owns the order of preference. Pure: it uses nothing but its arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;

use super::ContainerName;
use super::error::TargetError;
use crate::container::index::key;
use crate::container::runtime::{InfoSource, Listing};
use crate::container::state::ContainerState;
use crate::proc::cgroup::is_id_prefix;
use crate::terminal::escaped;

/// The similarity that a name needs to be suggested (Jaro-Winkler), and the limit of suggestions.
const SIMILAR: f64 = 0.8;
const OFFERED: usize = 3;

/// A container that the user may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The key of the container in [`crate::container::index::ContainerIndex`].
    pub(super) key: String,
    id: String,
    pub(super) names: Vec<String>,
    image: Option<String>,
    pub(super) is_running: bool,
    state: String,
    /// The runtimes that report it, the one for messages first.
    runtimes: Vec<&'static str>,
}

impl Candidate {
    /// The name for messages, or else the id.
    pub(super) fn name(&self) -> &str {
        self.names.first().unwrap_or(&self.id)
    }

    fn describe(&self) -> String {
        let id = self.id.get(..12).unwrap_or(&self.id);
        let image = self.image.as_ref().map(|image| format!(", image {image:?}")).unwrap_or_default();
        match self.names.first() {
            Some(name) => format!("{name:?} ({id:?}{image})"),
            None => format!("{id:?}"),
        }
    }

    /// The name as it can be given to `--container`, and the id or cgroup in case the name is not unique.
    fn full_name(&self) -> String {
        let name = escaped(self.name());
        let key = match self.cgroup() {
            Some(path) => format!("cgroup {}", escaped(path)),
            None => format!("id {}", escaped(self.id.get(..12).unwrap_or(&self.id))),
        };
        match self.runtimes.first() {
            Some(runtime) => format!("{runtime}://{name} ({key})"),
            None => format!("{name} ({key})"),
        }
    }

    /// The path of its cgroup, if its id alone is ambiguous: each of containerd's namespaces may have a
    /// `web`.
    fn cgroup(&self) -> Option<&str> {
        Some(self.key.as_str()).filter(|key| key.starts_with('/'))
    }

    fn has_prefix(&self, prefix: &str) -> bool {
        self.names.iter().any(|name| name.starts_with(prefix))
    }
}

/// The containers that runtimes list, and others that were found only in the cgroups of processes. `seen` are
/// all containers that have processes.
pub(super) fn candidates(listing: &Listing, seen: &BTreeMap<String, ContainerState>) -> Vec<Candidate> {
    let listed = listing.containers.iter().map(|listed| {
        let key = key(&listed.mark());
        let sources = listed.sources.iter().map(InfoSource::runtime);
        Candidate {
            id: listed.id.clone(),
            names: listed.names.clone(),
            image: listed.image.clone(),
            is_running: listed.is_running || seen.contains_key(&key),
            state: listed.state.clone(),
            runtimes: iter::once(listed.runtime).chain(sources).collect(),
            key,
        }
    });
    let listed: Vec<Candidate> = listed.collect();
    let listed_keys: BTreeSet<&str> = listed.iter().map(|one| one.key.as_str()).collect();
    let unlisted =
        seen.iter().filter(|(key, _)| !listed_keys.contains(key.as_str())).map(|(key, fact)| Candidate {
            key: key.clone(),
            id: fact.container.id.clone(),
            names: fact.names.clone(),
            image: None,
            is_running: true,
            state: "running".to_owned(),
            runtimes: fact.runtimes.clone(),
        });
    let unlisted: Vec<Candidate> = unlisted.collect();
    listed.into_iter().chain(unlisted).collect()
}

/// An exact name, then an exact id or cgroup, then a unique prefix of either. A word that is a prefix of one
/// container's id and of another one's name is ambiguous. Prefixes match running containers first, so one
/// that has ended never makes a prefix ambiguous.
pub(super) fn choose<'a>(
    wanted: &ContainerName,
    all: &'a [Candidate],
    listing: &Listing,
) -> Result<&'a Candidate, TargetError> {
    let name = wanted.name.as_str();
    let by_name = |one: &&Candidate| one.names.iter().any(|other| other == name);
    let by_id = |one: &&Candidate| one.id == name || one.cgroup() == Some(name);
    let by_id_prefix = |one: &Candidate| is_id_prefix(name) && one.id.starts_with(name);
    let by_prefix = |one: &&Candidate| by_id_prefix(one) || (!name.is_empty() && one.has_prefix(name));
    let is_of = |one: &Candidate, runtime: &str| one.runtimes.contains(&runtime);
    let of_runtime: Vec<&Candidate> =
        all.iter().filter(|one| wanted.runtime.as_ref().is_none_or(|runtime| is_of(one, runtime))).collect();
    let matching = |is_it: &dyn Fn(&&Candidate) -> bool| -> Vec<&'a Candidate> {
        of_runtime.iter().copied().filter(|one| is_it(one)).collect()
    };
    let steps: [Vec<&Candidate>; 5] = [
        matching(&|one| one.is_running && by_name(one)),
        matching(&by_name),
        matching(&by_id),
        matching(&|one| one.is_running && by_prefix(one)),
        matching(&by_prefix),
    ];
    let Some(found) = steps.into_iter().find(|found| !found.is_empty()) else {
        return Err(unknown(wanted, &of_runtime, listing));
    };
    match found.as_slice() {
        [one] if one.is_running => Ok(one),
        [one] => Err(TargetError::NotRunning { name: one.name().to_owned(), state: one.state.clone() }),
        several if several.iter().all(by_name) => Err(TargetError::SameName {
            name: name.to_owned(),
            candidates: several.iter().map(|one| one.full_name()).collect(),
        }),
        several => Err(TargetError::AmbiguousContainer {
            wanted: name.to_owned(),
            candidates: several.iter().map(|one| one.describe()).collect(),
        }),
    }
}

fn unknown(wanted: &ContainerName, all: &[&Candidate], listing: &Listing) -> TargetError {
    let unanswered = || listing.unanswered.join("; ");
    let ContainerName { runtime, name: wanted } = wanted.clone();
    if let Some(runtime) = runtime.filter(|runtime| !listing.answered.contains(&runtime.as_str())) {
        return TargetError::SilentRuntime { runtime, wanted, unanswered: unanswered() };
    }
    if listing.answered.is_empty() {
        return TargetError::NoRuntime { wanted, unanswered: unanswered() };
    }
    let mut scored: Vec<(f64, &str)> = all
        .iter()
        .flat_map(|one| &one.names)
        .map(|name| (strsim::jaro_winkler(name, &wanted), name.as_str()))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let similar: Vec<&str> =
        scored.iter().filter(|(score, _)| *score >= SIMILAR).map(|(_, name)| *name).collect();
    // If nothing is similar, names of running containers still help.
    let running = all.iter().filter(|one| one.is_running).filter_map(|one| one.names.first());
    let nearest: Vec<&str> = if similar.is_empty() { running.map(String::as_str).collect() } else { similar };
    let nearest = nearest.into_iter().take(OFFERED).map(str::to_owned).collect();
    TargetError::UnknownContainer { wanted, nearest, unanswered: unanswered() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: &str, name: &str, is_running: bool) -> Candidate {
        let state = if is_running { "running" } else { "exited" }.to_owned();
        let names = if name.is_empty() { Vec::new() } else { vec![name.to_owned()] };
        let (id, runtimes) = (id.repeat(32), vec!["docker"]);
        Candidate { key: id.clone(), id, names, image: Some("img".into()), is_running, state, runtimes }
    }

    fn named(name: &str) -> ContainerName {
        let (runtime, name) = match name.split_once("://") {
            Some((runtime, name)) => (Some(runtime.to_owned()), name),
            None => (None, name),
        };
        ContainerName { runtime, name: name.to_owned() }
    }

    fn check(wanted: &str, expected: &str) {
        let all = [
            candidate("ab", "web", true),
            candidate("ac", "web-2", true),
            candidate("d0", "database", true),
            candidate("d1", "dead", false),
            candidate("e1", "ab", true),
            candidate("f1", "", true),
            candidate("f2", "old-\x1b[2J", false),
        ];
        let listing = Listing { answered: vec!["docker"], ..Listing::default() };
        let found = match choose(&named(wanted), &all, &listing) {
            Ok(one) => one.name().to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(found.starts_with(expected), "{wanted}: {found}");
        assert!(!found.contains('\x1b'));
    }

    #[test]
    fn the_order_of_preference() {
        check("web", "web");
        check("web-", "web-2");
        check("we", "\"we\" matches 2 containers: \"web\" (\"abababababab\", image \"img\"); \"web-2\" (");
        check("ab", "ab");
        check("aba", "web");
        // Two match by their ids, one by its name.
        check("a", "\"a\" matches 3 containers");
        check(&"ac".repeat(32), "web-2");
        check("d", "database");
        check("da", "database");
        check("dea", "container \"dead\" is not running (it is \"exited\")");
        check("dead", "container \"dead\" is not running");
        check("d1", "container \"dead\" is not running");
        check("f1", &"f1".repeat(32));
        check("old", "container \"old-\\u{1b}[2J\" is not running");
        check("", "no container has a name or id that starts with \"\"");
        check(
            "databse",
            "no container has a name or id that starts with \"databse\"; did you mean \"database\"",
        );
        check(
            "zzz\x1b",
            "no container has a name or id that starts with \"zzz\\u{1b}\"; did you mean \"web\"",
        );
    }

    #[test]
    fn without_a_runtime_only_ids_can_be_resolved() {
        let listing = Listing { unanswered: vec!["docker: nothing listens".into()], ..Listing::default() };
        let all = [candidate("ab", "", true)];
        assert!(choose(&named("abab"), &all, &listing).is_ok());
        let error = choose(&named("web"), &all, &listing).map_err(|error| error.to_string());
        assert!(error.is_err_and(|text| text.contains("docker: nothing listens") && text.contains("an id")));
    }

    #[test]
    fn a_name_in_two_namespaces_is_ambiguous_without_the_cgroup() {
        let web = |path: &str| Candidate {
            key: path.to_owned(),
            id: "web".to_owned(),
            runtimes: vec!["containerd"],
            ..candidate("", "web", true)
        };
        let all = [web("/default/web"), web("/k8s.io/web")];
        let listing = Listing { answered: vec!["containerd"], ..Listing::default() };
        let error = choose(&named("web"), &all, &listing).map_err(|error| error.to_string());
        let expected = "2 containers have the name \"web\": containerd://web (cgroup /default/web), \
                        containerd://web (cgroup /k8s.io/web); select one by runtime, id or cgroup";
        assert_eq!(error, Err(expected.to_owned()));
        for path in ["/default/web", "/k8s.io/web"] {
            let found = choose(&named(path), &all, &listing).map(|found| found.key.as_str());
            assert!(found.is_ok_and(|found| found == path), "{path}");
        }
    }

    #[test]
    fn a_name_in_two_runtimes_is_ambiguous_without_the_runtime() {
        let podman =
            |id, name, is_running| Candidate { runtimes: vec!["podman"], ..candidate(id, name, is_running) };
        let all = [
            candidate("ab", "web", true),
            podman("ac", "web", true),
            Candidate { runtimes: vec!["podman", "containerd"], ..candidate("af", "both", true) },
            podman("ad", "old", true),
            candidate("ae", "old", false),
        ];
        let listing = Listing {
            answered: vec!["docker", "podman"],
            unanswered: vec!["cri: nothing listens at \"/x\"".into()],
            ..Listing::default()
        };
        let check = |wanted: &str, expected: &str| {
            let found = match choose(&named(wanted), &all, &listing) {
                Ok(one) => one.id.get(..2).unwrap_or_default().to_owned(),
                Err(error) => error.to_string(),
            };
            assert!(found.starts_with(expected), "{wanted}: {found}");
        };
        check(
            "web",
            "2 containers have the name \"web\": docker://web (id abababababab), podman://web (id acacacacacac)",
        );
        check("docker://web", "ab");
        check("podman://web", "ac");
        check("podman://ac", "ac");
        check("containerd://both", "af");
        check("podman://bo", "af");
        check("ab", "ab");
        check("docker://ac", "no container has a name or id that starts with \"ac\"");
        // A running container takes precedence over one that does not run.
        check("old", "ad");
        check("docker://old", "container \"old\" is not running");
        check(
            "cri://web",
            "container \"web\" cannot be looked up: cri did not answer (cri: nothing listens at \"/x\")",
        );
    }
}
