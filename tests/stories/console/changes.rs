//! The stream that tells an open page when it is out of date.

use h2::RecvStream;

use super::visitor::Visitor;
use crate::edge::http2::offering;
use crate::support::{Service, TEST_TIMEOUT, deployed};

/// An open stream.
struct Changes {
    body: RecvStream,
    /// Ends with the connection.
    _connection: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Changes {
    /// Opens a stream; the status if it is refused.
    async fn open(service: &Service, visitor: &Visitor, path: &str) -> Result<Self, u16> {
        let stream = offering(service, &["h2"]).await;
        let (requests, connection) = h2::client::handshake(stream).await.expect("a handshake");
        let connection = tokio::spawn(connection);
        let request = hyper::Request::builder()
            .uri(format!("https://localhost:{}{path}", service.port))
            .header("cookie", visitor.cookie())
            .body(())
            .expect("a request");
        let mut requests = requests.ready().await.expect("ready");
        let (response, _) = requests.send_request(request, true).expect("sent");
        let response = response.await.expect("a response");
        let status = response.status().as_u16();
        if status != 200 {
            return Err(status);
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Ok(Self { body: response.into_body(), _connection: connection })
    }

    /// The next chunk; `None` at the end.
    async fn chunk(&mut self) -> Option<String> {
        let chunk = tokio::time::timeout(TEST_TIMEOUT, self.body.data()).await.expect("in time")?;
        let chunk = chunk.expect("a chunk");
        self.body.flow_control().release_capacity(chunk.len()).expect("released");
        Some(String::from_utf8(chunk.to_vec()).expect("a text"))
    }

    async fn until_changed(&mut self) {
        while !self.chunk().await.expect("it goes on").contains("event: changed") {}
    }

    /// Everything up to the end.
    async fn rest(mut self) -> String {
        let mut rest = String::new();
        while let Some(chunk) = self.chunk().await {
            rest.push_str(&chunk);
        }
        rest
    }
}

#[tokio::test]
async fn a_page_learns_that_something_has_happened_and_nothing_more() {
    let service = Service::start().await;
    let (berlin, _) = service.gateway("berlin").await;
    let (tokyo, _) = service.gateway("tokyo").await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let mut any = Changes::open(&service, &visitor, "/console/changes").await.expect("open");
    let of_tokyo = format!("/console/changes?gateway={tokyo}");
    let mut of_tokyo = Changes::open(&service, &visitor, &of_tokyo).await.expect("open");
    let of_berlin = format!("/console/changes?gateway={berlin}");
    let of_berlin = Changes::open(&service, &visitor, &of_berlin).await.expect("open");
    service.api().post("/events", &deployed(&[&tokyo], "d-1")).await.expect("accepted");
    any.until_changed().await;
    of_tokyo.until_changed().await;
    visitor.submit("/console/sign-out", &[]).await;
    let (any, of_berlin) = (any.rest().await, of_berlin.rest().await);
    assert!(!of_berlin.contains("changed"), "{of_berlin}");
    for text in [any, of_berlin] {
        assert!(!text.contains("data: ") && !text.contains(&tokyo), "{text}");
    }
}

#[tokio::test]
async fn streams_of_changes_are_limited_and_end_with_their_token() {
    let service = Service::start().await;
    let guest = serde_json::json!({"name": "guest", "scopes": ["read"]});
    let guest = service.api().post("/access-tokens", &guest).await.expect("created");
    let visitor = Visitor::signed_in(&service, guest["token"].as_str().expect("a token")).await;
    let over_http1 = visitor.get("/console/changes").await;
    assert_eq!((over_http1.status, over_http1.body.as_str()), (204, ""));
    let path = "/console/changes";
    let wrong = Changes::open(&service, &visitor, "/console/changes?gateway=berlin").await;
    assert_eq!(wrong.err(), Some(422));
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(Changes::open(&service, &visitor, path).await.expect("open"));
    }
    assert_eq!(Changes::open(&service, &visitor, path).await.err(), Some(429));
    let id = guest["id"].as_str().expect("an id");
    service.api().delete(&format!("/access-tokens/{id}")).await.expect("revoked");
    for stream in open {
        stream.rest().await;
    }
    assert_eq!(Changes::open(&service, &visitor, path).await.err(), Some(303));
}
