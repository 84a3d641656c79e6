//! The request and response types of the HTTP API, one file per resource. The server, the client, the
//! command line and the tests share them. The OpenAPI document is generated from them: their doc
//! comments are its descriptions.
//!
//! Member names are camelCase. An absent member of a request has its default. A member of a response
//! that has no value is `null`, unless its description says that it is omitted.

mod actions;
mod alerts;
mod audit;
mod browse;
mod bulk_jobs;
mod cloud_events;
mod connections;
mod deliveries;
mod diagnosis;
mod event_types;
mod events;
mod feed;
mod gateway_streams;
mod gateways;
mod inbox;
mod instances;
mod json;
mod log;
mod nodes;
mod paging;
mod problem;
mod rollouts;
mod schemas;
mod stats;
mod tokens;

/// The path that every call but the operational ones begins with.
pub const BASE_PATH: &str = "/api/internal/v1";

pub use actions::{
    Pause, PauseRequest, PauseResponse, Purge, PurgeRequest, PurgeResponse, ResumeRequest, Resync,
    ResyncRequest, ResyncResponse, ResyncState, SkipRequest, SkipResponse,
};
pub use alerts::{
    Alert, AlertAttempt, AlertCounts, AlertDestination, AlertDestinationDefinition,
    AlertDestinationKind, AlertDestinationSettings, AlertEvent, AlertFinding, AlertGateway,
    AlertKind, AlertNotification, AlertNotificationState, AlertRule, AlertRuleDefinition,
    AlertSeverity, AlertSilence, AlertState, AlertTest, AlertsOverview, SmtpTls,
};
pub use audit::{AuditObject, AuditPrincipal, AuditQuery, AuditRecord};
pub use browse::{EventFilter, EventSummary, PublishedTarget};
pub use bulk_jobs::{
    AbortRequest, Aborted, Job, JobKind, JobParameters, JobProgress, JobSkips, JobState, JobsQuery,
    ReplayRequest, Replayed, ResendRequest, Resent, ResentDelivery,
};
pub use cloud_events::CloudEvent;
pub use connections::{Connection, ConnectionStatus, ConnectionsQuery, ConnectionsStatus};
pub use deliveries::{
    Attempt, DeliveriesQuery, DeliveriesStatus, DeliveriesWindow, Delivery, DeliveryFilter,
    DeliveryState, FailuresByBucket, Outcome, RedriveRequest, Redriven, RedrivenAs,
    RedrivenDelivery, Summary, SummaryBy, SummaryQuery,
};
pub use diagnosis::{
    EventDiagnosis, EventDiagnosisQuery, Evidence, FailuresByReason, FilteredDelivery,
    GatewayChangeRecord, GatewayDiagnosis, GatewayThen, KeyRecord, KeyState, LabelDifference,
    MissedBy, MissedEvent, MissedTarget, NextStep, OpenDelivery, PendingRecord, RejectedForGateway,
};
pub use event_types::{EventTypeDefinition, EventTypeDeletion, EventTypeInfo};
pub use events::{
    Accepted, AcceptedBatch, AcceptedDelivery, BatchItem, EventBatch, EventWithDeliveries,
    MAX_EVENTS, NewEvent, PublishBody, Target, Warning,
};
pub use feed::{
    ConnectionChange, FeedAttempt, FeedConnection, FeedEnd, FeedEndReason, FeedGap, FeedGapReason,
    FeedKind, FeedMessage, FeedPublished, FeedQuery,
};
pub use gateway_streams::{
    EventEnvelope, PollQuery, PolledEvents, StreamConfirm, StreamQuery, StreamResume,
};
pub use gateways::{
    Confirmation, Gateway, GatewayChange, GatewaysQuery, LabelChange, Labels, Lag, LastRefusal,
    NewGateway, Verdict, VerdictState,
};
pub use inbox::{
    EditedRow, RejectedFilter, RejectedRow, RejectedRowChange, RejectedRowWithPayload,
    RejectionReason, Retried, RetriedRow, RetryRequest, RetryRowRequest,
};
pub use instances::{ExpiredInstance, Instance, InstanceConnection, Instances, Level};
pub use json::{Object, UniqueMembers, not_null};
pub use log::{LogEntry, LogPage, LogPagination, LogQuery};
pub use nodes::{Node, NodeStatus, NodesQuery};
pub use paging::{Page, PageQuery, Pagination, Window};
pub use problem::{Code, FieldError, Problem};
pub use rollouts::{
    EventState, EventVerdict, Quorum, Rollout, RolloutEvent, RolloutGateway, RolloutOfEvents,
    RolloutQuery, RolloutState, WaitEnd, WaitFor, WaitQuery,
};
pub use stats::{
    ConnectionStats, DeliveryStats, NodeStats, PublishedByBucket, PublishedQuery, PublishedSummary,
    Stats,
};
pub use tokens::{AccessToken, GatewayToken, NewAccessToken, NewGatewayToken, Scope, WithSecret};
