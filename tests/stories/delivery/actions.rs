//! What a lane does when an admin pauses its gateway, skips an event or purges a payload.

use gateway_events::store::Actions as _;

use super::*;

const REASON: &str = "the test wants it";

impl Node {
    async fn pause(&self) {
        let actor = actor(self.organisation);
        let done = self.store.pause_gateway(&actor, self.id, Some(REASON), false).await.unwrap();
        assert!(done.changed);
    }

    async fn resume(&self) {
        let actor = actor(self.organisation);
        let done = self.store.resume_gateway(&actor, self.id, false).await.unwrap();
        assert!(done.changed);
    }

    async fn skip(&self, sequence: i64) {
        let (actor, sequence) = (actor(self.organisation), Sequence(sequence));
        let done = self.store.skip_delivery(&actor, self.id, sequence, REASON, false).await;
        assert!(done.unwrap().changed);
    }

    async fn purge(&self, event_id: &str) {
        let (actor, id) = (actor(self.organisation), EventId::new(event_id).unwrap());
        assert!(self.store.purge_event(&actor, &id, REASON, false).await.unwrap().changed);
    }

    async fn confirmed(&self, sequence: i64) {
        within(async {
            while self.gateway().await.confirmed < Sequence(sequence) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// Waits for a few probes; fails if an event comes before them.
async fn nothing_but_probes(peer: &mut Peer) {
    for _ in 0..5 {
        match within(peer.next()).await {
            Seen::Probe => peer.send(Incoming::Alive).await,
            other => panic!("{other:?}"),
        }
    }
}

fn probing(window_events: usize) -> Options {
    let heartbeat_interval = Duration::from_millis(20);
    Options { heartbeat_interval, window_events, ..Options::default() }
}

#[tokio::test]
async fn a_paused_gateway_stays_connected_and_is_sent_nothing_until_it_is_resumed() {
    let node = node(probing(8)).await;
    let mut peer = node.connect().await;
    node.publish_all(1..=2).await;
    receive(&mut peer, 1..=2).await;
    node.pause().await;
    node.publish_all(3..=30).await;
    nothing_but_probes(&mut peer).await;
    // What was sent before is confirmed.
    peer.confirm(Sequence(2)).await;
    node.confirmed(2).await;
    nothing_but_probes(&mut peer).await;
    node.resume().await;
    for number in 3..=30 {
        receive(&mut peer, [number]).await;
        peer.confirm(Sequence(number)).await;
    }
    node.confirmed(30).await;
    let totals = node.store.totals(node.organisation).await.unwrap();
    assert_eq!((totals.failed_attempts, totals.dead_letters), (0, 0));
    peer.end(Reason::ClosedByGateway).await;
    node.settled().await;
}

#[tokio::test]
async fn a_connection_that_is_opened_during_a_pause_waits_for_its_end() {
    let node = node(probing(8)).await;
    node.publish_all(1..=3).await;
    node.pause().await;
    let mut peer = node.connect().await;
    nothing_but_probes(&mut peer).await;
    // Another change in between does not end the pause.
    node.skip(2).await;
    nothing_but_probes(&mut peer).await;
    node.resume().await;
    receive(&mut peer, [1]).await;
    peer.confirm(Sequence(1)).await;
    receive(&mut peer, [3]).await;
    peer.end(Reason::ClosedByGateway).await;
    node.settled().await;
}

#[tokio::test]
async fn a_connection_that_waits_for_a_skipped_event_goes_on_at_once() {
    let node = node(Options { window_events: 1, ..Options::default() }).await;
    let mut peer = node.connect().await;
    node.publish_all(1..=3).await;
    receive(&mut peer, [1]).await;
    node.skip(1).await;
    receive(&mut peer, [2]).await;
    let skipped = node.delivery("e-1").await;
    assert_eq!((skipped.state, skipped.reason), (DeliveryState::Failed, Some(Reason::Skipped)));
    // The gateway has handled it after all.
    peer.confirm(Sequence(2)).await;
    receive(&mut peer, [3]).await;
    node.confirmed(2).await;
    for event in ["e-1", "e-2"] {
        assert_eq!(node.delivery(event).await.state, DeliveryState::Delivered);
    }
    peer.end(Reason::ClosedByGateway).await;
    node.settled().await;
}

#[tokio::test]
async fn events_that_are_skipped_ahead_of_their_turn_are_passed_over() {
    let node = node(Options { window_events: 1, ..Options::default() }).await;
    let mut peer = node.connect().await;
    node.publish_all(1..=6).await;
    receive(&mut peer, [1]).await;
    for sequence in [3, 4, 6] {
        node.skip(sequence).await;
    }
    for number in [1, 2, 5] {
        if number > 1 {
            receive(&mut peer, [number]).await;
        }
        peer.confirm(Sequence(number)).await;
    }
    node.confirmed(6).await;
    node.publish_all(7..=7).await;
    receive(&mut peer, [7]).await;
    peer.end(Reason::ClosedByGateway).await;
    node.settled().await;
}

#[tokio::test]
async fn a_late_receipt_of_a_skipped_event_counts_with_those_around_it() {
    let node = node(Options { window_events: 3, ..Options::default() }).await;
    let mut peer = node.connect().await;
    node.publish_all(1..=4).await;
    receive(&mut peer, 1..=3).await;
    // In the middle of what is in flight: there is room for one more.
    node.skip(2).await;
    receive(&mut peer, [4]).await;
    peer.confirm(Sequence(4)).await;
    node.confirmed(4).await;
    peer.end(Reason::ClosedByGateway).await;
    node.settled().await;
    assert_eq!(node.gateway().await.pending, 0);
}

#[tokio::test]
async fn the_position_passes_a_skipped_event_that_was_sent_last() {
    let node = node(Options { window_events: 3, ..Options::default() }).await;
    let mut peer = node.connect().await;
    node.publish_all(1..=2).await;
    receive(&mut peer, 1..=2).await;
    node.skip(2).await;
    peer.confirm(Sequence(1)).await;
    node.confirmed(2).await;
    assert_eq!(node.delivery("e-2").await.state, DeliveryState::Failed);
    peer.confirm(Sequence(2)).await;
    peer.end(Reason::ClosedByGateway).await;
    node.settled().await;
    assert_eq!(node.delivery("e-2").await.state, DeliveryState::Delivered);
}

#[tokio::test]
async fn lost_connection_is_not_attributed_to_the_event_after_a_skipped_one() {
    let node = node(Options { max_attempts: 1, window_events: 1, ..Options::default() }).await;
    let mut peer = node.connect().await;
    node.publish_all(1..=2).await;
    receive(&mut peer, [1]).await;
    node.skip(1).await;
    receive(&mut peer, [2]).await;
    // The gateway may still have been handling the first one.
    peer.end(Reason::ConnectionLost).await;
    node.settled().await;
    assert_eq!(node.delivery("e-2").await.state, DeliveryState::Pending);
    let mut peer = node.connect().await;
    receive(&mut peer, [2]).await;
    peer.end(Reason::ClosedByGateway).await;
    node.settled().await;
}

#[tokio::test]
async fn a_payload_that_is_purged_after_it_was_read_is_not_sent() {
    let node = node(Options { window_events: 1, ..Options::default() }).await;
    node.publish_all(1..=4).await;
    let mut peer = node.connect().await;
    receive(&mut peer, [1]).await;
    node.purge("e-2").await;
    // Of one that was sent, the receipt still counts.
    node.purge("e-1").await;
    peer.confirm(Sequence(1)).await;
    receive(&mut peer, [3]).await;
    peer.confirm(Sequence(3)).await;
    receive(&mut peer, [4]).await;
    peer.confirm(Sequence(4)).await;
    node.confirmed(4).await;
    assert_eq!(node.delivery("e-1").await.state, DeliveryState::Delivered);
    let purged = node.delivery("e-2").await;
    assert_eq!((purged.state, purged.reason), (DeliveryState::Failed, Some(Reason::Purged)));
    peer.end(Reason::ClosedByGateway).await;
    node.settled().await;
}
