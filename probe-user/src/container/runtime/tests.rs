//! All runtimes together: which are asked, how long that takes, and which takes precedence.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::time::Instant;

use tokio::net::UnixListener;

use super::grpc::fixture::{UNIMPLEMENTED, endpoint, run, serve};
use super::*;
use crate::proc::cgroup::ProcCgroups;

#[test]
fn names_are_unique_and_plain() {
    let names: BTreeSet<_> = ALL.iter().map(|runtime| runtime.name).collect();
    assert_eq!(names.len(), ALL.len());
    assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase())));
    assert!(ALL.iter().all(|runtime| runtime.sockets.iter().all(|path| path.starts_with('/'))));
}

fn at(runtime: &str, path: &std::path::Path) -> RuntimeSocket {
    RuntimeSocket { runtime: runtime.into(), address: path.display().to_string() }
}

#[test]
fn those_that_hang_are_given_up_together() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..8).map(|number| directory.path().join(number.to_string())).collect();
        let _listeners: Vec<_> = paths.iter().take(7).map(|path| UnixListener::bind(path).unwrap()).collect();
        let names = ["docker", "docker", "podman", "cri", "cri", "containerd", "containerd", "docker"];
        let sockets: Vec<_> = names.iter().zip(&paths).map(|(name, path)| at(name, path)).collect();
        let started = Instant::now();
        let found = endpoints(&sockets).await.unwrap();
        let elapsed = started.elapsed();
        assert!(elapsed < TIMEOUT + Duration::from_secs(1), "{elapsed:?}");
        assert_eq!(found.iter().filter(|one| one.state == RuntimeState::Silent).count(), 7, "{found:?}");
        assert_eq!(found.iter().filter(|one| one.state == RuntimeState::Absent).count(), 1, "{found:?}");
    });
}

#[test]
fn one_that_the_user_named_must_answer() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("absent.sock");
        for runtime in ALL {
            let error = list(&[at(runtime.name, &path)]).await.unwrap_err().to_string();
            for part in [runtime.name, "absent.sock", "--runtime-socket", "nothing listens", "start it"] {
                assert!(error.contains(part), "{error}");
            }
        }
    });
}

/// A containerd with one namespace and one container of that name in it.
fn one_container(method: &str, namespace: &str, _: &[u8]) -> Result<Vec<u8>, u32> {
    // Field 1 of each answer is a list, whose items have the name in field 1.
    let list = |name: &str| {
        let name = [&[0x0a, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
        [&[0x0a, u8::try_from(name.len()).unwrap()], name.as_slice()].concat()
    };
    match method {
        "/containerd.services.namespaces.v1.Namespaces/List" => Ok(list("default")),
        "/containerd.services.containers.v1.Containers/List" if namespace == "default" => Ok(list("web")),
        "/containerd.services.version.v1.Version/Version" => Ok(Vec::new()),
        _ => Err(UNIMPLEMENTED),
    }
}

#[test]
fn one_that_hangs_holds_up_no_other_while_a_trace_runs() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let (hanging, working) = (directory.path().join("docker"), directory.path().join("containerd"));
        let listener = UnixListener::bind(&hanging).unwrap();
        serve(&working, one_container);
        let absent = directory.path().join("absent");
        let mut again = RuntimePoller::new(vec![
            at("docker", &hanging),
            at("containerd", &working),
            at("podman", &absent),
            at("cri", &absent),
        ]);
        let begin = Instant::now();
        again.poll(&ContainerQuery::Facts);
        // It accepts connections, but never answers.
        let accepted = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                connections.lock().unwrap().push(connection);
            }
        });
        let mut listings = 0;
        // A caller that waits for a starting container asks again and again.
        while begin.elapsed() < TIMEOUT / 2 {
            again.poll(&ContainerQuery::Facts);
            let Ok(listing) = tokio::time::timeout(Duration::from_millis(10), again.next()).await else {
                continue;
            };
            assert_eq!(listing.queried_at, None, "what the other has is not known");
            if let [one] = listing.containers.as_slice() {
                assert_eq!((one.id.as_str(), listing.answered.as_slice()), ("web", &["containerd"][..]));
                listings += 1;
            }
        }
        assert!(listings >= 3, "{listings} in {:?}", begin.elapsed());
        // The runtime is given up after the time limit, and not asked again. Until then it was asked once.
        while again.next().await.queried_at.is_none() {
            again.poll(&ContainerQuery::Facts);
        }
        assert!(begin.elapsed() < TIMEOUT * 2, "{:?}", begin.elapsed());
        tokio::time::sleep(TIMEOUT / 10).await;
        let before = accepted.lock().unwrap().len();
        again.poll(&ContainerQuery::Facts);
        tokio::time::sleep(TIMEOUT / 10).await;
        assert!(before > 0 && accepted.lock().unwrap().len() == before, "it is asked though it is silent");
    });
}

#[test]
fn the_last_answer_of_a_silent_runtime_stays() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("containerd");
        serve(&path, one_container);
        let absent = directory.path().join("absent");
        let others = ["docker", "podman", "cri"].map(|name| at(name, &absent));
        let mut again = RuntimePoller::new([vec![at("containerd", &path)], others.into()].concat());
        again.poll(&ContainerQuery::Facts);
        while again.next().await.containers.is_empty() {}
        again.silence();
        assert_eq!(again.next().await.containers.len(), 1);
    });
}

#[test]
fn single_containers_are_asked_for_when_all_were_listed() {
    static FILTERS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    fn listed(method: &str, namespace: &str, question: &[u8]) -> Result<Vec<u8>, u32> {
        if method.ends_with("Containers/List") {
            FILTERS.lock().unwrap().push(question.to_vec());
        }
        one_container(method, namespace, question)
    }
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("containerd");
        serve(&path, listed);
        let absent = directory.path().join("absent");
        let others = ["docker", "podman", "cri"].map(|name| at(name, &absent));
        let mut again = RuntimePoller::new([vec![at("containerd", &path)], others.into()].concat());
        let of = |id: &str| ContainerQuery::FactsOf(BTreeSet::from([id.to_owned()]));
        let start = Instant::now();
        again.poll(&of("web"));
        let mut all = again.next().await;
        while all.queried_at.is_none() {
            all = again.next().await;
        }
        assert!(all.partial.is_none() && all.containers.len() == 1, "{all:?}");
        assert!(all.includes("web", start) && all.includes("other", start));
        for (id, expected) in [("web", 1), ("other", 0)] {
            tokio::time::sleep(Duration::from_millis(150)).await;
            let asked = Instant::now();
            again.poll(&of(id));
            let mut listing = again.next().await;
            while !listing.includes(id, asked) {
                listing = again.next().await;
            }
            assert!(listing.partial.as_ref().unwrap().contains_key(id), "{listing:?}");
            assert_eq!(listing.containers.len(), expected, "an answer has more than it was asked for");
            assert!(!listing.includes("third", start), "it was not asked for");
        }
        let filters = FILTERS.lock().unwrap().clone();
        let ends = |filter: &[u8], end: &[u8]| filter.ends_with(end);
        assert!(filters.iter().any(Vec::is_empty), "all are asked for first: {filters:?}");
        assert!(filters.iter().any(|filter| ends(filter, b"id==web")), "{filters:?}");
        assert!(filters.iter().any(|filter| ends(filter, b"id==other")), "{filters:?}");
    });
}

#[test]
fn few_ids_are_asked_for_and_otherwise_all() {
    let ids: Vec<String> = (0..=ContainerQuery::IDS).map(|number| format!("{number:064x}")).collect();
    let of = |ids: &[String]| ContainerQuery::of(ids.iter().map(String::as_str));
    let few = ids.get(..ContainerQuery::IDS).unwrap();
    assert_eq!(of(few), ContainerQuery::FactsOf(few.iter().cloned().collect()));
    assert_eq!(of(&ids), ContainerQuery::Facts);
    assert_eq!(of(&["web\"]".to_owned()]), ContainerQuery::Facts, "a filter cannot hold every name");
}

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn listed(id: &str, name: &str, runtime: &'static str) -> ContainerInfo {
    let source = InfoSource { endpoint: endpoint(runtime, std::path::Path::new("/x")), namespace: None };
    let labels = Arc::new([(runtime.to_owned(), name.to_owned())].into());
    ContainerInfo {
        id: id.into(),
        names: vec![name.into()],
        labels,
        runtime,
        sources: vec![source],
        ..ContainerInfo::default()
    }
}

fn reply(owner: Owner, containers: Vec<ContainerInfo>) -> (Owner, RuntimeReply) {
    (owner, RuntimeReply { runtime: "x", version: String::new(), containers })
}

#[test]
fn a_container_that_two_runtimes_report_is_one() {
    let pod = Some(Arc::new(crate::event::Pod { name: "p".into(), ..crate::event::Pod::default() }));
    let docker =
        ContainerInfo { image: Some("sha256:1".into()), is_running: true, ..listed(ID, "web", "docker") };
    let below =
        ContainerInfo { pid: Some(5), pod, image: Some("img".into()), ..listed(ID, ID, "containerd") };
    let found = merge::merge(vec![reply(Owner::System, vec![docker]), reply(Owner::System, vec![below])]);
    let [one] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((one.names.as_slice(), one.runtime, one.pid), (&["web".to_owned()][..], "docker", Some(5)));
    assert_eq!((one.image.as_deref(), one.is_running), (Some("img"), true));
    assert!(one.labels.contains_key("docker") && one.labels.contains_key("containerd"));
    assert_eq!((one.pod.as_ref().unwrap().name.as_str(), one.sources.len()), ("p", 2));
}

#[test]
fn a_users_runtime_adds_nothing_to_what_others_report() {
    let users = vec![listed(ID, "mine", "podman"), listed(&ID.replace('0', "a"), "own", "podman")];
    let system = vec![listed(ID, "web", "docker")];
    // The order of the answers does not matter.
    let found = merge::merge(vec![reply(Owner::User(1000), users), reply(Owner::System, system)]);
    let names: Vec<_> = found.iter().flat_map(|one| &one.names).collect();
    assert_eq!(names, ["web", "own"]);
    assert!(found.iter().all(|one| !one.labels.values().any(|value| value == "mine")));
}

#[test]
fn ids_that_somebody_chose_are_those_of_their_cgroups() {
    let one = |path: &str| ContainerInfo { cgroup: Some(path.into()), ..listed("web", "web", "containerd") };
    let found = merge::merge(vec![reply(Owner::System, vec![one("/default/web"), one("/other/web")])]);
    assert_eq!(found.len(), 2);
    let inside = ProcCgroups::parse(b"0::/other/web/x\n");
    let holders: Vec<_> = found.iter().filter(|one| one.holds(&inside)).collect();
    assert_eq!(holders.len(), 1);
    assert_eq!(holders.first().unwrap().cgroup.as_deref(), Some("/other/web"));
}
