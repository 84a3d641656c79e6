//! The lists whose deliveries can be redriven. The pages of a redrive lead back to the list that it
//! began in.

use maud::Markup;

use super::components::hidden;
use super::layout::Section;
use super::pairs::Pairs;

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
