//! A product that receives events over HTTP, and answers as a test wants.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::until;

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) head: String,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
    /// How many times this event has been posted, this time included.
    pub(super) times: usize,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(super) fn sequence(&self) -> i64 {
        self.header("ce-sequence").parse().expect("a sequence")
    }
}

/// How a request is answered.
pub(super) enum Answer {
    /// With these bytes.
    Text(String),
    /// With a body that does not end.
    Endless(u16),
    /// Not at all: the connection stays open.
    Never,
    /// By closing the connection.
    Close,
}

/// An answer with a status, headers and a body.
pub(super) fn status(code: u16, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let text = format!("HTTP/1.1 {code} x\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
    Answer::Text(text)
}

/// A running product. Dropping it closes its port.
pub(super) struct Product {
    pub(super) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    serving: JoinHandle<()>,
}

impl Drop for Product {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Product {
    pub(super) async fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", answer).await
    }

    pub(super) async fn start_at(
        address: &str,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        Self::serve(listener, answer)
    }

    /// Takes over a socket that listens.
    pub(super) fn start_on(
        listener: std::net::TcpListener,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        listener.set_nonblocking(true).expect("a socket");
        Self::serve(TcpListener::from_std(listener).expect("a socket"), answer)
    }

    fn serve(
        listener: TcpListener,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let url = format!("http://{}/events", listener.local_addr().expect("an address"));
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                tokio::spawn(async move { serve(stream, &seen, answer.as_ref()).await });
            }
        });
        Self { url, requests, serving }
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic").clone()
    }

    /// What each request shows.
    pub(super) fn map<T>(&self, shown: impl FnMut(&Request) -> Option<T>) -> Vec<T> {
        self.requests.lock().expect("no panic").iter().filter_map(shown).collect()
    }

    /// Waits for this many requests.
    pub(super) async fn requested(&self, count: usize) -> Vec<Request> {
        let enough = || self.requests().len() >= count;
        until(enough, || format!("{count} requests: {:?}", self.requests())).await;
        self.requests()
    }
}

async fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    answer: &(impl Fn(&Request) -> Answer + Sync),
) -> Option<()> {
    let mut request = read(&mut stream).await?;
    let answer = {
        let mut seen = seen.lock().expect("no panic");
        let sequence = request.sequence();
        request.times += seen.iter().filter(|it| it.sequence() == sequence).count();
        let answer = answer(&request);
        seen.push(request);
        answer
    };
    match answer {
        Answer::Text(text) => stream.write_all(text.as_bytes()).await.ok()?,
        Answer::Endless(code) => {
            let head = format!("HTTP/1.1 {code} x\r\ntransfer-encoding: chunked\r\n\r\n");
            stream.write_all(head.as_bytes()).await.ok()?;
            let chunk = format!("1000\r\n{}\r\n", "wrong ".repeat(4096)[..4096].to_owned());
            loop {
                stream.write_all(chunk.as_bytes()).await.ok()?;
            }
        }
        Answer::Never => {
            // Until the client closes the connection.
            let _ = stream.read(&mut [0]).await;
        }
        Answer::Close => {}
    }
    Some(())
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..end].to_vec()).expect("a head");
    let (head, rest) = text.split_once("\r\n").expect("headers");
    let headers: BTreeMap<String, String> = rest
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers.get("content-length").expect("a length").parse().expect("a number");
    while bytes.len() < end + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8(bytes[end + 4..].to_vec()).expect("text");
    Some(Request { head: head.to_owned(), headers, body, times: 1 })
}
