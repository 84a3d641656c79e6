//! Keeps secrets out of what is shown, in a table of settings or in an error.

/// A setting as it may be shown.
pub(super) fn shown(key: &str, value: &str) -> String {
    let name = key.rsplit('.').next().unwrap_or(key);
    if ["password", "secret", "token"].iter().any(|word| name.contains(word)) {
        MASK.to_owned()
    } else if name == "url" || name.ends_with("_url") {
        without_password(value)
    } else {
        value.to_owned()
    }
}

/// Masks secrets in a table, and in the tables in it.
pub(super) fn mask(table: &mut toml::Table) {
    for (key, value) in table.iter_mut() {
        match value {
            toml::Value::Table(inner) => mask(inner),
            toml::Value::String(text) => *text = shown(key, text),
            _ if shown(key, "") == MASK => *value = toml::Value::String(MASK.to_owned()),
            _ => {}
        }
    }
}

const MASK: &str = "********";

/// Careful rather than exact: whatever could be part of a password is masked,
/// also in a URL that is none.
fn without_password(url: &str) -> String {
    if url.is_empty() {
        return String::new();
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return MASK.to_owned();
    };
    let (user, place) = match rest.rsplit_once('@') {
        Some((user, place)) => (user.split(':').next(), place),
        None => (None, rest),
    };
    let place = match place.split_once('?') {
        Some((place, query)) if query.contains("password") => format!("{place}?{MASK}"),
        _ => place.to_owned(),
    };
    match user {
        Some(user) => format!("{scheme}://{user}:{MASK}@{place}"),
        None => format!("{scheme}://{place}"),
    }
}
