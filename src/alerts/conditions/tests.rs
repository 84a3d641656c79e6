//! Groups, thresholds and sentences.

use super::*;
use crate::alerts::rules::built_ins;
use crate::event::NodeId;
use crate::store::NodeHealth;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_micros(secs * 1_000_000)
}

fn gateway(name: &str, region: Option<&str>) -> WatchedGateway {
    let labels = region.map(|region| ("region".to_owned(), region.to_owned()));
    WatchedGateway {
        id: GatewayId::new(),
        name: name.to_owned(),
        labels: labels.into_iter().collect(),
        is_stopped: false,
        is_connected: false,
        left_at: at(100),
        pending: 0,
        oldest_pending_at: None,
        dead_letters: 0,
    }
}

fn rule(kind: AlertKind) -> AlertRuleDefinition {
    AlertRuleDefinition { kind, ..built_ins()["gateway-away"].clone() }
}

#[test]
fn two_hundred_gateways_of_a_region_are_one_finding_that_names_twenty() {
    let mut gateways: Vec<_> = (0..200).map(|n| gateway(&format!("g{n:03}"), Some("eu"))).collect();
    gateways.push(gateway("us-1", Some("us")));
    gateways.push(gateway("nowhere", None));
    let rule =
        AlertRuleDefinition { group_by: Some("region".to_owned()), ..rule(AlertKind::GatewayAway) };
    let found = grouped(&rule, &gateways, |it| u64::from(is_away(it, at(200))));
    assert_eq!(found.groups.keys().collect::<Vec<_>>(), ["", "eu", "us"]);
    let eu = &found.groups["eu"];
    assert_eq!((eu.count, eu.shown().gateways.len()), (200, NAMED));
    assert_eq!(
        eu.summary,
        "200 gateways have been away for more than 5 min: g000, g001, g002, g003, g004 and 195 more"
    );
    let us = &found.groups["us"].summary;
    assert_eq!(us, "1 gateway has been away for more than 5 min: us-1");
    assert!(found.is_selecting("eu") && !found.is_selecting("mars"));
}

#[test]
fn many_groups_become_one() {
    let gateways: Vec<_> =
        (0..MAX_GROUPS + 50).map(|n| gateway("g", Some(&format!("r{n:04}")))).collect();
    let rule =
        AlertRuleDefinition { group_by: Some("region".to_owned()), ..rule(AlertKind::GatewayAway) };
    let found = grouped(&rule, &gateways, |_| 1);
    assert_eq!(found.groups.len(), MAX_GROUPS + 1);
    assert_eq!(found.groups[OTHERS].count, 50);
    assert!(found.is_selecting(OTHERS));
}

#[test]
fn a_gateway_is_away_or_behind_only_if_it_should_be_served() {
    let one = gateway("one", None);
    assert!(is_away(&one, at(101)) && !is_away(&one, at(100)), "longer than the limit");
    assert!(!is_away(&WatchedGateway { is_stopped: true, ..one.clone() }, at(500)));
    let connected = WatchedGateway { is_connected: true, ..one };
    assert!(!is_away(&connected, at(500)));

    let behind = WatchedGateway { pending: 10, oldest_pending_at: Some(at(100)), ..connected };
    let mut limits = rule(AlertKind::GatewayBehind);
    (limits.threshold, limits.window_seconds) = (Some(10), None);
    assert!(!is_behind(&behind, &limits, at(500)));
    limits.threshold = Some(9);
    assert!(is_behind(&behind, &limits, at(500)));
    (limits.threshold, limits.window_seconds) = (None, Some(60));
    assert!(is_behind(&behind, &limits, at(101)) && !is_behind(&behind, &limits, at(100)));
    assert!(!is_behind(&WatchedGateway { is_stopped: true, ..behind }, &limits, at(101)));
}

#[test]
fn failures_count_above_the_threshold_and_dead_letters_from_it_on() {
    let gateways = [gateway("a", None), gateway("b", None)];
    let mut failures = rule(AlertKind::DeliveryFailures);
    failures.threshold = Some(4);
    assert!(grouped(&failures, &gateways, |_| 2).groups.is_empty());
    let found = grouped(&failures, &gateways, |_| 3);
    assert_eq!(found.groups[""].summary, "6 deliveries failed within 5 min, at a, b");
    let mut dead = rule(AlertKind::DeadLetters);
    dead.threshold = Some(4);
    assert_eq!(grouped(&dead, &gateways, |_| 2).groups[""].summary, "4 dead letters, of a, b");
}

#[test]
fn a_lost_node_is_found_until_another_one_starts_on_its_host() {
    let node = |host: &str, started: i64, lost: Option<i64>| NodeCondition {
        id: NodeId::new(),
        host: Some(host.to_owned()),
        started_at: at(started),
        heartbeat_at: at(started + 10),
        stopped_at: None,
        lost_at: lost.map(at),
        health: NodeHealth::default(),
    };
    let gone = node("h1", 100, Some(150));
    let other = node("h2", 100, None);
    let texts = lost(&[gone.clone(), other.clone()], at(120));
    assert!(texts.len() == 1 && texts[0].ends_with("on h1 was lost"), "{texts:?}");
    assert!(lost(&[gone.clone(), other], at(151)).is_empty(), "long ago");
    assert!(lost(&[gone.clone(), node("h1", 200, None)], at(120)).is_empty(), "replaced");
    let revived = NodeCondition { heartbeat_at: at(160), ..gone };
    assert!(lost(&[revived], at(120)).is_empty(), "it lived on");
}

#[test]
fn a_disk_is_measured_in_percent_of_its_size() {
    let mut limit = rule(AlertKind::DiskSpace);
    limit.threshold = Some(10);
    let node = |free: i64| NodeCondition {
        id: NodeId::new(),
        host: Some("h1".to_owned()),
        started_at: at(100),
        heartbeat_at: at(200),
        stopped_at: None,
        lost_at: None,
        health: NodeHealth {
            disk_free: Some(free),
            disk_total: Some(1000),
            ..NodeHealth::default()
        },
    };
    assert!(disks(&[node(100)], at(210), &limit).is_empty());
    assert_eq!(disks(&[node(99)], at(210), &limit), ["9 % are free on the disk of h1"]);
    assert!(disks(&[node(99)], at(900), &limit).is_empty(), "an old measurement");
}
