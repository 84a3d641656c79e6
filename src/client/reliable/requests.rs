//! HTTP requests of the transports that have no stream from the gateway: server-sent events and long
//! polling.

use std::time::Duration;

use reqwest::header::{HeaderValue, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, Url};
use secrecy::{ExposeSecret as _, SecretString};

use super::link::{Closed, ConnectError};
use crate::client::BASE_PATH;
use crate::client::socket::Endpoint;
use crate::client::tls::plain;
use crate::transport::frames::{GatewayFrame, MAX_BATCH, close_code};

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Timeout of a request that sends frames.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// A client of one service, with a gateway's key.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    client: reqwest::Client,
    base: Url,
    key: HeaderValue,
}

impl Requests {
    pub(super) fn new(endpoint: &Endpoint, key: &SecretString) -> Result<Self, ConnectError> {
        let failed = |error: &dyn std::fmt::Display| ConnectError::Failed(plain(error.to_string()));
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(endpoint.tls.as_ref().clone())
            .local_address(endpoint.source)
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|error| failed(&error))?;
        let mut key = HeaderValue::from_str(key.expose_secret()).map_err(|error| failed(&error))?;
        key.set_sensitive(true);
        Ok(Self { client, base: endpoint.base.clone(), key })
    }

    /// The URL of a path, whose last segment may be any text.
    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.set_path(BASE_PATH);
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.push("gateways").extend(path);
        }
        url
    }

    /// `GET` below `/gateways`.
    pub(super) fn get(&self, path: &[&str], query: &[(&str, String)]) -> RequestBuilder {
        let mut url = self.url(path);
        url.query_pairs_mut().extend_pairs(query);
        self.client.get(url).header("api-key", self.key.clone())
    }

    /// Sends frames to a connection.
    pub(super) async fn send(&self, path: &[&str], frames: &[GatewayFrame]) -> Result<(), Closed> {
        for frames in frames.chunks(MAX_BATCH) {
            let request = self.client.post(self.url(path)).header("api-key", self.key.clone());
            match request.timeout(SEND_TIMEOUT).json(frames).send().await {
                Ok(response) if response.status().is_success() => {}
                Ok(response) => return Err(refused(&response, "frames")),
                Err(error) => return Err(Closed::lost(why(&error))),
            }
        }
        Ok(())
    }
}

/// A refusal of a connection.
pub(super) fn not_connected(response: &Response) -> ConnectError {
    let retry_after = response.headers().get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|it| it.to_str().ok()?.parse().ok());
    ConnectError::Refused {
        status: response.status().as_u16(),
        retry_after: retry_after.map(Duration::from_secs),
    }
}

/// The end of a connection by a refused request.
pub(super) fn refused(response: &Response, what: &str) -> Closed {
    let status = response.status().as_u16();
    let code = match status {
        401 => Some(close_code::KEY_REVOKED),
        403 => Some(close_code::GATEWAY_DISABLED),
        400 | 413 | 422 => Some(close_code::PROTOCOL_ERROR),
        _ => None,
    };
    Closed { code, why: format!("the service refused {what} with status {status}") }
}

/// The innermost cause: reqwest's own message only says what was attempted.
pub(super) fn why(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    plain(cause.to_string())
}
