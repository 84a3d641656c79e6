//! What the service says when it refuses (`application/problem+json`, RFC
//! 9457), made readable.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

/// A refusal.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// A short name for this kind of problem.
    pub title: String,
    /// What was wrong this time.
    pub detail: String,
    /// The stable code that programs match.
    pub code: String,
    /// The fields that were wrong.
    pub errors: Vec<FieldError>,
    /// After how many seconds to try again.
    #[serde(skip)]
    pub retry_after: Option<u64>,
}

/// One field that was wrong.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct FieldError {
    /// Its name.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl Problem {
    /// Reads an answer's body; one that is no problem document is quoted.
    pub fn read(status: u16, retry_after: Option<u64>, body: &[u8]) -> Self {
        let mut problem = serde_json::from_slice::<Value>(body)
            .ok()
            .filter(Value::is_object)
            .and_then(|value| serde_json::from_value::<Self>(value).ok())
            .unwrap_or_else(|| Self {
                detail: String::from_utf8_lossy(body)
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(200)
                    .collect(),
                ..Self::default()
            });
        problem.status = status;
        problem.retry_after = retry_after;
        problem
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the service refused ({}", self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        f.write_str(")")?;
        let said: Vec<&str> = [self.title.as_str(), self.detail.as_str()]
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect();
        if !said.is_empty() {
            write!(f, ": {}", said.join(": "))?;
        }
        for error in &self.errors {
            write!(f, "\n  {}: {}", error.field, error.message)?;
        }
        if let Some(secs) = self.retry_after {
            write!(f, "\n  try again in {secs} s")?;
        }
        if self.status == 401 {
            f.write_str(
                "\n  give an access token that is valid by GATEWAY_EVENTS_TOKEN or --token-file",
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_its_code_and_every_field() {
        let body = br#"{"title":"Invalid","detail":"Look.","code":"invalid","errors":[{"field":"name","message":"is required"}]}"#;
        let shown = Problem::read(422, None, body).to_string();
        assert_eq!(shown, "the service refused (422 invalid): Invalid: Look.\n  name: is required");
    }

    #[test]
    fn an_answer_that_is_no_problem_document_is_quoted() {
        let shown = Problem::read(502, Some(3), b"bad\ngateway").to_string();
        assert_eq!(shown, "the service refused (502): badgateway\n  try again in 3 s");
    }
}
