//! Two nodes on one Postgres behind a real HAProxy, with the configuration of `config/haproxy.cfg`
//! and other addresses.

#![expect(clippy::print_stdout, reason = "measured durations, shown with --nocapture")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use gateway_events::client::gateway::{Gateway, GatewayOptions, Handler, Notice, ReceivedEvent};
use gateway_events::client::tls::Trust;
use gateway_events::client::{CancellationToken, Url};
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::both_databases::Backend;
use crate::proxied::dial;
use crate::support::{Service, Socket, TEST_TIMEOUT, deployed};

/// The balancer's address, from which nothing else connects.
const ADDRESS: &str = "127.0.0.5";

struct Balancer {
    process: Child,
    port: u16,
    directory: TempDir,
}

impl Balancer {
    /// Starts a balancer in front of two nodes. It verifies their certificate.
    async fn start(one: &Service, two: &Service) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        std::fs::copy(one.certificate(), path("nodes.pem")).expect("copied");
        // The port was free a moment ago, and is bound at once.
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/haproxy.cfg");
        let mut text = std::fs::read_to_string(file).expect("the configuration");
        for (place, here) in [
            ("bind 0.0.0.0:8443", format!("bind 127.0.0.1:{port}")),
            ("source 172.30.0.10", format!("source {ADDRESS}")),
            ("server one node-1:8443", format!("server one 127.0.0.1:{}", one.port)),
            ("server two node-2:8443", format!("server two 127.0.0.1:{}", two.port)),
            ("ca-file /etc/haproxy/nodes.pem", format!("ca-file {}", path("nodes.pem"))),
            (
                "stats socket /run/haproxy/admin.sock",
                format!("stats socket {}", path("admin.sock")),
            ),
        ] {
            assert_eq!(text.matches(place).count(), 1, "{place}");
            text = text.replace(place, &here);
        }
        std::fs::write(path("haproxy.cfg"), text).expect("written");
        let log = std::fs::File::create(path("haproxy.log")).expect("a log");
        let process = Command::new(haproxy())
            .args(["-db", "-f", &path("haproxy.cfg")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("HAProxy starts");
        let mut balancer = Self { process, port, directory };
        balancer.listens().await;
        balancer
    }

    async fn listens(&mut self) {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        let listening = tokio::time::timeout(TEST_TIMEOUT, async {
            while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
                assert!(self.process.try_wait().expect("known").is_none(), "{}", self.log());
                looks.tick().await;
            }
        });
        listening.await.expect("it listens in time");
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("haproxy.log")).unwrap_or_default()
    }

    async fn logged(&self, text: &str) {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        let said = tokio::time::timeout(TEST_TIMEOUT, async {
            while !self.log().contains(text) {
                looks.tick().await;
            }
        });
        assert!(said.await.is_ok(), "{text:?} was never logged:\n{}", self.log());
    }

    /// The certificate of both nodes.
    fn trusted(&self) -> PathBuf {
        self.directory.path().join("nodes.pem")
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// Connects from an address as a gateway of a service. A refusal is an error with its status.
    async fn connect(&self, service: &Service, from: &str, key: &str) -> Result<Socket, u16> {
        let tcp = dial(from, self.port).await;
        let config = Trust::CaFile(self.trusted()).client_config().expect("a TLS client");
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await;
        let tls = tls.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
        service.connect_over(tls, key).await.map_err(|(status, _)| status)
    }
}

/// Debian's package installs it in a directory that is only in root's path.
fn haproxy() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|directory| directory.join("haproxy"))
        .find(|program| program.is_file())
        .expect("this story needs HAProxy; install it: apt-get install -y haproxy")
}

/// Two nodes with the same certificate, as operators deploy them. Two self-signed certificates
/// would have the same name, by which OpenSSL confuses them.
async fn nodes(backend: &Backend, settings: &[(&str, &str)]) -> (Service, Service, TempDir) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
    let made = made.expect("a certificate");
    let (certificate, key) =
        (directory.path().join("certificate.pem"), directory.path().join("private-key.pem"));
    std::fs::write(&certificate, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let own = [
        ("SERVER__PROXY_PROTOCOL_FROM", ADDRESS),
        ("SERVER__CERTIFICATE", certificate.to_str().expect("a path")),
        ("SERVER__PRIVATE_KEY", key.to_str().expect("a path")),
    ];
    let one = backend.start_with(&[&own, settings].concat()).await;
    let two = one.another().await;
    for node in [&one, &two] {
        // Where the node's clients look for it.
        std::fs::copy(&certificate, node.certificate()).expect("copied");
    }
    (one, two, directory)
}

#[tokio::test]
async fn gateways_come_through_the_balancer_under_their_own_addresses() {
    let backend = Backend::postgres();
    let (one, two, _certificate) = nodes(&backend, &[("LIMITS__ATTEMPTS_PER_MINUTE", "4")]).await;
    let balancer = Balancer::start(&one, &two).await;
    let (id, key) = one.gateway("one").await;
    let mut listen = crate::support::command::command("listen --as-gateway --yes --json");
    let listen = listen
        .env("GATEWAY_EVENTS_URL", balancer.url())
        .env("GATEWAY_EVENTS_CA_FILE", balancer.trusted())
        .env("GATEWAY_EVENTS_KEY", &key)
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut socket = balancer.connect(&one, "127.0.0.7", &key).await.expect("admitted");
    assert_eq!(socket.next().await.expect("a frame")["type"], "connection.ack");
    let path = format!("/gateways/{id}/connections");
    let live = one.eventually(&path, |page| page["count"] == 2).await;
    let mut addresses: Vec<_> = live["list"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["remoteAddress"].as_str().expect("an address"))
        .collect();
    addresses.sort_unstable();
    assert_eq!(addresses, ["127.0.0.1", "127.0.0.7"]);
    one.api().post("/events", &deployed(&[&id], "d-1")).await.expect("accepted");
    socket.expect(1..=1).await;
    let socket = socket.serve();
    two.eventually(&format!("/gateways/{id}"), |gateway| gateway["confirmed"] == 1).await;
    // Each node counts attempts itself, and the balancer alternates between them: at most four
    // each.
    let attempt = async |from: &str| balancer.connect(&one, from, "gwk_nonsense").await.err();
    let mut refusals = Vec::new();
    for _ in 0..10 {
        refusals.push(attempt("127.0.0.8").await.expect("refused"));
    }
    let wrong = refusals.iter().filter(|status| **status == 401).count();
    assert!((4..=8).contains(&wrong) && refusals.contains(&429), "{refusals:?}");
    assert_eq!(attempt("127.0.0.9").await, Some(401), "other clients are not limited");
    let healthy = ["nodes/one is DOWN", "nodes/two is DOWN"];
    assert!(healthy.iter().all(|text| !balancer.log().contains(text)), "{}", balancer.log());
    socket.abort();
    drop(listen);
}

#[tokio::test]
async fn a_draining_node_gets_no_new_connection() {
    let backend = Backend::postgres();
    let (one, mut two, _certificate) = nodes(&backend, &[("SHUTDOWN__DRAIN", "2m")]).await;
    let balancer = Balancer::start(&one, &two).await;
    let (_, key) = one.gateway("one").await;
    // Bypassing the balancer, so that the node has connections to drain.
    let (_first, _second) = (two.connected(&key).await, two.connected(&key).await);
    two.ask_to_end();
    // HAProxy takes the node out because its health check returns 503, not because the connection
    // fails.
    balancer.logged("Server nodes/two is DOWN, reason: Layer7 wrong status, code: 503").await;
    let (_, key) = one.gateway("other").await;
    let mut sockets = Vec::new();
    for number in 0..8 {
        let socket = balancer.connect(&one, "127.0.0.1", &key).await;
        sockets.push(socket.unwrap_or_else(|status| panic!("{number}: {status}")));
    }
    assert_eq!(two.connect(&key).await.err().map(|(status, _)| status), Some(503), "it drains");
    two.kill().await;
    balancer.connect(&one, "127.0.0.1", &key).await.expect("nothing changes for those who come");
}

/// Records the sequences that its gateway receives.
#[derive(Default)]
struct Received(Mutex<Vec<i64>>);

#[async_trait]
impl Handler for Received {
    async fn handle(&self, event: ReceivedEvent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event.sequence);
    }

    async fn notice(&self, notice: Notice) {
        // Printed if the test fails.
        println!("{notice:?}");
    }
}

struct Member {
    id: String,
    received: Arc<Received>,
    running: JoinHandle<()>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn fleet(balancer: &Balancer, node: &Service, count: usize) -> Vec<Member> {
    let trust = Trust::CaFile(balancer.trusted());
    let mut fleet = Vec::new();
    for number in 0..count {
        let (id, key) = node.gateway(&format!("g-{number}")).await;
        let received = Arc::new(Received::default());
        let options = GatewayOptions::new(
            Url::parse(&balancer.url()).expect("an address"),
            SecretString::from(key),
            trust.client_config().expect("a TLS client"),
            Arc::clone(&received) as _,
        );
        let gateway = Gateway::new(options);
        let running = tokio::spawn(async move {
            let _ = gateway.run(CancellationToken::new()).await;
        });
        fleet.push(Member { id, received, running });
    }
    fleet
}

#[tokio::test]
async fn gateways_of_a_killed_node_reconnect_to_the_other_and_miss_nothing() {
    const GATEWAYS: usize = 20;
    let backend = Backend::postgres();
    let (mut one, two, _certificate) =
        nodes(&backend, &[("LIMITS__ATTEMPTS_PER_MINUTE", "100")]).await;
    let balancer = Balancer::start(&one, &two).await;
    let fleet = fleet(&balancer, &two, GATEWAYS).await;
    two.eventually("/stats", |stats| stats["gatewayConnections"]["totalActive"] == GATEWAYS).await;
    let ids: Vec<&str> = fleet.iter().map(|member| member.id.as_str()).collect();
    let publish = async |rounds: std::ops::Range<i64>| {
        for number in rounds {
            let event = deployed(&ids, &format!("d-{number}"));
            two.api().post("/events", &event).await.expect("accepted");
        }
    };
    publish(0..20).await;
    let killed_at = Instant::now();
    one.kill().await;
    publish(20..60).await;
    for member in &fleet {
        let path = format!("/gateways/{}", member.id);
        two.eventually(&path, |gateway| gateway["confirmed"] == 60).await;
    }
    println!("killed → all {GATEWAYS} gateways caught up: {:?}", killed_at.elapsed());
    for member in &fleet {
        let numbers = member.received.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut first_time = Vec::new();
        for number in numbers {
            if !first_time.contains(&number) {
                first_time.push(number);
            }
        }
        assert_eq!(first_time, (1..=60).collect::<Vec<_>>(), "{}", member.id);
    }
    let report = backend.verify(&two).await;
    assert!(report.problems.is_empty(), "{:#?}", report.problems);
}
