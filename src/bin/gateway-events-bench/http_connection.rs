//! A persistent HTTP/1.1 connection for many requests in sequence, to the API or to pages of the
//! console. It has neither the pool nor the middleware of [`Api`](gateway_events::client::api::Api),
//! whose cost would be part of what is measured. Bodies are bytes.

use std::fmt::Display;

use bytes::Bytes;
use gateway_events::client::{BASE_PATH, Endpoint};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, HeaderValue, SET_COOKIE};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::task::JoinHandle;

/// The connection failed. Whether the last request was executed is unknown.
#[derive(Debug, thiserror::Error)]
#[error("the connection to the service failed: {0}")]
pub(crate) struct ConnectionError(String);

impl ConnectionError {
    fn new(cause: impl Display) -> Self {
        Self(cause.to_string())
    }
}

/// An open connection. Dropping it closes it.
pub(crate) struct HttpConnection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
    authorization: HeaderValue,
    driver: JoinHandle<()>,
}

impl HttpConnection {
    /// Connects. Every request carries the token.
    pub(crate) async fn connect(
        endpoint: &Endpoint,
        token: &SecretString,
    ) -> Result<Self, ConnectionError> {
        let stream = endpoint.open().await.map_err(ConnectionError::new)?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(ConnectionError::new)?;
        // If the connection fails, so does the next request.
        let driver = tokio::spawn(async move { drop(connection.await) });
        let base = &endpoint.base;
        let host = format!(
            "{}:{}",
            base.host_str().unwrap_or_default(),
            base.port_or_known_default().unwrap_or(443)
        );
        let host = HeaderValue::from_str(&host).map_err(ConnectionError::new)?;
        let bearer = format!("Bearer {}", token.expose_secret());
        let mut authorization = HeaderValue::from_str(&bearer).map_err(ConnectionError::new)?;
        authorization.set_sensitive(true);
        Ok(Self { sender, host, authorization, driver })
    }

    /// Sends a `POST` with a JSON body to a path below the API's base path; returns the
    /// status and the body.
    pub(crate) async fn post(
        &mut self,
        path: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes), ConnectionError> {
        self.send(Method::POST, path, body).await
    }

    /// Sends a `GET` to a path below the API's base path; returns the status and the
    /// body.
    pub(crate) async fn get(
        &mut self,
        path_and_query: &str,
    ) -> Result<(u16, Bytes), ConnectionError> {
        self.send(Method::GET, path_and_query, Bytes::new()).await
    }

    /// Signs in to the console; returns the cookie of the session.
    pub(crate) async fn sign_in(
        &mut self,
        token: &SecretString,
    ) -> Result<HeaderValue, ConnectionError> {
        // Tokens consist of characters that a form contains as they are.
        let form = format!("token={}", token.expose_secret());
        let request = Request::post("/console/sign-in")
            .header(HOST, &self.host)
            .header("sec-fetch-site", HeaderValue::from_static("same-origin"))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))
            .body(Full::new(Bytes::from(form)))
            .map_err(ConnectionError::new)?;
        let response = self.execute(request).await?;
        let cookie = response.headers().get(SET_COOKIE).and_then(|it| it.to_str().ok());
        let (pair, _) = cookie.and_then(|it| it.split_once(';')).ok_or_else(|| {
            ConnectionError(format!("the console answers the sign-in {}", response.status()))
        })?;
        HeaderValue::from_str(pair).map_err(ConnectionError::new)
    }

    /// Gets a page of the console with the cookie of a session; returns the status and the body.
    pub(crate) async fn page(
        &mut self,
        path: &str,
        cookie: &HeaderValue,
    ) -> Result<(u16, Bytes), ConnectionError> {
        let request = Request::get(path)
            .header(HOST, &self.host)
            .header(COOKIE, cookie)
            .body(Full::default())
            .map_err(ConnectionError::new)?;
        let response = self.execute(request).await?;
        Ok((response.status().as_u16(), response.into_body()))
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes), ConnectionError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{BASE_PATH}{path}"))
            .header(HOST, &self.host)
            .header(AUTHORIZATION, &self.authorization)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(body))
            .map_err(ConnectionError::new)?;
        let response = self.execute(request).await?;
        Ok((response.status().as_u16(), response.into_body()))
    }

    /// Sends a request, and reads the whole response.
    async fn execute(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, ConnectionError> {
        self.sender.ready().await.map_err(ConnectionError::new)?;
        let response = self.sender.send_request(request).await.map_err(ConnectionError::new)?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(ConnectionError::new)?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

impl Drop for HttpConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
