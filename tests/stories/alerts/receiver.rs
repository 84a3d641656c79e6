//! A receiver of webhooks: a real HTTP server whose answers the test chooses.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::TEST_TIMEOUT;

/// How a receiver answers.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Status(u16, &'static str),
    Redirect(String),
    /// Never.
    Hang,
    /// 404, with the path and the credential of the request.
    Repeat,
    /// More than anyone should read.
    Endless,
}

/// A request that was read.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    /// Whether it was answered with success.
    pub(crate) is_accepted: bool,
}

impl Received {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// What a message says, such as `alert.firing away/eu`.
    pub(crate) fn says(&self) -> String {
        let body = self.json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!("{} {}", text(&body["type"]), text(&body["data"]["key"]))
    }
}

pub(crate) struct Receiver {
    address: String,
    answer: Arc<Mutex<Answer>>,
    received: watch::Receiver<Vec<Received>>,
    task: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    pub(crate) async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let answer = Arc::new(Mutex::new(answer));
        let (sender, received) = watch::channel(Vec::new());
        let sender = Arc::new(sender);
        let chosen = Arc::clone(&answer);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sender, chosen) = (Arc::clone(&sender), Arc::clone(&chosen));
                tokio::spawn(async move {
                    // A client that hangs up is no failure of the receiver.
                    let _ = serve(stream, &chosen, &sender).await;
                });
            }
        });
        Self { address, answer, received, task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    pub(crate) fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// What was received so far, in this order.
    pub(crate) fn all(&self) -> Vec<Received> {
        self.received.borrow().clone()
    }

    /// The notifications about a rule that it has accepted.
    pub(crate) fn accepted(&self, rule: &str) -> Vec<Received> {
        let is_of = |it: &Received| it.is_accepted && it.json()["data"]["rule"] == rule;
        self.all().into_iter().filter(is_of).collect()
    }

    /// Waits until what was received satisfies a condition; returns it.
    pub(crate) async fn until(&self, satisfies: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let mut received = self.received.clone();
        let waiting = tokio::time::timeout(TEST_TIMEOUT, received.wait_for(|all| satisfies(all)));
        let is_found = waiting.await.is_ok_and(|found| found.is_ok());
        assert!(is_found, "only this was received: {:#?}", self.all());
        self.all()
    }
}

async fn serve(
    stream: TcpStream,
    chosen: &Mutex<Answer>,
    sender: &watch::Sender<Vec<Received>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        // A client that was killed sends half a request.
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let answer = chosen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let is_accepted = matches!(answer, Answer::Status(200..=299, _));
    let authorization = headers.get("authorization").map_or("none", String::as_str);
    let repeated = format!("Cannot POST {path} ({authorization})");
    // It counts as received before it is answered, as a receiver would commit first.
    sender.send_modify(|all| all.push(Received { path, headers, body, is_accepted }));
    let text = match answer {
        Answer::Status(status, body) => {
            format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        }
        Answer::Repeat => {
            format!("HTTP/1.1 404 x\r\ncontent-length: {}\r\n\r\n{repeated}", repeated.len())
        }
        Answer::Redirect(to) => {
            format!("HTTP/1.1 307 x\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
        }
        Answer::Hang => return std::future::pending().await,
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 500 x\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            loop {
                stream.write_all(b"1000\r\n").await?;
                stream.write_all(&[b'x'; 0x1000]).await?;
                stream.write_all(b"\r\n").await?;
            }
        }
    };
    stream.write_all(text.as_bytes()).await?;
    stream.flush().await
}
