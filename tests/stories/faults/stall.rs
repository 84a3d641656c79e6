//! The service does not run for a while: a virtual machine is migrated, a container is frozen, or
//! the host swaps.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustix::process::Signal;

use crate::raw_gateway::RawGateway;
use crate::support::{Service, deployed};

/// Longer than all timeouts in the settings below.
const STALL: Duration = Duration::from_secs(9);
const GATEWAYS: usize = 20;

async fn start() -> Service {
    Service::start_with(&[
        ("DELIVERY__HEARTBEAT_INTERVAL", "2s"),
        ("DELIVERY__HEARTBEAT_TIMEOUT", "6s"),
        ("DELIVERY__CONFIRMATION_TIMEOUT", "7s"),
        ("DELIVERY__WRITE_TIMEOUT", "4s"),
    ])
    .await
}

/// Live gateways, and some that answer while the service is stopped, are still connected after the
/// stall. Then each one receives and confirms an event.
#[tokio::test]
async fn a_stall_of_the_service_closes_no_living_gateway() {
    let service = start().await;
    let api = service.api();
    let mut ids = Vec::new();
    let mut idle = FuturesUnordered::new();
    let mut at_work = Vec::new();
    for number in 0..GATEWAYS {
        let (id, key) = service.gateway(&format!("gateway-{number}")).await;
        if number % 2 == 0 {
            idle.push(service.connected(&key).await.serve());
        } else {
            let mut gateway = RawGateway::connect(&service, service.port, &key).await;
            api.post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
            gateway.receipt_asked(1).await;
            at_work.push(gateway);
        }
        ids.push(id);
    }
    service.signal(Signal::STOP);
    for gateway in &mut at_work {
        gateway.pong("1").await;
    }
    let ended = tokio::time::timeout(STALL, idle.next()).await;
    assert!(ended.is_err(), "a stopped service closes nothing");
    service.signal(Signal::CONT);
    for mut gateway in at_work {
        tokio::spawn(async move { gateway.handle_until(|_| false).await });
    }
    let named: Vec<&str> = ids.iter().map(String::as_str).collect();
    api.post("/events", &deployed(&named, "d-2")).await.expect("accepted");
    for (number, id) in ids.iter().enumerate() {
        let last = 1 + number % 2;
        service.eventually(&format!("/gateways/{id}"), |one| one["confirmed"] == last).await;
        let path = format!("/gateways/{id}/connections");
        let connections = api.get(&path).await.expect("connections");
        assert_eq!(connections["count"], 1, "{connections:#}\n{}", service.log());
        assert_eq!(connections["list"][0]["status"], "connected", "{connections:#}");
    }
}

/// A gateway that has disconnected is noticed after the stall.
#[tokio::test]
async fn a_gateway_that_ended_during_the_stall_is_noticed_after_it() {
    let service = start().await;
    let (id, key) = service.gateway("silent").await;
    let _silent = RawGateway::connect(&service, service.port, &key).await;
    service.signal(Signal::STOP);
    let ended = tokio::time::timeout(STALL, std::future::pending::<()>()).await;
    assert!(ended.is_err());
    service.signal(Signal::CONT);
    let path = format!("/gateways/{id}/connections");
    let page = service.eventually(&path, |page| page["list"][0]["status"] == "closed").await;
    assert_eq!(page["list"][0]["closeReason"], "heartbeat_timeout", "{page:#}");
}
