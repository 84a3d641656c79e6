//! A Postgres that is reached over a network: its certificate is verified, its
//! password asked for, and whoever gets it wrong is told without a secret.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use crate::server::programs;
use crate::support::Service;
use crate::support::command::{command, run};

const PASSWORD: &str = "correct-horse-battery";

/// Like that of [`crate::server`], with TLS and a password, on a port.
const GUARD: &str = r#"
set -eu
bin=$1 port=$2 password=$3 tls=$4
home=$(mktemp -d)
as() { if [ "$(id -u)" -eq 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }
end() {
    cd /
    as "$bin/pg_ctl" -D "$home/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$home"
}
trap end EXIT
printf '%s' "$password" >"$home/password"
cp "$tls/server.pem" "$tls/server-key.pem" "$home"
chmod 600 "$home/server-key.pem"
if [ "$(id -u)" -eq 0 ]; then chown -R postgres "$home"; fi
cd "$home"
{
    as "$bin/initdb" -D "$home/data" -U postgres -A scram-sha-256 --pwfile="$home/password" \
        -E UTF8 --locale=C --no-sync &&
    as "$bin/pg_ctl" -D "$home/data" -w -l "$home/log" -o "-k '$home' -p $port -c listen_addresses=127.0.0.1 \
        -c fsync=off -c ssl=on -c ssl_cert_file='$home/server.pem' -c ssl_key_file='$home/server-key.pem'" start
} >"$home/start" 2>&1 </dev/null || { cat "$home/start" "$home/log" 2>/dev/null; exit 1; }
echo ready
cat >/dev/null
"#;

struct Guarded {
    port: u16,
    directory: TempDir,
    /// Waits for the end of its input, which is held here.
    guard: Child,
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

impl Guarded {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).expect("written");
        };
        let ours = authority("ours");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &ours).expect("a certificate");
        write("server.pem", &certificate.pem());
        write("server-key.pem", &key.serialize_pem());
        write("ca.pem", &ours.pem());
        write("wrong-ca.pem", &authority("somebody else").pem());
        // Free a moment ago, and bound again at once.
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(programs().expect("Postgres's programs: apt-get install -y postgresql"))
            .args([&port.to_string(), PASSWORD])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut said = Vec::new();
        let lines = BufReader::new(guard.stdout.take().expect("a pipe")).lines();
        for line in lines.map_while(Result::ok) {
            if line == "ready" {
                return Self { port, directory, guard };
            }
            said.push(line);
        }
        let _ = guard.wait();
        panic!("the server did not start: {said:#?}");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn url(&self, password: &str, host: &str, database: &str, ca: &str) -> String {
        format!(
            "postgres://postgres:{password}@{host}:{}/{database}?sslmode=verify-full&sslrootcert={}",
            self.port,
            self.file(ca).display()
        )
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

#[tokio::test]
async fn a_database_with_a_certificate_is_verified_and_a_wrong_one_told_of_without_secrets() {
    let server = Guarded::start();
    let good = server.url(PASSWORD, "localhost", "postgres", "ca.pem");
    let service = Service::start_with(&[("DATABASE__URL", &good)]).await;
    service.gateway("one").await;
    assert!(!service.log().contains(PASSWORD), "{}", service.log());

    let refused = [
        (server.url(PASSWORD, "localhost", "postgres", "wrong-ca.pem"), "certificate"),
        (server.url(PASSWORD, "127.0.0.1", "postgres", "ca.pem"), "certificate"),
        (server.url(PASSWORD, "localhost", "postgres", "none.pem"), "none.pem"),
        (server.url("wrong-secret", "localhost", "postgres", "ca.pem"), "password authentication"),
        (server.url(PASSWORD, "localhost", "no_such_database", "ca.pem"), "no_such_database"),
        (
            server.url(PASSWORD, "no-such-host.invalid", "postgres", "ca.pem"),
            "no-such-host.invalid",
        ),
    ];
    let data = server.directory.path().display().to_string();
    for (url, says) in &refused {
        for verb in
            ["migrate", "migrate --check", "verify", "token recover", "serve --listen 127.0.0.1:0"]
        {
            let mut command = command(&format!("{verb} --data-dir {data}"));
            let said = run(command.env("GATEWAY_EVENTS__DATABASE__URL", url)).await;
            assert!(said.code.is_some_and(|code| code != 0), "{verb}: {said:?}");
            assert!(said.err.contains(says), "{verb}: {says:?} is missing: {said:?}");
            for secret in [PASSWORD, "wrong-secret"] {
                assert!(!format!("{said:?}").contains(secret), "{verb}: {said:?}");
            }
        }
    }
}
