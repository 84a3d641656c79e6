//! Failover of the database while the service runs: two servers with streaming replication, and a
//! URL that lists both.

#![expect(clippy::print_stdout, reason = "how long it took, with --nocapture")]

use std::time::Duration;

use crate::lost_sessions::recovers;
use crate::server::{Database, Server};
use crate::support::command::{command, run};
use crate::support::{Service, TEST_TIMEOUT, deployed};

fn ports(database: &Database, standby: &Server) -> String {
    format!("127.0.0.1:{},localhost:{}", database.own_server().port(), standby.port())
}

/// The URL of a database on either server.
fn url(database: &Database, standby: &Server) -> String {
    let hosts = ports(database, standby);
    format!("postgres://postgres@{hosts}/{}?target_session_attrs=read-write", database.name())
}

async fn service(database: &Database, standby: &Server) -> (Service, String) {
    let url = url(database, standby);
    let service = Service::start_with(&[("DATABASE__URL", &url)]).await;
    let (id, _) = service.gateway("one").await;
    let event = deployed(&[&id], "d-0");
    service.api().post("/events", &event).await.expect("accepted");
    (service, id)
}

/// Waits until a condition is true on a server.
async fn until(server: &Server, database: &str, condition: &str) {
    let asked = format!("do $$ begin if not ({condition}) then raise 'not yet'; end if; end $$");
    let mut polls = tokio::time::interval(Duration::from_millis(100));
    let reached = tokio::time::timeout(TEST_TIMEOUT, async {
        while !server.run_quietly(database, &asked) {
            polls.tick().await;
        }
    });
    assert!(reached.await.is_ok(), "never: {condition}");
}

const OURS: &str = "select from pg_stat_activity where application_name = 'gateway-events'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_primary_is_replaced_by_its_standby_and_may_return_as_a_standby() {
    let database = Database::alone();
    let primary = database.own_server();
    let standby = primary.standby();
    let (service, id) = service(&database, &standby).await;
    // A clean stop waits until the standby has received everything.
    primary.control("stop -m fast");
    let refused = service.api().post("/events", &deployed(&[&id], "d-1")).await;
    assert_eq!(refused.expect_err("nothing takes writes").status(), Some(503));
    standby.control("promote");
    let took = recovers(&service, &id, "d-1").await;
    println!("primary stopped, standby promoted → accepted again: {took:?}");
    primary.follow(&standby);
    primary.control("start");
    recovers(&service, &id, "d-2").await;
    until(primary, "postgres", "pg_is_in_recovery()").await;
    until(primary, "postgres", &format!("not exists ({OURS})")).await;
    let gateway = service.api().get(&format!("/gateways/{id}")).await.expect("the gateway");
    assert!(gateway["head"].as_i64() >= Some(3), "{gateway:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_becomes_read_only_is_not_used_any_more() {
    let database = Database::alone();
    let primary = database.own_server();
    let standby = primary.standby();
    let (service, id) = service(&database, &standby).await;
    // Nothing is closed: the connections become read-only.
    for statement in
        ["alter system set default_transaction_read_only = on", "select pg_reload_conf()"]
    {
        assert!(primary.run("postgres", statement));
    }
    until(primary, "postgres", "current_setting('transaction_read_only') = 'on'").await;
    let mut polls = tokio::time::interval(Duration::from_millis(50));
    let api = service.api();
    let refused = tokio::time::timeout(TEST_TIMEOUT, async {
        loop {
            polls.tick().await;
            let ready = api.root("/readyz").await;
            if ready.is_err_and(|error| error.status() == Some(503)) {
                return;
            }
        }
    });
    refused.await.expect("it becomes unready");
    let refused = api.post("/events", &deployed(&[&id], "d-1")).await;
    assert_eq!(refused.expect_err("nothing takes writes").status(), Some(503));
    standby.control("promote");
    let took = recovers(&service, &id, "d-1").await;
    println!("primary read-only, standby promoted → accepted again: {took:?}");
    until(primary, "postgres", &format!("not exists ({OURS})")).await;
    // Commands that run meanwhile find the same server.
    let mut verify = command("verify");
    verify.env("GATEWAY_EVENTS__DATABASE__URL", url(&database, &standby));
    run(&mut verify).await.well();
}

#[tokio::test]
async fn a_url_may_name_an_ipv6_address_and_a_standby_is_refused_by_name() {
    let database = Database::alone();
    let primary = database.own_server();
    let migrate = async |url: &str| {
        let mut migrate = command("migrate");
        run(migrate.env("GATEWAY_EVENTS__DATABASE__URL", url)).await
    };
    let name = database.name();
    migrate(&format!("postgres://postgres@[::1]:{}/{name}", primary.port())).await.well();
    let standby = primary.standby();
    let only = format!("postgres://postgres@[::1]:{}/{name}", standby.port());
    let address = format!("[::1]:{}", standby.port());
    migrate(&only).await.failed(1, &[&address, "read-only"]);
    let wrong = format!("{only}?target_session_attrs=standby");
    migrate(&wrong).await.failed(1, &["target_session_attrs must be any, read-write or primary"]);
}
