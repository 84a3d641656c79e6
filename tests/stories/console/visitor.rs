//! A browser without scripts: requests with a session's cookie, and forms.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder};

use crate::support::{Service, TEST_TIMEOUT};

/// Someone with a browser, who may be signed in.
#[derive(Clone)]
pub(crate) struct Visitor {
    client: Client,
    origin: String,
    cookie: Option<String>,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Visitor {
    pub(crate) fn new(service: &Service) -> Self {
        let config = service.trust().client_config().expect("a TLS client");
        let client = Client::builder()
            .tls_backend_preconfigured(config.as_ref().clone())
            .redirect(Policy::none())
            .no_proxy()
            .build()
            .expect("a client");
        let origin = format!("https://localhost:{}", service.port);
        Self { client, origin, cookie: None }
    }

    pub(crate) async fn signed_in(service: &Service, token: &str) -> Self {
        let mut visitor = Self::new(service);
        let page = visitor.sign_in(token, "/console").await;
        assert_eq!(page.status, 303, "{page:?}");
        visitor
    }

    /// A visitor with a new token of these scopes.
    pub(crate) async fn scoped(service: &Service, scopes: &[&str]) -> Self {
        let new = serde_json::json!({"name": "scoped", "scopes": scopes});
        let made = service.api().post("/access-tokens", &new).await.expect("created");
        Self::signed_in(service, made["token"].as_str().expect("a token")).await
    }

    /// The same browser at another node.
    pub(crate) fn at(&self, service: &Service) -> Self {
        Self { cookie: self.cookie.clone(), ..Self::new(service) }
    }

    /// Submits the form, and keeps the cookie.
    pub(crate) async fn sign_in(&mut self, token: &str, next: &str) -> Page {
        let request = self.request(Method::POST, "/console/sign-in");
        let form = [("token", token), ("next", next)];
        let page = Page::of(from_here(request).body(encoded(&form))).await;
        if let Some((cookie, _)) = page.header("set-cookie").split_once(';') {
            self.cookie = Some(cookie.to_owned());
        }
        page
    }

    /// The session's cookie.
    pub(crate) fn cookie(&self) -> &str {
        self.cookie.as_deref().unwrap_or_default()
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.origin));
        match &self.cookie {
            Some(cookie) => request.header("cookie", cookie),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Page {
        Page::of(self.request(Method::GET, path)).await
    }

    /// Polls a page until it satisfies a condition.
    pub(crate) async fn until(&self, path: &str, satisfies: impl Fn(&Page) -> bool) -> Page {
        let mut polls = tokio::time::interval(Duration::from_millis(100));
        let found = tokio::time::timeout(TEST_TIMEOUT, async {
            loop {
                polls.tick().await;
                let page = self.get(path).await;
                if satisfies(&page) {
                    return page;
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("{path} never became so"))
    }

    /// The token of the session's forms, from a page that needs no database query of its own.
    pub(crate) fn form_token(&self) -> String {
        use sha2::{Digest as _, Sha256};
        let cookie = self.cookie.as_deref().unwrap_or_default();
        let id = cookie.split_once('=').map_or("", |(_, id)| id);
        let id = data_encoding::BASE64URL_NOPAD.decode(id.as_bytes()).unwrap_or_default();
        let mut hash = Sha256::new();
        hash.update(b"gateway-events console form");
        hash.update(id);
        data_encoding::BASE64URL_NOPAD.encode(&hash.finalize())
    }

    /// Submits a form as a browser does.
    pub(crate) async fn submit(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let token = self.form_token();
        let fields: Vec<_> =
            [("form_token", token.as_str())].into_iter().chain(fields.iter().copied()).collect();
        Page::of(from_here(self.request(Method::POST, path)).body(encoded(&fields))).await
    }
}

/// The headers of a form of the same site.
pub(crate) fn from_here(request: RequestBuilder) -> RequestBuilder {
    let request = request.header("sec-fetch-site", "same-origin").header("origin", "null");
    request.header("content-type", "application/x-www-form-urlencoded")
}

/// Fields as the body of a form.
pub(crate) fn encoded(fields: &[(&str, &str)]) -> String {
    let encode = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                    char::from(byte).to_string()
                }
                _ => format!("%{byte:02X}"),
            })
            .collect()
    };
    let pairs: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    pairs.join("&")
}

impl Page {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, body: response.text().await.expect("text") }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Whether its text contains this.
    pub(crate) fn says(&self, text: &str) -> bool {
        self.body.contains(text)
    }
}
