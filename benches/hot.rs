//! What happens for each event, by itself: encoding a frame, the window, the
//! check of a key, and a hundred events, or their receipts, into a real SQLite
//! file. The whole service is measured by `gateway-events-bench`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use gateway_events::clock::Timestamp;
use gateway_events::dispatch::window::{Limits, Window};
use gateway_events::event::{
    ConnectionId, CorrelationId, Epoch, Event, EventId, EventType, GatewayId, NodeId,
};
use gateway_events::event::{OrganisationKey, Sequence};
use gateway_events::store::sqlite::{Options, SqliteStore};
use gateway_events::store::{
    Connections as _, Credentials as _, Gateway, Gateways as _, Health as _, Labels, Ledger as _,
    Log as _, NewConnection, NewEvent, Principal, Publish, Published, Range, Record, Target,
};
use gateway_events::token::{Kind, Presented, issue};
use gateway_events::transport::frame::event_text;
use gateway_events::wake::Wake;
use secrecy::ExposeSecret as _;
use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use uuid::Uuid;

const BATCH: usize = 100;

fn event() -> Event {
    let id = EventId::new(Uuid::now_v7().to_string()).expect("an id");
    let filler = "x".repeat(200);
    let payload = format!(r#"{{"configType":"bench","action":"update","filler":"{filler}"}}"#);
    Event {
        correlation_id: CorrelationId::new(id.as_str()).expect("an id"),
        id,
        event_type: EventType::new("gateway.config.updated").expect("a type"),
        payload: RawValue::from_string(payload).expect("JSON"),
        user_id: None,
        occurred_at: Timestamp::now(),
        expires_at: None,
        traceparent: None,
        attributes: None,
    }
}

fn frame(criterion: &mut Criterion) {
    let (event, epoch) = (event(), Epoch(Uuid::new_v4()));
    let bytes = event_text(&event, Sequence(1), epoch).len() as u64;
    let mut group = criterion.benchmark_group("frame");
    group.throughput(Throughput::Bytes(bytes));
    group.bench_function("event_text", |bencher| {
        bencher.iter(|| event_text(black_box(&event), Sequence(123_456), epoch));
    });
    group.finish();
}

/// A full window is sent, and confirmed by one receipt.
fn window(criterion: &mut Criterion) {
    let limits = Limits { events: 64, bytes: 48 * 1024 };
    let (now, at) = (Instant::now(), Timestamp::now());
    criterion.bench_function("window/64 sent and confirmed", |bencher| {
        bencher.iter_batched(
            || Window::new(limits, Sequence::ZERO, Sequence::ZERO),
            |mut window| {
                for number in 1..=64 {
                    let offered = window.offer(Sequence(number), 600, now, at);
                    offered.expect("it is next");
                }
                window.receipt(Sequence(64), now)
            },
            BatchSize::SmallInput,
        );
    });
}

fn key(criterion: &mut Criterion) {
    let issued = issue(Kind::Gateway).expect("random bytes");
    let text = issued.key.expose_secret();
    criterion.bench_function("key/parsed and compared", |bencher| {
        bencher.iter(|| {
            let presented = Presented::parse(Kind::Gateway, black_box(text)).expect("a key");
            presented.matches(&issued.digest)
        });
    });
}

/// A real file with one gateway.
struct Place {
    runtime: Runtime,
    store: Arc<SqliteStore>,
    organisation: OrganisationKey,
    gateway: Gateway,
    _directory: TempDir,
}

fn place() -> Place {
    let runtime = Runtime::new().expect("a runtime");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options = Options {
        path: directory.path().join("gateway-events.db"),
        min_free_bytes: 0,
        ballast_bytes: 0,
        ..Options::default()
    };
    let id: GatewayId = Uuid::new_v4().to_string().parse().expect("an id");
    let (store, organisation, gateway) = runtime.block_on(async {
        let opened = SqliteStore::open(&options, NodeId::new(), Wake::default()).await;
        let store = opened.expect("it opens");
        let organisation = store.organisation("default").await.expect("it is there");
        let actor = Principal::local("bench", "localhost").in_organisation(organisation);
        let made = store.create_gateway(&actor, id, "bench", &Labels::new(), 1).await;
        (store, organisation, made.expect("registered"))
    });
    Place { runtime, store, organisation, gateway, _directory: directory }
}

impl Place {
    fn append(&self, publish: Publish) {
        let published = self.runtime.block_on(self.store.append(publish)).expect("appended");
        assert!(matches!(published, Published::Done(all) if all.len() == BATCH));
    }
}

/// One transaction, synced: the statements of a batch, without HTTP.
fn append(criterion: &mut Criterion) {
    let place = place();
    let mut group = criterion.benchmark_group("store");
    group.throughput(Throughput::Elements(BATCH as u64)).sample_size(20);
    group.bench_function("append of 100", |bencher| {
        bencher.iter_batched(
            || batch(place.organisation, place.gateway.id),
            |publish| place.append(publish),
            BatchSize::SmallInput,
        );
    });
    group.finish();
    place.runtime.block_on(place.store.close());
}

/// A hundred receipts of one connection, merged into one row of the ledger, and
/// the positions that move; synced.
fn receipts(criterion: &mut Criterion) {
    let place = place();
    let gateway = place.gateway.key;
    let new = NewConnection {
        id: ConnectionId::new(),
        gateway,
        token: String::new(),
        instance: String::new(),
        transport: "websocket",
        remote_address: String::new(),
    };
    let connection = new.id;
    let unnamed = "".into();
    place.runtime.block_on(place.store.open_connection(new)).expect("opened");
    let mut sent = 0;
    let mut group = criterion.benchmark_group("store");
    group.throughput(Throughput::Elements(BATCH as u64)).sample_size(20);
    group.bench_function("100 receipts", |bencher| {
        bencher.iter_batched(
            || {
                place.append(batch(place.organisation, place.gateway.id));
                let now = Timestamp::now();
                let confirmed = |sequence| Record::Confirmed {
                    gateway,
                    connection,
                    instance: Arc::clone(&unnamed),
                    range: Range { first: sequence, last: sequence },
                    started_at: now,
                    finished_at: now,
                };
                let first = sent + 1;
                sent += i64::try_from(BATCH).expect("few");
                (first..=sent).map(Sequence).map(confirmed).collect::<Vec<_>>()
            },
            |records| place.runtime.block_on(place.store.record(records)).expect("recorded"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
    place.runtime.block_on(place.store.close());
}

fn batch(organisation: OrganisationKey, gateway: GatewayId) -> Publish {
    let new = || NewEvent {
        event: Arc::new(event()),
        is_named: false,
        target: Target::Gateways(vec![gateway]),
        digest: [1; 32],
        collapse: None,
        artifact_id: None,
        deployment_id: None,
    };
    let events = (0..BATCH).map(|_| Ok(new())).collect();
    Publish { organisation, events, idempotency: None }
}

criterion_group! {
    name = all;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = frame, window, key, append, receipts
}
criterion_main!(all);
