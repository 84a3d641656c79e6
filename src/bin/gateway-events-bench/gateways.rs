//! The gateways of a run: registered, connected over a transport, and verifying each event as it
//! arrives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use gateway_events::backoff::Backoff;
use gateway_events::client::{CancellationToken, Endpoint};
use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::check::{Numbers, Received};
use crate::gateway_connection::{ConnectionError, Event, GatewayConnection};
use crate::latency::Latencies;
use crate::testbed::{Target, Testbed};
use crate::transport::Transport;

/// Concurrent registrations, and concurrent TLS handshakes.
const CONCURRENCY: usize = 32;
/// The pauses between attempts to connect, as of gateways in the field.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const MAX_RETRY_INTERVAL: Duration = Duration::from_mins(5);
const MAX_RETRIES: u32 = 3;
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Events that are acknowledged together at most, as by the client library: half of the window.
/// Fewer are acknowledged as soon as no more events have arrived.
const BATCH: i64 = 32;
/// Without progress for this long, something is lost.
pub(crate) const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);

/// Registered gateways.
pub(crate) struct Gateways {
    pub(crate) ids: Arc<[String]>,
    keys: Vec<SecretString>,
}

impl Gateways {
    /// Registers this many gateways and creates a key for each.
    pub(crate) async fn register(
        testbed: &Testbed<'_>,
        target: &Target,
        count: usize,
    ) -> anyhow::Result<Self> {
        testbed.progress.bounded_step("registering gateways", count as u64);
        // Names must differ from those of all other gateways of a running service.
        let run = fastrand::u64(..);
        let register = |number: usize| async move {
            let name = format!("bench-{run:016x}-{number}");
            let registered = testbed.register(&target.api, name).await?;
            testbed.progress.at(number as u64);
            anyhow::Ok(registered)
        };
        let all: Vec<_> =
            stream::iter(0..count).map(register).buffered(CONCURRENCY).try_collect().await?;
        let (ids, keys): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        Ok(Self { ids: ids.into(), keys })
    }

    /// Opens the connections, each for the next gateway in turn, and waits until all are
    /// acknowledged.
    pub(crate) async fn connect(
        &self,
        testbed: &Testbed<'_>,
        target: &Target,
        how: Connect,
    ) -> anyhow::Result<Receivers> {
        let stop = CancellationToken::new();
        let seen = Arc::new(Seen::new(how.origin, how.events));
        let permits = Arc::new(Semaphore::new(how.concurrency));
        let mut tasks = JoinSet::new();
        let tls = how.transport.tls(&target.endpoint(0).tls);
        let is_shared = how.count > self.keys.len();
        for (index, key) in self.keys.iter().cycle().take(how.count).enumerate() {
            let receiver = Receiver {
                index,
                transport: how.transport,
                instance: is_shared.then_some(index / self.keys.len()),
                endpoint: Endpoint { tls: Arc::clone(&tls), ..target.endpoint(index) },
                key: key.clone(),
                permits: Arc::clone(&permits),
                seen: Arc::clone(&seen),
                stop: stop.clone(),
            };
            tasks.spawn(receiver.run());
        }
        let receivers = Receivers { seen, stop, tasks };
        let (count, what) = (how.count as u64, "connecting gateways");
        receivers.until(testbed, &receivers.seen.connected, count, what).await?;
        Ok(receivers)
    }

    /// Verifies that the logs contain exactly the accepted events.
    pub(crate) async fn verify_stored(
        &self,
        target: &Target,
        accepted: &[Numbers],
    ) -> anyhow::Result<()> {
        for (id, numbers) in self.ids.iter().zip(accepted) {
            let head = target.api.gateway(id.parse()?).await?.head.0;
            anyhow::ensure!(
                u64::try_from(head) == Ok(numbers.count()),
                "{} events were accepted for gateway {id}, and its log has {}",
                numbers.count(),
                head
            );
        }
        Ok(())
    }
}

/// How to connect the gateways.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connect {
    pub(crate) transport: Transport,
    /// The number of connections.
    pub(crate) count: usize,
    /// Concurrent handshakes.
    pub(crate) concurrency: usize,
    /// The start of the measurement, to which the payloads refer.
    pub(crate) origin: Instant,
    /// The number of events for all gateways whose slowest latency is recorded.
    pub(crate) events: usize,
}

impl Connect {
    /// This many connections with a limited number of concurrent handshakes, in plain mode.
    pub(crate) fn gradually(count: usize, origin: Instant) -> Self {
        let transport = Transport::WebSocket;
        Self { transport, count, concurrency: CONCURRENCY, origin, events: 0 }
    }

    /// Over another transport.
    pub(crate) fn over(self, transport: Transport) -> Self {
        Self { transport, ..self }
    }
}

/// What all gateways together have received.
pub(crate) struct Seen {
    origin: Instant,
    /// Acknowledged connections.
    connected: AtomicU64,
    /// When the last one was acknowledged, in nanoseconds since the origin.
    connected_at: AtomicU64,
    /// Connection attempts that failed and were repeated.
    retries: AtomicU64,
    count: AtomicU64,
    /// When the last event arrived, in nanoseconds since the origin.
    last: AtomicU64,
    latencies: Latencies,
    /// Events that were due at this time or later, in nanoseconds since the origin, are counted
    /// apart.
    split_at: AtomicU64,
    later: Latencies,
    /// The latency of the slowest gateway in nanoseconds, by event.
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
            split_at: AtomicU64::new(u64::MAX),
            later: Latencies::new(),
            slowest: (0..events).map(|_| AtomicU64::new(0)).collect(),
            fault: Mutex::new(None),
        }
    }

    /// When the last connection was acknowledged.
    pub(crate) fn connected_at(&self) -> Instant {
        self.origin + Duration::from_nanos(self.connected_at.load(Ordering::Acquire))
    }

    /// Connection attempts that failed and were repeated.
    pub(crate) fn retries(&self) -> u64 {
        self.retries.load(Ordering::Acquire)
    }

    /// The latency of the slowest gateway for each event.
    pub(crate) fn slowest(&self) -> Latencies {
        let latencies = Latencies::new();
        for nanos in &self.slowest {
            latencies.record(0, Duration::from_nanos(nanos.load(Ordering::Acquire)));
        }
        latencies
    }

    /// From when each event was due to its arrival; of the events before a [split](Self::split).
    pub(crate) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// Counts the events that are due from now on apart.
    pub(crate) fn split(&self) {
        self.split_at.store(self.nanos(), Ordering::Release);
    }

    /// As [`latencies`](Self::latencies), of the events after the split.
    pub(crate) fn later(&self) -> &Latencies {
        &self.later
    }

    /// When the last event arrived.
    pub(crate) fn last_at(&self) -> Instant {
        self.origin + Duration::from_nanos(self.last.load(Ordering::Acquire))
    }

    fn fault(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn record(&self, index: usize, received: &mut Received, event: Event) -> Result<(), String> {
        let Event { sequence, stamp } = event;
        received.insert(sequence, stamp)?;
        let now = self.nanos();
        let latency = now.saturating_sub(stamp.at);
        let is_late = stamp.at >= self.split_at.load(Ordering::Acquire);
        let latencies = if is_late { &self.later } else { &self.latencies };
        latencies.record(index, Duration::from_nanos(latency));
        // Events are numbered from 1.
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
pub(crate) struct Receivers {
    pub(crate) seen: Arc<Seen>,
    stop: CancellationToken,
    tasks: JoinSet<(usize, Received)>,
}

impl Receivers {
    /// Waits until they have received this many events in total.
    pub(crate) async fn received(&self, testbed: &Testbed<'_>, events: u64) -> anyhow::Result<()> {
        self.until(testbed, &self.seen.count, events, "waiting for the last events").await
    }

    async fn until(
        &self,
        testbed: &Testbed<'_>,
        counter: &AtomicU64,
        wanted: u64,
        what: &str,
    ) -> anyhow::Result<()> {
        testbed.progress.bounded_step(what, wanted);
        let (mut before, mut since) = (0, Instant::now());
        loop {
            if let Some(fault) = self.seen.fault().take() {
                anyhow::bail!("the service broke a promise: {fault}");
            }
            let count = counter.load(Ordering::Acquire);
            testbed.progress.at(count);
            if count >= wanted {
                return Ok(());
            }
            if count > before {
                (before, since) = (count, Instant::now());
            }
            anyhow::ensure!(
                since.elapsed() < PROGRESS_TIMEOUT,
                "{what}: {count} of {wanted} arrived, and no more within {} s",
                PROGRESS_TIMEOUT.as_secs()
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Disconnects them; an error unless each received exactly the events accepted for it.
    pub(crate) async fn disconnect(mut self, accepted: &[Numbers]) -> anyhow::Result<()> {
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

/// The task of one connection.
struct Receiver {
    index: usize,
    transport: Transport,
    /// Which of several connections of a gateway this is; `None` if it has one.
    instance: Option<usize>,
    endpoint: Endpoint,
    key: SecretString,
    permits: Arc<Semaphore>,
    seen: Arc<Seen>,
    stop: CancellationToken,
}

impl Receiver {
    async fn run(self) -> (usize, Received) {
        let mut received = Received::default();
        let mut connection = match self.connect().await {
            Ok(connection) => connection,
            Err(cause) => {
                self.fault(&cause);
                return (self.index, received);
            }
        };
        self.seen.connected_at.fetch_max(self.seen.nanos(), Ordering::AcqRel);
        self.seen.connected.fetch_add(1, Ordering::AcqRel);
        if let Err(fault) = self.receive(&mut connection, &mut received).await {
            self.fault(&fault);
        }
        connection.close().await;
        (self.index, received)
    }

    /// Receives and acknowledges until it is stopped.
    async fn receive(
        &self,
        connection: &mut GatewayConnection,
        received: &mut Received,
    ) -> Result<(), String> {
        let mut acknowledged = 0;
        loop {
            let event = if let Some(event) = connection.next().now_or_never() {
                event
            } else {
                if received.last > acknowledged {
                    acknowledged = received.last;
                    let sent = connection.acknowledge(acknowledged).await;
                    sent.map_err(|error| error.to_string())?;
                }
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return Ok(()),
                    event = connection.next() => event,
                }
            };
            self.seen.record(self.index, received, event.map_err(|error| error.to_string())?)?;
            if received.last - acknowledged >= BATCH {
                acknowledged = received.last;
                let sent = connection.acknowledge(acknowledged).await;
                sent.map_err(|error| error.to_string())?;
            }
        }
    }

    /// Connects; retries with the backoff of gateways in the field.
    async fn connect(&self) -> Result<GatewayConnection, String> {
        let mut backoff = Backoff::new(FIRST_RETRY, MAX_RETRY_INTERVAL);
        let mut failures = 0;
        loop {
            let permit = self.permits.acquire().await.map_err(|error| error.to_string())?;
            let Self { transport, endpoint, key, instance, .. } = self;
            let connecting = GatewayConnection::connect(*transport, endpoint, key, *instance);
            let error = match connecting.await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            drop(permit);
            failures += 1;
            let is_final =
                !matches!(error, ConnectionError::Refused(429 | 503) | ConnectionError::Failed(_));
            if is_final || failures > MAX_RETRIES {
                return Err(error.to_string());
            }
            self.seen.retries.fetch_add(1, Ordering::AcqRel);
            tokio::time::sleep(backoff.next_pause()).await;
        }
    }

    fn fault(&self, fault: &str) {
        self.seen.fault().get_or_insert(format!("gateway {}: {fault}", self.index));
    }
}
