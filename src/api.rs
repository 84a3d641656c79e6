//! The request and response types of the HTTP API, one file per noun. The server, the client, the
//! command line and the tests share them. The OpenAPI document is generated from them: their doc
//! comments are its descriptions.
//!
//! Member names are camelCase. An absent member of a request has its default. A member of a response
//! that has no value is `null`, unless its description says that it is omitted.

mod audit;
mod browse;
mod connections;
mod deliveries;
mod event_types;
mod events;
mod gateways;
mod inbox;
mod json;
mod log;
mod nodes;
mod paging;
mod problem;
mod schemas;
mod stats;
mod tokens;

pub use audit::{AuditObject, AuditPrincipal, AuditQuery, AuditRecord};
pub use browse::{EventFilter, EventSummary, PublishedTarget};
pub use connections::{Connection, ConnectionStatus, ConnectionsQuery, ConnectionsStatus};
pub use deliveries::{
    Attempt, DeliveriesQuery, DeliveriesStatus, Delivery, DeliveryFilter, DeliveryState,
    FailuresByBucket, Outcome, RedriveRequest, Redriven, RedrivenAs, RedrivenDelivery, Summary,
    SummaryBy, SummaryQuery,
};
pub use event_types::{EventTypeDefinition, EventTypeInfo};
pub use events::{
    Accepted, AcceptedBatch, AcceptedDelivery, BatchItem, EventBatch, EventWithDeliveries,
    MOST_EVENTS, NewEvent, PublishBody, Target, Warning,
};
pub use gateways::{
    Gateway, GatewayChange, LabelChange, Labels, Lag, LastRefusal, NewGateway, Verdict,
    VerdictState,
};
pub use inbox::{
    RejectedFilter, RejectedRow, RejectedRowWithPayload, RejectionReason, Retried, RetryRequest,
};
pub use json::{Object, UniqueMembers, not_null};
pub use log::{LogEntry, LogPage, LogPagination, LogQuery};
pub use nodes::{Node, NodeStatus, NodesQuery};
pub use paging::{Page, PageQuery, Pagination, Window};
pub use problem::{Code, FieldError, Problem};
pub use stats::{ConnectionStats, DeliveryStats, NodeStats, Stats};
pub use tokens::{AccessToken, GatewayToken, NewAccessToken, NewGatewayToken, Scope, WithSecret};
