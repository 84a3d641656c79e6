//! The position file: one agent uses it, a damaged one is not overwritten, and nothing is repeated
//! because it can't be written.

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

#[tokio::test]
async fn an_applied_event_waits_until_its_position_can_be_stored() {
    let service = Service::start_with(&[("DELIVERY__MAX_ATTEMPTS", "2")]).await;
    let (id, key) = service.gateway("one").await;
    let record = program(&service, "record", "echo \"$GATEWAY_EVENTS_SEQUENCE\" >>journal");
    let mut agent = Agent::start(&service, &key, &["--exec", &record]);
    publish(&service, &id, &["d-1"]).await;
    confirmed(&service, &id, 1).await;
    // In the place of the file that is written first.
    let obstacle = service.directory().join("position.new");
    fs::create_dir(&obstacle).expect("created");
    publish(&service, &id, &["d-2"]).await;
    agent.logged("it can't be confirmed before its position is stored").await;
    // An agent that is stopped and started meanwhile hands over nothing.
    agent.signal(rustix::process::Signal::TERM);
    assert_eq!(agent.ended().await, Some(1), "{}", agent.log());
    for _ in 0..3 {
        let mut agent = Agent::start(&service, &key, &["--exec", &record]);
        assert_eq!(agent.ended().await, Some(1));
        agent.logged("failed to write the position file").await;
    }
    let journal = service.directory().join("journal");
    assert_eq!(fs::read_to_string(&journal).expect("written"), "1\n2\n");
    fs::remove_dir(&obstacle).expect("removed");
    publish(&service, &id, &["d-3"]).await;
    let agent = Agent::start(&service, &key, &["--exec", &record]);
    confirmed(&service, &id, 3).await;
    // Its position was not stored, so the second one is repeated once.
    assert_eq!(fs::read_to_string(&journal).expect("written"), "1\n2\n2\n3\n");
    fs::create_dir(&obstacle).expect("created");
    publish(&service, &id, &["d-4"]).await;
    let waiting = || agent.log().matches("it can't be confirmed before").count() > 1;
    super::until(waiting, || agent.log()).await;
    fs::remove_dir(&obstacle).expect("removed");
    confirmed(&service, &id, 4).await;
    agent.stop().await;
    assert_eq!(fs::read_to_string(&journal).expect("written"), "1\n2\n2\n3\n4\n");
    super::failures(&service, &id, 0).await;
}
