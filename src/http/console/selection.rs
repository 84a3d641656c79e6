//! Rows of a list that are selected for an action. Each row has a checkbox, which belongs to a form
//! next to the part that refreshes, so that a refresh does not replace the form.

use std::sync::Arc;
use std::time::Instant;

use maud::{Markup, html};

use super::super::problem::{HandlerResult, Problem};
use super::components::hidden;
use super::form::{Submission, TOKEN};
use super::pairs::Pairs;
use super::states::{Tone, state};
use super::text::sentences;
use super::visit::Visit;
use crate::config::Config;

/// The field with the query of the list, for the link back.
const LIST: &str = "list";

/// A row's checkbox.
pub(super) fn checkbox(name: &str, value: &str, label: &str) -> Markup {
    html! {
        input type="checkbox" name=(name) value=(value) form="selection" autocomplete="off" aria-label=(label);
    }
}

/// The form that the checkboxes belong to. Selecting a whole page needs a script, which shows its
/// checkbox.
pub(super) fn form(visit: &Visit, path: &str, controls: &Markup) -> Markup {
    html! {
        form #selection.selection method="post" action=(path) aria-label="Selected rows" {
            (hidden(TOKEN, &visit.session.id.form_token()))
            (hidden("step", "dry-run"))
            (hidden(LIST, &visit.query.to_string()))
            div.tick data-select-all hidden {
                input #select-all type="checkbox" autocomplete="off";
                label for="select-all" { "Select all on this page" }
            }
            (controls)
            output #selected for="select-all" {}
        }
    }
}

/// What the forms of the following pages repeat.
pub(super) fn fields(submission: &Submission, step: &str) -> Markup {
    html! {
        (hidden(TOKEN, &submission.visit.session.id.form_token()))
        (hidden("step", step))
        (hidden(LIST, submission.fields.get(LIST)))
    }
}

/// The address of the list that the rows were selected in.
pub(super) fn list(submission: &Submission, path: &str) -> String {
    Pairs::parse(submission.fields.get(LIST)).after(path)
}

/// The values of the selected rows, each once.
pub(super) fn values<'a>(
    submission: &'a Submission,
    name: &'static str,
    most: usize,
) -> HandlerResult<Vec<&'a str>> {
    let mut values: Vec<&str> = Vec::new();
    for value in submission.fields.all(name).map(str::trim) {
        if !value.is_empty() && !values.contains(&value) {
            values.push(value);
        }
    }
    if values.is_empty() {
        return Err(Problem::invalid(name, "nothing is selected; select at least one row"));
    }
    if values.len() > most {
        return Err(Problem::invalid(name, format!("at most {most} rows can be selected")));
    }
    Ok(values)
}

/// The result of the action at one row.
pub(super) enum Outcome {
    Done(Markup),
    Unchanged(Markup),
    Refused(Problem),
    NotAttempted,
}

impl Outcome {
    /// Its state as a word, and the explanation.
    pub(super) fn cells(&self) -> [Markup; 2] {
        match self {
            Self::Done(text) => [state("done", Tone::Good), text.clone()],
            Self::Unchanged(text) => [state("unchanged", Tone::Quiet), text.clone()],
            Self::Refused(problem) => {
                let word = if problem.status().is_server_error() { "failed" } else { "refused" };
                [state(word, Tone::Bad), sentences(&problem.clone().into_document().detail)]
            }
            Self::NotAttempted => [
                state("not attempted", Tone::Warning),
                html! { "An earlier row failed, or time ran out." },
            ],
        }
    }

    /// Whether another attempt may have another result.
    pub(super) const fn is_open(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::NotAttempted)
    }
}

/// How many rows of a result are done, unchanged, refused and not attempted.
pub(super) fn summary<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Markup {
    let mut counts =
        [("done", 0), ("unchanged", 0), ("refused or failed", 0), ("not attempted", 0)];
    for outcome in outcomes {
        let nth = match outcome {
            Outcome::Done(_) => 0,
            Outcome::Unchanged(_) => 1,
            Outcome::Refused(_) => 2,
            Outcome::NotAttempted => 3,
        };
        counts[nth].1 += 1;
    }
    let is_good = counts[2].1 + counts[3].1 == 0;
    let words: Vec<String> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    html! {
        div class=(if is_good { "notice good" } else { "notice bad" }) role="status" {
            p { (words.join(", ")) "." }
        }
    }
}

/// An action at one row after the other. It ends at the first failure of the service, and before
/// the request's timeout could cut off a call: each row then has a known result.
pub(super) struct Run {
    until: Instant,
    has_failed: bool,
    is_first: bool,
}

impl Run {
    pub(super) fn new(visit: &Visit) -> Self {
        let until = Instant::now() + visit.state.get::<Arc<Config>>().server.request_timeout / 2;
        Self { until, has_failed: false, is_first: true }
    }

    /// Whether the remaining rows are left out.
    pub(super) fn is_over(&self) -> bool {
        self.has_failed || (!self.is_first && Instant::now() >= self.until)
    }

    /// The outcome of an attempt. A failure of the service at the first row is an error: nothing else
    /// was done.
    pub(super) fn outcome(&mut self, result: HandlerResult<Outcome>) -> HandlerResult<Outcome> {
        let is_first = std::mem::take(&mut self.is_first);
        match result {
            Err(problem) if problem.status().is_server_error() => {
                self.has_failed = true;
                if is_first { Err(problem) } else { Ok(Outcome::Refused(problem)) }
            }
            Err(problem) => Ok(Outcome::Refused(problem)),
            Ok(outcome) => Ok(outcome),
        }
    }
}
