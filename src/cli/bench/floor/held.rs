//! Idle TLS connections that nothing is done with: a process that holds its ends
//! with a task each and echoes what it hears, which is a ping now and then.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use gateway_events::client::tls::Trust;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::super::output;
use super::super::machine::{Meter, resident_bytes};
use super::super::report::float;
use super::tls::Identity;

/// Handshakes under way at once.
const AT_ONCE: usize = 32;
/// Between two pings of a connection, as gateways are pinged.
const PERIOD: Duration = Duration::from_secs(10);
/// A ping, or a pong without a payload.
const PING: [u8; 6] = [7; 6];

/// What one costs its holder.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Held {
    /// Bytes of memory.
    pub(in super::super) bytes: f64,
    /// Microseconds of processor time a second, if the system tells.
    pub(in super::super) micros: Option<f64>,
}

impl Held {
    /// Makes so many and watches them.
    pub(in super::super) async fn measure(
        connections: usize,
        time: Duration,
    ) -> anyhow::Result<Self> {
        let (mut holder, port) = start().await?;
        let pid = holder.id().context("what holds the connections has ended")?;
        let memory = || resident_bytes(pid).context("the memory can't be read from /proc");
        let before = memory()?;
        let connector = TlsConnector::from(Trust::Insecure.client_config()?);
        let connect = |_| async {
            let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
            anyhow::Ok(connector.connect(ServerName::try_from("localhost")?, tcp).await?)
        };
        let open = stream::iter(0..connections).map(connect);
        let mut open: Vec<_> = open.buffer_unordered(AT_ONCE).try_collect().await?;
        let meter = Meter::start(Some(pid));
        ping(&mut open, time).await?;
        let (used, after) = (meter.stop(), memory()?);
        drop(open);
        drop(holder.stdin.take());
        let status = holder.wait().await?;
        anyhow::ensure!(status.success(), "what held the connections ended with {status}");
        let each = |amount: f64| amount / float(connections.max(1) as u64);
        Ok(Self {
            bytes: each(float(after.saturating_sub(before))),
            micros: used.server_time().map(|it| each(it.as_secs_f64() * 1e6 / time.as_secs_f64())),
        })
    }
}

/// One after the other, so that each has its turn once in a period.
async fn ping(open: &mut [TlsStream<TcpStream>], time: Duration) -> anyhow::Result<()> {
    let (started, step) = (Instant::now(), PERIOD / u32::try_from(open.len().max(1))?);
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

/// This very program as the holder, and the port at which it listens.
async fn start() -> anyhow::Result<(Child, u16)> {
    let program = std::env::current_exe().context("this program's own path is unknown")?;
    let mut holder = Command::new(program)
        .args(["bench", "hold"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("what is to hold the connections can't be started")?;
    let out = holder.stdout.take().context("it has no standard output")?;
    let mut port = String::new();
    BufReader::new(out).read_line(&mut port).await?;
    Ok((holder, port.trim().parse().context("it did not say where it listens")?))
}

/// The holder: says where it listens, and ends with its standard input.
pub(in super::super) async fn hold() -> anyhow::Result<()> {
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
            let mut heard = PING;
            while let Ok(count @ 1..) = far.read(&mut heard).await {
                far.write_all(&heard[..count]).await?;
                far.flush().await?;
            }
            anyhow::Ok(())
        });
    }
}
