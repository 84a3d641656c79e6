//! Backups of the SQLite database, restores, and new epochs on both databases: no sequence that was
//! handed out is given to another event in the same epoch.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gateway_events::api::{FeedGapReason, FeedKind, FeedMessage, FeedQuery};
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use crate::both_databases::{Backend, on_both};
use crate::disk::{Broken, fill, on_small_disk, small_disk};
use crate::feed::Following;
use crate::reliable::peer::Peer;
use crate::support::command::{CommandOutput, command, run};
use crate::support::{Service, TEST_TIMEOUT, deployed};

on_both! {
    new_epochs_are_started_while_no_node_runs
    a_database_that_went_backwards_is_refused_until_its_epochs_are_renewed
    a_position_that_the_log_does_not_have_is_answered_with_a_gap_and_reported
    a_feed_of_before_a_restore_continues_with_a_gap
}

/// Runs a command on the service's database, beside it.
async fn local(backend: &Backend, service: &Service, arguments: &str) -> CommandOutput {
    let mut local = command(arguments);
    local.arg("--data-dir").arg(service.directory());
    if let Backend::Postgres(database) = backend {
        local.env("GATEWAY_EVENTS__DATABASE__URL", database.url());
    }
    run(&mut local).await
}

async fn embedded(service: &Service, arguments: &str) -> CommandOutput {
    local(&Backend::Sqlite, service, arguments).await
}

async fn publish(service: &Service, gateways: &[&str], deployment: &str) -> Value {
    service.api().post("/events", &deployed(gateways, deployment)).await.expect("accepted")
}

async fn shown(service: &Service, gateway: &str) -> Value {
    service.api().get(&format!("/gateways/{gateway}")).await.expect("the gateway")
}

async fn confirmed(service: &Service, gateway: &str, sequence: &Value) {
    let path = format!("/gateways/{gateway}");
    service.eventually(&path, |shown| shown["confirmed"] == *sequence).await;
}

/// The newest record of new epochs in the audit log.
async fn renewal(service: &Service) -> Value {
    let query = [("action", "epochs.renewed".to_owned())];
    service.api().get_with("/audit", &query).await.expect("records")["list"][0].clone()
}

/// The names in a directory, in order.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("an entry").file_name().into_string().expect("a name")
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}

/// Publishes until it is stopped.
fn busy_publisher(service: &Service, gateway: &str) -> impl AsyncFnOnce() {
    let stop = Arc::new(AtomicBool::new(false));
    let (api, gateway, stopped) = (service.api(), gateway.to_owned(), Arc::clone(&stop));
    let publishing = tokio::spawn(async move {
        for number in 0.. {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            let event = deployed(&[&gateway], &format!("busy-{number}"));
            api.post("/events", &event).await.expect("accepted");
        }
    });
    async move || {
        stop.store(true, Ordering::Relaxed);
        publishing.await.expect("published");
    }
}

/// A plain and a reliable gateway that have confirmed what there is, and a backup that was made while
/// events were published.
struct Fleet {
    service: Service,
    backups: tempfile::TempDir,
    plain: (String, String),
    reliable: (String, String),
}

impl Fleet {
    async fn backed_up() -> Self {
        let service = Service::start().await;
        let (plain, reliable) = (service.gateway("plain").await, service.gateway("reliable").await);
        for number in 1..=5 {
            publish(&service, &[&plain.0, &reliable.0], &format!("d-{number}")).await;
        }
        let mut socket = service.connected(&plain.1).await;
        socket.expect(1..=3).await;
        drop(socket);
        let backups = tempfile::tempdir().expect("a directory");
        let fleet = Self { service, backups, plain, reliable };
        let stop = busy_publisher(&fleet.service, &fleet.plain.0);
        let written = embedded(&fleet.service, &format!("backup {}", fleet.file().display())).await;
        stop().await;
        assert!(written.well().contains("copied"), "{written:?}");
        fleet
    }

    fn file(&self) -> PathBuf {
        self.backups.path().join("copy.db")
    }

    /// The ids of the events in the log of the plain gateway, by sequence.
    async fn log(&self) -> Vec<Value> {
        let path = format!("/gateways/{}/log", self.plain.0);
        let query = [("limit", "1000".to_owned())];
        let page = self.service.api().get_with(&path, &query).await.expect("the log");
        page["list"].as_array().expect("a list").clone()
    }
}

#[tokio::test]
async fn a_backup_under_load_is_restored_and_no_sequence_is_silently_reused() {
    let mut fleet = Fleet::backed_up().await;
    let file = fleet.file();
    assert_eq!(names(fleet.backups.path()), ["copy.db"]);
    let mode = std::fs::metadata(&file).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let report = run(&mut command(&format!("verify {} --json", file.display()))).await.json();
    assert_eq!(report["problems"], json!([]), "{report}");

    // After the backup: more is published, delivered and confirmed.
    let (plain, reliable) = (fleet.plain.clone(), fleet.reliable.clone());
    for number in 1..=5 {
        let deployment = format!("lost-{number}");
        publish(&fleet.service, &[&plain.0, &reliable.0], &deployment).await;
    }
    let before = shown(&fleet.service, &plain.0).await;
    let (old_head, plain_epoch) = (before["head"].clone(), before["epoch"].clone());
    let socket = fleet.service.connected(&plain.1).await.serve();
    confirmed(&fleet.service, &plain.0, &old_head).await;
    socket.abort();
    let mut peer = Peer::connect(&fleet.service, &reliable.1, json!({"instance": "a"})).await;
    let old_epoch = peer.ack["epoch"].clone();
    let mut last = Value::Null;
    for sequence in 1..=10 {
        last = peer.event(sequence).await;
    }
    peer.applied(10).await;
    confirmed(&fleet.service, &reliable.0, &json!(10)).await;
    drop(peer);

    // Restored, once that is safe and wanted.
    let restore = format!("restore {}", file.display());
    let beside = format!("{restore} --replace");
    embedded(&fleet.service, &beside).await.failed(1, &["in use by another gateway-events"]);
    assert_eq!(fleet.service.terminate().await, Some(0), "{}", fleet.service.log());
    embedded(&fleet.service, &restore).await.failed(1, &["--replace", "nothing was changed"]);
    let restored = embedded(&fleet.service, &format!("{beside} --json")).await.json();
    assert_eq!(restored["logs"], 2);
    fleet.service.restart().await;
    let aside = restored["aside"].as_str().expect("a path");
    let report = run(&mut command(&format!("verify {aside} --json"))).await.json();
    assert_eq!(report["problems"], json!([]), "{report}");

    // The plain gateway gets everything that the copy holds after its confirmed position.
    let head = shown(&fleet.service, &plain.0).await["head"].as_i64().expect("a head");
    let log = fleet.log().await;
    assert!(head >= 5 && head < old_head.as_i64().expect("a head"), "{head} {old_head}");
    let from = shown(&fleet.service, &plain.0).await["confirmed"].as_i64().expect("a position");
    let mut socket = fleet.service.connected(&plain.1).await;
    let got = socket.expect(from + 1..=head).await;
    for event in &got {
        assert_ne!(event["epoch"], plain_epoch);
        let is_same = |it: &&Value| it["sequence"] == event["sequence"];
        let stored = log.iter().find(is_same).expect("it is in the log");
        assert_eq!(stored["eventId"], event["eventId"]);
    }
    let socket = socket.serve();
    confirmed(&fleet.service, &plain.0, &json!(head)).await;

    a_reliable_gateway_gets_a_gap(&fleet.service, &reliable, &old_epoch, &last).await;
    let record = renewal(&fleet.service).await;
    assert_eq!(record["after"]["reason"], "restored", "{record}");
    assert_eq!(record["principal"]["id"], "local");
    socket.abort();
    assert_eq!(Backend::Sqlite.verify(&fleet.service).await.problems, Vec::<String>::new());
}

/// The reliable gateway learns that its position belongs to another log, and reads a snapshot.
async fn a_reliable_gateway_gets_a_gap(
    service: &Service,
    (id, key): &(String, String),
    old_epoch: &Value,
    last: &Value,
) {
    let mut peer = Peer::greet(service, key).await;
    let new_epoch = peer.ack["epoch"].clone();
    assert_ne!(new_epoch, *old_epoch);
    let position = json!({"epoch": old_epoch, "sequence": 10, "eventId": last["eventId"]});
    peer.hello(json!({"instance": "a", "resume": position})).await;
    let gap = peer.frame_of("delivery.gap").await;
    assert_eq!((&gap["reason"], &gap["epoch"]), (&json!("epoch"), &new_epoch), "{gap}");
    assert_eq!(gap["resumeAt"], 5);
    peer.applied(5).await;
    let resumed = peer.frame_of("connection.resumed").await;
    assert_eq!((&resumed["from"], &resumed["epoch"]), (&json!(5), &new_epoch), "{resumed}");
    // The same sequence as before, for another event, in another epoch.
    for sequence in 6..=10 {
        let event_id =
            publish(service, &[id.as_str()], &format!("new-{sequence}")).await["id"].clone();
        let event = peer.event(sequence).await;
        assert_eq!((&event["eventId"], &event["epoch"]), (&event_id, &new_epoch), "{event}");
        assert_ne!(event["eventId"], last["eventId"]);
        peer.applied(sequence).await;
    }
    confirmed(service, id, &json!(10)).await;
}

#[tokio::test]
async fn a_backup_is_restored_where_there_is_no_database() {
    let fleet = Fleet::backed_up().await;
    let directory = tempfile::tempdir().expect("a directory");
    let mut restore = command(&format!("restore {} --json --data-dir", fleet.file().display()));
    let restored = run(restore.arg(directory.path().join("new"))).await.json();
    assert_eq!(restored, json!({"logs": 2, "aside": null, "problems": []}));
    let restored = directory.path().join("new").join("gateway-events.db");
    let mode = std::fs::metadata(&restored).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    run(&mut command(&format!("verify {}", restored.display()))).await.well();
    assert_eq!(names(fleet.backups.path()), ["copy.db"], "it was only read");
}

#[tokio::test]
async fn a_backup_replaces_no_file_and_is_no_part_of_the_database() {
    let mut service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    publish(&service, &[&id], "d-1").await;
    let live = service.database().display().to_string();
    std::os::unix::fs::symlink(&live, service.directory().join("link")).expect("linked");
    let link = service.directory().join("link").display().to_string();
    for file in [&live, &format!("{live}-wal"), &format!("{live}.lock"), &link] {
        let refused = embedded(&service, &format!("backup {file}")).await;
        refused.failed(1, &[file, "the database itself"]);
    }
    std::fs::write(service.directory().join("taken"), "precious").expect("written");
    let taken = service.directory().join("taken").display().to_string();
    embedded(&service, &format!("backup {taken}")).await.failed(1, &[&taken, "exists"]);
    assert_eq!(std::fs::read_to_string(&taken).expect("there"), "precious");
    let nowhere = service.directory().join("no/where").display().to_string();
    embedded(&service, &format!("backup {nowhere}")).await.failed(1, &[&nowhere, "No such file"]);
    publish(&service, &[&id], "d-2").await;
    // Without a running service, the names of files that are not there now stay refused.
    assert_eq!(service.terminate().await, Some(0));
    embedded(&service, &format!("backup {live}-wal")).await.failed(1, &["the database itself"]);
    let copy = service.directory().join("copy.db").display().to_string();
    embedded(&service, &format!("backup {copy}")).await.well();
    run(&mut command(&format!("verify {copy}"))).await.well();
    let empty = tempfile::tempdir().expect("a directory");
    let mut backup = command("backup copy.db --data-dir");
    run(backup.arg(empty.path())).await.failed(1, &["gateway-events.db", "No such file"]);
    assert_eq!(names(empty.path()), Vec::<String>::new());
}

/// SQLite would apply the log of another database to the backup.
#[tokio::test]
async fn a_backup_is_not_written_beside_files_of_another_database() {
    let service = Service::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("copy.db").display().to_string();
    for end in ["-wal", "-journal", "-shm"] {
        let leftover = format!("{copy}{end}");
        std::fs::write(&leftover, "old").expect("written");
        let refused = embedded(&service, &format!("backup {copy}")).await;
        refused.failed(1, &[&leftover, "exists", "remove it, or choose another name"]);
        std::fs::remove_file(&leftover).expect("removed");
        assert_eq!(names(directory.path()), Vec::<String>::new());
    }
    embedded(&service, &format!("backup {copy}")).await.well();
}

/// SQLite takes such names for URIs.
#[tokio::test]
async fn a_backup_has_the_name_that_was_given() {
    let service = Service::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["file:copy.db", "file:%2e%2e%2fcopy.db?mode=memory", ":memory:"] {
        let mut backup = command("backup");
        backup.arg(name).arg("--data-dir").arg(service.directory());
        run(backup.current_dir(directory.path())).await.well();
        assert_eq!(names(directory.path()), [name]);
        let copy = directory.path().join(name);
        let mode = std::fs::metadata(&copy).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        run(command("verify").arg(&copy)).await.well();
        std::fs::remove_file(&copy).expect("removed");
    }
    let folder = format!("{}/", directory.path().display());
    embedded(&service, &format!("backup {folder}")).await.failed(1, &["it names a directory"]);
}

#[tokio::test]
async fn a_backup_to_a_full_disk_leaves_nothing_behind() {
    on_small_disk("backup::a_full_disk_is_reported_and_nothing_is_left").await;
    // The disk fills up while the copy is written, and SQLite can't sync it.
    let service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    publish(&service, &[&id], "d-1").await;
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("copy.db");
    let backup = |prelude: &str| {
        let program = env!("CARGO_BIN_EXE_gateway-events");
        let mut shell = tokio::process::Command::new("sh");
        let script = format!("{prelude}; exec {program} backup \"$0\" --data-dir \"$1\"");
        shell.args(["-c", &script]).arg(&copy).arg(service.directory());
        shell.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        shell
    };
    let said = run(&mut backup("trap '' XFSZ; ulimit -f 64")).await;
    said.failed(1, &["copy.db", "the incomplete copy was removed"]);
    let broken = Broken::new();
    broken.fail("sync", rustix::io::Errno::NOSPC);
    let said = run(&mut backup(&broken.prelude())).await;
    said.failed(1, &["copy.db", "disk I/O error; the incomplete copy was removed"]);
    assert_eq!(names(directory.path()), Vec::<String>::new());
    publish(&service, &[&id], "d-2").await;
}

/// Publishes about this many MiB for a gateway.
async fn publish_mib(service: &Service, gateway: &str, mib: usize) {
    let event = json!({"type": "gateway.config.updated", "gatewayIds": [gateway],
        "payload": {"configType": "x".repeat(256 * 1024), "action": "update"}});
    for _ in 0..mib {
        service.api().post("/events", &json!(vec![&event; 4])).await.expect("accepted");
    }
}

/// The incomplete copies of a backup.
fn partials(directory: &Path) -> Vec<PathBuf> {
    let all = names(directory).into_iter();
    let partial = all.filter(|name| name.contains(".partial"));
    partial.map(|name| directory.join(name)).collect()
}

/// Begins a backup and kills the process when it has written this much. Returns the incomplete copy.
async fn killed_backup(service: &Service, file: &Path, bytes: u64) -> PathBuf {
    let mut backup = command(&format!("backup {}", file.display()));
    let mut running = backup.arg("--data-dir").arg(service.directory()).spawn().expect("it starts");
    let directory = file.parent().expect("a directory");
    let under_way = || {
        let is_large = |copy: &PathBuf| copy.metadata().is_ok_and(|it| it.len() > bytes);
        partials(directory).into_iter().find(is_large)
    };
    let waiting = async {
        loop {
            if let Some(copy) = under_way() {
                return copy;
            }
            tokio::task::yield_now().await;
        }
    };
    let copy = tokio::time::timeout(TEST_TIMEOUT, waiting).await.expect("it writes");
    running.kill().await.expect("it ran");
    let ended = running.wait().await.expect("it has ended");
    assert_eq!(ended.code(), None, "it was complete before it was killed");
    assert!(!file.exists(), "an incomplete backup has its name");
    copy
}

#[tokio::test]
async fn a_killed_backup_leaves_no_file_that_is_taken_for_one_and_the_next_one_works() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    publish_mib(&service, &id, 24).await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("copy.db");
    let stop = busy_publisher(&service, &id);
    // What is left is neither a backup nor a database.
    let incomplete = killed_backup(&service, &file, 1 << 20).await.display().to_string();
    let empty = tempfile::tempdir().expect("a directory");
    let mut restore = command(&format!("restore {incomplete} --data-dir"));
    run(restore.arg(empty.path())).await.failed(1, &[&incomplete]);
    assert!(!names(empty.path()).contains(&"gateway-events.db".to_owned()), "it was restored");
    let verified = run(&mut command(&format!("verify {incomplete}"))).await;
    assert_ne!(verified.code, Some(0), "{verified:?}");
    // The next one to the same name.
    let written = embedded(&service, &format!("backup {}", file.display())).await;
    assert!(written.well().contains("copied"), "{written:?}");
    stop().await;
    let report = run(&mut command(&format!("verify {} --json", file.display()))).await.json();
    assert_eq!(report["problems"], json!([]), "{report}");
    // The service is as it was.
    publish(&service, &[&id], "d-last").await;
    let head = shown(&service, &id).await["head"].clone();
    let socket = service.connected(&key).await.serve();
    confirmed(&service, &id, &head).await;
    socket.abort();
    assert_eq!(Backend::Sqlite.verify(&service).await.problems, Vec::<String>::new());
}

#[tokio::test]
async fn a_backup_that_was_killed_on_a_small_disk_can_be_repeated() {
    on_small_disk("backup::what_a_killed_backup_left_is_named_if_it_takes_the_space").await;
}

#[tokio::test]
#[ignore = "run by `a_backup_that_was_killed_on_a_small_disk_can_be_repeated`, on a disk of its own"]
async fn what_a_killed_backup_left_is_named_if_it_takes_the_space() {
    let disk = small_disk();
    let service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    // The disk has 32 MiB.
    publish_mib(&service, &id, 26).await;
    let file = disk.join("copy.db");
    let backup = format!("backup {}", file.display());
    let incomplete = killed_backup(&service, &file, 10 << 20).await.display().to_string();
    let said = embedded(&service, &backup).await;
    said.failed(1, &["free space", "nothing was written", &incomplete, "remove"]);
    assert!(!file.exists());
    for left in partials(&disk) {
        std::fs::remove_file(left).expect("removed");
    }
    embedded(&service, &backup).await.well();
    run(&mut command(&format!("verify {}", file.display()))).await.well();
    publish(&service, &[&id], "d-last").await;
}

#[tokio::test]
#[ignore = "run by `a_backup_to_a_full_disk_leaves_nothing_behind`, on a disk of its own"]
async fn a_full_disk_is_reported_and_nothing_is_left() {
    let disk = small_disk();
    let service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    publish(&service, &[&id], "d-1").await;
    fill(&disk.join("filler"));
    let copy = disk.join("copy.db").display().to_string();
    let said = embedded(&service, &format!("backup {copy}")).await;
    said.failed(1, &[&copy, "free space", "nothing was written"]);
    assert_eq!(names(&disk), ["filler"]);
    // On the disk of the database, what the service needs stays free.
    let beside = service.directory().join("copy.db").display().to_string();
    let mut backup = command(&format!("backup {beside} --data-dir"));
    backup.arg(service.directory());
    backup.env("GATEWAY_EVENTS__DATABASE__MIN_FREE_BYTES", i64::MAX.to_string());
    run(&mut backup).await.failed(1, &["free space", "nothing was written"]);
    publish(&service, &[&id], "d-2").await;
}

/// Changes a copy of a backup by SQL.
async fn changed(backup: &Path, name: &str, statements: &str) -> String {
    let copy = backup.with_file_name(name);
    std::fs::copy(backup, &copy).expect("copied");
    let file = SqliteConnectOptions::new().filename(&copy).foreign_keys(false);
    let mut database = file.connect().await.expect("the copy");
    let statements = AssertSqlSafe(statements.to_owned());
    sqlx::raw_sql(statements).execute(&mut database).await.expect("changed");
    database.close().await.expect("closed");
    copy.display().to_string()
}

#[tokio::test]
async fn an_unsuitable_file_is_not_restored_and_the_database_stays() {
    let mut fleet = Fleet::backed_up().await;
    assert_eq!(fleet.service.terminate().await, Some(0));
    let (backup, directory) = (fleet.file(), fleet.backups.path().to_owned());
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        std::fs::write(&path, bytes).expect("written");
        path.display().to_string()
    };
    let bytes = std::fs::read(&backup).expect("the backup");
    let newer =
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
        values (9999, 'from tomorrow', true, x'00', 0)";
    let live = fleet.service.database().display().to_string();
    let other = directory.join("other.db").display().to_string();
    let text = "not a database, but long enough to be read as one".repeat(99);
    let cases = [
        (write("text", text.as_bytes()), "is not a SQLite database"),
        (write("empty", b""), "not a database of gateway-events"),
        (write("half.db", &bytes[..bytes.len() / 2]), "is damaged or incomplete"),
        (write("head.db", &bytes[..5000]), "is damaged or incomplete"),
        (changed(&backup, "newer.db", newer).await, "migration 9999"),
        (
            changed(&backup, "lost.db", "update streams set head = head + 1").await,
            "--accept-problems",
        ),
        (directory.join("missing").display().to_string(), "No such file"),
        (directory.display().to_string(), "is not a regular file"),
        (live.clone(), "is the database itself"),
        (
            {
                std::fs::write(&other, b"").expect("written");
                changed(Path::new(&other), "others.db", "create table users (name)").await
            },
            "not a database of gateway-events",
        ),
    ];
    let before = (names(fleet.service.directory()), std::fs::read(&live).expect("the database"));
    for (file, says) in &cases {
        let refused = embedded(&fleet.service, &format!("restore {file} --replace")).await;
        refused.failed(1, &[file, says]);
    }
    let after = (names(fleet.service.directory()), std::fs::read(&live).expect("the database"));
    assert!(before == after, "{:?} {:?}", before.0, after.0);
    // Where there is no database, nothing is left behind either.
    let elsewhere = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(elsewhere.path().join("empty")).expect("created");
    for (file, says) in cases.iter().filter(|(file, _)| *file != live) {
        for data_dir in ["new/deeper", "empty"] {
            let data_dir = elsewhere.path().join(data_dir);
            let restore = format!("restore {file} --data-dir {}", data_dir.display());
            run(&mut command(&restore)).await.failed(1, &[file, says]);
            assert_eq!(names(elsewhere.path()), ["empty"], "{file}");
            assert_eq!(names(&elsewhere.path().join("empty")), Vec::<String>::new(), "{file}");
        }
    }
    let problems = directory.join("lost.db").display().to_string();
    let accepted = format!("restore {problems} --replace --accept-problems --json");
    let restored = embedded(&fleet.service, &accepted).await.json();
    assert!(restored["problems"][0].as_str().expect("a problem").contains("its log"), "{restored}");
}

#[tokio::test]
async fn a_database_that_another_program_has_open_is_not_replaced() {
    let mut fleet = Fleet::backed_up().await;
    assert_eq!(fleet.service.terminate().await, Some(0));
    let file = SqliteConnectOptions::new().filename(fleet.service.database());
    let mut other = file.connect().await.expect("the database");
    sqlx::query("select count(*) from inbox").execute(&mut other).await.expect("read");
    let restore = format!("restore {} --replace", fleet.file().display());
    embedded(&fleet.service, &restore).await.failed(1, &["another program", "nothing was changed"]);
    other.close().await.expect("closed");
    embedded(&fleet.service, &restore).await.well();
}

/// A database is restored above all when the old one is damaged, and its write-ahead log can't be
/// written back to it.
#[tokio::test]
async fn a_damaged_database_is_moved_aside_with_its_log() {
    let mut fleet = Fleet::backed_up().await;
    // A log that is much shorter than the database can't make up for what is missing in it.
    assert_eq!(fleet.service.terminate().await, Some(0));
    fleet.service.restart().await;
    publish(&fleet.service, &[&fleet.plain.0], "in the log").await;
    fleet.service.kill().await;
    let live = fleet.service.database();
    let file = std::fs::File::options().write(true).open(&live).expect("the database");
    file.set_len(8192).expect("truncated");
    let wal = live.with_file_name("gateway-events.db-wal");
    assert!(wal.metadata().expect("a log").len() > 0);
    let restore = format!("restore {} --replace --json", fleet.file().display());
    let restored = embedded(&fleet.service, &restore).await.json();
    let aside = restored["aside"].as_str().expect("a name");
    assert_eq!(std::fs::metadata(aside).expect("moved aside").len(), 8192);
    assert!(!wal.exists(), "it would be applied to the backup");
    run(command("verify").arg(&live)).await.well();
    fleet.service.restart().await;
    assert!(!fleet.log().await.is_empty());
}

/// The database is on another disk, and its name in the data directory leads there.
#[tokio::test]
async fn a_link_to_a_database_stays_and_its_target_is_replaced() {
    let mut fleet = Fleet::backed_up().await;
    assert_eq!(fleet.service.terminate().await, Some(0));
    let live = fleet.service.database();
    let target = fleet.backups.path().join("elsewhere.db");
    std::fs::rename(&live, &target).expect("moved");
    std::os::unix::fs::symlink(&target, &live).expect("linked");
    let log = format!("{}-wal", target.display());
    embedded(&fleet.service, &format!("backup {log}")).await.failed(1, &["the database itself"]);
    let restore = format!("restore {} --replace --json", fleet.file().display());
    let restored = embedded(&fleet.service, &restore).await.json();
    let aside = Path::new(restored["aside"].as_str().expect("a name"));
    assert_eq!(aside.parent(), Some(fleet.backups.path()));
    assert!(std::fs::symlink_metadata(&live).expect("a name").is_symlink());
    fleet.service.restart().await;
    assert!(!fleet.log().await.is_empty());
    embedded(&fleet.service, &restore).await.failed(1, &["in use by another gateway-events"]);
}

/// An operator runs it as root, and the service runs as another user.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "the output shows that the check was skipped")]
async fn a_database_restored_by_root_belongs_to_the_owner_of_the_old_one() {
    const SERVICE: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        println!("NOT CHECKED, since only root can give files away");
        return;
    }
    let fleet = Fleet::backed_up().await;
    let directory = tempfile::tempdir().expect("a directory");
    let owner = |name: &str| {
        let file = std::fs::metadata(directory.path().join(name)).expect("a file");
        (file.uid(), file.gid())
    };
    std::os::unix::fs::chown(directory.path(), Some(SERVICE), Some(SERVICE)).expect("changed");
    let restore = format!("restore {} --replace --data-dir", fleet.file().display());
    run(command(&restore).arg(directory.path())).await.well();
    assert_eq!(owner("gateway-events.db"), (SERVICE, SERVICE));
    assert_eq!(owner("gateway-events.db.lock"), (SERVICE, SERVICE));
    let live = directory.path().join("gateway-events.db");
    std::os::unix::fs::chown(live, Some(SERVICE - 1), None).expect("changed");
    run(command(&restore).arg(directory.path())).await.well();
    assert_eq!(owner("gateway-events.db"), (SERVICE - 1, SERVICE));
}

#[tokio::test]
async fn epochs_are_not_renewed_where_there_is_no_database() {
    let directory = tempfile::tempdir().expect("a directory");
    for renew in ["epoch renew", "epoch renew --yes"] {
        let renew = format!("{renew} --data-dir {}", directory.path().join("new").display());
        run(&mut command(&renew)).await.failed(1, &["gateway-events.db does not exist"]);
        assert_eq!(names(directory.path()), Vec::<String>::new());
    }
}

#[tokio::test]
async fn postgres_is_backed_up_by_its_own_tools() {
    let backend = Backend::postgres();
    let service = backend.start().await;
    for command in ["backup copy.db", "restore copy.db"] {
        let refused = local(&backend, &service, command).await;
        refused.failed(1, &["pg_dump", "gateway-events epoch renew"]);
    }
}

async fn new_epochs_are_started_while_no_node_runs(backend: Backend) {
    let mut service = backend.start().await;
    let (id, key) = service.gateway("one").await;
    publish(&service, &[&id], "d-1").await;
    let mut peer = Peer::connect(&service, &key, json!({"instance": "a"})).await;
    let old_epoch = peer.event(1).await["epoch"].clone();
    peer.applied(1).await;
    confirmed(&service, &id, &json!(1)).await;
    drop(peer);
    let in_use = if matches!(backend, Backend::Sqlite) {
        "in use by another"
    } else {
        "nodes use the database"
    };
    // It is no use to confirm what can't be done.
    for renew in ["epoch renew --yes", "epoch renew"] {
        local(&backend, &service, renew).await.failed(1, &[in_use]);
    }
    assert_eq!(shown(&service, &id).await["epoch"], old_epoch);
    assert_eq!(service.terminate().await, Some(0));
    local(&backend, &service, "epoch renew").await.failed(1, &["--yes"]);
    let renewed = local(&backend, &service, "epoch renew --yes --json").await.json();
    assert_eq!(renewed, json!({"logs": 1}));
    service.restart().await;
    assert_ne!(shown(&service, &id).await["epoch"], old_epoch);
    let mut peer = Peer::greet(&service, &key).await;
    let position = json!({"epoch": old_epoch, "sequence": 1});
    peer.hello(json!({"instance": "a", "resume": position})).await;
    assert_eq!(peer.frame_of("delivery.gap").await["reason"], "epoch");
    let record = renewal(&service).await;
    assert_eq!(record["after"], json!({"logs": 1, "reason": "requested", "sequences": 1}));
    assert_eq!(backend.verify(&service).await.problems, Vec::<String>::new());
}

/// Keys of rows are assigned again after a restore, so a position of before it says nothing.
async fn a_feed_of_before_a_restore_continues_with_a_gap(backend: Backend) {
    let mut service = backend.start().await;
    let (id, _) = service.gateway("one").await;
    let query = FeedQuery { types: vec![FeedKind::Published], ..FeedQuery::default() };
    let mut feed = Following::start(&service, query.clone(), None).await;
    publish(&service, &[&id], "d-1").await;
    assert!(matches!(feed.next().await, FeedMessage::Published(_)));
    let before = feed.last_id();
    drop(feed);
    assert_eq!(service.terminate().await, Some(0));
    service.restart().await;
    // In the same epoch it continues without a gap.
    publish(&service, &[&id], "d-2").await;
    let mut feed = Following::start(&service, query.clone(), Some(&before)).await;
    assert!(matches!(feed.next().await, FeedMessage::Published(_)));
    drop(feed);
    assert_eq!(service.terminate().await, Some(0));
    local(&backend, &service, "epoch renew --yes").await.well();
    service.restart().await;
    publish(&service, &[&id], "d-3").await;
    let mut feed = Following::start(&service, query, Some(&before)).await;
    let FeedMessage::Gap(gap) = feed.next().await else { panic!("no gap") };
    assert_eq!(gap.reason, FeedGapReason::UnknownId);
    let list = gap.lists[0].strip_prefix("/api/internal/v1").expect("a path of the API");
    assert_eq!(service.admin().get(list).await.success()["count"], 2, "d-2 and d-3");
    publish(&service, &[&id], "d-4").await;
    assert!(matches!(feed.next().await, FeedMessage::Published(_)), "it goes on");
}

/// Runs `serve` until it refuses to start.
async fn refused(backend: &Backend, service: &Service) {
    let refused = local(backend, service, "serve --listen 127.0.0.1:0").await;
    refused.failed(1, &["older than it was", "gateway-events epoch renew"]);
}

async fn a_database_that_went_backwards_is_refused_until_its_epochs_are_renewed(backend: Backend) {
    let mut service = backend.start().await;
    let (id, _) = service.gateway("one").await;
    for number in 1..=3 {
        publish(&service, &[&id], &format!("d-{number}")).await;
    }
    let epoch = shown(&service, &id).await["epoch"].clone();
    assert_eq!(service.terminate().await, Some(0));
    let old = service.directory().join("old.db");
    if matches!(backend, Backend::Sqlite) {
        std::fs::copy(service.database(), &old).expect("copied");
    }
    service.restart().await;
    publish(&service, &[&id], "d-4").await;
    assert_eq!(service.terminate().await, Some(0));
    match &backend {
        // By whatever means.
        Backend::Sqlite => drop(std::fs::copy(&old, service.database()).expect("copied")),
        Backend::Postgres(_) => {
            let lose = "delete from attempts where last_sequence > 3;
                update dead_letters set last_sequence = 3 where last_sequence > 3;
                delete from outbox where sequence > 3;
                update streams set missed = least(missed, 3), head = 3, failed_total = least(failed_total, 3)";
            backend.change(&service, lose).await;
        }
    }
    refused(&backend, &service).await;
    refused(&backend, &service).await;
    local(&backend, &service, "epoch renew --yes").await.well();
    service.restart().await;
    let gateway = shown(&service, &id).await;
    assert_eq!(gateway["head"], 3);
    assert_ne!(gateway["epoch"], epoch);
    publish(&service, &[&id], "d-5").await;
    assert_eq!(service.terminate().await, Some(0), "{}", service.log());
    service.restart().await;
}

/// If it was served as it is, it would assign its next sequences to other events in the same epoch. The data
/// directory may be a new one, so its high-water mark can't reveal that.
#[tokio::test]
async fn a_backup_is_not_served_before_it_is_restored_or_its_epochs_are_renewed() {
    let mut fleet = Fleet::backed_up().await;
    let epoch = shown(&fleet.service, &fleet.plain.0).await["epoch"].clone();
    assert_eq!(fleet.service.terminate().await, Some(0));
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("gateway-events.db");
    std::fs::copy(fleet.file(), &copy).expect("copied");
    let serve = || {
        let mut serve = command("serve --listen 127.0.0.1:0 --data-dir");
        serve.arg(directory.path());
        serve
    };
    for _ in 0..2 {
        let refused = run(&mut serve()).await;
        refused.failed(1, &["is a backup", "gateway-events restore", "gateway-events epoch renew"]);
    }
    run(command("epoch renew --yes --data-dir").arg(directory.path())).await.well();
    std::fs::copy(&copy, fleet.service.database()).expect("copied");
    std::fs::remove_file(fleet.service.directory().join("high-water.json")).expect("removed");
    fleet.service.restart().await;
    assert_ne!(shown(&fleet.service, &fleet.plain.0).await["epoch"], epoch);
}

/// A volume that is not mounted, for example.
#[tokio::test]
async fn a_missing_database_is_not_replaced_by_an_empty_one() {
    let mut service = Service::start().await;
    let (id, _) = service.gateway("one").await;
    let (database, copy) = (service.database(), service.directory().join("copy.db"));
    embedded(&service, &format!("backup {}", copy.display())).await.well();
    assert_eq!(service.terminate().await, Some(0));
    let away = service.directory().join("away.db");
    std::fs::rename(&database, &away).expect("renamed");
    let says =
        ["gateway-events.db is missing or empty", "high-water.json", "gateway-events restore"];
    for refused in ["serve --listen 127.0.0.1:0", "migrate", "config check"] {
        embedded(&service, refused).await.failed(1, &says);
        assert!(!database.exists(), "{refused} has created it");
    }
    std::fs::write(&database, "").expect("written");
    embedded(&service, "serve --listen 127.0.0.1:0").await.failed(1, &says);

    // Put back.
    std::fs::rename(&away, &database).expect("renamed");
    service.restart().await;
    assert_eq!(shown(&service, &id).await["name"], "one");
    // Restored.
    assert_eq!(service.terminate().await, Some(0));
    std::fs::remove_file(&database).expect("removed");
    embedded(&service, &format!("restore {}", copy.display())).await.well();
    service.restart().await;
    assert_eq!(shown(&service, &id).await["name"], "one");
    // Given up.
    assert_eq!(service.terminate().await, Some(0));
    std::fs::remove_file(&database).expect("removed");
    std::fs::remove_file(service.directory().join("high-water.json")).expect("removed");
    embedded(&service, "migrate").await.well();
    assert!(database.exists());
}

/// A failover that loses commits, for example.
#[tokio::test]
async fn a_running_node_ends_when_its_database_goes_backwards() {
    let backend = Backend::postgres();
    let mut service = backend.start().await;
    let (id, _) = service.gateway("one").await;
    publish(&service, &[&id], "d-1").await;
    let marks = service.directory().join("high-water.json");
    let is_known = async {
        while !std::fs::read_to_string(&marks).is_ok_and(|text| text.contains("\"sequences\": 1")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, is_known).await.expect("it is written");
    backend.change(&service, "delete from outbox; update streams set missed = 0, head = 0").await;
    assert_eq!(service.ended().await, Some(1), "{}", service.log());
    assert!(service.log().contains("gateway-events epoch renew"), "{}", service.log());
}

async fn a_position_that_the_log_does_not_have_is_answered_with_a_gap_and_reported(
    backend: Backend,
) {
    let service = backend.start().await;
    for (name, sequence, event) in [("beyond", 7, None), ("another", 1, Some("another-event"))] {
        let (id, key) = service.gateway(name).await;
        publish(&service, &[&id], "d-1").await;
        let mut peer = Peer::greet(&service, &key).await;
        let mut position = json!({"epoch": peer.ack["epoch"], "sequence": sequence});
        if let Some(event) = event {
            position["eventId"] = json!(event);
        }
        peer.hello(json!({"instance": "a", "resume": position})).await;
        let gap = peer.frame_of("delivery.gap").await;
        assert_eq!((&gap["reason"], &gap["resumeAt"]), (&json!("epoch"), &json!(1)), "{gap}");
        let is_reported = |line: &str| line.contains("epoch renew") && line.contains(&id);
        service.logged(|log| log.lines().any(is_reported)).await;
    }
}
