//! Compares the scan with a plain reference over random histories.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::dialect::RetentionStatements as _;
use super::super::dialect::delivery_filter::{Matching, ScanPosition};
use super::super::fixture::{Database, Made, ORGANISATION, OTHER, at};
use super::*;
use crate::clock::{TimeWindow, Timestamp};
use crate::event::Reason;
use crate::store::{DeliveryState, Outcome, SummaryBy};

const REASONS: [Reason; 3] = [Reason::NotConnected, Reason::ConnectionLost, Reason::Expired];
const TYPES: [&str; 2] = ["api.deployed", "api.deleted"];
const END: i64 = 60;

/// A history, kept in memory beside the database.
struct History {
    gateways: Vec<(i64, GatewayId)>,
    foreign: i64,
    events: BTreeMap<DeliveryKey, usize>,
    attempts: Vec<(i64, Made)>,
}

impl History {
    async fn make(database: &mut Database, random: &mut fastrand::Rng) -> Self {
        let mut gateways = Vec::new();
        for name in ["a", "b", "c"] {
            let (key, id) = database.gateway(ORGANISATION, name).await;
            gateways.push((key.0, id));
        }
        let foreign = database.gateway(OTHER, "a").await.0.0;
        let mut heads: BTreeMap<i64, i64> = BTreeMap::new();
        let mut events = BTreeMap::new();
        for nth in 0..random.usize(1..40) {
            let to: Vec<i64> =
                gateways.iter().map(|(key, _)| *key).filter(|_| random.bool()).collect();
            let (id, correlation) = (format!("e{nth}"), format!("c{}", nth % 5));
            database.append(ORGANISATION, &to, &id, TYPES[nth % 2], &correlation).await;
            for gateway in to {
                let head = heads.entry(gateway).or_default();
                *head += 1;
                events.insert(DeliveryKey::new(gateway, *head), nth);
            }
        }
        database.append(OTHER, &[foreign], "e0", TYPES[0], "c0").await;
        let mut history = Self { gateways, foreign, events, attempts: Vec::new() };
        for _ in 0..random.usize(0..60) {
            history.attempt(database, random).await;
        }
        for (gateway, head) in heads {
            let floor = random.i64(0..=head / 3);
            database.trim(gateway, floor).await;
            history.events.retain(|key, _| key.gateway.0 != gateway || key.sequence.0 > floor);
        }
        history
    }

    /// Adds an attempt anywhere in the log, at any time.
    async fn attempt(&mut self, database: &mut Database, random: &mut fastrand::Rng) {
        let gateway = if random.u8(0..10) == 0 {
            self.foreign
        } else {
            self.gateways[random.usize(0..self.gateways.len())].0
        };
        let first = random.i64(1..=20);
        let failed = random.u8(0..4) > 0;
        let made = Made {
            gateway,
            first,
            last: first + random.i64(0..8),
            outcome: if failed { "failed" } else { "received" },
            reason: failed.then(|| REASONS[random.usize(0..3)].as_str()),
            finished_at: random.i64(0..END),
        };
        let attempt = database.attempt(made).await;
        self.attempts.push((attempt, made));
    }

    /// The expected result, computed directly from the definition.
    fn failed(&self, filter: &DeliveryFilter) -> Vec<DeliveryKey> {
        let mut newest: BTreeMap<DeliveryKey, ScanPosition> = BTreeMap::new();
        for (attempt, made) in &self.attempts {
            let of_gateway = |(key, id): &(i64, GatewayId)| {
                *key == made.gateway && filter.gateway_id.is_none_or(|wanted| wanted == *id)
            };
            let finished_at = at(made.finished_at);
            if made.outcome != "failed"
                || !self.gateways.iter().any(of_gateway)
                || !filter.window.contains(finished_at)
                || filter.reason.is_some_and(|reason| Some(reason.as_str()) != made.reason)
            {
                continue;
            }
            for sequence in made.first..=made.last {
                let key = DeliveryKey::new(made.gateway, sequence);
                if !self.event_matches(filter, key) {
                    continue;
                }
                let position = ScanPosition { finished_at, attempt: *attempt, sequence };
                let newest = newest.entry(key).or_insert(position);
                *newest = position.max(*newest);
            }
        }
        let mut rows: Vec<(ScanPosition, DeliveryKey)> =
            newest.into_iter().map(|(key, at)| (at, key)).collect();
        rows.sort_unstable_by(|a, b| b.cmp(a));
        rows.into_iter().map(|(_, key)| key).collect()
    }

    fn event_matches(&self, filter: &DeliveryFilter, key: DeliveryKey) -> bool {
        let event = self.events.get(&key);
        let has = |wanted: Option<String>, of: &dyn Fn(usize) -> String| {
            wanted.is_none_or(|wanted| event.is_some_and(|nth| of(*nth) == wanted))
        };
        has(filter.event_type.as_ref().map(ToString::to_string), &|nth| TYPES[nth % 2].to_owned())
            && has(filter.event_id.as_ref().map(ToString::to_string), &|nth| format!("e{nth}"))
            && has(filter.correlation_id.as_ref().map(ToString::to_string), &|nth| {
                format!("c{}", nth % 5)
            })
    }

    fn filter(&self, random: &mut fastrand::Rng) -> DeliveryFilter {
        let mut some = |one_in: u8| random.u8(0..one_in) == 0;
        let chosen = [some(3), some(3), some(3), some(3), some(3), some(6), some(6)];
        let from = chosen[0].then(|| random.i64(0..END));
        let to = chosen[1].then(|| random.i64(from.unwrap_or(0)..END) + 1);
        DeliveryFilter {
            window: TimeWindow::between(from.map(at), to.map(at)).unwrap(),
            gateway_id: chosen[2].then(|| self.gateways[random.usize(0..3)].1),
            event_type: chosen[3].then(|| TYPES[random.usize(0..2)].parse().unwrap()),
            reason: chosen[4].then(|| REASONS[random.usize(0..3)]),
            event_id: chosen[5].then(|| format!("e{}", random.u8(0..40)).parse().unwrap()),
            correlation_id: chosen[6].then(|| format!("c{}", random.u8(0..5)).parse().unwrap()),
        }
    }
}

#[tokio::test]
async fn every_filter_returns_what_its_definition_says_while_rows_arrive() {
    for seed in (0..12).chain([fastrand::u64(..)]) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut database = Database::new().await;
        let mut history = History::make(&mut database, &mut random).await;
        for _ in 0..25 {
            let filter = history.filter(&mut random);
            let expected = history.failed(&filter);
            let limit = random.usize(1..10);
            let (mut found, mut cursor) = (Vec::new(), None);
            loop {
                let conn = &mut database.conn;
                let page =
                    failed_deliveries(conn, ORGANISATION, &filter, cursor, limit).await.unwrap();
                assert!(page.rows.len() <= limit, "seed {seed}");
                found.extend(page.rows.iter().map(|row| {
                    let of = |(_, id): &&(i64, GatewayId)| *id == row.gateway_id;
                    let gateway = history.gateways.iter().find(of).unwrap().0;
                    DeliveryKey::new(gateway, row.sequence.0)
                }));
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
                if random.u8(0..4) == 0 {
                    history.attempt(&mut database, &mut random).await;
                }
            }
            assert_eq!(found, expected, "seed {seed}, {filter:?}, limit {limit}");
        }
    }
}

#[tokio::test]
async fn a_scan_with_a_small_bound_per_call_returns_the_same_deliveries() {
    for seed in 100..106 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut database = Database::new().await;
        let history = History::make(&mut database, &mut random).await;
        let filter = DeliveryFilter::default();
        let matching = Matching::new(&mut database.conn, ORGANISATION, &filter).await.unwrap();
        let (mut found, mut start, mut calls) = (Vec::new(), ScanPosition::START, 0);
        loop {
            let page =
                scan::keys(&mut database.conn, &matching, i64::MAX, start, 100, 3).await.unwrap();
            assert!(page.keys.len() <= 3, "seed {seed}: the bound does not bind");
            found.extend(page.keys);
            calls += 1;
            let Some(next) = page.next else { break };
            assert!(next < start, "seed {seed}: no progress");
            start = next;
        }
        assert_eq!(found, history.failed(&filter), "seed {seed}");
        assert!(found.len() < 4 || calls > 1, "seed {seed}");
    }
}

#[tokio::test]
async fn a_deliverys_state_follows_from_cursor_and_dead_letters() {
    let mut database = Database::new().await;
    let (gateway, _) = database.gateway(ORGANISATION, "a").await;
    for nth in 0..4 {
        database.append(ORGANISATION, &[gateway.0], &format!("e{nth}"), TYPES[0], "c").await;
    }
    let failed = |first, last, finished_at| Made {
        gateway: gateway.0,
        first,
        last,
        outcome: "failed",
        reason: Some("connection_lost"),
        finished_at,
    };
    database.attempt(failed(1, 4, 10)).await;
    database.attempt(failed(2, 2, 20)).await;
    let received = Made { outcome: "received", reason: None, ..failed(1, 3, 30) };
    database.attempt(received).await;
    database.cursor(gateway.0, 3).await;
    database.dead(gateway.0, 2, 2).await;
    let keys: Vec<_> = (1..=4).map(|sequence| DeliveryKey::new(gateway.0, sequence)).collect();
    let rows = details::deliveries(&mut database.conn, &keys).await.unwrap();
    let states: Vec<_> = rows.iter().map(|row| (row.state, row.delivered_since)).collect();
    assert_eq!(
        states,
        [
            (DeliveryState::Delivered, true),
            (DeliveryState::Failed, false),
            (DeliveryState::Delivered, true),
            (DeliveryState::Pending, false),
        ]
    );
    let second = &rows[1];
    assert_eq!((second.failures, second.attempts.len()), (2, 3));
    assert_eq!(second.first_failure_at, Some(at(10)));
    assert_eq!(
        (second.last_failure_at, second.reason),
        (Some(at(20)), Some(Reason::ConnectionLost))
    );
    assert_eq!(second.attempts[2].outcome, Outcome::Received);
}

#[tokio::test]
async fn only_the_newest_hundred_attempts_are_returned() {
    let mut database = Database::new().await;
    let (gateway, _) = database.gateway(ORGANISATION, "a").await;
    database.append(ORGANISATION, &[gateway.0], "e", TYPES[0], "c").await;
    for finished_at in 1..=103 {
        let reason = Some("shutdown");
        let made =
            Made { gateway: gateway.0, first: 1, last: 1, outcome: "failed", reason, finished_at };
        database.attempt(made).await;
    }
    let rows =
        details::deliveries(&mut database.conn, &[DeliveryKey::new(gateway.0, 1)]).await.unwrap();
    let times: Vec<_> = rows[0].attempts.iter().map(|attempt| attempt.finished_at).collect();
    assert_eq!(times, (4..=103).map(at).collect::<Vec<_>>());
    assert_eq!((rows[0].failures, rows[0].attempt_count), (103, 103));
    assert_eq!((rows[0].first_failure_at, rows[0].last_failure_at), (Some(at(1)), Some(at(103))));
}

#[tokio::test]
async fn failures_behind_a_hundred_later_attempts_are_still_counted() {
    let mut database = Database::new().await;
    let (gateway, _) = database.gateway(ORGANISATION, "a").await;
    database.append(ORGANISATION, &[gateway.0], "e", TYPES[0], "c").await;
    for finished_at in 1..=120 {
        let reason = (finished_at <= 2).then_some("connection_lost");
        let outcome = if reason.is_some() { "failed" } else { "unknown" };
        let made = Made { gateway: gateway.0, first: 1, last: 1, outcome, reason, finished_at };
        database.attempt(made).await;
    }
    let rows =
        details::deliveries(&mut database.conn, &[DeliveryKey::new(gateway.0, 1)]).await.unwrap();
    let row = &rows[0];
    assert_eq!((row.failures, row.attempt_count, row.attempts.len()), (2, 120, 100));
    assert_eq!((row.first_failure_at, row.last_failure_at), (Some(at(1)), Some(at(2))));
    assert_eq!(row.reason, Some(Reason::ConnectionLost));
}

#[tokio::test]
async fn a_summary_counts_deliveries_not_rows() {
    let mut database = Database::new().await;
    let (gateway, id) = database.gateway(ORGANISATION, "a").await;
    let (foreign, _) = database.gateway(OTHER, "a").await;
    for nth in 0..4 {
        database.append(ORGANISATION, &[gateway.0], &format!("e{nth}"), TYPES[nth % 2], "c").await;
    }
    for (gateway, first, last, finished_at) in [
        (gateway.0, 1, 4, 105),
        (gateway.0, 2, 2, 109),
        (gateway.0, 1, 1, 110),
        (foreign.0, 1, 1, 105),
    ] {
        let reason = Some("shutdown");
        database
            .attempt(Made { gateway, first, last, outcome: "failed", reason, finished_at })
            .await;
    }
    database.trim(gateway.0, 1).await;
    let mut rows = Vec::new();
    for by in [SummaryBy::Reason, SummaryBy::Gateway, SummaryBy::Type] {
        let bucket = Duration::from_micros(10);
        let found = summary::failure_summary(
            &mut database.conn,
            ORGANISATION,
            TimeWindow::new(at(100), at(200)).unwrap(),
            bucket,
            by,
        );
        rows.push(
            found
                .await
                .unwrap()
                .into_iter()
                .map(|row| (row.from.micros(), row.key, row.count))
                .collect::<Vec<_>>(),
        );
    }
    let row = |from, key: &str, count| (from, key.to_owned(), count);
    assert_eq!(rows[0], [row(100, "shutdown", 5), row(110, "shutdown", 1)]);
    assert_eq!(rows[1], [row(100, &id.to_string(), 5), row(110, &id.to_string(), 1)]);
    let by_type =
        [row(100, "", 1), row(100, "api.deleted", 3), row(100, "api.deployed", 1), row(110, "", 1)];
    assert_eq!(rows[2], by_type);
}

/// Attempts that begin and end at random times and are removed at random, as by retention, with
/// their counts merged now and then.
#[tokio::test]
async fn counts_of_minutes_agree_with_the_attempts() {
    const LAST: i64 = 200 * 60_000_000;
    for seed in (0..4).chain([fastrand::u64(..)]) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut database = Database::new().await;
        let (own, foreign) =
            (database.gateway(ORGANISATION, "a").await.0.0, database.gateway(OTHER, "a").await.0.0);
        for _ in 0..random.usize(1..120) {
            let first = random.i64(1..50);
            let outcome = if random.u8(..) < 200 { "failed" } else { "unknown" };
            let reason = random.choice(REASONS).unwrap().as_str();
            let made = Made {
                gateway: if random.u8(..) < 200 { own } else { foreign },
                first,
                last: first + random.i64(0..5),
                outcome,
                reason: (outcome == "failed").then_some(reason),
                finished_at: random.i64(0..LAST),
            };
            database.attempt(made).await;
            if random.u8(..) < 30 {
                let before = random.i64(0..LAST / 4);
                let gone = "delete from attempts where finished_at < $1";
                sqlx::query(gone).bind(at(before)).execute(&mut database.conn).await.unwrap();
            }
            if random.u8(..) < 30 {
                let (now, batch) = (at(random.i64(0..LAST)), random.i64(1..20));
                database.conn.merge_failure_counts(now, batch).await.unwrap();
            }
        }
        for _ in 0..20 {
            let from = random.i64(0..LAST);
            let window = TimeWindow::new(at(from), at(random.i64(from..LAST) + 1)).unwrap();
            let minutes = random.u64(1..90);
            let mut totals = Vec::new();
            for (by, bucket) in [
                (SummaryBy::Reason, Duration::from_mins(minutes)),
                (SummaryBy::Gateway, Duration::from_mins(minutes)),
            ] {
                let conn = &mut database.conn;
                let found = summary::failure_summary(conn, ORGANISATION, window, bucket, by).await;
                let mut buckets: BTreeMap<Timestamp, i64> = BTreeMap::new();
                for row in found.unwrap() {
                    *buckets.entry(row.from).or_default() += row.count;
                }
                totals.push(buckets);
            }
            assert_eq!(totals[0], totals[1], "seed {seed}, {window:?}, {minutes} minutes");
        }
        let now = at(LAST + 60_000_000);
        while database.conn.merge_failure_counts(now, 7).await.unwrap() > 0 {}
        let each: Vec<(i64, i64)> = sqlx::query_as(
            "select cast(count(*) as bigint), cast(min(count) as bigint) from failure_counts
             group by organisation, minute, reason",
        )
        .fetch_all(&mut database.conn)
        .await
        .unwrap();
        let is_merged = each.iter().all(|(rows, least)| *rows == 1 && *least > 0);
        assert!(is_merged, "seed {seed}: {each:?}");
    }
}
