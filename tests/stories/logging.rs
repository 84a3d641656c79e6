//! Logging never stops the service, whatever happens to the reader of the log.

use std::fs::File;
use std::io::{PipeReader, Read as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;

use crate::disk::{on_small_disk, small_disk};
use crate::support::{Service, TEST_TIMEOUT, deployed};

/// Requests of one round, each of which causes many log lines.
const REQUESTS: usize = 200;
const ALL: (&str, &str) = ("LOG__FILTER", "trace");

async fn dropped(service: &Service) -> u64 {
    let metrics = service.metrics().await;
    let name = "gateway_events_log_lines_dropped_total ";
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)).expect("the counter");
    value.parse().expect("a count")
}

/// A service whose standard error is the other end of this pipe.
async fn start_logging_to_pipe() -> (Service, PipeReader) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let log = File::from(writer.as_fd().try_clone_to_owned().expect("a descriptor"));
    let settings = [ALL, ("SHUTDOWN__DRAIN", "1s")];
    (Service::start_logging_to(log, &settings).await, reader)
}

/// Sends requests over one connection. At the log level of these tests each request is logged.
/// Refused requests would not cause enough lines, because these are rate-limited.
async fn cause_log_lines(service: &Service) {
    let api = service.api();
    for _ in 0..REQUESTS {
        let answered = tokio::time::timeout(TEST_TIMEOUT, api.get("/gateways")).await;
        answered.expect("in time").expect("an answer");
    }
}

/// Checks that everything works: publishing, the sweep, the inbox's drain, a socket.
async fn assert_operational(service: &Service, name: &str) {
    let (id, key) = service.gateway(name).await;
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    let path = format!("/deliveries?gatewayId={id}&reason=not_connected");
    service.eventually(&path, |page| page["count"] == 1).await;
    let socket = service.connected(&key).await.serve();
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;
    socket.abort();
    let ready = service.api().root("/readyz").await.expect("ready");
    assert_eq!(ready.trim(), "ok");
}

#[tokio::test]
async fn stalled_log_reader_delays_neither_delivery_nor_shutdown() {
    let (mut service, _reader) = start_logging_to_pipe().await;
    while dropped(&service).await == 0 {
        cause_log_lines(&service).await;
    }
    assert_operational(&service, "one").await;
    assert_eq!(service.terminate().await, Some(0));
}

#[tokio::test]
async fn closed_log_pipe_does_not_affect_the_service() {
    let (mut service, reader) = start_logging_to_pipe().await;
    drop(reader);
    cause_log_lines(&service).await;
    assert!(dropped(&service).await > 0);
    assert_operational(&service, "one").await;
    assert_eq!(service.terminate().await, Some(0));
}

#[tokio::test]
async fn lines_that_a_stalled_reader_missed_are_counted_in_the_log() {
    let (mut service, mut reader) = start_logging_to_pipe().await;
    while dropped(&service).await == 0 {
        cause_log_lines(&service).await;
    }
    let reading = tokio::task::spawn_blocking(move || {
        let mut log = String::new();
        reader.read_to_string(&mut log).expect("text");
        log
    });
    cause_log_lines(&service).await;
    let dropped = dropped(&service).await;
    assert_eq!(service.terminate().await, Some(0));
    let log = tokio::time::timeout(TEST_TIMEOUT, reading).await.expect("it ends").expect("read");
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let reported: u64 = lines.filter_map(|line| line["dropped"].as_u64()).sum();
    assert!(reported >= dropped, "{reported} of {dropped}");
    assert!(log.contains("\"message\":\"the service has stopped\""), "flushed at the end");
}

#[tokio::test]
async fn full_disk_stops_only_the_log() {
    on_small_disk("logging::on_a_small_disk_the_log_continues_when_there_is_space_again").await;
}

#[tokio::test]
#[ignore = "run by `full_disk_stops_only_the_log`, on a disk of its own"]
async fn on_a_small_disk_the_log_continues_when_there_is_space_again() {
    let path = small_disk().join("service.log");
    let log = File::options().create(true).append(true).open(&path).expect("a log");
    let mut service = Service::start_logging_to(log, &[ALL]).await;
    crate::disk::fill(&small_disk().join("filler"));
    while dropped(&service).await == 0 {
        cause_log_lines(&service).await;
    }
    assert_operational(&service, "one").await;
    std::fs::remove_file(small_disk().join("filler")).expect("removed");
    cause_log_lines(&service).await;
    let says_so = |line: &Value| line["dropped"].as_u64().is_some_and(|dropped| dropped > 0);
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let found = tokio::time::timeout(TEST_TIMEOUT, async {
        while !lines(&path).iter().any(says_so) {
            looks.tick().await;
        }
    });
    found.await.expect("the log says what it lost");
    assert_operational(&service, "two").await;
    assert_eq!(service.terminate().await, Some(0));
}

fn lines(log: &Path) -> Vec<Value> {
    let text = std::fs::read(log).expect("a log");
    // A full disk may cut a line within a character.
    let text = String::from_utf8_lossy(&text);
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Not even with /dev/full, which accepts no byte, or a closed descriptor.
#[tokio::test]
async fn blocked_log_does_not_affect_the_service() {
    let full = File::options().write(true).open("/dev/full").expect("the device");
    let mut service = Service::start_logging_to(full, &[ALL]).await;
    cause_log_lines(&service).await;
    assert_operational(&service, "one").await;
    service.signal(Signal::HUP);
    assert_eq!(service.terminate().await, Some(0));
}

/// A command that can't write its remarks still ends with its exit code.
#[tokio::test]
async fn command_exits_normally_if_stderr_is_full() {
    let full = File::options().write(true).open("/dev/full").expect("the device");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-events"));
    command.args(["serve", "--config", "nowhere.toml"]).env_clear().stderr(full);
    let status = tokio::time::timeout(TEST_TIMEOUT, command.status()).await.expect("it ends");
    assert_eq!(status.expect("it ran").code(), Some(1));
}
