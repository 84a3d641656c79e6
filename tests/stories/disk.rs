//! Disks fill up and fail. What was answered with 202 is there all the same,
//! and what was not is not claimed.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use gateway_events::store::sqlite::verify::verify;
use serde_json::json;
use tokio::process::Command;

use crate::support::{PATIENCE, Service, deployed};

/// Where the small disk is, for the story that is told on it.
const SMALL_DISK: &str = "STORY_SMALL_DISK";

#[tokio::test]
async fn a_write_that_fails_ends_the_process_and_nothing_accepted_is_lost() {
    // Past a mebibyte, writing a file fails as it does on a broken disk.
    let mut service = Service::start_after("trap '' XFSZ; ulimit -f 2048", &[]).await;
    let (id, key) = service.gateway("one").await;
    let publishers: Vec<_> = (0..4)
        .map(|publisher| {
            let (api, id) = (service.api(), id.clone());
            tokio::spawn(async move {
                let mut accepted = Vec::new();
                for number in 0.. {
                    let event = deployed(&[&id], &format!("{publisher}-{number}"));
                    match api.post("/events", &event).await {
                        Ok(answer) => {
                            let sequence = answer["deliveries"][0]["sequence"].as_i64();
                            accepted.push((sequence.expect("a number"), answer["id"].clone()));
                        }
                        // Never a refusal that says that nothing was stored: 503, or no answer.
                        Err(error) => {
                            assert!(matches!(error.status(), Some(503) | None), "{error}");
                            break;
                        }
                    }
                }
                accepted
            })
        })
        .collect();
    assert_eq!(service.ended().await, Some(1), "{}", service.log());
    let mut accepted = BTreeMap::new();
    for publisher in publishers {
        accepted.extend(publisher.await.expect("a publisher"));
    }
    assert!(!accepted.is_empty());
    service.restart_free().await;
    let gateway = service.api().get(&format!("/gateways/{id}")).await.expect("the gateway");
    let head = gateway["head"].as_i64().expect("a head");
    let events = service.connected(&key).await.expect(1..=head).await;
    for (sequence, event) in &accepted {
        let received = events.iter().find(|received| received["sequence"] == *sequence);
        assert_eq!(received.map(|received| &received["eventId"]), Some(event));
    }
    service.kill().await;
    assert_sound(&service.database()).await;
}

#[tokio::test]
async fn below_the_watermark_publishing_is_refused_and_receipts_are_taken() {
    let mut service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    service.kill().await;
    // No disk has as much free.
    service.set("DATABASE__MIN_FREE_BYTES", &u64::MAX.to_string());
    service.restart().await;
    let refused = service.api().post("/events", &deployed(&[&id], "d-2")).await;
    assert_eq!(refused.expect_err("too little is free").status(), Some(507));
    let socket = service.connected(&key).await.serve();
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;
    socket.abort();
}

#[tokio::test]
#[expect(
    clippy::print_stdout,
    reason = "whoever reads the tests' output must know what was left out"
)]
async fn a_full_disk_is_survived() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mount = "mount -t tmpfs -o size=32m tmpfs \"$0\" || exit 99; exec \"$@\"";
    let told = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", mount])
        .arg(directory.path())
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "disk::a_full_disk_refuses_to_publish_and_takes_receipts", "--ignored"])
        .env(SMALL_DISK, directory.path())
        .kill_on_drop(true)
        .output();
    let told = tokio::time::timeout(3 * PATIENCE, told).await.expect("it ends in time");
    match told {
        Ok(told) if told.status.success() => {}
        Ok(told) if told.status.code() != Some(99) && !told.stdout.is_empty() => {
            panic!("{}", String::from_utf8_lossy(&told.stdout));
        }
        no_mount => println!("NOT CHECKED, since no file system can be mounted here: {no_mount:?}"),
    }
}

#[tokio::test]
#[ignore = "told by `a_full_disk_is_survived`, on a disk of its own"]
async fn a_full_disk_refuses_to_publish_and_takes_receipts() {
    let disk = PathBuf::from(std::env::var_os(SMALL_DISK).expect("a small disk"));
    let service = Service::start_in(
        tempfile::tempdir_in(&disk).expect("a temporary directory"),
        &[("DATABASE__MIN_FREE_BYTES", "8388608"), ("DATABASE__BALLAST_BYTES", "4194304")],
    )
    .await;
    let (id, key) = service.gateway("one").await;
    let api = service.api();
    let mut socket = service.connected(&key).await;
    for deployment in 1..=3 {
        let event = deployed(&[&id], &format!("d-{deployment}"));
        api.post("/events", &event).await.expect("accepted");
    }
    socket.expect(1..=3).await;
    let ballast = service.directory().join("gateway-events.db.ballast");
    assert_eq!(ballast.metadata().expect("a ballast").len(), 4_194_304);
    let filler = disk.join("filler");
    fill(&filler);
    let refused = api.post("/events", &deployed(&[&id], "d-4")).await;
    assert_eq!(refused.expect_err("the disk is full").status(), Some(507));
    // The last echo is sent only now; there is no room for what it confirms.
    let socket = socket.serve();
    let path = format!("/gateways/{id}");
    service.eventually(&path, |gateway| gateway["confirmed"] == 3).await;
    assert!(!ballast.exists(), "its room was needed");
    let refused = api.post("/events", &deployed(&[&id], "d-4")).await;
    assert_eq!(refused.expect_err("the ballast is not for events").status(), Some(507));
    std::fs::remove_file(&filler).expect("removed");
    let answer = api.post("/events", &deployed(&[&id], "d-4")).await.expect("accepted");
    assert_eq!(answer["deliveries"], json!([{"gatewayId": id, "sequence": 4}]));
    service.eventually(&path, |gateway| gateway["confirmed"] == 4).await;
    service.eventually(&path, |_| ballast.exists()).await;
    assert_sound(&service.database()).await;
    socket.abort();
}

/// Writes until nothing more fits.
fn fill(filler: &Path) {
    let mut file = std::fs::File::create(filler).expect("a file");
    for length in [65_536, 4096, 1] {
        while file.write_all(&vec![1; length]).is_ok() {}
    }
}

async fn assert_sound(database: &Path) {
    let report = verify(database).await.expect("readable");
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
}
