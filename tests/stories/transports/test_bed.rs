//! A gateway of a service, which a case connects over one transport, and what an admin sees and does.

use std::ffi::OsString;
use std::sync::Arc;

use gateway_events::client::Endpoint;
use gateway_events::client::reliable::{EventStream, Grpc, LongPoll, Transport, WebSocket};
use gateway_events::clock::Timestamp;
use gateway_events::config::{Config, Sources};
use gateway_events::dispatch::Dispatcher;
use gateway_events::event::{
    CorrelationId, Event, EventId, EventType, GatewayId, NodeId, OrganisationKey, Reason,
};
use gateway_events::jobs::Supervisor;
use gateway_events::store::sqlite::{self, SqliteStore};
use gateway_events::store::{Confirmation, Labels, NewEvent, Publish, Published, Store, Target};
use gateway_events::wake::Wake;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::memory::Memory;
use super::plain::Plain;
use super::{Peer, hello};
use crate::both_databases::Backend;
use crate::conformance::actor;
use crate::server::Database;
use crate::store_postgres;
use crate::support::{Service, TEST_TIMEOUT, deployed};

/// A transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    WebSocket,
    Sse,
    LongPoll,
    Grpc,
    Memory,
}

impl Kind {
    /// Its name in the API and the metrics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "websocket",
            Self::WebSocket => "websocket.v1",
            Self::Sse => "sse",
            Self::LongPoll => "long_poll",
            Self::Grpc => "grpc",
            Self::Memory => "memory",
        }
    }
}

/// What gateways connect to.
pub(super) enum World {
    Served(Service),
    Memory(Node),
}

/// A dispatcher and its store, without a service.
pub(super) struct Node {
    store: Arc<dyn Store>,
    pub(super) dispatcher: Arc<Dispatcher>,
    organisation: OrganisationKey,
    _directory: tempfile::TempDir,
    _database: Option<Database>,
}

impl World {
    pub(super) async fn served(backend: &Backend, settings: &[(&str, &str)]) -> Self {
        Self::Served(backend.start_with(settings).await)
    }

    pub(super) async fn in_memory(backend: &Backend, settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (wake, node) = (Wake::default(), NodeId::new());
        let (store, database): (Arc<dyn Store>, _) = match backend {
            Backend::Sqlite => {
                let path = directory.path().join("test.db");
                let (min_free_bytes, ballast_bytes) = (0, 0);
                let options =
                    sqlite::Options { path, min_free_bytes, ballast_bytes, ..<_>::default() };
                (SqliteStore::open(&options, node, wake.clone()).await.expect("opened"), None)
            }
            Backend::Postgres(_) => {
                let database = Database::new();
                let store = store_postgres::open_with(&database, node, wake.clone()).await;
                (store.expect("opened"), Some(database))
            }
        };
        store.node_heartbeat().await.expect("a heartbeat");
        let organisation = store.organisation("default").await.expect("the organisation");
        let environment = settings.iter().map(|(key, value)| {
            (OsString::from(format!("GATEWAY_EVENTS__{key}")), OsString::from(value))
        });
        let sources = Sources { environment: environment.collect(), ..Sources::default() };
        let options = Config::load(&sources).expect("settings").delivery_options();
        let jobs = Supervisor::default();
        let dispatcher = Dispatcher::new(Arc::clone(&store), wake, options, &jobs);
        Self::Memory(Node {
            store,
            dispatcher,
            organisation,
            _directory: directory,
            _database: database,
        })
    }

    pub(super) fn service(&self) -> &Service {
        match self {
            Self::Served(service) => service,
            Self::Memory(_) => panic!("the case needs a service"),
        }
    }
}

/// A gateway, and the transport over which it connects.
#[derive(Clone)]
pub(crate) struct TestBed {
    pub(super) world: Arc<World>,
    pub(super) kind: Kind,
    pub(super) id: String,
    pub(super) key: String,
    /// The port of a fault proxy through which it connects, if not directly.
    pub(super) through: Option<u16>,
}

/// A delivery, as an admin sees it.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) state: String,
    /// Why the last attempt failed.
    pub(super) reason: Option<String>,
    pub(super) details: Vec<String>,
}

impl TestBed {
    pub(super) async fn new(world: Arc<World>, kind: Kind, name: &str) -> Self {
        let (id, key) = match world.as_ref() {
            World::Served(service) => service.gateway(&format!("{name}-{kind:?}")).await,
            World::Memory(node) => {
                let (id, actor) = (GatewayId::new(), actor(node.organisation));
                let created = node.store.create_gateway(&actor, id, name, &Labels::new(), 1).await;
                created.expect("created");
                (id.to_string(), format!("key of {id}"))
            }
        };
        Self { world, kind, id, key, through: None }
    }

    pub(super) fn service(&self) -> &Service {
        self.world.service()
    }

    fn gateway_id(&self) -> GatewayId {
        self.id.parse().expect("an id")
    }

    /// The id of the event with this number.
    pub(super) fn event_id(&self, number: i64) -> String {
        format!("{}-{number}", self.id)
    }

    /// Publishes events with these numbers, which are their sequences if nothing else is published.
    pub(super) async fn publish(&self, numbers: std::ops::RangeInclusive<i64>) {
        let numbers: Vec<i64> = numbers.collect();
        for numbers in numbers.chunks(100) {
            let typed: Vec<(i64, &str)> = numbers.iter().map(|it| (*it, "api.deployed")).collect();
            self.publish_as(&typed).await;
        }
    }

    /// Publishes events with these numbers and types.
    pub(super) async fn publish_as(&self, events: &[(i64, &str)]) {
        match self.world.as_ref() {
            World::Served(service) => {
                let batch: Vec<Value> = events
                    .iter()
                    .map(|(number, event_type)| {
                        let mut event = deployed(&[&self.id], &format!("d-{number}"));
                        event["id"] = json!(self.event_id(*number));
                        if *event_type == "gateway.config.updated" {
                            event["payload"] = json!({"configType": "cache", "action": "update"});
                        }
                        event["type"] = json!(event_type);
                        event
                    })
                    .collect();
                service.api().post("/events", &json!(batch)).await.expect("accepted");
            }
            World::Memory(node) => {
                let events = events.iter().map(|(number, event_type)| {
                    Ok(new_event(&self.event_id(*number), event_type, self.gateway_id()))
                });
                let (organisation, events) = (node.organisation, events.collect());
                let publish = Publish { organisation, events, idempotency: None };
                let published = node.store.append(publish).await.expect("appended");
                assert!(
                    matches!(published, Published::Done(answers) if answers.iter().all(Result::is_ok))
                );
            }
        }
    }

    /// Connects with a hello, and reads where delivery starts if the transport says it.
    pub(super) async fn connect(&self, members: Value) -> Peer {
        Peer::connect(self, hello(&members)).await
    }

    /// Connects as the instance `a`, which confirms what it has applied.
    pub(super) async fn connected(&self) -> Peer {
        self.connect(json!({})).await
    }

    pub(super) fn transport(&self) -> Box<dyn Transport> {
        match self.world.as_ref() {
            World::Served(_) if self.kind == Kind::Plain => {
                let (world, key) = (Arc::clone(&self.world), self.key.clone());
                Box::new(Plain { world, key, through: self.through })
            }
            World::Served(service) => transport_through(
                service,
                self.through.unwrap_or(service.port),
                self.kind,
                &self.key,
            ),
            World::Memory(node) => Box::new(Memory {
                dispatcher: Arc::clone(&node.dispatcher),
                store: Arc::clone(&node.store),
                organisation: node.organisation,
                id: self.gateway_id(),
                token: self.key.clone(),
            }),
        }
    }

    /// Waits until everything up to this sequence is confirmed, and nothing after it.
    pub(super) async fn confirmed(&self, sequence: i64) {
        match self.world.as_ref() {
            World::Served(service) => {
                let path = format!("/gateways/{}", self.id);
                service.eventually(&path, |shown| shown["confirmed"] == sequence).await;
            }
            World::Memory(node) => {
                self.until(async || {
                    let found = node.store.gateway(node.organisation, self.gateway_id()).await;
                    found.expect("found").expect("a gateway").confirmed.0 == sequence
                })
                .await;
            }
        }
    }

    /// The delivery of an event, once it satisfies a condition.
    pub(super) async fn delivery(
        &self,
        number: i64,
        satisfies: impl Fn(&Delivery) -> bool,
    ) -> Delivery {
        let last = std::cell::RefCell::new(None);
        self.until(async || {
            let found = self.delivery_now(number).await;
            let is_satisfied = found.as_ref().is_some_and(&satisfies);
            *last.borrow_mut() = found;
            is_satisfied
        })
        .await;
        last.into_inner().expect("found")
    }

    async fn delivery_now(&self, number: i64) -> Option<Delivery> {
        let event = self.event_id(number);
        match self.world.as_ref() {
            World::Served(service) => {
                let shown = service.api().get(&format!("/events/{event}")).await.ok()?;
                let delivery = &shown["deliveries"][0];
                let text = |value: &Value| value.as_str().map(str::to_owned);
                let attempts = delivery["attempts"].as_array()?.iter();
                Some(Delivery {
                    state: text(&delivery["state"])?,
                    reason: text(&delivery["reason"]),
                    details: attempts.filter_map(|attempt| text(&attempt["detail"])).collect(),
                })
            }
            World::Memory(node) => {
                let id = EventId::new(event).expect("an id");
                let history = node.store.event_history(node.organisation, &id).await.ok()??;
                let delivery = history.deliveries.into_iter().next()?;
                Some(Delivery {
                    state: format!("{:?}", delivery.state).to_lowercase(),
                    reason: delivery.reason.map(|reason| reason.as_str().to_owned()),
                    details: delivery.attempts.into_iter().filter_map(|it| it.detail).collect(),
                })
            }
        }
    }

    /// Waits for a condition.
    pub(super) async fn until(&self, satisfied: impl AsyncFn() -> bool) {
        let mut polls = tokio::time::interval(std::time::Duration::from_millis(20));
        let waiting = tokio::time::timeout(TEST_TIMEOUT, async {
            while !satisfied().await {
                polls.tick().await;
            }
        });
        assert!(waiting.await.is_ok(), "the condition was not met in time");
    }

    /// Says what counts as delivered, with several instances.
    pub(super) async fn confirm_by(&self, confirmation: &str) {
        match self.world.as_ref() {
            World::Served(service) => {
                let change = json!({"confirmation": confirmation});
                let path = format!("/gateways/{}", self.id);
                service.api().patch(&path, &change).await.expect("changed");
            }
            World::Memory(node) => {
                let confirmation = match confirmation {
                    "all" => Confirmation::All,
                    _ => Confirmation::Any,
                };
                let actor = actor(node.organisation);
                let change = gateway_events::store::GatewayChange {
                    confirmation: Some(confirmation),
                    ..<_>::default()
                };
                let changed = node.store.update_gateway(&actor, self.gateway_id(), change).await;
                changed.expect("changed");
            }
        }
    }

    /// Purges the payload of an event.
    pub(super) async fn purge(&self, number: i64) {
        let event = self.event_id(number);
        match self.world.as_ref() {
            World::Served(service) => {
                let path = format!("/events/{event}/payload");
                let request = service.api().request(reqwest::Method::DELETE, &path);
                let purged = request.json(&json!({"reason": "a secret"})).send().await;
                assert!(purged.expect("an answer").status().is_success());
            }
            World::Memory(node) => {
                let (actor, id) = (actor(node.organisation), EventId::new(event).expect("an id"));
                let purged = node.store.purge_event(&actor, &id, "a secret", false).await;
                assert!(purged.expect("purged").changed);
            }
        }
    }

    /// Revokes the gateway's key.
    pub(super) async fn revoke(&self) {
        match self.world.as_ref() {
            World::Served(service) => {
                let path = format!("/gateways/{}/tokens", self.id);
                let tokens = service.api().get(&path).await.expect("tokens");
                let token = tokens["list"][0]["id"].as_str().expect("an id");
                service.api().delete(&format!("{path}/{token}")).await.expect("revoked");
            }
            World::Memory(node) => node.dispatcher.close_token(&self.key, Reason::TokenRevoked),
        }
    }
}

/// A transport of the client library.
pub(crate) fn transport(service: &Service, kind: Kind, key: &str) -> Box<dyn Transport> {
    transport_through(service, service.port, kind, key)
}

/// Likewise, through a port, which may be a fault proxy's.
fn transport_through(service: &Service, port: u16, kind: Kind, key: &str) -> Box<dyn Transport> {
    let endpoint = Endpoint {
        base: format!("https://localhost:{port}").parse().expect("a URL"),
        tls: service.trust().client_config().expect("a TLS client"),
        source: None,
    };
    let key = SecretString::from(key.to_owned());
    match kind {
        Kind::WebSocket => Box::new(WebSocket::new(endpoint, key)),
        Kind::Sse => Box::new(EventStream::new(&endpoint, &key).expect("a client")),
        Kind::LongPoll => Box::new(LongPoll::new(&endpoint, &key).expect("a client")),
        Kind::Grpc => Box::new(Grpc::new(&endpoint, &key).expect("a client")),
        Kind::Plain | Kind::Memory => panic!("the client library does not have {kind:?}"),
    }
}

fn new_event(id: &str, event_type: &str, gateway: GatewayId) -> NewEvent {
    let payload = format!(r#"{{"deploymentId":"{id}"}}"#);
    let event = Event {
        id: EventId::new(id).expect("an id"),
        event_type: EventType::new(event_type).expect("a type"),
        payload: serde_json::value::RawValue::from_string(payload).expect("JSON"),
        correlation_id: CorrelationId::new(id).expect("an id"),
        user_id: None,
        occurred_at: Timestamp::now(),
        expires_at: None,
        traceparent: None,
        attributes: None,
    };
    NewEvent {
        event: Arc::new(event),
        is_named: true,
        target: Target::Gateways(vec![gateway]),
        digest: [0; 32],
        collapse: None,
        artifact_id: None,
        deployment_id: None,
    }
}
