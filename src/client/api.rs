//! The HTTP API's client: JSON in, JSON out, refusals as readable errors. It
//! retries nothing; whoever calls knows what may be repeated.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Url, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::BASE_PATH;
use super::problem::Problem;
use super::tls::{self, Trust, TrustError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The address is none.
    #[error("{address:?} is no address of the service: {why}; it looks like https://host:8443")]
    Address {
        /// As given.
        address: String,
        /// What is wrong.
        why: String,
    },
    /// No TLS client.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The service can't be reached, or its certificate isn't trusted.
    #[error("{url} can't be reached: {why}{hint}")]
    Unreachable {
        /// Which address.
        url: String,
        /// What happened.
        why: String,
        /// What to do about it.
        hint: String,
    },
    /// The service answered, and refused.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// The answer is no JSON.
    #[error("{url} answered with something that is no JSON; is it the service's address?")]
    Unreadable {
        /// Which address.
        url: String,
    },
}

impl ApiError {
    /// The HTTP status, if the service answered at all.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(problem) => Some(problem.status),
            _ => None,
        }
    }
}

/// As many as the service gives on one page.
const PAGE: usize = 1000;

/// Parts of a query string.
pub type Query<'a> = &'a [(&'a str, String)];

/// A client with an address, a token and a notion of whom to trust.
#[derive(Clone, Debug)]
pub struct Api {
    client: reqwest::Client,
    base: Url,
    token: Option<Arc<SecretString>>,
}

impl Api {
    /// A client of the service at `address`, such as `https://localhost:8443`.
    pub fn new(
        address: &str,
        token: Option<SecretString>,
        trust: &Trust,
    ) -> Result<Self, ApiError> {
        let base = parse_base(address)?;
        let config = trust.client_config()?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(config.as_ref().clone())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(|error| unreachable(&base, &error))?;
        Ok(Self { client, base, token: token.map(Arc::new) })
    }

    /// The service's address.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// `GET` below the API's base path.
    pub async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.get_with(path, &[]).await
    }

    /// `GET` with a query.
    pub async fn get_with(&self, path: &str, query: Query<'_>) -> Result<Value, ApiError> {
        self.send(self.request(Method::GET, path, query)).await
    }

    /// `GET` with a query, of an answer whose shape is known.
    pub async fn get_as<T: DeserializeOwned>(
        &self,
        path: &str,
        query: Query<'_>,
    ) -> Result<T, ApiError> {
        let body = self.answered(self.request(Method::GET, path, query)).await?;
        self.read(&body)
    }

    /// `POST` with a JSON body.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Result<Value, ApiError> {
        self.send(self.request(Method::POST, path, &[]).json(body)).await
    }

    /// `PATCH` with a JSON body.
    pub async fn patch(&self, path: &str, body: &impl Serialize) -> Result<Value, ApiError> {
        self.send(self.request(Method::PATCH, path, &[]).json(body)).await
    }

    /// `PUT` with a JSON body.
    pub async fn put(&self, path: &str, body: &impl Serialize) -> Result<Value, ApiError> {
        self.send(self.request(Method::PUT, path, &[]).json(body)).await
    }

    /// `DELETE`.
    pub async fn delete(&self, path: &str) -> Result<Value, ApiError> {
        self.send(self.request(Method::DELETE, path, &[])).await
    }

    /// Every element of a list, page after page.
    pub async fn list(&self, path: &str, query: Query<'_>) -> Result<Vec<Value>, ApiError> {
        let mut all = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut asked = query.to_vec();
            asked.extend(cursor.map(|cursor| ("cursor", cursor)));
            let mut page = self.get_with(path, &asked).await?;
            if let Some(list) = page["list"].as_array_mut() {
                all.append(list);
            }
            cursor = page["pagination"]["next"].as_str().map(str::to_owned);
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }

    /// Up to `limit` elements of a list, as many pages as that takes: a page may
    /// be short and still have a next one.
    pub async fn list_up_to(
        &self,
        path: &str,
        query: Query<'_>,
        limit: usize,
    ) -> Result<Value, ApiError> {
        let mut list: Vec<Value> = Vec::new();
        let mut next = Value::Null;
        while list.len() < limit {
            let mut asked = query.to_vec();
            asked.push(("limit", (limit - list.len()).min(PAGE).to_string()));
            asked.extend(next.as_str().map(|cursor| ("cursor", cursor.to_owned())));
            let mut page = self.get_with(path, &asked).await?;
            if let Some(rows) = page["list"].as_array_mut() {
                list.append(rows);
            }
            next = page["pagination"]["next"].take();
            if next.is_null() {
                break;
            }
        }
        Ok(json!({
            "count": list.len(),
            "list": list,
            "pagination": { "limit": limit, "next": next },
        }))
    }

    /// A request below the API's base path, with the token; for what the
    /// other calls don't offer, such as headers of one's own.
    pub fn request(&self, method: Method, path: &str, query: Query<'_>) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!("{BASE_PATH}{path}"));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.client.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        }
    }

    /// A request at the root, without the token.
    pub fn at_root(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(path);
        self.client.request(method, url)
    }

    /// What the service says at the root, such as at `/readyz`; it takes no token.
    pub async fn ask_at_root(&self, path: &str) -> Result<String, ApiError> {
        let body = self.answered(self.at_root(Method::GET, path)).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Sends a request and reads the answer; an empty one is `null`.
    pub async fn send(&self, request: RequestBuilder) -> Result<Value, ApiError> {
        let body = self.answered(request).await?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        self.read(&body)
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ApiError> {
        serde_json::from_slice(body)
            .map_err(|_| ApiError::Unreadable { url: self.base.to_string() })
    }

    /// Sends a request and reads the answer, whatever it is.
    async fn answered(&self, request: RequestBuilder) -> Result<bytes::Bytes, ApiError> {
        let failed = |error: &reqwest::Error| unreachable(&self.base, error);
        let response = request.send().await.map_err(|error| failed(&error))?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let body = response.bytes().await.map_err(|error| failed(&error))?;
        if !status.is_success() {
            let problem = Problem::read(status.as_u16(), retry_after, &body);
            return Err(ApiError::Refused(Box::new(problem)));
        }
        Ok(body)
    }
}

/// Reads the service's address.
pub(super) fn parse_base(address: &str) -> Result<Url, ApiError> {
    let refuse = |why: String| ApiError::Address { address: address.to_owned(), why };
    let url = Url::parse(address).map_err(|error| refuse(error.to_string()))?;
    if !matches!(url.scheme(), "https" | "http") || url.host().is_none() {
        return Err(refuse("it needs https:// (or http://) and a host".to_owned()));
    }
    Ok(url)
}

fn unreachable(base: &Url, error: &reqwest::Error) -> ApiError {
    let mut why = String::new();
    let mut source: Option<&dyn Error> = Some(error);
    // The outermost layers only repeat the address; the innermost says why.
    while let Some(error) = source {
        why = error.to_string();
        source = error.source();
    }
    let advice = tls::advice(&why).or_else(|| {
        if error.is_connect() {
            Some("check that the service runs and that --url (GATEWAY_EVENTS_URL) is its address")
        } else if base.scheme() == "http" {
            Some("the service speaks TLS unless it was told otherwise: try https://")
        } else {
            None
        }
    });
    let hint = advice.map(|advice| format!("\n  {advice}")).unwrap_or_default();
    ApiError::Unreachable { url: base.to_string(), why, hint }
}
