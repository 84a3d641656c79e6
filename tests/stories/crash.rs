//! SIGKILL under load: whatever was accepted arrives, in order.

use std::collections::BTreeMap;

use crate::both::{On, on_both};
use crate::support::deployed;

on_both! {
    whatever_was_accepted_arrives_in_order_after_a_kill
}

const ROUNDS: u64 = 20;

#[expect(clippy::print_stdout, reason = "the seed is shown when the test fails")]
async fn whatever_was_accepted_arrives_in_order_after_a_kill(on: On) {
    let seed = std::env::var("STORY_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    // Shown by the test runner when this test fails.
    println!("STORY_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    // A gateway that comes back in every round is no storm.
    let mut service = on.start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "1000")]).await;
    let (id, key) = service.gateway("one").await;
    let mut accepted: BTreeMap<i64, String> = BTreeMap::new();
    let mut received: BTreeMap<i64, String> = BTreeMap::new();
    for round in 0..ROUNDS {
        let listener = service.connected(&key).await.serve();
        let (answers, mut answered) = tokio::sync::mpsc::unbounded_channel();
        let publishers: Vec<_> = (0..4)
            .map(|publisher| {
                let (api, id, answers) = (service.api(), id.clone(), answers.clone());
                tokio::spawn(async move {
                    let mut accepted = Vec::new();
                    for number in 0.. {
                        let event = deployed(&[&id], &format!("{round}-{publisher}-{number}"));
                        // The kill ends this publisher.
                        let Ok(answer) = api.post("/events", &event).await else {
                            break;
                        };
                        let sequence =
                            answer["deliveries"][0]["sequence"].as_i64().expect("a number");
                        accepted.push((sequence, answer["id"].as_str().expect("an id").to_owned()));
                        // Nobody counts any more once the kill has been decided.
                        let _ = answers.send(());
                    }
                    accepted
                })
            })
            .collect();
        // The moment of the kill is the chance that is tested.
        for _ in 0..random.u64(1..150) {
            answered.recv().await.expect("publishers publish");
        }
        service.kill().await;
        for publisher in publishers {
            accepted.extend(publisher.await.expect("a publisher"));
        }
        keep(&mut received, &listener.await.expect("the listener"));
        service.restart().await;
    }
    let gateway = service.api().get(&format!("/gateways/{id}")).await.expect("the gateway");
    let head = gateway["head"].as_i64().expect("a head");
    let mut last = service.connected(&key).await;
    while received.last_key_value().is_none_or(|(sequence, _)| *sequence < head) {
        keep(&mut received, &[last.next().await.expect("the rest")]);
    }
    let last = last.serve();
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == head).await;
    last.abort();
    assert_eq!(received.keys().copied().collect::<Vec<_>>(), (1..=head).collect::<Vec<_>>());
    for (sequence, event) in &accepted {
        assert_eq!(received.get(sequence), Some(event), "accepted as {sequence}");
    }
    service.kill().await;
    let report = on.verify(&service).await;
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
}

/// Enters what one connection received: in order, without a gap, and the same
/// event under the same number as ever.
fn keep(received: &mut BTreeMap<i64, String>, events: &[serde_json::Value]) {
    let numbers: Vec<i64> =
        events.iter().map(|event| event["sequence"].as_i64().expect("a number")).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    for (number, event) in numbers.iter().zip(events) {
        let id = event["eventId"].as_str().expect("an id").to_owned();
        let known = received.entry(*number).or_insert_with(|| id.clone());
        assert_eq!(*known, id, "one number, two events");
    }
}
