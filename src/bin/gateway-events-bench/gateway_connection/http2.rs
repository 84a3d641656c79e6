//! An HTTP/2 connection of a gateway.

use std::convert::Infallible;

use bytes::Bytes;
use gateway_events::client::{BASE_PATH, Endpoint};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::header::HeaderValue;
use hyper::http::request;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::task::JoinHandle;

use super::ConnectionError;

/// How much the service may send ahead, as browsers and HTTP libraries allow.
const WINDOW_BYTES: u32 = 1024 * 1024;

type Sent = UnsyncBoxBody<Bytes, Infallible>;

/// An open connection.
pub(super) struct Http2 {
    requests: Requests,
    driver: JoinHandle<()>,
}

/// Sends requests on a connection.
#[derive(Clone)]
pub(super) struct Requests {
    sender: SendRequest<Sent>,
    origin: String,
    key: HeaderValue,
}

impl Http2 {
    pub(super) async fn connect(
        endpoint: &Endpoint,
        key: &SecretString,
    ) -> Result<Self, ConnectionError> {
        let stream = endpoint.open().await.map_err(ConnectionError::new)?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectionError::new)?;
        // If the connection fails, so do its streams.
        let driver = tokio::spawn(async move { drop(connection.await) });
        let base = &endpoint.base;
        let origin = format!(
            "{}://{}:{}",
            base.scheme(),
            base.host_str().unwrap_or_default(),
            base.port_or_known_default().unwrap_or(443)
        );
        Ok(Self { requests: Requests { sender, origin, key: key_value(key)? }, driver })
    }

    pub(super) fn requests(&self) -> Requests {
        self.requests.clone()
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Requests {
    /// A request with the gateway's key.
    pub(super) fn request(&self, method: Method, path: &str) -> request::Builder {
        let uri = format!("{}{path}", self.origin);
        Request::builder().method(method).uri(uri).header("api-key", &self.key)
    }

    /// Sends a request; an error unless it is answered with success.
    pub(super) async fn send<B>(
        &mut self,
        request: request::Builder,
        body: B,
    ) -> Result<Response<Incoming>, ConnectionError>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let request = request.body(body.boxed_unsync()).map_err(ConnectionError::new)?;
        self.sender.ready().await.map_err(ConnectionError::new)?;
        let response = self.sender.send_request(request).await.map_err(ConnectionError::new)?;
        if !response.status().is_success() {
            return Err(ConnectionError::Refused(response.status().as_u16()));
        }
        Ok(response)
    }
}

/// The header with a gateway's key.
pub(super) fn key_value(key: &SecretString) -> Result<HeaderValue, ConnectionError> {
    let mut value = HeaderValue::from_str(key.expose_secret()).map_err(ConnectionError::new)?;
    value.set_sensitive(true);
    Ok(value)
}

/// A path of the API.
pub(super) fn api(path: &str) -> String {
    format!("{BASE_PATH}{path}")
}
