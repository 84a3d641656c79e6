//! The real binary, over real TLS, in a temporary directory.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use gateway_events::client::api::{Api, ApiError};
use gateway_events::client::tls::Trust;
use reqwest::Method;
use secrecy::SecretString;
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest as _};

pub(crate) mod command;
pub(crate) mod document;
pub(crate) mod http;
mod socket;
pub(crate) mod streams;
pub(crate) mod terminal;

pub(crate) use socket::Socket;

/// The timeout of every wait in a test.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_mins(1);

pub(crate) struct Service {
    process: Child,
    directory: TempDir,
    environment: Vec<(String, String)>,
    /// Shell commands to run before the service.
    prelude: String,
    pub(crate) port: u16,
    pub(crate) token: String,
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts with settings such as `("LIMITS__ATTEMPTS_PER_MINUTE", "3")`.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory"), settings).await
    }

    /// Starts from a shell that runs commands first, such as `ulimit -f 2048`.
    pub(crate) async fn start_after(prelude: &str, settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self::start_there(directory, prelude.to_owned(), settings).await
    }

    /// Starts in a directory without an admin token.
    pub(crate) async fn start_in(directory: TempDir, settings: &[(&str, &str)]) -> Self {
        Self::start_there(directory, ":".to_owned(), settings).await
    }

    /// Starts with this file as standard error.
    pub(crate) async fn start_logging_to(log: File, settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (environment, prelude) = (environment(settings), ":".to_owned());
        let (process, port, token) =
            spawn_logging_to(log, directory.path(), 0, &environment, &prelude).await;
        let token = token.expect("the first start writes the admin token");
        Self { process, directory, environment, prelude, port, token }
    }

    async fn start_there(directory: TempDir, prelude: String, settings: &[(&str, &str)]) -> Self {
        let environment = environment(settings);
        let (process, port, token) = spawn(directory.path(), 0, &environment, &prelude).await;
        let token = token.expect("the first start writes the admin token");
        Self { process, directory, environment, prelude, port, token }
    }

    /// Starts with existing data, which contains this access token.
    pub(crate) async fn start_again_in(
        directory: TempDir,
        settings: &[(&str, &str)],
        token: &str,
    ) -> Self {
        let environment = environment(settings);
        let prelude = ":".to_owned();
        let (process, port, first) = spawn(directory.path(), 0, &environment, &prelude).await;
        assert!(first.is_none(), "the admin token is shown once only");
        Self { process, directory, environment, prelude, port, token: token.to_owned() }
    }

    /// Changes a setting for the next start.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.environment.push((format!("GATEWAY_EVENTS__{key}"), value.to_owned()));
    }

    /// Starts another node with the same settings in a directory of its own.
    pub(crate) async fn another(&self) -> Self {
        self.another_with(&[]).await
    }

    /// Likewise, with some different settings.
    pub(crate) async fn another_with(&self, settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut environment = self.environment.clone();
        let changed = settings.iter().map(|(key, value)| (*key, *value));
        environment
            .extend(changed.map(|(key, value)| (format!("GATEWAY_EVENTS__{key}"), value.into())));
        let prelude = self.prelude.clone();
        let (process, port, token) = spawn(directory.path(), 0, &environment, &prelude).await;
        assert!(token.is_none(), "the admin token is shown once only");
        Self { process, directory, environment, prelude, port, token: self.token.clone() }
    }

    /// Kills it with SIGKILL, so that only what is on disk survives.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.expect("it ran");
    }

    /// Starts again on the same data and the same port.
    pub(crate) async fn restart(&mut self) {
        let (process, _, token) =
            spawn(self.directory.path(), self.port, &self.environment, &self.prelude).await;
        assert!(token.is_none(), "the admin token is shown once only");
        self.process = process;
    }

    /// Restarts without the shell commands of the first start.
    pub(crate) async fn restart_free(&mut self) {
        ":".clone_into(&mut self.prelude);
        self.restart().await;
    }

    /// Waits until the process ends by itself; returns the exit code.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(TEST_TIMEOUT, self.process.wait()).await;
        ended.expect("it ends in time").expect("it ends").code()
    }

    /// Sends SIGTERM and waits; returns the exit code.
    pub(crate) async fn terminate(&mut self) -> Option<i32> {
        self.ask_to_end();
        self.ended().await
    }

    /// Sends SIGTERM and does not wait.
    pub(crate) fn ask_to_end(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Sends the process a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        rustix::process::kill_process(pid.expect("a pid"), signal).expect("it can be signalled");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id().expect("it runs")
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn database(&self) -> std::path::PathBuf {
        self.directory.path().join("gateway-events.db")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("service.log")).unwrap_or_default()
    }

    /// Waits until the log satisfies a condition.
    pub(crate) async fn logged(&self, satisfies: impl Fn(&str) -> bool) {
        let mut polls = tokio::time::interval(Duration::from_millis(20));
        let said = tokio::time::timeout(TEST_TIMEOUT, async {
            while !satisfies(&self.log()) {
                polls.tick().await;
            }
        });
        assert!(said.await.is_ok(), "the log never said so:\n{}", self.log());
    }

    /// The text of `/metrics`.
    pub(crate) async fn metrics(&self) -> String {
        let request = self.api().at_root(reqwest::Method::GET, "/metrics");
        let answer = request.send().await.expect("an answer");
        answer.text().await.expect("text")
    }

    /// The metrics, once they satisfy this.
    pub(crate) async fn metrics_until(&self, satisfies: impl Fn(&str) -> bool) -> String {
        let mut polls = tokio::time::interval(Duration::from_millis(200));
        let mut last = String::new();
        let found = tokio::time::timeout(2 * TEST_TIMEOUT, async {
            loop {
                polls.tick().await;
                last = self.metrics().await;
                if satisfies(&last) {
                    return;
                }
            }
        })
        .await;
        assert!(found.is_ok(), "the metrics never said so; at last: {last}\n{}", self.log());
        last
    }

    /// The self-signed certificate, which clients must trust.
    pub(crate) fn certificate(&self) -> std::path::PathBuf {
        self.directory.path().join("certificate.pem")
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::CaFile(self.certificate())
    }

    pub(crate) fn api(&self) -> JsonApi {
        self.api_with(&self.token)
    }

    pub(crate) fn api_with(&self, token: &str) -> JsonApi {
        let address = format!("https://localhost:{}", self.port);
        let token = SecretString::from(token.to_owned());
        JsonApi(Api::new(&address, Some(token), &self.trust()).expect("a client"))
    }

    /// Registers a gateway and creates a key for it.
    pub(crate) async fn gateway(&self, name: &str) -> (String, String) {
        let api = self.api();
        let gateway = api.post("/gateways", &json!({"name": name})).await.expect("registered");
        let id = gateway["id"].as_str().expect("an id").to_owned();
        let token = api.post(&format!("/gateways/{id}/tokens"), &json!({})).await.expect("a token");
        (id, token["token"].as_str().expect("a key").to_owned())
    }

    /// TLS to the service through a port, which may be a [fault proxy](crate::fault_proxy)'s.
    pub(crate) async fn tls(&self, port: u16) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
        self.tls_over(tcp).await.expect("TLS")
    }

    /// TLS over a connection that may have transferred other data before.
    pub(crate) async fn tls_over(&self, tcp: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let config = self.trust().client_config().expect("a TLS client");
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        tokio_rustls::TlsConnector::from(config).connect(name, tcp).await
    }

    /// Connects as a gateway. A refusal is an error with its status and body.
    pub(crate) async fn connect(&self, key: &str) -> Result<Socket, (u16, String)> {
        self.connect_over(self.tls(self.port).await, key).await
    }

    /// Connects as a gateway over an existing connection.
    pub(crate) async fn connect_over(
        &self,
        tls: TlsStream<TcpStream>,
        key: &str,
    ) -> Result<Socket, (u16, String)> {
        let url = format!("wss://localhost:{}/api/internal/v1/ws/gateways/connect", self.port);
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("api-key", key.parse().expect("a header"));
        match tokio_tungstenite::client_async(request, tls).await {
            Ok((stream, _)) => Ok(Socket { stream }),
            Err(tungstenite::Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                Err((response.status().as_u16(), String::from_utf8_lossy(&body).into_owned()))
            }
            Err(error) => panic!("the handshake broke: {error}\n{}", self.log()),
        }
    }

    /// Connects, and reads the acknowledgement.
    pub(crate) async fn connected(&self, key: &str) -> Socket {
        let mut socket = self.connect(key).await.expect("admitted");
        let first = socket.next().await.expect("a first frame");
        assert_eq!(first["type"], "connection.ack");
        socket
    }

    /// The number of invalid messages, by the service's metric.
    pub(crate) async fn invalid_messages(&self, what: &str) -> u64 {
        let request = self.api().at_root(reqwest::Method::GET, "/metrics");
        let text = request.send().await.expect("an answer").text().await.expect("text");
        let series = format!("gateway_events_invalid_messages_total{{what=\"{what}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or("0");
        value.parse().expect("a count")
    }

    /// Polls a resource until it satisfies a condition.
    pub(crate) async fn eventually(&self, path: &str, satisfies: impl Fn(&Value) -> bool) -> Value {
        self.eventually_within(TEST_TIMEOUT, path, satisfies).await
    }

    /// Likewise, with another timeout.
    pub(crate) async fn eventually_within(
        &self,
        patience: Duration,
        path: &str,
        satisfies: impl Fn(&Value) -> bool,
    ) -> Value {
        let api = self.api();
        let mut polls = tokio::time::interval(Duration::from_millis(20));
        let mut last = Value::Null;
        let found = tokio::time::timeout(patience, async {
            loop {
                polls.tick().await;
                last = get(&api, path).await.expect("an answer");
                if satisfies(&last) {
                    return;
                }
            }
        })
        .await;
        assert!(found.is_ok(), "{path} never said so; at last: {last:#}\n{}", self.log());
        last
    }
}

/// The client with JSON values, for tests of the wire format.
#[derive(Clone, Debug)]
pub(crate) struct JsonApi(pub(crate) Api);

impl std::ops::Deref for JsonApi {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.0
    }
}

impl JsonApi {
    pub(crate) async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.get_with(path, &[]).await
    }

    pub(crate) async fn get_with(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Value, ApiError> {
        let (client, request) = self.request(Method::GET, path).build_split();
        let mut request = request.expect("a request");
        if !query.is_empty() {
            request.url_mut().query_pairs_mut().extend_pairs(query);
        }
        self.send(reqwest::RequestBuilder::from_parts(client, request)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &impl Serialize) -> Result<Value, ApiError> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.send(self.request(Method::PATCH, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value, ApiError> {
        self.send(self.request(Method::DELETE, path)).await
    }
}

/// `GET` of a path that may have a query.
pub(crate) async fn get(api: &JsonApi, path: &str) -> Result<Value, ApiError> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let query: Vec<(&str, String)> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
    api.get_with(path, &query).await
}

fn environment(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let variable =
        |(key, value): &(&str, &str)| (format!("GATEWAY_EVENTS__{key}"), (*value).to_owned());
    // Most tests need failures at once; those about the grace period set it.
    let defaults = [("DELIVERY__NOT_CONNECTED_GRACE", "0s")];
    defaults.iter().chain(settings).map(variable).collect()
}

async fn spawn(
    directory: &Path,
    port: u16,
    environment: &[(String, String)],
    prelude: &str,
) -> (Child, u16, Option<String>) {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join("service.log"))
        .expect("a log");
    spawn_logging_to(log, directory, port, environment, prelude).await
}

async fn spawn_logging_to(
    log: File,
    directory: &Path,
    port: u16,
    environment: &[(String, String)],
    prelude: &str,
) -> (Child, u16, Option<String>) {
    let mut process = Command::new("sh")
        .args(["-c", &format!("{prelude}; exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_gateway-events"))
        .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
        .arg(directory)
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let mut lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
    let mut token = None;
    let reading = async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if let Some((_, text)) = line.split_once("admin access token: ") {
                token = text.split_whitespace().next().map(str::to_owned);
            }
            if let Some((_, address)) = line.split_once("listening on ") {
                return address.rsplit(':').next().and_then(|port| port.parse().ok());
            }
        }
        None
    };
    let port = tokio::time::timeout(TEST_TIMEOUT, reading).await.ok().flatten();
    let log = || std::fs::read_to_string(directory.join("service.log")).unwrap_or_default();
    (process, port.unwrap_or_else(|| panic!("the service never listened\n{}", log())), token)
}

/// Lets time pass, for tests in which that is the event.
pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep_until(tokio::time::Instant::now() + time).await;
}

/// A valid deployment event.
pub(crate) fn deployed(gateways: &[&str], deployment: &str) -> Value {
    json!({
        "type": "api.deployed",
        "gatewayIds": gateways,
        "payload": {"apiId": "a-1", "deploymentId": deployment, "performedAt": "2026-01-31T09:30:00.001Z"},
    })
}

/// A gateway's report that it could not apply that deployment.
pub(crate) fn failed_report(deployment: &str) -> String {
    json!({"type": "deployment.ack", "payload": {
        "deploymentId": deployment, "artifactId": "a-1", "resourceType": "api", "action": "deploy",
        "status": "failed", "performedAt": "2026-01-31T09:30:00.001Z",
        "errorCode": "GATEWAY_PROCESSING_ERROR"}})
    .to_string()
}
