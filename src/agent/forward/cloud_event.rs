//! Events as CloudEvents 1.0, in the binary mode of the HTTP protocol binding.

use std::fmt::Write as _;

use super::super::delivery::Delivery;

/// The attributes of an event, with the names of their headers.
///
/// `sequence` is the extension of that name, whose values are ordered as texts: it has as many digits
/// as the largest one.
pub(super) fn attributes(delivery: &Delivery<'_>, source: &str) -> Vec<(&'static str, String)> {
    let mut attributes = vec![
        ("ce-specversion", "1.0".to_owned()),
        ("ce-id", delivery.id.to_string()),
        ("ce-source", source.to_owned()),
        ("ce-type", delivery.kind.to_owned()),
        ("ce-sequence", format!("{:016}", delivery.sequence.0)),
        ("ce-epoch", delivery.epoch.to_string()),
    ];
    let optional = [
        ("ce-time", delivery.time.map(|time| time.to_string())),
        ("ce-correlationid", delivery.correlation_id.map(str::to_owned)),
        ("ce-attempt", delivery.attempt.map(|attempt| attempt.to_string())),
        ("ce-userid", delivery.user_id.map(str::to_owned)),
        ("ce-traceparent", delivery.traceparent.map(ToString::to_string)),
    ];
    attributes.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value?))));
    attributes
}

/// A value as its header has it (HTTP protocol binding, section 3.1.3.2): blanks, quotation marks, per
/// cents and all but visible ASCII are encoded.
pub(super) fn encoded(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b'%') {
            text.push(char::from(byte));
        } else {
            _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_as_the_binding_says() {
        // The binding's own example.
        assert_eq!(encoded("Euro € 😀"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(encoded("a\"b%c\r\nd"), "a%22b%25c%0D%0Ad");
        assert_eq!(encoded("2026-01-31T09:30:00Z~!"), "2026-01-31T09:30:00Z~!");
    }
}
