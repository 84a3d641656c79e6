//! Waits until the service has recorded what the gateways confirmed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::check::Numbers;
use crate::gateways::PATIENCE;
use crate::testbed::Target;

/// Gateways per page of the list.
const PAGE: &str = "1000";
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits until the service has recorded for each of these gateways that it confirmed
/// every event accepted for it; the number of accepted events must also be the number of
/// events in its log. The gateways are polled in pages: a request for each of them would
/// be a considerable part of the load.
pub(crate) async fn all_confirmed(
    target: &Target,
    ids: &[String],
    accepted: &[Numbers],
) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut expected: HashMap<&str, u64> =
        ids.iter().map(String::as_str).zip(accepted.iter().map(Numbers::count)).collect();
    let mut after: Option<String> = None;
    while !expected.is_empty() {
        let cursor = after.iter().map(|after| ("cursor", after.clone()));
        let query: Vec<_> = cursor.chain([("limit", PAGE.to_owned())]).collect();
        let page = target.api.get_with("/gateways", &query).await?;
        let mut late = None;
        for gateway in page["list"].as_array().context("a page without list")? {
            let id = gateway["id"].as_str().context("a gateway without id")?;
            let Some(count) = expected.get(id) else { continue };
            let head = gateway["head"].as_u64().context("a gateway without head")?;
            anyhow::ensure!(
                head == *count,
                "{count} events were accepted for gateway {id}, and its log has {head}"
            );
            if gateway["confirmed"].as_u64() == Some(head) {
                expected.remove(id);
            } else {
                late = Some((id, head));
            }
        }
        if let Some((id, head)) = late {
            confirmed(target, id, head, started).await?;
            continue;
        }
        let next = page["pagination"]["next"].as_str();
        anyhow::ensure!(
            next.is_some() || expected.is_empty(),
            "{} gateways are missing from the list",
            expected.len()
        );
        after = next.map(str::to_owned);
    }
    Ok(())
}

/// Waits until one gateway has confirmed its whole log.
async fn confirmed(target: &Target, id: &str, head: u64, started: Instant) -> anyhow::Result<()> {
    loop {
        let gateway = target.api.get(&format!("/gateways/{id}")).await?;
        if gateway["confirmed"].as_u64() >= Some(head) {
            return Ok(());
        }
        anyhow::ensure!(
            started.elapsed() < PATIENCE,
            "gateway {id} has received {head} events, and {} are on record as confirmed",
            gateway["confirmed"]
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
