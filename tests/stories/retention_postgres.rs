//! Retention on Postgres beside transactions that hold locks.

use std::time::Duration;

use gateway_events::store::{Health as _, Maintenance as _, RetentionLimits, Target, TrimMark};
use sqlx::{Connection as _, PgConnection};

use crate::conformance::{self, Fixture, keep_all};
use crate::server::Database;
use crate::store_postgres;

/// A transaction that resends the event locks it, and then may be rolled back.
#[tokio::test]
async fn an_event_that_is_locked_is_removed_by_a_later_pass() {
    let database = Database::new();
    let store = store_postgres::open(&database).await.unwrap();
    let fixture = Fixture::of(store.as_ref()).await;
    // In no log, so that only its age keeps it.
    let events = (0..3).map(|_| conformance::event(Target::Gateways(vec![]))).collect();
    fixture.publish(events).await;
    let mut conn = PgConnection::connect(&database.url()).await.unwrap();
    let mut other = conn.begin().await.unwrap();
    let locks = "select event from events
        where event = (select event from events order by event limit 1 offset 1) for update";
    sqlx::query(locks).execute(&mut *other).await.unwrap();
    let limits = RetentionLimits { max_age: Duration::ZERO, batch: 2, ..keep_all() };
    let mut mark = TrimMark::default();
    let mut pass = async || {
        let mut removed = 0;
        loop {
            let trimmed = store.trim(&limits, &mut mark).await.unwrap();
            removed += trimmed.events;
            if !trimmed.more {
                return removed;
            }
        }
    };
    assert_eq!(pass().await, 2, "the locked one is kept");
    assert_eq!(pass().await, 0);
    other.rollback().await.unwrap();
    assert_eq!(pass().await, 1);
    assert_eq!(pass().await, 0);
    store.close().await;
}
