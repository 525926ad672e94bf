//! gRPC calls to containerd and CRI runtimes. The only user of tonic.

use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::endpoint::RuntimeEndpoint;
use super::transport::{self, BackgroundTasks, Peer};

pub(super) type Cause = Box<dyn StdError + Send + Sync>;

/// Limit of the bytes of one message. A connection has the same limit for all of its messages.
const MESSAGE: usize = 64 * 1024 * 1024;
/// The header that selects a namespace of containerd.
const NAMESPACE: &str = "containerd-namespace";

/// A connection to one runtime, for one question.
pub(super) struct Client {
    pub(super) peer: Peer,
    grpc: Grpc<Sender>,
    _tasks: BackgroundTasks,
}

impl Client {
    pub(super) async fn connect(endpoint: &RuntimeEndpoint) -> Result<Self, Cause> {
        let tasks = BackgroundTasks::default();
        let wire = transport::connect(endpoint, &tasks).await?;
        let peer = wire.peer.clone();
        let sender = Sender(wire.http2().await?);
        let grpc = Grpc::with_origin(sender, Uri::from_static("http://localhost"));
        Ok(Self { peer, grpc: grpc.max_decoding_message_size(MESSAGE), _tasks: tasks })
    }

    /// Calls a method: `/package.Service/Method`.
    pub(super) async fn call<Q, A>(
        &self,
        method: &'static str,
        namespace: Option<&str>,
        question: Q,
    ) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut request = tonic::Request::new(question);
        if let Some(namespace) = namespace {
            let value = MetadataValue::try_from(namespace)
                .map_err(|_| Status::invalid_argument("a namespace that no header can hold"))?;
            request.metadata_mut().insert(NAMESPACE, value);
        }
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let answer = grpc.unary(request, PathAndQuery::from_static(method), ProstCodec::default()).await?;
        Ok(answer.into_inner())
    }
}

/// Whether an error means that the method is not served.
pub(super) fn is_unserved(error: &(dyn StdError + 'static)) -> bool {
    error.downcast_ref::<Status>().is_some_and(|status| status.code() == Code::Unimplemented)
}

/// Adapts hyper's sender to tonic. tonic's own channel connects again after each lost connection. With a
/// connector that works only once, so that the limit of bytes holds, it reports that second attempt instead
/// of the reason.
#[derive(Clone)]
struct Sender(SendRequest<Body>);

impl GrpcService<Body> for Sender {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[cfg(test)]
pub(super) mod fixture;
