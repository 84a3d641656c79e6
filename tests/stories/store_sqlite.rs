//! The embedded store keeps the promises of every store, and some of its own.

use std::path::Path;
use std::sync::Arc;

use gateway_events::event::NodeId;
use gateway_events::store::Store as _;
use gateway_events::store::sqlite::{OpenError, Options, SqliteStore, pending_migrations};
use gateway_events::wake::Wake;

use crate::conformance;
use crate::outsider::Program;

async fn open(directory: &Path) -> Result<Arc<SqliteStore>, OpenError> {
    SqliteStore::open(&options(directory), NodeId::new(), Wake::default()).await
}

fn options(directory: &Path) -> Options {
    Options {
        path: directory.join("gateway-events.db"),
        readers: 2,
        queue_events: 10_000,
        min_free_bytes: 0,
        ballast_bytes: 0,
        ..Options::default()
    }
}

macro_rules! conforms {
    ($($story:ident)*) => {
        $(
            #[tokio::test]
            async fn $story() {
                let directory = tempfile::tempdir().unwrap();
                let store = open(directory.path()).await.unwrap();
                conformance::$story(store.as_ref()).await;
                store.close().await;
            }
        )*
    };
}

conforms! {
    numbers_of_concurrent_publishers_have_no_gap_and_no_repeat
    a_repeated_id_gets_the_first_answer_and_another_content_is_refused
    a_repeated_key_gets_the_first_answer_though_part_of_it_was_refused
    a_repeated_key_gets_every_item_of_the_first_answer
    a_repeat_gets_the_first_answer_though_it_is_unfit_by_now
    what_came_to_nothing_may_do_better_under_the_same_key
    an_unknown_gateway_refuses_its_event_alone
    labels_choose_gateways_and_a_deleted_one_gets_nothing
    payloads_keep_every_byte_and_pages_are_bounded
    a_new_connection_starts_at_what_the_last_one_confirmed
    replicas_that_come_back_in_any_order_find_every_position
    what_was_sent_is_known_and_what_was_only_missed_is_not
    a_late_receipt_brings_no_taken_over_position_back
    an_opening_that_nobody_waits_for_leaves_nothing_live
    dead_letters_are_passed_and_not_counted_as_confirmed
    attempts_that_blame_the_event_are_counted_until_it_is_given_up
    an_end_or_a_report_that_comes_twice_is_on_record_once
    what_a_lost_node_had_sent_is_neither_failed_nor_delivered
    an_event_that_another_replica_confirmed_is_not_given_up
    totals_count_each_outcome_once_through_repeats_redrive_and_retention
    what_nobody_was_there_for_is_recorded_once
    retention_keeps_what_is_not_confirmed
    retention_trims_what_is_confirmed_in_bounded_batches
    what_the_hard_limit_takes_is_recorded_as_lost
    what_retention_took_fails_once_whoever_comes_back_for_it
}

macro_rules! conforms_beside_another_program {
    ($($story:ident)*) => {
        $(
            #[tokio::test]
            async fn $story() {
                let directory = tempfile::tempdir().unwrap();
                let store = open(directory.path()).await.unwrap();
                let program = Program::start(&directory.path().join("gateway-events.db")).await;
                conformance::$story(store.as_ref(), &program).await;
                store.close().await;
            }
        )*
    };
}

conforms_beside_another_program! {
    rows_are_moved_in_the_order_of_their_insertion
    a_row_that_was_moved_already_is_not_moved_again
    a_rejected_row_holds_up_nobody
    a_repeat_is_dropped_and_becomes_no_second_event
    a_rejected_row_can_be_put_back_once
    pages_of_the_inbox_are_bounded
    a_commit_of_another_program_is_noticed
    what_was_rejected_long_ago_is_forgotten
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
async fn opening_brings_the_schema_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway-events.db");
    assert!(!pending_migrations(&path).await.unwrap().is_empty());
    open(directory.path()).await.unwrap().close().await;
    assert!(pending_migrations(&path).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_log_that_a_reader_held_back_shrinks_when_it_is_gone() {
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
        conformance::numbers_of_concurrent_publishers_have_no_gap_and_no_repeat(store.as_ref())
            .await;
    }
    moment.rollback().await.unwrap();
    let mut looks = tokio::time::interval(std::time::Duration::from_millis(20));
    let shrunk = async {
        while size() > options.max_wal_bytes {
            looks.tick().await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, shrunk).await.expect("it shrinks in time");
    // And nothing of it is lost.
    conformance::numbers_of_concurrent_publishers_have_no_gap_and_no_repeat(store.as_ref()).await;
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
