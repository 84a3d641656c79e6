//! Rules: what is valid, and those that are built in. A built-in rule is in force until one of the
//! same id is stored, so that later versions can improve it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use crate::api::{AlertKind, AlertRuleDefinition, AlertSeverity, FieldError, Labels};
use crate::clock::Timestamp;
use crate::config::Network;
use crate::names;
use crate::store::StoredRule;

/// The longest id of a rule or a destination.
pub const MAX_ID_BYTES: usize = 63;
/// The longest description, in characters.
const MAX_DESCRIPTION_CHARS: usize = 1_000;
const MAX_OWNER_CHARS: usize = 128;
/// The longest name and value of a label.
const MAX_LABEL_NAME_CHARS: usize = 64;
const MAX_LABEL_VALUE_CHARS: usize = 256;
const MAX_LABELS: usize = 64;
const MAX_NETWORKS: usize = 64;
const MAX_DESTINATIONS: usize = 32;
const DAY_SECS: u64 = 86_400;
const MAX_WINDOW_SECS: u64 = 90 * DAY_SECS;
const MAX_THRESHOLD: u64 = 1_000_000_000;

/// A rule in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its id.
    pub id: String,
    /// Whether one of this id is built in.
    pub is_built_in: bool,
    /// What it says.
    pub definition: AlertRuleDefinition,
    /// Until when it is silent, and who silenced it.
    pub silence: Option<(Timestamp, String)>,
}

impl Rule {
    /// Whether it is silent at an instant.
    pub fn is_silent(&self, at: Timestamp) -> bool {
        self.silence.as_ref().is_some_and(|(until, _)| *until > at)
    }
}

/// The built-in rules, by id.
pub fn built_ins() -> &'static BTreeMap<&'static str, AlertRuleDefinition> {
    &BUILT_INS
}

static BUILT_INS: LazyLock<BTreeMap<&'static str, AlertRuleDefinition>> = LazyLock::new(|| {
    use AlertSeverity::{Critical, Warning};
    let rule = |kind, severity, threshold, window_seconds, hold: (u64, u64), description: &str| {
        AlertRuleDefinition {
            id: None,
            kind,
            description: description.to_owned(),
            severity,
            owner: String::new(),
            enabled: true,
            selector: Labels::new(),
            group_by: None,
            threshold,
            window_seconds,
            reason: None,
            event_type: None,
            allowed_networks: Vec::new(),
            for_seconds: hold.0,
            keep_firing_seconds: hold.1,
            destinations: None,
        }
    };
    BTreeMap::from([
        (
            "certificate-or-key-expiring",
            rule(
                AlertKind::Expiry,
                Warning,
                None,
                Some(14 * DAY_SECS),
                (0, 0),
                "A certificate, a gateway's key or an access token in use expires within two weeks.",
            ),
        ),
        (
            "dead-letters",
            rule(
                AlertKind::DeadLetters,
                Warning,
                Some(1),
                None,
                (0, 300),
                "Deliveries were given up. Redrive them after fixing the cause.",
            ),
        ),
        (
            "delivery-failures",
            rule(
                AlertKind::DeliveryFailures,
                Warning,
                Some(100),
                Some(900),
                (0, 300),
                "More than 100 deliveries failed within a quarter of an hour.",
            ),
        ),
        (
            "disk-nearly-full",
            rule(
                AlertKind::DiskSpace,
                Critical,
                Some(10),
                None,
                (60, 300),
                "Less than a tenth of a node's disk is free.",
            ),
        ),
        (
            "gateway-away",
            rule(
                AlertKind::GatewayAway,
                Warning,
                None,
                Some(300),
                (0, 60),
                "A gateway has had no connection for five minutes.",
            ),
        ),
        (
            "gateway-behind",
            rule(
                AlertKind::GatewayBehind,
                Warning,
                None,
                Some(600),
                (0, 60),
                "A connected gateway has not confirmed an event for ten minutes.",
            ),
        ),
        (
            "inbox-rejected",
            rule(
                AlertKind::InboxRejected,
                Warning,
                Some(1),
                None,
                (0, 60),
                "Rows of the inbox could not be published, and were not put back.",
            ),
        ),
        (
            "node-lost",
            rule(
                AlertKind::NodeLost,
                Critical,
                None,
                Some(3_600),
                (0, 0),
                "A node stopped without a shutdown, and none has started on its host since.",
            ),
        ),
    ])
});

/// The rules of an organisation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Those in force, by id: the stored ones, and the built-in ones that they don't replace.
    pub in_force: Vec<Rule>,
    /// The ids of stored ones that this version can't read, because a newer one stored them. A node of
    /// that version evaluates them.
    pub unreadable: Vec<String>,
}

impl Rules {
    /// The rules, given the stored ones.
    pub fn new(stored: Vec<StoredRule>) -> Self {
        let mut rules: BTreeMap<String, Rule> = BUILT_INS
            .iter()
            .map(|(id, definition)| {
                let (id, definition) = ((*id).to_owned(), definition.clone());
                (id.clone(), Rule { id, is_built_in: true, definition, silence: None })
            })
            .collect();
        let mut unreadable = Vec::new();
        for row in stored {
            let built_in = BUILT_INS.get(row.id.as_str());
            let definition = match &row.definition {
                Some(text) => serde_json::from_str(text).ok(),
                None => built_in.cloned(),
            };
            let Some(definition) = definition else {
                rules.remove(&row.id);
                unreadable.push(row.id);
                continue;
            };
            let is_built_in = built_in.is_some();
            let rule = Rule { id: row.id.clone(), is_built_in, definition, silence: row.silence };
            rules.insert(row.id, rule);
        }
        Self { in_force: rules.into_values().collect(), unreadable }
    }
}

/// Whether a text can be the id of a rule or a destination.
pub fn is_id(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_ID_BYTES).contains(&text.len())
        && text.bytes().all(is_allowed)
        && !text.starts_with('-')
}

/// What is wrong with an id.
pub fn check_id(id: &str) -> Option<FieldError> {
    (!is_id(id)).then(|| {
        error(
            "id",
            "must be 1 to 63 lower-case letters, digits and hyphens, and not begin with a hyphen",
        )
    })
}

/// An invalid field.
pub(super) fn error(field: &str, message: impl Into<String>) -> FieldError {
    FieldError { field: field.to_owned(), message: message.into() }
}

/// Everything that is wrong with a rule.
pub fn problems(rule: &AlertRuleDefinition) -> Vec<FieldError> {
    let mut errors = Vec::new();
    errors.extend(rule.id.as_deref().and_then(check_id));
    check_texts(rule, &mut errors);
    check_numbers(rule, &mut errors);
    check_filters(rule, &mut errors);
    errors
}

fn check_texts(rule: &AlertRuleDefinition, errors: &mut Vec<FieldError>) {
    if rule.description.chars().count() > MAX_DESCRIPTION_CHARS {
        errors.push(error(
            "description",
            format!("must be at most {MAX_DESCRIPTION_CHARS} characters"),
        ));
    }
    if !names::is_plain(&rule.owner, MAX_OWNER_CHARS) {
        errors.push(error(
            "owner",
            format!("must be at most {MAX_OWNER_CHARS} characters, without control characters"),
        ));
    }
    if rule.selector.len() > MAX_LABELS {
        errors.push(error("selector", format!("must be at most {MAX_LABELS} labels")));
    }
    for (name, value) in &rule.selector {
        let is_valid = names::is_plain(name, MAX_LABEL_NAME_CHARS)
            && names::is_plain(value, MAX_LABEL_VALUE_CHARS);
        if !is_valid || name.is_empty() {
            errors.push(error("selector", "has a name or a value that no label can have"));
        }
    }
    let is_label = |name: &String| !name.is_empty() && names::is_plain(name, MAX_LABEL_NAME_CHARS);
    if !rule.group_by.as_ref().is_none_or(is_label) {
        errors.push(error("groupBy", "must be the name of a label"));
    }
    let destinations = rule.destinations.as_deref().unwrap_or_default();
    if destinations.len() > MAX_DESTINATIONS || !destinations.iter().all(|id| is_id(id)) {
        errors.push(error(
            "destinations",
            format!("must be at most {MAX_DESTINATIONS} ids of destinations"),
        ));
    }
}

fn check_numbers(rule: &AlertRuleDefinition, errors: &mut Vec<FieldError>) {
    let most = if rule.kind == AlertKind::DeliveryFailures { DAY_SECS } else { MAX_WINDOW_SECS };
    if rule.window_seconds.is_some_and(|secs| !(1..=most).contains(&secs)) {
        errors.push(error("windowSeconds", format!("must be 1 to {most}")));
    }
    let most = if rule.kind == AlertKind::DiskSpace { 99 } else { MAX_THRESHOLD };
    if rule.threshold.is_some_and(|number| !(1..=most).contains(&number)) {
        errors.push(error("threshold", format!("must be 1 to {most}")));
    }
    for (field, secs) in
        [("forSeconds", rule.for_seconds), ("keepFiringSeconds", rule.keep_firing_seconds)]
    {
        if secs > DAY_SECS {
            errors.push(error(field, format!("must be at most {DAY_SECS}")));
        }
    }
    let (threshold, window) = parameters(rule.kind);
    for (field, is_given, needs) in [
        ("threshold", rule.threshold.is_some(), threshold),
        ("windowSeconds", rule.window_seconds.is_some(), window),
    ] {
        let kind = rule.kind.as_str();
        match (needs, is_given) {
            (Needs::It, false) => errors.push(error(field, format!("is required for {kind}"))),
            (Needs::None, true) => errors.push(error(field, format!("has no meaning for {kind}"))),
            _ => {}
        }
    }
    let is_behind = rule.kind == AlertKind::GatewayBehind;
    if is_behind && rule.threshold.is_none() && rule.window_seconds.is_none() {
        errors.push(error("threshold", "is required for gateway_behind, or windowSeconds is"));
    }
}

/// Whether a kind takes a parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    It,
    Perhaps,
    None,
}

/// Whether a kind takes `threshold` and `windowSeconds`.
const fn parameters(kind: AlertKind) -> (Needs, Needs) {
    match kind {
        AlertKind::GatewayAway
        | AlertKind::Expiry
        | AlertKind::NodeLost
        | AlertKind::UnexpectedAddress => (Needs::None, Needs::It),
        AlertKind::GatewayBehind => (Needs::Perhaps, Needs::Perhaps),
        AlertKind::DeliveryFailures => (Needs::It, Needs::It),
        AlertKind::DeadLetters | AlertKind::InboxRejected | AlertKind::DiskSpace => {
            (Needs::It, Needs::None)
        }
    }
}

fn check_filters(rule: &AlertRuleDefinition, errors: &mut Vec<FieldError>) {
    let kind = rule.kind.as_str();
    let without = |field: &str| error(field, format!("has no meaning for {kind}"));
    if rule.kind != AlertKind::DeliveryFailures {
        errors.extend(rule.reason.is_some().then(|| without("reason")));
        errors.extend(rule.event_type.is_some().then(|| without("eventType")));
    }
    if !is_of_gateways(rule.kind) {
        errors.extend((!rule.selector.is_empty()).then(|| without("selector")));
        errors.extend(rule.group_by.is_some().then(|| without("groupBy")));
    }
    if rule.kind == AlertKind::UnexpectedAddress {
        if rule.allowed_networks.is_empty() || rule.allowed_networks.len() > MAX_NETWORKS {
            errors.push(error("allowedNetworks", format!("must be 1 to {MAX_NETWORKS} networks")));
        }
        for network in &rule.allowed_networks {
            if let Err(why) = network.parse::<Network>() {
                errors.push(error("allowedNetworks", why));
            }
        }
    } else if !rule.allowed_networks.is_empty() {
        errors.push(without("allowedNetworks"));
    }
}

/// Whether a kind watches gateways, which have labels.
pub(super) const fn is_of_gateways(kind: AlertKind) -> bool {
    !matches!(kind, AlertKind::InboxRejected | AlertKind::DiskSpace | AlertKind::NodeLost)
}

/// Whether an address is in one of the allowed networks of a rule.
pub(super) fn is_allowed(rule: &AlertRuleDefinition, address: &str) -> bool {
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let networks = rule.allowed_networks.iter().filter_map(|text| text.parse::<Network>().ok());
    networks.into_iter().any(|network| network.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_rules_are_valid_and_survive_storage() {
        assert_eq!(built_ins().len(), 8);
        for (id, definition) in built_ins() {
            assert!(is_id(id), "{id}");
            assert_eq!(problems(definition), Vec::new(), "{id}");
            let text = serde_json::to_string(definition).unwrap();
            assert_eq!(serde_json::from_str::<AlertRuleDefinition>(&text).unwrap(), *definition);
        }
    }

    #[test]
    fn a_parameter_that_a_kind_does_not_take_is_refused() {
        for kind in AlertKind::ALL {
            let mut rule = built_ins()["gateway-away"].clone();
            (rule.kind, rule.threshold, rule.window_seconds) = (kind, None, None);
            let (threshold, window) = parameters(kind);
            let fields = |rule: &AlertRuleDefinition| -> Vec<String> {
                problems(rule).into_iter().map(|error| error.field).collect()
            };
            let missing = fields(&rule);
            assert_eq!(missing.contains(&"windowSeconds".to_owned()), window == Needs::It);
            (rule.threshold, rule.window_seconds) = (Some(5), Some(5));
            let given = fields(&rule);
            assert_eq!(given.contains(&"threshold".to_owned()), threshold == Needs::None);
            assert_eq!(given.contains(&"windowSeconds".to_owned()), window == Needs::None);
        }
    }

    #[test]
    fn a_stored_rule_replaces_the_built_in_one_and_a_silence_does_not() {
        let at = Timestamp::from_micros(1);
        let row = |id: &str, definition: Option<&AlertRuleDefinition>| StoredRule {
            id: id.to_owned(),
            definition: definition.map(|it| serde_json::to_string(it).unwrap()),
            silence: Some((at, "ops".to_owned())),
            created_at: at,
            updated_at: at,
        };
        let own =
            AlertRuleDefinition { window_seconds: Some(7), ..built_ins()["gateway-away"].clone() };
        let stored = vec![
            row("dead-letters", None),
            row("gateway-away", Some(&own)),
            StoredRule { definition: Some(r#"{"kind":"later"}"#.to_owned()), ..row("newer", None) },
            row("no-such", None),
            row("zzz", Some(&own)),
        ];
        let Rules { in_force: rules, unreadable } = Rules::new(stored);
        assert_eq!((rules.len(), unreadable), (9, vec!["newer".to_owned(), "no-such".to_owned()]));
        let found = |id: &str| rules.iter().find(|rule| rule.id == id).unwrap();
        assert_eq!(found("gateway-away").definition.window_seconds, Some(7));
        assert!(found("dead-letters").is_silent(Timestamp::from_micros(0)));
        assert!(!found("dead-letters").is_silent(at));
        assert!(!found("zzz").is_built_in && found("zzz").definition == own);
    }
}
