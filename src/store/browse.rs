//! Events as admins browse them: those of a time window, and a gateway's log with delivery states.
//! Browsing changes no state.

use std::borrow::Cow;
use std::sync::Arc;

use super::{DeliveryState, Gateway, Labels, Target, TimedKey};
use crate::clock::{TimeWindow, Timestamp};
use crate::event::{CorrelationId, Event, EventId, EventIdPrefix, EventType, GatewayId, Sequence};

/// Selects events. An event matches if it was appended in the window and has all that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// When it was appended.
    pub window: TimeWindow,
    /// It is or was in the log of this gateway.
    pub gateway_id: Option<GatewayId>,
    /// Its type.
    pub event_type: Option<EventType>,
    /// Its correlation id.
    pub correlation_id: Option<CorrelationId>,
    /// The user on whose behalf it was published.
    pub user_id: Option<String>,
    /// The artifact that its payload names.
    pub artifact_id: Option<String>,
    /// The deployment that its payload names.
    pub deployment_id: Option<String>,
    /// How its id begins.
    pub id_prefix: Option<EventIdPrefix>,
}

impl EventFilter {
    /// The order in which matching events are listed.
    pub const fn order(&self) -> EventOrder {
        if self.id_prefix.is_some() {
            EventOrder::Id
        } else if self.gateway_id.is_some()
            && self.correlation_id.is_none()
            && self.deployment_id.is_none()
            && self.artifact_id.is_none()
        {
            EventOrder::Log
        } else {
            EventOrder::Age
        }
    }
}

/// How events are ordered: by something that does not change, so that pages stay correct while
/// events are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOrder {
    /// By the time of appending, newest first.
    Age,
    /// By the first sequence in the log of the filter's gateway, newest first.
    Log,
    /// By descending id, which is newest first for generated ids.
    Id,
}

/// The last event that a page examined, in its list's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventCursor {
    /// When it was appended, and its key.
    Age(TimedKey),
    /// Its first sequence in the gateway's log.
    Log(Sequence),
    /// Its id, or a text after all ids that match.
    Id(String),
}

/// A page of a list of events, without their payloads.
#[derive(Clone, Debug)]
pub struct EventPage {
    /// The events.
    pub rows: Vec<EventSummary>,
    /// Where the next page begins; `None` after the last. The work per call is bounded, so a page
    /// that is short or even empty may have a next one.
    pub next: Option<EventCursor>,
}

/// An event without its payload and its deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSummary {
    /// Its id.
    pub id: EventId,
    /// Its type.
    pub event_type: EventType,
    /// The key by which gateways recognise repeats.
    pub correlation_id: CorrelationId,
    /// The user on whose behalf it was published.
    pub user_id: Option<String>,
    /// When it occurred.
    pub occurred_at: Timestamp,
    /// When it was appended.
    pub appended_at: Timestamp,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// The artifact that its payload names.
    pub artifact_id: Option<String>,
    /// The deployment that its payload names.
    pub deployment_id: Option<String>,
    /// What it was published for, with at most [`LISTED_GATEWAYS`](super::limits::LISTED_GATEWAYS) ids; `None` for an event of an
    /// earlier version.
    pub target: Option<PublishedTarget>,
    /// How many gateways that selected.
    pub matched: i64,
}

/// What an event was published for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishedTarget {
    /// These gateways.
    Gateways(Vec<GatewayId>),
    /// Every gateway of the organisation.
    All,
    /// Every gateway that had all of these labels.
    Labels(Labels),
}

const ALL: &str = "all";
const GATEWAYS: &str = "gateways";

impl Target {
    /// The target in the column `events.target`. Gateways are not repeated there: they are those of
    /// the event's deliveries.
    pub fn stored(&self) -> Cow<'static, str> {
        match self {
            Self::Gateways(_) => GATEWAYS.into(),
            Self::All => ALL.into(),
            // A map of texts has a JSON form.
            Self::Labels(labels) => serde_json::to_string(labels).unwrap_or_default().into(),
        }
    }
}

impl PublishedTarget {
    /// Reads the column `events.target`. `None` for a kind that only a newer version knows.
    pub fn read(stored: &str, gateways: Vec<GatewayId>) -> Option<Self> {
        match stored {
            ALL => Some(Self::All),
            GATEWAYS => Some(Self::Gateways(gateways)),
            labels => serde_json::from_str(labels).ok().map(Self::Labels),
        }
    }
}

/// Rows of the first read of a page. Each additional read fetches twice as many, so that few large
/// events are read in excess of what the page may contain.
const FIRST_READ: usize = 8;

/// A page of a gateway's log.
#[derive(Clone, Debug)]
pub struct LogPage {
    /// The gateway in the same snapshot: its log's head, floor and epoch, and its confirmed
    /// position.
    pub gateway: Gateway,
    /// The rows, by sequence.
    pub rows: Vec<LogRow>,
}

/// An event in a gateway's log.
#[derive(Clone, Debug)]
pub struct LogRow {
    /// Its sequence.
    pub sequence: Sequence,
    /// The event.
    pub event: Arc<Event>,
    /// When it was appended.
    pub appended_at: Timestamp,
    /// The state of its delivery.
    pub state: DeliveryState,
    /// Whether the event's payload was purged.
    pub is_purged: bool,
}

/// Which part of a log to read.
#[derive(Clone, Copy, Debug)]
pub struct LogSpan {
    /// Read what follows this sequence.
    pub after: Sequence,
    /// At most this many rows.
    pub limit: usize,
    /// About this many bytes of payload, but at least one row if there is any.
    pub max_bytes: usize,
}

/// How much of a page has been read.
pub struct Progress {
    /// Bounds of the next read. A limit of 0 means that the page is complete.
    pub next: LogSpan,
    reads: u32,
}

impl Progress {
    /// Starts with nothing read.
    pub fn new(whole: LogSpan) -> Self {
        Self { next: LogSpan { limit: whole.limit.min(FIRST_READ), ..whole }, reads: 1 }
    }

    /// Accounts for a read that returned `rows` rows with `bytes` bytes of payload. `left` rows are
    /// still wanted.
    pub fn advance(&mut self, last: Option<Sequence>, rows: usize, bytes: usize, left: usize) {
        let is_last = rows < self.next.limit || bytes >= self.next.max_bytes;
        let limit = FIRST_READ.saturating_mul(1 << self.reads.min(16)).min(left);
        self.reads += 1;
        self.next = LogSpan {
            after: last.unwrap_or(self.next.after),
            limit: if is_last { 0 } else { limit },
            max_bytes: self.next.max_bytes.saturating_sub(bytes),
        };
    }
}
