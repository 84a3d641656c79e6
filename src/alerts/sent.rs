//! How an attempt to send ended.

use super::secrets::Secrets;
use crate::names;

/// The longest detail that is stored, in characters.
const DETAIL_CHARS: usize = 512;

/// How an attempt to send ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// Whether the destination accepted the message.
    pub(super) is_delivered: bool,
    /// The status of the response, if there was one.
    pub(super) status: Option<u16>,
    /// How the response begins, or what went wrong.
    pub(super) detail: String,
}

impl Sent {
    /// It was not accepted.
    pub(super) fn failed(why: impl AsRef<str>) -> Self {
        Self { is_delivered: false, status: None, detail: why.as_ref().to_owned() }
    }

    /// It was answered.
    pub(super) fn answered(status: u16, is_delivered: bool, body: &str) -> Self {
        let body = body.trim();
        let text = if body.is_empty() { status.to_string() } else { format!("{status}: {body}") };
        Self { is_delivered, status: Some(status), detail: text }
    }

    /// With a detail that can be stored and shown: without secrets, which a response may repeat, on
    /// one line, and not longer than needed.
    pub(super) fn shown(self, secrets: &Secrets) -> Self {
        Self { detail: shortened(&secrets.removed_from(&self.detail)), ..self }
    }
}

/// A text that is stored and shown: on one line, and not longer than needed.
fn shortened(text: &str) -> String {
    names::inert(text).chars().take(DETAIL_CHARS).collect()
}
