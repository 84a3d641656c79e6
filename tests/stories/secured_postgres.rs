//! A Postgres that requires TLS and passwords. Wrong settings are refused with advice, and without
//! showing the password.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::tempdir;

use crate::server::Server;
use crate::support::Service;
use crate::support::command::{command, run};

/// Access by a socket for the test itself, and by TLS with a password for all others.
const ACCESS: &str = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
const PASSWORD: &str = "hunter2";

/// A certificate authority in a file.
fn authority(file: &Path) -> Issuer<'static, KeyPair> {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([]).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("signed");
    std::fs::write(file, certificate.pem()).expect("written");
    Issuer::new(params, key)
}

#[tokio::test]
async fn a_database_is_reached_by_tls_or_the_refusal_says_what_to_do() {
    let directory = tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let ca = authority(&at("ca.pem"));
    authority(&at("other.pem"));
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &ca).expect("signed");
    std::fs::write(at("server.crt"), certificate.pem()).expect("written");
    std::fs::write(at("server.key"), key.serialize_pem()).expect("written");
    std::fs::write(at("pg_hba.conf"), ACCESS).expect("written");
    let server = Server::with_tls(directory.path());
    let port = server.port();
    assert!(server.run("postgres", &format!("alter role postgres password '{PASSWORD}'")));
    assert!(server.run("postgres", "create database events template template0"));

    let url = |password: &str, host: &str, name: &str, tls: &str| {
        format!("postgres://postgres:{password}@{host}/{name}?{tls}")
    };
    let here = format!("localhost:{port}");
    let trusting = |ca: &str| format!("sslmode=verify-full&sslrootcert={}", at(ca).display());
    let right = trusting("ca.pem");
    let migrate = async |url: &str| {
        let mut migrate = command("migrate");
        run(migrate.env("GATEWAY_EVENTS__DATABASE__URL", url)).await
    };
    let whole = url(PASSWORD, &here, "events", &right);
    migrate(&whole).await.well();
    let service = Service::start_with(&[("DATABASE__URL", &whole)]).await;
    let (id, key) = service.gateway("one").await;
    let mut socket = service.connected(&key).await;
    let event = crate::support::deployed(&[&id], "d-1");
    service.admin().post("/events", &event).await.success();
    socket.expect(1..=1).await;
    assert!(!service.log().contains(PASSWORD), "{}", service.log());

    let by_address = format!("127.0.0.1:{port}");
    let ca_only = right.replace("verify-full", "verify-ca");
    migrate(&url(PASSWORD, &by_address, "events", &ca_only)).await.well();
    let away = "nowhere.invalid:5432";
    for (url, says) in [
        (url(PASSWORD, &here, "events", &trusting("other.pem")), ["certificate", "sslrootcert"]),
        (url(PASSWORD, &here, "events", &trusting("missing.pem")), ["No such file", "sslrootcert"]),
        (url(PASSWORD, &by_address, "events", &right), ["certificate", "host"]),
        (url(PASSWORD, &here, "events", "sslmode=disable"), ["no encryption", "sslmode"]),
        (
            url("hunter3", &here, "events", &right),
            ["password authentication failed", "pg_hba.conf"],
        ),
        (url(PASSWORD, &here, "missing", &right), ["\"missing\" does not exist", "create it"]),
        (url(PASSWORD, away, "events", &right), ["nowhere.invalid:5432", "check the host"]),
    ] {
        let said = migrate(&url).await;
        said.failed(1, &["failed to connect", "database.url"]);
        said.failed(1, &says);
        assert!(!said.err.contains("hunter"), "{said:?}");
        let mut serve = command("serve --listen 127.0.0.1:0 --data-dir");
        serve.arg(directory.path()).env("GATEWAY_EVENTS__DATABASE__URL", &url);
        let said = run(&mut serve).await;
        said.failed(1, &says);
        assert!(!said.err.contains("hunter"), "{said:?}");
    }
}
