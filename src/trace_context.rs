//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): the reference to a caller's span
//! that is passed on with a request and with an event.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The length of a version 00 value: `00-{32 hex}-{16 hex}-{2 hex}`.
const LENGTH: usize = 55;
/// The defined flags: sampled and random trace id. The other bits must be zero when the value is
/// passed on.
const KNOWN_FLAGS: u8 = 0b11;
const SAMPLED: u8 = 0b01;

/// A valid `traceparent`: a trace id, and the id of the calling span.
///
/// Values of later versions are parsed by their first four fields, as specified, and written as version 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: TraceId,
    parent_id: [u8; 8],
    flags: u8,
}

/// A trace id, displayed as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

/// A text that is not a valid `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be a W3C traceparent in lower case, such as \
     00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
)]
pub struct InvalidTraceParent;

impl TraceParent {
    /// The trace id, never all zeros.
    pub const fn trace_id(&self) -> TraceId {
        self.trace_id
    }

    /// The id of the calling span, never all zeros.
    pub const fn parent_id(&self) -> [u8; 8] {
        self.parent_id
    }

    /// Whether the caller recorded its span.
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let (known, rest) = text.as_bytes().split_at_checked(LENGTH).ok_or(InvalidTraceParent)?;
        let [version] = hex(&known[..2])?;
        let may_go_on = version != 0 && rest.first() == Some(&b'-');
        let is_well_formed = version != 0xff
            && (rest.is_empty() || may_go_on)
            && [2, 35, 52].iter().all(|dash| known[*dash] == b'-');
        let trace_id = hex(&known[3..35])?;
        let parent_id = hex(&known[36..52])?;
        let [flags] = hex(&known[53..])?;
        if !is_well_formed || trace_id == [0; 16] || parent_id == [0; 8] {
            return Err(InvalidTraceParent);
        }
        Ok(Self { trace_id: TraceId(trace_id), parent_id, flags: flags & KNOWN_FLAGS })
    }
}

/// Decodes lower-case hexadecimal digits.
fn hex<const N: usize>(digits: &[u8]) -> Result<[u8; N], InvalidTraceParent> {
    let mut bytes = [0; N];
    HEXLOWER.decode_mut(digits, &mut bytes).map_err(|_| InvalidTraceParent)?;
    Ok(bytes)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{}-{}-{:02x}",
            self.trace_id,
            HEXLOWER.encode_display(&self.parent_id),
            self.flags
        )
    }
}

impl Serialize for TraceParent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceParent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn parse(text: &str) -> Result<String, InvalidTraceParent> {
        text.parse::<TraceParent>().map(|parsed| parsed.to_string())
    }

    #[test]
    fn a_valid_value_is_passed_on_unchanged() {
        for flags in ["00", "01", "02", "03"] {
            let text = format!("00-{TRACE}-{PARENT}-{flags}");
            assert_eq!(parse(&text), Ok(text));
        }
    }

    #[test]
    fn later_versions_and_unknown_flags_become_version_00() {
        let expected = Ok(format!("00-{TRACE}-{PARENT}-01"));
        assert_eq!(parse(&format!("00-{TRACE}-{PARENT}-fd")), expected);
        assert_eq!(parse(&format!("cc-{TRACE}-{PARENT}-01")), expected);
        assert_eq!(parse(&format!("cc-{TRACE}-{PARENT}-01-what-the-future-holds")), expected);
    }

    #[test]
    fn values_that_the_specification_calls_invalid_are_refused() {
        let zeros = "0".repeat(32);
        for invalid in [
            String::new(),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("00-{TRACE}-{PARENT}-01-"),
            format!("cc-{TRACE}-{PARENT}-01.more"),
            format!("00-{TRACE}-{PARENT}-1"),
            format!("00-{TRACE}-{PARENT}"),
            format!("00_{TRACE}-{PARENT}-01"),
            format!("00-{zeros}-{PARENT}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("0g-{TRACE}-{PARENT}-01"),
            format!(" 00-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-é1"),
        ] {
            assert_eq!(parse(&invalid), Err(InvalidTraceParent), "{invalid}");
        }
    }
}
