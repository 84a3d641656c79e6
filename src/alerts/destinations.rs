//! Destinations: what is valid, what is secret, and what is shown.

use reqwest::Url;

use super::rules::{check_id, error};
use super::secrets::Secrets;
use super::signature;
use crate::api::{
    AlertDestinationDefinition, AlertDestinationKind, AlertDestinationSettings, FieldError, SmtpTls,
};
use crate::names;

const MAX_DESCRIPTION_CHARS: usize = 1_000;
const MAX_URL_BYTES: usize = 2_048;
const MAX_SECRET_CHARS: usize = 1_024;
const MAX_NAME_CHARS: usize = 256;
const MAX_RECIPIENTS: usize = 16;
/// Why a stored secret is not kept.
const SECRET_STAYS: &str = "is required when the scheme, host or port of the URL changes or TLS is disabled; the stored secret is not sent elsewhere";

/// A destination that is to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// What is shown.
    pub settings: AlertDestinationSettings,
    /// What is encrypted.
    pub secrets: Secrets,
    /// A generated signing key, to be shown once.
    pub generated: Option<String>,
}

/// The port of an SMTP server whose URL names none.
pub(super) const fn smtp_port(tls: SmtpTls) -> u16 {
    match tls {
        SmtpTls::Starttls => 587,
        SmtpTls::Implicit => 465,
        SmtpTls::None => 25,
    }
}

/// Validates a destination. `kept` is the stored one of its id, whose secrets are kept if the
/// definition has none. A kept secret is sent to no other server than before, and not with less
/// encryption: an admin may replace a secret, but not learn it.
pub fn prepare(
    definition: &AlertDestinationDefinition,
    kept: Option<(&AlertDestinationSettings, &Secrets)>,
) -> Result<Prepared, Vec<FieldError>> {
    let kind = definition.kind;
    // Secrets of another kind have another meaning.
    let kept = kept.filter(|(settings, _)| settings.kind == kind);
    let mut errors = Vec::new();
    errors.extend(definition.id.as_deref().and_then(check_id));
    check_texts(definition, &mut errors);
    let url = definition.url.as_ref().or(kept.map(|(_, secrets)| &secrets.url));
    let checked = match url {
        None => Err("is required".to_owned()),
        Some(url) => parsed(kind, url),
    };
    let address = match &checked {
        Ok(url) => masked(url),
        Err(why) => {
            errors.push(error("url", why));
            String::new()
        }
    };
    let (secret, generated) = secret(definition, kept, checked.as_ref().ok(), &mut errors);
    let is_email = kind == AlertDestinationKind::Email;
    if is_email {
        check_email(definition, secret.is_some(), &mut errors);
    } else {
        check_no_email(definition, &mut errors);
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let settings = AlertDestinationSettings {
        kind,
        description: definition.description.clone(),
        address,
        username: definition.username.clone(),
        tls: is_email.then(|| definition.tls.unwrap_or_default()),
        from: definition.from.clone(),
        to: definition.to.clone(),
    };
    let secrets = Secrets { url: url.cloned().unwrap_or_default(), secret };
    Ok(Prepared { settings, secrets, generated })
}

/// A server, and whether connections to it are encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    scheme: String,
    host: String,
    port: Option<u16>,
    is_encrypted: bool,
}

impl Server {
    fn of(kind: AlertDestinationKind, tls: Option<SmtpTls>, url: &Url) -> Self {
        let tls = tls.unwrap_or_default();
        let (port, is_encrypted) = match kind {
            AlertDestinationKind::Email => {
                (url.port().or(Some(smtp_port(tls))), tls != SmtpTls::None)
            }
            _ => (url.port_or_known_default(), url.scheme() == "https"),
        };
        // Hosts are only in lower case if the scheme is one that the URL standard names.
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        Self { scheme: url.scheme().to_owned(), host, port, is_encrypted }
    }

    /// Whether a secret that was sent to another server may be sent to this one.
    fn may_keep_secret_of(&self, other: &Self) -> bool {
        let is_weaker = other.is_encrypted && !self.is_encrypted;
        !is_weaker
            && (&self.scheme, &self.host, self.port) == (&other.scheme, &other.host, other.port)
    }
}

/// The stored secret, if the definition has none of its own and uses one. An error if it would be
/// sent to another server than before. `url` is the new one; `None` if it is invalid.
fn kept_secret(
    definition: &AlertDestinationDefinition,
    kept: Option<(&AlertDestinationSettings, &Secrets)>,
    url: Option<&Url>,
) -> Result<Option<String>, FieldError> {
    let kind = definition.kind;
    let is_used = match kind {
        AlertDestinationKind::Slack => false,
        AlertDestinationKind::Email => definition.username.is_some(),
        AlertDestinationKind::Webhook | AlertDestinationKind::Alertmanager => true,
    };
    let Some((settings, secrets)) = kept.filter(|_| is_used) else { return Ok(None) };
    let Some(url) = url else { return Ok(secrets.secret.clone()) };
    let new = Server::of(kind, definition.tls, url);
    let old = parsed(kind, &secrets.url).ok();
    let old = old.map(|url| Server::of(kind, settings.tls, &url));
    if secrets.secret.is_some() && old.is_none_or(|old| !new.may_keep_secret_of(&old)) {
        return Err(error("secret", SECRET_STAYS));
    }
    Ok(secrets.secret.clone())
}

/// The secret of a destination, and whether it was generated.
fn secret(
    definition: &AlertDestinationDefinition,
    kept: Option<(&AlertDestinationSettings, &Secrets)>,
    url: Option<&Url>,
    errors: &mut Vec<FieldError>,
) -> (Option<String>, Option<String>) {
    let given = match &definition.secret {
        Some(given) => Some(given.clone()),
        None => match kept_secret(definition, kept, url) {
            Ok(kept) => kept,
            Err(refused) => {
                errors.push(refused);
                return (None, None);
            }
        },
    };
    if given.as_ref().is_some_and(|secret| !names::is_plain(secret, MAX_SECRET_CHARS)) {
        errors.push(error("secret", format!("must be at most {MAX_SECRET_CHARS} characters")));
    }
    match definition.kind {
        AlertDestinationKind::Webhook => match given {
            Some(given) => {
                if signature::key(&given).is_none() {
                    errors.push(error("secret", signature::KEY_RULE));
                }
                (Some(given), None)
            }
            None => match signature::generate() {
                Ok(generated) => (Some(generated.clone()), Some(generated)),
                Err(why) => {
                    errors.push(error("secret", format!("can't be generated: {why}")));
                    (None, None)
                }
            },
        },
        AlertDestinationKind::Slack => {
            if definition.secret.is_some() {
                errors.push(error("secret", "has no meaning for slack, whose secret is the URL"));
            }
            (None, None)
        }
        AlertDestinationKind::Alertmanager => {
            if given.as_ref().is_some_and(|token| !token.bytes().all(|it| it.is_ascii_graphic())) {
                errors.push(error("secret", "must be visible ASCII characters"));
            }
            (given, None)
        }
        AlertDestinationKind::Email => (given.filter(|_| definition.username.is_some()), None),
    }
}

fn check_texts(definition: &AlertDestinationDefinition, errors: &mut Vec<FieldError>) {
    if definition.description.chars().count() > MAX_DESCRIPTION_CHARS {
        errors.push(error(
            "description",
            format!("must be at most {MAX_DESCRIPTION_CHARS} characters"),
        ));
    }
    let texts = [("username", &definition.username), ("from", &definition.from)];
    for (field, text) in texts {
        if text
            .as_ref()
            .is_some_and(|text| text.is_empty() || !names::is_plain(text, MAX_NAME_CHARS))
        {
            errors.push(error(field, format!("must be 1 to {MAX_NAME_CHARS} characters")));
        }
    }
}

fn check_email(
    definition: &AlertDestinationDefinition,
    has_password: bool,
    errors: &mut Vec<FieldError>,
) {
    if definition.from.as_ref().is_none_or(|from| !is_mailbox(from)) {
        errors.push(error("from", "is required for email: an address such as alerts@example.com"));
    }
    let recipients = 1..=MAX_RECIPIENTS;
    if !recipients.contains(&definition.to.len()) || !definition.to.iter().all(|to| is_mailbox(to))
    {
        errors.push(error("to", format!("must be 1 to {MAX_RECIPIENTS} e-mail addresses")));
    }
    let is_named = errors.iter().any(|error| error.field == "secret");
    if definition.username.is_some() && !has_password && !is_named {
        errors.push(error("secret", "is required with a username: the password"));
    }
}

fn check_no_email(definition: &AlertDestinationDefinition, errors: &mut Vec<FieldError>) {
    for (field, is_given) in [
        ("username", definition.username.is_some()),
        ("tls", definition.tls.is_some()),
        ("from", definition.from.is_some()),
        ("to", !definition.to.is_empty()),
    ] {
        if is_given {
            errors.push(error(field, "has a meaning for email only"));
        }
    }
}

/// Whether a text can be an address. The SMTP server has the last word.
fn is_mailbox(text: &str) -> bool {
    let Some((user, domain)) = text.rsplit_once('@') else { return false };
    let is_allowed =
        |c: char| !c.is_whitespace() && !c.is_control() && !"<>,;:\"\\()[]".contains(c);
    !user.is_empty()
        && !domain.is_empty()
        && text.len() <= MAX_NAME_CHARS
        && text.chars().all(is_allowed)
        && !user.contains('@')
}

/// Parses the URL of a kind of destination.
pub(super) fn parsed(kind: AlertDestinationKind, text: &str) -> Result<Url, String> {
    if text.len() > MAX_URL_BYTES {
        return Err(format!("must be at most {MAX_URL_BYTES} bytes"));
    }
    let is_email = kind == AlertDestinationKind::Email;
    let allowed: &[&str] = if is_email { &["smtp"] } else { &["https", "http"] };
    let what = if is_email {
        "must be like smtp://mail.example.com:587"
    } else {
        "must be a URL with https, or with http for an address in alerts.allowed_networks"
    };
    let url = Url::parse(text).map_err(|_| what.to_owned())?;
    if !allowed.contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
        return Err(what.to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("must have no user, password and fragment".to_owned());
    }
    let has_path = !matches!(url.path(), "" | "/") || url.query().is_some();
    if is_email && has_path {
        return Err(what.to_owned());
    }
    Ok(url)
}

/// A URL without what may be secret.
fn masked(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let rest = if url.scheme() == "smtp" { "" } else { "/…" };
    format!("{}://{host}{port}{rest}", url.scheme())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(json: serde_json::Value) -> AlertDestinationDefinition {
        serde_json::from_value(json).unwrap()
    }

    fn fields(json: serde_json::Value) -> Vec<String> {
        let errors = prepare(&definition(json), None).unwrap_err();
        errors.into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn what_is_shown_has_no_secret() {
        let slack = definition(serde_json::json!({
            "kind": "slack", "url": "https://hooks.example.com:8443/services/T0/B0/secret?x=y",
        }));
        let prepared = prepare(&slack, None).unwrap();
        assert_eq!(prepared.settings.address, "https://hooks.example.com:8443/…");
        assert!(prepared.secrets.url.ends_with("secret?x=y") && prepared.generated.is_none());
    }

    #[test]
    fn a_change_without_secrets_keeps_them_for_the_same_kind() {
        let first =
            definition(serde_json::json!({"kind": "webhook", "url": "https://a.example/x"}));
        let first = prepare(&first, None).unwrap();
        assert!(first.generated.is_some() && first.generated == first.secrets.secret);
        let change = definition(serde_json::json!({"kind": "webhook", "description": "d"}));
        let kept = prepare(&change, Some((&first.settings, &first.secrets))).unwrap();
        assert_eq!((&kept.secrets, kept.generated), (&first.secrets, None));
        let other = definition(serde_json::json!({"kind": "slack"}));
        assert!(prepare(&other, Some((&first.settings, &first.secrets))).is_err());
    }

    /// The fields that are refused if a definition replaces another one.
    fn refused(old: &serde_json::Value, new: &serde_json::Value) -> Vec<String> {
        let old = prepare(&definition(old.clone()), None).unwrap();
        let prepared = prepare(&definition(new.clone()), Some((&old.settings, &old.secrets)));
        let errors = prepared.err().unwrap_or_default();
        errors.into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn a_stored_secret_is_kept_for_the_same_scheme_host_and_port_only() {
        use serde_json::json;
        for kind in ["webhook", "alertmanager"] {
            let secret = format!("whsec_{}", "A".repeat(32));
            let old = json!({"kind": kind, "url": "https://a.example/x", "secret": secret});
            for url in [
                "https://a.example/x",
                "https://a.example/another?path=1",
                "https://A.example:443/x",
            ] {
                let kept = json!({"kind": kind, "url": url});
                assert!(refused(&old, &kept).is_empty(), "{kind} {url}");
            }
            for url in [
                "https://b.example/x",
                "https://a.example.b.example/x",
                "https://a.example:8443/x",
                "http://a.example/x",
                "http://a.example:443/x",
            ] {
                let mut moved = json!({"kind": kind, "url": url});
                assert_eq!(refused(&old, &moved), ["secret"], "{kind} {url}");
                moved["secret"] = json!(secret);
                assert!(refused(&old, &moved).is_empty(), "{kind} {url}");
            }
        }
        // There is nothing to keep.
        let bare = json!({"kind": "alertmanager", "url": "https://a.example"});
        let moved = json!({"kind": "alertmanager", "url": "https://b.example"});
        assert!(refused(&bare, &moved).is_empty());
        let slack = json!({"kind": "slack", "url": "https://a.example/secret"});
        let moved = json!({"kind": "slack", "url": "https://b.example/secret"});
        assert!(refused(&slack, &moved).is_empty());
    }

    #[test]
    fn a_stored_password_is_kept_for_the_same_server_and_no_less_encryption() {
        use serde_json::{Value, json};
        let mail = |url: Option<&str>, tls: &str, user: Option<&str>| -> Value {
            json!({"kind": "email", "url": url, "tls": tls, "username": user,
                "from": "a@b.example", "to": ["c@d.example"]})
        };
        let with_password = |mut mail: Value| -> Value {
            mail["secret"] = json!("p");
            mail
        };
        let explicit = Some("smtp://m.example:2525");
        for (from, to, is_kept) in [
            ((explicit, "starttls"), (explicit, "starttls"), true),
            ((explicit, "starttls"), (None, "starttls"), true),
            ((explicit, "starttls"), (Some("smtp://M.Example:2525"), "starttls"), true),
            ((explicit, "starttls"), (explicit, "implicit"), true),
            ((explicit, "none"), (explicit, "starttls"), true),
            ((explicit, "starttls"), (None, "none"), false),
            ((explicit, "implicit"), (explicit, "none"), false),
            ((explicit, "starttls"), (Some("smtp://m.example:2526"), "starttls"), false),
            ((explicit, "starttls"), (Some("smtp://n.example:2525"), "starttls"), false),
            // Without a port in the URL, it depends on TLS.
            (
                (Some("smtp://m.example"), "starttls"),
                (Some("smtp://m.example:587"), "starttls"),
                true,
            ),
            ((Some("smtp://m.example"), "starttls"), (None, "implicit"), false),
        ] {
            let old = with_password(mail(from.0, from.1, Some("u")));
            let new = mail(to.0, to.1, Some("u"));
            let expected: &[&str] = if is_kept { &[] } else { &["secret"] };
            assert_eq!(refused(&old, &new), expected, "{from:?} to {to:?}");
            assert!(refused(&old, &with_password(new)).is_empty(), "{from:?} to {to:?}");
            // Without a user no password is kept.
            assert!(refused(&old, &mail(to.0, to.1, None)).is_empty(), "{from:?} to {to:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        use serde_json::json;
        assert_eq!(fields(json!({"kind": "webhook"})), ["url"]);
        for url in ["", "ftp://a.example", "https://", "https://u:p@a.example/", "https://a/#f"] {
            assert_eq!(fields(json!({"kind": "slack", "url": url})), ["url"], "{url}");
        }
        let hook = json!({"kind": "webhook", "url": "https://a.example", "secret": "short", "tls": "none"});
        assert_eq!(fields(hook), ["secret", "tls"]);
        let mail =
            json!({"kind": "email", "url": "smtp://m.example/x", "username": "u", "to": ["a"]});
        assert_eq!(fields(mail), ["url", "from", "to", "secret"]);
        let injected = json!({"kind": "email", "url": "smtp://m.example", "from": "a@b.example",
            "to": ["x@y.example>\r\nRCPT TO:<z@y.example"]});
        assert_eq!(fields(injected), ["to"]);
    }
}
