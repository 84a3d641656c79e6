//! `/openapi.json`, `/docs`, a reference page that displays it, and `/asyncapi.json`.
//!
//! The page is Swagger UI 5.35.0, from the npm package `swagger-ui-dist` (Apache-2.0).
//! Its two files are in `docs/`, compressed with `gzip -9 -n`; they add 0.5 MB to the
//! binary, and nothing is loaded from another host. The content security policy allows
//! no other source either.
//!
//! These routes need no credentials, since they reveal only what the repository does.
//! They are refused on connections of the reserve, which is for probes and admins. The
//! files are sent from static memory, so that a peer that does not read costs no copy.

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::extract::Extension;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::asyncapi;
use super::extract::Path;
use super::listener::Peer;
use super::openapi::{self, Missing, Problems, Public};
use super::problem::{HandlerResult, Problem};

/// Allows only what this origin serves. Swagger UI sets styles in elements, and has its icons in
/// data URLs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

static DOCUMENT: LazyLock<String> = LazyLock::new(openapi::json);
static STREAMS: LazyLock<String> = LazyLock::new(asyncapi::json);

/// A file of the page.
struct File {
    name: &'static str,
    content_type: &'static str,
    is_gzip: bool,
    bytes: &'static [u8],
}

const PAGE: File = File {
    name: "index.html",
    content_type: "text/html; charset=utf-8",
    is_gzip: false,
    bytes: include_bytes!("docs/index.html"),
};

const FILES: [File; 3] = [
    File {
        name: "start.js",
        content_type: "text/javascript; charset=utf-8",
        is_gzip: false,
        bytes: include_bytes!("docs/start.js"),
    },
    File {
        name: "swagger-ui-bundle.js",
        content_type: "text/javascript; charset=utf-8",
        is_gzip: true,
        bytes: include_bytes!("docs/swagger-ui-bundle.js.gz"),
    },
    File {
        name: "swagger-ui.css",
        content_type: "text/css; charset=utf-8",
        is_gzip: true,
        bytes: include_bytes!("docs/swagger-ui.css.gz"),
    },
];

/// Read this document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "operations", operation_id = "openapi",
    responses(
        (status = 200, description = "The OpenAPI 3.1 document of this API.", body = Object, content_type = "application/json",
            example = json!({"openapi": "3.1.0", "info": {"title": "gateway-events"}, "paths": {}})),
        Problems<(Public,)>,
    ),
)]
pub(super) async fn document(peer: Option<Extension<Peer>>) -> HandlerResult<Response> {
    serve(peer, &json("openapi.json", &DOCUMENT))
}

/// Read the description of the streams.
#[utoipa::path(
    get, path = "/asyncapi.json", tag = "operations", operation_id = "asyncapi",
    responses(
        (status = 200, description = "The AsyncAPI 3.0 document of the streams of gateways and of the feed.", body = Object, content_type = "application/json",
            example = json!({"asyncapi": "3.0.0", "info": {"title": "gateway-events"}, "channels": {}})),
        Problems<(Public,)>,
    ),
)]
pub(super) async fn streams(peer: Option<Extension<Peer>>) -> HandlerResult<Response> {
    serve(peer, &json("asyncapi.json", &STREAMS))
}

fn json(name: &'static str, document: &'static LazyLock<String>) -> File {
    let bytes = LazyLock::force(document).as_bytes();
    File { name, content_type: "application/json", is_gzip: false, bytes }
}

/// Show the reference page of this API.
#[utoipa::path(
    get, path = "/docs", tag = "operations", operation_id = "docs",
    responses(
        (status = 200, description = "The page.", body = String, content_type = "text/html"),
        Problems<(Public,)>,
    ),
)]
pub(super) async fn page(peer: Option<Extension<Peer>>) -> HandlerResult<Response> {
    serve(peer, &PAGE)
}

/// Read a file of the reference page.
///
/// Scripts and styles are sent gzip-compressed.
#[utoipa::path(
    get, path = "/docs/{file}", tag = "operations", operation_id = "docsFile",
    params(("file" = String, Path, description = "The file's name.", example = "swagger-ui.css")),
    responses(
        (status = 200, description = "The file.", content(
            (String = "text/javascript"),
            (String = "text/css"),
        )),
        Problems<(Missing, Public)>,
    ),
)]
pub(super) async fn file(
    peer: Option<Extension<Peer>>,
    Path(name): Path<String>,
) -> HandlerResult<Response> {
    let file = FILES.iter().find(|file| file.name == name);
    serve(peer, file.ok_or_else(|| Problem::not_found("file"))?)
}

fn serve(peer: Option<Extension<Peer>>, file: &File) -> HandlerResult<Response> {
    if peer.is_some_and(|Extension(peer)| peer.slot.is_reserve()) {
        return Err(Problem::http_connection_limit());
    }
    let mut headers = HeaderMap::new();
    let fixed: [(HeaderName, &'static str); 5] = [
        (header::CONTENT_TYPE, file.content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "max-age=300"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if file.is_gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok((headers, Bytes::from_static(file.bytes)).into_response())
}
