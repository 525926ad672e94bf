//! A containerd that answers over gRPC as versions 1.6 and 1.7 do.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::messages::{Any, Descriptor, Image, Mount, Namespace, Timestamp};
use super::*;
use crate::container::runtime::Extent;
use crate::container::runtime::endpoint::Owner;
use crate::container::runtime::grpc::fixture::{NOT_FOUND, UNIMPLEMENTED, endpoint, run, serve};
use crate::proc::cgroup::ContainerKey;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn spec(cgroup: &str) -> Any {
    let mounts = r#"[{"destination":"/data","type":"bind","source":"/srv","options":["rbind","ro"]}]"#;
    let json = format!(r#"{{"ociVersion":"1.0.2","linux":{{"cgroupsPath":"{cgroup}"}},"mounts":{mounts}}}"#);
    Any { value: json.into_bytes() }
}

fn web() -> Container {
    Container {
        id: "web".into(),
        image: "docker.io/library/web:1".into(),
        spec: Some(spec("/default/web")),
        snapshotter: "overlayfs".into(),
        snapshot_key: "web".into(),
        created: Some(Timestamp { seconds: 50, nanoseconds: 0 }),
        ..Container::default()
    }
}

fn answers(method: &str, namespace: &str, question: &[u8]) -> Result<Vec<u8>, u32> {
    let pod = [("io.kubernetes.pod.name", "web-0"), ("io.kubernetes.pod.namespace", "prod")];
    let of_pod = |kind, name| {
        labels(&[pod[0], pod[1], ("io.cri-containerd.kind", kind), ("io.kubernetes.container.name", name)])
    };
    Ok(match (method, namespace) {
        ("/containerd.services.version.v1.Version/Version", "") => {
            Version { version: "1.6.20".into() }.encode_to_vec()
        }
        ("/containerd.services.namespaces.v1.Namespaces/List", "") => Namespaces {
            namespaces: ["default", "k8s.io"].map(|name| Namespace { name: name.into() }).into(),
        }
        .encode_to_vec(),
        ("/containerd.services.containers.v1.Containers/List", "default") => {
            Containers { containers: vec![web(), Container { id: "odd".into(), ..Container::default() }] }
                .encode_to_vec()
        }
        ("/containerd.services.containers.v1.Containers/List", "k8s.io") => Containers {
            containers: vec![
                Container {
                    id: ID.into(),
                    labels: of_pod("container", "app"),
                    image: "sha256:cc".into(),
                    spec: Some(Any {
                        value: br#"{"annotations":{"io.kubernetes.cri.image-name":"reg.example/app:3"}}"#
                            .into(),
                    }),
                    ..Container::default()
                },
                Container { id: ID.replace('0', "f"), labels: of_pod("sandbox", ""), ..Container::default() },
            ],
        }
        .encode_to_vec(),
        ("/containerd.services.images.v1.Images/List", "default") => {
            let image = |name: &str, digest: &str| Image {
                name: name.into(),
                target: Some(Descriptor { digest: digest.into() }),
                updated: Some(Timestamp { seconds: 40, nanoseconds: 0 }),
            };
            let images =
                [("docker.io/library/web:1", "sha256:aa"), ("web:new", "sha256:aa"), ("x:1", "sha256:bb")];
            Images { images: images.map(|(name, digest)| image(name, digest)).into() }.encode_to_vec()
        }
        ("/containerd.services.images.v1.Images/List", _) => return Err(UNIMPLEMENTED),
        ("/containerd.services.tasks.v1.Tasks/List", "default") => {
            Tasks { tasks: vec![Task { id: "web".into(), pid: 77, status: 2, ..Task::default() }] }
                .encode_to_vec()
        }
        ("/containerd.services.containers.v1.Containers/Get", "default") => {
            assert_eq!(ContainerId::decode(question).unwrap().id, "web");
            OneContainer { container: Some(web()) }.encode_to_vec()
        }
        ("/containerd.services.tasks.v1.Tasks/Get", "default") => {
            OneTask { process: Some(Task { id: "web".into(), pid: 77, status: 2, ..Task::default() }) }
                .encode_to_vec()
        }
        ("/containerd.services.snapshots.v1.Snapshots/Mounts", "default") => {
            let found = SnapshotKey::decode(question).unwrap();
            assert_eq!((found.snapshotter.as_str(), found.key.as_str()), ("overlayfs", "web"));
            let options = ["index=off", "workdir=/s/3/work", "upperdir=/s/3/fs", "lowerdir=/s/2/fs:/s/1/fs"];
            let mount = Mount {
                kind: "overlay".into(),
                source: "overlay".into(),
                options: options.map(str::to_owned).into(),
            };
            Mounts { mounts: vec![mount] }.encode_to_vec()
        }
        ("/containerd.services.tasks.v1.Tasks/List", _) => return Err(NOT_FOUND),
        other => panic!("{other:?}"),
    })
}

#[test]
fn containers_of_all_namespaces_are_listed_and_described() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("containerd.sock");
        serve(&path, answers);
        let reply = (RUNTIME.query)(endpoint(NAME, &path), ContainerQuery::All).await.unwrap();
        assert_eq!((reply.runtime, reply.version.as_str()), (NAME, "1.6.20"));
        let [web, odd, app, sandbox] = reply.containers.as_slice() else { panic!("{:?}", reply.containers) };
        assert_eq!(web.names, ["web"]);
        assert_eq!((web.image.as_deref(), web.is_running), (Some("docker.io/library/web:1"), true));
        let names: Vec<&str> = web.image_names.names.iter().map(String::as_str).collect();
        let expected = [
            "docker.io/library/web:1",
            "docker.io/library/web@sha256:aa",
            "sha256:aa",
            "web:new",
            "web@sha256:aa",
        ];
        assert_eq!((names.as_slice(), web.image_names.extent), (&expected[..], Extent::All));
        assert_eq!((odd.image_names.extent, app.image_names.extent), (Extent::NoImage, Extent::Part));
        assert_eq!(app.image.as_deref(), Some("reg.example/app:3"), "as kubelet asked for it");
        // The server is this process, so its pids are ours.
        assert_eq!((web.pid, web.state.as_str()), (Some(77), "running"));
        if web.within.is_none() {
            assert_eq!(web.mark(), ContainerKey::Path(b"/default/web".to_vec()));
            assert_eq!(odd.mark(), ContainerKey::Path(b"/default/odd".to_vec()));
        }
        assert_eq!((odd.is_running, odd.state.as_str()), (false, "stopped"));
        assert_eq!((app.names.as_slice(), app.state.as_str()), (&["app".to_owned()][..], "unknown"));
        assert_eq!(app.pod.as_ref().unwrap().name, "web-0");
        assert_eq!(app.cgroup, None);
        assert_eq!((sandbox.names.as_slice(), sandbox.pod.is_some()), (&[][..], true));

        let found = crate::container::runtime::describe(web).await.unwrap();
        assert_eq!((found.init, found.driver.as_deref()), (Some(77), Some("overlayfs")));
        let overlay = found.overlay.unwrap();
        assert_eq!(overlay.lower, ["/s/2/fs", "/s/1/fs"]);
        assert_eq!((overlay.upper.as_deref(), overlay.work.as_deref()), (Some("/s/3/fs"), Some("/s/3/work")));
        let snapshot = found.snapshot.unwrap();
        assert_eq!((snapshot.key.as_str(), snapshot.namespace.as_str()), ("web", "default"));
        let mount = found.mounts.first().unwrap();
        assert_eq!(
            (mount.source.as_str(), mount.destination.as_str(), mount.is_writable),
            ("/srv", "/data", false)
        );
        assert_eq!(crate::container::runtime::init(web).await, Some(77));
    });
}

#[test]
fn who_serves_something_else_is_no_containerd() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other.sock");
        serve(&path, |_, _, _| Err(UNIMPLEMENTED));
        let error = (RUNTIME.query)(endpoint(NAME, &path), ContainerQuery::All).await.unwrap_err();
        assert!(matches!(error, crate::container::runtime::Unreachable::Unserved(_)), "{error}");
    });
}

/// Accepts connections, and sends the same bytes again and again.
async fn flood(listener: UnixListener, bytes: Vec<u8>) {
    let (stream, _) = listener.accept().await.unwrap();
    let (mut from, mut to) = stream.into_split();
    tokio::spawn(async move {
        let mut discarded = vec![0; 1 << 16];
        while from.read(&mut discarded).await.is_ok_and(|count| count > 0) {}
    });
    while to.write_all(&bytes).await.is_ok() {}
}

#[test]
fn a_hostile_server_is_given_up_with_the_reason() {
    // Frames of HTTP/2 (RFC 9113): empty settings, and answers to pings.
    let settings: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    let pong: &[u8] = &[0, 0, 8, 6, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    for (bytes, reason) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "frame with invalid size"),
        ([settings, &pong.repeat(1000)].concat(), "the answer is longer than 4 MiB"),
    ] {
        run(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("hostile.sock");
            tokio::spawn(flood(UnixListener::bind(&path).unwrap(), bytes));
            let endpoint = RuntimeEndpoint::clone(&endpoint(NAME, &path));
            let endpoint = Arc::new(RuntimeEndpoint { owner: Owner::User(1000), ..endpoint });
            let error = (RUNTIME.query)(endpoint, ContainerQuery::All).await.unwrap_err();
            assert!(error.chain().ends_with(reason), "{}", error.chain());
        });
    }
}

/// Messages with the field numbers of the published `containers.proto`.
#[test]
fn fields_have_the_published_numbers() {
    let bytes = b"\x0a\x01x\x12\x06\x0a\x01k\x12\x01v\x1a\x01i\x22\x03\x0a\x01r\x2a\x05\x0a\x01t\x12\x00\x32\x01s\x3a\x01y\x42\x02\x08\x01";
    let found = Container::decode(bytes.as_slice()).unwrap();
    let expected = Container {
        id: "x".into(),
        labels: labels(&[("k", "v")]),
        image: "i".into(),
        spec: Some(Any::default()),
        snapshotter: "s".into(),
        snapshot_key: "y".into(),
        created: Some(Timestamp { seconds: 1, nanoseconds: 0 }),
    };
    // As in `images.proto`, with labels (2) and created_at (7), which are not read.
    let bytes = b"\x0a\x01n\x12\x00\x1a\x07\x0a\x01m\x12\x02sd\x3a\x02\x08\x01\x42\x02\x08\x02";
    let image = Image::decode(bytes.as_slice()).unwrap();
    assert_eq!((image.name.as_str(), image.target.unwrap().digest.as_str()), ("n", "sd"));
    assert_eq!(image.updated.unwrap().seconds, 2);
    assert_eq!(found, expected);
    // As in `containerd.v1.types.Process`, with its exit status (9), which is not read.
    let task = Task::decode(b"\x12\x03web\x18\x4d\x20\x02\x48\x07".as_slice()).unwrap();
    assert_eq!((task.container_id(), task.pid, task.status), ("web", 77, 2));
}
