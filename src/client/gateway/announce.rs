//! The HTTP requests that a gateway sends at each connect: one for a well-known page that does not
//! exist, and one with its manifest.

use std::time::Duration;

use reqwest::header::HeaderValue;
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::{FINAL_STATUSES, GatewayOptions};
use crate::client::BASE_PATH;

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends both requests. Failures are ignored, except a status after which gateways stop: that is
/// the error.
pub(super) async fn announce(options: &GatewayOptions, gateway_id: &str) -> Result<(), u16> {
    let Ok(client) = reqwest::Client::builder()
        .tls_backend_preconfigured(options.tls.as_ref().clone())
        .no_proxy()
        .timeout(CALL_TIMEOUT)
        .build()
    else {
        return Ok(());
    };
    let mut url = options.url.clone();
    url.set_path("/internal/gateway/.well-known");
    // The response is a 404, which is ignored.
    let _ = client.get(url.clone()).send().await;

    let Ok(mut key) = HeaderValue::from_str(options.key.expose_secret()) else {
        return Ok(());
    };
    key.set_sensitive(true);
    url.set_path(&format!("{BASE_PATH}/gateways/{gateway_id}/manifest"));
    let manifest = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "functionalityType": "regular",
        "policies": [],
    });
    let sent = client.post(url).header("api-key", key).json(&manifest).send().await;
    match sent.map(|answer| answer.status().as_u16()) {
        Ok(status) if FINAL_STATUSES.contains(&status) => Err(status),
        _ => Ok(()),
    }
}
