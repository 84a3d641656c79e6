//! Several unnamed connections of one gateway: replicas that can't be told apart, each of which
//! must receive every event.

use serde_json::{Value, json};

use crate::fault_proxy::{Fault, FaultProxy};
use crate::raw_gateway::{CLOSE, PING, RawGateway, TEXT};
use crate::support::{Service, deployed, get};

/// The sequences that a replica receives and confirms with one receipt.
async fn handles(replica: &mut RawGateway, sequences: std::ops::RangeInclusive<i64>) {
    let last = *sequences.end();
    for sequence in sequences {
        let event = replica.event().await;
        assert_eq!(event["sequence"], sequence);
        assert_eq!(event["payload"]["deploymentId"], format!("d-{sequence}"));
    }
    replica.pong(&last.to_string()).await;
}

async fn publish(service: &Service, id: &str, numbers: std::ops::RangeInclusive<i64>) {
    let batch: Vec<Value> = numbers.map(|number| deployed(&[id], &format!("d-{number}"))).collect();
    service.api().post("/events", &json!(batch)).await.expect("accepted");
}

/// Waits until the gateway's connections have this status and these confirmed positions, in
/// ascending order.
async fn stand(service: &Service, id: &str, status: &str, confirmed: &[i64]) {
    let standing = |page: &Value| {
        let list = page["list"].as_array().cloned().unwrap_or_default();
        let mut found: Vec<i64> = list
            .iter()
            .filter(|one| one["status"] == status)
            .filter_map(|one| one["confirmed"].as_i64())
            .collect();
        found.sort_unstable();
        found == confirmed
    };
    service.eventually(&format!("/gateways/{id}/connections"), standing).await;
}

#[tokio::test]
async fn each_replica_gets_every_event_also_after_a_disconnection() {
    let service = Service::start().await;
    let proxy = FaultProxy::to(service.port).await;
    let (id, key) = service.gateway("cluster").await;
    let mut first = RawGateway::connect(&service, service.port, &key).await;
    let mut second = RawGateway::connect(&service, service.port, &key).await;
    let mut third = RawGateway::connect(&service, proxy.port, &key).await;
    publish(&service, &id, 1..=3).await;
    for replica in [&mut first, &mut second, &mut third] {
        handles(replica, 1..=3).await;
    }
    stand(&service, &id, "connected", &[3, 3, 3]).await;
    proxy.set_fault(Fault::Reset);
    while third.next().await.is_some() {}
    stand(&service, &id, "connected", &[3, 3]).await;
    publish(&service, &id, 4..=6).await;
    handles(&mut first, 4..=6).await;
    handles(&mut second, 4..=6).await;
    stand(&service, &id, "connected", &[6, 6]).await;
    let mut third = RawGateway::connect(&service, service.port, &key).await;
    publish(&service, &id, 7..=7).await;
    handles(&mut third, 4..=7).await;
    handles(&mut first, 7..=7).await;
    handles(&mut second, 7..=7).await;
    stand(&service, &id, "connected", &[7, 7, 7]).await;
    let past = service.api().get(&format!("/gateways/{id}/connections")).await.expect("a page");
    let lost =
        past["list"].as_array().expect("a list").iter().find(|one| one["status"] == "closed");
    assert_eq!(lost.expect("the third one")["closeReason"], "connection_lost", "{past:#}");
}

#[tokio::test]
async fn the_position_of_a_replica_that_is_behind_survives_a_kill() {
    let mut service = Service::start().await;
    let (id, key) = service.gateway("cluster").await;
    let mut ahead = RawGateway::connect(&service, service.port, &key).await;
    let mut behind = RawGateway::connect(&service, service.port, &key).await;
    publish(&service, &id, 1..=6).await;
    handles(&mut ahead, 1..=6).await;
    handles(&mut behind, 1..=3).await;
    stand(&service, &id, "connected", &[3, 6]).await;
    service.kill().await;
    service.restart().await;
    // It is unknown which replica reconnects first, so each starts at the lower position.
    let mut one = RawGateway::connect(&service, service.port, &key).await;
    let mut other = RawGateway::connect(&service, service.port, &key).await;
    publish(&service, &id, 7..=7).await;
    handles(&mut one, 4..=7).await;
    handles(&mut other, 4..=7).await;
    stand(&service, &id, "connected", &[7, 7]).await;
    let past = service.api().get(&format!("/gateways/{id}/connections")).await.expect("a page");
    let lost = |one: &&Value| one["closeReason"] == "node_lost";
    assert_eq!(past["list"].as_array().expect("a list").iter().filter(lost).count(), 2);
}

/// Reads and confirms up to an event; returns how many event frames arrived.
async fn counts(gateway: &mut RawGateway, last: i64) -> usize {
    let (mut frames, last) = (0, last.to_string());
    loop {
        let frame = gateway.next().await.expect("a frame");
        match frame.opcode {
            TEXT => frames += 1,
            PING => gateway.pong(&String::from_utf8_lossy(&frame.payload)).await,
            _ => {}
        }
        if frame.opcode == PING && frame.payload == last.as_bytes() {
            return frames;
        }
    }
}

/// Event frames per event over four clean reconnects of a gateway with a single connection at a
/// time, after this many connections that died without FIN.
async fn frames_per_event(dead: usize) -> f64 {
    const EVENTS: i64 = 5;
    const RECONNECTS: usize = 4;
    let heartbeats =
        [("DELIVERY__HEARTBEAT_INTERVAL", "1s"), ("DELIVERY__HEARTBEAT_TIMEOUT", "3s")];
    let service = Service::start_with(&heartbeats).await;
    let (id, key) = service.gateway("one").await;
    let (path, connections) = (format!("/gateways/{id}"), format!("/gateways/{id}/connections"));
    let (mut last, mut half_open) = (0, Vec::new());
    for _ in 0..dead {
        let proxy = FaultProxy::to(service.port).await;
        let mut gateway = RawGateway::connect(&service, proxy.port, &key).await;
        publish(&service, &id, last + 1..=last + EVENTS).await;
        last += EVENTS;
        counts(&mut gateway, last).await;
        service.eventually(&path, |shown| shown["confirmed"] == last).await;
        proxy.set_fault(Fault::BlackHole);
        half_open.push((proxy, gateway));
    }
    let mut frames = 0;
    for nth in 0..RECONNECTS {
        if nth == 2 {
            // From here on, their positions are those of ended connections.
            let ended = |page: &Value| page["count"] == 0;
            service.eventually(&format!("{connections}?status=connected"), ended).await;
        }
        let mut gateway = RawGateway::connect(&service, service.port, &key).await;
        publish(&service, &id, last + 1..=last + EVENTS).await;
        last += EVENTS;
        frames += counts(&mut gateway, last).await;
        service.eventually(&path, |shown| shown["confirmed"] == last).await;
        gateway.send(true, CLOSE, &1000_u16.to_be_bytes()).await;
        while gateway.next().await.is_some() {}
    }
    let failed = get(&service.api(), &format!("/deliveries?gatewayId={id}")).await.expect("a page");
    assert!(
        failed["list"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|row| row["reason"] == "not_connected"),
        "what was confirmed has not failed: {failed:#}"
    );
    let events = RECONNECTS * usize::try_from(EVENTS).expect("few");
    let (frames, events) = (u32::try_from(frames), u32::try_from(events));
    f64::from(frames.expect("few")) / f64::from(events.expect("few"))
}

#[tokio::test]
async fn connections_that_died_without_fin_cause_no_repeated_deliveries() {
    let (none, one, three) =
        tokio::join!(frames_per_event(0), frames_per_event(1), frames_per_event(3));
    assert_eq!((none, one, three), (1.0, 1.0, 1.0), "frames per event after 0, 1, 3");
}

/// A replica that has shown no activity since the other one connected.
#[tokio::test]
async fn as_many_positions_are_kept_as_replicas_were_declared() {
    let service = Service::start().await;
    let (id, key) = service.gateway("cluster").await;
    let api = service.api();
    let path = format!("/gateways/{id}");
    assert_eq!(get(&api, &path).await.expect("the gateway")["replicas"], 1);
    let changed = service.run(&format!("gateway update {id} --replicas 2 --json")).await.json();
    assert_eq!(changed["replicas"], 2);
    let made = service.run("gateway register other --replicas 3 --json").await.json();
    assert_eq!(made["replicas"], 3);
    for wrong in [0, 1001] {
        assert!(api.patch(&path, &json!({"replicas": wrong})).await.is_err(), "{wrong}");
    }
    let mut away = RawGateway::connect(&service, service.port, &key).await;
    away.send(true, CLOSE, &1000_u16.to_be_bytes()).await;
    while away.next().await.is_some() {}
    stand(&service, &id, "closed", &[0]).await;
    publish(&service, &id, 1..=3).await;
    for _ in 0..2 {
        // The other replica connects, and connects again, which may be the one that was
        // disconnected.
        let mut other = RawGateway::connect(&service, service.port, &key).await;
        handles(&mut other, 1..=3).await;
        service.eventually(&path, |shown| shown["confirmed"] == 3).await;
        other.send(true, CLOSE, &1000_u16.to_be_bytes()).await;
        while other.next().await.is_some() {}
    }
    let mut back = RawGateway::connect(&service, service.port, &key).await;
    handles(&mut back, 1..=3).await;
}

/// A process that dies without FIN, and whose host resets the connection after the gateway has
/// reconnected.
#[tokio::test]
async fn a_late_end_of_a_dead_connection_does_not_count_as_a_second_replica() {
    let service = Service::start().await;
    let proxy = FaultProxy::to(service.port).await;
    let (id, key) = service.gateway("one").await;
    let mut dead = RawGateway::connect(&service, proxy.port, &key).await;
    publish(&service, &id, 1..=3).await;
    handles(&mut dead, 1..=3).await;
    stand(&service, &id, "connected", &[3]).await;
    // Nothing is read from now on.
    let mut again = RawGateway::connect(&service, service.port, &key).await;
    publish(&service, &id, 4..=5).await;
    handles(&mut again, 4..=5).await;
    proxy.set_fault(Fault::Reset);
    stand(&service, &id, "connected", &[5]).await;
    for number in 6..=8 {
        drop(again);
        stand(&service, &id, "connected", &[]).await;
        again = RawGateway::connect(&service, service.port, &key).await;
        publish(&service, &id, number..=number).await;
        handles(&mut again, number..=number).await;
        stand(&service, &id, "connected", &[number]).await;
    }
}
