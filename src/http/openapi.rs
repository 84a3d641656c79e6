//! The OpenAPI document of the HTTP API. It is generated from the types in
//! [`api`](crate::api) and from the attributes of the handlers; a route can't be added
//! without an attribute. [`Problems`] lists the refusals of a route.

mod examples;

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::time::Duration;

use serde_json::{Value, json};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Ref, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{self, RefOr};
use utoipa::{IntoResponses, OpenApi};

use crate::api::{Code, Problem};

const PROBLEM_JSON: &str = "application/problem+json";
/// Names of the security schemes.
const ACCESS_TOKEN: &str = "access_token";
const GATEWAY_KEY: &str = "gateway_key";

/// The parts of the document besides routes and schemas.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "gateway-events",
        description = "A persistent event log with durable delivery tracking for API gateways.\n\n\
            Members are camelCase, instants RFC 3339 in UTC. A refusal is a problem document \
            (RFC 9457) with a stable `code`; each response lists the codes that it may carry. \
            A `Retry-After` header says after how many seconds a retry is welcome. Response \
            objects may gain members.",
    ),
    servers((url = "/", description = "This service.")),
    tags(
        (name = "events", description = "Publish events, and show them with their deliveries."),
        (name = "deliveries", description = "Failed deliveries with their reasons, and redrives."),
        (name = "jobs", description = "Redrives and replays of many deliveries."),
        (name = "gateways", description = "Register, change and delete gateways; read their logs."),
        (name = "gateway tokens", description = "The keys that gateways connect with."),
        (name = "connections", description = "Connections of gateways, live and past."),
        (name = "event types", description = "Registered event types and their JSON Schemas."),
        (name = "inbox", description = "Rows that other programs inserted and that could not be published."),
        (name = "alerts", description = "Rules, what they find, and where notifications of it are sent."),
        (name = "access tokens", description = "Tokens for this API."),
        (name = "audit", description = "Who changed what, when and from where."),
        (name = "overview", description = "Totals and nodes."),
        (name = "for gateways", description = "Requests of gateways, with their own key."),
        (name = "operations", description = "Probes, metrics and this document; no credentials are needed."),
    ),
    components(schemas(Problem)),
)]
pub(super) struct Base;

/// The OpenAPI document of all routes; `docs/openapi.json` is this.
pub fn document() -> openapi::OpenApi {
    let mut document = super::documented_routes(Duration::MAX).into_openapi();
    let components = document.components.get_or_insert_default();
    components.security_schemes.extend(security_schemes());
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            describe_credentials(operation);
            for response in operation.responses.responses.values_mut() {
                share(response, &mut components.responses);
            }
        }
    }
    examples::complete(&mut document);
    document
}

/// The document as JSON, as it is served.
pub fn json() -> String {
    let mut text = document().to_pretty_json().expect("the document is made of texts and numbers");
    text.push('\n');
    text
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete]
        .into_iter()
        .filter_map(Option::as_mut)
}

fn security_schemes() -> [(String, RefOr<SecurityScheme>); 2] {
    let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
        "An access token, `Authorization: Bearer gwa_…`. Each route needs one of the scopes \
         `publish`, `read` and `admin`; none of them includes another.",
    ));
    let key = ApiKeyValue::with_description("api-key", "A gateway's key, `gwk_…`.");
    [
        (ACCESS_TOKEN.to_owned(), SecurityScheme::Http(token.build()).into()),
        (GATEWAY_KEY.to_owned(), SecurityScheme::ApiKey(ApiKey::Header(key)).into()),
    ]
}

/// Describes the required credentials, in words and, for programs, in `x-required-scope`.
fn describe_credentials(operation: &mut Operation) {
    let needs = match credentials(operation) {
        Some((scheme, Some(scope))) if scheme == ACCESS_TOKEN => {
            let extension =
                ExtensionsBuilder::new().add("x-required-scope", scope.as_str()).build();
            operation.extensions.get_or_insert_default().merge(extension);
            format!("Requires an access token with the scope `{scope}`.")
        }
        Some(_) => "Requires a gateway's key.".to_owned(),
        None => "Requires no credentials.".to_owned(),
    };
    let description = operation.description.take().filter(|text| !text.is_empty());
    let parts = [description, Some(needs)];
    operation.description = Some(parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n"));
}

/// The required scheme and scope of an operation.
fn credentials(operation: &Operation) -> Option<(String, Option<String>)> {
    let requirement: &SecurityRequirement = operation.security.as_ref()?.first()?;
    let requirement = serde_json::to_value(requirement).ok()?;
    let (scheme, scopes) = requirement.as_object()?.iter().next()?;
    Some((scheme.clone(), scopes[0].as_str().map(str::to_owned)))
}

/// Moves a problem response to the components: many routes have the same ones.
fn share(response: &mut RefOr<Response>, shared: &mut BTreeMap<String, RefOr<Response>>) {
    let RefOr::T(inline) = &*response else { return };
    let Some(codes) = inline.extensions.as_ref().and_then(|it| it.get("x-problem-codes")) else {
        return;
    };
    let codes: Vec<&str> =
        codes.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let name = codes.join(".");
    shared.entry(name.clone()).or_insert_with(|| response.clone());
    *response = RefOr::Ref(Ref::from_response_name(name));
}

/// The refusals of a route, as sets of codes: `Problems<(Scoped, Missing)>`.
pub(super) struct Problems<T>(PhantomData<T>);

/// A group of codes.
pub(super) trait Codes {
    /// The codes.
    const CODES: &'static [Code];
}

macro_rules! code_sets {
    ($($(#[$doc:meta])* $name:ident = [$($code:ident),*];)*) => {
        $(
            $(#[$doc])*
            pub(super) struct $name;

            impl Codes for $name {
                const CODES: &'static [Code] = &[$(Code::$code),*];
            }
        )*
    };
}

code_sets! {
    /// Routes that require an access token. They refuse invalid and unknown parameters.
    Scoped = [
        Unauthorized, InsufficientScope, Invalid, HttpConnectionLimit, Internal, Timeout,
        Unavailable
    ];
    /// Routes that require a gateway's key.
    Keyed = [Unauthorized, Internal, Timeout, Unavailable];
    /// A query that takes long is cancelled.
    Long = [QueryTimeout];
    /// A JSON body is read and validated.
    Body = [
        BadRequest, MalformedJson, BodyTooLarge, UnsupportedMediaType, UnsupportedContentEncoding
    ];
    /// The route takes no body, and refuses one.
    Bodiless = [BadRequest];
    /// A resource is named that may not exist.
    Missing = [NotFound];
    /// A name or an id may be taken.
    Taken = [Conflict];
    /// Something may be in use.
    InUse = [EventTypeInUse];
    /// A feed is opened.
    Watching = [BadRequest, TooManyFeeds, Draining];
    /// Something is stored.
    Write = [CommitOutcomeUnknown];
    /// Secrets are encrypted or decrypted, and something is stored.
    Sealing = [AlertKeyMissing, CommitOutcomeUnknown];
    /// Events are appended.
    Append = [StorageFull];
    /// Something is stored, and events are appended.
    Storing = [CommitOutcomeUnknown, StorageFull];
    /// A gateway may be unable to do what is requested.
    ResyncRefused = [ResyncUnsupported];
    /// An event's payload may have been purged.
    Purging = [EventPurged];
    /// The request may have an `Idempotency-Key`.
    Idempotent = [IdempotencyKeyReused];
    /// Work runs on the compute pool.
    Compute = [Overloaded];
    /// `POST /events`.
    Publishing = [
        UnknownGateways, EventIdTaken, EventTooLarge, TooManyDeliveries, UnknownEventType,
        IdempotencyKeyReused
    ];
    /// `POST /events/{id}/resend`.
    Resending = [UnknownGateways, EventPurged];
    /// `POST /gateways/{id}/manifest`.
    Manifest = [BadRequest, ManifestTooLarge, UnsupportedContentEncoding];
    /// `GET /ws/gateways/connect`.
    Connecting = [
        BadRequest, OriginRefused, Unauthorized, GatewayDisabled, UpgradeRequired,
        TooManyAttempts, ConnectionLimit, GatewayConnectionLimit, Draining, HttpConnectionLimit,
        CommitOutcomeUnknown, Internal, Unavailable
    ];
    /// A gateway's stream is opened.
    Streaming = [
        BadRequest, OriginRefused, Unauthorized, GatewayDisabled, Conflict, Invalid, InvalidFrame,
        TooManyAttempts, ConnectionLimit, GatewayConnectionLimit, Draining, HttpConnectionLimit, Internal, Timeout,
        Unavailable
    ];
    /// Frames of a gateway.
    Frames = [
        BadRequest, MalformedFrame, ConnectionGone, BodyTooLarge, FrameTooLarge,
        UnsupportedContentEncoding, Invalid, InvalidFrame
    ];
    /// Requests that may wait.
    Waiting = [TooManyWaits];
    /// `GET /readyz`.
    Readiness = [Draining, JobOverdue, Unavailable, Internal];
    /// Routes without credentials that are not served on connections of the reserve.
    Public = [HttpConnectionLimit];
}

macro_rules! problems {
    ($($set:ident),+) => {
        impl<$($set: Codes),+> IntoResponses for Problems<($($set,)+)> {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                responses(&[$($set::CODES),+].concat())
            }
        }
    };
}

problems!(A);
problems!(A, B);
problems!(A, B, C);
problems!(A, B, C, D);
problems!(A, B, C, D, E);
problems!(A, B, C, D, E, F);
problems!(A, B, C, D, E, F, G);
problems!(A, B, C, D, E, F, G, H);

/// One response for each status.
fn responses(codes: &[Code]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, BTreeSet<Code>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.status()).or_default().insert(*code);
    }
    by_status
        .into_iter()
        .map(|(status, codes)| (status.to_string(), RefOr::T(response(status, &codes))))
        .collect()
}

fn response(status: u16, codes: &BTreeSet<Code>) -> Response {
    let names = || codes.iter().map(|code| code.as_str());
    let lines: Vec<_> =
        codes.iter().map(|code| format!("- `{}`: {}", code.as_str(), code.meaning())).collect();
    let code = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names()));
    let schema = AllOfBuilder::new()
        .item(Ref::from_schema_name("Problem"))
        .item(ObjectBuilder::new().property("code", code));
    let examples = codes.iter().map(|code| {
        let title = axum::http::StatusCode::from_u16(status).ok();
        let title = title.and_then(|status| status.canonical_reason()).unwrap_or_default();
        let value = json!({
            "type": "about:blank",
            "status": status,
            "code": code.as_str(),
            "title": title,
            "detail": code.meaning(),
        });
        (code.as_str(), ExampleBuilder::new().value(Some(value)).build())
    });
    let content = ContentBuilder::new().schema(Some(schema)).examples_from_iter(examples).build();
    let mut response = ResponseBuilder::new()
        .description(lines.join("\n"))
        .content(PROBLEM_JSON, content)
        .extensions(Some(
            ExtensionsBuilder::new().add("x-problem-codes", names().collect::<Vec<_>>()).build(),
        ));
    if matches!(status, 429 | 503) {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
        let header = HeaderBuilder::new()
            .schema(Some(seconds))
            .description(Some("Seconds to wait before a retry."))
            .build();
        response = response.header("Retry-After", header);
    }
    response.build()
}
