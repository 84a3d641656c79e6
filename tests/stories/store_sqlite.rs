//! The embedded store keeps the promises of every store, and some of its own.

use std::path::Path;
use std::sync::Arc;

use gateway_events::event::NodeId;
use gateway_events::store::sqlite::{OpenError, Options, SqliteStore, pending_migrations};
use gateway_events::store::{Queue, Store as _, StoreError};
use gateway_events::wake::Wake;
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;
use tempfile::TempDir;

use crate::conformance;

async fn open(directory: &Path) -> Result<Arc<SqliteStore>, OpenError> {
    let options = Options {
        path: directory.join("gateway-events.db"),
        readers: 2,
        min_free_bytes: 0,
        ..Options::default()
    };
    SqliteStore::open(&options, NodeId::new(), Wake::default()).await
}

async fn fresh() -> (Arc<SqliteStore>, TempDir) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    (open(directory.path()).await.expect("it opens"), directory)
}

conformance::conforms!(fresh);

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
async fn opening_brings_the_schema_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway-events.db");
    assert!(!pending_migrations(&path).await.unwrap().is_empty());
    open(directory.path()).await.unwrap().close().await;
    assert!(pending_migrations(&path).await.unwrap().is_empty());
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
    // Somebody else holds the file, as no second server could.
    let mut other = SqliteConnectOptions::new().filename(&options.path).connect().await.unwrap();
    sqlx::query("begin immediate").execute(&mut other).await.unwrap();
    let waiting = conformance::publish_sized(store.as_ref(), 600);
    let further = async {
        let refused = conformance::publish_sized(store.as_ref(), 600).await.unwrap_err();
        assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
        // Readers still answer, so that only the writer can be what is wrong.
        let mut looks = tokio::time::interval(std::time::Duration::from_millis(20));
        let noticed = async {
            while store.check().await.is_ok() {
                looks.tick().await;
            }
        };
        tokio::time::timeout(crate::support::PATIENCE, noticed).await.expect("noticed");
        sqlx::query("rollback").execute(&mut other).await.unwrap();
    };
    let (taken, ()) = tokio::join!(waiting, further);
    taken.unwrap();
    store.check().await.unwrap();
    conformance::publish_sized(store.as_ref(), 600).await.unwrap();
    store.close().await;
}
