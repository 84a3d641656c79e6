//! The embedded store conforms to the store's contract, and some properties of its own.

use std::path::Path;
use std::sync::Arc;

use gateway_events::clock::Timestamp;
use gateway_events::event::{ConnectionId, NodeId};
use gateway_events::store::sqlite::{OpenError, Options, SqliteStore, pending_migrations};
use gateway_events::store::{
    Credentials as _, Health as _, Ledger as _, Log as _, Publish, Queue, Record, Target,
};
use gateway_events::wake::Wake;
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;
use tempfile::TempDir;

use crate::conformance;
use crate::inbox_program::Program;

async fn open(directory: &Path) -> Result<Arc<SqliteStore>, OpenError> {
    open_with(directory, NodeId::new(), Wake::default()).await
}

pub(crate) async fn open_with(
    directory: &Path,
    node: NodeId,
    wake: Wake,
) -> Result<Arc<SqliteStore>, OpenError> {
    SqliteStore::open(&options(directory), node, wake).await
}

fn options(directory: &Path) -> Options {
    Options {
        path: directory.join("gateway-events.db"),
        min_free_bytes: 0,
        ballast_bytes: 0,
        ..Options::default()
    }
}

async fn fresh() -> (Arc<SqliteStore>, TempDir) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    (open(directory.path()).await.expect("it opens"), directory)
}

conformance::conforms!(fresh);
conformance::conforms_beside_another_program!(fresh, inbox_program);

async fn inbox_program(directory: &TempDir) -> Program {
    Program::start(&directory.path().join("gateway-events.db")).await
}

#[tokio::test]
async fn a_second_server_on_the_same_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path()).await.unwrap();
    assert!(matches!(open(directory.path()).await, Err(OpenError::InUse(_))));
    first.close().await;
    drop(first);
    open(directory.path()).await.unwrap();
}

#[tokio::test]
async fn rows_wait_in_the_inbox_while_the_disk_is_full() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { min_free_bytes: u64::MAX, ..options(directory.path()) };
    let full = SqliteStore::open(&options, NodeId::new(), Wake::default()).await.unwrap();
    let program = Program::start(&directory.path().join("gateway-events.db")).await;
    conformance::a_drain_is_refused_and_keeps_its_rows(full.as_ref(), &program).await;
    full.close().await;
}

#[tokio::test]
async fn opening_migrates_the_schema() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway-events.db");
    assert!(!pending_migrations(&path).await.unwrap().is_empty());
    open(directory.path()).await.unwrap().close().await;
    assert!(pending_migrations(&path).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_wal_shrinks_after_a_long_read_has_ended() {
    use sqlx::{ConnectOptions as _, Connection as _};
    let directory = tempfile::tempdir().unwrap();
    let options = Options { max_wal_bytes: 200_000, ..options(directory.path()) };
    let store = SqliteStore::open(&options, NodeId::new(), Wake::default()).await.unwrap();
    let mut reader =
        sqlx::sqlite::SqliteConnectOptions::new().filename(&options.path).connect().await.unwrap();
    let mut moment = reader.begin().await.unwrap();
    sqlx::query("select count(*) from events").execute(&mut *moment).await.unwrap();
    let size = || directory.path().join("gateway-events.db-wal").metadata().unwrap().len();
    while size() <= 400_000 {
        conformance::sequences_of_concurrent_publishers_have_no_gap_and_no_duplicate(
            store.as_ref(),
        )
        .await;
    }
    moment.rollback().await.unwrap();
    let mut looks = tokio::time::interval(std::time::Duration::from_millis(20));
    let shrunk = async {
        while size() > options.max_wal_bytes {
            looks.tick().await;
        }
    };
    tokio::time::timeout(crate::support::TEST_TIMEOUT, shrunk).await.expect("it shrinks in time");
    // Nothing of it is lost.
    conformance::sequences_of_concurrent_publishers_have_no_gap_and_no_duplicate(store.as_ref())
        .await;
    reader.close().await.unwrap();
    store.close().await;
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_is_readable_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await.unwrap();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
    store.close().await;
}

/// Thousands of lanes have a record each to write.
#[tokio::test]
async fn publishers_wait_their_turn_behind_the_records_of_many_lanes() {
    let (store, directory) = fresh().await;
    let organisation = store.organisation("default").await.unwrap();
    let path = directory.path().join("gateway-events.db");
    let mut other = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    sqlx::query("begin immediate").execute(&mut other).await.unwrap();
    // More than one transaction and the queue take.
    let records: Vec<_> = (0..4000)
        .map(|_| {
            let (store, connection) = (Arc::clone(&store), ConnectionId::new());
            let sign = Record::Heartbeat { connection, at: Timestamp::now() };
            tokio::spawn(async move { store.record(vec![sign]).await })
        })
        .collect();
    let mut looks = tokio::time::interval(std::time::Duration::from_millis(20));
    let stuck = async {
        while store.check().await.is_ok() {
            looks.tick().await;
        }
    };
    tokio::time::timeout(crate::support::TEST_TIMEOUT, stuck).await.expect("noticed");
    let events = vec![Ok(conformance::event(Target::Gateways(Vec::new())))];
    let publish = store.append(Publish { organisation, events, idempotency: None });
    let unlock = async { sqlx::query("rollback").execute(&mut other).await };
    // The publisher asks first.
    let (published, unlocked) = tokio::join!(biased; publish, unlock);
    unlocked.unwrap();
    published.unwrap();
    for record in records {
        record.await.unwrap().unwrap();
    }
    store.close().await;
}

#[tokio::test]
async fn a_transaction_that_does_not_end_is_noticed_and_the_queue_is_bounded_in_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        path: directory.path().join("gateway-events.db"),
        queue: Queue { events: 1000, bytes: 1024 },
        min_free_bytes: 0,
        ..Options::default()
    };
    let store = SqliteStore::open(&options, NodeId::new(), Wake::default()).await.unwrap();
    store.check().await.unwrap();
    // Another connection holds the file's lock, which no second server could.
    let mut other = SqliteConnectOptions::new().filename(&options.path).connect().await.unwrap();
    sqlx::query("begin immediate").execute(&mut other).await.unwrap();
    let publish = || conformance::publish_sized(store.as_ref(), 600);
    let until_noticed = async {
        // Readers still work, so only the writer can be the cause.
        let mut looks = tokio::time::interval(std::time::Duration::from_millis(20));
        let noticed = async {
            while store.check().await.is_ok() {
                looks.tick().await;
            }
        };
        tokio::time::timeout(crate::support::TEST_TIMEOUT, noticed).await.expect("noticed");
        sqlx::query("rollback").execute(&mut other).await.unwrap();
    };
    // There is room for one of the two, in any order.
    let (one, two, ()) = tokio::join!(publish(), publish(), until_noticed);
    let (taken, refused) = if one.is_ok() { (one, two) } else { (two, one) };
    taken.unwrap();
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("too many events"), "{refused}");
    store.check().await.unwrap();
    conformance::publish_sized(store.as_ref(), 600).await.unwrap();
    store.close().await;
}
