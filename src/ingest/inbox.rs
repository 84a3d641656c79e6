//! The job that drains the inbox: it reads a page, validates each row, and moves the
//! page to the log. A row that can't be published is moved to `inbox_rejected` with
//! its reason and does not delay the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Candidate, Draft, Rules, ValidationError, rows};
use crate::clock::Timestamp;
use crate::compute::{ComputeError, Source};
use crate::event::{EventType, OrganisationKey};
use crate::jobs::{Job, Next, Supervisor};
use crate::metric;
use crate::store::{
    Conflict, Credentials, Drained, EventTypeInfo, EventTypes, Health, Inbox, InboxContent,
    InboxRow, NewEvent, Rejection, RejectionReason, Result, StatementFailures, StoreError,
    Unreadable, ValidatedRow,
};

/// Rows per transaction: few enough that publishers over HTTP don't wait long for it.
const PAGE_ROWS: usize = 500;
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// Room for a row's other columns: a target can name many gateways.
const OTHER_BYTES: usize = 1024 * 1024;
/// The longest backoff while the database is unavailable or its disk is full.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a row is retried when a concurrent publisher took its event id.
const RACES: usize = 3;
/// How often an idle drain polls the inbox.
const DRAIN_INTERVAL: Duration = Duration::from_secs(5);
/// How often the inbox's depth is measured.
const DEPTH_INTERVAL: Duration = Duration::from_secs(5);
/// At this depth the measurement stops counting: a count takes time in proportion to the
/// rows, and competes with the drain.
const DEPTH_LIMIT: u32 = 100_000;

/// Starts the job that drains the inbox and the one that measures its depth.
pub fn start<S>(store: &Arc<S>, rules: Arc<Rules>, jobs: &Supervisor)
where
    S: Inbox + Credentials + EventTypes + Health + ?Sized,
{
    jobs.start("inbox_drain", DRAIN_INTERVAL, Drain::new(Arc::clone(store), rules));
    jobs.start_housekeeping("inbox_depth", DEPTH_INTERVAL, Measure(Arc::clone(store)));
}

/// The parts of the store that the drain needs.
trait Parts: Inbox + Credentials + EventTypes + Health {}

impl<S: Inbox + Credentials + EventTypes + Health + ?Sized> Parts for S {}

struct Drain<S: ?Sized> {
    store: Arc<S>,
    rules: Arc<Rules>,
    /// Failures of the statement that moves a page, and then of those that move its rows one by one.
    failures: StatementFailures,
}

impl<S: Parts + ?Sized> Drain<S> {
    fn new(store: Arc<S>, rules: Arc<Rules>) -> Self {
        Self { store, rules, failures: StatementFailures::default() }
    }

    /// Moves one page and returns how many rows were moved; 0 if there is nothing to move
    /// until the inbox changes.
    async fn page(&mut self) -> Result<usize> {
        let max_bytes = PAGE_BYTES.max(self.rules.event_bytes() + OTHER_BYTES);
        let page = self.store.inbox_page(PAGE_ROWS, max_bytes).await?;
        if page.is_empty() {
            return Ok(0);
        }
        let rows = Page::new(self.store.as_ref(), &self.rules).validate(page).await?;
        let error = match self.store.drain_inbox(rows.clone()).await {
            Ok(drained) => {
                self.count(&rows, &drained);
                return Ok(report(&drained));
            }
            Err(error) => error,
        };
        if !self.lies_in_the_rows(&error).await {
            return Err(error);
        }
        // One row fails the transaction of all: each gets its own.
        tracing::warn!(%error, "failed to move a page of the inbox; moving its rows one by one");
        let count = rows.len();
        let (mut moved, mut failed) = (0, Vec::new());
        for row in rows {
            let id = row.id;
            match self.alone(row).await? {
                Moved::Drained(drained) => moved += report(&drained),
                Moved::Failed(error) => failed.push((id, error)),
            }
        }
        // If no row can be moved, the rows are not the cause, and stay in the inbox.
        if count > 1 && failed.len() == count {
            return Err(error);
        }
        for (id, error) in failed {
            moved += report(&self.reject(id, &error).await?);
        }
        Ok(moved)
    }

    /// Moves one row. A row that the log itself refuses is rejected, so that it is not
    /// retried forever.
    async fn alone(&mut self, row: ValidatedRow) -> Result<Moved> {
        let id = row.id;
        let mut outcome = self.store.drain_inbox(vec![row.clone()]).await;
        // After a concurrent publisher took the same id, a retry finds its event. A
        // damaged log gives the same error again.
        for _ in 0..RACES {
            if !matches!(outcome, Err(StoreError::Conflict(Conflict::Concurrent))) {
                break;
            }
            outcome = self.store.drain_inbox(vec![row.clone()]).await;
        }
        let error = match outcome {
            Ok(drained) => {
                self.count(&[row], &drained);
                return Ok(Moved::Drained(drained));
            }
            Err(error) => error,
        };
        if matches!(error, StoreError::StatementFailed(_)) {
            return Ok(Moved::Failed(error));
        }
        if !self.lies_in_the_rows(&error).await {
            return Err(error);
        }
        self.reject(id, &error).await.map(Moved::Drained)
    }

    /// Counts the events of rows by type. Rows are moved in their order: what was moved are the first
    /// ones that another drain has not taken.
    fn count(&self, rows: &[ValidatedRow], drained: &Drained) {
        let moved = drained.appended + drained.rejected.len();
        let is_rejected = |id| drained.rejected.iter().any(|(rejected, _)| *rejected == id);
        for row in rows.iter().take(moved) {
            if let Ok((_, new)) = &row.result
                && !is_rejected(row.id)
            {
                self.rules.count_published(&new.event.event_type);
            }
        }
    }

    /// Rejects a row whose event can't be appended.
    async fn reject(&self, id: i64, error: &StoreError) -> Result<Drained> {
        tracing::error!(%error, inbox_id = id, "failed to append a row of the inbox; rejecting it");
        let rejection = Rejection {
            reason: RejectionReason::Internal,
            detail: "the service failed to append the event; its log has the error".to_owned(),
        };
        self.store.drain_inbox(vec![ValidatedRow { id, result: Err(rejection) }]).await
    }

    /// Whether an error is about the rows that were to be moved.
    async fn lies_in_the_rows(&mut self, error: &StoreError) -> bool {
        matches!(error, StoreError::Corrupt(_) | StoreError::Conflict(_))
            || self.failures.lie_in_the_work(error, self.store.as_ref()).await
    }
}

impl<S: Parts + ?Sized> Job for Drain<S> {
    type Error = StoreError;

    async fn wait(&mut self) {
        // The inbox is polled after an error as after a change.
        if let Err(error) = self.store.inbox_changed().await {
            tracing::debug!(%error, "failed to watch the inbox; polling instead");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn run_once(&mut self) -> Result<Next> {
        let moved = self.page().await?;
        self.failures.reset();
        Ok(if moved == 0 { Next::Wait } else { Next::Again })
    }

    fn max_backoff(&self) -> Duration {
        PAUSE
    }
}

/// What happened to a row that was moved by itself.
enum Moved {
    /// It is in the log, or was rejected.
    Drained(Drained),
    /// A statement failed; the row is still in the inbox.
    Failed(StoreError),
}

/// A row's organisation and event, or why it can't be read.
type Read = OrRejected<(String, Draft)>;

/// A row's part, or why the row is rejected.
type OrRejected<T> = std::result::Result<T, Rejection>;

/// Validates the rows of one page. Each organisation and type is looked up once.
struct Page<'a, S: ?Sized> {
    store: &'a S,
    rules: &'a Arc<Rules>,
    organisations: HashMap<String, Option<OrganisationKey>>,
    types: HashMap<(OrganisationKey, EventType), Option<Arc<EventTypeInfo>>>,
}

impl<'a, S: Credentials + EventTypes + ?Sized> Page<'a, S> {
    fn new(store: &'a S, rules: &'a Arc<Rules>) -> Self {
        Self { store, rules, organisations: HashMap::new(), types: HashMap::new() }
    }

    /// An error means that the store or the compute pool failed; an invalid row is a
    /// result.
    async fn validate(mut self, page: Vec<InboxRow>) -> Result<Vec<ValidatedRow>> {
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
        let validated = self.rules.validate_all(&source, bytes, candidates, now).await;
        let mut validated = validated.map_err(not_computed)?.into_iter();
        let mut event = |organisation| -> OrRejected<(_, NewEvent)> {
            let event = validated.next().expect("each candidate has a result");
            Ok((organisation, event.map_err(|invalid| invalid.error)?))
        };
        Ok(rows
            .into_iter()
            .map(|(id, row)| ValidatedRow { id, result: row.and_then(&mut event) })
            .collect())
    }

    async fn candidate(
        &mut self,
        organisation: &str,
        draft: Draft,
    ) -> Result<OrRejected<(OrganisationKey, Candidate)>> {
        let Some(key) = self.organisation(organisation).await? else {
            let name = crate::event::quoted(organisation);
            return Ok(Err(Rejection {
                reason: RejectionReason::UnknownOrganisation,
                detail: format!("organisation: no organisation is named {name}"),
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
        Err(Unreadable::NotUtf8(column)) => Err(ValidationError::invalid(column, "is not UTF-8")),
        Err(Unreadable::TooLarge(bytes)) => Err(ValidationError::TooLarge { bytes, limit }),
    };
    (row.id, read.map_err(Rejection::from))
}

/// The event that an edited row describes, as the drain would read it.
pub fn read_row(
    content: InboxContent,
    inserted_at: Timestamp,
    now: Timestamp,
) -> OrRejected<Draft> {
    rows::read(content, inserted_at, now).map_err(Rejection::from)
}

/// Size of the columns that take time to read.
fn bytes(row: &InboxRow) -> usize {
    row.content
        .as_ref()
        .map_or(0, |content| content.payload.len() + content.target.as_ref().map_or(0, String::len))
}

/// The page stays in the inbox and is retried.
fn not_computed(error: ComputeError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// Logs each row that needs attention, without its payload, and returns how many rows
/// were moved.
fn report(drained: &Drained) -> usize {
    let appended = u64::try_from(drained.appended).unwrap_or(u64::MAX);
    metrics::counter!(metric::INBOX_APPENDED).increment(appended);
    for inbox_id in &drained.unmatched {
        metrics::counter!(metric::UNMATCHED_EVENTS, "source" => "inbox").increment(1);
        tracing::warn!(
            target: "inbox",
            inbox_id,
            "no gateway matched the target of an inbox row: its event is stored, but no gateway will receive it"
        );
    }
    for (inbox_id, rejection) in &drained.rejected {
        let reason = rejection.reason;
        metrics::counter!(metric::INBOX_REJECTED, "reason" => reason.as_str()).increment(1);
        tracing::warn!(
            target: "inbox",
            inbox_id,
            %reason,
            detail = rejection.detail,
            "rejected a row of the inbox"
        );
    }
    drained.appended + drained.rejected.len()
}

/// Measures how many rows wait in the inbox, and for how long.
struct Measure<S: ?Sized>(Arc<S>);

impl<S: Inbox + ?Sized> Job for Measure<S> {
    type Error = StoreError;

    async fn run_once(&mut self) -> Result<Next> {
        let depth = self.0.inbox_depth(DEPTH_LIMIT).await?;
        let age = depth.oldest.map_or(Duration::ZERO, |oldest| Timestamp::now().since(oldest));
        metrics::gauge!(metric::INBOX_DEPTH).set(f64::from(depth.rows));
        metrics::gauge!(metric::INBOX_OLDEST).set(age.as_secs_f64());
        Ok(Next::Wait)
    }
}
