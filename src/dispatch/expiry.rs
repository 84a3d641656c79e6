//! Gives up events that expire while their gateway is away, within a second of
//! their time.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Dispatcher;
use super::backoff::Backoff;
use super::sweep::tell;
use crate::event::Reason;
use crate::store::ExpiryMark;

/// How often expired events are looked for.
const INTERVAL: Duration = Duration::from_millis(500);
/// Between two batches, so that a long series of them leaves others their turn.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks again and again, until told to stop.
pub(super) async fn run(dispatcher: &Dispatcher, stop: CancellationToken) {
    stop.run_until_cancelled(async {
        let (mut mark, mut backoff) = (ExpiryMark::default(), Backoff::default());
        loop {
            let pause = match dispatcher.store.expire(&mut mark).await {
                Ok(found) => {
                    backoff.reset();
                    let detail = "the event expired while its gateway was away";
                    found.expired.iter().for_each(|one| tell(one, Reason::Expired, detail));
                    if found.more { PAUSE } else { INTERVAL }
                }
                Err(error) => {
                    tracing::warn!(%error, "the search for expired events failed; trying again");
                    backoff.next().max(INTERVAL)
                }
            };
            sleep(pause).await;
        }
    })
    .await;
}
