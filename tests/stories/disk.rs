//! Full and failing disks: every event answered with 202 is stored, and no event is claimed to be
//! stored that is not.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use gateway_events::store::sqlite::verify::verify;
use serde_json::json;
use tokio::process::Command;

use crate::support::{Service, TEST_TIMEOUT, deployed};

/// The environment variable with the small disk's directory, for tests that run on it.
const SMALL_DISK: &str = "STORY_SMALL_DISK";

#[tokio::test]
async fn a_failed_write_ends_the_process_and_nothing_accepted_is_lost() {
    // Beyond four mebibytes, which the schema does not need, writing to a file fails, as on a broken disk.
    let mut service = Service::start_after("trap '' XFSZ; ulimit -f 4096", &[]).await;
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
                        // The outcome is unknown, so expect 503 or no response, never an error that
                        // implies the event was not stored.
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
async fn below_the_watermark_publishing_is_refused_and_receipts_are_stored() {
    let mut service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    service.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    service.kill().await;
    // No disk has this much free space.
    service.set("DATABASE__MIN_FREE_BYTES", &i64::MAX.to_string());
    service.restart().await;
    let refused = service.api().post("/events", &deployed(&[&id], "d-2")).await;
    assert_eq!(refused.expect_err("too little is free").status(), Some(507));
    let socket = service.connected(&key).await.serve();
    service.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;
    socket.abort();
}

#[tokio::test]
async fn service_survives_a_full_disk() {
    on_small_disk("disk::a_full_disk_refuses_publishing_and_stores_receipts").await;
}

/// Runs an ignored test on a small disk, in its own process.
#[expect(clippy::print_stdout, reason = "the output shows that the check was skipped")]
pub(crate) async fn on_small_disk(test: &str) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mount = "mount -t tmpfs -o size=32m tmpfs \"$0\" || exit 99; exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", mount])
        .arg(directory.path())
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--ignored"])
        .env(SMALL_DISK, directory.path())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(3 * TEST_TIMEOUT, output).await.expect("it ends in time");
    match output {
        Ok(output) if output.status.success() => {
            let out = String::from_utf8_lossy(&output.stdout);
            assert!(out.contains("1 passed"), "no such test: {out}");
        }
        Ok(output) if output.status.code() != Some(99) && !output.stdout.is_empty() => {
            panic!("{}", String::from_utf8_lossy(&output.stdout));
        }
        no_mount => println!("NOT CHECKED, since no file system can be mounted here: {no_mount:?}"),
    }
}

/// The small disk of such a test.
pub(crate) fn small_disk() -> PathBuf {
    PathBuf::from(std::env::var_os(SMALL_DISK).expect("a small disk"))
}

#[tokio::test]
#[ignore = "run by `service_survives_a_full_disk`, on a disk of its own"]
async fn a_full_disk_refuses_publishing_and_stores_receipts() {
    let disk = small_disk();
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
    // The last pong is sent only now, when there is no room to record it.
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

/// A preloaded library that makes disk operations fail, and its switch.
pub(crate) struct Broken {
    directory: tempfile::TempDir,
}

impl Broken {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stories/disk/broken.c");
        let built = std::process::Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(directory.path().join("broken.so"))
            .args([source, "-ldl"])
            .status();
        assert!(built.expect("a C compiler").success());
        Self { directory }
    }

    /// Shell commands that make the next program use the library.
    pub(crate) fn prelude(&self) -> String {
        let directory = self.directory.path().display();
        format!("export BROKEN_DISK={directory} LD_PRELOAD={directory}/broken.so")
    }

    /// From now on these calls ("sync", "read") fail with this error.
    pub(crate) fn fail(&self, calls: &str, errno: rustix::io::Errno) {
        let number = errno.raw_os_error().to_string();
        std::fs::write(self.directory.path().join("new"), number).expect("written");
        let switch = self.directory.path().join(calls);
        std::fs::rename(self.directory.path().join("new"), switch).expect("renamed");
    }
}

/// Only a restart helps, and the sooner the better, so that gateways and publishers use other
/// nodes.
#[tokio::test]
async fn a_failed_sync_makes_the_process_unready_at_once_and_ends_it_soon() {
    for errno in [rustix::io::Errno::IO, rustix::io::Errno::NOSPC] {
        let broken = Broken::new();
        // It ends without waiting until the gateways are disconnected one after another.
        let drain = [("SHUTDOWN__DRAIN", "10m")];
        let mut service = Service::start_after(&broken.prelude(), &drain).await;
        let (id, key) = service.gateway("one").await;
        let (_, silent) = service.gateway("silent").await;
        let sockets = [service.connected(&key).await.serve()];
        let _silent = service.connected(&silent).await;
        let api = service.api();
        api.post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
        broken.fail("sync", errno);
        let refused = api.post("/events", &deployed(&[&id], "d-2")).await;
        let status = refused.expect_err("its outcome is unknown").status();
        assert!(matches!(status, Some(503) | None), "{status:?}");
        // No answer, or one that says that it is not ready.
        assert!(api.root("/readyz").await.is_err(), "{}", service.log());
        assert_eq!(service.ended().await, Some(1), "{}", service.log());
        for socket in sockets {
            socket.await.expect("closed");
        }
        service.restart_free().await;
        service.kill().await;
        assert_sound(&service.database()).await;
    }
}

#[tokio::test]
async fn a_failed_read_is_reported_as_a_failing_disk_and_not_as_corruption() {
    let broken = Broken::new();
    let mut service = Service::start_after(&broken.prelude(), &[]).await;
    let (id, _) = service.gateway("one").await;
    let mut last = String::new();
    for number in 0..50 {
        let answer = service.api().post("/events", &large(&id, number)).await.expect("accepted");
        answer["id"].as_str().expect("an id").clone_into(&mut last);
    }
    service.kill().await;
    // Empties SQLite's cache.
    service.restart().await;
    broken.fail("read", rustix::io::Errno::IO);
    let api = service.api();
    let status = api.get(&format!("/events/{last}")).await.expect_err("unreadable").status();
    assert!(matches!(status, Some(503) | None), "{status:?}\n{}", service.log());
    service.logged(|log| log.contains("disk failed")).await;
    assert!(!service.log().contains("damaged"), "{}", service.log());
}

/// A large event.
fn large(gateway: &str, number: usize) -> serde_json::Value {
    json!({"type": "gateway.config.updated", "gatewayIds": [gateway],
           "payload": {"configType": format!("{number}-{}", "x".repeat(20_000)), "action": "update"}})
}

#[tokio::test]
async fn foreign_file_at_the_ballasts_path_is_not_deleted() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("precious"), "precious").expect("written");
    std::os::unix::fs::symlink(at("precious"), at("gateway-events.db.ballast")).expect("linked");
    let settings = [("DATABASE__MIN_FREE_BYTES", "0"), ("DATABASE__BALLAST_BYTES", "4096")];
    let mut service = Service::start_in(directory, &settings).await;
    let path = service.directory().join("gateway-events.db.ballast");
    service.logged(|log| log.contains("ballast")).await;
    let precious = service.directory().join("precious");
    assert_eq!(std::fs::read_to_string(&precious).expect("there"), "precious");
    assert!(path.is_symlink());
    // A file of another program, with another size: neither changed nor removed.
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, "somebody's").expect("written");
    service.kill().await;
    service.restart().await;
    assert_eq!(std::fs::read_to_string(&path).expect("there"), "somebody's");
    // Without it, a ballast file is created. One with another size replaces it.
    std::fs::remove_file(&path).expect("removed");
    for bytes in ["8192", "4096"] {
        service.set("DATABASE__BALLAST_BYTES", bytes);
        service.kill().await;
        service.restart().await;
        let made = async {
            while path.metadata().map_or(0, |file| file.len()).to_string() != bytes {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, made).await.expect("a ballast");
    }
}

/// Writes until the disk is full.
pub(crate) fn fill(filler: &Path) {
    let mut file = std::fs::File::create(filler).expect("a file");
    for length in [65_536, 4096, 1] {
        while file.write_all(&vec![1; length]).is_ok() {}
    }
}

async fn assert_sound(database: &Path) {
    let report = verify(database).await.expect("readable");
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
}
