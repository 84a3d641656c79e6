//! The URL of a Postgres database: which parameters it may have, and how it is shown without
//! secrets. The driver logs unknown parameters with their values, so a URL with one is
//! refused before the driver parses it.

/// Parameters whose values are not secret.
const SHOWN: [&str; 17] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "target_session_attrs",
    "user",
];
/// Parameters whose values are masked.
const HIDDEN: [&str; 2] = ["options", "password"];

pub(super) const MASK: &str = "********";

/// Why the URL is refused; `None` if it is valid. Contains no part that may be secret.
pub(super) fn refusal(url: &str) -> Option<String> {
    let (_, query) = url.split_once('?')?;
    let unknown = query.split('&').find(|pair| !pair.is_empty() && !is_known(name(pair)))?;
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let shown =
        Some(name(unknown)).filter(|name| unknown.contains('=') && name.chars().all(is_word));
    Some(match shown {
        Some(name) => format!("the parameter `{name}` in its query is unknown"),
        None => "its query holds something other than NAME=VALUE; in a password, `?` is written %3F and `&` %26".to_owned(),
    })
}

fn name(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

fn is_known(name: &str) -> bool {
    let is_option = ["options[", "options%5B"].iter().any(|begin| name.starts_with(begin));
    SHOWN.contains(&name) || HIDDEN.contains(&name) || is_option
}

/// The URL without its secrets. Masks everything that could be part of a password, also in
/// text that is not a URL.
pub(super) fn masked(url: &str) -> String {
    if url.is_empty() {
        return String::new();
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return MASK.to_owned();
    };
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (rest, None),
    };
    // A password may contain `?` or `@` that should have been encoded.
    if query.is_some_and(|query| query.contains('@')) {
        return format!("{scheme}://{MASK}");
    }
    let (user, place) = match place.rsplit_once('@') {
        Some((user, place)) => (Some(user.split(':').next().unwrap_or_default()), place),
        None => (None, place),
    };
    if !place.split('/').next().unwrap_or_default().split(',').all(is_host) {
        return format!("{scheme}://{MASK}");
    }
    let user = user.map_or_else(String::new, |user| format!("{user}:{MASK}@"));
    let query = query.map_or_else(String::new, |query| {
        let pairs: Vec<_> = query.split('&').map(masked_pair).collect();
        format!("?{}", pairs.join("&"))
    });
    format!("{scheme}://{user}{place}{query}")
}

/// Whether it is a host with an optional port, rather than a user with a password.
fn is_host(text: &str) -> bool {
    let after_address = text.rsplit_once(']').map_or(text, |(_, rest)| rest);
    match after_address.split_once(':') {
        Some((_, port)) => port.bytes().all(|byte| byte.is_ascii_digit()),
        None => true,
    }
}

fn masked_pair(pair: &str) -> String {
    let name = name(pair);
    if SHOWN.contains(&name) && !pair.contains('#') {
        pair.to_owned()
    } else if is_known(name) {
        format!("{name}={MASK}")
    } else {
        MASK.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_masked_wherever_it_stands() {
        for url in [
            "postgres://me:hunter2@db/events",
            "postgres://me:hunter2@db:5432,db2:5433/events?target_session_attrs=read-write",
            "postgres://db/events?user=me&password=hunter2&sslmode=require",
            "postgres://db/events?password=hunter2@x",
            "postgres://db/events?PASSWORD=hunter2",
            "postgres://db/events?p%61ssword=hunter2",
            "postgres://db/events?passwd=hunter2",
            "postgres://db/events?options=-c%20secret%3Dhunter2",
            "postgres://db/events?options[secret]=hunter2",
            "postgres://me:hunt?er2@db/events",
            "postgres://me:x@hunter2@db/events",
            "postgres://me:hunter2/events",
            "postgres://[::1]:hunter2/events",
            "me:hunter2@db",
        ] {
            let shown = masked(url);
            assert!(!shown.contains("hunt") && shown.contains(MASK), "{url}: {shown}");
            assert!(!refusal(url).unwrap_or_default().contains("hunt"), "{url}");
        }
    }

    #[test]
    fn what_is_no_secret_is_shown() {
        for url in [
            "",
            "postgres://db/events",
            "postgres://[::1]:5432/events?sslmode=verify-full&sslrootcert=ca.pem",
            "postgres://one:5432,two:5433/events?user=me&target_session_attrs=read-write",
        ] {
            assert_eq!(masked(url), url);
            assert_eq!(refusal(url), None);
        }
        let masked = masked("postgres://me:hunter2@db/events?password=x&port=1");
        assert_eq!(masked, format!("postgres://me:{MASK}@db/events?password={MASK}&port=1"));
    }

    #[test]
    fn an_unknown_parameter_is_named_and_nothing_else_is() {
        let refused = refusal("postgres://db/events?sslmode=disable&passwd=hunter2");
        assert_eq!(refused.as_deref(), Some("the parameter `passwd` in its query is unknown"));
        let refused = refusal("postgres://me:hunter2?x@db/events").expect("refused");
        assert!(refused.contains("%3F"), "{refused}");
    }
}
