//! One connection's task. It is woken by hints and decides by sequence: the
//! one that comes next is sent from the hint, a later one means reading the
//! log, an earlier one is ignored.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, MissedTickBehavior, sleep_until, timeout_at};

use super::window::Window;
use super::{Admission, Parts};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, Reason, Sequence};
use crate::socket::frame::{self, Action, DeploymentAck, Message, Status};
use crate::socket::{Control, EventFrame, Incoming, LaneEnd};
use crate::store::{DeploymentKey, Opened, OutboxRow, Range, Record};
use crate::wake::{Hint, Subscription};

/// Rows and bytes read ahead of the socket at the most.
const PAGE: (usize, usize) = (256, 1 << 20);
/// How long a transport may take to end after it was told to.
const END_WAIT: Duration = Duration::from_secs(15);
/// Pause before the log is read again when the database is away.
const READ_AGAIN: Duration = Duration::from_secs(1);

struct Lane {
    parts: Parts,
    id: ConnectionId,
    admission: Admission,
    opened: Opened,
    window: Window,
    end: LaneEnd,
    /// Rows that follow the window, without a gap.
    ready: VecDeque<OutboxRow>,
    head: Sequence,
    last_life: Instant,
    /// Whether a sign of life came since the last one was recorded.
    lively: bool,
    read_again: Option<Instant>,
}

/// Runs a connection from its first event to its last record.
pub(super) async fn run(
    parts: Parts,
    id: ConnectionId,
    opened: Opened,
    admission: Admission,
    end: LaneEnd,
    closing: watch::Receiver<Option<Reason>>,
) {
    // Listen before you look: what is appended from here on is heard.
    let subscription = parts.wake.subscribe(admission.gateway);
    tracing::info!(gateway = %admission.gateway_id, connection = %id, address = admission.remote_address,
        position = opened.position.0, head = opened.head.0, "connected");
    let started = Instant::now();
    let mut lane = Lane {
        window: Window::new(parts.options.window(), opened.position, opened.failed_attempts),
        parts,
        id,
        admission,
        opened,
        end,
        ready: VecDeque::new(),
        head: opened.head,
        last_life: started,
        lively: false,
        read_again: None,
    };
    let (reason, detail) = lane.live(subscription, closing).await;
    lane.finish(reason, detail, started).await;
}

impl Lane {
    async fn live(
        &mut self,
        mut subscription: Subscription,
        mut closing: watch::Receiver<Option<Reason>>,
    ) -> (Reason, String) {
        let mut pings = tokio::time::interval(self.parts.options.heartbeat_interval);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let expiry =
            self.admission.token_expires_at.map(|at| Instant::now() + at.since(Timestamp::now()));
        // What was appended between opening and subscribing has given no hint.
        self.head = self.head.max(*subscription.head.borrow_and_update());
        self.fill(true).await;
        loop {
            let (deadline, overdue) = self.deadline();
            let sendable = !self.ready.is_empty() && self.window.has_room();
            tokio::select! {
                incoming = self.end.incoming.recv() => match incoming {
                    Some(Incoming::Ended { reason, detail }) => return (reason, detail),
                    Some(incoming) => self.hear(incoming).await,
                    None => return (Reason::ConnectionLost, "the transport vanished".to_owned()),
                },
                reason = told(&mut closing) => return self.part(reason, String::new()).await,
                () = sleep_until(deadline) => {
                    return self.part(overdue, "nothing came within the deadline".to_owned()).await;
                }
                () = sleep_or_never(expiry) => {
                    return self.part(Reason::TokenRevoked, "the token has expired".to_owned()).await;
                }
                _ = pings.tick() => self.ping().await,
                permit = self.end.events.clone().reserve_owned(), if sendable => {
                    if let Ok(permit) = permit && let Some(frame) = self.next_frame().await {
                        permit.send(frame);
                    }
                }
                hint = subscription.hints.recv() => self.take(hint),
                Ok(()) = subscription.head.changed() => {
                    self.head = self.head.max(*subscription.head.borrow_and_update());
                }
                () = sleep_or_never(self.read_again) => self.read_again = None,
            }
            self.fill(false).await;
        }
    }

    /// When to give up on the peer, and why. While a confirmation is due, a
    /// busy handler can't answer pings, so that deadline stands instead.
    fn deadline(&self) -> (Instant, Reason) {
        match self.window.confirmation_due() {
            Some(due) => (due, Reason::ConfirmationTimeout),
            None => {
                (self.last_life + self.parts.options.heartbeat_timeout, Reason::HeartbeatTimeout)
            }
        }
    }

    /// Takes fresh rows from a hint if they follow what is ready; a hint that
    /// was lost costs a read of the log.
    fn take(&mut self, hint: Result<Hint, broadcast::error::RecvError>) {
        let Ok(hint) = hint else { return };
        self.head = self.head.max(hint.head);
        for (sequence, event) in hint.rows.iter() {
            let next = self.ready.back().map_or(self.window.next(), |row| row.sequence.next());
            if *sequence == next && self.ready.len() < PAGE.0 {
                self.ready.push_back(OutboxRow { sequence: next, event: event.clone() });
            }
        }
    }

    /// Reads the log when it has more than is ready.
    async fn fill(&mut self, look: bool) {
        let behind = self.window.next() <= self.head && self.window.has_room();
        if !self.ready.is_empty() || !(behind || look) || self.read_again.is_some() {
            return;
        }
        let after = self.window.next().previous();
        match self.parts.store.0.read(self.admission.gateway, after, PAGE.0, PAGE.1).await {
            Ok(page) => {
                if page.floor > after {
                    tracing::warn!(gateway = %self.admission.gateway_id, connection = %self.id,
                        from = after.next().0, to = page.floor.0, "retention has removed what this connection lacked");
                    self.window.skip(page.floor);
                }
                self.head = self.head.max(page.head);
                self.ready.extend(page.rows);
            }
            Err(error) => {
                tracing::warn!(%error, connection = %self.id, "the log can't be read now; the socket stays");
                self.read_again = Some(Instant::now() + READ_AGAIN.mul_f64(0.5 + fastrand::f64()));
            }
        }
    }

    /// The next frame to send; passes over what has expired.
    async fn next_frame(&mut self) -> Option<EventFrame> {
        let now = Timestamp::now();
        while let Some(row) = self.ready.pop_front() {
            if row.event.expires_at.is_none_or(|at| at > now) {
                let text = frame::event_text(&row.event, row.sequence, self.opened.epoch);
                self.window.sent(text.len(), now, Instant::now());
                metrics::counter!("gateway_events_events_written_total").increment(1);
                return Some(EventFrame { sequence: row.sequence, text });
            }
            let advance_to = self.window.skip(row.sequence);
            self.failed(Range { first: row.sequence, last: row.sequence }, Reason::Expired, "");
            self.record(Record::Skipped {
                gateway: self.admission.gateway,
                connection: self.id,
                range: Range { first: row.sequence, last: row.sequence },
                reason: Reason::Expired,
                advance_to,
                at: now,
            })
            .await;
        }
        None
    }

    async fn ping(&mut self) {
        // A full control queue holds a ping already.
        let _ = self.end.control.try_send(Control::Ping);
        if std::mem::take(&mut self.lively) {
            self.record(Record::Heartbeat { connection: self.id, at: Timestamp::now() }).await;
        }
    }

    async fn hear(&mut self, incoming: Incoming) {
        self.last_life = Instant::now();
        self.lively = true;
        match incoming {
            Incoming::Receipt(upto) => self.receipt(upto).await,
            Incoming::Message(text) => match frame::parse_incoming(&text) {
                Message::DeploymentAck(ack) => self.deployment_ack(ack).await,
                Message::Unknown => self.strange("a message of an unknown type"),
                Message::Malformed => self.strange("a malformed message"),
            },
            Incoming::Malformed(what) => self.strange(what),
            Incoming::Alive | Incoming::Ended { .. } => {}
        }
    }

    fn strange(&self, what: &'static str) {
        metrics::counter!("gateway_events_strange_messages_total").increment(1);
        tracing::warn!(gateway = %self.admission.gateway_id, connection = %self.id, what,
            "the gateway sent something that means nothing here; it was ignored");
    }

    async fn receipt(&mut self, upto: Sequence) {
        let Ok(runs) = self.window.receipt(upto, self.last_life) else {
            self.strange("a receipt for what was never sent");
            return;
        };
        let finished_at = Timestamp::now();
        for run in runs {
            tracing::info!(target: "delivery", gateway = %self.admission.gateway_id, connection = %self.id,
                first = run.range.first.0, last = run.range.last.0, outcome = "received", source = "pong", "attempt");
            metrics::counter!("gateway_events_receipts_total")
                .increment(u64::try_from(run.range.last.0 - run.range.first.0 + 1).unwrap_or(0));
            self.record(Record::Confirmed {
                gateway: self.admission.gateway,
                connection: self.id,
                range: run.range,
                started_at: run.started_at,
                finished_at,
            })
            .await;
        }
    }

    async fn deployment_ack(&mut self, ack: DeploymentAck) {
        let suffix = match ack.action {
            Action::Deploy => "deployed",
            Action::Undeploy => "undeployed",
        };
        let key = DeploymentKey {
            artifact_id: ack.artifact_id,
            deployment_id: ack.deployment_id,
            suffix,
        };
        let found = match self.parts.store.0.find_deployment(self.admission.gateway, &key).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, connection = %self.id, "a deployment.ack could not be matched now");
                return;
            }
        };
        let agrees = |at: Option<Timestamp>| {
            ack.performed_at.is_none() || at.is_none() || at == ack.performed_at
        };
        let Some((sequence, _)) = found.filter(|(_, at)| agrees(*at)) else {
            self.strange("a deployment.ack that matches no event");
            return;
        };
        let range = Range { first: sequence, last: sequence };
        let result = match ack.status {
            Status::Success => {
                tracing::info!(target: "delivery", gateway = %self.admission.gateway_id, connection = %self.id,
                    first = sequence.0, last = sequence.0, outcome = "applied", source = "deployment.ack", "attempt");
                Ok(())
            }
            Status::Failed => {
                let code: String = ack.error_code.unwrap_or_default().chars().take(200).collect();
                let reason = match code.as_str() {
                    "GATEWAY_PROCESSING_ERROR" => Reason::GatewayProcessingError,
                    "DEPLOYMENT_ID_MISMATCH" => Reason::DeploymentIdMismatch,
                    _ => Reason::ApplyFailed,
                };
                self.failed(range, reason, &code);
                Err((reason, code))
            }
        };
        self.record(Record::Reported {
            gateway: self.admission.gateway,
            connection: self.id,
            sequence,
            result,
            at: Timestamp::now(),
        })
        .await;
    }

    /// Tells the transport to close, and listens until it has.
    async fn part(&mut self, reason: Reason, detail: String) -> (Reason, String) {
        let _ = self.end.control.try_send(Control::Close(reason));
        let until = Instant::now() + END_WAIT;
        while let Ok(Some(incoming)) = timeout_at(until, self.end.incoming.recv()).await {
            match incoming {
                Incoming::Ended { .. } => break,
                // Receipts that were on their way still count.
                incoming => self.hear(incoming).await,
            }
        }
        (reason, detail)
    }

    async fn finish(&mut self, reason: Reason, detail: String, started: Instant) {
        let remains = self.window.close(reason);
        if let Some((range, _)) = remains.unconfirmed {
            self.failed(range, reason, &detail);
        }
        tracing::info!(gateway = %self.admission.gateway_id, connection = %self.id, %reason, detail,
            seconds = started.elapsed().as_secs(), gave_up = remains.give_up, "disconnected");
        self.record(Record::Closed {
            gateway: self.admission.gateway,
            connection: self.id,
            reason,
            detail,
            unconfirmed: remains.unconfirmed,
            give_up: remains.give_up,
            at: Timestamp::now(),
        })
        .await;
    }

    fn failed(&self, range: Range, reason: Reason, detail: &str) {
        metrics::counter!("gateway_events_delivery_failures_total", "reason" => reason.as_str())
            .increment(u64::try_from(range.last.0 - range.first.0 + 1).unwrap_or(0));
        tracing::warn!(target: "delivery", gateway = %self.admission.gateway_id, connection = %self.id,
            first = range.first.0, last = range.last.0, outcome = "failed", %reason, detail, "attempt");
    }

    async fn record(&self, record: Record) {
        self.parts.recorder.put(record).await;
    }
}

/// Waits until somebody wants the connection closed.
async fn told(closing: &mut watch::Receiver<Option<Reason>>) -> Reason {
    match closing.wait_for(Option::is_some).await {
        Ok(reason) => reason.unwrap_or(Reason::Shutdown),
        // Whoever could have closed it is gone: only a shutdown does that.
        Err(_) => Reason::Shutdown,
    }
}

async fn sleep_or_never(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}
