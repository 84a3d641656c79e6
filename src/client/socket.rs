//! Connects like deployed gateways: TLS without a client certificate, and an HTTP/1.1 upgrade with
//! the key in `api-key`, without a subprotocol and without an Origin.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use reqwest::Url;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::{Error, handshake::client::Request};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::BASE_PATH;
use super::tls::plain;
use crate::transport::frames::PROTOCOL;

/// A byte stream: TLS, or plain TCP for `http://` addresses.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open WebSocket.
pub type Socket = WebSocketStream<Box<dyn Stream>>;

/// Why a gateway could not connect.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The service refused the upgrade with this HTTP status.
    #[error("the service refused the upgrade with status {0}")]
    Refused(u16),
    /// Any other failure.
    #[error("{0}")]
    Failed(String),
}

/// The address of the service, the certificates to trust, and the local address.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The service's address, `https://host:port`.
    pub base: Url,
    /// The certificates to trust.
    pub tls: Arc<ClientConfig>,
    /// The local address to connect from; chosen by the system if `None`.
    pub source: Option<IpAddr>,
}

impl Endpoint {
    /// Opens a TCP connection, with TLS for `https://` addresses.
    pub async fn open(&self) -> std::io::Result<Box<dyn Stream>> {
        let host = self.base.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.base.port_or_known_default().unwrap_or(443);
        let tcp = match self.source {
            None => TcpStream::connect((host, port)).await?,
            Some(source) => connect_from(source, host, port).await?,
        };
        tcp.set_nodelay(true)?;
        if self.base.scheme() != "https" {
            return Ok(Box::new(tcp));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        Ok(Box::new(TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await?))
    }

    /// Opens a gateway's WebSocket with its key. Has no timeout.
    pub async fn dial(&self, key: &SecretString) -> Result<Socket, DialError> {
        self.dial_with(key, None).await
    }

    /// Opens a gateway's WebSocket with its key in reliable mode. Has no timeout.
    pub async fn dial_reliable(&self, key: &SecretString) -> Result<Socket, DialError> {
        self.dial_with(key, Some(PROTOCOL)).await
    }

    async fn dial_with(
        &self,
        key: &SecretString,
        protocol: Option<&'static str>,
    ) -> Result<Socket, DialError> {
        let failed = |error: &dyn std::fmt::Display| DialError::Failed(plain(error.to_string()));
        let mut request = request(&self.base, key).map_err(|error| failed(&error))?;
        if let Some(protocol) = protocol {
            let protocol = HeaderValue::from_static(protocol);
            request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let stream = self.open().await.map_err(|error| failed(&error))?;
        match client_async_with_config(request, stream, None).await {
            Ok((socket, _)) => Ok(socket),
            Err(Error::Http(response)) => Err(DialError::Refused(response.status().as_u16())),
            Err(error) => Err(failed(&error)),
        }
    }
}

/// Connects from any free port of the local address.
async fn connect_from(source: IpAddr, host: &str, port: u16) -> std::io::Result<TcpStream> {
    let target = lookup_host((host, port)).await?.find(|it| it.is_ipv4() == source.is_ipv4());
    let target = target.ok_or_else(|| {
        std::io::Error::other(format!("{host} has no address that is reachable from {source}"))
    })?;
    let socket = if source.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(target).await
}

/// The request of the upgrade, without a subprotocol.
pub(super) fn request(base: &Url, key: &SecretString) -> Result<Request, Box<Error>> {
    let scheme = if base.scheme() == "https" { "wss" } else { "ws" };
    let host = base.host_str().unwrap_or_default();
    let port = base.port_or_known_default().unwrap_or(443);
    let address = format!("{scheme}://{host}:{port}{BASE_PATH}/ws/gateways/connect");
    let mut request = address.into_client_request().map_err(Box::new)?;
    let mut value = HeaderValue::from_str(key.expose_secret())
        .map_err(|error| Box::new(Error::HttpFormat(error.into())))?;
    value.set_sensitive(true);
    request.headers_mut().insert("api-key", value);
    Ok(request)
}
