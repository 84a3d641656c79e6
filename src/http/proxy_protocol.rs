//! The PROXY protocol (HAProxy's specification, versions 1 and 2): a load balancer that forwards
//! TCP sends the client's address first. Without it, the only address to rate-limit or record would
//! be the balancer's.

use std::io;
use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Usual headers have a few hundred bytes, including all extensions.
const MAX_HEADER_BYTES: usize = 4096;
const BOTH_VERSIONS: ParseConfig =
    ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };

/// Why a balancer's connection is closed.
#[derive(Debug, thiserror::Error)]
enum HeaderError {
    /// Sent by health checks that only open a connection.
    #[error("the connection ended before its first byte")]
    Nothing,
    #[error("the connection ended in the middle of the header")]
    Cut,
    #[error("the header did not arrive in time")]
    Late,
    #[error("the header is missing or malformed")]
    Malformed,
    #[error("the header is longer than {MAX_HEADER_BYTES} bytes")]
    TooLong,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads the header of a balancer's connection: the client's address, or the balancer's own for its
/// health checks. `None` if the connection must be closed; the reason is logged.
pub(super) async fn client(
    stream: &mut TcpStream,
    balancer: SocketAddr,
    deadline: Instant,
) -> Option<SocketAddr> {
    match timeout_at(deadline, header(stream)).await.unwrap_or(Err(HeaderError::Late)) {
        Ok(client) => Some(client.unwrap_or(balancer)),
        Err(error @ HeaderError::Nothing) => {
            tracing::debug!(%balancer, %error, "received no PROXY protocol header");
            None
        }
        Err(error) => {
            tracing::warn!(
                %balancer, %error,
                "received no PROXY protocol header from a peer in server.proxy_protocol_from; make it send one (HAProxy: send-proxy-v2), or remove its address from that list"
            );
            None
        }
    }
}

/// Reads exactly up to the end of the header, where TLS begins.
async fn header(stream: &mut TcpStream) -> Result<Option<SocketAddr>, HeaderError> {
    let mut header = Vec::new();
    let mut arrived = [0; 512];
    loop {
        let length = stream.peek(&mut arrived).await?;
        if length == 0 {
            return Err(if header.is_empty() { HeaderError::Nothing } else { HeaderError::Cut });
        }
        let taken = header.len();
        header.extend_from_slice(&arrived[..length]);
        match ProxyHeader::parse(&header, BOTH_VERSIONS) {
            Ok((parsed, end)) => {
                stream.read_exact(&mut arrived[..end.saturating_sub(taken)]).await?;
                return Ok(parsed.proxied_address().map(|addresses| addresses.source));
            }
            Err(Error::BufferTooShort) if header.len() <= MAX_HEADER_BYTES => {
                stream.read_exact(&mut arrived[..length]).await?;
            }
            Err(Error::BufferTooShort) => return Err(HeaderError::TooLong),
            Err(_) => return Err(HeaderError::Malformed),
        }
    }
}
