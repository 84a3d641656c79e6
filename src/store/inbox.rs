//! The inbox: what other programs publish by inserting into the database in a
//! transaction of their own, and the rows among it that can't be published.

use async_trait::async_trait;

use super::{NewEvent, Refusal, Result, ValidationError};
use crate::clock::Timestamp;
use crate::event::{Invalid, OrganisationKey, quoted};

/// The verbs of the inbox. As with the others, each is one transaction, but
/// for the first, which only waits.
#[async_trait]
pub trait Inbox: Send + Sync + 'static {
    /// Waits until the inbox may hold rows that were not there when the last
    /// call returned. The first call returns at once, so that what was there
    /// before is looked at too. For one caller at a time.
    async fn inbox_changed(&self) -> Result<()>;
    /// The oldest rows that are visible, up to `limit` and about `max_bytes`,
    /// in the order in which they are to be moved. A row that is larger than
    /// `max_bytes` by itself comes as [`Unreadable`].
    async fn inbox_page(&self, limit: usize, max_bytes: usize) -> Result<Vec<InboxRow>>;
    /// Moves rows out of the inbox, in this order: the good ones to the log,
    /// under each gateway's next numbers, the others to the rejected ones. A
    /// row that is not there any more is passed over.
    async fn drain_inbox(&self, rows: Vec<ValidatedRow>) -> Result<Drained>;
    /// How much waits in the inbox.
    async fn inbox_depth(&self) -> Result<InboxDepth>;

    /// Rejected rows, newest first, those before `before`.
    async fn rejected(
        &self,
        organisation: OrganisationKey,
        filter: &RejectedFilter,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<RejectedRow>>;
    /// One of them, and the beginning of its payload: at most `max_chars` characters.
    async fn rejected_row(
        &self,
        organisation: OrganisationKey,
        id: i64,
        max_chars: usize,
    ) -> Result<Option<(RejectedRow, String)>>;
    /// Puts rejected rows back into the inbox, the oldest first, as new rows
    /// at its end; at most 1,000 a call. `Conflict` if the one that was named
    /// has been put back already.
    async fn retry_rejected(
        &self,
        organisation: OrganisationKey,
        selection: RetrySelection,
    ) -> Result<Retried>;
    /// Removes one for good.
    async fn delete_rejected(&self, organisation: OrganisationKey, id: i64) -> Result<()>;
}

/// A row of the inbox, as another program wrote it.
#[derive(Clone, Debug)]
pub struct InboxRow {
    /// Its place in the inbox.
    pub id: i64,
    /// When it was inserted.
    pub inserted_at: Timestamp,
    /// Its columns; nothing is known of them but that they are text.
    pub content: std::result::Result<InboxContent, Unreadable>,
}

/// The columns of a row that another program fills; the migration says what
/// belongs into each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxContent {
    /// An organisation's name.
    pub organisation: String,
    /// An event type.
    pub event_type: String,
    /// A JSON object.
    pub payload: String,
    /// A gateway's UUID.
    pub gateway_id: Option<String>,
    /// Or another choice of gateways, in JSON.
    pub target: Option<String>,
    /// The event's id; given by the database if the program left it out.
    pub event_id: Option<String>,
    /// What gateways use as their key.
    pub correlation_id: Option<String>,
    /// Who caused it.
    pub user_id: Option<String>,
    /// When it expires, in RFC 3339.
    pub expires_at: Option<String>,
    /// The W3C trace context of what caused it.
    pub traceparent: Option<String>,
}

/// Why a row was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is larger than was allowed: so many bytes.
    TooLarge(u64),
    /// This column is no UTF-8.
    NotUtf8(&'static str),
}

/// A row of the inbox after validation.
#[derive(Clone, Debug)]
pub struct ValidatedRow {
    /// Its place in the inbox.
    pub id: i64,
    /// The event to be appended, or why it can't be.
    pub result: std::result::Result<(OrganisationKey, NewEvent), Rejection>,
}

/// Why a row can't be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For programs.
    pub reason: RejectionReason,
    /// For people: what was wrong, and what is allowed. Never the payload.
    pub detail: String,
}

macro_rules! rejection_reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why rows are rejected; where HTTP refuses the same, its code is the same.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum RejectionReason {
            $($(#[$doc])* $name,)*
        }

        impl RejectionReason {
            /// Every reason there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its stable name in the database, the API and the logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

rejection_reasons! {
    /// A column holds what it may not hold, or the payload does not fit its type's schema.
    Invalid = "invalid",
    /// It was too old before it could be moved.
    Expired = "expired",
    /// Its type is not registered.
    UnknownEventType = "unknown_event_type",
    /// Its frame would be larger than gateways take.
    EventTooLarge = "event_too_large",
    /// It names gateways that are not registered.
    UnknownGateways = "unknown_gateways",
    /// Its id belongs to an event with another content.
    EventIdTaken = "event_id_taken",
    /// There is no organisation of that name.
    UnknownOrganisation = "unknown_organisation",
    /// The log itself refused it, for a reason that lies with us.
    Internal = "internal",
}

impl std::fmt::Display for RejectionReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for RejectionReason {
    type Err = Invalid;

    fn from_str(text: &str) -> std::result::Result<Self, Invalid> {
        let names =
            || Self::ALL.iter().map(|reason| reason.as_str()).collect::<Vec<_>>().join(", ");
        Self::ALL.iter().copied().find(|reason| reason.as_str() == text).ok_or_else(|| {
            Invalid(format!("{} is no reason; there are: {}", quoted(text), names()))
        })
    }
}

/// A rejected row's detail is for people: a longer one is cut to this many characters.
const LONGEST_DETAIL: usize = 1000;

impl From<ValidationError> for Rejection {
    fn from(error: ValidationError) -> Self {
        let detail = error.to_string().chars().take(LONGEST_DETAIL).collect();
        Self { reason: error.reason(), detail }
    }
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        /// Named at the most, so that the detail stays readable.
        const SHOWN: usize = 10;
        match refusal {
            Refusal::UnknownGateways(ids) => {
                let shown: Vec<_> = ids.iter().take(SHOWN).map(ToString::to_string).collect();
                let more = match ids.len().saturating_sub(SHOWN) {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                let detail = format!("not registered as gateways: {}{more}", shown.join(", "));
                Self { reason: RejectionReason::UnknownGateways, detail }
            }
            Refusal::IdTaken(id) => Self {
                reason: RejectionReason::EventIdTaken,
                detail: format!("the id {id} belongs to an event with another content"),
            },
            Refusal::Invalid(error) => error.into(),
        }
    }
}

/// What a drain did.
#[derive(Clone, Debug, Default)]
pub struct Drained {
    /// Rows that are in the log now, repeats included.
    pub appended: usize,
    /// Those among them, by their place in the inbox, whose target matched no gateway.
    pub unmatched: Vec<i64>,
    /// Rows that were put aside, by their place in the inbox.
    pub rejected: Vec<(i64, Rejection)>,
}

/// How much waits in the inbox.
#[derive(Clone, Copy, Debug)]
pub struct InboxDepth {
    /// Rows.
    pub rows: i64,
    /// When the oldest of them was inserted.
    pub oldest: Option<Timestamp>,
}

/// Which rejected rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RejectedFilter {
    /// For one reason.
    pub reason: Option<RejectionReason>,
    /// Rejected at this time or later.
    pub from: Option<Timestamp>,
    /// Rejected before this time.
    pub to: Option<Timestamp>,
    /// Those that were put back into the inbox, too. A retry passes them over.
    pub retried: bool,
}

/// Which rejected rows to put back.
#[derive(Clone, Debug)]
pub enum RetrySelection {
    /// One.
    One(i64),
    /// All that fit.
    Filter(RejectedFilter),
}

/// What a retry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retried {
    /// Rows put back.
    pub retried: u64,
    /// More match: call again.
    pub more: bool,
}

/// A rejected row, without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRow {
    /// Its identity among the rejected ones.
    pub id: i64,
    /// What it was in the inbox.
    pub inbox_id: i64,
    /// Why it was rejected.
    pub reason: RejectionReason,
    /// What was wrong.
    pub detail: String,
    /// When.
    pub rejected_at: Timestamp,
    /// When it was put back.
    pub retried_at: Option<Timestamp>,
    /// When it was inserted.
    pub inserted_at: Timestamp,
    /// The column, as it was.
    pub event_type: String,
    /// The column, as it was.
    pub gateway_id: Option<String>,
    /// The column, as it was.
    pub target: Option<String>,
    /// The column, as it was.
    pub event_id: Option<String>,
    /// The column, as it was.
    pub correlation_id: Option<String>,
    /// The column, as it was.
    pub user_id: Option<String>,
    /// The column, as it was.
    pub expires_at: Option<String>,
    /// The column, as it was.
    pub traceparent: Option<String>,
    /// How large the payload is.
    pub payload_bytes: i64,
}
