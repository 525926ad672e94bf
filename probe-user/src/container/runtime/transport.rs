//! Connections to runtimes: limited in bytes, and with the facts about the peer.
//!
//! Owns connecting, and the HTTP below the protocols. It never inspects an answer.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

use hyper::body::Body;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

use super::endpoint::{Address, Owner, RuntimeEndpoint};
use super::{TIMEOUT, Unreachable, grpc};
use crate::proc::process::Proc;

type Cause = Box<dyn StdError + Send + Sync>;

/// Limit of the bytes that are read from one connection: some ten thousand containers with all their labels.
const LIMIT: usize = 64 * 1024 * 1024;
/// The same for a socket that another user of the machine controls: some hundred containers.
const LIMIT_OF_USERS: usize = 4 * 1024 * 1024;

/// The process at the other end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Peer {
    /// The containers in which the runtime itself runs, outermost first, in the form of
    /// [`ProcCgroups::container_path`]. The containers that it reports are below these.
    ///
    /// [`ProcCgroups::container_path`]: crate::proc::cgroup::ProcCgroups::container_path
    pub(super) within: Option<Arc<str>>,
    /// Whether its pids mean the same as in ctrace: it runs on this machine, in the same PID namespace.
    pub(super) shares_pids: bool,
}

impl Peer {
    /// A pid that the runtime reported, if it means something here.
    pub(super) fn pid(&self, told: Option<i64>) -> Option<u32> {
        told.filter(|pid| self.shares_pids && *pid > 0).and_then(|pid| u32::try_from(pid).ok())
    }

    /// A runtime that a user has started creates its containers in the part of the hierarchy that systemd
    /// leaves to that user, wherever the runtime itself runs. The kernel reports pid 0 for a process in a PID
    /// namespace that ctrace cannot see.
    fn of(pid: Option<i32>, user: u32) -> Self {
        let of_user = || (user != 0).then(|| Arc::from(format!("user@{user}.service")));
        let Some(pid) = pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0) else {
            return Self { within: of_user(), shares_pids: false };
        };
        let proc = Proc::default();
        let own = proc.pid_namespace(proc.own());
        Self {
            within: proc.cgroups(pid).container_path().map(Arc::from).or_else(of_user),
            shares_pids: own.is_some() && proc.pid_namespace(pid) == own,
        }
    }
}

/// The background tasks of the connections of one question. They are cancelled with it, even if the runtime
/// has not answered: otherwise a runtime that hangs would cost one descriptor for each question.
#[derive(Clone, Debug, Default)]
pub(super) struct BackgroundTasks(Arc<Mutex<JoinSet<()>>>);

impl BackgroundTasks {
    fn spawner(&self) -> Spawner {
        Spawner(Arc::downgrade(&self.0))
    }
}

/// Starts tasks as long as their [`BackgroundTasks`] exist.
#[derive(Clone)]
struct Spawner(Weak<Mutex<JoinSet<()>>>);

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Spawner {
    fn execute(&self, future: F) {
        if let Some(tasks) = self.0.upgrade() {
            let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.spawn(async move {
                future.await;
            });
        }
    }
}

/// An open connection to a runtime.
pub(super) struct RuntimeTransport {
    pub(super) peer: Peer,
    stream: Bounded,
    spawner: Spawner,
}

pub(super) async fn connect(
    endpoint: &RuntimeEndpoint,
    tasks: &BackgroundTasks,
) -> io::Result<RuntimeTransport> {
    let (peer, stream): (Peer, Box<dyn Stream>) = match (&endpoint.address, endpoint.address.path()) {
        (_, Some(path)) => {
            let stream = UnixStream::connect(path).await?;
            let peer = stream.peer_cred()?;
            (Peer::of(peer.pid(), peer.uid()), Box::new(stream))
        }
        (Address::Tcp(host), _) => (Peer::default(), Box::new(TcpStream::connect(host).await?)),
        (other, _) => {
            let text = format!("{other}: only unix:// and tcp:// without TLS can be asked");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
    };
    let limit = limit(&endpoint.owner);
    Ok(RuntimeTransport { peer, stream: Bounded { stream, limit, left: limit }, spawner: tasks.spawner() })
}

fn limit(owner: &Owner) -> usize {
    match owner {
        Owner::System | Owner::Named => LIMIT,
        Owner::User(_) => LIMIT_OF_USERS,
    }
}

impl RuntimeTransport {
    /// Starts HTTP/1.
    pub(super) async fn http1<B>(self) -> Result<http1::SendRequest<B>, hyper::Error>
    where
        B: Body<Data: Send, Error: Into<Cause>> + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(self.stream)).await?;
        self.spawner.execute(connection);
        Ok(sender)
    }

    /// Starts HTTP/2 with prior knowledge, as gRPC does.
    pub(super) async fn http2<B>(self) -> Result<http2::SendRequest<B>, hyper::Error>
    where
        B: Body<Data: Send, Error: Into<Cause>> + Send + Unpin + 'static,
    {
        let spawner = self.spawner.clone();
        let (sender, connection) = http2::handshake(spawner, TokioIo::new(self.stream)).await?;
        self.spawner.execute(connection);
        Ok(sender)
    }
}

/// Limits all questions to a runtime to [`TIMEOUT`], and classifies their errors.
pub(super) async fn within<T, E: Into<Cause>>(
    endpoint: &RuntimeEndpoint,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, Unreachable> {
    let address = || endpoint.address.to_string();
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Err(_) => Err(Unreachable::Silent(address())),
        Ok(Err(error)) => {
            let source = error.into();
            if grpc::is_unserved(source.as_ref()) {
                return Err(Unreachable::Unserved(address()));
            }
            Err(match kind(source.as_ref()) {
                Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                    Unreachable::Absent(address())
                }
                // The backlog is full, because the runtime has stopped accepting connections.
                Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Unreachable::Silent(address()),
                _ => Unreachable::Failed { address: address(), source },
            })
        }
    }
}

/// The kind of the I/O error at the bottom of an error.
fn kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream that fails when an answer exceeds the limit.
struct Bounded {
    stream: Box<dyn Stream>,
    limit: usize,
    left: usize,
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let count = buffer.filled().len().saturating_sub(before);
        let Some(left) = self.left.checked_sub(count) else {
            // A read may return an error or bytes, but not both.
            buffer.set_filled(before);
            let text = format!("the answer is longer than {} MiB", self.limit >> 20);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
        };
        self.left = left;
        read
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn an_answer_without_an_end_is_given_up() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = |left| {
            runtime.block_on(async {
                let bytes: &'static [u8] = &[7; 100];
                let stream = Box::new(tokio::io::join(bytes, tokio::io::sink()));
                let mut all = Vec::new();
                Bounded { stream, limit: left, left }
                    .read_to_end(&mut all)
                    .await
                    .map_err(|error| error.kind())
            })
        };
        assert_eq!(read(100), Ok(100));
        assert_eq!(read(99), Err(io::ErrorKind::InvalidData));
        // A runtime of another user may use less of ctrace's memory.
        assert!(limit(&Owner::User(1000)) < limit(&Owner::System));
    }

    #[test]
    fn a_pid_means_something_in_one_namespace_only() {
        let here = Peer { shares_pids: true, within: None };
        assert_eq!(
            (here.pid(Some(7)), here.pid(Some(0)), here.pid(Some(1 << 40)), here.pid(None)),
            (Some(7), None, None, None)
        );
        assert_eq!(Peer::default().pid(Some(7)), None);
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(Peer::of(Some(own), 0).shares_pids);
        assert_eq!(Peer::of(Some(0), 0), Peer::default());
        assert_eq!(Peer::of(None, 1000).within.as_deref(), Some("user@1000.service"));
    }
}
