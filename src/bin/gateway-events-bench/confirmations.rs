//! Waits until the service has recorded what the gateways confirmed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use gateway_events::api::PageQuery;
use gateway_events::event::GatewayId;

use crate::check::Numbers;
use crate::gateways::PROGRESS_TIMEOUT;
use crate::testbed::Target;

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
    let mut expected: HashMap<GatewayId, i64> = HashMap::new();
    for (id, numbers) in ids.iter().zip(accepted) {
        expected.insert(id.parse()?, i64::try_from(numbers.count())?);
    }
    let mut after: Option<String> = None;
    while !expected.is_empty() {
        let query = PageQuery { limit: Some(PageQuery::MAX_LIMIT), cursor: after };
        let page = target.api.gateway_page(&query).await?;
        let mut late = None;
        for gateway in page.list {
            let (id, head) = (gateway.id, gateway.head.0);
            let Some(count) = expected.get(&id) else { continue };
            anyhow::ensure!(
                head == *count,
                "{count} events were accepted for gateway {id}, and its log has {head}"
            );
            if gateway.confirmed.0 == head {
                expected.remove(&id);
            } else {
                late = Some((id, head));
            }
        }
        if let Some((id, head)) = late {
            confirmed(target, id, head, started).await?;
            after = query.cursor;
            continue;
        }
        let next = page.pagination.next;
        anyhow::ensure!(
            next.is_some() || expected.is_empty(),
            "{} gateways are missing from the list",
            expected.len()
        );
        after = next;
    }
    Ok(())
}

/// Waits until one gateway has confirmed its whole log.
async fn confirmed(
    target: &Target,
    id: GatewayId,
    head: i64,
    started: Instant,
) -> anyhow::Result<()> {
    loop {
        let gateway = target.api.gateway(id).await?;
        if gateway.confirmed.0 >= head {
            return Ok(());
        }
        anyhow::ensure!(
            started.elapsed() < PROGRESS_TIMEOUT,
            "gateway {id} has received {head} events, and {} are on record as confirmed",
            gateway.confirmed
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
