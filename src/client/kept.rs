//! One connection that is kept for request after request, without the pool and
//! the layers of [`Api`](super::api::Api): for who sends so many that these
//! would be what is measured. Bodies are bytes, and so are answers.

use std::fmt::Display;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::task::JoinHandle;

use super::BASE_PATH;
use super::socket::Endpoint;

/// What ended a connection, in words. Whether the last request was carried out
/// is then unknown.
#[derive(Debug, thiserror::Error)]
#[error("the connection to the service failed: {0}")]
pub struct Broken(String);

impl Broken {
    fn because(why: impl Display) -> Self {
        Self(why.to_string())
    }
}

/// A kept connection; it is closed when this is dropped.
pub struct Kept {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    token: HeaderValue,
    driver: JoinHandle<()>,
}

impl Kept {
    /// Connects; every request carries the token.
    pub async fn connect(endpoint: &Endpoint, token: &SecretString) -> Result<Self, Broken> {
        let stream = endpoint.open().await.map_err(Broken::because)?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(Broken::because)?;
        // How it ends is what the next request says.
        let driver = tokio::spawn(async move { drop(connection.await) });
        let base = &endpoint.base;
        let host = format!(
            "{}:{}",
            base.host_str().unwrap_or_default(),
            base.port_or_known_default().unwrap_or(443)
        );
        let host = HeaderValue::from_str(&host).map_err(Broken::because)?;
        let mut token = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
            .map_err(Broken::because)?;
        token.set_sensitive(true);
        Ok(Self { sender, host, token, driver })
    }

    /// `POST` of a JSON text below the API's base path; the status and the body.
    pub async fn post(&mut self, path: &str, body: Bytes) -> Result<(u16, Bytes), Broken> {
        self.send(Method::POST, path, body).await
    }

    /// `GET` below the API's base path; the status and the body.
    pub async fn get(&mut self, path_and_query: &str) -> Result<(u16, Bytes), Broken> {
        self.send(Method::GET, path_and_query, Bytes::new()).await
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes), Broken> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{BASE_PATH}{path}"))
            .header(HOST, &self.host)
            .header(AUTHORIZATION, &self.token)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(body))
            .map_err(Broken::because)?;
        self.sender.ready().await.map_err(Broken::because)?;
        let answer = self.sender.send_request(request).await.map_err(Broken::because)?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(Broken::because)?.to_bytes();
        Ok((status, body))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
