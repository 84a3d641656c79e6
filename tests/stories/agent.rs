//! `agent`: events are handed to a program or a local address, whatever either of them does.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::Child;
use tokio::time::MissedTickBehavior;

use crate::support::{Service, TEST_TIMEOUT};

mod exec;
mod forward;
mod gaps;
mod hostile_addresses;
mod hostile_programs;
mod kill;
mod position;
mod product;
mod signals;
mod worked_examples;

/// A running agent.
struct Agent {
    process: Child,
    log: PathBuf,
}

impl Agent {
    /// Starts one with a short pause before retries and these arguments.
    fn start(service: &Service, key: &str, arguments: &[&str]) -> Self {
        Self::start_with(service, key, &[], arguments)
    }

    /// Likewise, with environment variables.
    fn start_with(
        service: &Service,
        key: &str,
        variables: &[(&str, &str)],
        arguments: &[&str],
    ) -> Self {
        let directory = service.directory();
        std::fs::write(directory.join("key"), key).expect("written");
        let log = directory.join("agent.log");
        let output = File::options().create(true).append(true).open(&log).expect("a log");
        let mut command = service.command("agent --instance a --log-format json");
        if !arguments.contains(&"--retry-delay") {
            command.args(["--retry-delay", "50ms"]);
        }
        command
            .env("PATH", std::env::var_os("PATH").expect("a PATH"))
            .envs(variables.iter().copied())
            .arg("--position")
            .arg(directory.join("position"))
            .arg("--key-file")
            .arg(directory.join("key"))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(output);
        Self { process: command.spawn().expect("it starts"), log }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log contains a text.
    async fn logged(&self, text: &str) {
        until(|| self.log().contains(text), || format!("{text:?} in {}", self.log())).await;
    }

    fn signal(&self, signal: Signal) {
        signal_process(self.process.id().expect("it runs"), signal);
    }

    /// Waits for its end; returns the exit code.
    async fn ended(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(2 * TEST_TIMEOUT, self.process.wait()).await;
        ended.unwrap_or_else(|_| panic!("it ends in time: {}", self.log())).expect("it ends").code()
    }

    /// Stops it gracefully.
    async fn stop(mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.ended().await, Some(0), "{}", self.log());
    }

    async fn kill(mut self) {
        self.process.kill().await.expect("it ran");
    }
}

fn signal_process(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    kill_process(pid, signal).expect("it can be signalled");
}

/// Whether a process exists and has not ended.
fn is_running(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    status.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Waits for a condition.
async fn until(satisfied: impl Fn() -> bool, what: impl Fn() -> String) {
    let mut polls = tokio::time::interval(Duration::from_millis(20));
    // Others get their turn, too, when a check takes longer than that.
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let waiting = async {
        while !satisfied() {
            polls.tick().await;
        }
    };
    let waited = tokio::time::timeout(3 * TEST_TIMEOUT, waiting).await;
    assert!(waited.is_ok(), "it never came to that: {}", what());
}

/// Waits until a file contains a text; returns the file.
async fn written(file: &Path, text: &str) -> String {
    let read = || std::fs::read_to_string(file).unwrap_or_default();
    until(|| read().contains(text), || format!("{text:?} in {:?}", read())).await;
    read()
}

/// A client for plain HTTP.
fn http(service: &Service) -> reqwest::Client {
    let tls = service.trust().client_config().expect("a TLS client");
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls.as_ref().clone());
    client.no_proxy().pool_max_idle_per_host(0).build().expect("a client")
}

/// Writes a program of the shell into the service's directory; returns its path.
fn program(service: &Service, name: &str, text: &str) -> String {
    let path = service.directory().join(name);
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o755).open(&path);
    let file = file.as_mut().expect("a file");
    let text = format!("#!/bin/sh\nset -eu\ncd \"$(dirname \"$0\")\"\n{text}\n");
    std::io::Write::write_all(file, text.as_bytes()).expect("written");
    path.to_string_lossy().into_owned()
}

/// Publishes deployments with these ids, in order.
async fn publish(service: &Service, gateway: &str, deployments: &[&str]) {
    let events: Vec<Value> =
        deployments.iter().map(|id| crate::support::deployed(&[gateway], id)).collect();
    service.api().post("/events", &json!(events)).await.expect("accepted");
}

/// Waits until everything up to this sequence is confirmed or given up.
async fn confirmed(service: &Service, gateway: &str, sequence: i64) {
    let path = format!("/gateways/{gateway}");
    service
        .eventually_within(3 * TEST_TIMEOUT, &path, |gateway| gateway["confirmed"] == sequence)
        .await;
}

/// Waits for this many failed deliveries; returns them in the order of their sequences.
async fn failures(service: &Service, gateway: &str, count: usize) -> Vec<Value> {
    let path = format!("/deliveries?gatewayId={gateway}");
    let failed = |page: &Value| {
        let rows = page["list"].as_array().expect("a list");
        rows.iter().filter(|row| row["state"] == "failed").cloned().collect::<Vec<_>>()
    };
    let page = service
        .eventually_within(3 * TEST_TIMEOUT, &path, |page| failed(page).len() == count)
        .await;
    let mut rows = failed(&page);
    rows.sort_by_key(|row| row["sequence"].as_i64());
    rows
}

/// The last attempt at a delivery: its reason and its detail.
fn why(delivery: &Value) -> (&str, &str) {
    let last = delivery["attempts"].as_array().and_then(|all| all.last()).expect("an attempt");
    (last["reason"].as_str().unwrap_or_default(), last["detail"].as_str().unwrap_or_default())
}

/// How many attempts at a delivery have failed for a reason.
fn attempts(delivery: &Value, reason: &str) -> usize {
    let all = delivery["attempts"].as_array().expect("a list").iter();
    all.filter(|attempt| attempt["reason"] == reason).count()
}
