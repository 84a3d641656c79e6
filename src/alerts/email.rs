//! E-mail by SMTP. All messages about an alert are one thread for mail programs: each names the key of
//! the alert in `References`. What a server may send is bounded.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use data_encoding::HEXLOWER;
use lettre::Message as Email;
use lettre::message::Mailbox;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use reqwest::Url;
use rustls::pki_types::ServerName;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::destinations::smtp_port;
use super::guard;
use super::message::Message;
use super::secrets::Secrets;
use super::sent::Sent;
use crate::api::{AlertDestinationSettings, SmtpTls};
use crate::config::Network;
use crate::names;

/// What a server may send on one connection, its certificates included.
const MAX_READ_BYTES: usize = 256 * 1024;
/// The longest subject, in characters.
const SUBJECT_CHARS: usize = 200;

/// How the server is reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach<'a> {
    /// The trusted certificates.
    pub(super) tls: &'a Arc<rustls::ClientConfig>,
    /// Networks whose addresses need not be public.
    pub(super) allowed: &'a [Network],
    /// Its URL.
    pub(super) url: &'a Url,
}

/// Sends one e-mail to all recipients of a destination.
pub(super) async fn send(
    reach: Reach<'_>,
    settings: &AlertDestinationSettings,
    secrets: &Secrets,
    id: &str,
    message: &Message,
) -> Result<Sent, String> {
    let tls = settings.tls.unwrap_or_default();
    let host = reach.url.host_str().unwrap_or_default();
    let port = reach.url.port().unwrap_or(smtp_port(tls));
    let email = compose(settings, id, message)?;
    let checked =
        guard::check(host, port, reach.allowed).await.map_err(|refused| refused.to_string())?;
    if tls == SmtpTls::None && !checked.is_allowed {
        return Err(format!(
            "{host} is not in alerts.allowed_networks, so TLS is needed: starttls or implicit"
        ));
    }
    let tcp = TcpStream::connect(checked.addresses.as_slice())
        .await
        .map_err(|error| format!("failed to connect to {host}: {error}"))?;
    let mut conn = greeted(reach, tcp, tls, host).await?;
    if let Some(user) = &settings.username {
        let password = secrets.secret.clone().unwrap_or_default();
        let credentials = Credentials::new(user.clone(), password);
        conn.auth(DEFAULT_MECHANISMS, &credentials)
            .await
            .map_err(|error| format!("the server refused the user: {}", why(&error)))?;
    }
    let sent = match conn.send(email.envelope(), &email.formatted()).await {
        Ok(response) => {
            let text = response.message().collect::<Vec<_>>().join(" ");
            Sent::answered(status(response.code()), true, &text)
        }
        Err(error) => {
            let code = error.status().map(status);
            Sent { status: code, ..Sent::failed(why(&error)) }
        }
    };
    conn.abort().await;
    Ok(sent)
}

/// A connection whose server has greeted, encrypted as required.
async fn greeted(
    reach: Reach<'_>,
    tcp: TcpStream,
    tls: SmtpTls,
    host: &str,
) -> Result<AsyncSmtpConnection, String> {
    let name = ClientId::default();
    let peer = tcp.peer_addr().map_err(|error| error.to_string())?;
    let stream = Limited { inner: tcp, left: MAX_READ_BYTES, peer };
    if tls == SmtpTls::Implicit {
        let server = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(Arc::clone(reach.tls));
        let stream = connector
            .connect(server, stream)
            .await
            .map_err(|error| format!("the TLS handshake failed: {error}"))?;
        let stream = Box::new(Encrypted { inner: stream, peer });
        return AsyncSmtpConnection::connect_with_transport(stream, &name)
            .await
            .map_err(|error| why(&error));
    }
    let mut conn = AsyncSmtpConnection::connect_with_transport(Box::new(stream), &name)
        .await
        .map_err(|error| why(&error))?;
    if tls == SmtpTls::Starttls {
        let parameters = TlsParameters::new(host.to_owned()).map_err(|error| why(&error))?;
        conn.starttls(parameters, &name).await.map_err(|error| why(&error))?;
    }
    Ok(conn)
}

fn compose(
    settings: &AlertDestinationSettings,
    id: &str,
    message: &Message,
) -> Result<Email, String> {
    let mailbox = |text: &String| {
        text.parse::<Mailbox>().map_err(|error| format!("{text} is not an address: {error}"))
    };
    let from = settings.from.as_ref().ok_or("the sender is missing")?;
    let subject: String = names::inert(&message.title()).chars().take(SUBJECT_CHARS).collect();
    let thread = thread_of(&message.data.key);
    let mut email = Email::builder()
        .from(mailbox(from)?)
        .subject(subject)
        .message_id(Some(format!("<{id}@gateway-events>")))
        .references(thread.clone())
        .in_reply_to(thread)
        .header(ContentType::TEXT_PLAIN);
    for to in &settings.to {
        email = email.to(mailbox(to)?);
    }
    let mut email = email.body(message.text()).map_err(|error| error.to_string())?;
    // Programs that answer e-mails automatically leave these unanswered (RFC 3834).
    let name = HeaderName::new_from_ascii_str("Auto-Submitted");
    email.headers_mut().insert_raw(HeaderValue::new(name, "auto-generated".to_owned()));
    Ok(email)
}

/// A synthetic message id that identifies an alert's thread.
fn thread_of(key: &str) -> String {
    let digest = Sha256::digest(key.as_bytes());
    format!("<alert-{}@gateway-events>", HEXLOWER.encode(&digest[..12]))
}

fn status(code: lettre::transport::smtp::response::Code) -> u16 {
    u16::from(code)
}

/// An error with its cause.
fn why(error: &lettre::transport::smtp::Error) -> String {
    error.to_string()
}

/// A stream whose peer may send a limited amount.
#[derive(Debug)]
struct Limited {
    inner: TcpStream,
    left: usize,
    peer: SocketAddr,
}

impl AsyncTokioStream for Limited {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl AsyncRead for Limited {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other("the server sent too much")));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        self.left = self.left.saturating_sub(read);
        polled
    }
}

/// A connection encrypted with TLS.
#[derive(Debug)]
struct Encrypted {
    inner: TlsStream<Limited>,
    peer: SocketAddr,
}

impl AsyncTokioStream for Encrypted {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

macro_rules! writes {
    ($($name:ty),+) => {
        $(
            impl AsyncWrite for $name {
                fn poll_write(
                    mut self: Pin<&mut Self>,
                    context: &mut Context<'_>,
                    buffer: &[u8],
                ) -> Poll<io::Result<usize>> {
                    Pin::new(&mut self.inner).poll_write(context, buffer)
                }

                fn poll_flush(
                    mut self: Pin<&mut Self>,
                    context: &mut Context<'_>,
                ) -> Poll<io::Result<()>> {
                    Pin::new(&mut self.inner).poll_flush(context)
                }

                fn poll_shutdown(
                    mut self: Pin<&mut Self>,
                    context: &mut Context<'_>,
                ) -> Poll<io::Result<()>> {
                    Pin::new(&mut self.inner).poll_shutdown(context)
                }
            }
        )+
    };
}

writes!(Limited, Encrypted);
