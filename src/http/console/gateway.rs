//! A gateway: its diagnosis first, then what can be done, then the evidence.

use axum::response::Response;
use maud::{Markup, html};

use super::super::extract::Path;
use super::super::problem::HandlerResult;
use super::super::query::Query;
use super::super::{diagnosis, gateways, instances};
use super::components::{Refresh, facts, following, labels};
use super::layout::{Call, Section};
use super::pairs::Pairs;
use super::states::verdict;
use super::steps::{Subject, next_steps};
use super::text::{number, said, sentences, short, span, when};
use super::visit::{Key, View, Visit};
use super::{gateway_actions, gateway_keys};
use crate::api::{Gateway, GatewayDiagnosis};
use crate::event::GatewayId;

mod evidence;

pub(super) async fn page(visit: Visit, Key(id): Key<GatewayId>) -> Response {
    let view = content(&visit, id).await;
    visit.respond(Section::Gateways, view)
}

async fn content(visit: &Visit, id: GatewayId) -> HandlerResult<View> {
    let reader = || visit.session.reader();
    let (gateway, diagnosis, instances) = tokio::try_join!(
        gateways::show(visit.state(), visit.part(), reader()?, Path(id), Query(())),
        diagnosis::of_gateway(visit.part(), visit.part(), reader()?, Path(id), Query(())),
        instances::list(visit.part(), reader()?, Path(id), Query(())),
    )?;
    let (gateway, diagnosis, instances) = (gateway.0, diagnosis.0, instances.0);
    let name = short(&gateway.name, 64);
    let body = html! {
        p.up { a href="/console/gateways" { "Gateways" } }
        h1 { bdi { (name) } }
        (following(visit, Refresh::OFTEN, Some(id), &html! {
            (verdict_part(visit, &gateway, &diagnosis))
            (gateway_facts(visit, &gateway))
        }))
        @if visit.session.is_admin() { (gateway_actions::part(visit, &gateway, &diagnosis)) }
        (evidence::pending(visit, &gateway, &diagnosis))
        (evidence::failures(visit, &gateway, &diagnosis))
        (evidence::connections(visit, &diagnosis))
        (evidence::instances(visit, &instances))
        (gateway_keys::part(visit, &diagnosis))
        (evidence::missed(visit, &gateway, &diagnosis))
        (evidence::rejected(visit, &diagnosis))
        (evidence::history(visit, &diagnosis))
        (evidence::manifest(visit, &gateway))
    };
    let none = Pairs::default();
    let calls = vec![
        Call::get(format!("/gateways/{id}"), &none),
        Call::get(format!("/gateways/{id}/diagnosis"), &none),
        Call::get(format!("/gateways/{id}/instances"), &none),
    ];
    Ok(View { title: name, calls, body })
}

fn verdict_part(visit: &Visit, gateway: &Gateway, diagnosis: &GatewayDiagnosis) -> Markup {
    let of = &diagnosis.verdict;
    html! {
        div.verdict {
            (verdict(of.state))
            p {
                (sentences(&of.summary))
                " (" (when(of.since, visit.now)) ")"
            }
        }
        @if let Some(refusal) = &gateway.last_refusal {
            p.hint {
                "Last refused connection attempt: " (when(refusal.at, visit.now)) " from " (said(&refusal.address)) ", "
                (said(refusal.cause.as_deref().unwrap_or(&refusal.code)))
            }
        }
        (next_steps(visit, Subject::Gateway(gateway.id), &diagnosis.next))
    }
}

fn gateway_facts(visit: &Visit, gateway: &Gateway) -> Markup {
    let id = gateway.id;
    let lag = gateway.lag;
    facts(&[
        ("Connections", html! { (number(gateway.connections)) }),
        (
            "Pending",
            html! {
                a href=(format!("/console/failures?status=pending&gatewayId={id}")) { (number(lag.events)) }
                @if lag.events > 0 { ", the oldest for " (span(lag.seconds)) }
            },
        ),
        (
            "Confirmed",
            html! {
                (number(gateway.confirmed.0)) " of "
                a href=(format!("/console/gateways/{id}/log")) { (number(gateway.head.0)) " in the log" }
            },
        ),
        ("Labels", labels(&gateway.labels)),
        (
            "Replicas",
            html! { (number(gateway.replicas)) ", confirmed by " (gateway.confirmation.as_str()) },
        ),
        ("Registered", when(gateway.created_at, visit.now)),
        ("Id", html! { code.id { (id) } }),
    ])
}
