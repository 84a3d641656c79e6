//! The client over every transport: outcomes, gaps, a killed service, and options that a transport does
//! not have.

use std::time::Duration;

use gateway_events::client::reliable::{
    ClientError, Confirm, GapReason, NackCode, Options, Outcome,
};

use super::recorder::{Gateway, Observation, Outcomes, publish};
use crate::both_databases::{Backend, on_both};
use crate::support::Service;
use crate::transports::Kind;

on_both! {
    client_survives_a_restart_and_rejects_events_over_every_transport
}

const KINDS: [Kind; 4] = [Kind::WebSocket, Kind::Sse, Kind::LongPoll, Kind::Grpc];

async fn client_survives_a_restart_and_rejects_events_over_every_transport(backend: Backend) {
    for kind in KINDS {
        let backend = backend.fresh();
        let mut service = backend.start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "1000")]).await;
        let (id, key) = service.gateway("one").await;
        publish(&service, &id, 5).await;
        let (after, detail) = (Duration::from_millis(20), Some("why".to_owned()));
        let retry = Outcome::RetryAfter { after, code: NackCode::Overloaded, detail: None };
        let reject = Outcome::Reject { code: NackCode::Unsupported, detail };
        let outcomes =
            Outcomes::from([(2, (Duration::ZERO, retry)), (4, (Duration::ZERO, reject))]);
        let position = service.directory().join("position");
        // A position in another log leads to a snapshot first.
        let other = r#"{"format":1,"position":{"epoch":"01890a5d-ac96-774b-bcce-b302099a8057","sequence":40}}"#;
        let options = Options::default();
        let mut gateway =
            Gateway::start_over(kind, &service, &key, position.clone(), outcomes, options);
        let mut applied = Vec::new();
        while applied.len() < 4 {
            applied.push(gateway.applied().await.0);
        }
        assert_eq!(applied, [1, 2, 3, 5], "{kind:?}");
        let path = format!("/gateways/{id}");
        service.eventually(&path, |gateway| gateway["confirmed"] == 5).await;
        service.kill().await;
        service.restart().await;
        publish(&service, &id, 5).await;
        for sequence in 6..=10 {
            assert_eq!(gateway.applied().await.0, sequence, "{kind:?}");
        }
        gateway.stop().await;
        service.eventually(&path, |gateway| gateway["confirmed"] == 10).await;

        std::fs::write(&position, other).expect("written");
        let options = Options::default();
        let mut gateway =
            Gateway::start_over(kind, &service, &key, position, Outcomes::new(), options);
        let gap = loop {
            match gateway.next().await {
                Observation::Snapshot(gap) => break gap,
                Observation::Applied(sequence, _) => {
                    panic!("{kind:?}: {sequence} came before the snapshot")
                }
                Observation::Notice(_) => {}
            }
        };
        assert_eq!((gap.reason, gap.resume_at.0), (GapReason::Epoch, 10), "{kind:?}");
        publish(&service, &id, 1).await;
        assert_eq!(gateway.applied().await.0, 11, "{kind:?}");
        gateway.stop().await;
    }
}

#[tokio::test]
async fn options_that_long_polling_does_not_have_end_the_client() {
    let service = Service::start().await;
    let (_, key) = service.gateway("one").await;
    let position = service.directory().join("position");
    let types = Some(vec!["api.deployed".parse().expect("a type")]);
    for options in [
        Options { confirm: Confirm::Received, ..Options::default() },
        Options { types, ..Options::default() },
    ] {
        let outcomes = Outcomes::new();
        let gateway = Gateway::start_over(
            Kind::LongPoll,
            &service,
            &key,
            position.clone(),
            outcomes,
            options,
        );
        let ended = gateway.end().await;
        assert!(matches!(ended, Err(ClientError::Unsupported(_))), "{ended:?}");
    }
}

#[tokio::test]
async fn a_client_with_an_unknown_key_stops_over_every_transport() {
    let service = Service::start().await;
    for kind in KINDS {
        let position = service.directory().join("position");
        let (outcomes, options) = (Outcomes::new(), Options::default());
        let gateway =
            Gateway::start_over(kind, &service, "gwk_nonsense", position, outcomes, options);
        let ended = gateway.end().await;
        assert!(matches!(ended, Err(ClientError::Refused(401))), "{kind:?}: {ended:?}");
    }
}
