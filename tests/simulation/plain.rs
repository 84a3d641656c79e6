//! Gateways of plain mode, and the transport between them and a lane: they handle one event after the
//! other, and confirm by receipts. Several events may share one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use gateway_events::event::{Epoch, Reason, Sequence};
use gateway_events::transport::{
    Control, Ended, Incoming, Outgoing, OutgoingEvent, TransportEnd, link,
};
use tokio::time::{Instant, sleep_until};

use crate::bugs::Bug;
use crate::network::{Line, delay, until};
use crate::promises::{self, Delivered};
use crate::service::Service;
use crate::world::{Id, World, note, one_in};

/// Events that wait in a gateway's socket.
const BUFFER: usize = 4;

/// Connects again and again, until the task is aborted.
pub(crate) async fn run(world: Arc<World>, service: Arc<Service>, id: Id) {
    loop {
        sleep_until(Instant::now() + delay()).await;
        let Some(node) = service.any() else { continue };
        let Some(permit) = node.dispatcher.try_admit() else { continue };
        let Ok(session) = node.dispatcher.open(permit, service.admission(id.gateway)).await else {
            continue;
        };
        promises::accepted(&world, id);
        let epoch = world.database.log_of(world.state().gateways[id.gateway].key()).0;
        note!(world, world.label(id), "connects to node {}", node.number);
        let (of_lane, end) = link();
        session.start(of_lane);
        let line = Arc::new(Line::default());
        world.state().lines.push((id, Arc::clone(&line)));
        let peer = Peer {
            world: Arc::clone(&world),
            id,
            epoch,
            line,
            end,
            queue: VecDeque::new(),
            busy_until: None,
            receipts: VecDeque::new(),
            shared: Vec::new(),
            probed: false,
        };
        let down = node.down.clone();
        let silent = down.run_until_cancelled(peer.run()).await;
        if silent == Some(true) {
            // The gateway notices it by the missing pings, the service by the missing answers.
            sleep_until(Instant::now() + Duration::from_secs(35)).await;
        }
    }
}

struct Peer {
    world: Arc<World>,
    id: Id,
    epoch: Epoch,
    line: Arc<Line>,
    end: TransportEnd,
    queue: VecDeque<OutgoingEvent>,
    /// When the first event of the queue is handled.
    busy_until: Option<Instant>,
    /// Receipts on their way.
    receipts: VecDeque<(Instant, Sequence)>,
    /// Handled events that share the receipt of the next one.
    shared: Vec<Sequence>,
    probed: bool,
}

impl Peer {
    /// Runs to the end of the connection. Returns whether the gateway does not learn of the end.
    async fn run(mut self) -> bool {
        let reason = loop {
            if self.busy_until.is_none() && !self.queue.is_empty() {
                self.busy_until = Some(Instant::now() + self.handling());
            }
            let receipt_at = self.receipts.front().map(|(at, _)| *at);
            let (busy_until, has_room) = (self.busy_until, self.queue.len() < BUFFER);
            tokio::select! {
                biased;
                is_silent = self.line.has_failed() => {
                    break (!is_silent).then_some(Reason::ConnectionLost);
                }
                control = self.end.control.recv() => match control {
                    Some(Control::Probe) => self.probed = true,
                    Some(Control::Close(reason)) => break Some(reason),
                    Some(Control::Drain(_) | Control::Violation(_)) => {
                        let how = "it was sent a frame of reliable mode";
                        self.world.broken("plain mode has events only", how);
                    }
                    None => break Some(Reason::Shutdown),
                },
                () = until(receipt_at) => {
                    if let Some((_, sequence)) = self.receipts.pop_front() {
                        let _ = self.end.incoming.send(Incoming::Receipt(sequence)).await;
                    }
                }
                () = until(busy_until) => self.handled(),
                outgoing = self.end.events.recv(), if has_room => match outgoing.map(|it| *it) {
                    Some(Outgoing::Event(event)) => self.written(event).await,
                    Some(_) => {
                        let how = "it was sent a frame of reliable mode";
                        self.world.broken("plain mode has events only", how);
                    }
                    None => break Some(Reason::Shutdown),
                },
            }
            if self.probed && self.busy_until.is_none() {
                self.probed = false;
                let _ = self.end.incoming.try_send(Incoming::Alive);
            }
        };
        let Some(reason) = reason else {
            // The service's side of a dead line: it reads until the lane gives up.
            let TransportEnd { mut control, incoming, .. } = self.end;
            tokio::spawn(async move {
                let reason = loop {
                    match control.recv().await {
                        Some(Control::Close(reason)) => break reason,
                        Some(_) => {}
                        None => return,
                    }
                };
                let ended = ended(reason, false, Vec::new());
                let _ = incoming.send(ended).await;
            });
            return true;
        };
        note!(self.world, self.world.label(self.id), "disconnected: {reason}");
        let shared = self.shared.clone();
        let by_peer = reason == Reason::ConnectionLost;
        let _ = self.end.incoming.send(ended(reason, by_peer, shared)).await;
        false
    }

    fn handling(&self) -> Duration {
        if self.world.is_faulty() && one_in(30) {
            // Longer than a confirmation may take, or not.
            return Duration::from_secs(fastrand::u64(5..28));
        }
        Duration::from_millis(fastrand::u64(0..60))
    }

    async fn written(&mut self, event: OutgoingEvent) {
        if self.world.has(Bug::ReceiptAtWrite) {
            let _ = self.end.incoming.send(Incoming::Receipt(event.sequence)).await;
        }
        if event.own_receipt
            && let Some(last) = self.shared.last().copied()
            && self.queue.is_empty()
        {
            self.shared.clear();
            self.confirm(last);
        }
        self.queue.push_back(event);
    }

    fn handled(&mut self) {
        self.busy_until = None;
        let Some(OutgoingEvent { sequence, event, .. }) = self.queue.pop_front() else { return };
        note!(self.world, self.world.label(self.id), "applies {sequence}");
        let delivered = Delivered {
            epoch: self.epoch,
            sequence,
            id: event.id.as_str(),
            event_type: event.event_type.as_str(),
            payload: event.payload.get(),
        };
        promises::delivered(&self.world, self.id, &delivered, &mut None);
        {
            let mut state = self.world.state();
            let replica = &mut state.gateways[self.id.gateway].replicas[self.id.replica];
            replica.in_log(self.epoch).applied.insert(sequence.0);
        }
        // The next event may share its receipt.
        if self.queue.front().is_some_and(|next| !next.own_receipt) && one_in(3) {
            self.shared.push(sequence);
            return;
        }
        self.shared.clear();
        self.confirm(sequence);
    }

    fn confirm(&mut self, sequence: Sequence) {
        let mut state = self.world.state();
        let replica = &mut state.gateways[self.id.gateway].replicas[self.id.replica];
        let progress = replica.in_log(self.epoch);
        progress.confirmed = progress.confirmed.max(sequence.0);
        drop(state);
        let at = self.receipts.back().map_or_else(Instant::now, |(at, _)| *at);
        self.receipts.push_back((at.max(Instant::now() + delay()), sequence));
    }
}

fn ended(reason: Reason, by_peer: bool, shared: Vec<Sequence>) -> Incoming {
    let detail = "ended by the simulation".to_owned();
    Incoming::Ended(Box::new(Ended { reason, detail, by_peer, shared }))
}
