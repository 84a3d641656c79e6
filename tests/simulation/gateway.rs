//! Gateways of reliable mode: the real client with a handler that is slow, asks for repeats and rejects,
//! and with a position storage that a crash can interrupt.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use gateway_events::backoff::Backoff;
use gateway_events::client::CancellationToken;
use gateway_events::client::reliable::{
    Client, Confirm, DeliveryGap, EventFrame, Handler, NackCode, Options, Outcome, Position,
    PositionError, PositionStore, SnapshotError, StoredPosition,
};
use gateway_events::event::EventType;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::bugs::Bug;
use crate::network::SimTransport;
use crate::promises::{self, Delivered, Handled};
use crate::service::Service;
use crate::world::{Id, Storage, World, length, note, one_in};

/// A running process of a replica.
pub(crate) struct Process {
    pub(crate) client: Arc<Client>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Process {
    pub(crate) fn start(world: &Arc<World>, service: &Arc<Service>, id: Id) -> Self {
        let options = {
            let state = world.state();
            let replica = &state.gateways[id.gateway].replicas[id.replica];
            let first = EventType::new(crate::world::TYPES[0]).expect("a type");
            Options {
                instance: replica.name.clone(),
                types: replica.is_filtered.then(|| vec![first]),
                window: one_in(3).then(|| fastrand::u32(1..8)),
                confirm: if id.replica == 0 { Confirm::Applied } else { Confirm::Received },
                batch: 4,
                progress_interval: Duration::from_secs(4),
                backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(4)),
                ..Options::default()
            }
        };
        note!(world, world.label(id), "starts");
        let own = || (Arc::clone(world), id);
        let (world_of, _) = own();
        let transport = SimTransport { world: world_of, service: Arc::clone(service), id };
        let (world_of, id) = own();
        let storage = Disk { world: world_of, id };
        let (world_of, id) = own();
        let app = App { world: world_of, id, handled: Mutex::default() };
        let client = Arc::new(Client::new(transport, storage, app, options));
        let stop = CancellationToken::new();
        let (running, stopped, shared) = (Arc::clone(&client), stop.clone(), Arc::clone(world));
        let task = tokio::spawn(async move {
            if let Err(error) = running.run(stopped).await {
                let how = format!("{}: {error}", shared.label(id));
                shared.broken("a gateway that keeps the protocol is served", how);
            }
        });
        Self { client, stop, task }
    }

    /// Kills the process. Its connection breaks, if its host lives.
    pub(crate) fn crash(self, world: &World, id: Id) {
        note!(world, world.label(id), "CRASH");
        self.task.abort();
        let is_silent = one_in(2);
        world.state().lines.retain(|(of, line)| {
            if *of == id {
                if is_silent { line.silence() } else { line.reset() }
            }
            *of != id
        });
    }

    /// Stops the process, which finishes and confirms what it is doing.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// The storage of a replica's position.
struct Disk {
    world: Arc<World>,
    id: Id,
}

impl Disk {
    fn write(world: &World, id: Id, stored: &StoredPosition) {
        let mut state = world.state();
        let replica = &mut state.gateways[id.gateway].replicas[id.replica];
        // A transaction of the handler may have stored a later one.
        let mut stored = stored.clone();
        if replica.storage == Storage::Transactional
            && let Some(StoredPosition { position, .. }) = &replica.position
            && position.epoch == stored.position.epoch
            && position.sequence >= stored.position.sequence
        {
            stored.position = position.clone();
        }
        replica.position = Some(stored);
    }
}

#[async_trait]
impl PositionStore for Disk {
    async fn load(&self) -> Result<Option<StoredPosition>, PositionError> {
        let state = self.world.state();
        let replica = &state.gateways[self.id.gateway].replicas[self.id.replica];
        let mut stored = replica.position.clone();
        if self.world.has(Bug::ApplyTwice)
            && let Some(StoredPosition { position, .. }) = stored.as_mut()
            && position.sequence.0 > 1
        {
            position.sequence = position.sequence.previous();
            position.event_id = None;
        }
        Ok(stored)
    }

    async fn save(&self, position: &StoredPosition) -> Result<(), PositionError> {
        let at = Instant::now() + Duration::from_millis(fastrand::u64(1..40));
        if self.world.has(Bug::AcknowledgeEarly) {
            let (world, id, position) = (Arc::clone(&self.world), self.id, position.clone());
            tokio::spawn(async move {
                sleep_until(at).await;
                Self::write(&world, id, &position);
            });
            return Ok(());
        }
        sleep_until(at).await;
        Self::write(&self.world, self.id, position);
        Ok(())
    }
}

/// What a replica does with events.
struct App {
    world: Arc<World>,
    id: Id,
    handled: Mutex<Handled>,
}

/// What is to become of an event.
enum Plan {
    Apply,
    Retry,
    Reject,
}

impl App {
    fn plan(&self) -> (Duration, Plan) {
        let usual = Duration::from_millis(fastrand::u64(0..30));
        if !self.world.is_faulty() {
            return (usual, Plan::Apply);
        }
        match fastrand::u8(..40) {
            // Longer than a confirmation may take.
            0 => (Duration::from_secs(fastrand::u64(22..40)), Plan::Apply),
            1..=2 => (usual, Plan::Retry),
            3 => (usual, Plan::Reject),
            4..=8 => (Duration::from_millis(fastrand::u64(100..3000)), Plan::Apply),
            _ => (usual, Plan::Apply),
        }
    }

    fn apply(&self, event: &EventFrame, is_applied: bool) {
        let delivered = Delivered {
            epoch: event.epoch,
            sequence: event.sequence,
            id: event.event_id.as_str(),
            event_type: event.event_type.as_str(),
            payload: event.payload.get(),
        };
        let mut handled = self.handled.lock().unwrap_or_else(PoisonError::into_inner);
        promises::delivered(&self.world, self.id, &delivered, &mut handled);
        let mut state = self.world.state();
        let replica = &mut state.gateways[self.id.gateway].replicas[self.id.replica];
        let (epoch, sequence) = (event.epoch, event.sequence.0);
        if is_applied {
            replica.in_log(epoch).rejected_last.remove(&sequence);
        } else {
            replica.in_log(epoch).rejected.insert(sequence);
            replica.in_log(epoch).rejected_last.insert(sequence);
        }
        replica.in_log(epoch).applied.insert(sequence);
        let is_newer = replica
            .position
            .as_ref()
            .is_none_or(|it| it.position.epoch == epoch && it.position.sequence.0 < sequence);
        if is_applied && replica.storage == Storage::Transactional && is_newer {
            let event_id = Some(event.event_id.clone());
            let position = Position { epoch, sequence: event.sequence, event_id };
            let stored = replica.position.take();
            replica.position = Some(match stored {
                Some(stored) => StoredPosition { position, ..stored },
                None => position.into(),
            });
        }
    }
}

#[async_trait]
impl Handler for App {
    async fn handle(&self, event: EventFrame) -> Outcome {
        let (wait, plan) = self.plan();
        sleep_until(Instant::now() + wait).await;
        let what = match plan {
            Plan::Apply => "applies",
            Plan::Retry => "asks again for",
            Plan::Reject => "rejects",
        };
        note!(self.world, self.world.label(self.id), "{what} {}", event.sequence);
        match plan {
            Plan::Apply => {
                self.apply(&event, true);
                Outcome::Applied
            }
            Plan::Reject => {
                self.apply(&event, false);
                // Rejected or not, it may be asked for again if the connection has ended.
                self.again(&event);
                Outcome::Reject { code: NackCode::Unsupported, detail: None }
            }
            Plan::Retry => {
                self.again(&event);
                let after = Duration::from_millis(fastrand::u64(10..2500));
                Outcome::RetryAfter { after, code: NackCode::Overloaded, detail: None }
            }
        }
    }

    async fn read_snapshot(&self, gap: &DeliveryGap) -> Result<(), SnapshotError> {
        let wait = Duration::from_millis(fastrand::u64(1..400));
        sleep_until(Instant::now() + wait).await;
        if self.world.is_faulty() && one_in(3) {
            return Err(SnapshotError("injected fault".to_owned()));
        }
        let mut state = self.world.state();
        let known = &mut state.gateways[self.id.gateway];
        let head = known
            .logs
            .iter()
            .rev()
            .find(|log| log.epoch == gap.epoch)
            .map_or(0, |log| length(&log.rows));
        let base = head.max(gap.resume_at.0);
        let progress = known.replicas[self.id.replica].in_log(gap.epoch);
        progress.base = progress.base.max(base);
        *self.handled.lock().unwrap_or_else(PoisonError::into_inner) = None;
        drop(state);
        note!(self.world, self.world.label(self.id), "has read a snapshot up to {base}");
        Ok(())
    }
}

impl App {
    /// The event may come again.
    fn again(&self, event: &EventFrame) {
        let mut handled = self.handled.lock().unwrap_or_else(PoisonError::into_inner);
        *handled = Some((event.epoch, event.sequence.0, true));
    }
}
