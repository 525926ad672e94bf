//! Selecting, narrowing and excluding, with complete and incomplete facts.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use super::*;
use crate::container::index::ContainerIndex;
use crate::container::runtime::{ContainerInfo, Gaps, ImageNames, Listing};
use crate::event::Pod;
use crate::glob::Glob;
use crate::proc::process::Proc;
use crate::scope::PodNameKind;

/// A container web of image nginx:1 with labels, in the pod prod/web-0.
fn web() -> ContainerState {
    let labels = [("tier", "front"), ("empty", ""), ("com.docker.compose.service", "api")];
    let listed = ContainerInfo {
        id: "a".repeat(64),
        names: vec!["web".to_owned(), "alias".to_owned()],
        image: Some("docker.io/library/nginx:1".to_owned()),
        is_running: true,
        labels: Arc::new(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        pod: Some(Arc::new(Pod {
            name: "web-0".to_owned(),
            namespace: Some("prod".to_owned()),
            uid: None,
            labels: Some(Arc::new(
                [("app", "shop"), ("statefulset.kubernetes.io/pod-name", "web-0")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            )),
        })),
        runtime: "docker",
        ..ContainerInfo::default()
    };
    let listing = Listing { containers: vec![listed], ..Listing::default() };
    ContainerIndex::new(Proc::default(), None, &listing).fact(&"a".repeat(64)).unwrap()
}

fn name(text: &str) -> ContainerName {
    ContainerName { runtime: None, name: text.to_owned() }
}

fn pod(namespace: Option<&str>, name: &str) -> PodName {
    PodName { namespace: namespace.map(str::to_owned), kind: PodNameKind::Pod, name: Glob::new(name) }
}

fn rules(selector: &Selector) -> Matcher {
    let wanted = |criteria: &Criteria| ResolvedCriteria { ids: BTreeSet::new(), criteria: criteria.clone() };
    Matcher::new(selector, wanted(&selector.containers), wanted(&selector.exclude))
}

fn of(containers: Criteria) -> Selector {
    Selector { containers, ..Selector::default() }
}

fn strings(all: &[&str]) -> Vec<String> {
    all.iter().map(|one| (*one).to_owned()).collect()
}

#[test]
fn each_property_by_itself() {
    let fact = web();
    let check = |criteria: Criteria, expected: ContainerDecision| {
        let selector = of(criteria);
        assert_eq!(rules(&selector).decision("x", Some(&fact)), expected, "{selector}");
        assert_eq!(
            rules(&selector).decision("x", None),
            ContainerDecision::IncludeWhenConfirmed,
            "{selector}: nothing is known"
        );
        let without = Selector { all: true, exclude: selector.containers, ..Selector::default() };
        let opposite = if expected == ContainerDecision::Include {
            ContainerDecision::Exclude
        } else {
            ContainerDecision::Include
        };
        assert_eq!(rules(&without).decision("x", Some(&fact)), opposite, "{without}");
        assert_eq!(
            rules(&without).decision("x", None),
            ContainerDecision::ExcludeUntilDecided,
            "{without}: nothing is known"
        );
    };
    let none = Criteria::default;
    let (yes, no) = (ContainerDecision::Include, ContainerDecision::Unrelated);
    check(Criteria { names: vec![name("web")], ..none() }, yes);
    check(Criteria { names: vec![name("alias")], ..none() }, yes);
    check(Criteria { names: vec![name("we")], ..none() }, no);
    check(Criteria { names: vec![name("db"), name("web")], ..none() }, yes);
    let of_runtime = |runtime: &str| ContainerName { runtime: Some(runtime.to_owned()), ..name("web") };
    check(Criteria { names: vec![of_runtime("docker")], ..none() }, yes);
    check(Criteria { names: vec![of_runtime("podman")], ..none() }, no);
    check(Criteria { images: strings(&["nginx"]), ..none() }, yes);
    check(Criteria { images: strings(&["ngin", "caddy"]), ..none() }, no);
    let label = |key: &str, value: Option<&str>| vec![(key.to_owned(), value.map(str::to_owned))];
    check(Criteria { labels: label("tier", None), ..none() }, yes);
    check(Criteria { labels: label("tier", Some("front")), ..none() }, yes);
    check(Criteria { labels: label("tier", Some("fron")), ..none() }, no);
    check(Criteria { labels: label("tie", None), ..none() }, no);
    check(Criteria { labels: label("empty", Some("")), ..none() }, yes);
    check(Criteria { services: strings(&["api"]), ..none() }, yes);
    check(Criteria { services: strings(&["ap"]), ..none() }, no);
    check(Criteria { pods: vec![pod(None, "web-0")], ..none() }, yes);
    check(Criteria { pods: vec![pod(Some("prod"), "web-0")], ..none() }, yes);
    check(Criteria { pods: vec![pod(Some("test"), "web-0")], ..none() }, no);
    check(Criteria { pods: vec![pod(None, "web")], ..none() }, no);
    check(Criteria { pods: vec![pod(Some("prod"), "web-*")], ..none() }, yes);
    check(Criteria { pods: vec![pod(Some("test"), "web-*")], ..none() }, no);
    let owned = |name: &str| PodName { kind: PodNameKind::StatefulSet, ..pod(None, name) };
    check(Criteria { pods: vec![owned("web")], ..none() }, yes);
    check(Criteria { pods: vec![owned("shop")], ..none() }, no);
    check(Criteria { labels: label("app", Some("shop")), ..none() }, yes);
    check(Criteria { labels: label("app", Some("web")), ..none() }, no);
    check(Criteria { namespaces: strings(&["prod"]), ..none() }, yes);
    check(Criteria { namespaces: strings(&["default"]), ..none() }, no);
}

#[test]
fn an_image_matches_by_every_name_and_is_out_until_all_are_reported() {
    // The container was started as moved:1, which is a tag of another image by now.
    let names = ["moved:1", "other:2", "reg.example/other@sha256:dd", "sha256:0123456789abcdef"];
    let fact = |extent| {
        let images = ImageNames { names: strings(&names).into_iter().collect(), extent };
        let mut fact = web();
        fact.images = images;
        fact
    };
    let check = |image: &str, extent, wanted, excluded| {
        let criteria = Criteria { images: strings(&[image]), ..Criteria::default() };
        let without = Selector { all: true, exclude: criteria.clone(), ..Selector::default() };
        let found = [of(criteria), without].map(|asked| rules(&asked).decision("x", Some(&fact(extent))));
        assert_eq!(found, [wanted, excluded], "{image}: {extent:?}");
    };
    for extent in [Extent::All, Extent::Part] {
        for name in [&names[..], &["moved", "other@sha256:dd", "0123456789ab", "nginx:1"]].concat() {
            check(name, extent, ContainerDecision::Include, ContainerDecision::Exclude);
        }
    }
    for name in ["moved:2", "newer", "other@sha256:de", "0123456789ac"] {
        check(name, Extent::All, ContainerDecision::Unrelated, ContainerDecision::Include);
        check(
            name,
            Extent::Part,
            ContainerDecision::IncludeWhenConfirmed,
            ContainerDecision::ExcludeUntilDecided,
        );
    }
    // Other criteria do not depend on images.
    let label = Criteria { labels: vec![("tier".to_owned(), None)], ..Criteria::default() };
    let without = Selector { all: true, exclude: label, ..Selector::default() };
    assert_eq!(rules(&without).decision("x", Some(&fact(Extent::Part))), ContainerDecision::Exclude);
}

#[test]
fn before_names_are_resolved_it_is_known_whether_events_are_needed() {
    let criteria = Criteria { images: strings(&["web"]), ..Criteria::default() };
    let comms = Properties { comms: strings(&["curl"]), ..Properties::default() };
    let none = Selector { pids: vec![7], ..Selector::default() };
    let check = |asked: Selector, expected: bool| {
        assert_eq!(
            (asked.may_need_events(), rules(&asked).needs_events()),
            (expected, expected),
            "{asked:?}"
        );
    };
    check(none.clone(), false);
    check(Selector { all: true, ..Selector::default() }, true);
    check(of(criteria.clone()), true);
    check(Selector { exclude: criteria, ..none.clone() }, true);
    check(Selector { processes: comms.clone(), ..Selector::default() }, true);
    check(Selector { processes: comms.clone(), ..none.clone() }, true);
    check(Selector { exclude_processes: comms, ..none }, true);
}

#[test]
fn missing_labels_and_pods_may_be_the_excluded_ones() {
    let mut fact = web();
    fact.gaps = Gaps { labels: true, pod: false };
    let decision = |exclude: Criteria, fact: &ContainerState| {
        rules(&Selector { all: true, exclude, ..Selector::default() }).decision("x", Some(fact))
    };
    let label = |key: &str| Criteria { labels: vec![(key.to_owned(), None)], ..Criteria::default() };
    let service = |name: &str| Criteria { services: strings(&[name]), ..Criteria::default() };
    let in_pod = |name: &str| Criteria { pods: vec![pod(None, name)], ..Criteria::default() };
    let namespace = Criteria { namespaces: strings(&["test"]), ..Criteria::default() };
    assert_eq!(decision(label("other"), &fact), ContainerDecision::ExcludeUntilDecided);
    assert_eq!(decision(service("other"), &fact), ContainerDecision::ExcludeUntilDecided);
    assert_eq!(decision(label("tier"), &fact), ContainerDecision::Exclude);
    assert_eq!(decision(in_pod("other"), &fact), ContainerDecision::Include);
    fact.gaps = Gaps { labels: false, pod: true };
    assert_eq!(decision(in_pod("other"), &fact), ContainerDecision::ExcludeUntilDecided);
    assert_eq!(decision(namespace, &fact), ContainerDecision::ExcludeUntilDecided);
    assert_eq!(decision(label("other"), &fact), ContainerDecision::Include);
}

#[test]
fn a_pod_with_unreported_labels_may_be_the_excluded_one() {
    let mut fact = web();
    let pod_of = |name: &str, namespace| Arc::new(Pod { name: name.to_owned(), namespace, ..Pod::default() });
    let mut container = (*fact.container).clone();
    container.pod = Some(pod_of("web-0", Some("prod".to_owned())));
    fact.container = Arc::new(container.clone());
    let check = |fact: &ContainerState, criteria: Criteria, wanted, excluded| {
        let without = Selector { all: true, exclude: criteria.clone(), ..Selector::default() };
        let found = [of(criteria), without].map(|asked| rules(&asked).decision("x", Some(fact)));
        assert_eq!(found, [wanted, excluded]);
    };
    let label = Criteria { labels: vec![("app".to_owned(), None)], ..Criteria::default() };
    let owner = PodName { kind: PodNameKind::StatefulSet, ..pod(None, "web") };
    let of_owner = Criteria { pods: vec![owner.clone()], ..Criteria::default() };
    let of_both = Criteria { pods: vec![owner, pod(None, "web-0")], ..Criteria::default() };
    let (wait, out) = (ContainerDecision::IncludeWhenConfirmed, ContainerDecision::ExcludeUntilDecided);
    check(&fact, label.clone(), wait, out);
    check(&fact, of_owner, wait, out);
    check(&fact, of_both, ContainerDecision::Include, ContainerDecision::Exclude);
    // A pod of Podman has no labels that are matched.
    container.pod = Some(pod_of("web-0", None));
    fact.container = Arc::new(container);
    check(&fact, label, ContainerDecision::Unrelated, ContainerDecision::Include);
}

#[test]
fn one_of_each_list_is_needed_and_any_is_enough_to_exclude() {
    let fact = web();
    let both = |image: &str, namespace: &str| Criteria {
        images: strings(&["caddy", image]),
        namespaces: strings(&[namespace]),
        ..Criteria::default()
    };
    let decision = |selector: &Selector| rules(selector).decision("x", Some(&fact));
    assert_eq!(decision(&of(both("nginx", "prod"))), ContainerDecision::Include);
    assert_eq!(decision(&of(both("nginx", "test"))), ContainerDecision::Unrelated);
    assert_eq!(decision(&of(both("httpd", "prod"))), ContainerDecision::Unrelated);
    let without = |exclude| Selector { exclude, ..of(both("nginx", "prod")) };
    assert_eq!(decision(&without(both("httpd", "prod"))), ContainerDecision::Exclude);
    assert_eq!(decision(&without(both("nginx", "test"))), ContainerDecision::Exclude);
    assert_eq!(decision(&without(both("httpd", "test"))), ContainerDecision::Include);
    // An id can be matched without any other facts.
    let ids: BTreeSet<String> = ["x".to_owned()].into();
    let wanted = || ResolvedCriteria { ids: ids.clone(), criteria: Criteria::default() };
    let rules = Matcher::new(&of(Criteria::default()), wanted(), ResolvedCriteria::default());
    assert_eq!(
        (rules.decision("x", None), rules.decision("y", None)),
        (ContainerDecision::Include, ContainerDecision::Unrelated)
    );
    let rules =
        Matcher::new(&Selector { all: true, ..Selector::default() }, ResolvedCriteria::default(), wanted());
    assert_eq!(
        (rules.decision("x", None), rules.decision("y", None)),
        (ContainerDecision::Exclude, ContainerDecision::Include)
    );
}

/// A process: its name, executable, user, and script.
struct Fake<'a>(&'a str, Option<&'a str>, Option<u32>, Option<&'a str>);

impl ProcessAttrs for Fake<'_> {
    fn comm(&self) -> &str {
        self.0
    }

    fn executable(&self) -> Option<PathBuf> {
        self.1.map(PathBuf::from)
    }

    fn start_names(&self) -> Vec<PathBuf> {
        self.3.map(PathBuf::from).into_iter().collect()
    }

    fn uid(&self) -> Option<u32> {
        self.2
    }
}

#[test]
fn processes_by_their_properties() {
    let nginx = Fake("nginx", Some("/usr/sbin/nginx"), Some(33), None);
    let unreadable = Fake("nginx", None, None, None);
    let long = Fake("a-very-long-nam", Some("/x/a-very-long-name"), Some(0), None);
    let check = |properties: Properties, expected: [bool; 3]| {
        let only = Selector { processes: properties.clone(), ..Selector::default() };
        let rules = rules(&only);
        assert!(
            rules.everything
                && rules.granularity == Granularity::Process
                && rules.can_match_later()
                && rules.needs_events()
        );
        let found = [&nginx, &unreadable, &long].map(|process| rules.matches_process(process));
        assert_eq!(found, expected, "{only}");
        let never = Selector { all: true, exclude_processes: properties, ..Selector::default() };
        let rules = self::rules(&never);
        let found = [&nginx, &long].map(|process| rules.matches_process(process));
        assert_eq!(found, [!expected[0], !expected[2]], "{never}");
    };
    let none = Properties::default;
    check(Properties { comms: strings(&["nginx"]), ..none() }, [true, true, false]);
    check(Properties { comms: strings(&["ngin", "x"]), ..none() }, [false, false, false]);
    check(Properties { comms: strings(&["a-very-long-name"]), ..none() }, [false, false, true]);
    check(Properties { executables: strings(&["nginx"]), ..none() }, [true, false, false]);
    check(Properties { executables: strings(&["/usr/sbin/nginx"]), ..none() }, [true, false, false]);
    check(Properties { executables: strings(&["/sbin/nginx", "ngin"]), ..none() }, [false, false, false]);
    check(Properties { uids: vec![33, 5], ..none() }, [true, false, false]);
    let narrow = Properties { comms: strings(&["nginx"]), uids: vec![0], ..none() };
    let only = rules(&Selector { processes: narrow, ..Selector::default() });
    assert!(!only.matches_process(&nginx) && !only.matches_process(&long));
    // A process with an unreadable property might be excluded, so it does not match.
    let never = Properties { uids: vec![0], ..none() };
    let never = rules(&Selector { all: true, exclude_processes: never, ..Selector::default() });
    assert!(never.matches_process(&nginx) && !never.matches_process(&unreadable));
}

#[test]
fn a_script_is_an_executable_too() {
    let job = Fake("python3", Some("/usr/bin/python3.11"), Some(0), Some("/app/job.py"));
    let gone = Fake("python3", None, Some(0), Some("job.py"));
    for (wanted, expected) in [
        ("job.py", [true, true]),
        ("/app/job.py", [true, false]),
        ("python3.11", [true, false]),
        ("/usr/bin/python3.11", [true, false]),
        ("job", [false, false]),
        ("/job.py", [false, false]),
    ] {
        let properties = Properties { executables: strings(&[wanted]), ..Properties::default() };
        let only = rules(&Selector { processes: properties.clone(), ..Selector::default() });
        assert_eq!([&job, &gone].map(|process| only.matches_process(process)), expected, "{wanted}");
        let never = rules(&Selector { all: true, exclude_processes: properties, ..Selector::default() });
        assert_eq!(never.matches_process(&job), !expected[0], "{wanted}");
        // What cannot be read might be excluded.
        assert!(!never.matches_process(&gone), "{wanted}");
    }
}

#[test]
fn what_waits_and_what_ends() {
    let named = of(Criteria { names: vec![name("web")], ..Criteria::default() });
    let image = of(Criteria { images: strings(&["nginx"]), ..Criteria::default() });
    let tree = Selector { pids: vec![5], ..Selector::default() };
    let all = Selector { all: true, ..Selector::default() };
    let comm = Properties { comms: strings(&["curl"]), ..Properties::default() };
    let narrowed = |selector: &Selector| Selector { processes: comm.clone(), ..selector.clone() };
    let cases = [
        // selector, ends by itself, waits, watches
        (named.clone(), true, false, true),
        (image.clone(), false, true, true),
        (tree.clone(), true, false, false),
        (all.clone(), false, true, true),
        (narrowed(&named), true, true, true),
        (narrowed(&tree), true, true, true),
        (narrowed(&Selector::default()), false, true, true),
    ];
    for (selector, ends, can_match_later, needs_events) in cases {
        let rules = rules(&selector);
        assert_eq!(
            (!rules.is_open_ended(), rules.can_match_later(), rules.needs_events()),
            (ends, can_match_later, needs_events),
            "{selector}"
        );
    }
}
