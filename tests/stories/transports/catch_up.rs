//! A gateway that was away while many events were appended catches up over each transport: in order,
//! completely, and without a backlog in the memory of the service. `CATCH_UP_EVENTS=200000` appends more.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::test_bed::World;
use super::{SERVED, TestBed};
use crate::both_databases::{Backend, on_both};

on_both! {
    a_gateway_catches_up_with_bounded_memory
}

const EVENTS: i64 = 5_000;
/// The length of a member of each event, so that many events would be noticed in memory.
const PADDING: usize = 1_000;
const BATCH: i64 = 200;
/// By how many MiB the service may grow: much more than windows, pages and caches need.
const GROWTH: u64 = 96;

async fn a_gateway_catches_up_with_bounded_memory(backend: Backend) {
    let asked = std::env::var("CATCH_UP_EVENTS").ok().and_then(|events| events.parse().ok());
    let events = asked.unwrap_or(EVENTS);
    let settings =
        [("RETENTION__HARD_MAX_EVENTS", "1000000"), ("RETENTION__MAX_EVENTS", "1000000")];
    let world = Arc::new(World::served(&backend, &settings).await);
    let mut beds = Vec::new();
    for kind in SERVED {
        beds.push(TestBed::new(world.clone(), *kind, "one").await);
    }
    let gateways: Vec<&str> = beds.iter().map(|bed| bed.id.as_str()).collect();
    let event = json!({
        "type": "gateway.config.updated",
        "gatewayIds": gateways,
        "payload": {"configType": "x".repeat(PADDING), "action": "update"},
    });
    let service = world.service();
    let batch = Value::from(vec![event; usize::try_from(BATCH).expect("positive")]);
    for _ in 0..events / BATCH {
        service.api().post("/events", &batch).await.expect("accepted");
    }
    let events = events / BATCH * BATCH;
    for bed in &beds {
        let (before, began) = (resident(service.pid()), Instant::now());
        let mut peer = bed.connected().await;
        for sequence in 1..=events {
            assert_eq!(peer.event(sequence).await.previous.0, sequence - 1);
            if sequence % 25 == 0 {
                peer.applied(sequence).await;
            }
        }
        bed.confirmed(events).await;
        let (took, after) = (began.elapsed(), resident(service.pid()));
        let kind = bed.kind;
        let figures = format!(
            "{kind:?}: {events} events in {took:.1?}, {before} MiB before, {after} MiB after"
        );
        let _ = writeln!(std::io::stderr(), "{figures}");
        assert!(after < before + GROWTH, "{figures}");
    }
}

/// The resident memory of a process, in MiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}
