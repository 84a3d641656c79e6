//! Gaps: what can't be delivered is said, and delivery waits for the snapshot.

use gateway_events::client::reliable::GapReason;
use gateway_events::event::Epoch;
use serde_json::json;

use super::{Kind, RELIABLE, TestBed, over};
use crate::both_databases::{Backend, on_both};

on_both! {
    events_removed_by_retention_are_a_gap
    purged_events_are_one_gap
    a_position_that_does_not_fit_the_log_is_a_gap
}

impl TestBed {
    /// The epoch of the log, which has the event 1.
    async fn epoch(&self) -> Epoch {
        self.connect(json!({"instance": "first"})).await.event(1).await.epoch
    }
}

async fn events_removed_by_retention_are_a_gap(backend: Backend) {
    let settings = [
        ("RETENTION__MAX_EVENTS", "2"),
        ("RETENTION__HARD_MAX_EVENTS", "4"),
        ("RETENTION__INTERVAL", "1s"),
        ("RELIABLE__SNAPSHOT_URL", "https://platform.example/snapshot"),
    ];
    // Retention is a job of the service.
    let served = [Kind::WebSocket, Kind::Sse, Kind::LongPoll, Kind::Grpc];
    over(&backend, &settings, &served, async |bed: TestBed| {
        bed.publish(1..=1).await;
        let epoch = bed.epoch().await;
        bed.publish(2..=10).await;
        let path = format!("/gateways/{}", bed.id);
        bed.service().eventually(&path, |shown| shown["floor"] == 6).await;
        let resume = json!({"epoch": epoch, "sequence": 2});
        let mut peer = bed.connect(json!({ "resume": resume })).await;
        let gap = peer.gap().await;
        assert_eq!((gap.from.0, gap.to.0, gap.resume_at.0), (3, 6, 6));
        assert_eq!((gap.reason, gap.epoch), (GapReason::Retention, epoch));
        assert_eq!(gap.snapshot_url.as_deref(), Some("https://platform.example/snapshot"));
        peer.quiet().await;
        peer.applied(5).await;
        peer.quiet().await;
        peer.settle(&gap).await;
        peer.events(7..=10).await;
        peer.applied(10).await;
        bed.confirmed(10).await;
    })
    .await;
}

async fn purged_events_are_one_gap(backend: Backend) {
    over(&backend, &[], RELIABLE, async |bed: TestBed| {
        bed.publish(1..=4).await;
        bed.purge(2).await;
        bed.purge(3).await;
        let mut peer = bed.connected().await;
        peer.event(1).await;
        peer.applied(1).await;
        let gap = peer.gap().await;
        assert_eq!((gap.from.0, gap.to.0, gap.resume_at.0), (2, 3, 3));
        assert_eq!(gap.reason, GapReason::Purged);
        peer.quiet().await;
        peer.settle(&gap).await;
        assert_eq!(peer.event(4).await.previous.0, 3);
        peer.applied(4).await;
        bed.confirmed(4).await;
    })
    .await;
}

async fn a_position_that_does_not_fit_the_log_is_a_gap(backend: Backend) {
    over(&backend, &[], RELIABLE, async |bed: TestBed| {
        bed.publish(1..=5).await;
        let epoch = bed.epoch().await;
        let another = "01890a5d-ac96-774b-bcce-b302099a8057";
        let mut positions =
            vec![json!({"epoch": another, "sequence": 2}), json!({"epoch": epoch, "sequence": 6})];
        // Positions of text have no event id.
        if !matches!(bed.kind, Kind::Sse | Kind::LongPoll) {
            positions.push(json!({"epoch": epoch, "sequence": 2, "eventId": "another"}));
        }
        for (nth, resume) in positions.into_iter().enumerate() {
            let members = json!({"instance": format!("a-{nth}"), "resume": resume});
            let mut peer = bed.connect(members).await;
            let gap = peer.gap().await;
            assert_eq!((gap.from.0, gap.to.0, gap.resume_at.0), (1, 5, 5), "{resume}");
            assert_eq!((gap.reason, gap.epoch), (GapReason::Epoch, epoch), "{resume}");
            peer.quiet().await;
            peer.settle(&gap).await;
            peer.leave().await;
        }
    })
    .await;
}
