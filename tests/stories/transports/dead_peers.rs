//! Gateways of reliable mode that vanish without closing their connection: the service notices,
//! records why the connection ended, and what was not confirmed is a failed attempt that is sent again.
//! `faults::silence` has those of plain mode, at the default settings.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;

use super::test_bed::World;
use super::{Kind, TestBed};
use crate::both_databases::{Backend, on_both};
use crate::fault_proxy::{Fault, FaultProxy};
use crate::streams::long_poll::Peer as Polling;
use crate::support::TEST_TIMEOUT;

on_both! {
    a_peer_that_vanishes_is_noticed_and_its_events_are_sent_again
    a_poller_that_vanishes_is_noticed_and_its_events_are_answered_again
}

/// Short times, of which each transport uses some.
const SETTINGS: &[(&str, &str)] = &[
    ("DELIVERY__HEARTBEAT_INTERVAL", "500ms"),
    ("DELIVERY__HEARTBEAT_TIMEOUT", "4s"),
    // Long enough to connect all of them, the first of which has an event that it does not confirm.
    ("DELIVERY__CONFIRMATION_TIMEOUT", "25s"),
    ("RELIABLE__HEARTBEAT_INTERVAL", "500ms"),
    ("LIMITS__ATTEMPTS_PER_MINUTE", "1000"),
];

/// A gateway that is connected through a fault proxy.
struct Vanishing {
    bed: TestBed,
    fault: Fault,
    /// Whether it has received an event that it has not confirmed.
    is_busy: bool,
    /// Answers pings, and reads what else comes, until the fault.
    living: JoinHandle<()>,
}

impl Vanishing {
    async fn connect(mut bed: TestBed, proxy: &FaultProxy, fault: Fault, is_busy: bool) -> Self {
        bed.through = Some(proxy.port);
        bed.publish(1..=1).await;
        let mut peer = bed.connected().await;
        peer.event(1).await;
        peer.applied(1).await;
        bed.confirmed(1).await;
        if is_busy {
            bed.publish(2..=2).await;
            peer.event(2).await;
        }
        let living = tokio::spawn(peer.live());
        Self { bed, fault, is_busy, living }
    }

    /// Why its connection may end.
    fn reasons(&self) -> &'static [&'static str] {
        match (self.bed.kind, self.fault) {
            (Kind::WebSocket, Fault::Discard) => &["heartbeat_timeout"],
            // A host that is alive takes all that is sent, and over HTTP/1.1 the stream has no pings.
            (Kind::Sse, Fault::Discard) => &["confirmation_timeout"],
            // Of HTTP/2, or of TCP.
            (Kind::Grpc | Kind::Sse, _) => &["connection_lost"],
            // The kernel may be the one that notices.
            _ => &["heartbeat_timeout", "connection_lost"],
        }
    }

    /// Waits until its connection is closed, and compares the reason.
    async fn noticed(&self) {
        let (kind, fault) = (self.bed.kind, self.fault);
        let closed = closed(&self.bed).await;
        let reason = closed["closeReason"].as_str().expect("a reason");
        assert!(self.reasons().contains(&reason), "{kind:?}, {fault:?}: {closed:#}");
        if self.is_busy {
            let failed = |found: &super::test_bed::Delivery| found.reason.is_some();
            let delivery = self.bed.delivery(2, failed).await;
            assert_eq!(delivery.state, "pending", "{kind:?}, {fault:?}: {delivery:?}");
            assert_eq!(delivery.reason.as_deref(), Some(reason), "{kind:?}, {fault:?}");
        }
    }

    /// It connects again, and gets what it has not confirmed.
    async fn returns(mut self) {
        self.living.abort();
        self.bed.through = None;
        let mut peer = self.bed.connected().await;
        for sequence in 2..=3 {
            peer.event(sequence).await;
            peer.applied(sequence).await;
        }
        self.bed.confirmed(3).await;
    }
}

/// The last connection of a gateway, once it is closed.
async fn closed(bed: &TestBed) -> Value {
    let path = format!("/gateways/{}/connections", bed.id);
    let is_closed = |page: &Value| page["list"][0]["status"] == "closed";
    let page = bed.service().eventually_within(2 * TEST_TIMEOUT, &path, is_closed).await;
    let live = bed.service().admin().get(&format!("{path}?status=connected")).await;
    assert_eq!(live.success()["count"], 0);
    page["list"][0].clone()
}

async fn a_peer_that_vanishes_is_noticed_and_its_events_are_sent_again(backend: Backend) {
    let world = Arc::new(World::served(&backend, SETTINGS).await);
    let port = world.service().port;
    let proxies = [
        (Fault::Discard, FaultProxy::to(port).await),
        (Fault::BlackHole, FaultProxy::to(port).await),
    ];
    let mut all = Vec::new();
    for (fault, proxy) in &proxies {
        for kind in [Kind::WebSocket, Kind::Sse, Kind::Grpc] {
            for is_busy in [true, false] {
                let name = format!("{fault:?}-{is_busy}");
                let bed = TestBed::new(Arc::clone(&world), kind, &name).await;
                all.push(Vanishing::connect(bed, proxy, *fault, is_busy).await);
            }
        }
    }
    for (fault, proxy) in &proxies {
        proxy.set_fault(*fault);
    }
    for peer in all.iter().filter(|peer| peer.is_busy) {
        // It is sent, and does not arrive.
        peer.bed.publish(3..=3).await;
    }
    // An idle stream of events over HTTP/1.1 whose client hangs looks as if the client were alive.
    let hangs = |peer: &Vanishing| {
        (peer.bed.kind, peer.fault, peer.is_busy) == (Kind::Sse, Fault::Discard, false)
    };
    for peer in all.iter().filter(|peer| !hangs(peer)) {
        peer.noticed().await;
    }
    let hung = all.iter().find(|peer| hangs(peer)).expect("one of them");
    let path = format!("/gateways/{}/connections?status=connected", hung.bed.id);
    assert_eq!(world.service().admin().get(&path).await.success()["count"], 1);
    for peer in all.iter().filter(|peer| !peer.is_busy) {
        peer.bed.publish(2..=3).await;
    }
    // An event that it does not confirm ends it.
    hung.noticed().await;
    for peer in all {
        peer.returns().await;
    }
}

async fn a_poller_that_vanishes_is_noticed_and_its_events_are_answered_again(backend: Backend) {
    let world = Arc::new(World::served(&backend, SETTINGS).await);
    let service = world.service();
    for (fault, waits) in [
        (Fault::Discard, false),
        (Fault::BlackHole, false),
        (Fault::Discard, true),
        (Fault::BlackHole, true),
    ] {
        let proxy = FaultProxy::to(service.port).await;
        let name = format!("{fault:?}-{waits}");
        let bed = TestBed::new(Arc::clone(&world), Kind::LongPoll, &name).await;
        bed.publish(1..=1).await;
        let peer = Polling::through(service, proxy.port, &bed.key);
        let (sequences, first) = peer.events("instance=a&wait=2s").await;
        assert_eq!(sequences, [1]);
        bed.publish(2..=2).await;
        let (sequences, second) =
            peer.events(&format!("instance=a&wait=2s&after={first}&ack={first}")).await;
        assert_eq!(sequences, [2]);
        // Either between two requests, or while one waits.
        let waiting = waits.then(|| {
            let query = format!("instance=a&wait=2s&after={second}");
            tokio::spawn(async move { peer.poll(&query).await })
        });
        if waits {
            crate::support::pause(Duration::from_millis(300)).await;
        }
        proxy.set_fault(fault);
        let closed = closed(&bed).await;
        assert_eq!(closed["closeReason"], "heartbeat_timeout", "{closed:#}");
        let delivery = bed.delivery(2, |found| found.reason.is_some()).await;
        assert_eq!(delivery.state, "pending", "{delivery:?}");
        assert_eq!(delivery.reason.as_deref(), Some("heartbeat_timeout"), "{delivery:?}");
        if let Some(waiting) = waiting {
            waiting.abort();
        }
        let direct = Polling::new(service, &bed.key);
        let (sequences, again) = direct.events("instance=a&wait=2s").await;
        assert_eq!(sequences, [2]);
        let confirmed = direct.poll(&format!("instance=a&wait=0s&after={again}&ack={again}")).await;
        assert_eq!(confirmed.status, 204);
        bed.confirmed(2).await;
    }
}
