//! The baseline of `idle`: a process that holds TLS connections with a task for each and
//! echoes what it receives, which is a ping from time to time.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use gateway_events::client::tls::Trust;
use gateway_events::command::output;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::tls::Identity;
use crate::figures::float;
use crate::machine::{Meter, resident_bytes};

/// Concurrent handshakes.
const CONCURRENCY: usize = 32;
/// The interval between two pings of a connection, as gateways are pinged.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A masked ping or pong without a payload.
const PING: [u8; 6] = [7; 6];

/// The cost of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    /// Bytes of memory.
    pub(crate) bytes: f64,
    /// Microseconds of processor time per second, if known.
    pub(crate) micros: Option<f64>,
}

impl Idle {
    /// Opens the connections and measures their holder for `time`.
    pub(crate) async fn measure(connections: usize, time: Duration) -> anyhow::Result<Self> {
        let (mut holder, port) = start().await?;
        let pid = holder.id().context("the process that holds the connections has ended")?;
        let memory = || resident_bytes(pid).context("failed to read memory usage from /proc");
        let before = memory()?;
        let connector = TlsConnector::from(Trust::Insecure.client_config()?);
        let connect = |_| async {
            let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
            anyhow::Ok(connector.connect(ServerName::try_from("localhost")?, tcp).await?)
        };
        let open = stream::iter(0..connections).map(connect);
        let mut open: Vec<_> = open.buffer_unordered(CONCURRENCY).try_collect().await?;
        let meter = Meter::start(Some(pid));
        ping(&mut open, time).await?;
        let (used, after) = (meter.stop(), memory()?);
        drop(open);
        drop(holder.stdin.take());
        let status = holder.wait().await?;
        anyhow::ensure!(
            status.success(),
            "the process that held the connections ended with {status}"
        );
        let each = |amount: f64| amount / float(connections.max(1) as u64);
        Ok(Self {
            bytes: each(float(after.saturating_sub(before))),
            micros: used.server_time().map(|it| each(it.as_secs_f64() * 1e6 / time.as_secs_f64())),
        })
    }
}

/// Pings the connections in turn, each once in an interval.
async fn ping(open: &mut [TlsStream<TcpStream>], time: Duration) -> anyhow::Result<()> {
    let (started, step) = (Instant::now(), PING_INTERVAL / u32::try_from(open.len().max(1))?);
    for nth in 0_u32.. {
        let due = started + step * nth;
        sleep_until(due.min(started + time)).await;
        if due >= started + time {
            break;
        }
        let turn = usize::try_from(nth)? % open.len();
        let (connection, mut pong) = (&mut open[turn], PING);
        connection.write_all(&PING).await?;
        connection.flush().await?;
        connection.read_exact(&mut pong).await?;
    }
    Ok(())
}

/// Starts this program as the process that holds the connections; returns its port.
async fn start() -> anyhow::Result<(Child, u16)> {
    let program = std::env::current_exe().context("failed to find this program's own path")?;
    let mut holder = Command::new(program)
        .arg("hold")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("failed to start the process that holds the connections")?;
    let out = holder.stdout.take().context("the process has no standard output")?;
    let mut port = String::new();
    BufReader::new(out).read_line(&mut port).await?;
    Ok((holder, port.trim().parse().context("the process did not print its port")?))
}

/// Prints the port, accepts connections, and returns at the end of standard input.
pub(crate) async fn hold() -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let identity = Identity::new()?;
    output::say(listener.local_addr()?.port())?;
    let mut input = tokio::io::stdin();
    let mut nothing = [0; 1];
    loop {
        let (tcp, _) = tokio::select! {
            _ = input.read(&mut nothing) => return Ok(()),
            accepted = listener.accept() => accepted?,
        };
        let identity = identity.clone();
        tokio::spawn(async move {
            let mut far = identity.accept(tcp).await?;
            let mut received = PING;
            while let Ok(count @ 1..) = far.read(&mut received).await {
                far.write_all(&received[..count]).await?;
                far.flush().await?;
            }
            anyhow::Ok(())
        });
    }
}
