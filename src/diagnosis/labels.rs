//! Which labels of a target a gateway did not have, and which ones were probably meant.

use std::fmt::Write as _;

use crate::clock::Timestamp;
use crate::names::is_misspelling;
use crate::store::{GatewayState, Labels, to_the_second};

/// A label of a target that a gateway did not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The label's name in the target.
    pub label: String,
    /// Its value in the target.
    pub wanted: String,
    /// The gateway's value; `None` if it did not have this label.
    pub had: Option<String>,
    /// Until when the gateway had had the wanted value; `None` if it never had, as far as known.
    pub until: Option<Timestamp>,
    /// A similar label that the gateway had then or before, `name=value`.
    pub meant: Option<String>,
}

impl Difference {
    /// Whether a removed, changed or mistyped label explains it.
    pub const fn is_explained(&self) -> bool {
        self.until.is_some() || self.meant.is_some()
    }

    /// It in a sentence, without a subject.
    pub fn in_words(&self) -> String {
        let Self { label, wanted, had, until, meant } = self;
        let mut text = match had {
            Some(had) => format!("had {label}={had}, not {label}={wanted}"),
            None => format!("had no label {label}, and the target requires {label}={wanted}"),
        };
        if let Some(until) = until {
            _ = write!(text, "; it had {label}={wanted} until {}", to_the_second(*until));
        } else if let Some(meant) = meant {
            _ = write!(text, "; {meant} is similar, so one of them may be mistyped");
        }
        text
    }
}

/// The labels of `target` that are not among `labels`, which the gateway had at an instant. `history`
/// is all that is known of the gateway, newest first; what came after the instant explains nothing.
pub fn differences(
    target: &Labels,
    labels: &Labels,
    history: &[GatewayState],
    at: Timestamp,
) -> Vec<Difference> {
    let is_before = |state: &&GatewayState| state.replaced_at.is_some_and(|it| it <= at);
    let former: Vec<&GatewayState> = history.iter().filter(is_before).collect();
    let missing = target.iter().filter(|(name, wanted)| labels.get(*name) != Some(wanted));
    let differences = missing.map(|(name, wanted)| Difference {
        label: name.clone(),
        wanted: wanted.clone(),
        had: labels.get(name).cloned(),
        until: until(name, wanted, &former),
        meant: meant(name, wanted, labels)
            .or_else(|| former.iter().find_map(|state| meant(name, wanted, &state.labels))),
    });
    differences.collect()
}

/// The labels of a gateway that are probably mistyped, if each label of the target that it does not
/// have is similar to one of them: another value of the same name, or another name of the same value.
/// What differs in its digits, such as eu-1 and eu-2, is meant to be different. `None` if another
/// label is missing, or none is.
pub fn mistyped(target: &Labels, labels: &Labels) -> Option<Labels> {
    let missing = target.iter().filter(|(name, wanted)| labels.get(*name) != Some(wanted));
    let found: Option<Labels> =
        missing.map(|(name, wanted)| mistyped_as(name, wanted, target, labels)).collect();
    found.filter(|found| !found.is_empty())
}

fn mistyped_as(
    name: &str,
    wanted: &str,
    target: &Labels,
    labels: &Labels,
) -> Option<(String, String)> {
    if let Some(value) = labels.get(name) {
        return is_typo(wanted, value).then(|| (name.to_owned(), value.clone()));
    }
    let is_meant = |(other, value): &(&String, &String)| {
        *value == wanted && is_typo(name, other) && !target.contains_key(*other)
    };
    let (other, value) = labels.iter().find(is_meant)?;
    Some((other.clone(), value.clone()))
}

/// Whether one text is probably a misspelling of the other, with the same digits.
fn is_typo(one: &str, other: &str) -> bool {
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    digits(one) == digits(other) && is_misspelling(one, other)
}

/// Until when the gateway had a label that it lost.
fn until(name: &str, value: &str, former: &[&GatewayState]) -> Option<Timestamp> {
    let had = |state: &&&GatewayState| state.labels.get(name).is_some_and(|it| it == value);
    former.iter().find(had)?.replaced_at
}

/// A similar label: another value of the same name, or the same or a similar value of a similar
/// name.
fn meant(name: &str, wanted: &str, labels: &Labels) -> Option<String> {
    if let Some(value) = labels.get(name) {
        return is_misspelling(wanted, value).then(|| format!("{name}={value}"));
    }
    let is_meant = |(other, value): &(&String, &String)| {
        is_misspelling(name, other) && (*value == wanted || is_misspelling(wanted, value))
    };
    let (name, value) = labels.iter().find(is_meant)?;
    Some(format!("{name}={value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(60_000_000);

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn state(secs: i64, replaced: Option<i64>, of: &[(&str, &str)]) -> GatewayState {
        let at = |secs: i64| Timestamp::from_micros(secs * 1_000_000);
        GatewayState {
            changed_at: at(secs),
            replaced_at: replaced.map(at),
            name: "berlin".to_owned(),
            labels: labels(of),
            disabled_at: None,
            deleted_at: None,
            changed_by: String::new(),
        }
    }

    #[test]
    fn a_mistyped_label_is_explained_by_a_similar_one() {
        let has = labels(&[("env", "prod"), ("region", "eu-west")]);
        for (target, meant) in [
            (("region", "eu-wset"), Some("region=eu-west")),
            (("reigon", "eu-west"), Some("region=eu-west")),
            (("env", "dev"), None),
            (("tier", "gold"), None),
        ] {
            let found = differences(&labels(&[target]), &has, &[], NOW);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].meant.as_deref(), meant, "{target:?}");
            assert_eq!(found[0].is_explained(), meant.is_some());
        }
        assert!(differences(&labels(&[("env", "prod")]), &has, &[], NOW).is_empty());
    }

    #[test]
    fn a_label_is_mistyped_if_it_differs_by_more_than_digits() {
        let has = labels(&[("region", "eu-wset-1"), ("teir", "gold"), ("env", "prod")]);
        for (target, found) in [
            (&[("region", "eu-west-1")][..], &[("region", "eu-wset-1")][..]),
            (&[("region", "eu-west-1"), ("env", "prod")], &[("region", "eu-wset-1")]),
            (&[("tier", "gold")], &[("teir", "gold")]),
            (
                &[("region", "eu-west-1"), ("tier", "gold")],
                &[("region", "eu-wset-1"), ("teir", "gold")],
            ),
            (&[("region", "eu-wset-2")], &[]),
            (&[("region", "eu-west-2")], &[]),
            (&[("region", "us-east-1")], &[]),
            (&[("tier", "golden")], &[]),
            // It asks for the other name, too.
            (&[("tier", "gold"), ("teir", "gold")], &[]),
            (&[("region", "eu-west-1"), ("zone", "a")], &[]),
            (&[("env", "prod")], &[]),
        ] {
            let found = Some(labels(found)).filter(|it| !it.is_empty());
            assert_eq!(mistyped(&labels(target), &has), found, "{target:?}");
        }
    }

    #[test]
    fn a_removed_label_is_explained_by_the_history() {
        let history = [state(9, None, &[]), state(3, Some(9), &[("region", "eu-west")])];
        let none = Labels::new();
        let found = differences(&labels(&[("region", "eu-west")]), &none, &history, NOW);
        assert_eq!(found[0].until, Some(Timestamp::from_micros(9_000_000)));
        assert!(found[0].in_words().contains("until 1970-01-01T00:00:09Z"), "{found:?}");
        // Removed, and then mistyped.
        let found = differences(&labels(&[("region", "eu-wset")]), &none, &history, NOW);
        assert_eq!((found[0].until, found[0].meant.as_deref()), (None, Some("region=eu-west")));
        // What came later explains nothing.
        let early = Timestamp::from_micros(8_000_000);
        let found = differences(&labels(&[("region", "eu-west")]), &none, &history, early);
        assert!(!found[0].is_explained(), "{found:?}");
    }
}
