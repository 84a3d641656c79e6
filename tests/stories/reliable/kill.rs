//! SIGKILL of the service: a gateway that ignores repeats has applied each event exactly once, in
//! order.

use serde_json::json;

use super::peer::{Got, Peer};
use super::resume::publish;
use crate::both_databases::{On, on_both};

on_both! {
    each_event_is_applied_once_and_in_order_although_the_service_is_killed
}

const ROUNDS: i64 = 4;
const PER_ROUND: i64 = 60;

async fn each_event_is_applied_once_and_in_order_although_the_service_is_killed(on: On) {
    let mut service = on.start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "1000")]).await;
    let (id, key) = service.gateway("one").await;
    // The gateway's own state: the last sequence that it has applied.
    let mut applied = 0;
    for round in 0..ROUNDS {
        publish(&service, &id, round * PER_ROUND + 1, (round + 1) * PER_ROUND).await;
        let mut peer = Peer::greet(&service, &key).await;
        peer.hello(json!({"instance": "a", "window": 16})).await;
        let is_last = round + 1 == ROUNDS;
        let until = if is_last { ROUNDS * PER_ROUND } else { round * PER_ROUND + 31 + round * 7 };
        let mut seen = None;
        while applied < until {
            let Got::Frame(frame) = peer.next().await else { panic!("closed") };
            match frame["type"].as_str() {
                Some("connection.resumed") => seen = frame["from"].as_i64(),
                Some("delivery.mark") => seen = frame["sequence"].as_i64(),
                _ => {
                    assert_eq!(frame["previous"].as_i64(), seen, "a loss: {frame}");
                    let sequence = frame["sequence"].as_i64().expect("a number");
                    seen = Some(sequence);
                    if sequence > applied {
                        assert_eq!(sequence, applied + 1, "each event in order");
                        applied = sequence;
                    }
                    if sequence % 5 == 0 {
                        peer.applied(sequence).await;
                    }
                }
            }
        }
        if !is_last {
            service.kill().await;
            service.restart().await;
        }
    }
    assert_eq!(applied, ROUNDS * PER_ROUND);
}
