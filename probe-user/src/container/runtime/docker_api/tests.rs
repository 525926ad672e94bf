//! Engines that answer as Docker and Podman do.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::path::Path;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::*;
use crate::container::runtime::endpoint::{Address, Owner};
use crate::container::runtime::grpc::fixture::{endpoint, run};
use crate::container::runtime::{Extent, Unreachable};

type Answers = fn(&str) -> Option<&'static str>;

/// What [`Answers`] are asked for the name of the engine, which is a header of every answer.
const SERVER_HEADER: &str = "Server";

const DOCKER_VERSION: &str = r#"{"Version":"20.10.24","ApiVersion":"1.41","Components":[{"Name":"Engine",
    "Version":"20.10.24"},{"Name":"containerd","Version":"1.6.20"}]}"#;
const PODMAN_VERSION: &str = r#"{"Version":"4.3.1","Components":[{"Name":"Podman Engine","Version":"4.3.1"},
    {"Name":"Conmon","Version":"2.1.6"}]}"#;

fn docker(line: &str) -> Option<&'static str> {
    Some(match line {
        "GET /version HTTP/1.1" => DOCKER_VERSION,
        line if line.starts_with("GET /containers/json?") && line.contains("all=true") => {
            r#"[{"Id":"aa","Names":["/x/alias","/web"],"Image":"img:1","State":"running",
                 "Labels":{"com.docker.compose.service":"front"}},
                {"Id":"bb","Names":["/old"],"State":"exited"},{"Names":["/no-id"]}]"#
        }
        line if line.starts_with("GET /containers/aa/json") => {
            r#"{"Id":"aa","State":{"Pid":77},"Driver":"overlay2","GraphDriver":{"Name":"overlay2","Data":
                {"LowerDir":"/o/l2:/o/l1","UpperDir":"/o/u","WorkDir":"/o/w","MergedDir":"/o/m"}},
                "Mounts":[{"Type":"volume","Name":"v","Source":"/var/v","Destination":"/v","RW":true},
                {"Type":"bind","Source":"/srv","Destination":"/data","Mode":"ro","RW":false}]}"#
        }
        // With containerd's image store there is no GraphDriver.
        line if line.starts_with("GET /containers/bb/json") => {
            r#"{"Id":"bb","State":{"Pid":0},"Driver":"overlayfs"}"#
        }
        _ => return None,
    })
}

const OLD: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Containers of one image, which were started by a tag that has moved since, by another tag, and by the id.
/// One container whose image cannot be read, and one that has ended.
fn moved(line: &str) -> Option<&'static str> {
    Some(match line {
        "GET /version HTTP/1.1" => DOCKER_VERSION,
        line if line.starts_with("GET /containers/json?") => {
            r#"[{"Id":"a1","Names":["/moved"],"State":"running",
                 "Image":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                 "ImageID":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
                {"Id":"a2","Names":["/other"],"Image":"other:2","State":"running",
                 "ImageID":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
                {"Id":"a3","Names":["/by-id"],"Image":"0123456789ab","State":"running",
                 "ImageID":"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
                {"Id":"a4","Names":["/unanswered"],"Image":"x:1","State":"running",
                 "ImageID":"sha256:ffff456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
                {"Id":"a5","Names":["/ended"],"Image":"x:1","State":"exited",
                 "ImageID":"sha256:eeee456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}]"#
        }
        line if line.starts_with("GET /images/sha256:0123") => {
            r#"{"RepoTags":["other:2","x/newer:3"],"RepoDigests":["other@sha256:dd"]}"#
        }
        // This is not valid JSON.
        line if line.starts_with("GET /images/sha256:ffff") => "{",
        line if line.starts_with("GET /containers/a1/json") => r#"{"Config":{"Image":"moved:1"}}"#,
        line if line.starts_with("GET /containers/a3/json") => r#"{"Config":{"Image":"0123456789ab"}}"#,
        _ => return None,
    })
}

#[test]
fn a_container_whose_tag_has_moved_has_all_names_of_its_image() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        serve(&path, moved);
        let reply = query(endpoint(DOCKER, &path), ContainerQuery::All).await.unwrap();
        let check = |id: &str, shown: &str, extent: Extent, names: &[&str]| {
            let found = reply.containers.iter().find(|one| one.id == id).unwrap();
            assert_eq!((found.image.as_deref(), found.image_names.extent), (Some(shown), extent), "{id}");
            let missing = names.iter().find(|name| !found.image_names.names.contains(**name));
            assert_eq!(missing, None, "{id}: {:?}", found.image_names);
        };
        let all = ["other:2", "x/newer:3", "other@sha256:dd", OLD];
        check("a1", "moved:1", Extent::All, &[&all[..], &["moved:1"]].concat());
        check("a2", "other:2", Extent::All, &all);
        check("a3", "other:2", Extent::All, &all);
        check("a4", "x:1", Extent::Part, &["x:1"]);
        check("a5", "x:1", Extent::Part, &["x:1"]);
    });
}

fn podman(line: &str) -> Option<&'static str> {
    Some(match line {
        "GET /version HTTP/1.1" => PODMAN_VERSION,
        line if line.starts_with("GET /containers/json?") => {
            r#"[{"Id":"aa","Names":["/web"],"Image":"localhost/img:1","State":"running"},
                {"Id":"cc","Names":["/stops"],"State":"stopping"}]"#
        }
        line if line.contains("/libpod/containers/json") => {
            r#"[{"Id":"aa","Names":["web"],"Pid":78,"Pod":"d0d0","PodName":"shop","State":"running"},
                {"Id":"zz","Pid":1}]"#
        }
        _ => return None,
    })
}

/// Answers only what is asked about `aa` and `cc`, and names itself in each answer.
fn podman_by_id(line: &str) -> Option<&'static str> {
    let is_by_id = line.contains("filters=%7B%22id%22%3A%5B%22aa%22%2C%22cc%22%5D%7D");
    if line == SERVER_HEADER { Some("Libpod/4.3.1 (linux)") } else { podman(line).filter(|_| is_by_id) }
}

#[test]
fn containers_are_listed_by_id() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("podman.sock");
        serve(&path, podman_by_id);
        let ids = ContainerQuery::FactsOf(["aa".to_owned(), "cc".to_owned()].into());
        let reply = query(endpoint(PODMAN, &path), ids).await.unwrap();
        assert_eq!((reply.runtime, reply.version.as_str()), (PODMAN, "4.3.1"), "it is not asked for that");
        let pods: Vec<_> =
            reply.containers.iter().map(|one| one.pod.as_ref().map(|pod| &*pod.name)).collect();
        assert_eq!(pods, [Some("shop"), None]);
    });
}

#[test]
fn the_header_of_an_answer_names_the_engine() {
    let check = |header: &str, expected: Option<(&str, &str)>| {
        let found = of_header(header);
        let found = found.as_ref().map(|found| (found.runtime, found.version.as_str()));
        assert_eq!(found, expected, "{header}");
    };
    check("Docker/20.10.24+dfsg1 (linux)", Some((DOCKER, "20.10.24+dfsg1")));
    check("Libpod/5.0.0 (linux)", Some((PODMAN, "5.0.0")));
    check("nginx/1.22.1", None);
    check("Docker", None);
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, answers: Answers) {
    let mut request = vec![0; 4096];
    let read = stream.read(&mut request).await.unwrap();
    let text = String::from_utf8_lossy(request.get(..read).unwrap()).into_owned();
    let line = text.lines().next().unwrap_or_default();
    let (status, body) = match answers(line) {
        Some(body) => ("200 OK", body.to_owned()),
        None => ("404 Not Found", format!(r#"{{"message":"unexpected: {line}"}}"#)),
    };
    let server = answers(SERVER_HEADER).map(|name| format!("Server: {name}\r\n")).unwrap_or_default();
    let head =
        format!("HTTP/1.1 {status}\r\n{server}Content-Type: application/json\r\nConnection: close\r\n");
    let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
}

/// Answers one request per connection.
fn serve(path: &Path, answers: Answers) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream, answers));
        }
    });
}

fn at(address: &str) -> Arc<RuntimeEndpoint> {
    let runtime = endpoint(DOCKER, Path::new("")).runtime;
    Arc::new(RuntimeEndpoint { runtime, address: Address::parse(address), owner: Owner::System })
}

#[test]
fn docker_is_understood() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        serve(&path, docker);
        let reply = query(endpoint(DOCKER, &path), ContainerQuery::All).await.unwrap();
        assert_eq!((reply.runtime, reply.version.as_str()), (DOCKER, "20.10.24"));
        let [web, old] = reply.containers.as_slice() else { panic!("{:?}", reply.containers) };
        assert_eq!(web.names, ["web", "x/alias"]);
        assert_eq!((web.image.as_deref(), web.is_running), (Some("img:1"), true));
        assert_eq!(labels::compose_service(&web.labels), Some("front"));
        assert_eq!((old.is_running, old.state.as_str()), (false, "exited"));
        // The server is this process, so its pids are ours.
        assert_eq!(crate::container::runtime::init(web).await, Some(77));
        let found = crate::container::runtime::describe(web).await.unwrap();
        let overlay = found.overlay.unwrap();
        assert_eq!(overlay.lower, ["/o/l2", "/o/l1"]);
        assert_eq!((overlay.upper.as_deref(), overlay.merged.as_deref()), (Some("/o/u"), Some("/o/m")));
        let mounts: Vec<_> = found
            .mounts
            .iter()
            .map(|one| (one.kind.as_str(), one.source.as_str(), one.is_writable))
            .collect();
        assert_eq!(mounts, [("volume", "/var/v", true), ("bind", "/srv", false)]);
        let old = crate::container::runtime::describe(old).await.unwrap();
        assert_eq!((old.init, old.overlay, old.driver.as_deref()), (None, None, Some("overlayfs")));
    });
}

#[test]
fn podman_is_podman_wherever_it_answers() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        serve(&path, podman);
        let reply = query(endpoint(DOCKER, &path), ContainerQuery::All).await.unwrap();
        assert_eq!((reply.runtime, reply.version.as_str()), (PODMAN, "4.3.1"));
        let [web, stops] = reply.containers.as_slice() else { panic!("{:?}", reply.containers) };
        assert_eq!((web.runtime, web.pid), (PODMAN, Some(78)));
        let pod = event::Pod { name: "shop".into(), uid: Some("d0d0".into()), ..event::Pod::default() };
        assert_eq!(web.pod.as_deref(), Some(&pod));
        assert!(stops.is_running && stops.pod.is_none());
    });
}

#[test]
fn a_podman_without_its_own_protocol_still_names_containers() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("podman.sock");
        serve(&path, |line| podman(line).filter(|_| !line.contains("libpod")));
        let reply = query(endpoint(PODMAN, &path), ContainerQuery::All).await.unwrap();
        let web = reply.containers.first().unwrap();
        assert_eq!((web.names.as_slice(), web.pod.as_ref()), (&["web".to_owned()][..], None));
        assert!(web.gaps.pod, "it may be in one");
    });
}

#[test]
fn pids_over_tcp_mean_nothing() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, docker));
            }
        });
        let reply = query(at(&address), ContainerQuery::All).await.unwrap();
        let web = reply.containers.first().unwrap();
        assert_eq!(web.names.first().map(String::as_str), Some("web"));
        assert_eq!(crate::container::runtime::init(web).await, None, "it may be another machine's");
    });
}

#[test]
fn who_accepts_and_never_answers_is_given_up() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let started = Instant::now();
        let error = query(endpoint(DOCKER, &path), ContainerQuery::All).await.unwrap_err();
        assert!(matches!(error, Unreachable::Silent(_)), "{error}");
        assert!(started.elapsed() < TIMEOUT + std::time::Duration::from_secs(1));
    });
}

#[test]
fn nobody_there_is_absent() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        assert!(matches!(
            query(endpoint(DOCKER, &path), ContainerQuery::All).await,
            Err(Unreachable::Absent(_))
        ));
        // A socket file that a daemon left behind.
        drop(UnixListener::bind(&path).unwrap());
        let error = query(endpoint(DOCKER, &path), ContainerQuery::All).await.unwrap_err();
        assert!(matches!(error, Unreachable::Absent(_)), "{error:?}");
    });
}

#[test]
fn what_cannot_be_used_is_an_error_that_says_why() {
    for address in ["ssh://host", "npipe:////./pipe/x"] {
        match run(query(at(address), ContainerQuery::All)) {
            Err(error @ Unreachable::Failed { .. }) => {
                let text = error.chain();
                assert!(text.contains(address) && text.contains("only unix://"), "{text}");
            }
            other => panic!("{address}: {other:?}"),
        }
    }
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        serve(&path, |_| Some("\x1b[2J"));
        let error = query(endpoint(DOCKER, &path), ContainerQuery::All).await.unwrap_err();
        assert!(!error.chain().contains('\x1b'), "{}", error.chain());
    });
}
