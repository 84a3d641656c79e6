//! What to do next, as a diagnosis proposes it: the command, and where the console does the same.

use maud::{Markup, html};

use super::pairs::Pairs;
use super::text::{lines, sentences};
use super::visit::Visit;
use crate::api::NextStep;
use crate::event::{EventId, GatewayId};
use crate::store::Scope;

/// What a diagnosis is about.
#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    Gateway(GatewayId),
    Event(&'a EventId),
}

/// A link to the page of the console on which a step can be taken.
#[derive(Debug, PartialEq, Eq)]
struct ConsoleLink {
    href: String,
    text: &'static str,
    needed: Scope,
}

/// What to do next, the most urgent first.
pub(super) fn next_steps(visit: &Visit, subject: Subject<'_>, steps: &[NextStep]) -> Markup {
    html! {
        @if !steps.is_empty() {
            section.next aria-labelledby="next" {
                h2 #next { "What to do next" }
                ol {
                    @for (nth, step) in steps.iter().enumerate() {
                        @let id = format!("step-{nth}");
                        li {
                            p {
                                (sentences(&step.why))
                                @if let Some(link) = link_of(subject, &step.command).filter(|it| visit.session.can(it.needed)) {
                                    " " a href=(link.href) { (link.text) }
                                }
                            }
                            div.command {
                                pre tabindex="0" { code id=(id) { (lines(&step.command)) } }
                                button type="button" hidden data-copy=(id) { "Copy" }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Where the console does what a command does; `None` for commands without a counterpart.
fn link_of(subject: Subject<'_>, command: &str) -> Option<ConsoleLink> {
    let mut words = command.split_whitespace().skip(1);
    let (noun, verb) = (words.next()?, words.next().unwrap_or_default());
    let on_page =
        |id: &str, text, needed| Some(ConsoleLink { href: format!("#{id}"), text, needed });
    let at = |href: String, text, needed| Some(ConsoleLink { href, text, needed });
    let option = |name: &str| {
        let mut words = command.split_whitespace().skip_while(|word| *word != name);
        words.nth(1).unwrap_or_default().to_owned()
    };
    match (subject, noun, verb) {
        (Subject::Gateway(_), "token", "create") => on_page("keys", "Create a key", Scope::Admin),
        (Subject::Gateway(_), "gateway", "connections") => {
            on_page("connections", "Show its connections", Scope::Read)
        }
        (Subject::Gateway(_), "gateway", "instances") => {
            on_page("instances", "Show its instances", Scope::Read)
        }
        (Subject::Gateway(_), "gateway", "update") => {
            on_page("actions", "Change its labels", Scope::Admin)
        }
        (Subject::Gateway(_), "gateway", "resume" | "enable") => {
            on_page("actions", "Show the actions", Scope::Admin)
        }
        (Subject::Gateway(id), "gateway", "log") => {
            at(format!("/console/gateways/{id}/log"), "Show its log", Scope::Read)
        }
        (Subject::Gateway(_), "event", "resend") => {
            on_page("missed", "Show the events that missed it", Scope::Read)
        }
        (Subject::Gateway(_), "inbox" | "event-type", _) => {
            on_page("rejected", "Show the rejected rows", Scope::Read)
        }
        (Subject::Gateway(id), "delivery", "redrive" | "failed") => {
            let query = Pairs::default().with("gatewayId", id.to_string());
            let query = query.with("reason", option("--reason"));
            at(query.after("/console/dead-letters"), "Show the deliveries", Scope::Read)
        }
        (Subject::Event(id), "event", "republish") => {
            let query = Pairs::default().with("again", id.as_str());
            let query = query.with("gateway", option("--gateway"));
            at(query.after("/console/publish"), "Publish it again", Scope::Publish)
        }
        (Subject::Event(id), "event", "resend") => {
            let query = Pairs::default().with("resendTo", option("--gateway"));
            let path = super::components::event_path(id.as_str());
            at(format!("{}#actions", query.after(&path)), "Resend it", Scope::Admin)
        }
        (Subject::Event(id), "delivery", "redrive") => {
            let query = Pairs::default().with("eventId", id.as_str());
            at(query.after("/console/dead-letters"), "Show the deliveries", Scope::Read)
        }
        (Subject::Event(_), "why", name) => {
            let query = Pairs::default().with("q", name);
            at(query.after("/console/gateways"), "Find the gateway", Scope::Read)
        }
        (Subject::Event(_), "gateway", "list") => {
            at("/console/gateways".to_owned(), "Show the gateways", Scope::Read)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_links_to_the_page_that_does_the_same() {
        let gateway = GatewayId::new();
        let event = EventId::new("e-1").unwrap();
        let href = |subject, command: &str| {
            link_of(subject, &format!("gateway-events {command}")).map(|link| link.href)
        };
        let of_gateway = |command| href(Subject::Gateway(gateway), command);
        let of_event = |command| href(Subject::Event(&event), command);
        assert_eq!(of_gateway("token create --gateway berlin").as_deref(), Some("#keys"));
        assert_eq!(of_gateway("gateway update berlin --label a=b").as_deref(), Some("#actions"));
        assert_eq!(of_gateway("event resend --missed-by berlin").as_deref(), Some("#missed"));
        assert_eq!(of_gateway("inbox retry 5").as_deref(), Some("#rejected"));
        assert_eq!(
            of_gateway("delivery failed --gateway berlin --reason expired"),
            Some(format!("/console/dead-letters?gatewayId={gateway}&reason=expired"))
        );
        assert_eq!(
            of_event("event republish e-1 --gateway berlin --ttl 1d").as_deref(),
            Some("/console/publish?again=e-1&gateway=berlin")
        );
        assert_eq!(
            of_event("event resend e-1 --gateway berlin").as_deref(),
            Some("/console/events/e-1?resendTo=berlin#actions")
        );
        assert_eq!(of_event("gateway register berlin"), None);
        assert_eq!(of_event("nonsense"), None);
    }
}
