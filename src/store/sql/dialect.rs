//! The statements that each database words differently: the contract between this folder and
//! its two backends. There is one file per subject, with a trait and the rows that its methods
//! take and return. `sqlite/statements/` and `postgres/statements/` implement each trait for
//! their connection type, in a file of the same name; a method that is missing on one side, or
//! has another signature there, does not compile. These files use nothing else of this folder, so
//! that the operations depend on the contract and not the reverse.
//!
//! # Why the folder is compiled twice
//!
//! sqlx checks a statement against one database and types it by that database, so code that is
//! generic over the database cannot contain a checked statement. Most statements have the same
//! text in both databases. Code compiled once would need a method in a trait and two
//! implementations for each of them. Instead, this folder is compiled once per backend, and
//! only statements whose text differs are methods here. A shared text appears once; `query!`
//! and its siblings append the name of the database as a comment, because sqlx files the
//! metadata of a statement by its text.
//!
//! # When to add a method
//!
//! Only if one text cannot serve both databases: for many rows at once (`json_each` and
//! `unnest`), for a hint at the index that SQLite's planner is to use, and for locks and clocks. The
//! documentation here says what a method does. Comments at its implementations say only why
//! that database needs its wording.

pub(crate) mod audit;
pub(crate) mod browse;
pub(crate) mod bulk;
pub(crate) mod connections;
pub(crate) mod cursors;
pub(crate) mod deliveries;
pub(crate) mod delivery_filter;
pub(crate) mod diagnosis;
pub(crate) mod expiry;
pub(crate) mod feed;
pub(crate) mod gateways;
pub(crate) mod inbox;
pub(crate) mod ledger;
pub(crate) mod log;
pub(crate) mod nodes;
pub(crate) mod not_connected;
pub(crate) mod redrive;
pub(crate) mod retention;
pub(crate) mod rollout;

pub(crate) use audit::AuditStatements;
pub(crate) use browse::BrowseStatements;
pub(crate) use bulk::BulkStatements;
pub(crate) use connections::ConnectionStatements;
pub(crate) use cursors::CursorStatements;
pub(crate) use deliveries::DeliveryStatements;
pub(crate) use delivery_filter::DeliveryFilterStatements;
pub(crate) use diagnosis::DiagnosisStatements;
pub(crate) use expiry::ExpiryStatements;
pub(crate) use feed::FeedStatements;
pub(crate) use gateways::{GatewayStatements, Manifests};
pub(crate) use inbox::InboxStatements;
pub(crate) use ledger::LedgerStatements;
pub(crate) use log::LogStatements;
pub(crate) use nodes::NodeStatements;
pub(crate) use not_connected::NotConnectedStatements;
pub(crate) use redrive::RedriveStatements;
pub(crate) use retention::RetentionStatements;
pub(crate) use rollout::RolloutStatements;

pub(crate) use super::super::session::Session;
pub(crate) use super::super::statements::{Connection, query, query_as, query_scalar};
