//! Lists the audit log.

use axum::Json;
use serde::{Deserialize, Serialize};

use super::auth::Admin;
use super::cursor;
use super::deliveries::open_window;
use super::openapi::{Long, Problems, Scoped};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::query::{FromQuery, Parameters, Query, documented};
use crate::api::{AuditObject, AuditPrincipal, AuditQuery, AuditRecord, Page, PageQuery};
use crate::clock::{TimeWindow, Timestamp};
use crate::names;
use crate::store::{self, Audit, AuditAction, AuditCursor, AuditFilter};

/// The longest id or name, in characters. Longer ones are cut when they are recorded.
const MAX_CHARS: usize = 256;

impl FromQuery for AuditQuery {
    fn names() -> Vec<String> {
        documented::<Self>()
    }

    fn from_query(parameters: &Parameters) -> HandlerResult<Self> {
        let action: Option<AuditAction> = parameters.get("action")?;
        let action = action.map(|action| action.as_str().to_owned());
        let name = |parameter| {
            parameters.parse(parameter, |text| {
                if !text.is_empty() && names::is_plain(text, MAX_CHARS) {
                    Ok(text.to_owned())
                } else {
                    Err("must be 1 to 256 characters, none of them a control or format character")
                }
            })
        };
        Ok(Self {
            from: parameters.instant("from")?,
            to: parameters.instant("to")?,
            action,
            principal: name("principal")?,
            object: name("object")?,
        })
    }
}

/// Where a page begins, and the window of the first page.
#[derive(Serialize, Deserialize)]
struct PagePosition {
    at: (Timestamp, i64),
    window: TimeWindow,
}

/// List the audit log, newest record first.
///
/// Every change that an access token or a local command made, except for publishing.
#[utoipa::path(
    get, path = "/audit", tag = "audit", operation_id = "listAuditRecords",
    params(AuditQuery, PageQuery),
    responses(
        (status = 200, description = "A page of records.", body = Page<AuditRecord>),
        Problems<(Scoped, Long)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn list(
    Part(audit): Part<dyn Audit>,
    Admin(actor): Admin,
    Query((asked, page)): Query<(AuditQuery, PageQuery)>,
) -> HandlerResult<Json<Page<AuditRecord>>> {
    let filters = ("audit", &asked);
    let position = page.position::<PagePosition>(&filters)?;
    let window = match &position {
        Some(position) => position.window,
        None => open_window(asked.from, asked.to)?,
    };
    let AuditQuery { from: _, to: _, action, principal, object } = asked.clone();
    let action = action.as_deref().map(str::parse::<AuditAction>).transpose();
    let action = action.map_err(|error| Problem::invalid("action", error.to_string()))?;
    let filter = AuditFilter { window, action, principal, object };
    let after = position.map(|PagePosition { at: (recorded_at, sequence), .. }| AuditCursor {
        recorded_at,
        sequence,
    });
    let limit = page.size();
    let mut records = audit.audit(actor.organisation, &filter, after, limit + 1).await?;
    let more = records.len() > limit;
    records.truncate(limit);
    let next = records.last().filter(|_| more).map(|last| {
        let at = (last.recorded_at, last.sequence);
        cursor::encode(&PagePosition { at, window }, &filters)
    });
    Ok(Json(Page::new(records.into_iter().map(Into::into).collect(), limit, next)))
}

impl From<store::AuditRecord> for AuditRecord {
    fn from(record: store::AuditRecord) -> Self {
        let filled = |text: String| Some(text).filter(|text| !text.is_empty());
        // A row that was tampered with may contain anything; `verify` reports it.
        let members = |text: &str| serde_json::from_str(text).unwrap_or_default();
        let store::Principal { id, name, source, request_id } = record.principal;
        let store::AuditObject { kind, id: object_id, name: object_name } = record.object;
        Self {
            sequence: record.sequence,
            recorded_at: record.recorded_at,
            action: record.action,
            principal: AuditPrincipal { id, name },
            source: filled(source),
            request_id: filled(request_id),
            object: AuditObject { kind, id: object_id, name: object_name },
            before: members(&record.before),
            after: members(&record.after),
            hash: record.hash.to_string(),
        }
    }
}
