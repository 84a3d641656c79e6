//! Gateways: registered for a run, and connected over wss like any other. Each
//! checks what it gets as it comes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use gateway_events::client::CancellationToken;
use gateway_events::client::frames::Frames;
use secrecy::SecretString;
use serde_json::json;
use tokio::task::JoinSet;

use super::check::{Frame, Numbers, Received};
use super::ground::{Ground, Target};
use super::latency::Latencies;

/// Registrations, and TLS handshakes, under way at once.
const AT_ONCE: usize = 32;
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Without any progress for so long something is lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// Registered gateways.
pub(super) struct Fleet {
    pub(super) ids: Arc<[String]>,
    keys: Vec<SecretString>,
}

impl Fleet {
    /// Registers so many and makes a key for each.
    pub(super) async fn register(
        ground: &Ground<'_>,
        target: &Target,
        count: usize,
    ) -> anyhow::Result<Self> {
        ground.progress.expect("registering gateways", count as u64);
        // Names are unique among all that a running service has.
        let run = fastrand::u64(..);
        let register = |number: usize| async move {
            let body = json!({ "name": format!("bench-{run:016x}-{number}") });
            let registered = target.api.post("/gateways", &body).await?;
            let id = registered["id"].as_str().context("a gateway without id")?.to_owned();
            ground.registered(id.clone());
            let made = target.api.post(&format!("/gateways/{id}/tokens"), &json!({})).await?;
            let key = made["token"].as_str().context("a token without text")?;
            ground.progress.at(number as u64);
            anyhow::Ok((id, SecretString::from(key)))
        };
        let all: Vec<_> =
            stream::iter(0..count).map(register).buffered(AT_ONCE).try_collect().await?;
        let (ids, keys): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        Ok(Self { ids: ids.into(), keys })
    }

    /// Connects all of them, `at_once` at a time.
    pub(super) async fn connect(
        &self,
        ground: &Ground<'_>,
        target: &Target,
        origin: Instant,
    ) -> anyhow::Result<Receivers> {
        ground.progress.expect("connecting gateways", self.keys.len() as u64);
        let seen = Arc::new(Seen::new(origin));
        let stop = CancellationToken::new();
        let dial = |(index, key)| async move {
            let frames = Frames::connect(&target.endpoint(index), key).await;
            ground.progress.at(index as u64);
            frames.with_context(|| format!("gateway {index} could not connect"))
        };
        let connected: Vec<Frames> = stream::iter(self.keys.iter().enumerate())
            .map(dial)
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let mut tasks = JoinSet::new();
        for (index, frames) in connected.into_iter().enumerate() {
            tasks.spawn(receive(index, frames, Arc::clone(&seen), stop.clone()));
        }
        Ok(Receivers { seen, stop, tasks })
    }

    /// Each log must hold exactly what was accepted.
    pub(super) async fn stored(&self, target: &Target, accepted: &[Numbers]) -> anyhow::Result<()> {
        for (id, numbers) in self.ids.iter().zip(accepted) {
            let gateway = target.api.get(&format!("/gateways/{id}")).await?;
            anyhow::ensure!(
                gateway["head"].as_u64() == Some(numbers.count()),
                "{} events were accepted for gateway {id}, and its log has {}",
                numbers.count(),
                gateway["head"]
            );
        }
        Ok(())
    }

    /// Waits until the service has on record that each gateway confirmed all of
    /// its events; the number of events in each log must be what was accepted.
    pub(super) async fn confirmed(
        &self,
        target: &Target,
        accepted: &[Numbers],
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        for (id, numbers) in self.ids.iter().zip(accepted) {
            loop {
                let gateway = target.api.get(&format!("/gateways/{id}")).await?;
                let head = gateway["head"].as_u64().context("a gateway without head")?;
                anyhow::ensure!(
                    head == numbers.count(),
                    "{} events were accepted for gateway {id}, and its log has {head}",
                    numbers.count()
                );
                if gateway["confirmed"].as_u64() == Some(head) {
                    break;
                }
                anyhow::ensure!(
                    started.elapsed() < PATIENCE,
                    "gateway {id} has received {head} events, and {} are on record as confirmed",
                    gateway["confirmed"]
                );
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        Ok(())
    }
}

/// What all gateways have seen together.
pub(super) struct Seen {
    origin: Instant,
    count: AtomicU64,
    /// When the last event came, in nanoseconds since the origin.
    last: AtomicU64,
    latencies: Latencies,
    fault: Mutex<Option<String>>,
}

impl Seen {
    fn new(origin: Instant) -> Self {
        Self {
            origin,
            count: AtomicU64::new(0),
            last: AtomicU64::new(0),
            latencies: Latencies::new(),
            fault: Mutex::new(None),
        }
    }

    /// From when each event was due to its receipt.
    pub(super) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// When the last event came.
    pub(super) fn last_at(&self) -> Instant {
        self.origin + Duration::from_nanos(self.last.load(Ordering::Acquire))
    }

    fn fault(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, index: usize, received: &mut Received, frame: &Bytes) -> Result<(), String> {
        let frame: Frame<'_> = serde_json::from_slice(frame)
            .map_err(|error| format!("a frame can't be read: {error}"))?;
        let stamp = frame
            .payload
            .ok_or_else(|| format!("a {} came, which nobody published", frame.kind))?;
        received.take(frame.sequence, stamp)?;
        let now = self.origin.elapsed();
        self.latencies.record(index, now.saturating_sub(Duration::from_nanos(stamp.at)));
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.last.fetch_max(nanos, Ordering::AcqRel);
        self.count.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }
}

/// Connected gateways.
pub(super) struct Receivers {
    pub(super) seen: Arc<Seen>,
    stop: CancellationToken,
    tasks: JoinSet<(usize, Received)>,
}

impl Receivers {
    /// Waits until they have received so many events together.
    pub(super) async fn received(&self, ground: &Ground<'_>, events: u64) -> anyhow::Result<()> {
        ground.progress.expect("waiting for the last events", events);
        let (mut before, mut since) = (0, Instant::now());
        loop {
            if let Some(fault) = self.seen.fault().take() {
                anyhow::bail!("the service broke a promise: {fault}");
            }
            let count = self.seen.count.load(Ordering::Acquire);
            ground.progress.at(count);
            if count >= events {
                return Ok(());
            }
            if count > before {
                (before, since) = (count, Instant::now());
            }
            anyhow::ensure!(
                since.elapsed() < PATIENCE,
                "{events} events were accepted and {count} received; no other came for {} s",
                PATIENCE.as_secs()
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Lets them leave; each must have received exactly what was accepted for it.
    pub(super) async fn leave(mut self, accepted: &[Numbers]) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            let (index, received) = ended?;
            anyhow::ensure!(
                u64::try_from(received.last) == Ok(accepted[index].count()),
                "{} events were accepted for gateway {index}, and it received {}",
                accepted[index].count(),
                received.last
            );
        }
        match self.seen.fault().take() {
            Some(fault) => anyhow::bail!("the service broke a promise: {fault}"),
            None => Ok(()),
        }
    }
}

async fn receive(
    index: usize,
    mut frames: Frames,
    seen: Arc<Seen>,
    stop: CancellationToken,
) -> (usize, Received) {
    let mut received = Received::default();
    loop {
        let taken = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            frame = frames.next() => match frame {
                Ok(frame) => seen.take(index, &mut received, &frame),
                Err(ended) => Err(ended.to_string()),
            },
        };
        if let Err(fault) = taken {
            seen.fault().get_or_insert(format!("gateway {index}: {fault}"));
            break;
        }
    }
    frames.close().await;
    (index, received)
}
