//! Each kind of damage is found and reported.

use super::super::super::scratch::Scratch;
use super::super::fixture::{Database, Made, ORGANISATION};
use super::*;

async fn sound() -> (Database, i64) {
    let mut database = Database::new().await;
    let gateway = database.gateway(ORGANISATION, "west").await.0.0;
    for nth in 1..=6 {
        database.append(ORGANISATION, &[gateway], &format!("e{nth}"), "a.b", "c").await;
    }
    let made =
        Made { gateway, first: 1, last: 3, outcome: "received", reason: None, finished_at: 5 };
    database.attempt(made).await;
    let reason = Some("shutdown");
    database.attempt(Made { first: 4, last: 5, outcome: "failed", reason, ..made }).await;
    database.cursor(gateway, 4).await;
    database.dead(gateway, 4, 4).await;
    database.trim(gateway, 1).await;
    database.run("update streams set confirmed_total = 3 where gateway = $1", &[gateway]).await;
    for row in [
        "insert into inbox (id, type, payload) values (3, 'a.b', '{}')",
        "update inbox_progress set drained_to = 2",
        "insert into inbox_rejected (inbox_id, organisation, type, payload, inserted_at, reason, detail, rejected_at)
         select 2, 'default', type, payload, inserted_at, 'invalid', 'west', inserted_at from inbox",
    ] {
        database.run(row, &[]).await;
    }
    (database, gateway)
}

#[tokio::test]
async fn a_sound_database_has_no_problems() {
    let (mut database, _) = sound().await;
    let report = check(&mut database.conn, None).await.unwrap();
    let expected = VerifyReport {
        gateways: 1,
        events: 6,
        deliveries: 5,
        attempts: 2,
        dead_letters: 1,
        inbox: 1,
        rejected: 1,
        audit_records: 0,
        audit_head: AuditHead::START,
        audit_removed: 0,
        problems: Vec::new(),
    };
    assert_eq!(report, expected);
}

/// Damage to a sound database, and what is reported. `$1` is the gateway.
const DAMAGE: [(&str, &str); 21] = [
    (
        "delete from outbox where gateway = $1 and sequence = 4",
        "should contain the 5 sequences 2..=6, but contains 4",
    ),
    ("update streams set head = 7 where gateway = $1", "ends at 6, but its head is 7"),
    ("update streams set floor = 0 where gateway = $1", "begins at 2, but was trimmed up to 0"),
    (
        "delete from events where event = (select event from outbox where gateway = $1 and sequence = 5)",
        "sequence 5 refers to event row",
    ),
    ("update cursors set received = 9 where gateway = $1", "is 9 (applied 0), outside 0..=6"),
    (
        "update cursors set received = 2 where gateway = $1",
        "sequence 3 was confirmed, but its position is 2",
    ),
    (
        "update attempts set last_sequence = 8 where gateway = $1 and outcome = 'failed'",
        "covers 4..=8, outside its log's 1..=6",
    ),
    (
        "update attempts set started_at = (select appended_at from events limit 1) where gateway = $1",
        "finished 1 microseconds before it started",
    ),
    (
        "update dead_letters set last_sequence = 9 where gateway = $1",
        "dead letters 4..=9 are outside",
    ),
    (
        "insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at) select gateway, 3, 5, reason, dead_at from dead_letters where gateway = $1",
        "overlap those that end at 5",
    ),
    (
        "update streams set failed_total = 1 where gateway = $1",
        "total of failed attempts is 1, but the ledger contains 2",
    ),
    ("update streams set last_failure_at = null where gateway = $1", "no last failure is recorded"),
    (
        "update streams set confirmed_total = 4 where gateway = $1",
        "confirmed deliveries is 4, but its position is 4 with 1 dead letters",
    ),
    (
        "update streams set confirmed_total = 1 where gateway = $1",
        "confirmed deliveries is 1, but its position is 4 with 1 dead letters",
    ),
    (
        "update failure_counts set count = count + 3 where $1 > 0",
        "counts per minute add up to 5 failed attempts, but the ledger contains 2",
    ),
    ("delete from streams where gateway = $1", "has no log"),
    (
        "insert into inbox (id, type, payload) select 2, 'west', name from gateways where gateway = $1",
        "row 2 (\"west\") was moved, but still exists",
    ),
    (
        "update inbox_rejected set inbox_id = 3 where $1 > 0",
        "row 3 (\"west\") was rejected, but is beyond the last one moved, 2",
    ),
    (
        "update outbox set gateway = 99 where gateway = $1 and sequence = 6",
        "the log: 1 rows of gateway 99, which does not exist",
    ),
    (
        "update attempts set gateway = 99 where gateway = $1",
        "the ledger: 2 rows of gateway 99, which does not exist",
    ),
    (
        "update events set organisation = 99 where $1 > 0",
        "events: 6 rows of organisation 99, which does not exist",
    ),
];

#[tokio::test]
async fn each_kind_of_damage_is_reported_with_its_gateway() {
    for (damage, expected) in DAMAGE {
        let (mut database, gateway) = sound().await;
        database.run(Scratch::WITHOUT_FOREIGN_KEYS, &[]).await;
        database.run(damage, &[gateway]).await;
        let problems = check(&mut database.conn, None).await.unwrap().problems;
        let named = match expected {
            _ if expected.contains("99") => "99",
            _ if expected.contains("per minute") => "default",
            _ => "west",
        };
        let reported = problems.iter().any(|one| one.contains(expected) && one.contains(named));
        assert!(reported, "{damage}: {problems:?}");
    }
}
