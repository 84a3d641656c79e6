//! What happens, as it happens, on all nodes: events published, attempts and their outcomes,
//! connections opened and closed. One job reads the database for all listeners of this node, and
//! only while there are any; publishers and lanes do nothing for it.
//!
//! The job is woken after each write of this node, and when another node may have written; it
//! reads from its [`Position`] on. Each listener receives the messages through a bounded channel. One
//! that is too slow loses messages and receives a gap instead; it never delays others. A listener that
//! comes back with a position reads what is between from the database ([`Feed::between`]).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::event::{GatewayId, OrganisationKey};
use crate::jobs::{Job, Next, Supervisor};
use crate::metric;
use crate::store::{
    self, FeedAttempt, FeedConnection, FeedDetails, FeedEvent, FeedRows, Result, StoreError,
};
use crate::wake::Wake;

mod position;

pub use position::{Mark, Position, Table};

/// What a listener is for. Each purpose has limits of its own, so that pages leave room for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A feed of the API.
    Feed,
    /// An open page of the console.
    Page,
}

/// The maximum number of listeners with the same purpose on this node.
pub const MAX_PER_NODE: usize = 128;
/// The maximum number of listeners of one organisation with the same purpose on this node.
pub const MAX_PER_ORGANISATION: usize = 64;
/// The maximum number of listeners with one access token and the same purpose on this node.
pub const MAX_PER_TOKEN: usize = 16;

/// Messages that wait for a slow listener before it loses the oldest.
const QUEUED: usize = 4096;
/// Rows of each table that are read at once.
const PAGE: usize = 500;
/// The shortest time between two reads of an idle job: many writes share one.
const PAUSE: Duration = Duration::from_millis(100);
/// How often the job reads without being woken.
const INTERVAL: Duration = Duration::from_secs(5);
/// After this time no transaction that assigned a key is still running: the database ends
/// transactions that are idle or have slow statements in less than half of it.
const SETTLED: Duration = Duration::from_mins(2);
/// Keys before the end of a table that are read at the beginning, to find missing ones. More than
/// the transactions that run at the same time assign.
const LOOK_BACK: i64 = 5000;

/// The content of a message.
#[derive(Clone, Debug)]
pub enum Content {
    /// An event was published.
    Published(FeedEvent),
    /// An attempt had an outcome.
    Attempt(FeedAttempt),
    /// A connection was opened or closed.
    Connection(FeedConnection),
}

/// A message of the feed.
#[derive(Clone, Debug)]
pub struct Message {
    /// The position after it, as text.
    pub id: String,
    /// What happened.
    pub content: Content,
}

impl Content {
    /// The table and the key of the row that it was read from.
    pub const fn row(&self) -> (Table, i64) {
        match self {
            Self::Published(it) => (Table::Events, it.key),
            Self::Attempt(it) => (Table::Attempts, it.key),
            Self::Connection(it) => (Table::Connections, it.key),
        }
    }

    /// The organisation whose listeners may receive it.
    pub const fn organisation(&self) -> OrganisationKey {
        match self {
            Self::Published(it) => it.organisation,
            Self::Attempt(it) => it.organisation,
            Self::Connection(it) => it.organisation,
        }
    }

    /// When it happened.
    pub const fn at(&self) -> Timestamp {
        match self {
            Self::Published(it) => it.at,
            Self::Attempt(it) => it.at,
            Self::Connection(it) => it.at,
        }
    }
}

/// Why a listener is refused.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// There are too many.
    #[error("too many feeds are open {of}: at most {most}")]
    TooMany {
        /// Which feeds are counted, in words, such as `on this node`.
        of: &'static str,
        /// The limit.
        most: usize,
    },
    /// The database can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The feed of a node. Cheap to clone.
#[derive(Clone)]
pub struct Feed(Arc<Inner>);

struct Inner {
    store: Arc<dyn store::Feed>,
    wake: Wake,
    /// Locked while the database is read, so that a listener begins exactly at a position.
    reader: tokio::sync::Mutex<Reader>,
    messages: broadcast::Sender<Arc<Message>>,
    /// Locked only to read or change it.
    listeners: Mutex<Listeners>,
}

#[derive(Default)]
struct Listeners {
    by_token: HashMap<(Purpose, OrganisationKey, String), usize>,
    /// How many want to know which events are for a gateway.
    gateways: HashMap<GatewayId, usize>,
    /// How many want to know the types of events that attempts cover.
    types: usize,
}

/// The job's position; `None` while there are no listeners.
#[derive(Default)]
struct Reader {
    position: Option<Position>,
    /// When the highest keys of the three tables were read, oldest first.
    read: VecDeque<(Instant, [i64; 3])>,
}

/// A listener. Dropping it ends it.
pub struct Listener {
    feed: Feed,
    purpose: Purpose,
    organisation: OrganisationKey,
    token: String,
    details: FeedDetails,
    /// What happens after [`begin`](Self::begin).
    pub messages: broadcast::Receiver<Arc<Message>>,
    /// The position at which it begins.
    pub begin: Position,
}

impl Feed {
    /// Starts the job that reads for all listeners of this node.
    pub fn start(store: Arc<dyn store::Feed>, wake: Wake, jobs: &Supervisor) -> Self {
        let feed = Self(Arc::new(Inner {
            store,
            wake,
            reader: tokio::sync::Mutex::default(),
            messages: broadcast::Sender::new(QUEUED),
            listeners: Mutex::default(),
        }));
        metrics::gauge!(metric::FEEDS).set(0.0);
        jobs.start_housekeeping("feed", INTERVAL, ReadJob(feed.clone()));
        feed
    }

    /// Adds a listener. It receives the messages of all organisations.
    pub async fn listen(
        &self,
        purpose: Purpose,
        organisation: OrganisationKey,
        token: &str,
        details: FeedDetails,
    ) -> Result<Listener, ListenError> {
        let mut listener = self.register(purpose, organisation, token, details)?;
        let mut reader = self.0.reader.lock().await;
        let position = match &reader.position {
            Some(position) => position.clone(),
            None => self.begin(&mut reader).await?,
        };
        listener.messages = self.0.messages.subscribe();
        listener.begin = position;
        Ok(listener)
    }

    /// Counts a listener, unless there are too many.
    fn register(
        &self,
        purpose: Purpose,
        organisation: OrganisationKey,
        token: &str,
        details: FeedDetails,
    ) -> Result<Listener, ListenError> {
        let mut listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |of: &dyn Fn(&(Purpose, OrganisationKey, String)) -> bool| -> usize {
            let same = listeners.by_token.iter().filter(|(key, _)| key.0 == purpose);
            same.filter(|(key, _)| of(key)).map(|(_, count)| *count).sum()
        };
        for (count, most, of) in [
            (
                count(&|key| key.1 == organisation && key.2 == token),
                MAX_PER_TOKEN,
                "with this token",
            ),
            (count(&|key| key.1 == organisation), MAX_PER_ORGANISATION, "in this organisation"),
            (count(&|_| true), MAX_PER_NODE, "on this node"),
        ] {
            if count >= most {
                return Err(ListenError::TooMany { of, most });
            }
        }
        *listeners.by_token.entry((purpose, organisation, token.to_owned())).or_default() += 1;
        for gateway in &details.gateways {
            *listeners.gateways.entry(*gateway).or_default() += 1;
        }
        listeners.types += usize::from(details.types);
        listeners.measure();
        Ok(Listener {
            feed: self.clone(),
            purpose,
            organisation,
            token: token.to_owned(),
            details,
            messages: self.0.messages.subscribe(),
            begin: Position::default(),
        })
    }

    /// Finds the end of the feed, and what is missing before it.
    async fn begin(&self, reader: &mut Reader) -> Result<Position> {
        let ends = self.0.store.feed_ends().await?;
        let mut position = Position::ends(Timestamp::now(), ends);
        if self.0.store.feed_has_gaps() {
            position.events = Mark::at((ends.events - LOOK_BACK).max(0));
            position.attempts = Mark::at((ends.attempts - LOOK_BACK).max(0));
            position.connections = Mark::at((ends.connections - LOOK_BACK).max(0));
            let limit = usize::try_from(LOOK_BACK).unwrap_or(PAGE);
            let spans = position.until(&Position::ends(position.at, ends), limit);
            let rows = self.0.store.feed_rows(&spans, &FeedDetails::default()).await?;
            rows.events.iter().for_each(|row| position.events.pass(row.key, true));
            rows.attempts.iter().for_each(|row| position.attempts.pass(row.key, true));
            rows.connections.iter().for_each(|row| position.connections.pass(row.key, true));
        }
        reader.read.clear();
        reader.note(&position);
        reader.position = Some(position.clone());
        Ok(position)
    }

    /// Messages of a page between two positions, and whether it is the last page. Moves the first
    /// position. Includes rows that the second position misses and that are visible by now: the job
    /// sends them, too.
    pub async fn between(
        &self,
        from: &mut Position,
        to: &Position,
        details: &FeedDetails,
    ) -> Result<(Vec<Message>, bool)> {
        let spans = from.until(to, PAGE);
        let rows = self.0.store.feed_rows(&spans, details).await?;
        let is_last = rows.events.len().max(rows.attempts.len()).max(rows.connections.len()) < PAGE;
        let has_gaps = self.0.store.feed_has_gaps();
        let messages = messages(from, rows, has_gaps);
        if is_last {
            *from = Position { at: from.at, ..to.clone() };
        }
        Ok((messages, is_last))
    }

    /// Whether anyone listens, and what they want to know.
    fn wanted(&self) -> Option<FeedDetails> {
        let listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        (!listeners.by_token.is_empty()).then(|| FeedDetails {
            gateways: listeners.gateways.keys().copied().collect(),
            types: listeners.types > 0,
        })
    }

    /// Reads one page and sends it to the listeners.
    async fn read(&self) -> Result<Next> {
        let mut reader = self.0.reader.lock().await;
        let Some(details) = self.wanted() else {
            *reader = Reader::default();
            return Ok(Next::Wait);
        };
        let position = match &reader.position {
            Some(position) => position.clone(),
            None => self.begin(&mut reader).await?,
        };
        let ends = self.0.store.feed_ends().await?;
        if position.is_at(ends) {
            drop(reader);
            tokio::time::sleep(PAUSE).await;
            return Ok(Next::Wait);
        }
        let rows = self.0.store.feed_rows(&position.unread(PAGE), &details).await?;
        let is_full =
            rows.events.len().max(rows.attempts.len()).max(rows.connections.len()) >= PAGE;
        let mut position = position;
        position.at = Timestamp::now();
        position.epoch = ends.epoch;
        let messages = messages(&mut position, rows, self.0.store.feed_has_gaps());
        reader.settle(&mut position);
        reader.note(&position);
        reader.position = Some(position);
        for message in messages {
            // Fails only without listeners.
            let _ = self.0.messages.send(Arc::new(message));
        }
        drop(reader);
        if is_full {
            return Ok(Next::Again);
        }
        tokio::time::sleep(PAUSE).await;
        Ok(Next::Wait)
    }
}

/// The messages of rows, by time as far as rows of one table stay in their order. Moves the
/// position past them.
fn messages(position: &mut Position, rows: FeedRows, has_gaps: bool) -> Vec<Message> {
    let mut contents = in_order(rows.events.into_iter().map(Content::Published));
    contents.extend(in_order(rows.attempts.into_iter().map(Content::Attempt)));
    contents.extend(in_order(rows.connections.into_iter().map(Content::Connection)));
    contents.sort_by_key(|(at, _)| *at);
    let shown = contents.into_iter().map(|(_, content)| {
        let (table, key) = content.row();
        position.mark_mut(table).pass(key, has_gaps);
        Message { id: position.encode(), content }
    });
    shown.collect()
}

/// Rows of one table with times that don't decrease.
fn in_order(rows: impl Iterator<Item = Content>) -> Vec<(Timestamp, Content)> {
    let mut latest = Timestamp::from_micros(i64::MIN);
    let rows = rows.map(|content| {
        latest = latest.max(content.at());
        (latest, content)
    });
    rows.collect()
}

impl Reader {
    /// Notes how far the tables were read by now.
    fn note(&mut self, position: &Position) {
        let highs = [position.events.high(), position.attempts.high(), position.connections.high()];
        if self.read.back().is_none_or(|(at, last)| at.elapsed() > PAUSE * 10 && *last != highs) {
            self.read.push_back((Instant::now(), highs));
        }
    }

    /// Gives up keys that were missing for so long that no transaction can have them.
    fn settle(&mut self, position: &mut Position) {
        let settled = self.read.iter().take_while(|(at, _)| at.elapsed() >= SETTLED).count();
        if let Some((_, [events, attempts, connections])) = self.read.drain(..settled).next_back() {
            position.events.settle(events);
            position.attempts.settle(attempts);
            position.connections.settle(connections);
        }
    }
}

impl Listeners {
    fn measure(&self) {
        let count: usize = self.by_token.values().sum();
        metrics::gauge!(metric::FEEDS).set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    }
}

impl Listener {
    /// What it wants to know of rows.
    pub const fn details(&self) -> &FeedDetails {
        &self.details
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = self.feed.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let listeners = &mut *listeners;
        let key = (self.purpose, self.organisation, std::mem::take(&mut self.token));
        let one_less = |count: &mut usize| {
            *count -= 1;
            *count == 0
        };
        if listeners.by_token.get_mut(&key).is_some_and(one_less) {
            listeners.by_token.remove(&key);
        }
        for gateway in &self.details.gateways {
            if listeners.gateways.get_mut(gateway).is_some_and(one_less) {
                listeners.gateways.remove(gateway);
            }
        }
        listeners.types -= usize::from(self.details.types);
        listeners.measure();
    }
}

/// Reads the database for all listeners.
struct ReadJob(Feed);

impl Job for ReadJob {
    type Error = StoreError;

    async fn wait(&mut self) {
        self.0.0.wake.change().await;
    }

    async fn run_once(&mut self) -> Result<Next> {
        self.0.read().await
    }
}
