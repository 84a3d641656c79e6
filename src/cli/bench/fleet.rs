//! Gateways: registered for a run, and connected over wss like any other. Each
//! checks what it gets as it comes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use gateway_events::client::backoff::Backoff;
use gateway_events::client::frames::{Ended, Frames};
use gateway_events::client::{CancellationToken, Endpoint};
use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::check::{Frame, Numbers, Received};
use super::ground::{Ground, Target};
use super::latency::Latencies;

/// Registrations, and TLS handshakes, under way at once.
const AT_ONCE: usize = 32;
const MOST_RETRIES: u32 = 3;
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Without any progress for so long something is lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

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
            let name = format!("bench-{run:016x}-{number}");
            let registered = ground.register(&target.api, name).await?;
            ground.progress.at(number as u64);
            anyhow::Ok(registered)
        };
        let all: Vec<_> =
            stream::iter(0..count).map(register).buffered(AT_ONCE).try_collect().await?;
        let (ids, keys): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        Ok(Self { ids: ids.into(), keys })
    }

    /// Connects `count` times, each gateway in turn, so many at a time, and
    /// waits until all connections are acknowledged.
    pub(super) async fn connect(
        &self,
        ground: &Ground<'_>,
        target: &Target,
        how: Connect,
    ) -> anyhow::Result<Receivers> {
        let stop = CancellationToken::new();
        let seen = Arc::new(Seen::new(how.origin, how.events));
        let permits = Arc::new(Semaphore::new(how.at_once));
        let mut tasks = JoinSet::new();
        for (index, key) in self.keys.iter().cycle().take(how.count).enumerate() {
            let receiver = Receiver {
                index,
                endpoint: target.endpoint(index),
                key: key.clone(),
                permits: Arc::clone(&permits),
                seen: Arc::clone(&seen),
                stop: stop.clone(),
            };
            tasks.spawn(receiver.run());
        }
        let receivers = Receivers { seen, stop, tasks };
        let (count, what) = (how.count as u64, "connecting gateways");
        receivers.until(ground, &receivers.seen.connected, count, what).await?;
        Ok(receivers)
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
}

/// How a fleet connects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connect {
    /// Connections.
    pub(super) count: usize,
    /// Handshakes under way at once.
    pub(super) at_once: usize,
    /// When time began, as the payloads count it.
    pub(super) origin: Instant,
    /// So many events are each for all of them: when the last one has it is noted.
    pub(super) events: usize,
}

impl Connect {
    /// Each gateway once, in good order.
    pub(super) fn calmly(count: usize, origin: Instant) -> Self {
        Self { count, at_once: AT_ONCE, origin, events: 0 }
    }
}

/// What all gateways have seen together.
pub(super) struct Seen {
    origin: Instant,
    /// Acknowledged connections.
    connected: AtomicU64,
    /// When the last one was acknowledged, in nanoseconds since the origin.
    connected_at: AtomicU64,
    /// Connects that failed and were tried again.
    retries: AtomicU64,
    count: AtomicU64,
    /// When the last event came, in nanoseconds since the origin.
    last: AtomicU64,
    latencies: Latencies,
    /// By event: how long the slowest gateway waited for it, in nanoseconds.
    slowest: Vec<AtomicU64>,
    fault: Mutex<Option<String>>,
}

impl Seen {
    fn new(origin: Instant, events: usize) -> Self {
        Self {
            origin,
            connected: AtomicU64::new(0),
            connected_at: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            count: AtomicU64::new(0),
            last: AtomicU64::new(0),
            latencies: Latencies::new(),
            slowest: (0..events).map(|_| AtomicU64::new(0)).collect(),
            fault: Mutex::new(None),
        }
    }

    /// When the last connection was acknowledged.
    pub(super) fn connected_at(&self) -> Instant {
        self.origin + Duration::from_nanos(self.connected_at.load(Ordering::Acquire))
    }

    /// Connects that failed and were tried again.
    pub(super) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Acquire)
    }

    /// Until the last gateway had each event.
    pub(super) fn slowest(&self) -> Latencies {
        let latencies = Latencies::new();
        for nanos in &self.slowest {
            latencies.record(0, Duration::from_nanos(nanos.load(Ordering::Acquire)));
        }
        latencies
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

    fn nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn take(&self, index: usize, received: &mut Received, frame: &Bytes) -> Result<(), String> {
        let frame: Frame<'_> = serde_json::from_slice(frame)
            .map_err(|error| format!("a frame can't be read: {error}"))?;
        let stamp = frame
            .payload
            .ok_or_else(|| format!("a {} came, which nobody published", frame.kind))?;
        received.take(frame.sequence, stamp)?;
        let now = self.nanos();
        let latency = now.saturating_sub(stamp.at);
        self.latencies.record(index, Duration::from_nanos(latency));
        // Counted from 1.
        let event = usize::try_from(stamp.number - 1).ok().and_then(|it| self.slowest.get(it));
        if let Some(slowest) = event {
            slowest.fetch_max(latency, Ordering::AcqRel);
        }
        self.last.fetch_max(now, Ordering::AcqRel);
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
        self.until(ground, &self.seen.count, events, "waiting for the last events").await
    }

    async fn until(
        &self,
        ground: &Ground<'_>,
        counter: &AtomicU64,
        wanted: u64,
        what: &str,
    ) -> anyhow::Result<()> {
        ground.progress.expect(what, wanted);
        let (mut before, mut since) = (0, Instant::now());
        loop {
            if let Some(fault) = self.seen.fault().take() {
                anyhow::bail!("the service broke a promise: {fault}");
            }
            let count = counter.load(Ordering::Acquire);
            ground.progress.at(count);
            if count >= wanted {
                return Ok(());
            }
            if count > before {
                (before, since) = (count, Instant::now());
            }
            anyhow::ensure!(
                since.elapsed() < PATIENCE,
                "{what}: {count} of {wanted} came, and no other within {} s",
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

/// One connection's task.
struct Receiver {
    index: usize,
    endpoint: Endpoint,
    key: SecretString,
    permits: Arc<Semaphore>,
    seen: Arc<Seen>,
    stop: CancellationToken,
}

impl Receiver {
    async fn run(self) -> (usize, Received) {
        let mut received = Received::default();
        let mut frames = match self.connect().await {
            Ok(frames) => frames,
            Err(why) => {
                self.fault(&why);
                return (self.index, received);
            }
        };
        self.seen.connected_at.fetch_max(self.seen.nanos(), Ordering::AcqRel);
        self.seen.connected.fetch_add(1, Ordering::AcqRel);
        loop {
            let taken = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                frame = frames.next() => match frame {
                    Ok(frame) => self.seen.take(self.index, &mut received, &frame),
                    Err(ended) => Err(ended.to_string()),
                },
            };
            if let Err(fault) = taken {
                self.fault(&fault);
                break;
            }
        }
        frames.close().await;
        (self.index, received)
    }

    /// Connects, with the pauses of gateways in the field if it is turned away.
    async fn connect(&self) -> Result<Frames, String> {
        let mut failures = 0;
        loop {
            let permit = self.permits.acquire().await.map_err(|error| error.to_string())?;
            let ended = match Frames::connect(&self.endpoint, &self.key).await {
                Ok(frames) => return Ok(frames),
                Err(ended) => ended,
            };
            drop(permit);
            failures += 1;
            let is_final = !matches!(ended, Ended::Refused(429 | 503) | Ended::Failed(_));
            if is_final || failures > MOST_RETRIES {
                return Err(ended.to_string());
            }
            self.seen.retries.fetch_add(1, Ordering::AcqRel);
            tokio::time::sleep(Backoff::default().wait(failures, fastrand::f64())).await;
        }
    }

    fn fault(&self, fault: &str) {
        self.seen.fault().get_or_insert(format!("gateway {}: {fault}", self.index));
    }
}
