//! Parses connection URLs as libpq does: one or several hosts, IPv6 addresses in brackets, and
//! `target_session_attrs`. sqlx supports one host and no brackets, and logs the values of
//! parameters that it does not know.

use std::str::FromStr as _;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::PgConnectOptions;

use super::errors::OpenError;

/// Parameters that sqlx supports.
const KNOWN: [&str; 17] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "hostaddr",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "target_session_attrs",
];

/// A parsed URL.
pub(super) struct Target {
    /// One entry per host, in the URL's order.
    pub(super) hosts: Vec<PgConnectOptions>,
    /// Whether `target_session_attrs` requires a server that accepts writes.
    pub(super) is_read_write: bool,
}

/// The parts of a URL, not decoded.
struct Parts<'a> {
    scheme: &'a str,
    /// User and password with the `@`, or empty.
    user: &'a str,
    /// Hosts with their ports.
    hosts: Vec<(&'a str, Option<&'a str>)>,
    /// The path with its slash, or empty.
    path: &'a str,
    /// All parameters except `host` and `port`.
    query: Vec<&'a str>,
}

/// Parses a URL. `key` is the name of its setting, for error messages.
pub(super) fn parse(key: &'static str, url: &SecretString) -> Result<Target, OpenError> {
    let invalid = |why: String| OpenError::Url(key, why);
    let mut parts = split(url.expose_secret()).map_err(|why| invalid(why.to_owned()))?;
    let is_read_write = match parameter(&parts.query, "target_session_attrs") {
        None | Some("" | "any") => false,
        Some("read-write" | "primary") => true,
        Some("read-only" | "standby" | "prefer-standby") => {
            return Err(invalid(
                "target_session_attrs must be any, read-write or primary: the service writes"
                    .to_owned(),
            ));
        }
        Some(_) => {
            return Err(invalid(
                "unknown target_session_attrs; expected any, read-write or primary".to_owned(),
            ));
        }
    };
    parts.query.retain(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        let is_known =
            KNOWN.contains(&name) || name.starts_with("options%5B") || name.starts_with("options[");
        if !is_known {
            tracing::warn!(
                setting = key,
                parameter = name,
                "ignoring an unknown parameter of the URL"
            );
        }
        is_known && name != "target_session_attrs"
    });
    let hosts = parts.hosts.iter().map(|(host, port)| {
        let options = PgConnectOptions::from_str(&parts.of_host(host, *port));
        // The setting only concerns floats, which are never read, and PgBouncer refuses it.
        let options =
            options.map(|it| it.application_name("gateway-events").extra_float_digits(None));
        options.map_err(|error| {
            const PREFIX: &str = "error with configuration: ";
            invalid(error.to_string().trim_start_matches(PREFIX).to_owned())
        })
    });
    Ok(Target { hosts: hosts.collect::<Result<_, _>>()?, is_read_write })
}

impl Parts<'_> {
    /// The URL for one host, in the form that sqlx parses.
    fn of_host(&self, host: &str, port: Option<&str>) -> String {
        let Self { scheme, user, path, query, .. } = self;
        let mut query = query.join("&");
        // As a parameter, an IPv6 address needs no brackets and a socket directory no escapes.
        let in_query = host.starts_with('[') || host.starts_with('/');
        let authority = if in_query { "localhost" } else { host };
        if in_query {
            let separator = if query.is_empty() { "" } else { "&" };
            let host = host.trim_start_matches('[').trim_end_matches(']');
            query = format!("{query}{separator}host={host}");
        }
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{scheme}://{user}{authority}{port}{path}?{query}")
    }
}

/// Replaces the name of the database in a URL. The name is not escaped.
pub fn with_database(url: &SecretString, name: &str) -> SecretString {
    let url = url.expose_secret();
    let (place, query) = url.split_once('?').unwrap_or((url, ""));
    let start = place.find("://").map_or(0, |at| at + 3);
    let end = place[start..].find('/').map_or(place.len(), |at| start + at);
    let query = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("dbname="));
    let query = query.collect::<Vec<_>>().join("&");
    format!("{}/{name}?{query}", &place[..end]).into()
}

/// The value of a parameter. If it is repeated, the last one.
fn parameter<'a>(query: &[&'a str], name: &str) -> Option<&'a str> {
    let pairs = query.iter().filter_map(|pair| pair.split_once('='));
    pairs.rev().find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn split(url: &str) -> Result<Parts<'_>, &'static str> {
    let (scheme, rest) = url.split_once("://").ok_or("the scheme is missing")?;
    let rest = rest.split('#').next().unwrap_or_default();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (user, listed) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    let query: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    let named = parameter(&query, "host").filter(|hosts| !hosts.is_empty());
    let ports: Vec<&str> = parameter(&query, "port").map(list).unwrap_or_default();
    let mut hosts: Vec<(&str, Option<&str>)> = list(named.unwrap_or(listed))
        .into_iter()
        .map(|host| if named.is_some() { (host, None) } else { with_port(host) })
        .collect();
    if !ports.is_empty() {
        if ports.len() != 1 && ports.len() != hosts.len() {
            return Err("the number of ports differs from the number of hosts");
        }
        for (number, (_, port)) in hosts.iter_mut().enumerate() {
            *port = ports.get(number).or(ports.first()).copied();
        }
    }
    if hosts.len() > 1 && hosts.iter().any(|(host, _)| host.is_empty()) {
        return Err("a host is empty");
    }
    let is_place = |pair: &&str| pair.starts_with("host=") || pair.starts_with("port=");
    let query = query.into_iter().filter(|pair| !is_place(pair)).collect();
    Ok(Parts { scheme, user, hosts, path, query })
}

fn list(text: &str) -> Vec<&str> {
    text.split(',').flat_map(|part| part.split("%2C")).collect()
}

/// Splits `host:port` or `[address]:port`. The port is optional.
fn with_port(host: &str) -> (&str, Option<&str>) {
    let bracket = host.rfind(']').unwrap_or(0);
    match host[bracket..].rfind(':') {
        Some(at) => (&host[..bracket + at], Some(&host[bracket + at + 1..])),
        None => (host, None),
    }
}

/// The name of a server in messages: a socket directory, or host and port.
pub(super) fn name(settings: &PgConnectOptions) -> String {
    let (host, port) = (settings.get_host(), settings.get_port());
    match settings.get_socket() {
        Some(directory) => directory.display().to_string(),
        None if host.contains(':') => format!("[{host}]:{port}"),
        None => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use sqlx::ConnectOptions as _;
    use sqlx::postgres::PgSslMode;

    use super::*;

    fn hosts(url: &str) -> Vec<String> {
        let target = parse("database.url", &SecretString::from(url.to_owned())).unwrap();
        target.hosts.iter().map(name).collect()
    }

    #[test]
    fn hosts_are_read_as_libpq_reads_them() {
        for (url, expected) in [
            ("postgres://h1/db", vec!["h1:5432"]),
            ("postgres://u:p%40x@h1:6000/db?sslmode=disable", vec!["h1:6000"]),
            ("postgres://h1:1,h2:2/db?target_session_attrs=read-write", vec!["h1:1", "h2:2"]),
            ("postgres://u@[::1]:6000/db", vec!["[::1]:6000"]),
            ("postgres://u@[::1],10.0.0.1:7,h3/db", vec!["[::1]:5432", "10.0.0.1:7", "h3:5432"]),
            ("postgres:///db?host=h1,h2&port=1,2", vec!["h1:1", "h2:2"]),
            ("postgres:///db?host=h1%2Ch2&port=7&sslmode=disable", vec!["h1:7", "h2:7"]),
            ("postgres://u@%2Frun%2Fpg/db", vec!["/run/pg"]),
            ("postgres://u@%2Frun%2Fpg:6432/db", vec!["/run/pg"]),
            ("postgres:///db?host=/run/pg", vec!["/run/pg"]),
        ] {
            assert_eq!(hosts(url), expected, "{url}");
        }
    }

    #[test]
    fn the_rest_of_the_url_applies_to_every_host() {
        let url = "postgres://me:secret@h1,[::1]:7/events?sslmode=require&options=-c%20geqo%3Doff";
        let target = parse("database.url", &SecretString::from(url.to_owned())).unwrap();
        for host in &target.hosts {
            assert_eq!((host.get_username(), host.get_database()), ("me", Some("events")));
            assert_eq!(host.get_options(), Some("-c geqo=off"));
            assert!(matches!(host.get_ssl_mode(), PgSslMode::Require));
        }
        let url = target.hosts[0].to_url_lossy();
        assert_eq!(url.password(), Some("secret"));
    }

    #[test]
    fn another_database_is_named_on_the_same_servers() {
        for (url, expected) in [
            ("postgres://u:p@h1:1,[::1]/db?a=b&c=d", "postgres://u:p@h1:1,[::1]/other?a=b&c=d"),
            ("postgres://h1", "postgres://h1/other?"),
            ("postgres:///?dbname=db&host=h1", "postgres:///other?host=h1"),
        ] {
            let made = with_database(&SecretString::from(url.to_owned()), "other");
            assert_eq!(made.expose_secret(), expected, "{url}");
        }
    }

    #[test]
    fn an_invalid_url_is_refused_without_repeating_the_password() {
        for url in [
            "postgres//me:hunter2@h1/db",
            "postgres://me:hunter2@h1:1,h2:2/db?target_session_attrs=standby",
            "postgres://me:hunter2@h1/db?target_session_attrs=anything",
            "postgres://me:hunter2@h1,/db",
            "postgres://me:hunter2@h1:port/db",
            "postgres://me:hunter2@/db?host=h1,h2,h3&port=1,2",
        ] {
            let refused = parse("database.url", &SecretString::from(url.to_owned())).err().unwrap();
            assert!(!refused.to_string().contains("hunter2"), "{refused}");
        }
    }
}
