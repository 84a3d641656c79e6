//! The inbox with crashes, long transactions and a damaged log.

use gateway_events::client::api::ApiError;
use gateway_events::store::sqlite::verify::verify;
use sqlx::Connection as _;

use crate::conformance::{InboxProgram as _, Row};
use crate::inbox_program::{Program, deployed, insert};
use crate::support::{Service, deployed as posted};

const ROUNDS: u64 = 20;

/// SQLite has one writer at a time: while another program's transaction is open, nothing can be
/// stored, and publishers must retry.
#[tokio::test]
async fn a_long_transaction_of_another_program_delays_publishers_and_loses_nothing() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let socket = service.connected(&key).await.serve();
    let program = Program::start(&service.database()).await;
    let held = {
        let mut connection = program.connection().await;
        let mut transaction = connection.begin_with("begin immediate").await.expect("its turn");
        let held = insert(&mut transaction, &deployed(&id, "held")).await;
        let api = service.api();
        let publishers = (0..8).map(|n| {
            let (api, event) = (api.clone(), posted(&[&id], &format!("d-{n}")));
            tokio::spawn(async move { api.post("/events", &event).await })
        });
        let publishers: Vec<_> = publishers.collect();
        for publisher in publishers {
            let refused = publisher.await.expect("a publisher").expect_err("nothing can be stored");
            let ApiError::Refused(problem) = refused else {
                panic!("no answer: {refused}");
            };
            assert_eq!((problem.status, &*problem.code), (503, "unavailable"), "{problem:?}");
            assert!(problem.retry_after_secs.is_some(), "{problem:?}");
        }
        // Reads continue.
        let gateway = service.api().get(&format!("/gateways/{id}")).await.expect("readable");
        assert_eq!((&gateway["head"], &gateway["connected"]), (&0.into(), &true.into()));
        transaction.commit().await.expect("committed");
        held
    };
    let after = format!("/gateways/{id}");
    service.eventually(&after, |gateway| gateway["confirmed"] == 1).await;
    service.api().post("/events", &posted(&[&id], "after")).await.expect("accepted again");
    service.eventually(&after, |gateway| gateway["confirmed"] == 2).await;
    assert_eq!(program.log(&id).await[0], held);
    let connections = service.api().get(&format!("{after}/connections")).await.expect("a list");
    assert_eq!(connections["count"], 1, "the socket outlived it: {connections:#}");
    socket.abort();
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "the seed is shown when the test fails")]
async fn every_committed_row_is_in_the_log_once_and_in_order_after_kills() {
    let seed = std::env::var("STORY_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    // Printed if the test fails.
    println!("STORY_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut service = Service::start_with(&[("LIMITS__ATTEMPTS_PER_MINUTE", "1000")]).await;
    let (id, key) = service.gateway("one").await;
    let stop = tokio_util::sync::CancellationToken::new();
    let inserting = {
        let (program, id, stop) =
            (Program::start(&service.database()).await, id.clone(), stop.clone());
        let mut random = random.fork();
        tokio::spawn(async move {
            let (mut good, mut bad) = (Vec::new(), 0);
            while !stop.is_cancelled() {
                let mut rows: Vec<_> = (0..random.usize(1..60))
                    .map(|nth| deployed(&id, &format!("d-{}", good.len() + nth)))
                    .collect();
                // At a random position among the valid ones.
                let place = random.usize(0..rows.len());
                rows.insert(
                    place,
                    Row { event_type: "not.registered".to_owned(), ..rows[0].clone() },
                );
                // A backlog that is large enough for the test.
                program.wait_for_room(1500).await;
                let mut ids = program.insert(&rows).await;
                ids.remove(place);
                good.extend(ids);
                bad += 1;
            }
            (good, bad)
        })
    };
    let watching = Program::start(&service.database()).await;
    let mut head = 0;
    for _ in 0..ROUNDS {
        // The moment of the kill is random.
        let enough = head + random.i64(1..400);
        head = watching.wait_for_head(&id, enough).await;
        service.kill().await;
        service.restart().await;
    }
    stop.cancel();
    let (committed, bad) = inserting.await.expect("the other program");
    let total = i64::try_from(committed.len()).expect("a number");
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["head"] == total).await;
    assert_eq!(watching.log(&id).await, committed);
    let mut socket = service.connected(&key).await;
    let events = socket.expect(1..=total).await;
    assert!(events.iter().zip(&committed).all(|(event, id)| event["eventId"] == id.as_str()));
    drop(socket);
    service.kill().await;
    drop(watching);
    let report = verify(&service.database()).await.expect("readable");
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
    assert_eq!((report.events, report.inbox, report.rejected), (total, 0, bad));
}

/// Rows that are valid but that the log refuses.
#[tokio::test]
async fn a_row_that_the_log_refuses_is_rejected_and_the_others_are_delivered() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let (headless, _) = service.gateway("headless").await;
    let (rewound, _) = service.gateway("rewound").await;
    let mut socket = service.connected(&key).await;
    let program = Program::start(&service.database()).await;
    program.insert(&[deployed(&rewound, "d-0")]).await;
    program.wait_for_head(&rewound, 1).await;
    for damage in [
        "pragma foreign_keys = off",
        "delete from streams where gateway = (select gateway from gateways where name = 'headless')",
        "update streams set head = 0, missed = 0
         where gateway = (select gateway from gateways where name = 'rewound')",
    ] {
        sqlx::query(damage).execute(&mut *program.connection().await).await.expect("damaged");
    }
    let rows = [
        deployed(&id, "d-1"),
        deployed(&headless, "d"),
        deployed(&id, "d-2"),
        deployed(&rewound, "d"),
        deployed(&id, "d-3"),
    ];
    program.insert(&rows).await;
    socket.expect(1..=3).await;
    let page = service.eventually("/inbox/rejected", |page| page["count"] == 2).await;
    for (row, gateway) in page["list"].as_array().expect("two").iter().zip([rewound, headless]) {
        assert_eq!((&row["reason"], &row["gatewayId"]), (&"internal".into(), &gateway.into()));
    }
}
