//! The Docker Engine API, which Podman's service speaks too. The only user of bollard.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as State};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptions};
use bollard::{API_DEFAULT_VERSION, Docker};

use super::{Listed, Runtime, TIMEOUT, Unreachable};

/// Where it listens unless `DOCKER_HOST` says otherwise.
const SOCKET: &str = "unix:///var/run/docker.sock";
const NAME: &str = "docker";

pub(super) const RUNTIME: Runtime = Runtime {
    name: NAME,
    list: || Box::pin(async { list(&address()).await }),
    init: |id| Box::pin(async move { init(&address(), &id).await }),
};

/// An empty `DOCKER_HOST` means the default, as it does for Docker's own client.
fn address() -> String {
    std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()).unwrap_or_else(|| SOCKET.to_owned())
}

async fn list(address: &str) -> Result<Vec<Listed>, Unreachable> {
    let found = within(TIMEOUT, address, async {
        let options = ListContainersOptions { all: true, ..ListContainersOptions::default() };
        connect(address)?.list_containers(Some(options)).await
    });
    Ok(found.await?.into_iter().filter_map(listed).collect())
}

async fn init(address: &str, id: &str) -> Result<Option<u32>, Unreachable> {
    let found = within(TIMEOUT, address, async {
        connect(address)?.inspect_container(id, None::<InspectContainerOptions>).await
    });
    let pid = found.await?.state.and_then(|state| state.pid).filter(|pid| *pid > 0);
    Ok(pid.and_then(|pid| u32::try_from(pid).ok()))
}

/// Connects at the first request. bollard asks without a version in the path, so that a daemon answers in
/// its own, whatever its age; what is read here has been in all of them.
fn connect(address: &str) -> Result<Docker, Error> {
    let seconds = TIMEOUT.as_secs();
    if address.starts_with("unix://") {
        Docker::connect_with_unix(address, seconds, API_DEFAULT_VERSION)
    } else if address.starts_with("tcp://") || address.starts_with("http://") {
        Docker::connect_with_http(address, seconds, API_DEFAULT_VERSION)
    } else {
        Err(Error::UnsupportedURISchemeError { uri: address.to_owned() })
    }
}

async fn within<T>(
    limit: Duration,
    address: &str,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Unreachable> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Err(_) | Ok(Err(Error::RequestTimeoutError)) => Err(Unreachable::Silent(address.to_owned())),
        Ok(Err(error)) if is_absent(&error) => Err(Unreachable::Absent(address.to_owned())),
        Ok(Err(error)) => Err(Unreachable::Failed { address: address.to_owned(), source: error.into() }),
    }
}

fn is_absent(error: &Error) -> bool {
    if matches!(error, Error::SocketNotFoundError(_)) {
        return true;
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

fn listed(summary: ContainerSummary) -> Option<Listed> {
    let mut names: Vec<String> = summary.names.unwrap_or_default();
    for name in &mut names {
        if let Some(stripped) = name.strip_prefix('/') {
            *name = stripped.to_owned();
        }
    }
    // A legacy link adds names of the form `other/alias`: the container's own one comes first.
    names.sort_by_key(|name| name.contains('/'));
    let state = summary.state.unwrap_or(State::EMPTY);
    let labels: BTreeMap<_, _> = summary.labels.unwrap_or_default().into_iter().collect();
    Some(Listed {
        id: summary.id.filter(|id| !id.is_empty())?,
        names,
        image: summary.image.filter(|image| !image.is_empty()),
        is_running: matches!(state, State::RUNNING | State::PAUSED),
        state: state.to_string(),
        pod: super::pod_of(&labels),
        labels: Arc::new(labels),
        runtime: NAME,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    /// Answers one request per connection, as a daemon does.
    async fn serve(listener: TcpListener) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            let line =
                String::from_utf8_lossy(request.get(..read).unwrap()).lines().next().unwrap().to_owned();
            let body = if line.contains("/containers/json") && line.contains("all=true") {
                r#"[{"Id":"aa","Names":["/x/alias","/web"],"Image":"img:1","State":"running"},
                    {"Id":"bb","Names":["/old"],"State":"exited"},{"Names":["/no-id"]}]"#
            } else if line.contains("/containers/aa/json") {
                r#"{"State":{"Pid":77}}"#
            } else {
                &*format!(r#"{{"message":"unexpected: {line}"}}"#)
            };
            let status = if body.contains("unexpected") { "404 Not Found" } else { "200 OK" };
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n");
            let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[test]
    fn a_daemon_over_tcp_is_understood() {
        run(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = format!("tcp://{}", listener.local_addr().unwrap());
            tokio::spawn(serve(listener));
            let found = list(&address).await.unwrap();
            assert_eq!(found.len(), 2);
            let first = found.first().unwrap();
            assert_eq!(first.names, ["web", "x/alias"]);
            assert_eq!((first.image.as_deref(), first.is_running), (Some("img:1"), true));
            assert!(found.iter().any(|other| !other.is_running && other.state == "exited"));
            assert_eq!(init(&address, "aa").await.unwrap(), Some(77));
        });
    }

    #[test]
    fn who_accepts_and_never_answers_is_given_up() {
        run(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("docker.sock");
            let _listener = UnixListener::bind(&path).unwrap();
            let started = Instant::now();
            let error = list(&format!("unix://{}", path.display())).await.unwrap_err();
            assert!(matches!(error, Unreachable::Silent(_)), "{error}");
            assert!(started.elapsed() < TIMEOUT + Duration::from_secs(1));
        });
    }

    #[test]
    fn nobody_there_is_absent() {
        run(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("docker.sock");
            let address = format!("unix://{}", path.display());
            assert!(matches!(list(&address).await, Err(Unreachable::Absent(_))));
            // A socket file that a daemon left behind.
            drop(UnixListener::bind(&path).unwrap());
            let error = list(&address).await.unwrap_err();
            assert!(matches!(error, Unreachable::Absent(_)), "{error:?}");
        });
    }

    #[test]
    fn an_address_that_cannot_be_used_is_an_error() {
        for address in ["ssh://host", "npipe:////./pipe/x", "nonsense"] {
            match run(list(address)) {
                Err(Unreachable::Failed { address: named, .. }) => assert_eq!(named, address),
                other => panic!("{address}: {other:?}"),
            }
        }
    }
}
