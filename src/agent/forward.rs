//! Posts each event as a CloudEvent 1.0 in binary mode. The status of the response is the answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, Url, redirect};
use tokio::time::{Instant, timeout_at};

use super::delivery::Delivery;
use super::outcome::{Answer, Reply};
use crate::client::reliable::NackCode;
use crate::client::tls::{Trust, TrustError, plain};
use crate::clock::Timestamp;
use crate::cloud_event::{
    Attributes, HEADER_PREFIX, JSON, SPECVERSION, check_uri_reference, encoded, name, padded,
};

/// How much of a response's body is read.
const READ: usize = 4096;

/// Why events can't be forwarded to an address.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// It is not a URL for this.
    #[error("{0} can't be forwarded to: {1}")]
    Address(String, &'static str),
    /// It is not on this machine.
    #[error(
        "{0} is not a loopback address: events would leave this machine; add --allow-remote to allow that"
    )]
    Remote(String),
    /// The trusted certificates can't be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Creating the HTTP client failed.
    #[error("failed to create an HTTP client: {0}")]
    Client(String),
}

/// An address, and how events are posted to it.
#[derive(Debug)]
pub struct Forwarder {
    client: Client,
    url: Url,
    source: String,
    limit: Duration,
}

impl Forwarder {
    /// An address on this machine, or any if `allow_remote`. `source` is the attribute of this name. The
    /// headers of each response are due within `limit`.
    pub fn new(
        url: Url,
        allow_remote: bool,
        source: String,
        limit: Duration,
    ) -> Result<Self, ForwardError> {
        let refused = |why| Err(ForwardError::Address(shown(&url), why));
        if !matches!(url.scheme(), "http" | "https") {
            return refused("its scheme must be http or https");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refused(
                "it contains a user or a password, which others can read in the arguments",
            );
        }
        if url.port() == Some(0) {
            return refused("nothing can listen on port 0");
        }
        let host = url.host_str().unwrap_or_default();
        if !allow_remote && !is_local(host) {
            return Err(ForwardError::Remote(shown(&url)));
        }
        // Each event has a connection of its own: one that was kept open would break when the product
        // restarts, and it would be unknown whether the event had arrived.
        let client = Client::builder()
            .tls_backend_preconfigured(Trust::Platform.client_config()?.as_ref().clone())
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .no_proxy()
            // Before the limit of the whole request, so that it is known that nothing was sent.
            .connect_timeout(limit / 2)
            // Whatever the system's resolver says.
            .resolve_to_addrs(LOCALHOST, &loopback())
            .build()
            .map_err(|error| ForwardError::Client(error.to_string()))?;
        Ok(Self { client, url, source, limit })
    }

    pub(super) async fn post(&self, delivery: &Delivery<'_>) -> Reply {
        let deadline = Instant::now() + self.limit;
        let headers = self.headers(delivery);
        let body = delivery.payload.clone().into_owned();
        let sending = self.client.post(self.url.clone()).headers(headers).body(body).send();
        match timeout_at(deadline, sending).await {
            Ok(Ok(mut response)) => {
                let status = response.status();
                let retry_after = retry_after(&response);
                let is_success = status.is_success();
                let body =
                    if is_success { Vec::new() } else { beginning(&mut response, deadline).await };
                Reply::Answered(Answer::of_response(status.as_u16(), retry_after, &body))
            }
            // Nothing was sent.
            Ok(Err(error)) if error.is_connect() => {
                Reply::Unavailable(format!("{}: {}", shown(&self.url), why(&error)))
            }
            Ok(Err(error)) => Reply::Answered(Answer::Retry {
                after: None,
                code: NackCode::ApplyFailed,
                detail: Some(format!("no valid response: {}", why(&error))),
            }),
            Err(_) => Reply::Answered(Answer::Retry {
                after: None,
                code: NackCode::Timeout,
                detail: Some(format!("no response within {} s", self.limit.as_secs_f64())),
            }),
        }
    }

    fn headers(&self, delivery: &Delivery<'_>) -> HeaderMap {
        let attributes = attributes(delivery, &self.source);
        let headers = attributes.into_iter().filter_map(|(name, value)| {
            let name = format!("{HEADER_PREFIX}{name}").parse::<HeaderName>().ok()?;
            let value = HeaderValue::from_str(&encoded(&value)).ok()?;
            Some((name, value))
        });
        let mut headers: HeaderMap = headers.collect();
        let content_type = delivery.attributes.and_then(|them| them.get(name::DATACONTENTTYPE));
        let content_type = content_type.and_then(|value| value.to_string().parse().ok());
        headers.insert(CONTENT_TYPE, content_type.unwrap_or(HeaderValue::from_static(JSON)));
        if let Some(context) = delivery.traceparent
            && let Ok(context) = HeaderValue::from_str(&context.to_string())
        {
            headers.insert(name::TRACEPARENT, context);
        }
        headers
    }
}

/// Parses a value of the attribute `source`.
pub fn source(text: &str) -> Result<String, String> {
    check_uri_reference(text)?;
    Ok(text.to_owned())
}

/// The attributes of an event, by name.
fn attributes<'a>(delivery: &Delivery<'a>, source: &str) -> Vec<(&'a str, String)> {
    let published = delivery.attributes.into_iter().flat_map(Attributes::iter);
    let published = published.filter(|(name, _)| *name != name::DATACONTENTTYPE);
    let mut attributes: Vec<_> = published.map(|(name, value)| (name, value.to_string())).collect();
    if attributes.iter().all(|(name, _)| *name != name::SOURCE) {
        attributes.push((name::SOURCE, source.to_owned()));
    }
    attributes.extend([
        (name::SPECVERSION, SPECVERSION.to_owned()),
        (name::ID, delivery.id.to_string()),
        (name::TYPE, delivery.kind.to_owned()),
        (name::SEQUENCE, padded(delivery.sequence.0).to_string()),
        (name::EPOCH, delivery.epoch.to_string()),
    ]);
    let optional = [
        (name::TIME, delivery.time.map(|time| time.to_string())),
        (name::CORRELATION_ID, delivery.correlation_id.map(str::to_owned)),
        (name::ATTEMPT, delivery.attempt.map(|attempt| attempt.to_string())),
        (name::USER_ID, delivery.user_id.map(str::to_owned)),
        (name::TRACEPARENT, delivery.traceparent.map(ToString::to_string)),
        (name::EXPIRY_TIME, delivery.expires_at.map(|at| at.to_string())),
    ];
    attributes.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    attributes
}

const LOCALHOST: &str = "localhost";

/// The addresses of this machine. The port is the URL's.
const fn loopback() -> [SocketAddr; 2] {
    [
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
        SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
    ]
}

fn is_local(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == LOCALHOST || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A URL for logs, without what may be secret in it.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}

/// The innermost cause.
fn why(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    plain(cause.to_string())
}

/// The pause that `Retry-After` asks for: seconds, or a date.
fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // The pause is limited later, so a number that is too large is as good as the largest one.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    Some(Timestamp::parse_http_date(text)?.since(Timestamp::now()))
}

/// The beginning of a body, as much of it as comes until then.
async fn beginning(response: &mut Response, deadline: Instant) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < READ
        && let Ok(Ok(Some(chunk))) = timeout_at(deadline, response.chunk()).await
    {
        body.extend_from_slice(&chunk[..chunk.len().min(READ - body.len())]);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(url: &str, allow_remote: bool) -> Result<Forwarder, ForwardError> {
        let url = Url::parse(url).unwrap();
        Forwarder::new(url, allow_remote, "s".to_owned(), Duration::from_secs(1))
    }

    #[test]
    fn only_loopback_addresses_are_local() {
        for local in
            ["http://127.0.0.1:1/x", "http://127.1:1", "http://[::1]:1/", "http://LOCALHOST:1/"]
        {
            assert!(made(local, false).is_ok(), "{local}");
        }
        for remote in [
            "http://10.0.0.1/",
            "http://0.0.0.0:1/",
            "http://[::]:1/",
            "http://[::ffff:10.0.0.1]/",
            "http://localhost.example.com/",
            "http://127.0.0.1.example.com/",
            "https://example.com/",
        ] {
            let error = made(remote, false).unwrap_err().to_string();
            assert!(error.contains("--allow-remote"), "{error}");
            assert!(made(remote, true).is_ok(), "{remote}");
        }
        for wrong in [
            "ftp://127.0.0.1/",
            "http://localhost:0/",
            "http://u:secret@127.0.0.1/",
            "http://u@127.0.0.1/",
        ] {
            let error = made(wrong, true).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
