//! The load generator: its reports, its verification of what it measures, and its cleanup.
//! The measured values are not asserted.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::server::Database;
use crate::support::TEST_TIMEOUT;
use crate::support::command::{CommandOutput, bench_command};

/// Short measurements: only the structure of the reports is tested.
const SHORT_RUN: &str = "--baseline-time 20ms --json";

/// Runs a scenario. Its temporary directory must be empty afterwards.
async fn bench(arguments: &str) -> Value {
    report(&mut bench_command(&format!("{arguments} {SHORT_RUN}"))).await
}

async fn report(command: &mut Command) -> Value {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let said = ended(command.env("TMPDIR", directory.path())).await;
    assert_empty(directory.path());
    said.json()
}

/// Waits longer than usual: a service is started and stopped while other tests run.
pub(crate) async fn ended(command: &mut Command) -> CommandOutput {
    let running = command.spawn().expect("the binary starts");
    let ended = tokio::time::timeout(3 * TEST_TIMEOUT, running.wait_with_output()).await;
    ended.expect("it ends in time").expect("it ends").into()
}

fn assert_empty(directory: &Path) {
    let left: Vec<_> = std::fs::read_dir(directory).expect("a directory").collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// Verifies the members of every figure, and that the named ones exist and are positive.
fn assert_figures(report: &Value, names: &[&str]) {
    for field in ["version", "date", "command", "database", "scenario"] {
        assert!(report[field].is_string(), "{field}: {report:#}");
    }
    assert!(report["machine"]["cores"].is_u64() && report["machine"]["kernel"].is_string());
    assert!(report["parameters"].is_object(), "{report:#}");
    let figures = report["figures"].as_object().expect("figures");
    for (name, figure) in figures {
        assert!(figure["value"].is_number() && figure["unit"].is_string(), "{name}: {figure}");
        let (value, baseline) = (figure["value"].as_f64(), figure["baseline"].as_f64());
        if let Some(baseline) = baseline {
            let ratio = figure["ratioToBaseline"].as_f64().expect("a ratio") * baseline;
            let off = ratio / value.expect("a value");
            assert!((0.99..1.01).contains(&off) || value == Some(0.0), "{name}: {figure}");
        }
    }
    for name in names {
        assert!(figures[*name]["value"].as_f64() > Some(0.0), "{name}: {report:#}");
    }
}

#[tokio::test]
async fn baselines_are_measured_without_a_service() {
    let report = bench("baseline").await;
    assert_figures(
        &report,
        &[
            "baselineSync",
            "baselineRoundTrip",
            "baselineStatement",
            "baselineRead",
            "baselineFlow",
            "baselineAcknowledged",
            "baselineHandshakes",
            "baselineSpread",
            "baselineLast",
            "baselineAppend1",
            "baselineAppend4096",
        ],
    );
}

#[tokio::test]
async fn append_reports_accepted_events() {
    let report =
        bench("append --batch 10 --publishers 2 --gateways 3 --stored 500 --seconds 0.2").await;
    assert_figures(&report, &["eventsPerSecond", "requestP50", "requestMax", "baselineAppend64"]);
    assert!(report["figures"]["eventsPerSecond"]["ratioToBaseline"].is_number());
    let accepted = report["runs"][0]["counts"]["accepted"].as_u64().expect("a count");
    assert!(accepted >= 20 && accepted.is_multiple_of(10), "{report:#}");
    assert_eq!(report["database"], "sqlite");
    assert_eq!(report["parameters"]["gateways"], 3);
}

#[tokio::test]
async fn temporary_postgres_databases_are_dropped() {
    let database = Database::new();
    let names = "select 1 / (1 - least(count(*), 1)) from pg_database
        where datname like 'gateway_events_bench_%'";
    let mut command =
        bench_command(&format!("deliver --seconds 0.2 --gateways 2 --stored 500 {SHORT_RUN}"));
    command.env("GATEWAY_EVENTS_BENCH_DATABASE_URL", database.url());
    let report = report(&mut command).await;
    assert_figures(&report, &["recordedPerSecond", "baselineAppend1024"]);
    assert_eq!(report["database"], "postgres");
    assert_eq!(report["runs"][0]["counts"]["accepted"], report["runs"][0]["counts"]["received"]);
    // The query fails with a division by zero if one exists.
    database.run(names);
}

#[tokio::test]
async fn deliver_at_a_rate_sends_as_many_as_are_due() {
    let report = bench("deliver --rate 100 --seconds 0.5 --gateways 2 --publishers 2").await;
    assert_figures(&report, &["latencyP50", "latencyP999", "latenessMax", "serverCores"]);
    let counts = &report["runs"][0]["counts"];
    assert_eq!(counts, &json!({ "accepted": 50, "received": 50, "refused": 0 }));
}

#[tokio::test]
async fn deliver_reports_medians_of_runs() {
    let report = bench("deliver --seconds 0.1 --batch 5 --gateways 2 --runs 2").await;
    assert_figures(&report, &["acceptedPerSecond", "receivedPerSecond", "recordedPerSecond"]);
    let runs = report["runs"].as_array().expect("runs");
    assert_eq!(runs.len(), 2);
    for run in runs {
        assert_eq!(run["counts"]["accepted"], run["counts"]["received"]);
    }
}

#[tokio::test]
async fn fanout_waits_for_the_last_gateway() {
    let report = bench("fanout --gateways 5 --events 3 --rate 20").await;
    assert_figures(&report, &["lastGatewayP50", "lastGatewayMax", "gatewayP50", "baselineLast"]);
    let counts = &report["runs"][0]["counts"];
    assert_eq!((&counts["accepted"], &counts["received"]), (&json!(3), &json!(15)));
}

#[tokio::test]
async fn replay_reads_the_whole_backlog() {
    let report = bench("replay --gateways 2 --events 300").await;
    assert_figures(&report, &["receivedPerSecond", "recordedPerSecond", "baselineAcknowledged"]);
    let counts = &report["runs"][0]["counts"];
    assert_eq!(counts["accepted"], counts["received"]);
    assert!(counts["accepted"].as_u64() >= Some(600), "{report:#}");
}

#[tokio::test]
async fn idle_reports_memory_per_connection() {
    let report = bench("idle --connections 200 --seconds 0.2").await;
    assert_figures(&report, &["memoryPerConnection", "memoryBefore", "memoryAfter"]);
    assert!(report["figures"]["memoryPerConnection"]["ratioToBaseline"].is_number(), "{report:#}");
    assert_eq!(report["runs"][0]["counts"]["connections"], 200);
}

/// The names of all transports on the command line.
const TRANSPORTS: [&str; 5] = ["websocket", "websocket.v1", "sse", "long_poll", "grpc"];

/// The figures of this name over each transport.
fn over_each(report: &Value, name: &str) -> Vec<String> {
    let names = TRANSPORTS.map(|transport| format!("{transport}/{name}"));
    assert_figures(report, &names.each_ref().map(String::as_str));
    names.into()
}

#[tokio::test]
async fn deliver_measures_each_transport() {
    let report = bench("deliver --transport all --seconds 0.1 --batch 5 --gateways 2").await;
    assert_eq!(over_each(&report, "recordedPerSecond").len(), TRANSPORTS.len());
    let counts = &report["runs"][0]["counts"];
    for transport in TRANSPORTS {
        let count = |what: &str| counts[format!("{transport}/{what}")].as_u64();
        assert_eq!(count("accepted"), count("received"), "{report:#}");
    }
    assert_eq!(report["parameters"]["transport"], TRANSPORTS.join(","));
}

#[tokio::test]
async fn fanout_measures_each_transport() {
    let report = bench("fanout --transport all --gateways 5 --events 3 --rate 20").await;
    over_each(&report, "lastGatewayP50");
    for transport in TRANSPORTS {
        assert_eq!(report["runs"][0]["counts"][format!("{transport}/received")], 15);
    }
}

#[tokio::test]
async fn replay_measures_the_named_transports() {
    let report = bench("replay --transport websocket.v1,grpc --gateways 2 --events 300").await;
    assert_figures(&report, &["websocket.v1/recordedPerSecond", "grpc/recordedPerSecond"]);
    assert!(report["figures"]["websocket/recordedPerSecond"].is_null(), "{report:#}");
}

#[tokio::test]
async fn idle_measures_each_transport_with_several_connections_of_a_gateway() {
    let report = bench("idle --transport all --connections 120 --seconds 0.2").await;
    over_each(&report, "memoryPerConnection");
}

#[tokio::test]
async fn catch_up_reports_latencies_and_memory_over_each_transport() {
    // Many live events, so that some come while the other gateway catches up.
    let quick = "--events 600 --rate 500 --gateways 2 --seconds 0.3";
    let report = bench(&format!("catch-up --transport all {quick}")).await;
    for name in ["beforeP99", "duringP99", "recordedPerSecond", "memoryPeak", "clientMemoryPeak"] {
        over_each(&report, name);
    }
    for transport in TRANSPORTS {
        let counts = &report["runs"][0]["counts"];
        assert!(counts[format!("{transport}/backlog")].as_u64() >= Some(600), "{report:#}");
    }
}

#[tokio::test]
async fn storm_reconnects_all_gateways() {
    let report = bench("storm --gateways 5 --events 4").await;
    let times = ["allLive", "allCaughtUp", "allRecorded", "connectsPerSecond"];
    assert_figures(&report, &times);
    for time in times {
        assert!(report["figures"][time]["ratioToBaseline"].is_number(), "{report:#}");
    }
    let counts = &report["runs"][0]["counts"];
    assert_eq!((&counts["accepted"], &counts["received"]), (&json!(4), &json!(20)));
}

#[tokio::test]
async fn query_reads_a_ledger_that_it_has_written() {
    let report = bench("query --rows 500 --gateways 3 --queries 5").await;
    assert_figures(&report, &["firstPageP50", "anyHourP99", "anyGatewayMax", "consoleOverviewP99"]);
    let counts = &report["runs"][0]["counts"];
    assert_eq!(counts["ledgerRows"], 500);
    assert!(counts["rowsRead"].as_u64() >= Some(1000), "{report:#}");
}

#[tokio::test]
async fn an_interrupted_measurement_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = bench_command("append --seconds 60 --baseline-time 1ms");
    let running = command.env("TMPDIR", directory.path()).spawn().expect("the binary starts");
    let pid = i32::try_from(running.id().expect("it runs")).expect("a pid");
    // The token file shows that the service was started.
    let mut polls = tokio::time::interval(Duration::from_millis(20));
    let started = tokio::time::timeout(TEST_TIMEOUT, async {
        while !has_service(directory.path()) {
            polls.tick().await;
        }
    });
    started.await.expect("a service is started");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it can be signalled");
    let ended = tokio::time::timeout(TEST_TIMEOUT, running.wait_with_output()).await;
    let said: CommandOutput = ended.expect("it ends in time").expect("it ends").into();
    said.failed(1, &["interrupted"]);
    assert_empty(directory.path());
}

fn has_service(directory: &Path) -> bool {
    let made = std::fs::read_dir(directory).into_iter().flatten().flatten();
    made.into_iter().any(|made| made.path().join("data").join("admin-token").exists())
}

#[tokio::test]
async fn a_comparison_fails_if_a_figure_is_worse() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, scenario: &str, rate: f64, latency: f64| {
        let figure = |value: f64, unit: &str, better: &str| json!({ "value": value, "unit": unit, "baseline": value * 2.0, "ratioToBaseline": 0.5, "better": better });
        let report = json!({
            "scenario": scenario,
            "parameters": {}, "machine": {}, "database": "sqlite", "build": "release",
            "figures": {
                "eventsPerSecond": figure(rate, "1/s", "higher"),
                "requestP99": figure(latency, "ms", "lower"),
            },
        });
        let path = directory.path().join(name);
        std::fs::write(&path, report.to_string()).expect("written");
        path.display().to_string()
    };
    let before = write("before", "append", 1000.0, 5.0);
    let same = write("same", "append", 950.0, 5.2);
    let worse = write("worse", "append", 1200.0, 6.0);
    let other = write("other", "deliver", 1000.0, 5.0);
    let compare =
        async |arguments: String| ended(&mut bench_command(&format!("compare {arguments}"))).await;

    let said = compare(format!("{before} {same}")).await;
    assert!(said.well().contains("same") && !said.out.contains("worse"), "{said:?}");
    let as_flag = format!("--compare {before} {worse} --json");
    let said = ended(&mut bench_command(&as_flag)).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    let compared: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(compared["figures"]["requestP99"]["verdict"], "worse");
    assert_eq!(compared["figures"]["eventsPerSecond"]["verdict"], "better");
    compare(format!("{before} {worse} --threshold 25")).await.well();
    compare(format!("{before} {other}")).await.failed(1, &["same scenario"]);
    compare(format!("{before} nowhere.json")).await.failed(1, &["nowhere.json"]);
}
