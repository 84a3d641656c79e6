//! The PROXY protocol (HAProxy's specification, versions 1 and 2): a load
//! balancer that passes TCP on says first whose connection it is. Without it
//! there are no addresses to limit or to put on record but the balancer's own.

use std::io;
use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Some hundred bytes are usual, with all that a balancer may add.
const LONGEST: usize = 4096;
const BOTH_VERSIONS: ParseConfig =
    ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };

/// Why a balancer's connection is ended.
#[derive(Debug, thiserror::Error)]
enum HeaderError {
    /// A check that only opens a connection does so.
    #[error("the connection ended before its first byte")]
    Nothing,
    #[error("the connection ended in the middle of the header")]
    Cut,
    #[error("the header took too long")]
    Late,
    #[error("it begins with something else, or the header is malformed")]
    Malformed,
    #[error("the header is longer than {LONGEST} bytes")]
    TooLong,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Takes the header off a balancer's connection: the client's address, or the
/// balancer's own where it speaks for itself (a health check). `None` if the
/// connection can't go on; the log says why.
pub(super) async fn client(
    stream: &mut TcpStream,
    balancer: SocketAddr,
    deadline: Instant,
) -> Option<SocketAddr> {
    match timeout_at(deadline, header(stream)).await.unwrap_or(Err(HeaderError::Late)) {
        Ok(client) => Some(client.unwrap_or(balancer)),
        Err(error @ HeaderError::Nothing) => {
            tracing::debug!(%balancer, %error, "no PROXY protocol header came");
            None
        }
        Err(error) => {
            tracing::warn!(
                %balancer, %error,
                "no PROXY protocol header came from a peer in server.proxy_protocol_from: let it send one (HAProxy: send-proxy-v2), or take its address out of that list"
            );
            None
        }
    }
}

/// Reads up to the header's end and not a byte further, for there TLS begins.
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
            Err(Error::BufferTooShort) if header.len() <= LONGEST => {
                stream.read_exact(&mut arrived[..length]).await?;
            }
            Err(Error::BufferTooShort) => return Err(HeaderError::TooLong),
            Err(_) => return Err(HeaderError::Malformed),
        }
    }
}
