//! Problem documents (RFC 9457) as readable errors.

use std::fmt::Write as _;

use serde_json::Value;

use crate::api::{FieldError, Problem};
use crate::names::is_invisible;

/// Parses the body of an error response. A body that is not a problem document becomes the detail.
pub(super) fn read(status: u16, retry_after: Option<u32>, body: &[u8]) -> Problem {
    let mut problem = serde_json::from_slice::<Value>(body)
        .ok()
        .filter(Value::is_object)
        .and_then(|value| serde_json::from_value::<Problem>(value).ok())
        .unwrap_or_else(|| Problem {
            detail: String::from_utf8_lossy(body)
                .chars()
                .filter(|c| !is_invisible(*c))
                .take(200)
                .collect(),
            ..Problem::default()
        });
    problem.status = status;
    problem.retry_after_secs = retry_after;
    problem
}

/// Describes a problem, with a line for each invalid field.
pub(super) fn described(problem: &Problem) -> String {
    let mut text = format!("the service refused ({}", problem.status);
    if !problem.code.is_empty() {
        text.push(' ');
        text.push_str(&problem.code);
    }
    text.push(')');
    // The title is that of the status; the detail says more.
    let said = if problem.detail.is_empty() { problem.title.as_ref() } else { &problem.detail };
    if !said.is_empty() {
        text.push_str(": ");
        text.push_str(said);
    }
    // The detail of a single field's error repeats it.
    let is_repeated =
        |error: &FieldError| problem.detail == format!("{}: {}", error.field, error.message);
    for error in problem.errors.iter().filter(|error| !is_repeated(error)) {
        _ = write!(text, "\n  {}: {}", error.field, error.message);
    }
    if let Some(secs) = problem.retry_after_secs {
        _ = write!(text, "\n  retry after {secs} s");
    }
    if problem.status == 401 {
        text.push_str("\n  pass a valid access token by GATEWAY_EVENTS_TOKEN or --token-file");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_its_code_and_every_field() {
        let body = br#"{"title":"Invalid","detail":"Look.","code":"invalid","errors":[{"field":"name","message":"is required"}]}"#;
        let shown = described(&read(422, None, body));
        assert_eq!(shown, "the service refused (422 invalid): Look.\n  name: is required");
    }

    #[test]
    fn a_field_that_the_detail_names_is_not_repeated() {
        let body = br#"{"title":"Invalid","detail":"name: is required","errors":[{"field":"name","message":"is required"}]}"#;
        let shown = described(&read(422, None, body));
        assert_eq!(shown, "the service refused (422): name: is required");
    }

    #[test]
    fn an_answer_that_is_no_problem_document_is_quoted() {
        let shown = described(&read(502, Some(3), b"bad\ngateway"));
        assert_eq!(shown, "the service refused (502): badgateway\n  retry after 3 s");
    }
}
