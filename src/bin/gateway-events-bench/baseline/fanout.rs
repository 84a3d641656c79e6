//! The baseline of a fan-out: many TLS connections over loopback with a task for each end,
//! all in this process. Measures handshakes, and a frame for every connection.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::tls::{Identity, Loopback};
use crate::figures::{float, median};

/// Concurrent handshakes.
const CONCURRENCY: usize = 32;
/// More connections take longer to open and give the same figures.
const MAX_CONNECTIONS: usize = 1000;
const ANSWER: [u8; 8] = [7; 8];

/// The measured figures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fanout {
    /// Handshakes per second with verified certificates.
    pub(crate) handshakes: f64,
    /// Frames per second, spread evenly over the connections and each answered.
    pub(crate) spread: f64,
    /// Milliseconds until the last connection has its frame.
    pub(crate) last: f64,
}

impl Fanout {
    pub(super) async fn measure(
        connections: usize,
        frame: usize,
        time: Duration,
    ) -> anyhow::Result<Self> {
        let (identity, count) = (Identity::new()?, connections.clamp(1, MAX_CONNECTIONS));
        let started = Instant::now();
        let open = stream::iter(0..count).map(|_| Loopback::open(&identity));
        let ends: Vec<Loopback> = open.buffer_unordered(CONCURRENCY).try_collect().await?;
        let handshakes = float(count as u64) / started.elapsed().as_secs_f64();

        let (rounds, round) = watch::channel(0_u64);
        let (received, mut receipts) = mpsc::channel(count);
        let (answered, mut answers) = mpsc::channel(count);
        let mut tasks = JoinSet::new();
        for Loopback { mut near, mut far } in ends {
            let (received, answered, mut round) =
                (received.clone(), answered.clone(), round.clone());
            tasks.spawn(async move {
                let mut text = vec![0; frame];
                while near.read_exact(&mut text).await.is_ok() {
                    let _ = received.send(Instant::now()).await;
                    near.write_all(&ANSWER).await?;
                    near.flush().await?;
                }
                std::io::Result::Ok(())
            });
            tasks.spawn(async move {
                let (text, mut answer) = (vec![7; frame], ANSWER);
                while round.changed().await.is_ok() {
                    far.write_all(&text).await?;
                    far.flush().await?;
                    far.read_exact(&mut answer).await?;
                    let _ = answered.send(()).await;
                }
                Ok(())
            });
        }
        let started = Instant::now();
        let (mut frames, mut last) = (0_u64, Vec::new());
        while frames == 0 || started.elapsed() < time {
            let sent = Instant::now();
            rounds.send_modify(|round| *round += 1);
            let mut latest = sent;
            for _ in 0..count {
                let both = async { Some((receipts.recv().await?, answers.recv().await?)) };
                let (at, ()) = tokio::select! {
                    both = both => both.context("all connections are closed")?,
                    Some(ended) = tasks.join_next() => anyhow::bail!("a connection failed: {ended:?}"),
                };
                latest = latest.max(at);
                frames += 1;
            }
            last.push(latest.duration_since(sent).as_secs_f64() * 1e3);
        }
        let spread = float(frames) / started.elapsed().as_secs_f64();
        drop(rounds);
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        // The time grows in proportion to the number of connections.
        let more = float(connections.max(1) as u64) / float(count as u64);
        let last = median(last).context("nothing was sent")? * more;
        Ok(Self { handshakes, spread, last })
    }
}
