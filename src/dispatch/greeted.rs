//! A connection of reliable mode between its first frame and its hello. It is registered, so that it
//! can be closed, but not recorded: the hello says which instance it belongs to.

use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Dispatcher;
use super::begin::{Begin, level};
use super::permit::Permit;
use super::registry::Registration;
use super::session::{Admission, Ready, Session};
use crate::event::{ConnectionId, Epoch, Reason, Sequence};
use crate::store::{GapReason, OpenInstance, ResumeFrom, StoreError};
use crate::transport::{DeliveryRequest, Greeting, ReliableGreeting, Start};
use crate::wake::Subscription;

/// A gateway that was greeted and whose hello is awaited.
pub struct Greeted {
    greeting: ReliableGreeting,
    parts: Parts,
}

/// What becomes part of the session. Field order matters: the registration is dropped before the
/// subscription.
struct Parts {
    registration: Registration,
    stop: mpsc::Receiver<Reason>,
    tracked: TaskTrackerToken,
    dispatcher: Arc<Dispatcher>,
    permit: Permit,
    admission: Admission,
    subscription: Subscription,
}

impl fmt::Debug for Greeted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Greeted").field("greeting", &self.greeting).finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// Registers a connection whose hello is awaited, and reads what its first frame contains.
    pub async fn greet(
        self: &Arc<Self>,
        permit: Permit,
        admission: Admission,
    ) -> Result<Greeted, StoreError> {
        // Subscribes before reading, so that nothing that is appended in between is missed.
        let subscription = self.wake.subscribe(admission.gateway);
        let log = self.store.peek_log(admission.gateway).await?;
        let id = ConnectionId::new();
        let tracked = self.lanes.token();
        let token = admission.token.clone();
        let registered = self.registry.register(admission.gateway, id, token, admission.transport);
        let Some((registration, stop)) = registered else {
            return Err(StoreError::Unavailable("this node is shutting down".to_owned()));
        };
        let gateway_id = admission.gateway_id;
        let options = &self.options.reliable;
        let greeting = ReliableGreeting {
            greeting: Greeting { gateway_id, connection_id: id, epoch: log.epoch },
            head: log.head,
            oldest: log.floor.next(),
            heartbeat: options.heartbeat_interval,
            hello_timeout: options.hello_timeout,
            window: options.window,
            window_bytes: options.window_bytes.as_u64(),
        };
        let dispatcher = Arc::clone(self);
        let parts =
            Parts { registration, stop, tracked, dispatcher, permit, admission, subscription };
        Ok(Greeted { greeting, parts })
    }
}

impl Greeted {
    /// What the first frame contains.
    pub const fn greeting(&self) -> ReliableGreeting {
        self.greeting
    }

    /// Waits until the connection is to be closed: its key was revoked, or the node shuts down.
    /// Cancel safe.
    pub async fn stopped(&mut self) -> Reason {
        match self.parts.stop.recv().await {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }

    /// Records the connection and finds where it starts. Completes even if the caller stops waiting,
    /// so that no connection stays recorded as open.
    pub async fn open(self, request: DeliveryRequest) -> Result<Session, StoreError> {
        let opening = tokio::spawn(self.open_now(request));
        opening.await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
    }

    async fn open_now(self, request: DeliveryRequest) -> Result<Session, StoreError> {
        let Self { greeting, parts } = self;
        let Parts { registration, stop, tracked, dispatcher, permit, admission, subscription } =
            parts;
        let id = greeting.greeting.connection_id;
        let connection = admission.connection(id, request.instance.clone().unwrap_or_default());
        let resume = resume_from(request.start.clone());
        let stated = stated(&resume);
        let confirm = level(request.confirmation);
        let opening = OpenInstance { connection: connection.clone(), confirm, resume };
        dispatcher.settle().await?;
        let opened = dispatcher.store.open_instance(opening).await;
        let opened = dispatcher.certain(&connection, opened).await?;
        for replaced in &opened.replaces {
            // Those of other nodes find out by themselves.
            dispatcher.registry.stop_connection(admission.gateway, replaced.id, Reason::Replaced);
        }
        if let Some((epoch, sequence)) = stated
            && epoch == opened.opened.epoch
            && opened.gap.is_some_and(|gap| gap.reason == GapReason::Epoch)
        {
            // Rates of connections are limited, and so is this line.
            tracing::warn!(
                gateway = %admission.gateway_id,
                connection = %id,
                %sequence,
                head = %opened.opened.head,
                "the gateway has a position that is beyond the head of its log, or was that of another event; if the database was restored from a backup or lost commits in a failover, stop all nodes and run `gateway-events epoch renew`"
            );
        }
        dispatcher.supersede(admission.gateway, id, &opened.opened).await;
        let ready = Ready {
            registration,
            stop,
            tracked,
            dispatcher,
            permit,
            admission,
            opened: opened.opened,
            subscription,
            reliable: Some(Box::new(Begin { request, nacked: opened.nacked, gap: opened.gap })),
        };
        Ok(Session::new(id, ready))
    }
}

/// The position that a gateway has stated.
const fn stated(resume: &ResumeFrom) -> Option<(Epoch, Sequence)> {
    match resume {
        ResumeFrom::Received { epoch, sequence }
        | ResumeFrom::Confirmed { epoch, sequence }
        | ResumeFrom::After { epoch, sequence, .. } => Some((*epoch, *sequence)),
        ResumeFrom::Server | ResumeFrom::Latest | ResumeFrom::Earliest => None,
    }
}

fn resume_from(start: Start) -> ResumeFrom {
    match start {
        Start::Stored => ResumeFrom::Server,
        Start::Latest => ResumeFrom::Latest,
        Start::Earliest => ResumeFrom::Earliest,
        Start::After { epoch, sequence, event_id } => {
            ResumeFrom::After { epoch, sequence, event_id }
        }
        Start::Received { epoch, sequence } => ResumeFrom::Received { epoch, sequence },
        Start::Confirmed { epoch, sequence } => ResumeFrom::Confirmed { epoch, sequence },
    }
}
