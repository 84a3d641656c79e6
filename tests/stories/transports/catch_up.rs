//! A gateway that was away while many events were appended catches up over each transport: in order,
//! completely, and without its backlog in the memory of the service. `CATCH_UP_MIB=1000` makes the
//! backlog larger.

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

/// Few, so that the backlog is read quickly.
const EVENTS_PER_MIB: usize = 4;
/// A backlog in MiB: a multiple of what windows, pages, queues and buffers may hold.
const LARGE: u64 = 80;
/// The backlog with which the growth is compared, in MiB: enough to fill all of them.
const SMALL: u64 = 8;

async fn a_gateway_catches_up_with_bounded_memory(backend: Backend) {
    let asked = std::env::var("CATCH_UP_MIB").ok().and_then(|mib| mib.parse().ok());
    let large = asked.unwrap_or(LARGE);
    let world = Arc::new(World::served(&backend, &[]).await);
    // What the first gateway of a transport needs may stay in use.
    let first = backlogs(&world, "first", SMALL).await;
    let small = backlogs(&world, "small", SMALL).await;
    let large_ones = backlogs(&world, "large", large).await;
    for ((first, small), large_one) in first.iter().zip(&small).zip(&large_ones) {
        let began = Instant::now();
        catch_up(first, SMALL).await;
        let (for_small, for_large) =
            (catch_up(small, SMALL).await, catch_up(large_one, large).await);
        let took = began.elapsed();
        let kind = first.kind;
        let figures = format!(
            "{kind:?}: grew by {for_small} KiB for {SMALL} MiB, by {for_large} KiB for {large} MiB, in {took:.1?}"
        );
        let _ = writeln!(std::io::stderr(), "{figures}");
        // Half of what a service would need in addition that kept the backlog in memory. What the
        // allocator keeps for a while does not depend on the backlog, and is less.
        assert!(for_large < for_small + (large - SMALL) * 1024 / 2, "{figures}");
    }
}

/// A gateway for each transport, all of which have missed so many MiB.
async fn backlogs(world: &Arc<World>, name: &str, mib: u64) -> Vec<TestBed> {
    let mut beds = Vec::new();
    for kind in SERVED {
        beds.push(TestBed::new(Arc::clone(world), *kind, name).await);
    }
    let gateways: Vec<&str> = beds.iter().map(|bed| bed.id.as_str()).collect();
    let event = json!({
        "type": "gateway.config.updated",
        "gatewayIds": gateways,
        "payload": {"configType": "x".repeat(1024 * 1024 / EVENTS_PER_MIB), "action": "update"},
    });
    let batch = Value::from(vec![event; EVENTS_PER_MIB]);
    for _ in 0..mib {
        world.service().api().post("/events", &batch).await.expect("accepted");
    }
    beds
}

/// Receives and confirms a backlog; returns by how many KiB the memory of the service grew at most.
async fn catch_up(bed: &TestBed, mib: u64) -> u64 {
    let events = i64::try_from(mib).expect("few") * i64::try_from(EVENTS_PER_MIB).expect("few");
    let pid = bed.service().pid();
    // Resets the peak.
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("it runs");
    let before = peak(pid);
    let mut peer = bed.connected().await;
    for sequence in 1..=events {
        assert_eq!(peer.event(sequence).await.previous.0, sequence - 1);
        // Each one, because the window of plain mode may have room for no other.
        peer.applied(sequence).await;
    }
    bed.confirmed(events).await;
    peer.leave().await;
    // The kernel counts approximately.
    peak(pid).saturating_sub(before)
}

/// The peak of the resident memory of a process, in KiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
