//! The state of the router. Handlers take the parts that they need, such as `State<Arc<Dispatcher>>`;
//! only what assembles the routes knows the whole.

use std::sync::Arc;

use axum::extract::FromRef;

use super::acceptor::Acceptor;
use super::auth::Auth;
use super::bodies;
use super::console::sign_ins::SignIns;
use super::failures::Failures;
use super::feed::Sources;
use super::gateway_frames::Streams;
use super::health::{RenderMetrics, Supervisors};
use super::log::Waiting;
use super::long_poll::Pollers;
use super::part::{OfStore, Parts};
use super::publish::Publishing;
use super::rollouts::Rollouts;
use crate::admission::Admissions;
use crate::alerts::Alerting;
use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::feed::Feed;
use crate::ingest::Rules;
use crate::jobs::Supervisor;
use crate::store::Store;

macro_rules! state {
    ($($part:ident: $type:ty,)+) => {
        // Behind one counter: each request clones the state.
        struct Shared {
            $($part: $type,)+
        }

        $(impl FromRef<AppState> for $type {
            fn from_ref(state: &AppState) -> Self {
                state.0.$part.clone()
            }
        })+
    };
}

state! {
    acceptor: Arc<Acceptor>,
    alerting: Arc<Alerting>,
    auth: Arc<Auth>,
    bodies: Arc<bodies::Memory>,
    config: Arc<Config>,
    dispatcher: Arc<Dispatcher>,
    failures: Arc<Failures>,
    feed: Feed,
    feed_sources: Arc<Sources>,
    parts: Parts,
    pollers: Pollers,
    publishing: Arc<Publishing>,
    render_metrics: RenderMetrics,
    rollouts: Arc<Rollouts>,
    sign_ins: Arc<SignIns>,
    streams: Streams,
    supervisors: Supervisors,
    waiting: Arc<Waiting>,
}

/// The state of the router.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

/// What the state is made of.
pub struct Components {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The dispatcher of this node.
    pub dispatcher: Arc<Dispatcher>,
    /// The settings.
    pub config: Arc<Config>,
    /// The rules for published events.
    pub rules: Arc<Rules>,
    /// The feed of the API and of the console.
    pub feed: Feed,
    /// Alerts and their destinations.
    pub alerting: Arc<Alerting>,
    /// Renders the response of `/metrics`.
    pub render_metrics: RenderMetrics,
    /// Supervisors whose overdue jobs make the node unready.
    pub supervisors: Vec<Supervisor>,
}

impl AppState {
    /// The state of the router.
    pub fn new(components: Components) -> Self {
        let Components { store, dispatcher, config, rules, .. } = components;
        let size = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        let bodies =
            bodies::Memory::new(size(config.server.body_memory), size(config.server.body_limit));
        let failures = Arc::new(Failures::default());
        let parts = Parts::new(Arc::clone(&store));
        let streams = Streams::default();
        let per_minute = config.limits.attempts_per_minute;
        let acceptor = Acceptor {
            admissions: Admissions::new(store, Arc::clone(&dispatcher), per_minute),
            config: Arc::clone(&config),
            rules: Arc::clone(&rules),
            failures: Arc::clone(&failures),
            gateways: parts.share().0,
            streams: streams.clone(),
        };
        let auth = Arc::new(Auth::new(parts.share().0, Arc::clone(&failures), Arc::clone(&config)));
        let feed_sources = Sources {
            feed: components.feed.clone(),
            store: parts.share().0,
            auth: Arc::clone(&auth),
            dispatcher: Arc::clone(&dispatcher),
            retention: config.retention.max_age(),
        };
        Self(Arc::new(Shared {
            acceptor: Arc::new(acceptor),
            alerting: components.alerting,
            auth,
            bodies,
            rollouts: Arc::new(Rollouts::new(
                parts.share().0,
                Arc::clone(&dispatcher),
                config.server.request_timeout,
            )),
            config,
            dispatcher,
            failures,
            feed: components.feed,
            feed_sources: Arc::new(feed_sources),
            pollers: Pollers::default(),
            publishing: Arc::new(Publishing::new(rules, parts.share().0)),
            parts,
            render_metrics: components.render_metrics,
            sign_ins: Arc::default(),
            streams,
            supervisors: components.supervisors.into(),
            waiting: Arc::default(),
        }))
    }

    /// Frees the memory of expired entries, and logs the numbers of suppressed lines. Called every
    /// minute.
    pub fn tidy_up(&self) {
        let state = &self.0;
        state.acceptor.admissions.remove_unused();
        state.failures.log_suppressed();
        state.dispatcher.log_suppressed();
        state.sign_ins.remove_unused();
        state.auth.remove_expired();
        state.publishing.remove_expired();
    }

    /// A part of the store.
    pub(super) fn part<T: OfStore + ?Sized>(&self) -> Arc<T> {
        self.0.parts.share().0
    }

    /// A part of the state.
    pub(super) fn get<T: FromRef<Self>>(&self) -> T {
        T::from_ref(self)
    }
}
