//! The embedded store keeps the promises of every store, and some of its own.

use std::path::Path;
use std::sync::Arc;

use gateway_events::event::NodeId;
use gateway_events::store::Store as _;
use gateway_events::store::sqlite::{OpenError, Options, SqliteStore, pending_migrations};
use gateway_events::wake::Wake;
use tempfile::TempDir;

use crate::conformance;

async fn open(directory: &Path) -> Result<Arc<SqliteStore>, OpenError> {
    let options = Options {
        path: directory.join("gateway-events.db"),
        readers: 2,
        queue_events: 10_000,
        min_free_bytes: 0,
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
