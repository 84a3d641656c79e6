//! SIGTERM finishes the current event, and a second one ends the agent at once.

use std::fs;

use rustix::process::Signal;

use super::product::{Product, status};
use super::{Agent, confirmed, is_running, program, publish, until, written};
use crate::support::Service;

/// Handles an event until the test creates a file.
const WAIT: &str = "echo $$ >pid; while [ ! -e go ]; do sleep 0.05; done; echo done >>journal";

#[tokio::test]
async fn the_first_signal_finishes_and_confirms_the_current_event() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, &["d-1", "d-2"]).await;
    let wait = program(&service, "wait", WAIT);
    let mut agent = Agent::start(&service, &key, &["--exec", &wait]);
    written(&service.directory().join("pid"), "\n").await;
    agent.signal(Signal::TERM);
    fs::write(service.directory().join("go"), "").expect("written");
    assert_eq!(agent.ended().await, Some(0), "{}", agent.log());
    confirmed(&service, &id, 1).await;
    let journal = fs::read_to_string(service.directory().join("journal")).expect("written");
    assert_eq!(journal, "done\n", "no second event was begun");
}

#[tokio::test]
async fn the_second_signal_ends_the_agent_and_its_program() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, &["d-1"]).await;
    let wait = program(&service, "wait", WAIT);
    let arguments = ["--exec", wait.as_str()];
    let mut agent = Agent::start(&service, &key, &arguments);
    let pid = written(&service.directory().join("pid"), "\n").await;
    agent.signal(Signal::TERM);
    // It is still waiting for the program, so that the signals are two.
    let closing = format!("/gateways/{id}/connections");
    service.eventually(&closing, |page| page["count"] == 1).await;
    let mut ended = None;
    while ended.is_none() {
        agent.signal(Signal::TERM);
        ended = agent.process.try_wait().expect("it runs");
        tokio::task::yield_now().await;
    }
    assert_eq!(ended.expect("it ended").code(), Some(130), "{}", agent.log());
    until(|| !is_running(&pid), || format!("the program {pid} has ended")).await;
    // The event is delivered again.
    fs::write(service.directory().join("go"), "").expect("written");
    let agent = Agent::start(&service, &key, &arguments);
    confirmed(&service, &id, 1).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_whose_product_is_unavailable_ends_on_a_signal_and_uses_no_attempt() {
    let service = Service::start_with(&[("DELIVERY__MAX_ATTEMPTS", "2")]).await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, &["d-1"]).await;
    // Nothing listens on the port of a listener that was dropped.
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr();
    let url = format!("http://{}/", port.expect("an address"));
    let path = format!("/gateways/{id}");
    for _ in 0..4 {
        let mut agent =
            Agent::start(&service, &key, &["--retry-delay", "1m", "--forward-to", &url]);
        agent.logged("the product is not available").await;
        agent.signal(Signal::TERM);
        assert_eq!(agent.ended().await, Some(0), "{}", agent.log());
        agent.logged("the event was not handed over and will be delivered again").await;
        service.eventually(&path, |gateway| gateway["connected"] == false).await;
        fs::remove_file(&agent.log).expect("a log");
    }
    let found = service.admin().get(&format!("{path}/diagnosis")).await.success();
    assert_eq!(found["deadLetters"], 0, "{found:#}");
    let product = Product::start(|_| status(200, "", "")).await;
    let agent = Agent::start(&service, &key, &["--forward-to", &product.url]);
    confirmed(&service, &id, 1).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_program_of_a_killed_agent_is_awaited() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, &["d-1"]).await;
    let text = "echo begin >>journal; echo $$ >>pid; while [ ! -e go ]; do sleep 0.05; done; echo end >>journal";
    let slow = program(&service, "slow", text);
    let agent = Agent::start(&service, &key, &["--exec", &slow]);
    let pid = written(&service.directory().join("pid"), "\n").await;
    agent.kill().await;
    assert!(is_running(&pid));
    let agent = Agent::start(&service, &key, &["--exec", &slow]);
    agent.logged("waiting for the program of an agent that was killed").await;
    fs::write(service.directory().join("go"), "").expect("written");
    confirmed(&service, &id, 1).await;
    let journal = fs::read_to_string(service.directory().join("journal")).expect("written");
    assert_eq!(journal, "begin\nend\nbegin\nend\n", "one after the other");
    agent.stop().await;
}
