//! Each kind of damage to the audit log is found, and the first record concerned is named.

use super::super::super::audit::{record, trim};
use super::super::super::fixture::{Database, ORGANISATION, at};
use super::super::check;
use crate::store::audit::entries;
use crate::store::{AuditHead, EventTypeInfo, Principal};

const FUTURE: i64 = 253_402_300_799_000_000;

/// A database with six records.
async fn audited() -> Database {
    let mut database = Database::new().await;
    for nth in 1..=6 {
        change(&mut database, nth).await;
    }
    database
}

async fn change(database: &mut Database, nth: i64) {
    let actor = Principal::local("tester", "localhost").in_organisation(ORGANISATION);
    let (name, description) = (format!("a.b{nth}"), format!("\u{202e}\u{1b}[2J{nth}"));
    let entry = entries::event_type_put(
        None,
        &EventTypeInfo { name, description, schema: None, ttl_secs: None, barrier: false },
    );
    record(&mut database.conn, &actor, entry.into_iter().collect()).await.unwrap();
}

async fn problems(database: &mut Database, anchor: Option<AuditHead>) -> Vec<String> {
    check(&mut database.conn, anchor).await.unwrap().problems
}

#[tokio::test]
async fn the_first_record_at_which_the_chain_breaks_is_named() {
    const COLUMNS: &str = "organisation, recorded_at, principal, principal_name, source, \
        request_id, action, object_kind, object_id, object_name, before, after, hash";
    let copy = |from: i64, to: i64| {
        format!(
            "insert into audit (sequence, {COLUMNS}) select {to}, {COLUMNS} from audit where sequence = {from}"
        )
    };
    let text = |statement: &str| statement.to_owned();
    for (damage, expected) in [
        (vec![text("update audit set object_name = 'x' where sequence = 3")], "record 3 ("),
        (vec![text("update audit set principal_name = '' where sequence in (5, 4)")], "record 4 ("),
        (
            vec![text("update audit set before = after, after = before where sequence = 1")],
            "record 1 (",
        ),
        (vec![text("update audit set organisation = 2 where sequence = 6")], "record 6 ("),
        (vec![text("delete from audit where sequence = 3")], "record 3 is missing"),
        (vec![text("delete from audit where sequence in (2, 3, 4)")], "records 2 to 4 are missing"),
        (vec![text("delete from audit where sequence = 6")], "record 6, the last one, is missing"),
        (vec![text("delete from audit")], "records 1 to 6, the last ones, are missing"),
        (vec![copy(6, 7)], "record 7 ("),
        (vec![copy(1, 0)], "record 0 was inserted before the first one that is kept"),
        (
            vec![
                text("update audit set sequence = -sequence where sequence > 3"),
                text("update audit set sequence = 1 - sequence where sequence < 0"),
                copy(3, 4),
            ],
            "record 4 (",
        ),
        (
            vec![text("update audit_head set hash = floor_hash")],
            "record 6, the last one, was changed: its hash is not that of the head",
        ),
        (vec![text("update audit set hash = substr(hash, 1, 3) where sequence = 4")], "record 4 ("),
        (vec![text("update audit_head set sequence = 5")], "record 6 is beyond the last one, 5"),
        (vec![text("delete from audit_head")], "its head is missing"),
    ] {
        let mut database = audited().await;
        assert_eq!(problems(&mut database, None).await, [""; 0]);
        for statement in &damage {
            let statement = sqlx::AssertSqlSafe(statement.clone());
            sqlx::query(statement).execute(&mut database.conn).await.unwrap();
        }
        let found = problems(&mut database, None).await;
        let [found] = &found[..] else { panic!("{damage:?}: {found:?}") };
        assert!(found.starts_with(&format!("audit log: {expected}")), "{damage:?}: {found}");
        assert!(!found.contains(['\u{1b}', '\u{202e}']), "{found:?}");
    }
}

#[tokio::test]
async fn a_head_that_is_kept_elsewhere_reveals_what_the_chain_alone_can_not() {
    let mut database = audited().await;
    let kept = check(&mut database.conn, None).await.unwrap().audit_head;
    assert_eq!(kept.sequence, 6);
    change(&mut database, 7).await;
    assert_eq!(problems(&mut database, Some(kept)).await, [""; 0]);
    assert_eq!(problems(&mut database, Some(AuditHead::START)).await, [""; 0]);

    // The newest records are removed and the head is changed to match.
    for statement in [
        "delete from audit where sequence > 5",
        "update audit_head set sequence = 5, hash = (select hash from audit where sequence = 5)",
    ] {
        database.run(statement, &[]).await;
    }
    assert_eq!(problems(&mut database, None).await, [""; 0]);
    let found = problems(&mut database, Some(kept)).await;
    assert_eq!(found, ["audit log: record 6 does not exist any more: the last one is 5"]);

    // Others are written in their place.
    change(&mut database, 8).await;
    assert_eq!(problems(&mut database, None).await, [""; 0]);
    let found = problems(&mut database, Some(kept)).await;
    assert!(found[0].contains("record 6 has the hash") && found.len() == 1, "{found:?}");
}

#[tokio::test]
async fn what_retention_keeps_is_verified_from_the_last_record_that_it_removed() {
    let mut database = audited().await;
    let kept = check(&mut database.conn, None).await.unwrap().audit_head;
    assert_eq!(trim(&mut database.conn, at(0), 4).await.unwrap(), 0);
    assert_eq!(trim(&mut database.conn, at(FUTURE), 4).await.unwrap(), 4);
    let report = check(&mut database.conn, Some(kept)).await.unwrap();
    assert_eq!((report.audit_records, report.audit_head), (2, kept));
    assert_eq!(report.problems, [""; 0]);
    let first = AuditHead { sequence: 1, ..kept };
    let found = problems(&mut database, Some(first)).await;
    assert!(found[0].contains("retention has removed the records up to 4"), "{found:?}");

    // A damaged chain is kept, because its removal would hide the damage.
    change(&mut database, 7).await;
    database.run("update audit set source = 'elsewhere' where sequence = 6", &[]).await;
    assert_eq!(trim(&mut database.conn, at(FUTURE), 100).await.unwrap(), 1);
    assert_eq!(trim(&mut database.conn, at(FUTURE), 100).await.unwrap(), 0);
    let found = problems(&mut database, None).await;
    assert!(found[0].starts_with("audit log: record 6 (") && found.len() == 1, "{found:?}");
}
