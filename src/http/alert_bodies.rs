//! What the routes of alert rules and destinations share.

use super::problem::{HandlerResult, Problem};

/// Refuses a body whose id is not that of the path.
pub(super) fn check_path_id(path: &str, body: Option<&str>) -> HandlerResult<()> {
    match body {
        Some(body) if body != path => {
            Err(Problem::invalid("id", "must be that of the path, or be omitted"))
        }
        _ => Ok(()),
    }
}

/// A definition as it is stored.
pub(super) fn to_json(definition: &impl serde::Serialize) -> HandlerResult<String> {
    serde_json::to_string(definition).map_err(|_| Problem::internal())
}
