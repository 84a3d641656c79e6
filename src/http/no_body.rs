//! Refuses bodies of requests that change something and whose route takes none. A client that sends
//! one expects it to have an effect, such as that of `dryRun`; without the refusal the request would
//! do what the client did not ask for.

use std::collections::HashSet;
use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use utoipa::openapi::OpenApi;

use super::BASE;
use super::extract::BodyParts;
use super::problem::Problem;

/// The routes that change something and take no body, by method and template.
pub(super) struct Bodiless(HashSet<(Method, String)>);

impl Bodiless {
    /// Those of a document whose paths are relative to [`BASE`].
    pub(super) fn of(document: &OpenApi) -> Arc<Self> {
        let mut routes = HashSet::new();
        for (path, item) in &document.paths.paths {
            for (method, operation) in [
                (Method::POST, &item.post),
                (Method::PUT, &item.put),
                (Method::PATCH, &item.patch),
                (Method::DELETE, &item.delete),
            ] {
                if operation.as_ref().is_some_and(|it| it.request_body.is_none()) {
                    routes.insert((method, format!("{BASE}{path}")));
                }
            }
        }
        Arc::new(Self(routes))
    }

    fn contains(&self, request: &Request) -> bool {
        let path = request.extensions().get::<MatchedPath>();
        path.is_some_and(|path| {
            self.0.contains(&(request.method().clone(), path.as_str().to_owned()))
        })
    }
}

/// Refuses a body that is not empty, on these routes.
pub(super) async fn refuse(
    State(routes): State<Arc<Bodiless>>,
    request: Request,
    next: Next,
) -> Response {
    if request.body().is_end_stream() || !routes.contains(&request) {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let mut parts = BodyParts::new(Request::from_parts(head.clone(), body), 0);
    while let Some(part) = parts.next().await {
        // Nothing of the body is allowed, so this is an error unless the part is empty.
        if part.is_err() {
            parts.discard().await;
            return Problem::bad_request(
                "This route takes no body; nothing was done. Repeat the request without one.",
            )
            .into_response();
        }
    }
    next.run(Request::from_parts(head, Body::empty())).await
}
