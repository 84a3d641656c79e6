//! The position file: one agent uses it, and a damaged one is not overwritten.

use std::fs;

use super::{Agent, confirmed, program, publish, written};
use crate::support::Service;

#[tokio::test]
async fn a_second_agent_with_the_same_file_is_refused() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let record = program(&service, "record", "echo \"$GATEWAY_EVENTS_SEQUENCE\" >>journal");
    let first = Agent::start(&service, &key, &["--exec", &record]);
    publish(&service, &id, &["d-1"]).await;
    confirmed(&service, &id, 1).await;
    let mut second = Agent::start(&service, &key, &["--exec", &record]);
    assert_eq!(second.ended().await, Some(1));
    second.logged("in use by another client; each instance needs a file of its own").await;
    publish(&service, &id, &["d-2"]).await;
    confirmed(&service, &id, 2).await;
    first.stop().await;
    assert_eq!(written(&service.directory().join("journal"), "2").await, "1\n2\n");
}

#[tokio::test]
async fn a_truncated_file_is_an_error_and_stays() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let record = program(&service, "record", "echo \"$GATEWAY_EVENTS_SEQUENCE\" >>journal");
    let agent = Agent::start(&service, &key, &["--exec", &record]);
    publish(&service, &id, &["d-1"]).await;
    confirmed(&service, &id, 1).await;
    agent.stop().await;
    let file = service.directory().join("position");
    let whole = fs::read_to_string(&file).expect("a position");
    for length in [0, whole.len() / 2] {
        fs::write(&file, &whole[..length]).expect("written");
        let mut agent = Agent::start(&service, &key, &["--exec", &record]);
        assert_eq!(agent.ended().await, Some(1));
        agent.logged("is damaged").await;
        assert_eq!(fs::read_to_string(&file).expect("a file"), whole[..length]);
    }
    // As the error says: without the file, the service's position counts.
    fs::remove_file(&file).expect("removed");
    publish(&service, &id, &["d-2"]).await;
    let agent = Agent::start(&service, &key, &["--exec", &record]);
    confirmed(&service, &id, 2).await;
    agent.stop().await;
    assert_eq!(written(&service.directory().join("journal"), "2").await, "1\n2\n");
}
