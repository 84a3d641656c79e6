//! Redrives on a real database.

use super::super::fixture::{Database, Made, ORGANISATION, OTHER, at};
use super::super::ledger::history::{event_history, totals};
use super::super::verify::check;
use super::*;
use crate::clock::TimeWindow;
use crate::event::{EventId, Reason};
use crate::store::DeliveryFilter;

/// Ten events: 1..=6 failed, of which 2..=5 are dead, 1 and 2 are trimmed, 6 was delivered, 8
/// failed and is pending.
async fn prepared() -> (Database, GatewayKey, GatewayId) {
    let mut database = Database::new().await;
    let (key, id) = database.gateway(ORGANISATION, "a").await;
    for nth in 1..=10 {
        database
            .append(ORGANISATION, &[key.0], &format!("e{nth}"), "a.b", &format!("c{nth}"))
            .await;
    }
    for (first, last) in [(1, 6), (8, 8)] {
        let reason = Some("expired");
        database
            .attempt(Made {
                gateway: key.0,
                first,
                last,
                outcome: "failed",
                reason,
                finished_at: 50,
            })
            .await;
    }
    database.cursor(key.0, 7).await;
    database.dead(key.0, 2, 5).await;
    database.run("update streams set confirmed_total = 3 where gateway = $1", &[key.0]).await;
    database.trim(key.0, 2).await;
    (database, key, id)
}

fn all() -> RedriveSelection {
    of(DeliveryFilter::default())
}

fn of(filter: DeliveryFilter) -> RedriveSelection {
    RedriveSelection::Filter(filter, None)
}

/// Both parts of a redrive, as the store runs them.
async fn redrive(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    selection: RedriveSelection,
    dry_run: bool,
) -> Result<(Redriven, Vec<(GatewayKey, Sequence)>)> {
    let (mut answer, chosen) = search(conn, organisation, selection).await?;
    if dry_run {
        return Ok((answer, Vec::new()));
    }
    let (part, heads) = append(conn, now, chosen).await?.value;
    answer.redriven.clear();
    answer.add(part);
    Ok((answer, heads))
}

fn numbers(answer: &Redriven) -> Vec<(i64, Option<i64>)> {
    answer.redriven.iter().map(|one| (one.sequence.0, one.new_sequence.map(|new| new.0))).collect()
}

#[tokio::test]
async fn dead_letters_get_the_next_numbers_and_only_once() {
    let (mut database, key, _) = prepared().await;
    let conn = &mut database.conn;
    let (dry, heads) = redrive(conn, at(60), ORGANISATION, all(), true).await.unwrap();
    assert_eq!(numbers(&dry), [(3, None), (4, None), (5, None)]);
    assert!(heads.is_empty());
    let (done, heads) = redrive(conn, at(60), ORGANISATION, all(), false).await.unwrap();
    assert_eq!(numbers(&done), [(3, Some(11)), (4, Some(12)), (5, Some(13))]);
    assert_eq!(
        (done.pending, done.delivered, done.already_redriven, done.event_removed),
        (1, 2, 0, 1)
    );
    assert!(!done.more);
    assert_eq!(heads, [(key, Sequence(13))]);
    let (again, heads) = redrive(conn, at(61), ORGANISATION, all(), false).await.unwrap();
    assert_eq!((again.redriven.len(), again.already_redriven, again.event_removed), (0, 3, 1));
    assert!(heads.is_empty());

    let totals = totals(conn, ORGANISATION).await.unwrap();
    assert_eq!((totals.dead_letters, totals.pending), (1, 6));
    let id = event_id(4);
    let history = event_history(conn, ORGANISATION, &id).await.unwrap().unwrap();
    let states: Vec<_> =
        history.deliveries.iter().map(|one| (one.sequence.0, one.state, one.redriven)).collect();
    assert_eq!(states, [(4, DeliveryState::Failed, true), (12, DeliveryState::Pending, false)]);
    let report = check(&mut database.conn, None).await.unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
}

/// The id of the fixture's nth event.
fn event_id(nth: u8) -> EventId {
    format!("e{nth}").parse().unwrap()
}

#[tokio::test]
async fn one_delivery_is_redriven_out_of_the_middle_of_a_range() {
    let (mut database, _, id) = prepared().await;
    let conn = &mut database.conn;
    let one = |sequence| RedriveSelection::One(id, Sequence(sequence));
    let (done, _) = redrive(conn, at(60), ORGANISATION, one(4), false).await.unwrap();
    assert_eq!(numbers(&done), [(4, Some(11))]);
    let mut counts = Vec::new();
    for sequence in [2, 4, 6, 8] {
        let (left, _) = redrive(conn, at(60), ORGANISATION, one(sequence), false).await.unwrap();
        assert!(left.redriven.is_empty());
        counts.push((left.event_removed, left.already_redriven, left.delivered, left.pending));
    }
    assert_eq!(counts, [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]);
    for sequence in [0, 12] {
        let missing = redrive(conn, at(60), ORGANISATION, one(sequence), false).await;
        assert!(matches!(missing, Err(StoreError::NotFound("delivery"))), "{missing:?}");
    }
    let foreign = redrive(conn, at(60), OTHER, one(5), false).await;
    assert!(matches!(foreign, Err(StoreError::NotFound("gateway"))), "{foreign:?}");
    let (rest, _) = redrive(conn, at(61), ORGANISATION, all(), false).await.unwrap();
    assert_eq!(numbers(&rest), [(3, Some(12)), (5, Some(13))]);
}

#[tokio::test]
async fn a_filter_chooses_by_the_failed_attempts() {
    let (mut database, _, _) = prepared().await;
    let conn = &mut database.conn;
    for filter in [
        DeliveryFilter { reason: Some(Reason::Shutdown), ..Default::default() },
        DeliveryFilter {
            window: TimeWindow::between(Some(at(51)), None).unwrap(),
            ..Default::default()
        },
        DeliveryFilter {
            window: TimeWindow::between(None, Some(at(50))).unwrap(),
            ..Default::default()
        },
        DeliveryFilter { event_type: Some("b.c".parse().unwrap()), ..Default::default() },
    ] {
        let selection = of(filter);
        let (done, _) = redrive(conn, at(60), ORGANISATION, selection, false).await.unwrap();
        assert!(done.redriven.is_empty() && done.event_removed == 0, "{done:?}");
    }
    let selection = of(DeliveryFilter { event_id: Some(event_id(5)), ..Default::default() });
    let (done, _) = redrive(conn, at(60), ORGANISATION, selection, false).await.unwrap();
    assert_eq!(numbers(&done), [(5, Some(11))]);
    let (foreign, _) = redrive(conn, at(60), OTHER, all(), false).await.unwrap();
    assert!(foreign.redriven.is_empty());
}

#[tokio::test]
async fn more_than_a_thousand_take_more_than_one_call() {
    let mut database = Database::new().await;
    let (key, _) = database.gateway(ORGANISATION, "a").await;
    for nth in 1..=1005 {
        database.append(ORGANISATION, &[key.0], &format!("e{nth}"), "a.b", "c").await;
    }
    for (first, last) in [(1, 1000), (1001, 1005)] {
        let reason = Some("expired");
        database
            .attempt(Made {
                gateway: key.0,
                first,
                last,
                outcome: "failed",
                reason,
                finished_at: 5,
            })
            .await;
        database.dead(key.0, first, last).await;
    }
    database.cursor(key.0, 1005).await;
    let conn = &mut database.conn;
    let mut calls = Vec::new();
    for now in 0..3 {
        let (done, _) = redrive(conn, at(now), ORGANISATION, all(), false).await.unwrap();
        calls.push((done.redriven.len(), done.more));
    }
    assert_eq!(calls, [(1000, true), (5, false), (0, false)]);
}
