//! CRI-O and containerd's plugin, as their documentation and `crictl inspect` show their answers.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::collections::BTreeMap;

use prost::Message;

use super::messages::{ContainerStatus, Image, Metadata, Mount, PodMetadata, StoredImage};
use super::*;
use crate::container::runtime::ContainerQuery;
use crate::container::runtime::grpc::fixture::{NOT_FOUND, UNIMPLEMENTED, endpoint, run, serve};

/// The verbose part of CRI-O's ContainerStatus (server/container_status.go: `sandboxID`, `pid`,
/// `runtimeSpec`).
const CRIO: &str = r#"{"sandboxID":"5a","pid":4711,"runtimeSpec":{"ociVersion":"1.1.0","linux":
    {"cgroupsPath":"kubepods-pod1.slice:crio:0a"},"mounts":[{"destination":"/etc/hosts","type":"bind",
    "source":"/var/lib/kubelet/pods/1/etc-hosts","options":["rw","rbind"]}]},"privileged":false}"#;
/// The verbose part of the status from containerd's plugin (`crictl inspect`).
const CONTAINERD: &str = r#"{"sandboxID":"5a","pid":4712,"removing":false,"snapshotKey":"0a","snapshotter":"overlayfs",
    "runtimeType":"io.containerd.runc.v2","runtimeOptions":null,"config":{"metadata":{"name":"app"}}}"#;

fn status(json: &str) -> Status {
    let mount = Mount { container_path: "/data".into(), host_path: "/srv".into(), readonly: true };
    Status {
        status: Some(ContainerStatus { mounts: vec![mount] }),
        info: BTreeMap::from([("info".to_owned(), json.to_owned())]),
    }
}

fn answers(method: &str, _: &str, question: &[u8]) -> Result<Vec<u8>, u32> {
    let id = || StatusOf::decode(question).unwrap().id;
    Ok(match method {
        "/runtime.v1.RuntimeService/Version" => {
            Version { runtime_name: "cri-o".into(), runtime_version: "1.30.3".into() }.encode_to_vec()
        }
        "/runtime.v1.RuntimeService/ListContainers" => Containers {
            containers: vec![Container {
                id: "0a".into(),
                sandbox: "5a".into(),
                metadata: Some(Metadata { name: "app".into() }),
                image: Some(Image { image: "sha256:12".into(), user_specified: "quay.io/app:2".into() }),
                state: 1,
                labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
                image_ref: "sha256:12".into(),
                ..Container::default()
            }],
        }
        .encode_to_vec(),
        "/runtime.v1.ImageService/ListImages" => StoredImages {
            images: vec![StoredImage {
                id: "12".into(),
                tags: vec!["quay.io/app:3".into()],
                digests: vec!["quay.io/app@sha256:dd".into()],
            }],
        }
        .encode_to_vec(),
        "/runtime.v1.RuntimeService/ListPodSandbox" => Sandboxes {
            items: vec![Sandbox {
                id: "5a".into(),
                metadata: Some(PodMetadata {
                    name: "web-0".into(),
                    uid: "u-1".into(),
                    namespace: "prod".into(),
                }),
                labels: BTreeMap::from([("tier".to_owned(), "front".to_owned())]),
                ..Sandbox::default()
            }],
        }
        .encode_to_vec(),
        "/runtime.v1.RuntimeService/ContainerStatus" if id() == "0a" => status(CRIO).encode_to_vec(),
        "/runtime.v1.RuntimeService/ContainerStatus" => return Err(NOT_FOUND),
        "/runtime.v1.RuntimeService/PodSandboxStatus" => {
            let info = BTreeMap::from([("info".to_owned(), r#"{"pid":4000}"#.to_owned())]);
            Status { info, status: None }.encode_to_vec()
        }
        other => panic!("{other}"),
    })
}

#[test]
fn containers_have_their_pods() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("crio.sock");
        serve(&path, answers);
        let reply = (RUNTIME.query)(endpoint(NAME, &path), ContainerQuery::All).await.unwrap();
        assert_eq!((reply.runtime, reply.version.as_str()), ("cri-o", "1.30.3"));
        let [app, sandbox] = reply.containers.as_slice() else { panic!("{:?}", reply.containers) };
        assert_eq!(
            (app.names.as_slice(), app.is_running, app.runtime),
            (&["app".to_owned()][..], true, "cri-o")
        );
        assert_eq!(app.image.as_deref(), Some("quay.io/app:2"), "its tag has moved since");
        let names: Vec<&str> = app.image_names.names.iter().map(String::as_str).collect();
        let expected = ["12", "quay.io/app:2", "quay.io/app:3", "quay.io/app@sha256:dd", "sha256:12"];
        assert_eq!((names.as_slice(), app.image_names.extent), (&expected[..], Extent::All));
        assert_eq!(sandbox.image_names.extent, Extent::Part, "the interface does not tell it");
        assert_eq!(app.labels.get("app").map(String::as_str), Some("web"));
        let pod = Pod {
            name: "web-0".into(),
            namespace: Some("prod".into()),
            uid: Some("u-1".into()),
            labels: Some(Arc::new(BTreeMap::from([("tier".to_owned(), "front".to_owned())]))),
        };
        assert_eq!(app.pod.as_deref(), Some(&pod));
        assert_eq!((sandbox.id.as_str(), sandbox.names.len(), sandbox.pod.as_deref()), ("5a", 0, Some(&pod)));

        let found = crate::container::runtime::describe(app).await.unwrap();
        assert_eq!(found.init, Some(4711));
        let mount = found.mounts.first().unwrap();
        assert_eq!((mount.destination.as_str(), mount.is_writable), ("/etc/hosts", true));
        assert_eq!(crate::container::runtime::init(sandbox).await, Some(4000));
    });
}

/// Like [`answers`], but lists only what is asked for by its id.
fn answers_by_id(method: &str, namespace: &str, question: &[u8]) -> Result<Vec<u8>, u32> {
    let id = || Filtered::decode(question).unwrap().filter.unwrap().id;
    match method {
        "/runtime.v1.RuntimeService/ListContainers" if id() != "0a" => Ok(Vec::new()),
        "/runtime.v1.RuntimeService/ListPodSandbox" if id() != "5a" => Ok(Vec::new()),
        _ => answers(method, namespace, question),
    }
}

#[test]
fn containers_are_listed_by_id_with_their_pods() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("crio.sock");
        serve(&path, answers_by_id);
        for (ids, expected) in [
            (&["0a", "zz"][..], &["0a", "5a"][..]),
            (&["5a"], &["5a"]),
            (&["zz"], &[]),
            (&["0a", "5a"], &["0a", "5a"]),
        ] {
            let wanted = ContainerQuery::FactsOf(ids.iter().map(|id| (*id).to_owned()).collect());
            let reply = (RUNTIME.query)(endpoint(NAME, &path), wanted).await.unwrap();
            let found: Vec<&str> = reply.containers.iter().map(|one| one.id.as_str()).collect();
            assert_eq!(found, expected, "{ids:?}");
            assert!(
                reply.containers.iter().all(|one| one.pod.as_ref().is_some_and(|pod| pod.name == "web-0"))
            );
        }
    });
}

#[test]
fn what_containerd_says_of_a_container() {
    let found = details(status(CONTAINERD), &Peer { within: None, shares_pids: true });
    assert_eq!((found.init, found.driver.as_deref()), (Some(4712), Some("overlayfs")));
    let snapshot = found.snapshot.unwrap();
    assert_eq!((snapshot.key.as_str(), snapshot.namespace.as_str()), ("0a", "k8s.io"));
    let mount = found.mounts.first().unwrap();
    assert_eq!((mount.source.as_str(), mount.is_writable), ("/srv", false));
    // No pid is taken from another PID namespace, or from an invalid answer.
    assert_eq!(details(status(CONTAINERD), &Peer::default()).init, None);
    for json in ["", "{", "[]", r#"{"pid":"x"}"#, r#"{"pid":-1}"#] {
        assert_eq!(details(status(json), &Peer { within: None, shares_pids: true }).init, None, "{json}");
    }
}

#[test]
fn a_containerd_without_the_plugin_is_passed_over() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("containerd.sock");
        serve(&path, |_, _, _| Err(UNIMPLEMENTED));
        let error = (RUNTIME.query)(endpoint(NAME, &path), ContainerQuery::All).await.unwrap_err();
        assert!(matches!(error, crate::container::runtime::Unreachable::Unserved(_)), "{error}");
    });
}

/// Messages with the field numbers of the published `api.proto`, and a field (created_at 7) that is not read.
#[test]
fn fields_have_the_published_numbers() {
    let bytes = b"\x0a\x01c\x12\x01s\x1a\x05\x0a\x01n\x10\x02\x22\x09\x0a\x02im\x92\x01\x02us\x2a\x01r\x30\x01\x38\x05\x42\x06\x0a\x01k\x12\x01v";
    let found = Container::decode(bytes.as_slice()).unwrap();
    assert_eq!((found.id.as_str(), found.sandbox.as_str(), found.state), ("c", "s", 1));
    assert_eq!((found.image_ref.as_str(), found.metadata.unwrap().name.as_str()), ("r", "n"));
    let image = StoredImage::decode(b"\x0a\x01i\x12\x01t\x1a\x01d\x20\x05".as_slice()).unwrap();
    assert_eq!((image.id.as_str(), image.tags.len(), image.digests.len()), ("i", 1, 1));
    let image = found.image.unwrap();
    assert_eq!((image.image.as_str(), image.user_specified.as_str()), ("im", "us"));
    assert_eq!(found.labels.get("k").map(String::as_str), Some("v"));
}
