//! The console's script, style and icon, and htmx, which refreshes parts of a page. Nothing is loaded
//! from another host. A name contains a digest of its content, so a browser may keep the file.
//!
//! `htmx.min.js` is that of the npm package `htmx.org`; `assets/NOTICE` has version and licence.

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::extract::Extension;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use super::super::extract::Path;
use super::super::listener::Peer;
use super::super::problem::{HandlerResult, Problem};

/// A file, and the name by which it is requested.
pub(super) struct Asset {
    pub(super) path: String,
    content_type: &'static str,
    bytes: &'static [u8],
}

/// All files.
pub(super) struct Assets {
    pub(super) style: Asset,
    pub(super) script: Asset,
    pub(super) htmx: Asset,
    pub(super) icon: Asset,
}

pub(super) static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
    style: asset("console", "css", "text/css; charset=utf-8", include_bytes!("assets/console.css")),
    script: asset("console", "js", SCRIPT, include_bytes!("assets/console.js")),
    htmx: asset("htmx", "js", SCRIPT, include_bytes!("assets/htmx.min.js")),
    icon: asset("icon", "svg", "image/svg+xml", include_bytes!("assets/icon.svg")),
});

const SCRIPT: &str = "text/javascript; charset=utf-8";

fn asset(name: &str, extension: &str, content_type: &'static str, bytes: &'static [u8]) -> Asset {
    let digest = HEXLOWER.encode(&Sha256::digest(bytes)[..8]);
    let path = format!("/console/assets/{name}.{digest}.{extension}");
    Asset { path, content_type, bytes }
}

/// Sends a file. Needs no session, because it reveals only what the repository does.
pub(super) async fn file(
    peer: Option<Extension<Peer>>,
    Path(name): Path<String>,
) -> HandlerResult<Response> {
    if peer.is_some_and(|Extension(peer)| peer.slot.is_reserve()) {
        return Err(Problem::http_connection_limit());
    }
    let Assets { style, script, htmx, icon } = &*ASSETS;
    let found = [style, script, htmx, icon]
        .into_iter()
        .find(|asset| asset.path.rsplit_once('/').is_some_and(|(_, known)| known == name));
    let asset = found.ok_or_else(|| Problem::not_found("file"))?;
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::CONTENT_TYPE, asset.content_type),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok((headers, Bytes::from_static(asset.bytes)).into_response())
}
