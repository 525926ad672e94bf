//! Connections to runtimes: bounded in bytes, and with the facts about who is at the other end.
//!
//! Owns connecting and the HTTP below the protocols. It never looks into an answer.

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

/// Bytes that are read of one connection: some ten thousand containers with all their labels.
const LIMIT: usize = 64 * 1024 * 1024;
/// The same where another user of the machine decides what comes: some hundred containers.
const LIMIT_OF_USERS: usize = 4 * 1024 * 1024;

/// Who is at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Peer {
    /// Containers in which it runs itself, outermost first, as [`ProcCgroups::container_path`] has them: the
    /// containers that it tells of are below these.
    ///
    /// [`ProcCgroups::container_path`]: crate::proc::cgroup::ProcCgroups::container_path
    pub(super) within: Option<Arc<str>>,
    /// Whether its pids are those of ctrace: it is a process of this machine in the same PID namespace.
    pub(super) shares_pids: bool,
}

impl Peer {
    /// A pid that it told, where that means something here.
    pub(super) fn pid(&self, told: Option<i64>) -> Option<u32> {
        told.filter(|pid| self.shares_pids && *pid > 0).and_then(|pid| u32::try_from(pid).ok())
    }

    /// What a user started makes its containers in the part of the hierarchy that systemd leaves to that
    /// user, wherever it runs itself. A pid of 0 is that of a process in a PID namespace that is not ours to
    /// see.
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

/// What runs for the connections of one question. They end with it, whatever the runtime still owes: one that
/// hangs would else keep a descriptor for each time that it was asked.
#[derive(Clone, Debug, Default)]
pub(super) struct BackgroundTasks(Arc<Mutex<JoinSet<()>>>);

impl BackgroundTasks {
    fn spawner(&self) -> Spawner {
        Spawner(Arc::downgrade(&self.0))
    }
}

/// Starts tasks as long as their [`Tasks`] are there.
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

/// A connection.
pub(super) struct RuntimeTransport {
    pub(super) peer: Peer,
    stream: Bounded,
    spawner: Spawner,
}

/// Connects.
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
    /// Begins HTTP/1.
    pub(super) async fn http1<B>(self) -> Result<http1::SendRequest<B>, hyper::Error>
    where
        B: Body<Data: Send, Error: Into<Cause>> + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(self.stream)).await?;
        self.spawner.execute(connection);
        Ok(sender)
    }

    /// Begins HTTP/2 with prior knowledge, as gRPC does.
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

/// Gives a runtime [`TIMEOUT`] for all that is asked of it, and an error its meaning.
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
                // Its backlog is full: it has stopped accepting.
                Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Unreachable::Silent(address()),
                _ => Unreachable::Failed { address: address(), source },
            })
        }
    }
}

/// The kind of the input or output error at the bottom of an error.
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

/// A stream that fails when more comes than one answer may have.
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
            // Who reads gets an error or bytes, never both.
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
        // Another user of the machine gets less of ctrace's memory.
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
