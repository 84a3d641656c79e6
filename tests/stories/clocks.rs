//! Clocks that are wrong, or set while the service runs. A preloaded library adds a test's offset
//! to the wall clock and leaves the monotonic clock unchanged.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use gateway_events::clock::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

use crate::both_databases::Backend;
use crate::server::Database;
use crate::support::{Service, deployed, get};

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile int64_t *offset;
__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_OFFSET");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return;
    void *map = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    if (map != MAP_FAILED) offset = map;
    close(file);
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    long result = syscall(SYS_clock_gettime, clock, time);
    if (!result && offset && clock == CLOCK_REALTIME) time->tv_sec += *offset;
    return result;
}
int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    if (time) { time->tv_sec = now.tv_sec; time->tv_usec = now.tv_nsec / 1000; }
    return 0;
}
"#;

/// A wall clock that a test can set.
struct WallClock {
    directory: TempDir,
}

impl WallClock {
    /// A clock that is this many seconds ahead.
    fn ahead(seconds: i64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        // The database server runs as another user.
        let readable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), readable).expect("readable");
        std::fs::write(at("clock.c"), SOURCE).expect("written");
        let compiled = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .args([at("clock.so"), at("clock.c")])
            .status();
        assert!(compiled.expect("a C compiler").success());
        std::fs::write(at("offset"), seconds.to_le_bytes()).expect("written");
        Self { directory }
    }

    /// Sets the clock in running programs.
    fn set(&self, seconds: i64) {
        let file = std::fs::File::options().write(true).open(self.directory.path().join("offset"));
        file.and_then(|mut file| file.write_all(&seconds.to_ne_bytes())).expect("written");
    }

    fn variables(&self) -> [(&'static str, String); 2] {
        let at = |name: &str| self.directory.path().join(name).display().to_string();
        [("LD_PRELOAD", at("clock.so")), ("CLOCK_OFFSET", at("offset"))]
    }

    /// Shell commands that make the next program use this clock.
    fn prelude(&self) -> String {
        let set = self.variables().map(|(name, value)| format!("{name}={value}"));
        format!("export {}", set.join(" "))
    }
}

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

async fn publish(service: &Service, gateway: &str, deployment: &str) {
    let event = deployed(&[gateway], deployment);
    service.api().post("/events", &event).await.expect("accepted");
}

#[tokio::test]
async fn setting_the_clock_back_hides_no_failure_and_keeps_attempts_in_order() {
    let clock = WallClock::ahead(0);
    let service = Service::start_after(&clock.prelude(), &[]).await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    publish(&service, &id, "d-1").await;
    socket.expect(1..=1).await;
    // The receipt arrives at an earlier time than that at which the event was sent.
    clock.set(-5);
    let serving = socket.serve();
    let path = format!("/gateways/{id}");
    service.eventually(&path, |gateway| gateway["confirmed"] == 1).await;
    serving.abort();
    let _ = serving.await;
    service.eventually(&path, |gateway| gateway["connected"] == false).await;
    publish(&service, &id, "d-2").await;
    let failed = service.eventually("/deliveries", |page| page["count"] == 1).await;
    assert_eq!(failed["list"][0]["reason"], "not_connected", "{failed:#}");
    clock.set(-HOUR);
    let failed = get(&service.api(), "/deliveries").await.expect("failures");
    assert_eq!(failed["count"], 1, "{failed:#}");
    service.logged(|log| log.contains("the database's clock was set")).await;
    let report = Backend::Sqlite.verify(&service).await;
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
}

#[tokio::test]
async fn a_clock_that_is_briefly_ahead_makes_retention_remove_nothing() {
    let clock = WallClock::ahead(0);
    let settings = [("RETENTION__INTERVAL", "1s"), ("LOG__FILTER", "info,gateway_events=debug")];
    let service = Service::start_after(&clock.prelude(), &settings).await;
    let (id, key) = service.gateway("away").await;
    publish(&service, &id, "d-1").await;
    let passes = |log: &str| log.matches("\"message\":\"retention\"").count();
    service.logged(|log| passes(log) >= 1).await;
    clock.set(31 * DAY);
    let before = passes(&service.log());
    service
        .logged(|log| {
            log.contains("retention measures ages by the earlier of the old and the new time")
        })
        .await;
    service.logged(|log| passes(log) >= before + 3).await;
    clock.set(0);
    let before = passes(&service.log());
    service.logged(|log| passes(log) >= before + 2).await;
    let mut socket = service.connected(&key).await;
    socket.expect(1..=1).await;
}

/// Failed deliveries to a gateway within the default window.
async fn failures(service: &Service) -> Value {
    service
        .eventually("/deliveries", |page| {
            let list = page["list"].as_array().expect("a list");
            list.iter().any(|row| row["reason"] != "not_connected")
        })
        .await
}

#[tokio::test]
async fn a_node_with_a_wrong_clock_uses_the_databases_clock() {
    for seconds in [HOUR, -2 * DAY] {
        let clock = WallClock::ahead(seconds);
        let database = Database::new();
        let url = database.url();
        let settings = [("DATABASE__URL", url.as_str())];
        let wrong = Service::start_after(&clock.prelude(), &settings).await;
        let directory = tempfile::tempdir().expect("a directory");
        let right = Service::start_again_in(directory, &settings, &wrong.token).await;
        let (id, key) = wrong.gateway("one").await;
        let mut socket = wrong.connected(&key).await;
        publish(&wrong, &id, "d-1").await;
        socket.expect(1..=1).await;
        drop(socket);
        for node in [&right, &wrong] {
            let failed = failures(node).await;
            let at = failed["list"][0]["lastFailureAt"].as_str().expect("an instant");
            let at = Timestamp::parse(at).expect("an instant");
            let now = Timestamp::now();
            let off = now.since(at).max(at.since(now));
            assert!(off < Duration::from_mins(2), "{seconds}: off by {off:?}: {failed:#}");
        }
    }
}

#[tokio::test]
async fn a_node_that_dies_after_the_databases_clock_was_set_back_is_noticed() {
    let clock = WallClock::ahead(HOUR);
    let database = Database::alone_with(&clock.variables());
    let url = database.url();
    let settings = [("DATABASE__URL", url.as_str()), ("DATABASE__NODE_TIMEOUT", "10s")];
    let lives = Service::start_with(&settings).await;
    let mut dies = lives.another().await;
    clock.set(0);
    lives.logged(|log| log.contains("the database's clock was set")).await;
    // Both have stored heartbeats since.
    lives
        .eventually("/nodes", |page| {
            let soon = Timestamp::now().plus(Duration::from_mins(1));
            let at = |node: &Value| Timestamp::parse(node["lastHeartbeat"].as_str()?).ok();
            let nodes = page["list"].as_array().expect("a list");
            nodes.len() == 2 && nodes.iter().all(|node| at(node).is_some_and(|at| at < soon))
        })
        .await;
    let (id, key) = lives.gateway("one").await;
    let _socket = dies.connected(&key).await;
    let path = format!("/gateways/{id}");
    lives.eventually(&path, |gateway| gateway["connected"] == true).await;
    dies.kill().await;
    let patience = Duration::from_mins(1);
    lives.eventually_within(patience, &path, |gateway| gateway["connected"] == false).await;
    // The live node was never declared dead.
    assert!(!lives.log().contains("declared dead by another node"), "{}", lives.log());
}
