//! Programs that hang, flood, fork, die or disappear delay no more than their own event.

use std::fs;

use rustix::process::Signal;
use serde_json::json;

use super::{
    Agent, attempts, confirmed, failures, is_running, program, publish, signal_process, until, why,
    written,
};
use crate::support::Service;

/// Runs `text` for the first event, and nothing for others.
fn first_only(service: &Service, text: &str) -> String {
    let text = format!("[ \"$GATEWAY_EVENTS_SEQUENCE\" = 1 ] || exit 0\n{text}");
    program(service, "program", &text)
}

#[tokio::test]
async fn a_program_that_hangs_is_ended_with_its_children() {
    let service = Service::start_with(&[("DELIVERY__MAX_ATTEMPTS", "2")]).await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, &["d-1", "d-2"]).await;
    let hang = "
        sh -c 'trap \"\" TERM; echo $$ >>children; while :; do sleep 1000; done' &
        trap '' TERM
        echo working >&2
        echo $$ >>leaders
        while :; do sleep 1000; done";
    let hang = first_only(&service, hang);
    let arguments = ["--timeout", "3s", "--grace", "100ms", "--exec", &hang];
    let agent = Agent::start(&service, &key, &arguments);
    confirmed(&service, &id, 2).await;
    let failed = failures(&service, &id, 1).await;
    assert_eq!(why(&failed[0]), ("timeout", "did not end within 3 s: working"));
    assert_eq!(attempts(&failed[0], "timeout"), 2);
    for list in ["leaders", "children"] {
        let pids = fs::read_to_string(service.directory().join(list)).expect("written");
        assert_eq!(pids.lines().count(), 2, "{list}: {pids}");
        let ended = || pids.lines().all(|pid| !is_running(pid));
        until(ended, || format!("{list} have ended: {pids}")).await;
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_program_may_write_a_gibibyte() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, &["d-1", "d-2"]).await;
    let flood = "
        head -c 1073741824 /dev/zero &
        head -c 1073741824 /dev/zero >&2
        wait
        echo 'that was all' >&2
        exit 1";
    let flood = first_only(&service, flood);
    let arguments = ["--timeout", "10m", "--log-filter", "debug", "--exec", &flood];
    let agent = Agent::start(&service, &key, &arguments);
    confirmed(&service, &id, 2).await;
    let failed = failures(&service, &id, 1).await;
    assert!(why(&failed[0]).1.ends_with("that was all"), "{:#}", failed[0]);
    let status = format!("/proc/{}/status", agent.process.id().expect("it runs"));
    let status = fs::read_to_string(status).expect("readable");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(peak < 256 * 1024, "{peak} kB");
    agent.stop().await;
}

#[tokio::test]
async fn a_program_need_not_read_its_input() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    let large = json!({
        "type": "gateway.config.updated", "gatewayIds": [id],
        "payload": {"configType": "cache", "action": "update", "text": "x".repeat(900_000)},
    });
    for _ in 0..2 {
        service.api().post("/events", &large).await.expect("accepted");
    }
    let text = "[ \"$GATEWAY_EVENTS_SEQUENCE\" = 1 ] && exec <&-; echo done";
    let text = program(&service, "program", &format!("{text}\nexit 0"));
    let agent = Agent::start(&service, &key, &["--exec", &text]);
    confirmed(&service, &id, 2).await;
    agent.stop().await;
    failures(&service, &id, 0).await;
}

#[tokio::test]
async fn a_child_that_keeps_the_pipes_open_is_not_awaited() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &id, &["d-1", "d-2"]).await;
    let fork = first_only(&service, "sleep 1000 &\necho $! >child\necho refused >&2\nexit 1");
    let agent = Agent::start(&service, &key, &["--exec", &fork]);
    confirmed(&service, &id, 2).await;
    let failed = failures(&service, &id, 1).await;
    assert_eq!(why(&failed[0]).1, "exit status 1: refused");
    // A program may start something that stays.
    let child = fs::read_to_string(service.directory().join("child")).expect("written");
    assert!(is_running(&child));
    agent.stop().await;
    assert!(is_running(&child));
    signal_process(child.trim().parse().expect("a pid"), Signal::KILL);
}

#[tokio::test]
async fn a_program_that_disappears_is_awaited_without_a_failed_attempt() {
    let service = Service::start_with(&[("DELIVERY__MAX_ATTEMPTS", "1")]).await;
    let (id, key) = service.gateway("one").await;
    let text = "echo \"$GATEWAY_EVENTS_SEQUENCE $GATEWAY_EVENTS_ATTEMPT\" >>journal";
    let path = program(&service, "program", text);
    let agent = Agent::start(&service, &key, &["--exec", &path]);
    publish(&service, &id, &["d-1"]).await;
    confirmed(&service, &id, 1).await;
    fs::remove_file(&path).expect("removed");
    publish(&service, &id, &["d-2", "d-3"]).await;
    agent.logged("the product is not available").await;
    fs::write(&path, "not a program").expect("written");
    agent.logged("Permission denied").await;
    fs::remove_file(&path).expect("removed");
    program(&service, "program", text);
    confirmed(&service, &id, 3).await;
    let journal = written(&service.directory().join("journal"), "3").await;
    assert_eq!(journal, "1 1\n2 1\n3 1\n");
    failures(&service, &id, 0).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_program_may_take_longer_than_the_confirmation_timeout() {
    let service = Service::start_with(&[("DELIVERY__CONFIRMATION_TIMEOUT", "17s")]).await;
    let (id, key) = service.gateway("one").await;
    let slow = program(&service, "slow", "echo begin >>journal; sleep 19; echo end >>journal");
    let agent = Agent::start(&service, &key, &["--exec", &slow]);
    publish(&service, &id, &["d-1"]).await;
    confirmed(&service, &id, 1).await;
    let journal = fs::read_to_string(service.directory().join("journal")).expect("written");
    assert_eq!(journal, "begin\nend\n", "it was given once");
    agent.stop().await;
}
