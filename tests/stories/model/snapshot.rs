//! Everything that can be queried from a store, as text, to compare two stores. Leaves out what
//! differs by nature: ids that a store generates, and instants of its own clock.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::time::Duration;

use gateway_events::clock::{TimeWindow, Timestamp};
use gateway_events::event::{
    CorrelationId, Epoch, EventId, EventType, OrganisationKey, Reason, Sequence,
};
use gateway_events::store::{
    AuditFilter, Delivery, DeliveryFilter, DeliveryState, Gateway, GatewayFilter, RejectedFilter,
    Store, StoreError, SummaryBy, TimedKey,
};

use super::steps::IDS;

/// A result as text. Of an error, only what does not depend on the database.
pub(crate) fn shown<T: Debug>(answer: Result<T, StoreError>, since: Timestamp) -> String {
    match answer {
        Ok(answer) => without_now(&format!("{answer:?}"), since),
        Err(StoreError::Corrupt(_)) => "corrupt".to_owned(),
        Err(error) => format!("error: {error}"),
    }
}

/// Replaces instants that a clock has returned since the beginning.
fn without_now(text: &str, since: Timestamp) -> String {
    const BEFORE: &str = "Timestamp(";
    let mut parts = text.split(BEFORE);
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (number, rest) = part.split_once(')').expect("a number in brackets");
        let is_now = number.parse::<i64>().expect("microseconds") >= since.micros();
        shown.push_str(if is_now { "now" } else { number });
        shown.push_str(rest);
    }
    shown
}

pub(crate) fn gateway(mut gateway: Gateway) -> Gateway {
    gateway.epoch = Epoch(uuid::Uuid::nil());
    gateway
}

/// Everything. `begun` is the first instant of any step.
pub(crate) async fn picture(
    store: &dyn Store,
    organisation: OrganisationKey,
    begun: Timestamp,
    since: Timestamp,
) -> String {
    let mut text = String::new();
    let mut line = |what: &str, shown: String| writeln!(text, "{what}: {shown}").expect("a text");
    let gateways =
        store.gateways(organisation, &GatewayFilter::default(), None, 100).await.unwrap();
    let gateways: Vec<Gateway> = gateways.into_iter().map(gateway).collect();
    for gateway in &gateways {
        line("gateway", shown(Ok(gateway), since));
        let page = store.read(gateway.key, Sequence::ZERO, 100, usize::MAX).await;
        let page = page.map(|page| {
            let rows = page.rows.iter().map(|row| {
                let payload = row.event.payload.get().to_owned();
                (row.sequence, row.event.id.clone(), payload, row.withheld)
            });
            (rows.collect::<Vec<_>>(), page.head, page.floor)
        });
        line("log", shown(page, since));
        line("instances", shown(store.instances(organisation, gateway.id).await, since));
    }
    line("totals", shown(store.totals(organisation).await, since));
    agree(store, organisation, &gateways, begun).await;
    for id in 0..IDS {
        let id = EventId::new(format!("e{id}")).unwrap();
        line("history", shown(store.event_history(organisation, &id).await, since));
    }
    for live_only in [false, true] {
        let (mut after, mut rows) = (None, Vec::new());
        loop {
            let page = store.connections(organisation, None, live_only, after, 3).await.unwrap();
            rows.extend(page.rows);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        line("connections", shown(Ok(rows), since));
    }
    for filter in filters(begun, gateways.first()) {
        let (mut cursor, mut rows) = (None, Vec::new());
        loop {
            let page = store.failed_deliveries(organisation, &filter, cursor, 2).await.unwrap();
            rows.extend(page.rows);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        line(&format!("{filter:?}"), shown(Ok(rows), since));
    }
    let window = TimeWindow::new(begun, since).unwrap();
    for by in [SummaryBy::Reason, SummaryBy::Gateway, SummaryBy::Type] {
        let bucket = Duration::from_micros(7);
        let summary = store.failure_summary(organisation, window, bucket, by).await;
        line("summary", shown(summary, since));
    }
    let everything = RejectedFilter { retried: true, ..RejectedFilter::default() };
    let mut rejected = store.rejected(organisation, &everything, None, 100).await.unwrap();
    for row in &mut rejected {
        row.inserted_at = begun;
    }
    let mut controls = store.stream_changes(TimedKey::FIRST, 1000).await.unwrap().changed;
    controls.sort_unstable_by_key(|(gateway, _)| *gateway);
    line("controls", shown(Ok(controls), since));
    line("rejected", shown(Ok(rejected), since));
    let changes =
        AuditFilter { window: TimeWindow::ALL, action: None, principal: None, object: None };
    let changes = store.audit(organisation, &changes, None, 1000).await.unwrap();
    let changes = changes.into_iter().map(|it| {
        // Without the hash, which covers an instant.
        (it.sequence, it.principal, it.action, it.object, it.before, it.after)
    });
    line("audit", shown(Ok(changes.collect::<Vec<_>>()), since));
    text
}

/// Checks that each number means the same wherever it is returned, as `store::ledger` defines it:
/// the totals, the gateways, the events and the failed deliveries agree.
async fn agree(
    store: &dyn Store,
    organisation: OrganisationKey,
    gateways: &[Gateway],
    begun: Timestamp,
) {
    let totals = store.totals(organisation).await.unwrap();
    assert_eq!(totals.pending, gateways.iter().map(|gateway| gateway.pending).sum::<i64>());
    let mut pending: BTreeMap<_, i64> = BTreeMap::new();
    for id in 0..IDS {
        let id = EventId::new(format!("e{id}")).unwrap();
        let history = store.event_history(organisation, &id).await.unwrap();
        for delivery in history.into_iter().flat_map(|history| history.deliveries) {
            if delivery.state == DeliveryState::Pending {
                *pending.entry(delivery.gateway_id).or_default() += 1;
            }
        }
    }
    for gateway in gateways {
        let found = pending.get(&gateway.id).copied().unwrap_or_default();
        assert_eq!(gateway.pending, found, "pending at {}", gateway.name);
        assert_eq!(gateway.pending > 0, gateway.oldest_pending_at.is_some());
    }
    let any = DeliveryFilter::default();
    let rows = store.failed_deliveries(organisation, &any, None, 1000).await.unwrap().rows;
    let failures: i64 = rows.iter().map(|row| row.failures).sum();
    let window = TimeWindow::new(begun, begun.plus(Duration::from_hours(100))).unwrap();
    for by in [SummaryBy::Reason, SummaryBy::Gateway, SummaryBy::Type] {
        let bucket = Duration::from_hours(1);
        let summary = store.failure_summary(organisation, window, bucket, by).await.unwrap();
        assert_eq!(failures, summary.iter().map(|row| row.count).sum::<i64>(), "{by:?}");
    }
    assert!(failures <= totals.failed_attempts, "the ledger is trimmed, the total is not");
    let is_open = |row: &&Delivery| {
        row.state == DeliveryState::Failed
            && !row.redriven
            && gateways.iter().any(|gateway| gateway.id == row.gateway_id)
    };
    let open = i64::try_from(rows.iter().filter(is_open).count()).unwrap();
    assert!(open <= totals.dead_letters, "{open} of {}", totals.dead_letters);
    for row in &rows {
        let newest = row.redriven_as.map_or(row.state, |redrive| redrive.state);
        assert_eq!(row.delivered_since, newest == DeliveryState::Delivered, "{row:?}");
        assert_eq!(row.redriven, row.redriven_as.is_some(), "{row:?}");
    }
}

fn filters(begun: Timestamp, gateway: Option<&Gateway>) -> Vec<DeliveryFilter> {
    let any = DeliveryFilter::default();
    let at = |micros| begun.plus(Duration::from_micros(micros));
    let window = TimeWindow::new(at(5), at(25)).unwrap();
    vec![
        DeliveryFilter { gateway_id: gateway.map(|gateway| gateway.id), ..any.clone() },
        DeliveryFilter { reason: Some(Reason::NotConnected), ..any.clone() },
        DeliveryFilter { window, ..any.clone() },
        DeliveryFilter { event_type: Some(EventType::new("b.deployed").unwrap()), ..any.clone() },
        DeliveryFilter { event_id: Some(EventId::new("e1").unwrap()), ..any.clone() },
        DeliveryFilter {
            correlation_id: Some(CorrelationId::new("e2").unwrap()),
            reason: Some(Reason::ConnectionLost),
            ..any.clone()
        },
        any,
    ]
}
