//! Keys and tokens are never overwritten, and never printed or logged unless requested.

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Stdio;

use gateway_events::client::tls::Trust;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::tempdir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use crate::server::Database;
use crate::support::command::{command, run};
use crate::support::{Service, TEST_TIMEOUT};

fn serve(data: &Path, arguments: &str) -> Command {
    command(&format!("serve --listen 127.0.0.1:0 --data-dir {} {arguments}", data.display()))
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

/// What a service prints until it listens, its port, and its process.
async fn started(mut command: Command) -> (String, u16, Child) {
    let mut process = command.stderr(Stdio::null()).spawn().expect("it starts");
    let output = process.stdout.take().expect("a pipe");
    listening(process, output).await
}

/// The same, with standard output that systemd declares to be its journal.
async fn into_journal(mut command: Command) -> (String, u16, Child) {
    let (output, input) = std::io::pipe().expect("a pipe");
    let of = std::fs::metadata(format!("/proc/self/fd/{}", input.as_raw_fd())).expect("its inode");
    command.env("JOURNAL_STREAM", format!("{}:{}", of.dev(), of.ino()));
    let process = command.stdout(input).stderr(Stdio::null()).spawn().expect("it starts");
    drop(command);
    let output = tokio::net::unix::pipe::Receiver::from_owned_fd(output.into()).expect("a pipe");
    listening(process, output).await
}

async fn listening(process: Child, output: impl AsyncRead + Unpin) -> (String, u16, Child) {
    let mut lines = BufReader::new(output).lines();
    let mut said = String::new();
    let listening = async {
        while let Some(line) = lines.next_line().await.expect("text") {
            said.push_str(&line);
            said.push('\n');
            if let Some((_, address)) = line.split_once("listening on ") {
                return address.rsplit(':').next().and_then(|port| port.parse().ok());
            }
        }
        None
    };
    let port = tokio::time::timeout(TEST_TIMEOUT, listening).await.expect("it listens in time");
    (said, port.expect("it listens"), process)
}

/// Whether this token is accepted by the service at this port.
async fn opens(token: &str, port: u16, data: &Path) -> bool {
    let api = gateway_events::client::api::Api::new(
        &format!("https://localhost:{port}"),
        Some(token.to_owned().into()),
        &Trust::CaFile(data.join("certificate.pem")),
    );
    api.expect("a client").gateways().await.is_ok()
}

#[tokio::test]
async fn an_existing_key_is_never_overwritten() {
    let mut service = Service::start().await;
    let (certificate, key) = (service.certificate(), service.directory().join("private-key.pem"));
    let before = std::fs::read_to_string(&key).expect("a key");
    service.kill().await;
    std::fs::remove_file(&certificate).expect("removed");
    // The new certificate is for the existing key.
    service.restart().await;
    service.gateway("one").await;
    assert_eq!(std::fs::read_to_string(&key).expect("a key"), before);
    service.kill().await;
    // A missing key can't be generated for an existing certificate.
    std::fs::rename(&key, service.directory().join("kept.pem")).expect("moved");
    let says = ["private-key.pem", "certificate.pem"];
    run(&mut serve(service.directory(), "")).await.failed(1, &says);
    // A dangling link, or a link to a file that is not a key, is not followed for writing.
    std::fs::remove_file(&certificate).expect("removed");
    let elsewhere = service.directory().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, &key).expect("linked");
    run(&mut serve(service.directory(), "")).await.failed(1, &["private-key.pem"]);
    assert!(!elsewhere.exists());
    std::fs::write(&elsewhere, "precious").expect("written");
    run(&mut serve(service.directory(), "")).await.failed(1, &["private-key.pem"]);
    assert_eq!(std::fs::read_to_string(&elsewhere).expect("there"), "precious");
    assert!(!certificate.exists());
}

#[tokio::test]
async fn a_key_that_others_can_read_causes_a_warning() {
    let mut service = Service::start().await;
    assert!(!service.log().contains("chmod"));
    let key = service.directory().join("private-key.pem");
    assert_eq!(mode(&key), 0o600);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("set");
    service.kill().await;
    service.restart().await;
    service.logged(|log| log.contains("chmod 600") && log.contains("0644")).await;
}

#[tokio::test]
async fn data_that_others_can_write_to_causes_a_warning() {
    let mut service = Service::start().await;
    let (directory, database) = (service.directory().to_owned(), service.database());
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
    };
    for (path, mode, what) in [
        (&directory, 0o777, "the data directory"),
        (&directory, 0o720, "the data directory"),
        (&database, 0o602, "the database file"),
    ] {
        let before = std::fs::metadata(path).expect("it is there").permissions().mode();
        let shown = format!("{mode:04o}");
        let warns = |line: &str| {
            line.contains("chmod go-w") && line.contains(&shown) && line.contains(what)
        };
        assert!(!service.log().lines().any(warns), "{}", service.log());
        set(path, mode);
        service.kill().await;
        service.restart().await;
        service.logged(|log| log.lines().any(warns)).await;
        set(path, before);
    }
    // Others may list the directory: the files in it are private.
    service.kill().await;
    set(&directory, 0o755);
    let warnings = service.log().matches("chmod").count();
    service.restart().await;
    assert_eq!(service.log().matches("chmod").count(), warnings, "{}", service.log());
}

#[tokio::test]
async fn a_certificate_that_has_expired_or_soon_will_causes_a_warning() {
    let directory = tempdir().expect("a directory");
    let (certificate, key) = (directory.path().join("c.pem"), directory.path().join("k.pem"));
    let pair = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.not_before = date_time_ymd(2001, 1, 1);
    params.not_after = date_time_ymd(2002, 1, 1);
    let made = params.self_signed(&pair).expect("signed");
    std::fs::write(&certificate, made.pem()).expect("written");
    std::fs::write(&key, pair.serialize_pem()).expect("written");
    let service = Service::start_with(&[
        ("SERVER__CERTIFICATE", certificate.to_str().expect("a path")),
        ("SERVER__PRIVATE_KEY", key.to_str().expect("a path")),
    ])
    .await;
    service.logged(|log| log.contains("HAS EXPIRED") && log.contains("2002-01-01")).await;
}

#[tokio::test]
async fn the_first_token_is_not_printed_into_the_journal_unless_requested() {
    let directory = tempdir().expect("a directory");
    let data = directory.path().join("data");
    let (said, port, mut process) = into_journal(serve(&data, "")).await;
    let file = data.join("admin-token");
    assert!(said.contains(&format!("admin access token is in {}", file.display())), "{said}");
    assert!(!said.contains("gwa_"), "{said}");
    assert_eq!(mode(&file), 0o600);
    let token = std::fs::read_to_string(&file).expect("a token");
    assert!(opens(token.trim(), port, &data).await);
    process.kill().await.expect("it ran");
    let (said, port, mut process) = into_journal(serve(&data, "--print-token")).await;
    assert!(!said.contains("admin access token"), "only at the first start: {said}");
    assert!(opens(token.trim(), port, &data).await);
    process.kill().await.expect("it ran");

    for asked in [true, false] {
        let other = directory.path().join(format!("other-{asked}"));
        let (said, port, _process) = if asked {
            into_journal(serve(&other, "--print-token")).await
        } else {
            started(serve(&other, "")).await
        };
        let (_, rest) = said.split_once("admin access token: ").expect("it is printed");
        assert!(opens(rest.split_whitespace().next().expect("a token"), port, &other).await);
        assert!(!other.join("admin-token").exists());
    }
}

#[tokio::test]
async fn the_first_token_can_be_supplied() {
    let directory = tempdir().expect("a directory");
    let (data, file) = (directory.path().join("data"), directory.path().join("token"));
    let argument = format!("--admin-token-file {}", file.display());
    std::fs::write(&file, "hunter2").expect("written");
    let refused = run(&mut serve(&data, &argument)).await;
    refused.failed(1, &["token", "token generate"]);
    assert!(!refused.err.contains("hunter2"), "{refused:?}");
    let made = run(&mut command("token generate")).await;
    std::fs::write(&file, made.well()).expect("written");
    let (said, port, _process) = started(serve(&data, &argument)).await;
    assert!(!said.contains("gwa_"), "{said}");
    assert!(opens(made.well().trim(), port, &data).await);
    assert!(!data.join("admin-token").exists());
}

#[tokio::test]
async fn a_password_in_the_query_of_the_databases_url_is_not_shown() {
    let database = Database::new();
    let url = format!("{}?password=hunter2&sslmode=disable", database.url());
    let settings = [("DATABASE__URL", url.as_str()), ("LOG__FILTER", "debug")];
    let service = Service::start_with(&settings).await;
    service.gateway("one").await;
    assert!(!service.log().contains("hunter2"), "{}", service.log());
    let mut show = command("config show");
    let shown = run(show.env("GATEWAY_EVENTS__DATABASE__URL", &url)).await;
    assert!(!shown.well().contains("hunter2"), "{shown:?}");
    assert!(shown.out.contains("sslmode=disable"), "{shown:?}");
    // sqlx would log parameters that it does not know.
    let mistyped = url.replace("password=", "passwd=");
    let mut check = command("config check");
    let refused = run(check.env("GATEWAY_EVENTS__DATABASE__URL", &mistyped)).await;
    refused.failed(1, &["database.url", "passwd"]);
    assert!(!refused.err.contains("hunter2"), "{refused:?}");
}

/// The first token is shown once, so a start that fails must not use that up. Nor does it leave a
/// node behind that later starts report as lost.
#[tokio::test]
async fn a_start_that_finds_its_port_taken_creates_no_token_and_leaves_no_node() {
    let directory = tempdir().expect("a temporary directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address");
    let data = directory.path().display();
    let start = format!("serve --listen {address} --data-dir {data}");
    let said = run(&mut command(&start)).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.err.contains(&format!("failed to listen on {address} (server.listen)")),
        "{said:?}"
    );
    assert!(!directory.path().join("admin-token").exists(), "{said:?}");
    assert!(!said.out.contains("gwa_"), "{said:?}");
    let service = Service::start_in(directory, &[]).await;
    assert!(!service.token.is_empty());
    assert!(!service.log().contains("a node is lost"), "{}", service.log());
}
