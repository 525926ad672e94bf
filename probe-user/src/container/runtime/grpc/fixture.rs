//! A gRPC server on a Unix socket, for tests: HTTP/2 by h2, gRPC frames by hand.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::sync::Arc;

use http::{HeaderMap, Response};
use tokio::net::UnixListener;

use crate::container::runtime::ALL;
use crate::container::runtime::endpoint::{Address, Owner, RuntimeEndpoint};

/// A status of gRPC.
pub(crate) const NOT_FOUND: u32 = 5;
pub(crate) const UNIMPLEMENTED: u32 = 12;

/// The answer to a method, in a namespace of containerd, with this message.
pub(crate) type Answers = fn(&str, &str, &[u8]) -> Result<Vec<u8>, u32>;

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// The endpoint of a runtime of [`ALL`] at this path.
pub(crate) fn endpoint(runtime: &str, path: &Path) -> Arc<RuntimeEndpoint> {
    let runtime = ALL.iter().find(|one| one.name == runtime).unwrap();
    Arc::new(RuntimeEndpoint { runtime, address: Address::Unix(path.to_owned()), owner: Owner::System })
}

/// Serves until the test ends.
pub(crate) fn serve(path: &Path, answers: Answers) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(connection(stream, answers));
        }
    });
}

async fn connection(stream: tokio::net::UnixStream, answers: Answers) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut question = Vec::new();
            while let Some(chunk) = body.data().await {
                let chunk = chunk.unwrap();
                body.flow_control().release_capacity(chunk.len()).unwrap();
                question.extend_from_slice(&chunk);
            }
            let namespace =
                head.headers.get("containerd-namespace").map_or("", |value| value.to_str().unwrap());
            let response = || Response::builder().header("content-type", "application/grpc");
            match answers(head.uri.path(), namespace, question.get(5..).unwrap()) {
                Ok(message) => {
                    let mut stream = respond.send_response(response().body(()).unwrap(), false).unwrap();
                    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
                    let frame = [&[0], length.as_slice(), &message].concat();
                    stream.send_data(frame.into(), false).unwrap();
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", 0.into());
                    stream.send_trailers(trailers).unwrap();
                }
                Err(code) => {
                    let response = response().header("grpc-status", code).body(()).unwrap();
                    respond.send_response(response, true).unwrap();
                }
            }
        });
    }
}
