//! The job that empties the inbox: read a page, judge each row, have them
//! moved. A row that can't be published is put aside with its reason, and
//! holds up nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Candidate, Draft, Objection, Rules, rows};
use crate::clock::Timestamp;
use crate::compute::{ComputeError, Source};
use crate::event::{EventType, OrganisationKey};
use crate::jobs::{Job, Next, Supervisor};
use crate::store::{
    Drained, EventTypeInfo, InboxRow, JudgedRow, NewEvent, Rejection, RejectionReason, Result,
    Store, StoreError, Unreadable,
};

/// Rows of one transaction, so that whoever publishes by HTTP need not wait long for it.
const PAGE_ROWS: usize = 500;
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// What a row may have besides its payload: a target can name many gateways.
const OTHER_BYTES: usize = 1024 * 1024;
/// The longest wait when the database is away or its disk is full.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a row is tried again that somebody was quicker with.
const RACES: usize = 3;
/// An idle drain looks into the inbox this often.
const DRAIN_INTERVAL: Duration = Duration::from_secs(5);
/// How often the depth is measured.
const MEASURE: Duration = Duration::from_secs(5);

/// Starts the job that empties the inbox, and the one that measures it.
pub fn start(store: &Arc<dyn Store>, rules: Arc<Rules>, jobs: &Supervisor) {
    jobs.start("inbox_drain", DRAIN_INTERVAL, Drain { store: Arc::clone(store), rules });
    jobs.start("inbox_depth", MEASURE, Measure(Arc::clone(store)));
}

struct Drain {
    store: Arc<dyn Store>,
    rules: Arc<Rules>,
}

impl Job for Drain {
    type Error = StoreError;

    async fn wait(&mut self) {
        // Whether it is an error or a change: the inbox is looked into.
        if let Err(error) = self.store.inbox_changed().await {
            tracing::debug!(%error, "failed to watch the inbox; polling instead");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn run_once(&mut self) -> Result<Next> {
        let moved = run_once(self.store.as_ref(), &self.rules).await?;
        Ok(if moved == 0 { Next::Wait } else { Next::Again })
    }

    fn max_backoff(&self) -> Duration {
        PAUSE
    }
}

/// Moves one page; returns how many rows were moved. After a zero there is
/// nothing to be moved until something changes.
pub async fn run_once(store: &dyn Store, rules: &Arc<Rules>) -> Result<usize> {
    let max_bytes = PAGE_BYTES.max(rules.event_bytes() + OTHER_BYTES);
    let page = store.inbox_page(PAGE_ROWS, max_bytes).await?;
    if page.is_empty() {
        return Ok(0);
    }
    let judged = Judge::new(store, rules).judge(page).await?;
    let mut moved = 0;
    match store.drain_inbox(judged.clone()).await {
        Ok(drained) => moved = report(&drained),
        // One of them spoils the others' transaction: each gets its own.
        Err(StoreError::Corrupt(why) | StoreError::Conflict(why)) => {
            tracing::warn!(why, "a page of the inbox was undone; each row is moved by itself");
            for row in judged {
                moved += report(&alone(store, row).await?);
            }
        }
        Err(error) => return Err(error),
    }
    Ok(moved)
}

/// Moves one row. One that the log itself refuses must not be tried for ever.
async fn alone(store: &dyn Store, row: JudgedRow) -> Result<Drained> {
    let id = row.id;
    let mut outcome = store.drain_inbox(vec![row.clone()]).await;
    // Who was overtaken by a publisher of the same id finds its event now. A
    // damaged log says the same, and goes on saying it.
    for _ in 0..RACES {
        if !matches!(outcome, Err(StoreError::Conflict(_))) {
            break;
        }
        outcome = store.drain_inbox(vec![row.clone()]).await;
    }
    match outcome {
        Err(error @ (StoreError::Corrupt(_) | StoreError::Conflict(_))) => {
            tracing::error!(%error, inbox_id = id, "the log refused a row of the inbox");
            let rejection = Rejection {
                reason: RejectionReason::Internal,
                detail: "the log refused it; the service's log says more".to_owned(),
            };
            store.drain_inbox(vec![JudgedRow { id, verdict: Err(rejection) }]).await
        }
        outcome => outcome,
    }
}

/// What was read of a row that may be published: its organisation and its event.
type Read = std::result::Result<(String, Draft), Rejection>;

/// Judges the rows of one page, asking only once for each organisation and type.
struct Judge<'a> {
    store: &'a dyn Store,
    rules: &'a Arc<Rules>,
    organisations: HashMap<String, Option<OrganisationKey>>,
    types: HashMap<(OrganisationKey, EventType), Option<Arc<EventTypeInfo>>>,
}

impl<'a> Judge<'a> {
    fn new(store: &'a dyn Store, rules: &'a Arc<Rules>) -> Self {
        Self { store, rules, organisations: HashMap::new(), types: HashMap::new() }
    }

    /// An error is the store's or the pool's, and none of a row's.
    async fn judge(mut self, page: Vec<InboxRow>) -> Result<Vec<JudgedRow>> {
        let (source, now) = (Source::new("inbox"), Timestamp::now());
        let bytes = page.iter().map(bytes).fold(0, usize::saturating_add);
        let limit = self.rules.event_bytes();
        let read = move || page.into_iter().map(|row| read(row, limit, now)).collect::<Vec<_>>();
        let read = self.rules.compute(&source, bytes, read).await.map_err(not_computed)?;
        let mut rows = Vec::with_capacity(read.len());
        let mut candidates = Vec::new();
        for (id, row) in read {
            let candidate = match row {
                Ok((organisation, draft)) => self.candidate(&organisation, draft).await?,
                Err(rejection) => Err(rejection),
            };
            rows.push((
                id,
                candidate.map(|(organisation, candidate)| {
                    candidates.push(candidate);
                    organisation
                }),
            ));
        }
        let judged = self.rules.judge_all(&source, bytes, candidates, now).await;
        let mut judged = judged.map_err(not_computed)?.into_iter();
        let mut verdict = |organisation| -> std::result::Result<(_, NewEvent), Rejection> {
            let event = judged.next().expect("there is a judgement for each candidate");
            Ok((organisation, event.map_err(|refused| refused.objection)?))
        };
        Ok(rows
            .into_iter()
            .map(|(id, row)| JudgedRow { id, verdict: row.and_then(&mut verdict) })
            .collect())
    }

    async fn candidate(
        &mut self,
        organisation: &str,
        draft: Draft,
    ) -> Result<std::result::Result<(OrganisationKey, Candidate), Rejection>> {
        let Some(key) = self.organisation(organisation).await? else {
            let name = crate::event::quoted(organisation);
            return Ok(Err(Rejection {
                reason: RejectionReason::UnknownOrganisation,
                detail: format!("organisation: there is none of the name {name}"),
            }));
        };
        let info = self.event_type(key, &draft).await?;
        Ok(Ok((key, Candidate { draft, info })))
    }

    async fn organisation(&mut self, name: &str) -> Result<Option<OrganisationKey>> {
        if let Some(known) = self.organisations.get(name) {
            return Ok(*known);
        }
        let found = match self.store.organisation(name).await {
            Ok(key) => Some(key),
            Err(StoreError::NotFound(_)) => None,
            Err(error) => return Err(error),
        };
        self.organisations.insert(name.to_owned(), found);
        Ok(found)
    }

    async fn event_type(
        &mut self,
        organisation: OrganisationKey,
        draft: &Draft,
    ) -> Result<Option<Arc<EventTypeInfo>>> {
        let key = (organisation, draft.event_type.clone());
        if let Some(known) = self.types.get(&key) {
            return Ok(known.clone());
        }
        let found = self.store.event_type(organisation, &draft.event_type).await?.map(Arc::new);
        self.types.insert(key, found.clone());
        Ok(found)
    }
}

fn read(row: InboxRow, limit: usize, now: Timestamp) -> (i64, Read) {
    let read = match row.content {
        Ok(content) => {
            let organisation = content.organisation.clone();
            rows::read(content, row.inserted_at, now).map(|draft| (organisation, draft))
        }
        Err(Unreadable::NotUtf8(column)) => Err(Objection::invalid(column, "is no UTF-8 text")),
        Err(Unreadable::TooLarge(bytes)) => Err(Objection::TooLarge { bytes, limit }),
    };
    (row.id, read.map_err(Rejection::from))
}

/// How much of a row has to be read.
fn bytes(row: &InboxRow) -> usize {
    row.content
        .as_ref()
        .map_or(0, |content| content.payload.len() + content.target.as_ref().map_or(0, String::len))
}

/// The page stays in the inbox and is tried again.
fn not_computed(error: ComputeError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// Logs each row that needs attention once, and never its payload; returns how many there are.
fn report(drained: &Drained) -> usize {
    let appended = u64::try_from(drained.appended).unwrap_or(u64::MAX);
    metrics::counter!("gateway_events_inbox_appended_total").increment(appended);
    for inbox_id in &drained.unmatched {
        metrics::counter!("gateway_events_unmatched_events_total", "source" => "inbox")
            .increment(1);
        tracing::warn!(
            target: "inbox",
            inbox_id,
            "no gateway matched the target of an inbox row: its event is stored, but no gateway will receive it"
        );
    }
    for (inbox_id, rejection) in &drained.rejected {
        let reason = rejection.reason;
        metrics::counter!("gateway_events_inbox_rejected_total", "reason" => reason.as_str())
            .increment(1);
        tracing::warn!(
            target: "inbox",
            inbox_id,
            %reason,
            detail = rejection.detail,
            "a row of the inbox can't be published and was put aside"
        );
    }
    drained.appended + drained.rejected.len()
}

/// Measures how much waits, and for how long.
struct Measure(Arc<dyn Store>);

impl Job for Measure {
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Next> {
        let depth = self.0.inbox_depth().await?;
        let age = depth.oldest.map_or(Duration::ZERO, |oldest| Timestamp::now().since(oldest));
        // Gauges are floats; a depth beyond their precision is a depth all the same.
        #[expect(clippy::cast_precision_loss, reason = "a gauge is read by people and charts")]
        metrics::gauge!("gateway_events_inbox_depth").set(depth.rows as f64);
        metrics::gauge!("gateway_events_inbox_oldest_seconds").set(age.as_secs_f64());
        Ok(Next::Wait)
    }
}
