//! The baseline of one connection: frames over TLS on loopback, with both ends in this
//! process. Measures a round trip, one direction, and one direction with acknowledgements.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::figures::{float, median};

/// In one direction, frames are written in chunks of about this size.
const CHUNK: usize = 64 * 1024;
/// The maximum number of unacknowledged frames.
const WINDOW: u64 = 64;
/// Frames per acknowledgement.
const ACK_INTERVAL: u64 = 8;
/// Bytes of an acknowledgement, as of a pong with a sequence.
const ACK: usize = 26;

const NAME: &str = "localhost";

/// A self-signed certificate for the server, and clients that trust and verify it.
#[derive(Clone)]
pub(super) struct Identity {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl Identity {
    pub(super) fn new() -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .map_err(anyhow::Error::msg)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone())?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
        })
    }

    /// Accepts the server's end of a connection.
    pub(super) async fn accept(
        &self,
        tcp: TcpStream,
    ) -> anyhow::Result<server::TlsStream<TcpStream>> {
        tcp.set_nodelay(true)?;
        Ok(self.acceptor.accept(tcp).await?)
    }

    /// Opens the client's end of a connection.
    pub(super) async fn connect(
        &self,
        tcp: TcpStream,
    ) -> anyhow::Result<client::TlsStream<TcpStream>> {
        tcp.set_nodelay(true)?;
        Ok(self.connector.connect(ServerName::try_from(NAME)?, tcp).await?)
    }
}

/// Both ends of a connection. Each measurement uses a new one, because frames that are
/// still in transit would disturb the next.
pub(super) struct Loopback {
    pub(super) near: client::TlsStream<TcpStream>,
    pub(super) far: server::TlsStream<TcpStream>,
}

impl Loopback {
    pub(super) async fn open(identity: &Identity) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let near = async { identity.connect(TcpStream::connect(address).await?).await };
        let far = async { identity.accept(listener.accept().await?.0).await };
        let (near, far) = tokio::try_join!(near, far)?;
        Ok(Self { near, far })
    }

    /// The median round trip of a frame in milliseconds.
    pub(super) async fn round_trip(self, frame: usize, time: Duration) -> anyhow::Result<f64> {
        let Self { mut near, mut far } = self;
        let started = Instant::now();
        let asking = async {
            let (sent, mut back) = (vec![7; frame], vec![0; frame]);
            let mut taken = Vec::new();
            while taken.is_empty() || started.elapsed() < time {
                let before = Instant::now();
                near.write_all(&sent).await?;
                near.flush().await?;
                near.read_exact(&mut back).await?;
                taken.push(before.elapsed().as_secs_f64() * 1e3);
            }
            std::io::Result::Ok(taken)
        };
        let echoing = async {
            let mut frame = vec![0; frame];
            loop {
                far.read_exact(&mut frame).await?;
                far.write_all(&frame).await?;
                far.flush().await?;
            }
            #[expect(unreachable_code, reason = "states the type of the error")]
            std::io::Result::Ok(())
        };
        let taken = tokio::select! {
            taken = asking => taken?,
            failed = echoing => anyhow::bail!("the echo ended: {failed:?}"),
        };
        median(taken).context("no frame came back")
    }

    /// Frames per second in one direction.
    pub(super) async fn flow(self, frame: usize, time: Duration) -> anyhow::Result<f64> {
        let Self { mut near, mut far } = self;
        let started = Instant::now();
        let chunk = vec![7; (CHUNK / frame).max(1) * frame];
        let sending = async {
            loop {
                far.write_all(&chunk).await?;
                far.flush().await?;
            }
            #[expect(unreachable_code, reason = "states the type of the error")]
            std::io::Result::Ok(())
        };
        let receiving = async {
            let mut frames = vec![0; chunk.len()];
            let mut bytes = 0_u64;
            while bytes == 0 || started.elapsed() < time {
                near.read_exact(&mut frames).await?;
                bytes += frames.len() as u64;
            }
            std::io::Result::Ok(bytes)
        };
        let bytes = tokio::select! {
            bytes = receiving => bytes?,
            failed = sending => anyhow::bail!("the other end failed: {failed:?}"),
        };
        Ok(float(bytes) / float(frame as u64) / started.elapsed().as_secs_f64())
    }

    /// Frames per second with as many in flight, and acknowledged as often, as a gateway's
    /// events are.
    pub(super) async fn acknowledged(self, frame: usize, time: Duration) -> anyhow::Result<f64> {
        let Self { mut near, mut far } = self;
        let answering = tokio::spawn(async move {
            let (mut chunk, mut unanswered) = (vec![0; CHUNK], 0);
            let interval = usize::try_from(ACK_INTERVAL).unwrap_or(1) * frame;
            loop {
                let read = near.read(&mut chunk).await?;
                if read == 0 {
                    return std::io::Result::Ok(());
                }
                unanswered += read;
                near.write_all(&vec![7; unanswered / interval * ACK]).await?;
                near.flush().await?;
                unanswered %= interval;
            }
        });
        let started = Instant::now();
        let (mut sent, mut answers) = (0_u64, 0_u64);
        let mut received = vec![0; CHUNK];
        while answers == 0 || started.elapsed() < time {
            let room = WINDOW - (sent - answers / ACK as u64 * ACK_INTERVAL);
            let ahead = usize::try_from(room).unwrap_or(0);
            far.write_all(&vec![7; ahead * frame]).await?;
            far.flush().await?;
            sent += room;
            let read = far.read(&mut received).await?;
            anyhow::ensure!(read > 0, "the connection was closed");
            answers += read as u64;
        }
        let elapsed = started.elapsed();
        drop(far);
        // It may fail to write its last acknowledgements.
        let _ = answering.await?;
        Ok(float(answers / ACK as u64 * ACK_INTERVAL) / elapsed.as_secs_f64())
    }
}
