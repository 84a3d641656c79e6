//! The payloads of published events. Each identifies its publisher, its number and
//! when it was due, so that the receiver can check the order and compute the latency.

use std::io::Write as _;
use std::time::Duration;

use serde::Deserialize;

/// The members of a payload that the receiver reads.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Stamp {
    /// The index of the publisher.
    pub(crate) publisher: usize,
    /// The number of the event among that publisher's, from 1.
    pub(crate) number: u64,
    /// When it was due, in nanoseconds since the start of the measurement.
    pub(crate) at: u64,
}

/// Writes a payload of about `bytes` bytes.
pub(crate) fn write(text: &mut Vec<u8>, bytes: usize, publisher: usize, number: u64, at: Duration) {
    let start = text.len();
    // Writing to memory can't fail.
    let _ = write!(
        text,
        "{{\"configType\":\"bench\",\"action\":\"update\",\"publisher\":{publisher},\"number\":{number},\"at\":{},\"filler\":\"",
        at.as_nanos()
    );
    let filled = (start + bytes).saturating_sub(2);
    if text.len() < filled {
        text.resize(filled, b'x');
    }
    text.extend_from_slice(b"\"}");
}

/// A payload of about `bytes` bytes, for events that no receiver checks.
pub(crate) fn sample(bytes: usize) -> String {
    let mut text = Vec::new();
    write(&mut text, bytes, 0, 1, Duration::ZERO);
    String::from_utf8_lossy(&text).into_owned()
}
