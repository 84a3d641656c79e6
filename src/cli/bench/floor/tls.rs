//! TLS over loopback, as both ends of this process: frames of a size to and
//! fro, one way, or answered now and then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::super::report::{float, median};

/// Frames leave together up to about this size when they go one way.
const CHUNK: usize = 64 * 1024;
/// Frames that may be on their way unanswered.
const WINDOW: u64 = 64;
/// Frames that are answered together.
const STRIDE: u64 = 8;
/// A pong that says what it answers.
const ANSWER: usize = 26;

const NAME: &str = "localhost";

/// Who the near ends talk to, and what makes them trust it: a certificate that
/// is checked like any other.
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

    /// A connection's far end.
    pub(super) async fn accept(
        &self,
        tcp: TcpStream,
    ) -> anyhow::Result<server::TlsStream<TcpStream>> {
        tcp.set_nodelay(true)?;
        Ok(self.acceptor.accept(tcp).await?)
    }

    /// Its near end.
    pub(super) async fn connect(
        &self,
        tcp: TcpStream,
    ) -> anyhow::Result<client::TlsStream<TcpStream>> {
        tcp.set_nodelay(true)?;
        Ok(self.connector.connect(ServerName::try_from(NAME)?, tcp).await?)
    }
}

/// A connection and its other end. Each measurement has one of its own: what it
/// leaves on the way would disturb the next.
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

    /// The median time of a frame to and fro, in milliseconds.
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
            #[expect(unreachable_code, reason = "it names the type of the error")]
            std::io::Result::Ok(())
        };
        let taken = tokio::select! {
            taken = asking => taken?,
            failed = echoing => anyhow::bail!("the echo ended: {failed:?}"),
        };
        median(taken).context("no frame came back")
    }

    /// Frames a second one way.
    pub(super) async fn flow(self, frame: usize, time: Duration) -> anyhow::Result<f64> {
        let Self { mut near, mut far } = self;
        let started = Instant::now();
        let chunk = vec![7; (CHUNK / frame).max(1) * frame];
        let sending = async {
            loop {
                far.write_all(&chunk).await?;
                far.flush().await?;
            }
            #[expect(unreachable_code, reason = "it names the type of the error")]
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

    /// Frames a second that are answered as gateways answer events, and sent no
    /// further ahead than that.
    pub(super) async fn answered(self, frame: usize, time: Duration) -> anyhow::Result<f64> {
        let Self { mut near, mut far } = self;
        let answering = tokio::spawn(async move {
            let (mut chunk, mut unanswered) = (vec![0; CHUNK], 0);
            let stride = usize::try_from(STRIDE).unwrap_or(1) * frame;
            loop {
                let read = near.read(&mut chunk).await?;
                if read == 0 {
                    return std::io::Result::Ok(());
                }
                unanswered += read;
                near.write_all(&vec![7; unanswered / stride * ANSWER]).await?;
                near.flush().await?;
                unanswered %= stride;
            }
        });
        let started = Instant::now();
        let (mut sent, mut answers) = (0_u64, 0_u64);
        let mut heard = vec![0; CHUNK];
        while answers == 0 || started.elapsed() < time {
            let room = WINDOW - (sent - answers / ANSWER as u64 * STRIDE);
            let ahead = usize::try_from(room).unwrap_or(0);
            far.write_all(&vec![7; ahead * frame]).await?;
            far.flush().await?;
            sent += room;
            let read = far.read(&mut heard).await?;
            anyhow::ensure!(read > 0, "the other end is gone");
            answers += read as u64;
        }
        let elapsed = started.elapsed();
        drop(far);
        // It may find its answers unwanted.
        let _ = answering.await?;
        Ok(float(answers / ANSWER as u64 * STRIDE) / elapsed.as_secs_f64())
    }
}
