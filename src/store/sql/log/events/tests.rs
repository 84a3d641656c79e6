//! Scans with a small bound per call.

use super::super::super::fixture::{Database, ORGANISATION, OTHER};
use super::*;
use crate::clock::TimeWindow;

#[tokio::test]
async fn a_scan_with_a_small_bound_per_call_returns_the_same_events() {
    let mut database = Database::new().await;
    let (first, id) = database.gateway(ORGANISATION, "a").await;
    let (second, _) = database.gateway(ORGANISATION, "b").await;
    let (foreign, _) = database.gateway(OTHER, "a").await;
    for nth in 0..40 {
        let event_type = if nth % 7 == 0 { "a.rare" } else { "a.frequent" };
        let (name, correlation) = (format!("e{nth:02}"), format!("c{nth}"));
        let to: &[i64] = if nth % 3 == 0 { &[first.0, second.0] } else { &[second.0] };
        database.append(ORGANISATION, to, &name, event_type, &correlation).await;
        database.append(OTHER, &[foreign.0], &name, "a.rare", "c").await;
    }
    // Trimmed deliveries are found as well.
    let trimmed = "insert into trimmed (gateway, sequence, event)
        select gateway, sequence, event from outbox where gateway = $1 and sequence <= 5";
    database.run(trimmed, &[first.0]).await;
    database.trim(first.0, 5).await;
    let rare = || EventFilter { event_type: "a.rare".parse().ok(), ..EventFilter::default() };
    let of_log = EventFilter { gateway_id: Some(id), ..EventFilter::default() };
    let by_id = EventFilter { id_prefix: "e1".parse().ok(), ..EventFilter::default() };
    let none = EventFilter {
        window: TimeWindow::between(Some(Timestamp::now()), None).unwrap(),
        ..of_log.clone()
    };
    for (filter, expected) in [
        (EventFilter::default(), 40),
        (rare(), 6),
        (of_log.clone(), 14),
        (EventFilter { event_type: rare().event_type, ..of_log }, 2),
        (by_id, 10),
        (none, 0),
    ] {
        let gateway = filter.gateway_id.map(|_| first);
        let matching = EventMatching { organisation: ORGANISATION, gateway, filter };
        let conn = &mut database.conn;
        let whole = scan(conn, &matching, None, 100, WORK).await.unwrap();
        assert!(whole.next.is_none());
        assert_eq!(whole.keys.len(), expected, "{:?}", matching.filter);
        let (mut found, mut cursor) = (Vec::new(), None);
        loop {
            let page = scan(conn, &matching, cursor, 2, 3).await.unwrap();
            assert!(page.keys.len() <= 2, "the bound does not bind");
            found.extend(page.keys);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(found, whole.keys, "{:?}", matching.filter);
    }
}
