//! The client of the HTTP API: a method for each call, with the types of
//! [`api`](crate::api). Refusals become readable errors. Replays, resends and redrives have an
//! `Idempotency-Key`, and are retried while it is not known whether they were done. Nothing else is
//! retried: the caller knows what may be repeated.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Url, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::BASE_PATH;
use super::problem;
use super::tls::{self, Trust, TrustError};
use crate::api::{
    AbortRequest, Aborted, Accepted, AccessToken, AlertDestination, AlertDestinationDefinition,
    AlertRule, AlertRuleDefinition, AlertSilence, AlertTest, AlertsOverview, AuditQuery,
    AuditRecord, Connection, ConnectionsQuery, DeliveriesQuery, Delivery, DeliveryFilter,
    EditedRow, EventDiagnosis, EventDiagnosisQuery, EventFilter, EventSummary, EventTypeDefinition,
    EventTypeDeletion, EventTypeInfo, EventWithDeliveries, FeedQuery, Gateway, GatewayChange,
    GatewayDiagnosis, GatewayToken, GatewaysQuery, Instances, Job, JobsQuery, LogPage, LogQuery,
    NewAccessToken, NewEvent, NewGateway, NewGatewayToken, Node, NodesQuery, Page, PageQuery,
    PauseRequest, PauseResponse, Problem, PublishedQuery, PublishedSummary, PurgeRequest,
    PurgeResponse, RedriveRequest, Redriven, RejectedFilter, RejectedRow, RejectedRowChange,
    RejectedRowWithPayload, ReplayRequest, Replayed, ResendRequest, Resent, ResumeRequest,
    ResyncRequest, ResyncResponse, Retried, RetryRequest, RetryRowRequest, RolloutOfEvents,
    RolloutQuery, SkipRequest, SkipResponse, Stats, Summary, SummaryQuery, WaitQuery, Window,
    WithSecret,
};
use crate::clock::Timestamp;
use crate::cloud_event;
use crate::event::{EventId, EventType, GatewayId, JobId};

/// The pauses before the retries of a request with an `Idempotency-Key`.
const RETRIES: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
/// The longest time that a feed stays open: no limit in practice.
const FEED_TIMEOUT: Duration = Duration::from_hours(24 * 365);

/// Why a request to the API failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The address is malformed.
    #[error(
        "{address:?} is not a valid address of the service: {why}; expected a URL like https://host:8443"
    )]
    Address {
        /// As given.
        address: String,
        /// What is wrong.
        why: String,
    },
    /// No TLS client could be made.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The service can't be reached, or its certificate is not trusted.
    #[error("failed to connect to {url}: {why}{hint}")]
    Unreachable {
        /// The address of the service.
        url: String,
        /// What happened.
        why: String,
        /// Advice, or empty.
        hint: String,
        /// Whether there was a connection, so that the request may have been sent.
        is_connected: bool,
    },
    /// The service refused the request.
    #[error("{}", problem::described(.0))]
    Refused(Box<Problem>),
    /// The response is not what this version of the client expects.
    #[error("{url} sent an unexpected response ({why}); is it the service's address?")]
    Unreadable {
        /// The address.
        url: String,
        /// What is wrong with the response.
        why: String,
    },
}

impl ApiError {
    /// Whether the request may have been done although there is no answer, or can be done later. A
    /// service that can't be connected to has not been asked.
    const fn is_unclear(&self) -> bool {
        match self {
            Self::Unreachable { is_connected, .. } => *is_connected,
            Self::Refused(problem) => problem.status == 503,
            _ => false,
        }
    }

    /// The HTTP status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(problem) => Some(problem.status),
            _ => None,
        }
    }
}

type Result<T> = std::result::Result<T, ApiError>;

/// A client with an address, a token and certificates to trust.
#[derive(Clone, Debug)]
pub struct Api {
    client: reqwest::Client,
    base: Url,
    token: Option<Arc<SecretString>>,
}

impl Api {
    /// A client of the service at `address`, such as `https://localhost:8443`.
    pub fn new(address: &str, token: Option<SecretString>, trust: &Trust) -> Result<Self> {
        let base = parse_base(address)?;
        let config = trust.client_config()?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(config.as_ref().clone())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(|error| unreachable(&base, &error))?;
        Ok(Self { client, base, token: token.map(Arc::new) })
    }

    /// The base URL of the service, without the prefix of the API.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// `POST /events` with one event.
    pub async fn publish(&self, event: &NewEvent) -> Result<Accepted> {
        self.call(Method::POST, "/events", event).await
    }

    /// `POST /events` with one CloudEvent in the JSON format.
    pub async fn publish_cloud_event(&self, event: &impl Serialize) -> Result<Accepted> {
        let request = self.request(Method::POST, "/events");
        let request = request.header(header::CONTENT_TYPE, cloud_event::MEDIA_TYPE);
        self.send(request.json(event)).await
    }

    /// `GET /events/{id}`.
    pub async fn event(&self, id: &EventId) -> Result<EventWithDeliveries> {
        self.read(&["events", id.as_str()], &()).await
    }

    /// `GET /rollouts`.
    pub async fn rollout(&self, query: &RolloutQuery, wait: &WaitQuery) -> Result<RolloutOfEvents> {
        let mut url = self.url(&["rollouts"], query);
        extend_query(&mut url, wait);
        self.send(self.authorized(Method::GET, url)).await
    }

    /// `GET /events`: up to `limit` of them.
    pub async fn events(&self, filter: &EventFilter, limit: usize) -> Result<Page<EventSummary>> {
        self.pages(&["events"], filter, limit).await
    }

    /// `GET /gateways`: all of them.
    pub async fn gateways(&self) -> Result<Vec<Gateway>> {
        Ok(self.pages(&["gateways"], &(), usize::MAX).await?.list)
    }

    /// `GET /gateways`: those that match, at most `limit`.
    pub async fn matching_gateways(
        &self,
        query: &GatewaysQuery,
        limit: usize,
    ) -> Result<Vec<Gateway>> {
        Ok(self.pages(&["gateways"], query, limit).await?.list)
    }

    /// `GET /gateways`: one page.
    pub async fn gateway_page(&self, page: &PageQuery) -> Result<Page<Gateway>> {
        self.read(&["gateways"], page).await
    }

    /// `GET /gateways/{id}`.
    pub async fn gateway(&self, id: GatewayId) -> Result<Gateway> {
        self.read(&["gateways", &id.to_string()], &()).await
    }

    /// `GET /gateways/{id}/diagnosis`.
    pub async fn gateway_diagnosis(&self, id: GatewayId) -> Result<GatewayDiagnosis> {
        self.read(&["gateways", &id.to_string(), "diagnosis"], &()).await
    }

    /// `GET /events/{id}/diagnosis`.
    pub async fn event_diagnosis(
        &self,
        id: &EventId,
        query: &EventDiagnosisQuery,
    ) -> Result<EventDiagnosis> {
        self.read(&["events", id.as_str(), "diagnosis"], query).await
    }

    /// `POST /gateways`.
    pub async fn register_gateway(&self, gateway: &NewGateway) -> Result<Gateway> {
        self.call(Method::POST, "/gateways", gateway).await
    }

    /// `PATCH /gateways/{id}`.
    pub async fn change_gateway(&self, id: GatewayId, change: &GatewayChange) -> Result<Gateway> {
        self.call(Method::PATCH, &format!("/gateways/{id}"), change).await
    }

    /// `DELETE /gateways/{id}`.
    pub async fn delete_gateway(&self, id: GatewayId) -> Result<()> {
        self.delete(&["gateways", &id.to_string()]).await
    }

    /// `POST /gateways/{id}/pause`.
    pub async fn pause_gateway(
        &self,
        id: GatewayId,
        request: &PauseRequest,
    ) -> Result<PauseResponse> {
        self.call(Method::POST, &format!("/gateways/{id}/pause"), request).await
    }

    /// `POST /gateways/{id}/resume`.
    pub async fn resume_gateway(
        &self,
        id: GatewayId,
        request: &ResumeRequest,
    ) -> Result<PauseResponse> {
        self.call(Method::POST, &format!("/gateways/{id}/resume"), request).await
    }

    /// `POST /gateways/{id}/skip`.
    pub async fn skip_delivery(
        &self,
        id: GatewayId,
        request: &SkipRequest,
    ) -> Result<SkipResponse> {
        self.call(Method::POST, &format!("/gateways/{id}/skip"), request).await
    }

    /// `POST /gateways/{id}/resync`.
    pub async fn resync_gateway(
        &self,
        id: GatewayId,
        request: &ResyncRequest,
    ) -> Result<ResyncResponse> {
        self.call(Method::POST, &format!("/gateways/{id}/resync"), request).await
    }

    /// `DELETE /events/{id}/payload`.
    pub async fn purge_payload(
        &self,
        id: &EventId,
        request: &PurgeRequest,
    ) -> Result<PurgeResponse> {
        let url = self.url(&["events", id.as_str(), "payload"], &());
        self.send(self.authorized(Method::DELETE, url).json(request)).await
    }

    /// `GET /gateways/{id}/log`.
    pub async fn gateway_log(&self, id: GatewayId, query: &LogQuery) -> Result<LogPage> {
        self.read(&["gateways", &id.to_string(), "log"], query).await
    }

    /// `GET /gateways/{id}/tokens`.
    pub async fn gateway_tokens(&self, id: GatewayId) -> Result<Page<GatewayToken>> {
        self.read(&["gateways", &id.to_string(), "tokens"], &()).await
    }

    /// `POST /gateways/{id}/tokens`.
    pub async fn create_gateway_token(
        &self,
        id: GatewayId,
        token: &NewGatewayToken,
    ) -> Result<WithSecret<GatewayToken>> {
        self.call(Method::POST, &format!("/gateways/{id}/tokens"), token).await
    }

    /// `DELETE /gateways/{id}/tokens/{token}`.
    pub async fn revoke_gateway_token(&self, id: GatewayId, token: &str) -> Result<()> {
        self.delete(&["gateways", &id.to_string(), "tokens", token]).await
    }

    /// `GET /access-tokens`.
    pub async fn access_tokens(&self) -> Result<Page<AccessToken>> {
        self.read(&["access-tokens"], &()).await
    }

    /// `POST /access-tokens`.
    pub async fn create_access_token(
        &self,
        token: &NewAccessToken,
    ) -> Result<WithSecret<AccessToken>> {
        self.call(Method::POST, "/access-tokens", token).await
    }

    /// `DELETE /access-tokens/{id}`.
    pub async fn revoke_access_token(&self, id: &str) -> Result<()> {
        self.delete(&["access-tokens", id]).await
    }

    /// `GET /connections`, or `GET /gateways/{id}/connections`: up to `limit` of them.
    pub async fn connections(
        &self,
        gateway: Option<GatewayId>,
        query: &ConnectionsQuery,
        limit: usize,
    ) -> Result<Page<Connection>> {
        match gateway {
            Some(id) => {
                self.pages(&["gateways", &id.to_string(), "connections"], query, limit).await
            }
            None => self.pages(&["connections"], query, limit).await,
        }
    }

    /// `GET /gateways/{id}/instances`.
    pub async fn instances(&self, gateway: GatewayId) -> Result<Instances> {
        self.read(&["gateways", &gateway.to_string(), "instances"], &()).await
    }

    /// `DELETE /gateways/{id}/instances/{name}`.
    pub async fn forget_instance(&self, gateway: GatewayId, name: &str) -> Result<()> {
        self.delete(&["gateways", &gateway.to_string(), "instances", name]).await
    }

    /// `GET /deliveries`: up to `limit` failed ones.
    pub async fn failed_deliveries(
        &self,
        filter: &DeliveryFilter,
        limit: usize,
    ) -> Result<Page<Delivery>> {
        self.pages(&["deliveries"], filter, limit).await
    }

    /// `GET /deliveries` with a status: up to `limit` of them.
    pub async fn deliveries(
        &self,
        query: &DeliveriesQuery,
        filter: &DeliveryFilter,
        limit: usize,
    ) -> Result<Page<Delivery>> {
        #[derive(Serialize)]
        struct Parameters<'a> {
            #[serde(flatten)]
            query: &'a DeliveriesQuery,
            #[serde(flatten)]
            filter: &'a DeliveryFilter,
        }
        self.pages(&["deliveries"], &Parameters { query, filter }, limit).await
    }

    /// `POST /deliveries/redrive`: one call.
    pub async fn redrive(&self, request: &RedriveRequest) -> Result<Redriven> {
        self.once(request, || self.request(Method::POST, "/deliveries/redrive")).await
    }

    /// `POST /gateways/{id}/replay`.
    pub async fn replay(&self, id: GatewayId, request: &ReplayRequest) -> Result<Replayed> {
        let path = format!("/gateways/{id}/replay");
        self.once(request, || self.request(Method::POST, &path)).await
    }

    /// `POST /events/{id}/resend`.
    pub async fn resend(&self, id: &EventId, request: &ResendRequest) -> Result<Resent> {
        let url = self.url(&["events", id.as_str(), "resend"], &());
        self.once(request, || self.authorized(Method::POST, url.clone())).await
    }

    /// `GET /jobs`: up to `limit` of them.
    pub async fn jobs(&self, query: &JobsQuery, limit: usize) -> Result<Page<Job>> {
        self.pages(&["jobs"], query, limit).await
    }

    /// `GET /jobs/{id}`.
    pub async fn job(&self, id: JobId) -> Result<Job> {
        self.read(&["jobs", &id.to_string()], &()).await
    }

    /// `POST /jobs/{id}/abort`.
    pub async fn abort_job(&self, id: JobId, request: &AbortRequest) -> Result<Aborted> {
        self.call(Method::POST, &format!("/jobs/{id}/abort"), request).await
    }

    /// `GET /inbox/rejected`: up to `limit` of them.
    pub async fn rejected_rows(
        &self,
        filter: &RejectedFilter,
        limit: usize,
    ) -> Result<Page<RejectedRow>> {
        self.pages(&["inbox", "rejected"], filter, limit).await
    }

    /// `GET /inbox/rejected/{id}`.
    pub async fn rejected_row(&self, id: i64) -> Result<RejectedRowWithPayload> {
        self.read(&["inbox", "rejected", &id.to_string()], &()).await
    }

    /// `PATCH /inbox/rejected/{id}`.
    pub async fn edit_rejected_row(
        &self,
        id: i64,
        change: &RejectedRowChange,
    ) -> Result<EditedRow> {
        self.call(Method::PATCH, &format!("/inbox/rejected/{id}"), change).await
    }

    /// `POST /inbox/rejected/{id}/retry`.
    pub async fn retry_rejected_row(&self, id: i64, request: &RetryRowRequest) -> Result<Retried> {
        self.call(Method::POST, &format!("/inbox/rejected/{id}/retry"), request).await
    }

    /// `POST /inbox/rejected/retry`: one call.
    pub async fn retry_rejected_rows(&self, request: &RetryRequest) -> Result<Retried> {
        self.call(Method::POST, "/inbox/rejected/retry", request).await
    }

    /// `DELETE /inbox/rejected/{id}`.
    pub async fn delete_rejected_row(&self, id: i64) -> Result<()> {
        self.delete(&["inbox", "rejected", &id.to_string()]).await
    }

    /// `GET /audit`: up to `limit` records.
    pub async fn audit(&self, query: &AuditQuery, limit: usize) -> Result<Page<AuditRecord>> {
        self.pages(&["audit"], query, limit).await
    }

    /// `GET /nodes`.
    pub async fn nodes(&self, query: &NodesQuery) -> Result<Page<Node>> {
        self.read(&["nodes"], query).await
    }

    /// `GET /feed`: the open stream, after a message or from now on.
    pub async fn feed(
        &self,
        query: &FeedQuery,
        last_id: Option<&str>,
    ) -> Result<reqwest::Response> {
        let mut request = self.authorized(Method::GET, self.url(&["feed"], query));
        request = request.timeout(FEED_TIMEOUT).header(header::ACCEPT, "text/event-stream");
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let opening = tokio::time::timeout(REQUEST_TIMEOUT, self.opened(request));
        opening.await.unwrap_or_else(|_| {
            let (url, why) = (self.base.to_string(), "the service does not answer".to_owned());
            Err(ApiError::Unreachable { url, why, hint: String::new(), is_connected: true })
        })
    }

    /// `GET /alerts`.
    pub async fn alerts(&self, page: &PageQuery) -> Result<AlertsOverview> {
        self.read(&["alerts"], page).await
    }

    /// `GET /alerts/rules`.
    pub async fn alert_rules(&self) -> Result<Page<AlertRule>> {
        self.read(&["alerts", "rules"], &()).await
    }

    /// `GET /alerts/rules/{id}`.
    pub async fn alert_rule(&self, id: &str) -> Result<AlertRule> {
        self.read(&["alerts", "rules", id], &()).await
    }

    /// `PUT /alerts/rules/{id}`.
    pub async fn put_alert_rule(&self, id: &str, rule: &AlertRuleDefinition) -> Result<AlertRule> {
        self.put(&["alerts", "rules", id], rule).await
    }

    /// `DELETE /alerts/rules/{id}`.
    pub async fn delete_alert_rule(&self, id: &str) -> Result<()> {
        self.delete(&["alerts", "rules", id]).await
    }

    /// `PUT /alerts/rules/{id}/silence`.
    pub async fn silence_alert_rule(&self, id: &str, silence: &AlertSilence) -> Result<AlertRule> {
        self.put(&["alerts", "rules", id, "silence"], silence).await
    }

    /// `GET /alerts/destinations`.
    pub async fn alert_destinations(&self) -> Result<Page<AlertDestination>> {
        self.read(&["alerts", "destinations"], &()).await
    }

    /// `GET /alerts/destinations/{id}`.
    pub async fn alert_destination(&self, id: &str) -> Result<AlertDestination> {
        self.read(&["alerts", "destinations", id], &()).await
    }

    /// `PUT /alerts/destinations/{id}`.
    pub async fn put_alert_destination(
        &self,
        id: &str,
        destination: &AlertDestinationDefinition,
    ) -> Result<AlertDestination> {
        self.put(&["alerts", "destinations", id], destination).await
    }

    /// `DELETE /alerts/destinations/{id}`.
    pub async fn delete_alert_destination(&self, id: &str) -> Result<()> {
        self.delete(&["alerts", "destinations", id]).await
    }

    /// `POST /alerts/destinations/{id}/test`.
    pub async fn test_alert_destination(&self, id: &str) -> Result<AlertTest> {
        let url = self.url(&["alerts", "destinations", id, "test"], &());
        self.send(self.authorized(Method::POST, url)).await
    }

    /// `GET /event-types`.
    pub async fn event_types(&self) -> Result<Page<EventTypeInfo>> {
        self.read(&["event-types"], &()).await
    }

    /// `GET /event-types/{name}`.
    pub async fn event_type(&self, name: &EventType) -> Result<EventTypeInfo> {
        self.read(&["event-types", name.as_str()], &()).await
    }

    /// `PUT /event-types/{name}`.
    pub async fn put_event_type(
        &self,
        name: &EventType,
        definition: &EventTypeDefinition,
    ) -> Result<EventTypeInfo> {
        let url = self.url(&["event-types", name.as_str()], &());
        self.send(self.authorized(Method::PUT, url).json(definition)).await
    }

    /// `DELETE /event-types/{name}`.
    pub async fn delete_event_type(
        &self,
        name: &EventType,
        deletion: &EventTypeDeletion,
    ) -> Result<()> {
        let url = self.url(&["event-types", name.as_str()], deletion);
        self.response(self.authorized(Method::DELETE, url)).await.map(drop)
    }

    /// `GET /stats`.
    pub async fn stats(&self) -> Result<Stats> {
        self.read(&["stats"], &()).await
    }

    /// `GET /stats/published`.
    pub async fn published(
        &self,
        window: &Window,
        query: &PublishedQuery,
    ) -> Result<PublishedSummary> {
        let mut url = self.url(&["stats", "published"], window);
        extend_query(&mut url, query);
        self.send(self.authorized(Method::GET, url)).await
    }

    /// `GET /deliveries/summary`.
    pub async fn summary(&self, window: &Window, query: &SummaryQuery) -> Result<Summary> {
        let mut url = self.url(&["deliveries", "summary"], window);
        extend_query(&mut url, query);
        self.send(self.authorized(Method::GET, url)).await
    }

    /// `GET` at the root, such as of `/readyz`, without the token.
    pub async fn root(&self, path: &str) -> Result<String> {
        let body = self.response(self.at_root(Method::GET, path)).await?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// The time that a response to `GET` at the root has in its header `Date`.
    pub async fn root_date(&self, path: &str) -> Result<Option<Timestamp>> {
        let response = self.opened(self.at_root(Method::GET, path)).await?;
        let date = response.headers().get(header::DATE);
        Ok(date.and_then(|date| Timestamp::parse_http_date(date.to_str().ok()?)))
    }

    /// Whether the token may publish. Sends an event that is invalid in any case.
    pub async fn can_publish(&self) -> Result<bool> {
        let request = self.request(Method::POST, "/events").json(&serde_json::json!({}));
        match self.response(request).await {
            Ok(_) => Ok(true),
            Err(error) => match error.status() {
                Some(400 | 422) => Ok(true),
                Some(403) => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Up to `limit` elements of a list, in as many requests as needed: a page may be short and
    /// still have a next one.
    async fn pages<T: DeserializeOwned>(
        &self,
        path: &[&str],
        filter: &impl Serialize,
        limit: usize,
    ) -> Result<Page<T>> {
        let mut list: Vec<T> = Vec::new();
        let mut cursor = None;
        loop {
            let page =
                PageQuery { limit: Some((limit - list.len()).min(PageQuery::MAX_LIMIT)), cursor };
            let mut url = self.url(path, filter);
            extend_query(&mut url, &page);
            let page: Page<T> = self.send(self.authorized(Method::GET, url)).await?;
            list.extend(page.list);
            cursor = page.pagination.next;
            if cursor.is_none() || list.len() >= limit {
                return Ok(Page::new(list, limit, cursor));
            }
        }
    }

    async fn read<T: DeserializeOwned>(&self, path: &[&str], query: &impl Serialize) -> Result<T> {
        self.send(self.authorized(Method::GET, self.url(path, query))).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        self.send(self.request(method, path).json(body)).await
    }

    /// Sends a request with a body and an `Idempotency-Key` of its own, and retries it while its answer
    /// may have been lost. The service does it once.
    async fn once<T: DeserializeOwned>(
        &self,
        body: &impl Serialize,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<T> {
        let key = uuid::Uuid::now_v7().to_string();
        let mut pauses = RETRIES.into_iter();
        loop {
            let keyed = request().header("idempotency-key", &key).json(body);
            let error = match self.send(keyed).await {
                Err(error) if error.is_unclear() => error,
                done => return done,
            };
            let Some(pause) = pauses.next() else { return Err(error) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn put<T: DeserializeOwned>(&self, path: &[&str], body: &impl Serialize) -> Result<T> {
        self.send(self.authorized(Method::PUT, self.url(path, &())).json(body)).await
    }

    async fn delete(&self, path: &[&str]) -> Result<()> {
        self.response(self.authorized(Method::DELETE, self.url(path, &()))).await.map(drop)
    }

    /// An address below the base path; the segments of the path are encoded.
    fn url(&self, path: &[&str], query: &impl Serialize) -> Url {
        let mut url = self.base.clone();
        url.set_path(BASE_PATH);
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        extend_query(&mut url, query);
        url
    }

    fn authorized(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.client.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        }
    }

    /// A request below the base path, with the token, for what has no method here.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!("{BASE_PATH}{path}"));
        self.authorized(method, url)
    }

    /// A request at the root, without the token.
    pub fn at_root(&self, method: Method, path: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(path);
        self.client.request(method, url)
    }

    /// Sends a request and reads the JSON of the response; an empty body is `null`.
    pub async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let body = self.response(request).await?;
        let body = if body.is_empty() { b"null" } else { body.as_ref() };
        serde_json::from_slice(body).map_err(|error| ApiError::Unreadable {
            url: self.base.to_string(),
            why: error.to_string(),
        })
    }

    /// Sends a request and returns the body of a successful response.
    async fn response(&self, request: RequestBuilder) -> Result<bytes::Bytes> {
        let response = self.opened(request).await?;
        response.bytes().await.map_err(|error| unreachable(&self.base, &error))
    }

    /// Sends a request and returns a successful response, whose body is not read yet.
    async fn opened(&self, request: RequestBuilder) -> Result<reqwest::Response> {
        let failed = |error: &reqwest::Error| unreachable(&self.base, error);
        let response = request.send().await.map_err(|error| failed(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let body = response.bytes().await.map_err(|error| failed(&error))?;
        let problem = problem::read(status.as_u16(), retry_after, &body);
        Err(ApiError::Refused(Box::new(problem)))
    }
}

/// Adds the members of a query type that have a value.
fn extend_query(url: &mut Url, query: &impl Serialize) {
    let Ok(Value::Object(members)) = serde_json::to_value(query) else { return };
    let pairs = members.into_iter().filter_map(|(name, value)| match value {
        Value::Null => None,
        Value::String(text) => Some((name, text)),
        other => Some((name, other.to_string())),
    });
    let pairs: Vec<(String, String)> = pairs.collect();
    if !pairs.is_empty() {
        url.query_pairs_mut().extend_pairs(pairs);
    }
}

/// Reads the service's address.
pub(super) fn parse_base(address: &str) -> Result<Url> {
    let refuse = |why: String| ApiError::Address { address: address.to_owned(), why };
    let url = Url::parse(address).map_err(|error| refuse(error.to_string()))?;
    if !matches!(url.scheme(), "https" | "http") || url.host().is_none() {
        return Err(refuse("it must have https:// (or http://) and a host".to_owned()));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("nothing may follow the host and the port".to_owned()));
    }
    Ok(url)
}

fn unreachable(base: &Url, error: &reqwest::Error) -> ApiError {
    let mut why = String::new();
    let mut source: Option<&dyn Error> = Some(error);
    // Outer errors only repeat the address. The innermost error is the cause.
    while let Some(error) = source {
        why = error.to_string();
        source = error.source();
    }
    let why = tls::plain(why);
    let advice = tls::advice(&why).or_else(|| {
        if error.is_connect() {
            Some("check whether the service is running, and whether --url is its address")
        } else if base.scheme() == "http" {
            Some("the service uses TLS unless server.plaintext is set: try https://")
        } else {
            None
        }
    });
    let hint = advice.map(|advice| format!("\n  {advice}")).unwrap_or_default();
    let is_connected = !error.is_connect() && !error.is_builder();
    ApiError::Unreachable { url: base.to_string(), why, hint, is_connected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_the_members_with_a_value_and_paths_are_encoded() {
        let api = Api::new("http://localhost:1", None, &Trust::Insecure).unwrap();
        let filter = DeliveryFilter {
            correlation_id: "a&b".parse().ok(),
            event_type: "api.deployed".parse().ok(),
            ..DeliveryFilter::default()
        };
        let mut url = api.url(&["events", "a/b?c"], &filter);
        extend_query(&mut url, &PageQuery { limit: Some(3), cursor: None });
        assert_eq!(
            url.as_str(),
            "http://localhost:1/api/internal/v1/events/a%2Fb%3Fc?correlationId=a%26b&type=api.deployed&limit=3"
        );
        assert_eq!(api.url(&["nodes"], &()).query(), None);
    }
}
