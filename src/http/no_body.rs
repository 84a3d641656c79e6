//! Refuses bodies of requests that change something and whose route takes none. A client that sends
//! one expects it to have an effect, such as that of `dryRun`; without the refusal the request would
//! do what the client did not ask for.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use utoipa_axum::router::{UtoipaMethodRouter, UtoipaMethodRouterExt as _};

use super::extract::BodyParts;
use super::problem::Problem;
use super::state::AppState;

/// A path with its handlers and their documentation.
pub(super) type ApiRoute = UtoipaMethodRouter<AppState>;

/// Refuses bodies of those methods of a route whose documentation has none. The other routes get no
/// layer, because each one costs a request several allocations.
pub(super) fn refused_where_undocumented(route: ApiRoute) -> ApiRoute {
    let (_, paths, _) = &route;
    let mut methods = Vec::new();
    for item in paths.paths.values() {
        for (method, operation) in [
            (Method::POST, &item.post),
            (Method::PUT, &item.put),
            (Method::PATCH, &item.patch),
            (Method::DELETE, &item.delete),
        ] {
            if operation.as_ref().is_some_and(|it| it.request_body.is_none()) {
                methods.push(method);
            }
        }
    }
    if methods.is_empty() {
        return route;
    }
    let methods: Arc<[Method]> = methods.into();
    route.layer(middleware::from_fn_with_state(methods, refuse))
}

async fn refuse(State(methods): State<Arc<[Method]>>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() || !methods.contains(request.method()) {
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
