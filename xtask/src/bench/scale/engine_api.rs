//! The part of Docker's API that ctrace asks for while it traces, for containers that Docker did not start.
//!
//! Owns a socket, and answers with the list of containers, their images and a version. With real containers
//! it is Docker's daemon that answers; its CPU time is not what is measured.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The label by which ctrace selects the containers.
pub(super) const LABEL: (&str, &str) = ("ctrace.bench", "scale");

/// The image of each container, by the container's id.
type Containers = Arc<Mutex<BTreeMap<String, usize>>>;

/// The API on a socket. It answers as long as this process lives.
#[derive(Debug)]
pub(super) struct EngineApi {
    containers: Containers,
    socket: PathBuf,
}

impl EngineApi {
    /// Begins to answer.
    pub(super) fn start(socket: &Path) -> Result<Self> {
        let listener =
            UnixListener::bind(socket).with_context(|| format!("cannot listen on {}", socket.display()))?;
        let containers = Containers::default();
        let shared = Arc::clone(&containers);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // A client that goes away while it is answered is not an error.
                thread::spawn(move || drop(serve(&stream, &shared)));
            }
        });
        Ok(Self { containers, socket: socket.to_owned() })
    }

    /// The option of ctrace that names the socket.
    pub(super) fn option(&self) -> String {
        format!("docker=unix://{}", self.socket.display())
    }

    /// From now on lists this container.
    pub(super) fn add(&self, id: &str, image: usize) {
        locked(&self.containers).insert(id.to_owned(), image);
    }

    /// Lists it no longer.
    pub(super) fn remove(&self, id: &str) {
        locked(&self.containers).remove(id);
    }
}

fn locked(containers: &Containers) -> MutexGuard<'_, BTreeMap<String, usize>> {
    containers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers the requests of one connection until its end.
fn serve(stream: &UnixStream, containers: &Containers) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut request = String::new();
    while reader.read_line(&mut request)? > 0 {
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        let answer =
            path(&request).and_then(|path| answer(path, wanted(&request).as_ref(), &locked(containers)));
        let (status, body) = match answer {
            Some(body) => ("200 OK", body.to_string()),
            None => ("404 Not Found", json!({ "message": "not there" }).to_string()),
        };
        let length = body.len();
        write!(
            writer,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        request.clear();
    }
    Ok(())
}

/// The path of a request, without what follows the question mark and without the API's version.
fn path(request: &str) -> Option<&str> {
    let target = request.strip_prefix("GET ")?.split(' ').next()?;
    let path = target.split('?').next()?;
    Some(
        path.strip_prefix("/v").and_then(|rest| rest.find('/').and_then(|at| rest.get(at..))).unwrap_or(path),
    )
}

/// The ids in the filters of a request. None if it is about all containers.
fn wanted(request: &str) -> Option<BTreeSet<String>> {
    let query = request.split(' ').nth(1)?.split_once('?')?.1;
    let filters = query.split('&').find_map(|one| one.strip_prefix("filters="))?;
    let filters: Value = serde_json::from_slice(&decoded(filters)?).ok()?;
    let ids = filters.get("id")?.as_array()?;
    Some(ids.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// A part of a query without its percent-encoding.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(part.get(2..)?.as_bytes());
    }
    Some(bytes)
}

fn answer(
    path: &str,
    wanted: Option<&BTreeSet<String>>,
    containers: &BTreeMap<String, usize>,
) -> Option<Value> {
    match path {
        "/version" => Some(json!({ "Version": "20.10.24", "ApiVersion": "1.41", "Os": "linux" })),
        "/containers/json" => Some(match wanted {
            None => containers.iter().map(|(id, image)| listed(id, *image)).collect(),
            Some(ids) => ids.iter().filter_map(|id| Some(listed(id, *containers.get(id)?))).collect(),
        }),
        _ => {
            let image = path.strip_prefix("/images/")?.strip_suffix("/json")?;
            let number = usize::from_str_radix(image.rsplit(':').next()?, 16).ok()?;
            Some(json!({ "Id": image, "RepoTags": [image_name(number)], "RepoDigests": [] }))
        }
    }
}

/// A container as Docker lists it, with labels as Compose sets them.
fn listed(id: &str, image: usize) -> Value {
    let (label, value) = LABEL;
    let short: String = id.chars().rev().take(8).collect::<Vec<_>>().into_iter().rev().collect();
    json!({
        "Id": id,
        "Names": [format!("/bench-{short}")],
        "Image": image_name(image),
        "ImageID": format!("sha256:{image:064x}"),
        "Command": "/app/prefork 10 5",
        "Created": 1_700_000_000,
        "Ports": [],
        "Labels": {
            label: value,
            "com.docker.compose.project": "bench",
            "com.docker.compose.service": format!("service-{image}"),
            "com.docker.compose.container-number": "1",
            "com.docker.compose.oneoff": "False",
            "org.opencontainers.image.version": "1.0",
        },
        "State": "running",
        "Status": "Up 1 minute",
        "HostConfig": { "NetworkMode": "default" },
        "NetworkSettings": { "Networks": {} },
        "Mounts": [],
    })
}

fn image_name(image: usize) -> String {
    format!("bench-{image}:latest")
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::Shutdown;

    use super::*;

    #[test]
    fn a_path_has_neither_version_nor_query() {
        assert_eq!(path("GET /containers/json?all=true HTTP/1.1\r\n"), Some("/containers/json"));
        assert_eq!(path("GET /v1.41/containers/json HTTP/1.1\r\n"), Some("/containers/json"));
        assert_eq!(path("GET /version HTTP/1.1\r\n"), Some("/version"));
        assert_eq!(path("POST /version HTTP/1.1\r\n"), None);
    }

    #[test]
    fn containers_are_listed_until_they_are_removed() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let api = EngineApi::start(&directory.path().join("socket"))?;
        let get = |path: &str| -> Result<String> {
            let mut stream = UnixStream::connect(directory.path().join("socket"))?;
            write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
            stream.shutdown(Shutdown::Write)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let id = format!("{:064x}", 0xab);
        api.add(&id, 7);
        let list = get("/containers/json?all=true")?;
        assert!(list.starts_with("HTTP/1.1 200 OK") && list.contains(&id), "{list}");
        assert!(list.contains("bench-7:latest") && list.contains("/bench-000000ab"), "{list}");
        let other = format!("{:064x}", 0xcd);
        api.add(&other, 8);
        let filtered = get(&format!("/containers/json?all=true&filters=%7B%22id%22%3A%5B%22{id}%22%5D%7D"))?;
        assert!(filtered.contains(&id) && !filtered.contains(&other), "{filtered}");
        api.remove(&other);
        assert!(get(&format!("/images/sha256:{:064x}/json", 7))?.contains("bench-7:latest"));
        assert!(get("/containers/none/json")?.starts_with("HTTP/1.1 404"));
        api.remove(&id);
        assert!(get("/containers/json")?.ends_with("[]"));
        Ok(())
    }
}
