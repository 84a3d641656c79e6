//! Alerts: the overview, and rules.

use axum::Json;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::alert_bodies::{check_path_id, to_json};
use super::alert_destinations;
use super::auth::{Admin, Reader};
use super::cursor;
use super::extract::{self, Path};
use super::openapi::{Bodiless, Body, Long, Missing, Problems, Scoped, Taken, Write};
use super::part::Part;
use super::problem::{HandlerResult, Problem};
use super::query::Query;
use crate::alerts::message::{StoredFinding, key};
use crate::alerts::rules::{Rule, Rules, built_ins, problems};
use crate::api::{
    Alert, AlertAttempt, AlertCounts, AlertEvent, AlertNotification, AlertNotificationState,
    AlertRule, AlertRuleDefinition, AlertSeverity, AlertSilence, AlertState, AlertsOverview, Code,
    Page, PageQuery, Pagination,
};
use crate::clock::Timestamp;
use crate::event::{OrganisationKey, quoted};
use crate::store::{self, Actor, Alerts, Existing, StoredAlert, StoredNotification};

/// What cursors of the list of alerts are issued for.
const ALERTS: &str = "alerts";
/// The newest notifications that the overview has.
const NOTIFICATIONS: usize = 100;
/// The longest silence.
const MAX_SILENCE: std::time::Duration = std::time::Duration::from_hours(366 * 24);

/// Show rules, destinations, alerts and notifications.
///
/// Alerts that fire come first, a page of them at a time. Resolved ones and ended notifications are
/// kept for `retention.max_age`.
#[utoipa::path(
    get, path = "/alerts", tag = "alerts", operation_id = "showAlerts",
    params(PageQuery),
    responses(
        (status = 200, description = "The overview.", body = AlertsOverview),
        Problems<(Scoped, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn overview(
    Part(alerts): Part<dyn Alerts>,
    Reader(organisation): Reader,
    Query(page): Query<PageQuery>,
) -> HandlerResult<Json<AlertsOverview>> {
    Ok(Json(read_overview(alerts.as_ref(), organisation, &page).await?))
}

/// The alerts of an organisation that fire, the most urgent ones first.
pub(super) async fn firing(
    alerts: &dyn Alerts,
    organisation: OrganisationKey,
) -> HandlerResult<Vec<Alert>> {
    let rules = rules_of(alerts, organisation).await?;
    let mut alerts = alerts_of(alerts, organisation, &rules).await?;
    alerts.retain(|alert| alert.state == AlertState::Firing);
    Ok(alerts)
}

/// Alerts: firing ones first, the most urgent and the newest first.
async fn alerts_of(
    alerts: &dyn Alerts,
    organisation: OrganisationKey,
    rules: &[Rule],
) -> HandlerResult<Vec<Alert>> {
    let alerts = alerts.alerts(organisation).await?;
    let mut alerts: Vec<Alert> = alerts.into_iter().map(|alert| shown(alert, rules)).collect();
    alerts.sort_by_cached_key(AlertPosition::of);
    Ok(alerts)
}

/// Where an alert is in the list.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct AlertPosition {
    state: u8,
    severity: u8,
    /// Negative, so that the newest one is the first.
    before: i64,
    /// Makes the order total.
    key: String,
}

impl AlertPosition {
    fn of(alert: &Alert) -> Self {
        Self {
            state: match alert.state {
                AlertState::Firing => 0,
                AlertState::Pending => 1,
                AlertState::Resolved => 2,
            },
            severity: match alert.severity {
                AlertSeverity::Critical => 0,
                AlertSeverity::Warning => 1,
                AlertSeverity::Info => 2,
            },
            before: -alert.resolved_at.unwrap_or(alert.since).micros(),
            key: alert.key.clone(),
        }
    }
}

fn counts(alerts: &[Alert]) -> AlertCounts {
    let in_state = |state| alerts.iter().filter(|alert| alert.state == state).count();
    AlertCounts {
        firing: in_state(AlertState::Firing),
        pending: in_state(AlertState::Pending),
        resolved: in_state(AlertState::Resolved),
    }
}

/// A page of alerts, and everything else about them.
async fn read_overview(
    alerts: &dyn Alerts,
    organisation: OrganisationKey,
    page: &PageQuery,
) -> HandlerResult<AlertsOverview> {
    let (limit, after) = (page.size(), page.position::<AlertPosition>(&ALERTS)?);
    let rules = rules_of(alerts, organisation).await?;
    let destinations = alerts.alert_destinations(organisation).await?;
    let mut shown = alerts_of(alerts, organisation, &rules).await?;
    let counts = counts(&shown);
    if let Some(after) = after {
        shown.retain(|alert| AlertPosition::of(alert) > after);
    }
    let more = shown.len() > limit;
    shown.truncate(limit);
    let last = shown.last().filter(|_| more).map(AlertPosition::of);
    let next = last.map(|last| cursor::encode(&last, &ALERTS));
    let notifications = alerts.notifications(organisation, None, NOTIFICATIONS).await?;
    Ok(AlertsOverview {
        alerts: shown,
        counts,
        pagination: Pagination { limit, next },
        rules: rules.into_iter().map(AlertRule::from).collect(),
        destinations: destinations
            .into_iter()
            .map(alert_destinations::shown)
            .collect::<HandlerResult<_>>()?,
        notifications: notifications.into_iter().map(Into::into).collect(),
    })
}

async fn rules_of(alerts: &dyn Alerts, organisation: OrganisationKey) -> HandlerResult<Vec<Rule>> {
    Ok(Rules::new(alerts.alert_rules(organisation).await?).in_force)
}

async fn rule_of(
    alerts: &dyn Alerts,
    organisation: OrganisationKey,
    id: &str,
) -> HandlerResult<Rule> {
    let rules = rules_of(alerts, organisation).await?;
    rules.into_iter().find(|rule| rule.id == id).ok_or_else(|| Problem::not_found("alert rule"))
}

/// List the alert rules in force.
#[utoipa::path(
    get, path = "/alerts/rules", tag = "alerts", operation_id = "listAlertRules",
    responses(
        (status = 200, description = "All rules, built-in ones included.", body = Page<AlertRule>),
        Problems<(Scoped, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn list(
    Part(alerts): Part<dyn Alerts>,
    Reader(organisation): Reader,
    _: Query<()>,
) -> HandlerResult<Json<Page<AlertRule>>> {
    let rules = rules_of(alerts.as_ref(), organisation).await?;
    Ok(Json(Page::whole(rules.into_iter().map(Into::into).collect())))
}

/// Show an alert rule.
#[utoipa::path(
    get, path = "/alerts/rules/{id}", tag = "alerts", operation_id = "showAlertRule",
    params(("id" = String, Path, description = "The rule's id.")),
    responses(
        (status = 200, description = "The rule.", body = AlertRule),
        Problems<(Scoped, Missing, Long)>,
    ),
    security(("access_token" = ["read"])),
)]
pub(super) async fn show(
    Part(alerts): Part<dyn Alerts>,
    Reader(organisation): Reader,
    Path(id): Path<String>,
    _: Query<()>,
) -> HandlerResult<Json<AlertRule>> {
    Ok(Json(rule_of(alerts.as_ref(), organisation, &id).await?.into()))
}

/// Create an alert rule.
#[utoipa::path(
    post, path = "/alerts/rules", tag = "alerts", operation_id = "createAlertRule",
    request_body = AlertRuleDefinition,
    responses(
        (status = 201, description = "It is created.", body = AlertRule),
        Problems<(Scoped, Body, Taken, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn create(
    Part(alerts): Part<dyn Alerts>,
    Admin(actor): Admin,
    _: Query<()>,
    extract::Json(mut definition): extract::Json<AlertRuleDefinition>,
) -> HandlerResult<(StatusCode, Json<AlertRule>)> {
    check(&definition)?;
    let id = definition.id.take().unwrap_or_else(|| Uuid::now_v7().to_string());
    put_definition(alerts.as_ref(), &actor, &id, Existing::Refuse, &definition).await?;
    let rule =
        AlertRule { id, built_in: false, definition, silenced_until: None, silenced_by: None };
    Ok((StatusCode::CREATED, Json(rule)))
}

/// Create or replace an alert rule.
///
/// A rule with the id of a built-in one replaces it. Its silence stays.
#[utoipa::path(
    put, path = "/alerts/rules/{id}", tag = "alerts", operation_id = "putAlertRule",
    params(("id" = String, Path, description = "The rule's id.")),
    request_body = AlertRuleDefinition,
    responses(
        (status = 200, description = "It is replaced.", body = AlertRule),
        (status = 201, description = "It is created.", body = AlertRule),
        Problems<(Scoped, Body, Taken, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn put(
    Part(alerts): Part<dyn Alerts>,
    Admin(actor): Admin,
    Path(id): Path<String>,
    _: Query<()>,
    extract::Json(mut definition): extract::Json<AlertRuleDefinition>,
) -> HandlerResult<(StatusCode, Json<AlertRule>)> {
    check_path_id(&id, definition.id.as_deref())?;
    definition.id = Some(id.clone());
    check(&definition)?;
    definition.id = None;
    let is_new =
        put_definition(alerts.as_ref(), &actor, &id, Existing::Replace, &definition).await?;
    let rule = rule_of(alerts.as_ref(), actor.organisation, &id).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(rule.into())))
}

/// Stores the definition of a rule. Returns whether none of its id was in force.
async fn put_definition(
    alerts: &dyn Alerts,
    actor: &Actor,
    id: &str,
    existing: Existing,
    definition: &AlertRuleDefinition,
) -> HandlerResult<bool> {
    check_destinations(alerts, actor.organisation, id, definition).await?;
    let was = built_ins().get(id).map(to_json).transpose()?;
    let text = to_json(definition)?;
    Ok(alerts.put_alert_rule(actor, id, existing, was.as_deref(), &text).await?)
}

/// Delete an alert rule.
///
/// Its alerts are resolved at the next evaluation. If it replaced a built-in rule, that one is in
/// force again; built-in rules can't be deleted, but disabled.
#[utoipa::path(
    delete, path = "/alerts/rules/{id}", tag = "alerts", operation_id = "deleteAlertRule",
    params(("id" = String, Path, description = "The rule's id.")),
    responses(
        (status = 204, description = "It is deleted."),
        Problems<(Scoped, Missing, Taken, Write, Bodiless)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn remove(
    Part(alerts): Part<dyn Alerts>,
    Admin(actor): Admin,
    Path(id): Path<String>,
    _: Query<()>,
) -> HandlerResult<StatusCode> {
    match alerts.delete_alert_rule(&actor, &id).await {
        Err(store::StoreError::NotFound(_)) if built_ins().contains_key(id.as_str()) => {
            Err(Problem::new(
                Code::Conflict,
                format!(
                    "{id} is a built-in rule, which can't be deleted. To disable it, store a rule with this id and `enabled: false`."
                ),
            ))
        }
        deleted => {
            deleted?;
            Ok(StatusCode::NO_CONTENT)
        }
    }
}

/// Silence an alert rule.
///
/// No notification is sent of what it finds, until an instant. If an alert fires then and no
/// notification of it was sent, it is sent then. Destinations that were notified that an alert fires
/// are also notified when it is resolved, even during a silence.
#[utoipa::path(
    put, path = "/alerts/rules/{id}/silence", tag = "alerts", operation_id = "silenceAlertRule",
    params(("id" = String, Path, description = "The rule's id.")),
    request_body = AlertSilence,
    responses(
        (status = 200, description = "The rule.", body = AlertRule),
        Problems<(Scoped, Missing, Body, Write)>,
    ),
    security(("access_token" = ["admin"])),
)]
pub(super) async fn silence(
    Part(alerts): Part<dyn Alerts>,
    Admin(actor): Admin,
    Path(id): Path<String>,
    _: Query<()>,
    extract::Json(AlertSilence { until }): extract::Json<AlertSilence>,
) -> HandlerResult<Json<AlertRule>> {
    rule_of(alerts.as_ref(), actor.organisation, &id).await?;
    let now = Timestamp::now();
    if until.is_some_and(|until| until > now.plus(MAX_SILENCE)) {
        return Err(Problem::invalid("until", "must be at most a year from now"));
    }
    let until = until.filter(|until| *until > now);
    alerts.silence_alert_rule(&actor, &id, until).await?;
    Ok(Json(rule_of(alerts.as_ref(), actor.organisation, &id).await?.into()))
}

/// Refuses a rule that names a destination which does not exist: nothing would be sent there. One that
/// the rule named before may have been deleted since; the rest of the rule can be changed nevertheless.
async fn check_destinations(
    alerts: &dyn Alerts,
    organisation: OrganisationKey,
    id: &str,
    definition: &AlertRuleDefinition,
) -> HandlerResult<()> {
    let named = definition.destinations.as_deref().unwrap_or_default();
    if named.is_empty() {
        return Ok(());
    }
    let (known, rules) = tokio::try_join!(
        async { Ok(alerts.alert_destinations(organisation).await?) },
        rules_of(alerts, organisation),
    )?;
    let before = rules.into_iter().find(|rule| rule.id == id);
    let before = before.and_then(|rule| rule.definition.destinations).unwrap_or_default();
    let is_unknown = |id: &&String| {
        !before.contains(*id) && known.iter().all(|destination| destination.id != **id)
    };
    let unknown: Vec<String> = named.iter().filter(is_unknown).map(|id| quoted(id)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let why = format!("no destination has the id {}; create it first", unknown.join(" or "));
    Err(Problem::invalid("destinations", why))
}

fn check(definition: &AlertRuleDefinition) -> HandlerResult<()> {
    let errors = problems(definition);
    if errors.is_empty() { Ok(()) } else { Err(Problem::invalid_fields(errors)) }
}

fn shown(alert: StoredAlert, rules: &[Rule]) -> Alert {
    let stored_finding = StoredFinding::read(&alert.found);
    let rule = rules.iter().find(|rule| rule.id == alert.rule);
    Alert {
        key: key(&alert.rule, &alert.group),
        state: match alert.state {
            store::AlertState::Pending => AlertState::Pending,
            store::AlertState::Firing => AlertState::Firing,
            store::AlertState::Resolved => AlertState::Resolved,
        },
        severity: stored_finding.severity,
        owner: stored_finding.owner,
        since: alert.since,
        fired_at: alert.fired_at,
        resolved_at: alert.resolved_at,
        silenced: rule.is_some_and(|rule| rule.is_silent(Timestamp::now())),
        found: stored_finding.finding,
        notified: alert.notified,
        rule: alert.rule,
        group: alert.group,
    }
}

impl From<Rule> for AlertRule {
    fn from(rule: Rule) -> Self {
        let silence = rule.silence.filter(|(until, _)| *until > Timestamp::now());
        let (silenced_until, silenced_by) = silence.unzip();
        Self {
            id: rule.id,
            built_in: rule.is_built_in,
            definition: rule.definition,
            silenced_until,
            silenced_by,
        }
    }
}

impl From<StoredNotification> for AlertNotification {
    fn from(stored: StoredNotification) -> Self {
        let state = match stored.state {
            store::NotificationState::Pending => AlertNotificationState::Pending,
            store::NotificationState::Delivered => AlertNotificationState::Delivered,
            store::NotificationState::Failed => AlertNotificationState::Failed,
            store::NotificationState::Superseded => AlertNotificationState::Superseded,
        };
        let is_pending = state == AlertNotificationState::Pending;
        Self {
            id: stored.id,
            key: key(&stored.rule, &stored.group),
            destination: stored.destination,
            event: match stored.event {
                store::AlertEvent::Firing => AlertEvent::Firing,
                store::AlertEvent::Resolved => AlertEvent::Resolved,
            },
            state,
            attempt_count: stored.attempt_count,
            next_attempt_at: is_pending.then_some(stored.due_at),
            created_at: stored.created_at,
            ended_at: stored.ended_at,
            attempts: stored
                .attempts
                .into_iter()
                .map(|attempt| AlertAttempt {
                    number: attempt.number,
                    node: attempt.node,
                    started_at: attempt.started_at,
                    ended_at: attempt.ended_at,
                    status: attempt.status,
                    detail: attempt.detail,
                })
                .collect(),
        }
    }
}
