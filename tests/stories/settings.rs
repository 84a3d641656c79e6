//! Invalid settings are refused with their key, value, source, and what is allowed. A service that
//! can't start says why.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::tempdir;
use tokio::process::Command;

use crate::support::Service;
use crate::support::command::{command, run};

/// Sets variables such as `SERVER__LISTEN`.
fn set<'a>(command: &'a mut Command, settings: &[(&str, &str)]) -> &'a mut Command {
    for (key, value) in settings {
        command.env(format!("GATEWAY_EVENTS__{key}"), value);
    }
    command
}

fn serve(data_dir: &Path) -> Command {
    command(&format!("serve --listen 127.0.0.1:0 --data-dir {}", data_dir.display()))
}

#[tokio::test]
async fn an_invalid_value_is_reported_with_its_source_and_what_is_allowed() {
    for (key, value, name, allowed) in [
        ("SERVER__LISTEN", "nowhere", "server.listen", "0.0.0.0:8443"),
        ("SERVER__PLAINTEXT", "maybe", "server.plaintext", "boolean"),
        ("SERVER__PLAINTEXT", "true", "server.plaintext", "loopback"),
        ("SERVER__HEADER_TIMEOUT", "soon", "server.header_timeout", "\"5s\""),
        ("SERVER__HEADER_TIMEOUT", "0s", "server.header_timeout", "longer than \"0s\""),
        ("SERVER__BODY_LIMIT", "1KiB", "server.body_limit", "limits.event_bytes"),
        ("SERVER__CERTIFICATE", "cert.pem", "server.certificate", "server.private_key"),
        ("SERVER__TRUSTED_PROXIES", "10.0.0.0/33", "server.trusted_proxies", "10.0.0.0/8"),
        ("SERVER__LISTN", "1", "server.listn", "GATEWAY_EVENTS__SERVER__LISTEN"),
        ("LIMITS__EVENT_BYTES", "much", "limits.event_bytes", "\"1MiB\""),
        ("LIMITS__EVENT_BYTES", "1GiB", "limits.event_bytes", "1KiB to 64MiB"),
        ("LIMITS__ATTEMPTS_PER_MINUTE", "0", "limits.attempts_per_minute", "nonzero"),
        ("DELIVERY__POISON", "drop", "delivery.poison", "\"dead_letter\" or \"block\""),
        ("DELIVERY__MAX_CONNECTIONS", "0", "delivery.max_connections", "at least 1"),
        (
            "DELIVERY__MAX_CONNECTIONS_PER_GATEWAY",
            "0",
            "delivery.max_connections_per_gateway",
            "at least 1",
        ),
        ("DELIVERY__MAX_CONNECTIONS", "true", "delivery.max_connections", "integer"),
        ("DELIVERY__HEARTBEAT_TIMEOUT", "31s", "delivery.heartbeat_timeout", "\"30s\""),
        ("DELIVERY__HEARTBEAT_TIMEOUT", "9s", "delivery.heartbeat_timeout", "heartbeat_interval"),
        ("DATABASE__READERS", "-1", "database.readers", "integer"),
        ("DATABASE__READERS", "0", "database.readers", "at least 1"),
        ("DATABASE__NODE_TIMEOUT", "9s", "database.node_timeout", "\"10s\""),
        ("RETENTION__MAX_EVENTS", "0", "retention.max_events", "at least 1"),
        ("RETENTION__HARD_MAX_AGE", "1d", "retention.hard_max_age", "retention.max_age"),
        ("RETENTION__INTERVAL", "1ms", "retention.interval", "1s"),
        ("LOG__FORMAT", "xml", "log.format", "\"auto\", \"text\" or \"json\""),
        ("LOG__FILTER", "loud=very", "log.filter", "debug"),
        ("LOG__FORMAT", "", "log.format", "unset"),
        ("OTLP__ENDPOINT", "grpc://collector", "otlp.endpoint", "http://localhost:4318"),
        ("OTLP__ENDPOINT", "http:///v1", "otlp.endpoint", "base URL without user, query"),
        ("OTLP__SAMPLING_RATIO", "1.5", "otlp.sampling_ratio", "0.0 to 1.0"),
        ("OTLP__SAMPLING_RATIO", "half", "otlp.sampling_ratio", "a number"),
        ("OTLP__ENDPOINT", "http://collector:99999", "otlp.endpoint", "http://localhost:4318"),
        ("SERVER__ALLOWED_ORIGINS", "example.com", "server.allowed_origins", "\"https://"),
        ("SERVER__ALLOWED_ORIGINS", "https://a.b/", "server.allowed_origins", "without a path"),
        ("SERVER__REQUEST_TIMEOUT", "1000years", "server.request_timeout", "\"30d\""),
        ("DATABASE__CONNECTIONS", "0", "database.connections", "at least 1"),
        ("DATABASE__QUERY_CONNECTIONS", "0", "database.query_connections", "at least 1"),
        ("DATABASE__QUERY_TIMEOUT", "0s", "database.query_timeout", "longer than \"0s\""),
        ("DATABASE__QUEUE_EVENTS", "99999999999", "database.queue_events", "at most 10000000"),
        ("DATABASE__QUEUE_BYTES", "1KiB", "database.queue_bytes", "limits.event_bytes"),
        ("DATABASE__MAX_WAL_BYTES", "0", "database.max_wal_bytes", "at least \"1MiB\""),
        ("NONSENSE", "1", "nonsense", "`retention`"),
    ] {
        let variable = format!("GATEWAY_EVENTS__{key}");
        let says = [name, value, &variable, allowed];
        run(set(&mut command("config check"), &[(key, value)])).await.failed(1, &says);
    }
    run(&mut command("serve --listen nowhere")).await.failed(1, &["server.listen", "--listen"]);
    run(&mut command("serve --plaintext")).await.failed(1, &["--plaintext", "loopback"]);
    let directory = tempdir().expect("a directory");
    let file = directory.path().join("settings.toml");
    let check = format!("config check --config {}", file.display());
    for (text, says) in [
        ("[delivery]\nwindow_events = \"many\"\n", ["delivery.window_events", "many", "64"]),
        ("[delivery]\nwindow = 3\n", ["delivery.window", "3", "`delivery.window_"]),
        ("data_dir = \"\"\n", ["data_dir", "must name a directory", "\"data\""]),
        ("[delivry]\nwindow_events = 3\n", ["delivry", "window_events", "`delivery`"]),
        ("[delivery\n", ["line 1", "[delivery", "]"]),
    ] {
        std::fs::write(&file, text).expect("written");
        let said = run(&mut command(&check)).await;
        said.failed(1, &says);
        said.failed(1, &[&file.display().to_string()]);
    }
    std::fs::remove_file(&file).expect("removed");
    run(&mut command(&check)).await.failed(1, &["settings.toml", "can't be read"]);
    assert_eq!(run(&mut command("config check")).await.well(), "the settings are valid\n");
}

#[tokio::test]
async fn a_check_reports_all_problems_at_once() {
    let directory = tempdir().expect("a directory");
    let file = directory.path().join("settings.toml");
    let text = "[delivery]\nwindow = 3\nmax_attempts = \"many\"\n[retention]\nbatch = 0\n";
    std::fs::write(&file, text).expect("written");
    let mut check = command(&format!("config check --config {}", file.display()));
    let variables =
        [("NONSENSE", "1"), ("DATABASE__CONNECTIONS", "0"), ("OTLP__ENDPOINT", "grpc://c")];
    let said = run(set(&mut check, &variables)).await;
    let all = ["nonsense", "delivery.window ", "delivery.max_attempts", "retention.batch"];
    said.failed(1, &all);
    said.failed(1, &["database.connections", "otlp.endpoint"]);
}

#[tokio::test]
async fn a_check_opens_the_files_in_the_settings() {
    let service = Service::start().await;
    let directory = tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (certificate, key) = (service.certificate(), service.directory().join("private-key.pem"));
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    std::fs::write(path("file"), "no directory and no certificate").expect("written");
    let pair = |certificate: &str, key: &str| {
        vec![
            ("SERVER__CERTIFICATE", certificate.to_owned()),
            ("SERVER__PRIVATE_KEY", key.to_owned()),
        ]
    };
    let postgres = |file: &str| {
        let url = format!("postgres://h/d?sslmode=verify-full&sslrootcert={}", path(file));
        vec![("DATABASE__URL", url)]
    };
    let check = async |settings: &[(&str, String)]| {
        let mut check = command("config check");
        let settings: Vec<(&str, &str)> =
            settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
        run(set(&mut check, &settings)).await
    };
    for (settings, says) in [
        (pair(&path("none.pem"), &key), vec!["server.certificate", "none.pem"]),
        (pair(&path("file"), &key), vec!["server.certificate", "no certificate"]),
        (pair(&certificate, &path("file")), vec!["server.private_key", "file"]),
        (vec![("DATA_DIR", path("file"))], vec!["data_dir", "not a directory"]),
        (vec![("DATA_DIR", path("file/below/it"))], vec!["data_dir", "below"]),
        (postgres("ca.pem"), vec!["database.url", "sslrootcert", "ca.pem"]),
        (
            vec![("ADMIN_TOKEN_FILE", path("nowhere/token"))],
            vec!["admin_token_file", "nowhere/token", "No such file"],
        ),
        (vec![("ADMIN_TOKEN_FILE", path("file"))], vec!["admin_token_file", "token generate"]),
        (vec![("ALERTS__KEY_FILE", path("none.key"))], vec!["alerts.key_file", "none.key"]),
        (vec![("ALERTS__KEY_FILE", path("file"))], vec!["alerts.key_file", "32 bytes in Base64"]),
        (vec![("ADMIN_TOKEN_FILE", path("."))], vec!["admin_token_file", "Is a directory"]),
        (
            vec![("ADMIN_TOKEN_FILE", path("file/token"))],
            vec!["admin_token_file", "file/token", "not a directory"],
        ),
    ] {
        check(&settings).await.failed(1, &says);
    }
    let both = [pair(&path("none.pem"), &key), vec![("DATA_DIR", path("file"))]].concat();
    check(&both).await.failed(1, &["server.certificate", "data_dir"]);
    std::fs::create_dir(path("broken")).expect("made");
    std::fs::create_dir(path("broken/gateway-events.db")).expect("made");
    check(&[("DATA_DIR", path("broken"))]).await.failed(1, &["data_dir", "gateway-events.db"]);

    let running = service.directory().display().to_string();
    std::fs::write(path("ca.pem"), "").expect("written");
    for settings in [pair(&certificate, &key), vec![("DATA_DIR", running)], postgres("ca.pem")] {
        check(&settings).await.well();
    }
    let new = path("not/yet/there");
    check(&[("DATA_DIR", new.clone())]).await.well();
    // The service makes its data directory, and then the file in it.
    let inside = [("DATA_DIR", new.clone()), ("ADMIN_TOKEN_FILE", path("not/yet/there/token"))];
    check(&inside).await.well();
    check(&[("ADMIN_TOKEN_FILE", path("token"))]).await.well();
    assert!(!Path::new(&new).exists(), "a check makes nothing");
    assert!(!Path::new(&path("token")).exists(), "a check makes nothing");
}

/// What `serve` says of a URL before it connects, `config check` says, too.
#[tokio::test]
async fn a_check_parses_the_urls_as_the_service_does() {
    let directory = tempdir().expect("a directory");
    let good = "postgres://u:hunter2@127.0.0.1:1/d";
    for (query, says) in [
        ("sslmode=nope", "nope"),
        ("sslmode=", "ssl_mode"),
        ("port=many", "invalid port number"),
        ("port=1,2,3", "ports"),
        ("target_session_attrs=standby", "the service writes"),
        ("target_session_attrs=best", "unknown target_session_attrs"),
        ("statement-cache-capacity=x", "invalid digit"),
    ] {
        let bad = format!("{good}?{query}");
        for (key, name, settings) in [
            ("DATABASE__URL", "database.url", vec![("DATABASE__URL", bad.as_str())]),
            (
                "DATABASE__LISTENER_URL",
                "database.listener_url",
                vec![("DATABASE__URL", good), ("DATABASE__LISTENER_URL", bad.as_str())],
            ),
        ] {
            let said = run(set(&mut command("config check"), &settings)).await;
            said.failed(1, &[name, says]);
            assert!(!said.err.contains("hunter2"), "{said:?}");
            assert!(!said.err.contains("error with configuration"), "{said:?}");
            if key == "DATABASE__URL" {
                run(set(&mut serve(directory.path()), &settings)).await.failed(1, &[name, says]);
            }
        }
        // What is not used is not parsed.
        let unused = [
            ("DATABASE__URL", good),
            ("DATABASE__LISTENER_URL", bad.as_str()),
            ("DATABASE__NOTIFY", "false"),
        ];
        run(set(&mut command("config check"), &unused)).await.well();
    }
}

#[tokio::test]
async fn an_unknown_variable_is_refused_or_causes_a_warning() {
    let check = |name: &str| {
        let mut check = command("config check");
        check.env(name, "127.0.0.1:8443");
        check
    };
    let says = ["GATEWAY_EVENTS_SERVER_LISTEN", "did you mean GATEWAY_EVENTS__SERVER__LISTEN?"];
    run(&mut check("GATEWAY_EVENTS_SERVER_LISTEN")).await.failed(1, &says);
    let mut serve = command("serve --listen 127.0.0.1:0 --data-dir nowhere");
    run(serve.env("GATEWAY_EVENTS_DATA_DIR", "x")).await.failed(1, &["GATEWAY_EVENTS__DATA_DIR"]);
    let warned = run(&mut check("GATEWAY_EVENTS_COLOUR")).await;
    assert_eq!(warned.code, Some(0), "{warned:?}");
    assert!(warned.err.contains("GATEWAY_EVENTS_COLOUR"), "{warned:?}");
    run(&mut check("GATEWAY_EVENTS_PORT_8443_TCP")).await.well();
}

#[cfg(unix)]
#[tokio::test]
async fn a_data_directory_that_is_not_utf8_is_used_as_it_is_or_refused() {
    use std::os::unix::ffi::OsStrExt as _;
    let directory = tempdir().expect("a directory");
    let data = directory.path().join(std::ffi::OsStr::from_bytes(b"\xff"));
    let mut serve = command("serve --listen 127.0.0.1:0 --plaintext --data-dir");
    // The driver of the SQLite database does not accept such a path.
    run(serve.arg(&data)).await.failed(1, &["data_dir", "\\xff", "UTF-8"]);
    assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 0);

    let database = crate::server::Database::new();
    let mut migrate = command("token recover --data-dir");
    migrate.arg(&data).env("GATEWAY_EVENTS__DATABASE__URL", database.url());
    assert_ne!(run(&mut migrate).await.code, Some(0), "it has no tables yet");
    let mut serve = command("serve --listen 127.0.0.1:0 --data-dir");
    serve.arg(&data).env("GATEWAY_EVENTS__DATABASE__URL", database.url());
    let mut running = serve.spawn().expect("it starts");
    let out = tokio::io::BufReader::new(running.stdout.take().expect("a pipe"));
    let mut lines = tokio::io::AsyncBufReadExt::lines(out);
    while !lines.next_line().await.expect("text").expect("it listens").contains("listening") {}
    running.kill().await.expect("it ran");
    assert!(data.join("certificate.pem").exists());
    assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 1);
}

#[tokio::test]
async fn flags_override_the_environment_which_overrides_the_file() {
    let directory = tempdir().expect("a directory");
    let file = directory.path().join("settings.toml");
    let text = "data_dir = \"from-file\"\n[delivery]\nmax_attempts = 7\nwindow_events = 8\n";
    std::fs::write(&file, text).expect("written");
    let show = format!("config show --config {}", file.display());
    let environment = [
        ("DELIVERY__MAX_ATTEMPTS", "9"),
        ("DATA_DIR", "from-environment"),
        ("SERVER__TRUSTED_PROXIES", "10.0.0.1, fd00::/8"),
    ];
    let shown = run(&mut command(&show)).await;
    assert!(shown.well().contains("data_dir = \"from-file\""), "{shown:?}");
    let shown = run(set(&mut command(&show), &environment)).await;
    for line in [
        "data_dir = \"from-environment\"",
        "max_attempts = 9",
        "window_events = 8",
        "trusted_proxies = [\"10.0.0.1\", \"fd00::/8\"]",
    ] {
        assert!(shown.well().lines().any(|one| one == line), "{line}: {shown:?}");
    }
    let flags = format!("{show} --data-dir from-flag");
    let shown = run(set(&mut command(&flags), &environment)).await;
    assert!(shown.well().contains("data_dir = \"from-flag\""), "{shown:?}");
    let as_json = run(set(&mut command(&format!("{flags} --json")), &environment)).await.json();
    assert_eq!(as_json["data_dir"], "from-flag");
    assert_eq!(as_json["delivery"]["max_attempts"], 9);
    // The output of `config show` is a valid configuration file.
    std::fs::write(&file, &shown.out).expect("written");
    assert_eq!(run(&mut command(&show)).await.well().lines().count(), shown.out.lines().count());
}

#[tokio::test]
async fn a_service_that_cannot_start_says_why() {
    let service = Service::start().await;
    let data = service.database().parent().expect("its directory").to_owned();
    let in_use = ["in use by another gateway-events server", "data directory"];
    run(&mut serve(&data)).await.failed(1, &in_use);
    run(&mut command(&format!("migrate --data-dir {}", data.display()))).await.failed(1, &in_use);

    let directory = tempdir().expect("a directory");
    let data = directory.path().join("data");
    let taken = format!("serve --listen 127.0.0.1:{} --data-dir {}", service.port, data.display());
    for _ in 0..2 {
        let said = run(&mut command(&taken)).await;
        assert_eq!(said.code, Some(1), "{said:?}");
        for text in [format!("127.0.0.1:{}", service.port), "in use".to_owned()] {
            assert!(said.err.contains(&text), "{said:?}");
        }
    }
    let file = directory.path().join("file");
    std::fs::write(&file, "no directory").expect("written");
    run(&mut serve(&file)).await.failed(1, &["file", "data directory"]);
    run(&mut serve(&file.join("below"))).await.failed(1, &["below", "data directory"]);

    let (certificate, key) = (service.certificate(), data.join("private-key.pem"));
    let with = |certificate: &Path, key: &Path| {
        let mut command = serve(&data);
        let (certificate, key) = (certificate.display(), key.display());
        command.env("GATEWAY_EVENTS__SERVER__CERTIFICATE", certificate.to_string());
        command.env("GATEWAY_EVENTS__SERVER__PRIVATE_KEY", key.to_string());
        command
    };
    run(&mut with(&directory.path().join("none.pem"), &key)).await.failed(1, &["none.pem"]);
    run(&mut with(&file, &key)).await.failed(1, &["file", "no certificate"]);
    run(&mut with(&certificate, &file)).await.failed(1, &["file", "failed to read"]);
    // Each is valid, but they do not match.
    run(&mut with(&certificate, &key)).await.failed(1, &["certificate and its key"]);
    drop(service);
}

#[tokio::test]
async fn a_new_data_directory_is_private_and_an_existing_one_is_unchanged() {
    let directory = tempdir().expect("a directory");
    let mode =
        |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    let (new, old) = (directory.path().join("a/new"), directory.path().join("old"));
    std::fs::create_dir(&old).expect("made");
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).expect("set");
    // Neither gets as far as serving, because the port is in use.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    for data in [&new, &old] {
        let serve = format!("serve --listen {address} --data-dir {}", data.display());
        assert_eq!(run(&mut command(&serve)).await.code, Some(1));
    }
    assert_eq!((mode(&new), mode(&old)), (0o700, 0o755));
    for data in [&new, &old] {
        assert_eq!(mode(&data.join("gateway-events.db")), 0o600);
        assert_eq!(mode(&data.join("private-key.pem")), 0o600);
    }
    let migrated = directory.path().join("migrated");
    run(&mut command(&format!("migrate --data-dir {}", migrated.display()))).await.well();
    assert_eq!(mode(&migrated), 0o700);
}
