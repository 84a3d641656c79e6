//! The end of a run: everything is delivered that can be, and then the promises are checked.
//!
//! - Each accepted event is in the log under the sequence that was answered (1), and the log has
//!   exactly these sequences (2).
//! - Each connection was sent its events in order, with the ids and payloads that were published;
//!   nothing was sent again after it was confirmed, and nothing was left out without a record (3).
//! - What counts as delivered was confirmed by the gateway (4), and what was confirmed counts as
//!   delivered, unless it was given up, and trimmed or redriven, before (5).
//! - What was not delivered has a failed attempt that says why, and is in the list of failed
//!   deliveries, also after retention has removed it (5, 6).

use std::collections::BTreeMap;

use gateway_events::dispatch::Options;
use gateway_events::event::{Reason, Sequence};
use gateway_events::store::{Delivery, DeliveryState};

use super::{GATEWAYS, Run};
use crate::conformance::Fixture;
use crate::support::TEST_TIMEOUT;

impl Run {
    pub(super) async fn end(mut self) {
        for nth in 0..GATEWAYS {
            if self.gateways[nth].is_paused {
                self.pause(nth, false).await;
            }
            if self.gateways[nth].connected.is_none() {
                self.connect(nth).await;
            }
            let delivered = self.deliver_all(nth);
            tokio::time::timeout(3 * TEST_TIMEOUT, delivered)
                .await
                .expect("all is delivered in time");
            self.disconnect(nth, Reason::ClosedByGateway).await;
        }
        for nth in 0..GATEWAYS {
            self.check(nth).await;
        }
        let Self { nodes, place, .. } = self;
        for node in nodes {
            node.store.close().await;
        }
        let problems = place.problems().await;
        assert!(problems.is_empty(), "{problems:?}");
    }

    async fn deliver_all(&mut self, nth: usize) {
        let store = self.store(0);
        let fixture = Fixture::of(store.as_ref()).await;
        loop {
            self.receive(nth).await;
            self.confirm(nth, true).await;
            if fixture.again(&self.gateways[nth].gateway).await.pending == 0 {
                return;
            }
        }
    }

    async fn check(&self, nth: usize) {
        let store = self.store(0);
        let known = &self.gateways[nth];
        let fixture = Fixture::of(store.as_ref()).await;
        let gateway = fixture.again(&known.gateway).await;
        let head = i64::try_from(known.log.len()).unwrap();
        assert_eq!(gateway.head.0, head);
        let page = store.read(gateway.key, Sequence::ZERO, 10_000, usize::MAX).await.unwrap();
        let sequences: Vec<i64> = page.rows.iter().map(|row| row.sequence.0).collect();
        assert_eq!(sequences, (page.floor.0 + 1..=head).collect::<Vec<_>>(), "no gap, no repeat");
        for row in &page.rows {
            assert_eq!(row.event.id, *known.event(row.sequence.0));
            let event = &self.events[&row.event.id];
            let payload = if event.is_purged { "{}" } else { &event.payload };
            assert_eq!(row.event.payload.get(), payload, "the payload of {}", row.event.id);
        }
        let failed = failed(&fixture, self, nth).await;
        let mut deliveries = BTreeMap::new();
        for id in self.events.keys() {
            let history = store.event_history(fixture.organisation, id).await.unwrap();
            let all = history.into_iter().flat_map(|history| history.deliveries);
            let own = all.filter(|delivery| delivery.gateway_id == gateway.id);
            deliveries.extend(own.map(|delivery| (delivery.sequence.0, delivery)));
        }
        for sequence in 1..=head {
            let is_confirmed = known.confirmed.contains(&sequence);
            match deliveries.get(&sequence) {
                Some(delivery) if is_confirmed => {
                    // It may have been given up, and trimmed or redriven, before the confirmation.
                    let is_late = !known.settled.contains(&sequence)
                        && (delivery.trimmed || delivery.redriven)
                        && failed.contains_key(&sequence);
                    let is_delivered = delivery.state == DeliveryState::Delivered;
                    assert!(is_delivered || is_late, "confirmed: {delivery:?}");
                }
                Some(delivery) => {
                    assert_eq!(delivery.state, DeliveryState::Failed, "unconfirmed: {delivery:?}");
                    assert!(is_explained(delivery), "no reason: {delivery:?}");
                    assert!(failed.contains_key(&sequence), "not listed: {delivery:?}");
                }
                // Retention has removed its event.
                None => {
                    assert!(sequence <= page.floor.0, "{sequence} is gone");
                    assert!(is_confirmed || failed.contains_key(&sequence), "{sequence} is gone");
                }
            }
        }
    }
}

/// Whether an attempt says why a delivery was given up.
fn is_explained(delivery: &Delivery) -> bool {
    let given_up = |reason| {
        use Reason::{Expired, Purged, Retention, Skipped};
        matches!(reason, Skipped | Purged | Expired | Retention)
    };
    // Or it failed too often, because its connections ended.
    let most = i64::from(Options::default().max_attempts);
    delivery.failures >= most
        || delivery.attempts.iter().filter_map(|attempt| attempt.reason).any(given_up)
}

/// The failed deliveries of a gateway, as they are listed.
async fn failed(fixture: &Fixture<'_>, run: &Run, nth: usize) -> BTreeMap<i64, Delivery> {
    let (filter, mut cursor) = (run.of(nth), None);
    let mut found = BTreeMap::new();
    loop {
        let of = fixture.organisation;
        let page = fixture.store.failed_deliveries(of, &filter, cursor, 50).await.unwrap();
        found.extend(page.rows.into_iter().map(|delivery| (delivery.sequence.0, delivery)));
        cursor = page.next;
        if cursor.is_none() {
            return found;
        }
    }
}
