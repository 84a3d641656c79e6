//! Sends one message to one destination, within a time limit. Only addresses that were checked are
//! connected to, redirects are not followed, and only the beginning of a response is read.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Response, Url, redirect};
use rustls::crypto::aws_lc_rs;
use tokio::time::timeout;

use super::destinations::parsed;
use super::guard;
use super::message::Message;
use super::secrets::Secrets;
use super::sent::Sent;
use super::{alertmanager, email, signature};
use crate::api::{AlertDestinationKind, AlertDestinationSettings};
use crate::clock::Timestamp;
use crate::config::Network;

/// How much of a response's body is read. More than is shown, so that a secret at the end of what is
/// shown is recognised.
const READ_BYTES: usize = 4096;

/// A notification: how its destination is reached, and what it is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Notification<'a> {
    pub(super) settings: &'a AlertDestinationSettings,
    pub(super) secrets: &'a Secrets,
    /// The message id, which is the same at each attempt.
    pub(super) id: &'a str,
    pub(super) message: &'a Message,
}

/// Sends messages. Clones share the trusted certificates.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    tls: Arc<rustls::ClientConfig>,
    pub(super) allowed: Arc<Vec<Network>>,
    pub(super) limit: Duration,
}

impl Sender {
    /// Trusts the certificates that the operating system trusts.
    pub(super) fn new(allowed: Vec<Network>, limit: Duration) -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(&provider))?;
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls), allowed: Arc::new(allowed), limit })
    }

    /// Sends a message, within the limit.
    pub(super) async fn send(&self, notification: Notification<'_>) -> Sent {
        let sent = match timeout(self.limit, self.try_send(notification)).await {
            Ok(Ok(sent)) => sent,
            Ok(Err(why)) => Sent::failed(why),
            Err(_) => Sent::failed(format!("no response within {} s", self.limit.as_secs_f64())),
        };
        sent.shown(notification.secrets)
    }

    async fn try_send(&self, notification: Notification<'_>) -> Result<Sent, String> {
        let Notification { settings, secrets, id, message } = notification;
        let url = parsed(settings.kind, &secrets.url)?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match settings.kind {
            AlertDestinationKind::Webhook => {
                let body = to_json(message)?;
                let key = secrets.secret.as_deref().and_then(signature::key);
                let key = key.ok_or("the signing key is missing")?;
                let at = Timestamp::now().micros() / 1_000_000;
                let signed = signature::sign(&key, id, at, &body);
                for (name, value) in [
                    ("webhook-id", id.to_owned()),
                    ("webhook-timestamp", at.to_string()),
                    ("webhook-signature", signed),
                ] {
                    headers.insert(name, value.parse().map_err(|_| "a header is invalid")?);
                }
                self.post(url, headers, body).await
            }
            AlertDestinationKind::Slack => {
                self.post(url, headers, to_json(&message.slack())?).await
            }
            AlertDestinationKind::Alertmanager => {
                if let Some(token) = &secrets.secret {
                    let value = HeaderValue::from_str(&format!("Bearer {token}"));
                    let mut value = value.map_err(|_| "the token is not valid in a header")?;
                    value.set_sensitive(true);
                    headers.insert(AUTHORIZATION, value);
                }
                let body = to_json(&alertmanager::body(message, Timestamp::now()))?;
                self.post(alertmanager::url(url), headers, body).await
            }
            AlertDestinationKind::Email => {
                let reach = email::Reach { tls: &self.tls, allowed: &self.allowed, url: &url };
                email::send(reach, settings, secrets, id, message).await
            }
        }
    }

    async fn post(&self, url: Url, headers: HeaderMap, body: String) -> Result<Sent, String> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let checked =
            guard::check(&host, port, &self.allowed).await.map_err(|it| it.to_string())?;
        if url.scheme() != "https" && !checked.is_allowed {
            return Err(format!(
                "{host} is not in alerts.allowed_networks, so its URL must begin with https"
            ));
        }
        let client = Client::builder()
            .tls_backend_preconfigured(self.tls.as_ref().clone())
            .redirect(redirect::Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(0)
            .resolve_to_addrs(&host, &checked.addresses)
            .build()
            .map_err(|error| format!("failed to create an HTTP client: {}", why(error)))?;
        let request = client.post(url).headers(headers).body(body);
        let mut response = request.send().await.map_err(why)?;
        let status = response.status();
        let begin = beginning(&mut response).await;
        let text = if status.is_redirection() {
            format!("redirects are not followed {begin}")
        } else {
            begin
        };
        Ok(Sent::answered(status.as_u16(), status.is_success(), &text))
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

/// How a response's body begins. What is not text is replaced.
async fn beginning(response: &mut Response) -> String {
    let mut read = Vec::new();
    while read.len() < READ_BYTES {
        match response.chunk().await {
            Ok(Some(part)) => read.extend_from_slice(&part[..part.len().min(READ_BYTES)]),
            Ok(None) | Err(_) => break,
        }
    }
    read.truncate(READ_BYTES);
    String::from_utf8_lossy(&read).into_owned()
}

/// An error with its causes, without the URL, which may be secret.
fn why(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !texts.iter().any(|known| known.contains(&text)) {
            texts.push(text);
        }
        source = cause.source();
    }
    texts.join(": ")
}
