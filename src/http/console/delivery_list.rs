//! The lists whose deliveries can be redriven, and their filters. The pages of a redrive lead back to the
//! list that it began in.

use maud::Markup;

use super::components::{Filters, hidden};
use super::layout::Section;
use super::pairs::Pairs;
use crate::event::Reason;

/// The field with the list's name.
const FIELD: &str = "page";

/// A list of deliveries.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DeliveryList {
    name: &'static str,
    pub(super) path: &'static str,
    pub(super) title: &'static str,
    pub(super) section: Section,
}

/// The list of failures.
pub(super) const FAILURES: DeliveryList = DeliveryList {
    name: "failures",
    path: "/console/failures",
    title: "Failures",
    section: Section::Failures,
};
/// The list of dead letters.
pub(super) const DEAD_LETTERS: DeliveryList = DeliveryList {
    name: "dead-letters",
    path: "/console/dead-letters",
    title: "Dead letters",
    section: Section::DeadLetters,
};

/// The fields of the filter of deliveries, besides its window. `gateway` is what the one by gateway
/// shows.
pub(super) fn conditions<'a>(filters: Filters<'a>, gateway: &str) -> Filters<'a> {
    let mut reasons = vec![("", "any")];
    reasons.extend(Reason::ALL.iter().map(|reason| (reason.as_str(), reason.as_str())));
    filters
        .choice("reason", "Reason", &reasons)
        .gateway(gateway)
        .text("type", "Type", "api.deployed")
        .text("eventId", "Event's id", "")
        .text("correlationId", "Correlation id", "")
}

impl DeliveryList {
    /// The list that a form began in.
    pub(super) fn of(fields: &Pairs) -> &'static Self {
        if fields.get(FIELD) == DEAD_LETTERS.name { &DEAD_LETTERS } else { &FAILURES }
    }

    /// The field that names the list in a form.
    pub(super) fn field(&self) -> Markup {
        hidden(FIELD, self.name)
    }
}
