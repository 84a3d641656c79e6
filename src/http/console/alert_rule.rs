//! An alert rule: what it says, its silence, and the forms that create and change it.

use std::time::Duration;

use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};

use super::super::alerts;
use super::super::extract::{Json, Path};
use super::super::problem::{HandlerResult, Problem};
use super::super::query::Query;
use super::components::{facts, hidden};
use super::fields::{Fields, Reader, SHOWN, digest, field, label_lines, refuse_outdated};
use super::form::{Submission, TOKEN};
use super::layout::{self, Call, Section};
use super::pairs::{Pairs, encode};
use super::states::severity;
use super::text::{none, said, sentences, short, when};
use super::visit::{Key, View, Visit};
use crate::alerts::rules::built_ins;
use crate::api::{
    AlertDestination, AlertKind, AlertRule, AlertRuleDefinition, AlertSeverity, AlertSilence,
};
use crate::clock::Timestamp;
use crate::event::{EventType, Reason};

/// The choices of a silence, in hours.
const SILENCES: [(&str, &str); 5] =
    [("1", "1 hour"), ("4", "4 hours"), ("24", "1 day"), ("72", "3 days"), ("168", "1 week")];

/// The path of a rule's page.
pub(super) fn path(id: &str) -> String {
    format!("/console/alerts/rules/{}", encode(id))
}

/// What the forms need to be shown: the values of their fields, and why one was refused.
struct Filled<'a> {
    values: &'a Pairs,
    /// The fields of a silence, if that was refused.
    silence: Option<&'a Pairs>,
    problem: Option<&'a Problem>,
}

impl<'a> Filled<'a> {
    /// The form of a definition.
    const fn definition(values: &'a Pairs, problem: Option<&'a Problem>) -> Self {
        Self { values, silence: None, problem }
    }
}

/// The form of a new rule.
pub(super) async fn new(visit: Visit) -> Response {
    let values = Pairs::default()
        .and("enabled", "yes")
        .and("kind", "gateway_away")
        .and("severity", "warning")
        .and("notify", "all");
    let view = new_view(&visit, &Filled::definition(&values, None)).await;
    visit.respond(Section::Alerts, view)
}

async fn new_view(visit: &Visit, filled: &Filled<'_>) -> HandlerResult<View> {
    visit.session.admin()?;
    let destinations = destinations(visit).await?;
    let body = html! {
        p.up { a href="/console/alerts" { "Alerts" } }
        h1 { "New alert rule" }
        @if let Some(problem) = filled.problem { (layout::refusal(problem)) }
        (definition_form(visit, filled, None, &destinations))
    };
    let calls = vec![Call::get("/alerts/rules", &Pairs::default())];
    Ok(View { title: "New alert rule".to_owned(), calls, body })
}

async fn destinations(visit: &Visit) -> HandlerResult<Vec<AlertDestination>> {
    let reader = visit.session.reader()?;
    let page = super::super::alert_destinations::list(visit.part(), reader, Query(())).await?;
    Ok(page.0.list)
}

/// Creates a rule.
pub(super) async fn create(submission: Submission) -> Response {
    let (visit, fields) = (&submission.visit, &submission.fields);
    let created = async {
        let admin = visit.session.admin()?;
        let mut definition = definition(fields)?;
        definition.id = Some(fields.get("id").to_owned()).filter(|id| !id.is_empty());
        let json = Json(definition);
        let (_, rule) = alerts::create(visit.part(), admin, Query(()), json).await?;
        Ok(Redirect::to(&path(&rule.0.id)).into_response())
    };
    match created.await {
        Ok(response) => response,
        Err(problem) => {
            let filled = Filled::definition(fields, Some(&problem));
            match new_view(visit, &filled).await {
                Ok(view) => visit.again(Section::Alerts, &problem, &view),
                Err(_) => submission.refused(&problem),
            }
        }
    }
}

/// A rule.
pub(super) async fn page(visit: Visit, Key(id): Key<String>) -> Response {
    let view = async {
        let rule = shown(&visit, &id).await?;
        let values = values(&rule.definition);
        view(&visit, &rule, &Filled::definition(&values, None)).await
    };
    let view = view.await;
    visit.respond(Section::Alerts, view)
}

async fn shown(visit: &Visit, id: &str) -> HandlerResult<AlertRule> {
    let reader = visit.session.reader()?;
    Ok(alerts::show(visit.part(), reader, Path(id.to_owned()), Query(())).await?.0)
}

async fn view(visit: &Visit, rule: &AlertRule, filled: &Filled<'_>) -> HandlerResult<View> {
    let destinations = destinations(visit).await?;
    let title = format!("Alert rule {}", short(&rule.id, 64));
    let body = html! {
        p.up { a href="/console/alerts" { "Alerts" } }
        h1 { "Alert rule " span.id { (short(&rule.id, 64)) } }
        @if let Some(problem) = filled.problem { (layout::refusal(problem)) }
        (rule_facts(visit, rule))
        @if visit.session.is_admin() {
            (actions(visit, rule, filled))
            section aria-labelledby="edit" {
                h2 #edit { "Edit" }
                (definition_form(visit, filled, Some(rule), &destinations))
            }
        }
    };
    let path = format!("/alerts/rules/{}", encode(&rule.id));
    let calls = vec![Call::get(path.clone(), &Pairs::default()), Call::put(path, &rule.definition)];
    Ok(View { title, calls, body })
}

fn rule_facts(visit: &Visit, rule: &AlertRule) -> Markup {
    let definition = &rule.definition;
    let secs = |secs: u64| html! { (secs) " s" };
    let text = |text: &str| if text.is_empty() { none() } else { sentences(text) };
    let destinations = definition.destinations.as_ref();
    facts(&[
        ("Kind", html! { (definition.kind.as_str()) }),
        ("Severity", severity(definition.severity)),
        ("State", html! { @if definition.enabled { "enabled" } @else { "disabled" } }),
        (
            "Origin",
            html! { @if rule.built_in { @if is_replaced(rule) { "replaces a built-in rule" } @else { "built in" } } @else { "created here" } },
        ),
        (
            "Silence",
            html! {
                @match rule.silenced_until {
                    Some(until) => { "ends " (when(until, visit.now)) ", by " (said(rule.silenced_by.as_deref().unwrap_or_default())) }
                    None => (none()),
                }
            },
        ),
        ("Description", text(&definition.description)),
        ("Owner", text(&definition.owner)),
        ("Threshold", definition.threshold.map_or_else(none, |threshold| html! { (threshold) })),
        ("Window", definition.window_seconds.map_or_else(none, secs)),
        ("Fires after", secs(definition.for_seconds)),
        ("Is resolved after", secs(definition.keep_firing_seconds)),
        (
            "Notifies",
            html! {
                @match destinations {
                    None => "all destinations",
                    Some(ids) if ids.is_empty() => "none",
                    Some(ids) => (said(&ids.join(", "))),
                }
            },
        ),
    ])
}

/// Whether a stored rule replaces the built-in one of the same id.
fn is_replaced(rule: &AlertRule) -> bool {
    built_ins().get(rule.id.as_str()).is_some_and(|built_in| *built_in != rule.definition)
}

fn actions(visit: &Visit, rule: &AlertRule, filled: &Filled<'_>) -> Markup {
    let token = visit.session.id.form_token();
    let action = |name: &str| format!("{}/{name}", path(&rule.id));
    let (word, what) =
        if rule.definition.enabled { ("disable", "Disable") } else { ("enable", "Enable") };
    html! {
        section.actions aria-labelledby="actions" {
            h2 #actions { "Actions" }
            form method="post" action=(action(word)) {
                (hidden(TOKEN, &token))
                p.hint {
                    @if rule.definition.enabled { "A disabled rule is not evaluated, and its alerts are resolved." }
                    @else { "It is evaluated again." }
                }
                button type="submit" { (what) " the rule" }
            }
            (silence_forms(rule, &token, filled))
            @if !rule.built_in || is_replaced(rule) {
                details {
                    summary { @if rule.built_in { "Restore the built-in rule" } @else { "Delete it" } }
                    form method="post" action=(action("delete")) {
                        (hidden(TOKEN, &token))
                        p.hint {
                            @if rule.built_in { "This definition is deleted, and the built-in one is in force again." }
                            @else { "Its alerts are resolved." }
                        }
                        button.danger type="submit" {
                            @if rule.built_in { "Restore the built-in rule" } @else { "Delete the rule" }
                        }
                    }
                }
            }
        }
    }
}

fn silence_forms(rule: &AlertRule, token: &str, filled: &Filled<'_>) -> Markup {
    let action = format!("{}/silence", path(&rule.id));
    let none = Pairs::default();
    let errors = filled.problem.map(|it| it.clone().into_document().errors).unwrap_or_default();
    let fields = Fields::new(filled.silence.unwrap_or(&none), &errors);
    html! {
        details open[filled.silence.is_some()] {
            summary { @if rule.silenced_until.is_some() { "Change its silence" } @else { "Silence it" } }
            form method="post" action=(action) {
                (hidden(TOKEN, token))
                p.hint { "Notifications of this rule are held back. Alerts that still fire when the silence ends are sent then." }
                (fields.choice(&field("hours", "For"), &SILENCES))
                (fields.instant(&field("until", "Or until, in UTC").hint("At most a year from now.")))
                button type="submit" { "Silence the rule" }
            }
        }
        @if rule.silenced_until.is_some() {
            form method="post" action=(action) {
                (hidden(TOKEN, token))
                (hidden("hours", "0"))
                button type="submit" { "End its silence" }
            }
        }
    }
}

/// Stores the definition that was typed.
pub(super) async fn save(Key(id): Key<String>, submission: Submission) -> Response {
    let (visit, fields) = (&submission.visit, &submission.fields);
    let saved = async {
        let admin = visit.session.admin()?;
        refuse_outdated(fields, &shown(visit, &id).await?.definition)?;
        put(visit, admin, &id, definition(fields)?).await
    };
    match saved.await {
        Ok(()) => Redirect::to(&path(&id)).into_response(),
        Err(problem) => {
            let filled = Filled::definition(fields, Some(&problem));
            let again = async { view(visit, &shown(visit, &id).await?, &filled).await };
            match again.await {
                Ok(view) if visit.session.is_admin() => {
                    visit.again(Section::Alerts, &problem, &view)
                }
                _ => submission.refused(&problem),
            }
        }
    }
}

async fn put(
    visit: &Visit,
    admin: super::super::auth::Admin,
    id: &str,
    definition: AlertRuleDefinition,
) -> HandlerResult<()> {
    let (path, json) = (Path(id.to_owned()), Json(definition));
    alerts::put(visit.part(), admin, path, Query(()), json).await.map(|_| ())
}

/// Has the rule evaluated.
pub(super) async fn enable(Key(id): Key<String>, submission: Submission) -> Response {
    set_enabled(&id, &submission, true).await
}

/// Ends its evaluation.
pub(super) async fn disable(Key(id): Key<String>, submission: Submission) -> Response {
    set_enabled(&id, &submission, false).await
}

async fn set_enabled(id: &str, submission: &Submission, enabled: bool) -> Response {
    let visit = &submission.visit;
    let done = async {
        let admin = visit.session.admin()?;
        let rule = shown(visit, id).await?;
        put(visit, admin, id, AlertRuleDefinition { enabled, ..rule.definition }).await
    };
    match done.await {
        Ok(()) => Redirect::to(&path(id)).into_response(),
        Err(problem) => submission.refused(&problem),
    }
}

/// Silences the rule, or ends its silence.
pub(super) async fn silence(Key(id): Key<String>, submission: Submission) -> Response {
    let (visit, fields) = (&submission.visit, &submission.fields);
    let done = async {
        let admin = visit.session.admin()?;
        let until = silence_end(visit, fields)?;
        let json = Json(AlertSilence { until });
        alerts::silence(visit.part(), admin, Path(id.clone()), Query(()), json).await
    };
    match done.await {
        Ok(_) => Redirect::to(&path(&id)).into_response(),
        Err(problem) => {
            let again = async {
                let rule = shown(visit, &id).await?;
                let (values, silence) = (values(&rule.definition), Some(fields));
                let filled = Filled { values: &values, silence, problem: Some(&problem) };
                view(visit, &rule, &filled).await
            };
            match again.await {
                Ok(view) if visit.session.is_admin() => {
                    visit.again(Section::Alerts, &problem, &view)
                }
                _ => submission.refused(&problem),
            }
        }
    }
}

/// When a silence ends: at the instant that was typed, or after some hours. `None` ends it now.
fn silence_end(visit: &Visit, fields: &Pairs) -> HandlerResult<Option<Timestamp>> {
    let until = fields.get("until");
    if !until.is_empty() {
        // Browsers leave the seconds out unless there are some.
        let seconds = if until.matches(':').count() == 1 { ":00" } else { "" };
        let instant = Timestamp::parse(&format!("{until}{seconds}Z")).ok();
        let instant = instant.filter(|until| *until > visit.now);
        return instant.map(Some).ok_or_else(|| {
            Problem::invalid("until", "must be a time in the future, such as 2026-01-31T09:30")
        });
    }
    let hours = fields.get("hours").parse::<u64>();
    match hours.map_err(|_| Problem::invalid("hours", "must be a whole number"))? {
        0 => Ok(None),
        hours => Ok(Some(visit.now.plus(Duration::from_secs(hours.saturating_mul(3600))))),
    }
}

/// Deletes the stored rule.
pub(super) async fn delete(Key(id): Key<String>, submission: Submission) -> Response {
    let visit = &submission.visit;
    let done = async {
        let admin = visit.session.admin()?;
        alerts::remove(visit.part(), admin, Path(id.clone()), Query(())).await
    };
    match done.await {
        Ok(_) if built_ins().contains_key(id.as_str()) => Redirect::to(&path(&id)).into_response(),
        Ok(_) => Redirect::to("/console/alerts").into_response(),
        Err(problem) => submission.refused(&problem),
    }
}

fn definition_form(
    visit: &Visit,
    filled: &Filled<'_>,
    rule: Option<&AlertRule>,
    destinations: &[AlertDestination],
) -> Markup {
    let is_new = rule.is_none();
    let action = rule.map_or_else(|| "/console/alerts/rules".to_owned(), |rule| path(&rule.id));
    let errors = filled.problem.map(|it| it.clone().into_document().errors).unwrap_or_default();
    let fields = Fields::new(filled.values, &errors);
    html! {
        form.sheet method="post" action=(action) {
            (hidden(TOKEN, &visit.session.id.form_token()))
            @if let Some(rule) = rule { (hidden(SHOWN, &digest(&rule.definition))) }
            fieldset {
                legend { "Rule" }
                div.grid {
                    @if is_new { (fields.text(&field("id", "Id").hint("Lower-case letters, digits and hyphens. Generated if empty."), 63)) }
                    (fields.choice(&field("severity", "Severity"), &AlertSeverity::ALL.map(|it| (it.as_str(), it.as_str()))))
                    (fields.text(&field("owner", "Owner").hint("Who looks after it, such as a team."), 128))
                }
                (fields.area(&field("description", "Description, for people"), 2))
                (fields.boxes(&field("enabled", "State"), &[("yes", "Enabled")]))
            }
            (condition(&fields))
            (scope(&fields))
            (notified(&fields, filled.values, destinations))
            div.buttons {
                button.primary type="submit" { @if is_new { "Create the rule" } @else { "Save the rule" } }
            }
        }
    }
}

fn condition(fields: &Fields<'_>) -> Markup {
    let kinds = AlertKind::ALL.map(|it| (it.as_str(), meaning(it)));
    let kinds = kinds.map(|(name, meaning)| (name, format!("{name}: {meaning}")));
    let mut reasons = vec![("", "any")];
    reasons.extend(Reason::ALL.iter().map(|reason| (reason.as_str(), reason.as_str())));
    html! {
        fieldset {
            legend { "Condition" }
            (fields.choice(&field("kind", "Fires when"), &kinds))
            div.grid {
                (fields.number(&field("threshold", "Threshold").hint("A number; its meaning depends on the kind. Empty for kinds without one.")))
                (fields.number(&field("windowSeconds", "Window, in seconds").hint("Empty for kinds without one.")))
                (fields.number(&field("forSeconds", "Fires after, in seconds").hint("How long the condition must be true.")))
                (fields.number(&field("keepFiringSeconds", "Resolve after, in seconds").hint("How long the condition must be false.")))
                (fields.choice(&field("reason", "Reason of failures").hint("For delivery_failures."), &reasons))
                (fields.text(&field("eventType", "Event type of failures").hint("For delivery_failures."), 128))
            }
            (fields.area(&field("allowedNetworks", "Allowed networks, one to a line").hint("For unexpected_address, such as 10.0.0.0/8."), 2))
        }
    }
}

fn scope(fields: &Fields<'_>) -> Markup {
    html! {
        fieldset {
            legend { "Gateways" }
            div.grid {
                (fields.area(&field("selector", "With these labels, one name=value to a line").hint("All gateways if empty. Not for rules about nodes and the inbox."), 3))
                (fields.text(&field("groupBy", "One alert per value of the label").hint("One alert for all gateways if empty."), 64))
            }
        }
    }
}

fn notified(fields: &Fields<'_>, values: &Pairs, destinations: &[AlertDestination]) -> Markup {
    let mut ids: Vec<&str> = destinations.iter().map(|it| it.id.as_str()).collect();
    // One that was deleted stays chosen until it is unticked.
    ids.extend(values.all("destinations").filter(|id| destinations.iter().all(|it| it.id != *id)));
    let ids: Vec<(&str, &str)> = ids.into_iter().map(|id| (id, id)).collect();
    html! {
        fieldset {
            legend { "Notifications" }
            (fields.radios(&field("notify", "Notify"), &[("all", "All destinations"), ("chosen", "Only those ticked below")]))
            @if ids.is_empty() { p.hint { "There is no destination yet." } }
            @else { (fields.boxes(&field("destinations", "Destinations"), &ids)) }
        }
    }
}

/// What a kind of rule finds.
const fn meaning(kind: AlertKind) -> &'static str {
    match kind {
        AlertKind::GatewayAway => "a gateway has no connection for longer than the window",
        AlertKind::GatewayBehind => {
            "a connected gateway has more pending events than the threshold, or one older than the window"
        }
        AlertKind::DeliveryFailures => {
            "more deliveries than the threshold failed within the window"
        }
        AlertKind::DeadLetters => "there are as many dead letters as the threshold",
        AlertKind::InboxRejected => "there are as many rejected rows as the threshold",
        AlertKind::DiskSpace => "less than the threshold, in percent, is free on a node's disk",
        AlertKind::Expiry => "a certificate, key or token expires within the window",
        AlertKind::NodeLost => "a node was lost within the window",
        AlertKind::UnexpectedAddress => {
            "a key was used within the window from an address outside the allowed networks"
        }
    }
}

/// The values of the form's fields.
fn values(of: &AlertRuleDefinition) -> Pairs {
    let number = |number: Option<u64>| number.map(|it| it.to_string()).unwrap_or_default();
    let notify = if of.destinations.is_some() { "chosen" } else { "all" };
    let values = Pairs::default()
        .and("kind", of.kind.as_str())
        .and("description", of.description.as_str())
        .and("severity", of.severity.as_str())
        .and("owner", of.owner.as_str())
        .and("enabled", if of.enabled { "yes" } else { "" })
        .and("selector", label_lines(&of.selector))
        .and("groupBy", of.group_by.clone().unwrap_or_default())
        .and("threshold", number(of.threshold))
        .and("windowSeconds", number(of.window_seconds))
        .and("reason", of.reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default())
        .and("eventType", of.event_type.as_ref().map_or("", EventType::as_str))
        .and("allowedNetworks", of.allowed_networks.join("\n"))
        .and("forSeconds", of.for_seconds.to_string())
        .and("keepFiringSeconds", of.keep_firing_seconds.to_string())
        .and("notify", notify);
    let ids = of.destinations.iter().flatten();
    ids.fold(values, |values, id| values.and("destinations", id.as_str()))
}

/// The definition that was typed.
fn definition(fields: &Pairs) -> HandlerResult<AlertRuleDefinition> {
    let mut reader = Reader::new(fields);
    let kind = reader.one_of("kind", &AlertKind::ALL, AlertKind::as_str);
    let severity = reader.one_of("severity", &AlertSeverity::ALL, AlertSeverity::as_str);
    let is_chosen = fields.get("notify") == "chosen";
    let definition = AlertRuleDefinition {
        id: None,
        kind: kind.unwrap_or(AlertKind::GatewayAway),
        description: fields.get("description").replace("\r\n", "\n"),
        severity: severity.unwrap_or_default(),
        owner: fields.get("owner").to_owned(),
        enabled: fields.get("enabled") == "yes",
        selector: reader.labels("selector"),
        group_by: reader.text("groupBy"),
        threshold: reader.number("threshold"),
        window_seconds: reader.number("windowSeconds"),
        reason: reader.parsed("reason"),
        event_type: reader.parsed("eventType"),
        allowed_networks: reader.lines("allowedNetworks"),
        for_seconds: reader.number("forSeconds").unwrap_or_default(),
        keep_firing_seconds: reader.number("keepFiringSeconds").unwrap_or_default(),
        destinations: is_chosen.then(|| fields.all("destinations").map(str::to_owned).collect()),
    };
    reader.finish(definition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_survives_its_form() {
        for (id, built_in) in built_ins() {
            let typed = Pairs::parse(&values(built_in).to_string());
            assert_eq!(&definition(&typed).unwrap(), built_in, "{id}");
        }
        let rule = AlertRuleDefinition {
            enabled: false,
            selector: [("a b".to_owned(), "c=d".to_owned()), ("e".to_owned(), String::new())]
                .into(),
            group_by: Some("region".to_owned()),
            reason: Some(Reason::Timeout),
            event_type: Some(EventType::new("a.b").unwrap()),
            allowed_networks: vec!["10.0.0.0/8".to_owned(), "::1".to_owned()],
            description: "two\nlines".to_owned(),
            destinations: Some(vec!["x".to_owned(), "y".to_owned()]),
            ..built_ins()["delivery-failures"].clone()
        };
        let typed = Pairs::parse(&values(&rule).to_string());
        assert_eq!(definition(&typed).unwrap(), rule);
        let none = AlertRuleDefinition { destinations: Some(Vec::new()), ..rule };
        let typed = Pairs::parse(&values(&none).to_string());
        assert_eq!(definition(&typed).unwrap(), none);
    }
}
