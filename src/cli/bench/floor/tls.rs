//! TLS over loopback, as both ends of this process: frames of a size to and
//! fro, or one way only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use gateway_events::client::tls::Trust;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::super::report::{float, median};

/// Frames leave together up to about this size when they go one way.
const CHUNK: usize = 64 * 1024;

/// A connection and its other end.
pub(super) struct Loopback {
    near: client::TlsStream<TcpStream>,
    far: server::TlsStream<TcpStream>,
}

impl Loopback {
    pub(super) async fn open() -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .map_err(anyhow::Error::msg)?;
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let near = async {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let trust = Trust::Insecure.client_config()?;
            let name = ServerName::try_from("localhost")?;
            anyhow::Ok(TlsConnector::from(trust).connect(name, tcp).await?)
        };
        let far = async {
            let (tcp, _) = listener.accept().await?;
            tcp.set_nodelay(true)?;
            anyhow::Ok(TlsAcceptor::from(Arc::new(config)).accept(tcp).await?)
        };
        let (near, far) = tokio::try_join!(near, far)?;
        Ok(Self { near, far })
    }

    /// The median time of a frame to and fro, in milliseconds.
    pub(super) async fn round_trip(&mut self, frame: usize, time: Duration) -> anyhow::Result<f64> {
        let Self { near, far } = self;
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
    pub(super) async fn flow(&mut self, frame: usize, time: Duration) -> anyhow::Result<f64> {
        let Self { near, far } = self;
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
}
