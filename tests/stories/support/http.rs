//! Raw requests and complete responses, for tests of statuses, headers and exact bytes.

use gateway_events::client::BASE_PATH;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;

use super::{Service, document, streams};

/// A client with or without a token.
#[derive(Clone)]
pub(crate) struct Caller {
    client: Client,
    origin: String,
    token: Option<String>,
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Service {
    /// A caller with the first admin token.
    pub(crate) fn admin(&self) -> Caller {
        self.caller(Some(&self.token))
    }

    pub(crate) fn caller(&self, token: Option<&str>) -> Caller {
        let config = self.trust().client_config().expect("a TLS client");
        let client = Client::builder()
            .tls_backend_preconfigured(config.as_ref().clone())
            .no_proxy()
            .build()
            .expect("a client");
        let origin = format!("https://localhost:{}", self.port);
        Caller { client, origin, token: token.map(str::to_owned) }
    }

    /// A caller with a new access token of these scopes.
    pub(crate) async fn scoped(&self, scopes: &[&str]) -> Caller {
        let new = serde_json::json!({"name": "scoped", "scopes": scopes});
        let made = self.admin().post("/access-tokens", &new).await.success();
        self.caller(made["token"].as_str())
    }
}

impl Caller {
    /// A request below the API's base path. A query is part of the path.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{BASE_PATH}{path}", self.origin));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// `GET` of a non-text resource at the root.
    pub(crate) async fn root_bytes(&self, path: &str) -> Reply {
        let response = self.client.get(format!("{}{path}", self.origin)).send().await;
        let response = response.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.expect("a body");
        Reply { status, headers, body: format!("{} bytes", bytes.len()) }
    }

    /// `GET` at the root.
    pub(crate) async fn root(&self, path: &str) -> Reply {
        reply(self.client.get(format!("{}{path}", self.origin))).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        reply(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        reply(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Reply {
        reply(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Reply {
        reply(self.request(Method::PATCH, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        reply(self.request(Method::DELETE, path)).await
    }

    /// `POST /events` with a body as it is.
    pub(crate) async fn publish(&self, body: impl Into<reqwest::Body>) -> Reply {
        let request = self.request(Method::POST, "/events");
        reply(request.header(CONTENT_TYPE, "application/json").body(body)).await
    }

    /// Likewise, with an `Idempotency-Key`.
    pub(crate) async fn publish_once(&self, key: &str, body: &Value) -> Reply {
        let request = self.request(Method::POST, "/events").header("idempotency-key", key);
        reply(request.json(body)).await
    }
}

/// Sends a request, and compares the response with the OpenAPI document, and with the AsyncAPI document
/// if it is one of a gateway.
pub(crate) async fn reply(request: RequestBuilder) -> Reply {
    let (client, request) = request.build_split();
    let request = request.expect("a request");
    let (method, path) = (request.method().clone(), request.url().path().to_owned());
    let url = request.url().clone();
    let sent = request.body().and_then(|body| body.as_bytes()).map(<[u8]>::to_vec);
    let response = client.execute(request).await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.text().await.expect("text");
    let reply = Reply { status, headers, body };
    document::check(&method, &path, status, reply.content_type(), &reply.body);
    streams::check_request(&method, &url, sent.as_deref(), status, &reply.body);
    reply
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Asserts that it succeeded, and returns its body.
    pub(crate) fn success(&self) -> Value {
        assert!((200..300).contains(&self.status), "{self:?}");
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    pub(crate) fn content_type(&self) -> &str {
        self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Asserts that it is a problem with this status and code.
    #[track_caller]
    pub(crate) fn refusal(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.content_type(), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{self:?}");
        assert_eq!(problem["code"], code, "{self:?}");
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
        }
        for inside in ["sqlx", "SQLite", "src/", ".rs:", "panicked", "select ", ".db", "axum"] {
            assert!(!self.body.contains(inside), "{inside} leaks: {self:?}");
        }
        in_words_of_the_contract(problem["detail"].as_str().unwrap_or_default());
        problem
    }

    /// Asserts that it is a 422 for this field whose message contains each of these.
    #[track_caller]
    pub(crate) fn invalid(&self, field: &str, says: &[&str]) {
        let problem = self.refusal(422, "invalid");
        let error = &problem["errors"][0];
        assert_eq!(error["field"], field, "{self:?}");
        let message = error["message"].as_str().expect("a message");
        for text in says {
            assert!(message.contains(text), "{text:?} is missing: {message}");
        }
    }
}

/// Asserts that an error names no type of the program and has no text of its parsers.
#[track_caller]
pub(crate) fn in_words_of_the_contract(text: &str) {
    let types = ["i64", "u16", "u32", "u64", "usize", "f64"];
    for word in text.split(|char: char| !char.is_ascii_alphanumeric()) {
        assert!(!types.contains(&word), "{word:?} is a type of the program: {text}");
    }
    for inside in [
        "struct ",
        "expected enum",
        "unknown variant",
        "invalid type",
        "invalid value:",
        "a sequence",
        "a map",
        "found in string",
    ] {
        assert!(!text.contains(inside), "{inside:?} is a word of the program: {text}");
    }
}
