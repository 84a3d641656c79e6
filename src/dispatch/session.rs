//! A connection between its admission and the start of its transport. It is recorded, and has a
//! position, before its admission is announced to the gateway.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument as _;

use super::begin::{Begin, level};
use super::final_ping::FinalPing;
use super::lane::{Lane, Timing};
use super::log_reader::LogReader;
use super::outcomes::{ConnectionInfo, Outcomes};
use super::permit::Permit;
use super::registry::Registration;
use super::reports::Reports;
use super::window::{Closing, GiveUpPolicy, Limits, Window};
use super::{Dispatcher, reliable};
use crate::clock::Timestamp;
use crate::event::{ConnectionId, GatewayId, GatewayKey, OrganisationKey, Reason, Sequence};
use crate::metric;
use crate::store::positions::Repeats;
use crate::store::{NewConnection, Opened, Store};
use crate::transport::{Greeting, LaneEnd};
use crate::wake::Subscription;

/// The instance of connections without a name, as all are in plain mode.
pub(super) const UNNAMED: &str = "";

/// The gateway that is admitted, and how it connected.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The gateway.
    pub gateway: GatewayKey,
    /// The id by which API clients refer to it.
    pub gateway_id: GatewayId,
    /// Its name.
    pub gateway_name: Arc<str>,
    /// Its organisation.
    pub organisation: OrganisationKey,
    /// The public part of its token.
    pub token: String,
    /// When that token expires, which ends the connection.
    pub token_expires_at: Option<Timestamp>,
    /// The transport's name, for example `websocket`.
    pub transport: &'static str,
    /// The peer's address, for admins.
    pub remote_address: String,
}

impl Admission {
    /// The connection as it is stored.
    pub(super) fn connection(&self, id: ConnectionId, instance: String) -> NewConnection {
        NewConnection {
            id,
            gateway: self.gateway,
            token: self.token.clone(),
            instance,
            transport: self.transport,
            remote_address: self.remote_address.clone(),
        }
    }
}

/// An opened connection that waits for its transport. If it is dropped instead of
/// started, it is recorded as lost.
pub struct Session {
    id: ConnectionId,
    greeting: Greeting,
    /// `None` once it has been started.
    ready: Option<Ready>,
}

/// The contents of a session until it is started. Field order matters: the registration is dropped
/// before the subscription.
pub(super) struct Ready {
    pub(super) registration: Registration,
    pub(super) stop: mpsc::Receiver<Reason>,
    /// A drain waits for this session, too.
    pub(super) tracked: TaskTrackerToken,
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) permit: Permit,
    pub(super) admission: Admission,
    pub(super) opened: Opened,
    pub(super) subscription: Subscription,
    /// How it begins in reliable mode; `None` in plain mode.
    pub(super) reliable: Option<Box<Begin>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(id: ConnectionId, ready: Ready) -> Self {
        let gateway_id = ready.admission.gateway_id;
        let greeting = Greeting { gateway_id, connection_id: id, epoch: ready.opened.epoch };
        Self { id, greeting, ready: Some(ready) }
    }

    /// The connection's id.
    pub const fn id(&self) -> ConnectionId {
        self.id
    }

    /// Whether it was stopped before it was started, for example by a drain. In that case its
    /// gateway must be refused.
    pub fn is_stopped(&self) -> bool {
        self.ready.as_ref().is_some_and(|ready| !ready.stop.is_empty())
    }

    /// The first message of the transport to the gateway.
    pub const fn greeting(&self) -> Greeting {
        self.greeting
    }

    /// Starts delivery over a link, whose other end belongs to a transport.
    pub fn start(mut self, link: LaneEnd) {
        if let Some(ready) = self.ready.take() {
            ready.start(self.id, link);
        }
    }
}

impl Ready {
    fn info(&self, connection: ConnectionId) -> ConnectionInfo {
        ConnectionInfo {
            gateway: self.admission.gateway,
            gateway_id: self.admission.gateway_id,
            gateway_name: Arc::clone(&self.admission.gateway_name),
            connection,
            instance: self.instance().into(),
        }
    }

    fn instance(&self) -> &str {
        let request = self.reliable.as_ref().map(|begin| &begin.request);
        request.and_then(|request| request.instance.as_deref()).unwrap_or(UNNAMED)
    }

    /// Counts the confirmed events that are sent again, and says so if they may be avoided.
    fn report_repeats(&self, id: ConnectionId) {
        let Repeats { events, missing_replicas } = self.opened.repeats;
        metrics::counter!(metric::CONFIRMED_EVENTS_REPEATED)
            .increment(u64::try_from(events).unwrap_or(0));
        if events == 0 || missing_replicas == 0 {
            return;
        }
        // A gateway decides how often it reconnects.
        if let Some(suppressed) = self.dispatcher.failures.admit(self.admission.gateway_id) {
            tracing::warn!(
                gateway = %self.admission.gateway_id,
                connection = %id,
                events,
                missing_replicas,
                suppressed,
                "confirmed events are sent again, because the gateway declares more replicas than were connected at the same time in the last hour; if it has no more, lower its `replicas`"
            );
        }
    }

    fn timing(&self, heartbeat_interval: Duration) -> Timing {
        let options = &self.dispatcher.options;
        Timing {
            heartbeat_interval,
            heartbeat_timeout: options.heartbeat_timeout,
            confirmation_timeout: options.confirmation_timeout,
            final_ping: FinalPing::new(
                options.heartbeat_timeout.min(options.confirmation_timeout),
                options.unacknowledged(),
            ),
            give_up: GiveUpPolicy { max_attempts: options.max_attempts, poison: options.poison },
            token_expires: self
                .admission
                .token_expires_at
                .and_then(|at| Instant::now().checked_add(at.since(Timestamp::now()))),
        }
    }

    fn start(mut self, id: ConnectionId, link: LaneEnd) {
        self.report_repeats(id);
        if let Some(begin) = self.reliable.take() {
            return self.start_reliable(id, link, *begin);
        }
        let info = self.info(id);
        let timing = self.timing(self.dispatcher.options.heartbeat_interval);
        let Self {
            registration,
            stop,
            tracked: _tracked,
            dispatcher,
            permit,
            admission,
            opened,
            subscription,
            reliable: _,
        } = self;
        // Before the lane reads it. What was changed since then is newer, and stays.
        dispatcher.wake.changed(admission.gateway, opened.control);
        let options = &dispatcher.options;
        let limits = Limits {
            events: options.window_events.max(1),
            bytes: usize::try_from(options.window_bytes.as_u64()).unwrap_or(usize::MAX),
        };
        // What is not recorded of an earlier connection fits into a window.
        let unsure = opened.position.0.saturating_add(i64::try_from(limits.events).unwrap_or(0));
        let unsure = opened.head.min(Sequence(unsure));
        let sent_before = if opened.is_unsure { opened.sent.max(unsure) } else { opened.sent };
        let lane = Box::new(Lane {
            info: info.clone(),
            sent_before,
            transport: admission.transport,
            timing,
            window: Window::new(limits, opened.position, opened.suspect),
            reader: LogReader::new(
                Arc::<dyn Store>::clone(&dispatcher.store),
                Arc::clone(&dispatcher.reads),
                admission.gateway,
                limits,
                subscription,
                opened.position,
                opened.head,
            ),
            outcomes: Outcomes::new(info, Arc::clone(&dispatcher.failures)),
            reports: Reports::new(
                Arc::<dyn Store>::clone(&dispatcher.store),
                Arc::<dyn Store>::clone(&dispatcher.store),
                admission.gateway,
            ),
            recorder: dispatcher.recorder.clone(),
            link,
            stop,
            registration,
            permit,
        });
        dispatcher.lanes.spawn(lane.run().in_current_span());
    }

    fn start_reliable(self, id: ConnectionId, link: LaneEnd, begin: Begin) {
        let Begin { request, nacked, gap } = begin;
        let options = &self.dispatcher.options.reliable;
        let timing = self.timing(options.heartbeat_interval);
        let info = ConnectionInfo {
            instance: request.instance.as_deref().unwrap_or(UNNAMED).into(),
            ..self.info(id)
        };
        let limits = Limits {
            events: usize::try_from(options.window).unwrap_or(usize::MAX),
            bytes: usize::try_from(options.window_bytes.as_u64()).unwrap_or(usize::MAX),
        };
        let snapshot_url = Some(options.snapshot_url.as_str()).filter(|url| !url.is_empty());
        let snapshot_url = snapshot_url.map(str::to_owned);
        let Self {
            registration,
            stop,
            tracked: _tracked,
            dispatcher,
            permit,
            admission,
            opened,
            subscription,
            reliable: _,
        } = self;
        // Before the lane reads it. What was changed since then is newer, and stays.
        dispatcher.wake.changed(admission.gateway, opened.control);
        // A gateway may start again below the position of its instance.
        let (position, reads_from) = match &gap {
            Some(gap) => (opened.position.min(gap.resume_at), gap.resume_at),
            None => (opened.position, opened.position),
        };
        let confirms = level(request.confirmation);
        let mut window = reliable::Window::new(limits, confirms, position, opened.suspect);
        window.nacked_before(&nacked, timing.give_up);
        window.credit(request.credit);
        let lane = Box::new(reliable::Lane {
            info: info.clone(),
            epoch: opened.epoch,
            transport: admission.transport,
            timing,
            window,
            types: request.types,
            snapshot_url,
            gap,
            reader: LogReader::new(
                Arc::<dyn Store>::clone(&dispatcher.store),
                Arc::clone(&dispatcher.reads),
                admission.gateway,
                limits,
                subscription,
                reads_from,
                opened.head,
            ),
            outcomes: Outcomes::new(info, Arc::clone(&dispatcher.failures)),
            recorder: dispatcher.recorder.clone(),
            link,
            stop,
            registration,
            permit,
        });
        dispatcher.lanes.spawn(lane.run().in_current_span());
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(ready) = self.ready.take() else {
            return;
        };
        let failures = Arc::clone(&ready.dispatcher.failures);
        let mut outcomes = Outcomes::new(ready.info(self.id), failures);
        drop(ready.registration);
        let detail = "the connection was never started".to_owned();
        outcomes.closed(Reason::ConnectionLost, detail, Closing::default(), None);
        let dispatcher = ready.dispatcher;
        let recorder = dispatcher.recorder.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            dispatcher
                .lanes
                .spawn_on(async move { outcomes.hand_in_all(&recorder).await }, &runtime);
        }
    }
}
