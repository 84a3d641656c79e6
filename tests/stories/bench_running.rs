//! Measuring a running service: only with an explicit `--url`, only after confirmation, and
//! without leaving gateways registered.

use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::bench::ended;
use crate::support::command::CommandOutput;
use crate::support::terminal::run_on_terminal;
use crate::support::{Service, TEST_TIMEOUT};

const SHORT_RUN: &str = "deliver --seconds 0.1 --gateways 2 --baseline-time 20ms";

/// A measurement of the service given as `--url` instead of the environment variable.
fn measuring(service: &Service, arguments: &str) -> Command {
    let mut command =
        service.bench_command(&format!("{arguments} --url https://localhost:{}", service.port));
    command.env_remove("GATEWAY_EVENTS_URL");
    command
}

/// The numbers of registered gateways and of stored events. Also verifies the database.
async fn stored(service: &Service) -> (u64, u64) {
    let verify = format!("verify {} --json", service.database().display());
    let report = service.run(&verify).await.json();
    let gateways = service.run("gateway list --json").await.json();
    let count = |value: &Value| value.as_u64().expect("a count");
    (count(&gateways["count"]), count(&report["events"]))
}

#[tokio::test]
async fn an_address_from_the_environment_is_ignored() {
    let service = Service::start().await;
    let said = ended(&mut service.bench_command(SHORT_RUN)).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("GATEWAY_EVENTS_URL is ignored"), "{said:?}");
    assert!(said.out.contains("sqlite"), "{said:?}");
    assert_eq!(stored(&service).await, (0, 0));
}

#[tokio::test]
async fn a_running_service_is_measured_only_when_that_is_confirmed() {
    let service = Service::start().await;
    let address = format!("https://localhost:{}", service.port);
    let unattended = ended(&mut measuring(&service, SHORT_RUN)).await;
    unattended.failed(1, &["--yes", &address, "registers", "deletes"]);
    let (code, shown) = run_on_terminal(measuring(&service, SHORT_RUN), "no\n").await;
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains(&address) && shown.contains("nothing was changed"), "{shown}");
    assert_eq!(stored(&service).await, (0, 0));

    let (code, shown) = run_on_terminal(measuring(&service, SHORT_RUN), "y\n").await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("recordedPerSecond"), "{shown}");
    let said = ended(&mut measuring(&service, &format!("{SHORT_RUN} --yes"))).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("running service"), "{said:?}");
    let (gateways, events) = stored(&service).await;
    assert!(gateways == 0 && events > 0, "{gateways} gateways, {events} events");
}

#[tokio::test]
async fn nothing_stays_registered_after_an_error() {
    let service = Service::start().await;
    let too_large = "append --seconds 1 --gateways 3 --payload 2000000 --baseline-time 1ms -y";
    ended(&mut measuring(&service, too_large)).await.failed(1, &["413"]);
    assert_eq!(stored(&service).await.0, 0);
}

#[tokio::test]
async fn nothing_stays_registered_after_an_interruption() {
    let service = Service::start().await;
    // Interrupted early, while it registers, and again while it publishes.
    for at_least in [5, 300] {
        let arguments = "append --seconds 60 --gateways 300 --baseline-time 1ms --yes";
        let running = measuring(&service, arguments).spawn().expect("the binary starts");
        service
            .eventually_within(3 * TEST_TIMEOUT, "/gateways?limit=1000", |page| {
                page["count"].as_u64() >= Some(at_least)
            })
            .await;
        let pid = i32::try_from(running.id().expect("it runs")).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signalled");
        let ended = tokio::time::timeout(Duration::from_mins(5), running.wait_with_output()).await;
        let said: CommandOutput = ended.expect("it ends in time").expect("it ends").into();
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("interrupted") && !said.err.contains("are left"), "{said:?}");
        assert_eq!(stored(&service).await.0, 0, "{said:?}");
    }
}
