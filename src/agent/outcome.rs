//! What the product says about an event: from an exit status or from a response.

use std::process::ExitStatus;
use std::time::Duration;

use std::os::unix::process::ExitStatusExt as _;

use crate::client::reliable::NackCode;
use crate::names::is_invisible;
use crate::transport::frames::MAX_DETAIL_BYTES;

/// The exit status by which a program asks for another attempt (EX_TEMPFAIL of sysexits.h).
const TEMPORARY_FAILURE: i32 = 75;
/// The exit status that says that the payload is invalid (EX_DATAERR).
const INVALID_DATA: i32 = 65;

/// The outcome of handing an event to the product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The product has answered.
    Answered(Answer),
    /// The product has not got the event, because it is not there.
    Unavailable(String),
}

/// The product's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The event is applied.
    Applied,
    /// The event is to be tried again. The service counts the attempt.
    Retry {
        /// The pause that the product asks for.
        after: Option<Duration>,
        /// Why, for programs.
        code: NackCode,
        /// Why, for admins.
        detail: Option<String>,
    },
    /// The event can't be applied.
    Reject {
        /// Why, for programs.
        code: NackCode,
        /// Why, for admins.
        detail: String,
    },
}

impl Reply {
    /// Its name in metrics.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Answered(Answer::Applied) => "applied",
            Self::Answered(Answer::Retry { .. }) => "retry",
            Self::Answered(Answer::Reject { .. }) => "rejected",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

impl Answer {
    /// The answer of a program that has ended by itself, having written this to standard error.
    pub(super) fn of_exit(status: ExitStatus, error_output: &[u8]) -> Self {
        let what = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => status.to_string(),
        };
        let detail = described(&what, &last_lines(error_output));
        match status.code() {
            Some(0) => Self::Applied,
            Some(TEMPORARY_FAILURE) => {
                Self::Retry { after: None, code: NackCode::ApplyFailed, detail: Some(detail) }
            }
            Some(INVALID_DATA) => Self::Reject { code: NackCode::Invalid, detail },
            Some(_) => Self::Reject { code: NackCode::ApplyFailed, detail },
            // It says nothing about the event: a shutdown or a lack of memory kills programs, too.
            None => Self::Retry { after: None, code: NackCode::ApplyFailed, detail: Some(detail) },
        }
    }

    /// The answer of a program that did not end within `limit` and was ended.
    pub(super) fn of_timeout(limit: Duration, error_output: &[u8]) -> Self {
        let what = format!("did not end within {} s", limit.as_secs_f64());
        let detail = Some(described(&what, &last_lines(error_output)));
        Self::Retry { after: None, code: NackCode::Timeout, detail }
    }

    /// The answer in a response with this status and this beginning of its body.
    pub(super) fn of_response(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let what = match status {
            301 | 302 | 303 | 307 | 308 => format!("status {status}: redirects are not followed"),
            status => format!("status {status}"),
        };
        let detail = described(&what, &beginning(body));
        match status {
            200..=299 => Self::Applied,
            429 | 503 => {
                Self::Retry { after: retry_after, code: NackCode::Overloaded, detail: Some(detail) }
            }
            400 | 422 => Self::Reject { code: NackCode::Invalid, detail },
            409 => Self::Reject { code: NackCode::Conflict, detail },
            415 | 501 => Self::Reject { code: NackCode::Unsupported, detail },
            _ => Self::Reject { code: NackCode::ApplyFailed, detail },
        }
    }
}

/// What happened, and what the product said; at most [`MAX_DETAIL_BYTES`].
fn described(what: &str, said: &str) -> String {
    let mut detail = what.to_owned();
    if !said.is_empty() {
        detail = format!("{what}: {said}");
    }
    detail.truncate(detail.floor_char_boundary(MAX_DETAIL_BYTES));
    detail
}

/// Room for what happened before what the product said.
const SAID_BYTES: usize = MAX_DETAIL_BYTES - 64;

/// The beginning of a text, as one line.
fn beginning(bytes: &[u8]) -> String {
    let mut text = inert(&bytes[..bytes.len().min(SAID_BYTES)]);
    text.truncate(text.floor_char_boundary(SAID_BYTES));
    text
}

/// The last lines of a text that fit, as one line; the end of the last line if it is too long.
fn last_lines(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii_end();
    let cut = bytes.len().saturating_sub(SAID_BYTES);
    let mut rest = &bytes[cut..];
    if cut > 0
        && let Some(end) = rest.iter().position(|byte| *byte == b'\n')
    {
        rest = &rest[end + 1..];
    }
    let text = inert(rest);
    // Invalid bytes have become longer.
    let start = text.ceil_char_boundary(text.len().saturating_sub(SAID_BYTES));
    text[start..].to_owned()
}

/// Valid UTF-8 without control and format characters; line breaks and tabs become blanks.
fn inert(bytes: &[u8]) -> String {
    let visible = |c| match c {
        '\n' | '\r' | '\t' => Some(' '),
        c => (!is_invisible(c)).then_some(c),
    };
    let text: String = String::from_utf8_lossy(bytes).chars().filter_map(visible).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn an_exit_status_decides() {
        assert_eq!(Answer::of_exit(exit(0), b"a warning"), Answer::Applied);
        let retried = Answer::of_exit(exit(75), b"");
        assert!(
            matches!(retried, Answer::Retry { detail: Some(it), .. } if it == "exit status 75")
        );
        let Answer::Reject { code, detail } = Answer::of_exit(exit(1), b"one\ntwo\n") else {
            panic!("rejected");
        };
        assert_eq!((code, detail.as_str()), (NackCode::ApplyFailed, "exit status 1: one two"));
        let killed = Answer::of_exit(ExitStatus::from_raw(9), b"");
        assert!(
            matches!(killed, Answer::Retry { detail: Some(it), .. } if it.contains("signal 9"))
        );
    }

    #[test]
    fn a_detail_is_bounded_and_inert() {
        let hostile = b"\xff\x1b[31m\xe2\x80\xaered\x00\r\n".repeat(1000);
        for reply in [Answer::of_exit(exit(1), &hostile), Answer::of_response(500, None, &hostile)]
        {
            let Answer::Reject { detail, .. } = reply else { panic!("rejected") };
            assert!(detail.len() <= MAX_DETAIL_BYTES, "{}", detail.len());
            assert!(detail.len() > MAX_DETAIL_BYTES / 2, "{}", detail.len());
            assert!(!detail.chars().any(is_invisible), "{detail:?}");
        }
    }

    #[test]
    fn the_last_lines_and_the_beginning_are_kept() {
        let lines: Vec<String> = (0..1000).map(|line| format!("line {line}\n")).collect();
        let lines = lines.concat();
        let said = last_lines(lines.as_bytes());
        assert!(said.starts_with("line ") && said.ends_with("line 999"), "{said}");
        assert!(last_lines("é".repeat(5000).as_bytes()).ends_with("éé"));
        assert!(beginning(lines.as_bytes()).starts_with("line 0 line 1"));
    }

    #[test]
    fn a_redirect_is_rejected() {
        let reply = Answer::of_response(302, None, b"");
        assert!(matches!(reply, Answer::Reject { detail, .. } if detail.contains("not followed")));
    }
}
