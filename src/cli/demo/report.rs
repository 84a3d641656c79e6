//! The report: what was published, which gateway received what and when, what failed, and
//! whether every event arrived once and in order.

use std::collections::BTreeMap;

use gateway_events::api::{Delivery, Page};
use gateway_events::clock::Timestamp;

use super::super::delivery;
use super::super::output::{say, time};
use super::super::table::table;
use super::events::Publication;
use super::fleet::{Fleet, Member};
use super::journal::Arrival;

/// Prints the report; returns whether every event arrived once and in order.
pub(super) fn print(
    published: &[Publication],
    fleet: &Fleet,
    arrivals: &[Arrival],
    failed: &Page<Delivery>,
) -> anyhow::Result<bool> {
    say(format_args!("\nPUBLISHED\n{}", publications(published, fleet)))?;
    for member in &fleet.members {
        say(format_args!(
            "\nRECEIVED BY {}\n{}",
            member.name.to_uppercase(),
            received(member, published, arrivals)
        ))?;
    }
    say(format_args!(
        "\nFAILED ATTEMPTS, as recorded by the service (delivery failed)\n{}",
        delivery::shown(failed)
    ))?;
    let recovered = failed.list.iter().filter(|delivery| delivery.delivered_since).count();
    say(format_args!(
        "\n{} deliveries failed at least once, {recovered} of them have been delivered since.",
        failed.list.len()
    ))?;

    let faults: Vec<String> = fleet
        .members
        .iter()
        .flat_map(|member| {
            let expected = expected(member, published);
            let arrived: Vec<(i64, &str)> = arrivals
                .iter()
                .filter(|arrival| arrival.gateway == member.name)
                .map(|arrival| (arrival.sequence, arrival.event_id.as_str()))
                .collect();
            faults(member.name, &expected, &arrived)
        })
        .collect();
    for fault in &faults {
        say(format_args!("FAULT: {fault}"))?;
    }
    if faults.is_empty() {
        say("Every event arrived at each of its gateways exactly once, in order.")?;
    }
    Ok(faults.is_empty())
}

fn publications(published: &[Publication], fleet: &Fleet) -> String {
    let rows = published.iter().map(|event| {
        let stored: Vec<String> = event
            .sequences
            .iter()
            .map(|(id, sequence)| format!("{} #{sequence}", fleet.name_of(*id)))
            .collect();
        [
            shown_time(event.at),
            event.event_type.to_owned(),
            event.event_id.clone(),
            stored.join(", "),
        ]
    });
    table(["time", "type", "event", "stored for"], rows, "nothing")
}

fn received(member: &Member, published: &[Publication], arrivals: &[Arrival]) -> String {
    let sent_at: BTreeMap<&str, Timestamp> =
        published.iter().map(|event| (event.event_id.as_str(), event.at)).collect();
    let rows = arrivals.iter().filter(|arrival| arrival.gateway == member.name).map(|arrival| {
        let latency = sent_at
            .get(arrival.event_id.as_str())
            .map_or("-".to_owned(), |at| format!("{} ms", arrival.at.since(*at).as_millis()));
        [
            shown_time(arrival.at),
            format!("#{}", arrival.sequence),
            arrival.event_type.clone(),
            latency,
            arrival.connection.to_string(),
        ]
    });
    table(["time", "sequence", "type", "after", "connection"], rows, "nothing")
}

/// The expected content of a gateway's log, in order.
fn expected<'a>(member: &Member, published: &'a [Publication]) -> Vec<(i64, &'a str)> {
    let mut expected: Vec<(i64, &str)> = published
        .iter()
        .filter_map(|event| Some((*event.sequences.get(&member.id)?, event.event_id.as_str())))
        .collect();
    expected.sort_unstable();
    expected
}

/// Describes how what arrived differs from what was published.
fn faults(gateway: &str, expected: &[(i64, &str)], arrived: &[(i64, &str)]) -> Vec<String> {
    let gapless = (1_i64..).zip(expected).all(|(number, (sequence, _))| number == *sequence);
    let mut faults = Vec::new();
    if !gapless {
        faults.push(format!("the log of {gateway} is not numbered 1, 2, 3, …"));
    }
    if expected == arrived {
        return faults;
    }
    for (sequence, event) in expected {
        match arrived.iter().filter(|(number, id)| number == sequence && id == event).count() {
            0 => faults.push(format!("#{sequence} ({event}) never arrived at {gateway}")),
            1 => {}
            times => {
                faults.push(format!("#{sequence} ({event}) arrived {times} times at {gateway}"));
            }
        }
    }
    for (sequence, event) in arrived.iter().filter(|one| !expected.contains(one)) {
        faults.push(format!("#{sequence} ({event}) was not published for {gateway}"));
    }
    if !arrived.is_sorted() {
        faults.push(format!("events arrived out of order at {gateway}"));
    }
    faults
}

fn shown_time(at: Timestamp) -> String {
    let shown = time(at);
    shown.split_once('T').map_or(shown.clone(), |(_, clock)| clock.trim_end_matches('Z').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: [(i64, &str); 2] = [(1, "a"), (2, "b")];

    #[test]
    fn events_that_arrive_once_and_in_order_are_no_fault() {
        assert!(faults("g", &EXPECTED, &EXPECTED).is_empty());
    }

    #[test]
    fn lost_repeated_unexpected_and_reordered_events_are_reported() {
        for arrived in [
            vec![(1, "a")],
            vec![(1, "a"), (2, "b"), (2, "b")],
            vec![(1, "a"), (2, "b"), (3, "c")],
            vec![(2, "b"), (1, "a")],
        ] {
            assert!(!faults("g", &EXPECTED, &arrived).is_empty(), "{arrived:?}");
        }
        assert!(!faults("g", &[(2, "b")], &[(2, "b")]).is_empty());
    }
}
