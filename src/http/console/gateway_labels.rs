//! A gateway's labels in a form: one to a line, all of them at once. What the form no longer lists is
//! removed.

use std::collections::BTreeMap;

use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};

use super::super::extract::{MergePatch, Path};
use super::super::gateways;
use super::super::problem::{HandlerResult, Problem};
use super::super::query::Query;
use super::components::{hidden, labels};
use super::fields::{Fields, Reader, SHOWN, digest, field, label_lines, refuse_outdated};
use super::form::{Submission, TOKEN};
use super::layout::{Section, refusal};
use super::pairs::Pairs;
use super::text::short;
use super::visit::{Key, View, Visit};
use crate::api::{Gateway, GatewayChange, LabelChange, Labels};
use crate::event::GatewayId;

/// The field with the labels.
const NAME: &str = "labels";

/// The form.
pub(super) fn offer(visit: &Visit, gateway: &Gateway) -> Markup {
    let values = Pairs::default().and(NAME, label_lines(&gateway.labels));
    html! {
        details {
            summary { "Change its labels" }
            (form(visit, gateway, &values, None))
        }
    }
}

fn form(visit: &Visit, gateway: &Gateway, values: &Pairs, problem: Option<&Problem>) -> Markup {
    let errors = problem.map(|it| it.clone().into_document().errors).unwrap_or_default();
    let area = field(NAME, "Labels, one name=value to a line").hint(
        "Applies to events that are published from now on. Resend earlier ones that the gateway needs.",
    );
    html! {
        form method="post" action=(format!("/console/gateways/{}/labels", gateway.id)) {
            (hidden(TOKEN, &visit.session.id.form_token()))
            (hidden(SHOWN, &digest(&gateway.labels)))
            (Fields::new(values, &errors).area(&area, 4))
            button type="submit" { "Save the labels" }
        }
    }
}

/// Replaces the labels.
pub(super) async fn save(Key(id): Key<GatewayId>, submission: Submission) -> Response {
    match saved(&submission, id).await {
        Ok(()) => {
            let page = format!("/console/gateways/{id}");
            Redirect::to(&page).into_response()
        }
        Err(problem) if ["invalid", "conflict"].contains(&problem.code()) => {
            match again(&submission, id, &problem).await {
                Ok(view) => submission.visit.again(Section::Gateways, &problem, &view),
                Err(_) => submission.refused(&problem),
            }
        }
        Err(problem) => submission.refused(&problem),
    }
}

/// The form with what was typed, and what is stored now.
async fn again(submission: &Submission, id: GatewayId, problem: &Problem) -> HandlerResult<View> {
    let visit = &submission.visit;
    let reader = visit.session.reader()?;
    let gateway = gateways::show(visit.state(), visit.part(), reader, Path(id), Query(())).await?.0;
    let body = html! {
        p.up { a href=(format!("/console/gateways/{id}")) { "Gateway " bdi { (short(&gateway.name, 64)) } } }
        h1 { "Labels" }
        (refusal(problem))
        p { "Stored now: " (labels(&gateway.labels)) }
        section.actions { (form(visit, &gateway, &submission.fields, Some(problem))) }
    };
    Ok(View { title: "Labels".to_owned(), calls: Vec::new(), body })
}

async fn saved(submission: &Submission, id: GatewayId) -> HandlerResult<()> {
    let visit = &submission.visit;
    let admin = visit.session.admin()?;
    let mut reader = Reader::new(&submission.fields);
    let wanted = reader.labels(NAME);
    let wanted = reader.finish(wanted)?;
    let shown =
        gateways::show(visit.state(), visit.part(), visit.session.reader()?, Path(id), Query(()))
            .await?
            .0;
    refuse_outdated(&submission.fields, &shown.labels)?;
    let labels = Some(LabelChange::Merge(changes(&shown.labels, wanted)));
    let change = MergePatch(GatewayChange { labels, ..GatewayChange::default() });
    gateways::change(visit.state(), visit.part(), admin, Path(id), Query(()), change)
        .await
        .map(drop)
}

/// What turns some labels into others. Labels that stay as they are, are not part of it, so that
/// another change at the same time is not undone.
fn changes(present: &Labels, wanted: Labels) -> BTreeMap<String, Option<String>> {
    let removed = present.keys().filter(|name| !wanted.contains_key(*name));
    let removed: Vec<_> = removed.map(|name| (name.clone(), None)).collect();
    let set = wanted.into_iter().filter(|(name, value)| present.get(name) != Some(value));
    set.map(|(name, value)| (name, Some(value))).chain(removed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_that_differ_are_changed() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let present = labels(&[("env", "prod"), ("region", "eu-wset"), ("old", "x")]);
        let wanted = labels(&[("env", "prod"), ("region", "eu-west"), ("new", "y")]);
        let expected = [("new", Some("y")), ("old", None), ("region", Some("eu-west"))];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        assert_eq!(changes(&present, wanted), BTreeMap::from(expected));
    }
}
