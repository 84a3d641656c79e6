//! A database of an earlier release, with what that release left in it, is
//! brought up to date and served: from the schema of every release there was.

use std::path::{Path, PathBuf};

use gateway_events::token::{Issued, Kind, issue};
use secrecy::ExposeSecret as _;
use serde_json::json;
use sqlx::migrate::Migrator;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::both::{On, on_both};
use crate::support::{Service, get};

const BERLIN: &str = "0198c0de-0000-7000-8000-000000000001";
const TOKYO: &str = "0198c0de-0000-7000-8000-000000000002";
const GONE: &str = "0198c0de-0000-7000-8000-000000000003";
const ENDED: &str = "0198c0de-0000-7000-8000-0000000000c1";
const LIVE: &str = "0198c0de-0000-7000-8000-0000000000c2";
const NODE: &str = "0198c0de-0000-7000-8000-0000000000d1";
const EPOCH: &str = "0198c0de-0000-7000-8000-0000000000e1";

on_both! {
    what_an_earlier_release_left_is_served_by_this_one
}

/// The migrations of a database, oldest first.
fn migrations(on: &On) -> Vec<PathBuf> {
    let folder = match on {
        On::Embedded => "migrations/sqlite",
        On::Shared(_) => "migrations/postgres",
    };
    let folder = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let mut files: Vec<_> =
        folder.expect("the migrations").map(|file| file.expect("a file").path()).collect();
    files.sort();
    files
}

/// Applies these, as the release did that had no others.
async fn migrate(on: &On, data: &Path, files: &[PathBuf]) {
    let folder = tempfile::tempdir().expect("a directory");
    for file in files {
        let name = file.file_name().expect("a name");
        std::fs::copy(file, folder.path().join(name)).expect("copied");
    }
    let migrator = Migrator::new(folder.path()).await.expect("migrations");
    match on {
        On::Embedded => {
            let file = sqlx::sqlite::SqliteConnectOptions::new()
                .filename(data.join("gateway-events.db"))
                .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
                .create_if_missing(true);
            let mut database = file.connect().await.expect("a database");
            migrator.run(&mut database).await.expect("migrated");
            database.close().await.expect("closed");
        }
        On::Shared(database) => {
            let mut database =
                sqlx::PgConnection::connect(&database.url()).await.expect("a database");
            migrator.run(&mut database).await.expect("migrated");
            database.close().await.expect("closed");
        }
    }
}

/// How the two databases write down what they hold differently.
struct Written {
    is_embedded: bool,
}

impl Written {
    fn minutes_ago(&self, minutes: u32) -> String {
        if self.is_embedded {
            let now = "cast((julianday('now') - 2440587.5) * 86400000 as integer) * 1000";
            format!("({now} - {minutes} * 60000000)")
        } else {
            format!("(now() - interval '{minutes} minutes')")
        }
    }

    fn bytes(&self, bytes: &[u8]) -> String {
        let hex = data_encoding::HEXLOWER.encode(bytes);
        if self.is_embedded { format!("x'{hex}'") } else { format!(r"'\x{hex}'") }
    }
}

/// What the release with so many migrations left: a gateway that is three
/// events behind and whose first one was trimmed, one that was connected when
/// its node died, and one that was deleted. Keys are given by the database, in
/// the order of the rows.
fn left(written: &Written, release: usize, admin: &Issued, keys: &[Issued; 2]) -> String {
    let ago = |minutes| written.minutes_ago(minutes);
    let digest = |issued: &Issued| written.bytes(&issued.digest);
    let (day, hour, recent) = (ago(1440), ago(60), ago(10));
    let nothing = written.bytes(&[7; 32]);
    let event = |number: u32| {
        let minutes = ago(200 - number);
        format!(
            "(1, 'e-{number}', 'api.deployed', '{{\"apiId\": \"a-{number}\", \"deploymentId\": \"d-{number}\", \"performedAt\": \"2026-01-31T09:30:00.001Z\"}}', 'c-{number}', {minutes}, {minutes}, {nothing}, 'a-{number}', 'd-{number}')"
        )
    };
    let events: Vec<_> = (2..=6).map(event).collect();
    let mut statements = format!(
        "insert into gateways (id, organisation, name, labels, created_at, deleted_at, manifest, manifest_at) values
            ('{BERLIN}', 1, 'berlin', '{{\"env\": \"prod\"}}', {day}, null, '{{\"version\": \"1\"}}', {day}),
            ('{TOKYO}', 1, 'tokyo', '{{}}', {day}, null, null, null),
            ('{GONE}', 1, 'gone', '{{}}', {day}, {hour}, null, null);
        insert into gateway_tokens (id, gateway, digest, created_at, last_used_at, revoked_at) values
            ('{}', 1, {}, {day}, {hour}, null), ('{}', 2, {}, {day}, {hour}, null),
            ('gone', 3, {nothing}, {day}, null, {hour});
        insert into access_tokens (id, organisation, name, scopes, digest, created_at) values
            ('{}', 1, 'first', 'publish read admin', {}, {day});
        insert into streams (gateway, epoch, head, floor, missed, confirmed_total, failed_total, last_failure_at, last_failure_reason) values
            (1, '{EPOCH}', 6, 1, 5, 2, 4, {recent}, 'not_connected'),
            (2, '{EPOCH}', 2, 0, 2, 2, 0, null, null), (3, '{EPOCH}', 0, 0, 0, 0, 0, null, null);
        insert into events (organisation, id, type, payload, correlation_id, occurred_at, appended_at, digest, artifact_id, deployment_id) values {};
        insert into outbox (gateway, sequence, event) values (1, 2, 1), (1, 3, 2), (1, 4, 3), (1, 5, 4), (1, 6, 5), (2, 1, 1), (2, 2, 2);
        insert into idempotency_keys (organisation, key, digest, answer, created_at) values (1, 'k-1', {nothing}, '[]', {hour});
        insert into cursors (gateway, instance, received, applied, updated_at, left_at) values
            (1, '', 3, 0, {hour}, null), (1, '{ENDED}', 3, 0, {hour}, {recent}),
            (2, '', 2, 1, {hour}, null), (2, '{LIVE}', 2, 1, {hour}, null);
        insert into nodes (id, started_at, heartbeat_at) values ('{NODE}', {day}, {hour});
        insert into connections (id, gateway, token, instance, transport, node, remote_address, connected_at, last_heartbeat_at, closed_at, close_reason) values
            ('{ENDED}', 1, 't', '', 'websocket', '{NODE}', '192.0.2.1', {day}, {recent}, {recent}, 'confirmation_timeout'),
            ('{LIVE}', 2, 't', '', 'websocket', '{NODE}', '192.0.2.2', {day}, {hour}, null, null);
        insert into attempts (gateway, first_sequence, last_sequence, outcome, reason, detail, connection, instance, node, started_at, finished_at) values
            (1, 2, 2, 'received', null, null, '{ENDED}', '', '{NODE}', {hour}, {hour}),
            (1, 3, 3, 'failed', 'confirmation_timeout', 'after 60 s', '{ENDED}', '', '{NODE}', {hour}, {hour}),
            (1, 3, 3, 'failed', 'confirmation_timeout', null, '{ENDED}', '', '{NODE}', {recent}, {recent}),
            (1, 4, 5, 'failed', 'not_connected', null, null, '', '{NODE}', {recent}, {recent}),
            (2, 1, 2, 'received', null, null, '{LIVE}', '', '{NODE}', {hour}, {hour}),
            (2, 1, 1, 'applied', null, null, '{LIVE}', '', '{NODE}', {hour}, {hour});
        insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at) values (1, 3, 3, 'confirmation_timeout', {recent});
        insert into event_types (organisation, name, schema, description, created_at, updated_at) values
            (1, 'invoice.paid', '{{\"type\": \"object\", \"required\": [\"id\"]}}', 'ours', {day}, {day});",
        keys[0].id, digest(&keys[0]), keys[1].id, digest(&keys[1]), admin.id, digest(admin),
        events.join(", "),
    );
    if release >= 2 {
        statements.push_str(&format!(
            "insert into inbox (type, payload, gateway_id) values ('invoice.paid', '{{\"id\": 1}}', '{TOKYO}');
            insert into inbox_rejected (inbox_id, organisation, type, payload, gateway_id, inserted_at, reason, detail, rejected_at) values
                (0, 'default', 'no.such', '{{}}', '{BERLIN}', {hour}, 'unknown_type', 'no such type', {hour});"
        ));
    }
    if release >= 3 {
        statements.push_str("update streams set dead_total = 1 where gateway = 1;");
    }
    statements
}

async fn what_an_earlier_release_left_is_served_by_this_one(on: On) {
    let files = migrations(&on);
    for release in 1..=files.len() {
        let on = match on {
            On::Embedded => On::Embedded,
            On::Shared(_) => On::shared(),
        };
        upgraded(&on, release, &files).await;
    }
}

async fn upgraded(on: &On, release: usize, files: &[PathBuf]) {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().to_owned();
    let (admin, berlin, tokyo) = (
        issue(Kind::Access).expect("a token"),
        issue(Kind::Gateway).expect("a key"),
        issue(Kind::Gateway).expect("a key"),
    );
    let written = Written { is_embedded: matches!(on, On::Embedded) };
    let keys = [berlin, tokyo];
    migrate(on, &data, &files[..release]).await;
    on.change(&data, &left(&written, release, &admin, &keys)).await;

    let pending = on.ours("migrate --check", &data).await;
    let lines = pending.out.lines().filter(|line| line.starts_with("pending: ")).count();
    assert_eq!(lines, files.len() - release, "{pending:?}");
    on.ours("migrate", &data).await.well();
    let sound = async |when: &str| {
        let report = on.ours("verify --json", &data).await.json();
        assert_eq!(report["problems"], json!([]), "{when}, from release {release}");
    };
    sound("migrated").await;

    let mut service = on.start_again(directory, admin.key.expose_secret()).await;
    questions(&service).await;
    let mut behind = service.connected(keys[0].key.expose_secret()).await;
    let events = behind.expect(4..=6).await;
    for (event, number) in events.iter().zip(4..) {
        assert_eq!(event["eventId"], format!("e-{number}"));
        assert_eq!(event["payload"]["deploymentId"], format!("d-{number}"));
    }
    let behind = behind.serve();
    service.eventually(&format!("/gateways/{BERLIN}"), |one| one["confirmed"] == 6).await;
    let mut back = service.connected(keys[1].key.expose_secret()).await;
    if release >= 2 {
        let event = back.expect(3..=3).await.remove(0);
        assert_eq!(
            (&event["type"], &event["payload"]),
            (&json!("invoice.paid"), &json!({"id": 1}))
        );
    }
    let back = back.serve();
    let head = if release >= 2 { 3 } else { 2 };
    service.eventually(&format!("/gateways/{TOKYO}"), |one| one["confirmed"] == head).await;
    service.run("delivery redrive --reason confirmation_timeout").await.well();
    service.eventually(&format!("/gateways/{BERLIN}"), |one| one["confirmed"] == 7).await;
    assert_eq!(service.terminate().await, Some(0));
    drop((behind.await, back.await));
    sound("served").await;
}

/// What was there is found by whoever asks.
async fn questions(service: &Service) {
    let api = service.api();
    let gateways = api.get("/gateways").await.expect("an answer");
    assert_eq!(gateways["count"], 2, "{gateways:#}");
    let berlin = api.get(&format!("/gateways/{BERLIN}")).await.expect("an answer");
    assert_eq!((&berlin["head"], &berlin["confirmed"]), (&json!(6), &json!(3)), "{berlin:#}");
    assert_eq!(berlin["labels"], json!({"env": "prod"}), "{berlin:#}");
    let path = format!("/deliveries?status=failed&gatewayId={BERLIN}");
    let failed = get(&api, &path).await.expect("an answer");
    let mut numbers: Vec<_> = failed["list"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["sequence"].as_i64())
        .collect();
    numbers.sort_unstable();
    // The sweep may have found the sixth one meanwhile.
    assert!(numbers.starts_with(&[3, 4, 5]), "{failed:#}");
    let event = api.get("/events/e-3").await.expect("an answer");
    assert_eq!(event["deliveries"].as_array().map(Vec::len), Some(2), "{event:#}");
    let path = format!("/gateways/{TOKYO}/connections");
    let past = service.eventually(&path, |page| page["list"][0]["status"] == "closed").await;
    assert_eq!(past["list"][0]["closeReason"], "node_lost", "{past:#}");
    let new = json!({"type": "invoice.paid", "payload": {}, "gatewayIds": [BERLIN]});
    service.admin().post("/events", &new).await.refusal(422, "invalid");
}
