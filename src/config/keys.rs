//! The names of settings, which the defaults define, and suggestions for misspelt ones.

use toml::{Table, Value};

/// The prefix of environment variables that are settings.
pub(super) const PREFIX: &str = "GATEWAY_EVENTS__";
/// The prefix without underscores, shortened so that it is found in misspelt names.
const NORMALIZED_PREFIX: &str = "GATEWAYEVENT";
/// The maximum edit distance at which a name counts as misspelt.
const MAX_EDIT_DISTANCE: usize = 2;
/// The minimum similarity of a suggested key, from 0 to 1.
const SIMILAR: f64 = 0.8;

/// The value of a key such as `server.listen`.
pub(super) fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        Some((section, rest)) => find(table.get(section)?.as_table()?, rest),
        None => table.get(key),
    }
}

/// Sets the value of a key whose section exists.
pub(super) fn set(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        Some((section, rest)) => {
            if let Some(Value::Table(inner)) = table.get_mut(section) {
                set(inner, rest, value);
            }
        }
        None => drop(table.insert(key.to_owned(), value)),
    }
}

/// Removes a key and its value.
pub(super) fn remove(table: &mut Table, key: &str) {
    match key.split_once('.') {
        Some((section, rest)) => {
            if let Some(Value::Table(inner)) = table.get_mut(section) {
                remove(inner, rest);
            }
        }
        None => drop(table.remove(key)),
    }
}

/// Overrides the values of one table with those of another.
pub(super) fn merge(below: &mut Table, above: &Table) {
    for (key, value) in above {
        match (below.get_mut(key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            _ => drop(below.insert(key.clone(), value.clone())),
        }
    }
}

/// The first key that is not in the defaults.
pub(super) fn first_unknown(table: &Table, defaults: &Table) -> Option<String> {
    table.iter().find_map(|(key, value)| match (value, defaults.get(key)) {
        (_, None) => Some(key.clone()),
        (Value::Table(inner), Some(Value::Table(defaults))) => {
            first_unknown(inner, defaults).map(|inner| format!("{key}.{inner}"))
        }
        _ => None,
    })
}

/// The error about a key that is not in the defaults, with the most similar key or a list of
/// all. `shown` formats a key.
pub(super) fn unknown(key: &str, defaults: &Table, shown: fn(&str) -> String) -> String {
    let mut all = leaves(defaults);
    if !key.contains('.') {
        let sections = defaults.iter().filter(|(name, value)| value.is_table() && *name != key);
        all.extend(sections.map(|(name, _)| name.clone()));
    }
    let similarity = |one: &String| strsim::jaro_winkler(&normalized(one), &normalized(key));
    let closest = all.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
    if let Some(closest) = closest.filter(|closest| similarity(closest) >= SIMILAR) {
        return format!("there is no such setting; did you mean `{}`?", shown(closest));
    }
    let section = key
        .split_once('.')
        .and_then(|(section, _)| Some((section, defaults.get(section)?.as_table()?)));
    let (section, table) = section.map_or_else(
        || ("the top level".to_owned(), defaults),
        |(section, table)| (format!("[{section}]"), table),
    );
    let names: Vec<String> = table.keys().map(|name| format!("`{name}`")).collect();
    format!("there is no such setting; {section} has {}", names.join(", "))
}

/// The environment variable that sets a key.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"))
}

/// Whether a variable looks like one for this program.
pub(super) fn is_similar(variable: &str) -> bool {
    normalized(variable).starts_with(NORMALIZED_PREFIX)
}

/// The variable of a setting to which a misspelt one probably refers: with missing or extra
/// underscores, in lower case, or with up to two wrong characters.
pub(super) fn meant(misspelt: &str, defaults: &Table) -> Option<String> {
    let most = if is_service_link(misspelt) { 0 } else { MAX_EDIT_DISTANCE };
    leaves(defaults)
        .iter()
        .map(|key| variable(key))
        .map(|variable| {
            (strsim::damerau_levenshtein(&normalized(&variable), &normalized(misspelt)), variable)
        })
        .filter(|(edits, _)| *edits <= most)
        .min()
        .map(|(_, variable)| variable)
}

/// Whether Kubernetes sets a variable of this name for a service whose name starts like this
/// program's.
pub(super) fn is_service_link(variable: &str) -> bool {
    let port = variable.split_once("_PORT_").map(|(_, rest)| rest);
    variable.ends_with("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || variable.ends_with("_PORT")
        || port.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// All keys that have a value.
fn leaves(table: &Table) -> Vec<String> {
    let below = |(key, value): (&String, &Value)| match value {
        Value::Table(inner) => {
            leaves(inner).into_iter().map(|inner| format!("{key}.{inner}")).collect()
        }
        _ => vec![key.clone()],
    };
    table.iter().flat_map(below).collect()
}

/// The letters and digits of a name.
fn normalized(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect()
}
