//! Queries of a large database: the first page of each list, failed deliveries of random hours and
//! random gateways, diagnoses of random gateways and events, and pages of the console. The database is
//! written directly before the service starts.

use gateway_events::command::number::whole;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use gateway_events::clock::Timestamp;
use hyper::header::HeaderValue;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::baseline::{Baselines, Wanted};
use crate::http_connection::HttpConnection;
use crate::latency::{self, Latencies};
use crate::machine::Meter;
use crate::options::Common;
use crate::report::{self, Outcome};
use crate::testbed::Testbed;

/// Rows per page, as the command line requests.
const PAGE: usize = 100;
const DAY: Duration = Duration::from_hours(24);
/// With fewer events, a list may be empty.
const FEW: u32 = 500;
const HOUR: Duration = Duration::from_hours(1);
/// Characters of an event's id in a filter.
const PREFIX: usize = 12;
/// Lists whose first page may be empty: the work of a request is bounded, and what they find is rare.
const BOUNDED: [&str; 4] = ["bench.rare", "bench-user", "superseded", "expired"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Events within the last 24 hours, each with a failed attempt
    #[arg(long, default_value_t = 100_000, value_parser = whole(1_u32..))]
    rows: u32,
    /// Gateways that the events are for
    #[arg(long, default_value_t = 100, value_parser = whole(1_u16..))]
    gateways: u16,
    /// Queries of each kind
    #[arg(long, default_value_t = 200, value_parser = whole(1_u16..))]
    queries: u16,
}

/// The lists, besides failed deliveries. `GATEWAY` stands for the id of a random gateway, `FROM`
/// for the beginning of the ledger, and `PREFIX` for the beginning of a random event's id. Filters
/// for a `bench` value match one event in 100,000.
const LISTS: [(&str, &str); 25] = [
    ("events", "/events?from=FROM"),
    ("eventsOfGateway", "/events?from=FROM&gatewayId=GATEWAY"),
    ("eventsOfType", "/events?from=FROM&type=bench.rare"),
    ("eventsOfCorrelation", "/events?from=FROM&correlationId=bench-correlation"),
    ("eventsOfUser", "/events?from=FROM&userId=bench-user"),
    ("eventsOfArtifact", "/events?from=FROM&artifactId=bench-artifact"),
    ("eventsOfDeployment", "/events?from=FROM&deploymentId=bench-deployment"),
    ("eventsOfIdPrefix", "/events?from=FROM&idPrefix=PREFIX"),
    ("failedOfType", "/deliveries?from=FROM&type=bench.rare"),
    ("failedOfReason", "/deliveries?from=FROM&reason=expired"),
    ("failedOfCorrelation", "/deliveries?from=FROM&correlationId=bench-correlation"),
    ("outcomes", "/deliveries?status=all&windowOf=outcome&from=FROM"),
    ("superseded", "/deliveries?status=superseded&from=FROM&gatewayId=GATEWAY"),
    ("pending", "/deliveries?status=pending"),
    ("pendingOfGateway", "/deliveries?status=pending&gatewayId=GATEWAY"),
    ("delivered", "/deliveries?status=delivered&from=FROM"),
    ("deliveredOfGateway", "/deliveries?status=delivered&from=FROM&gatewayId=GATEWAY"),
    ("log", "/gateways/GATEWAY/log?after=0"),
    ("gateways", "/gateways?"),
    ("connections", "/connections?status=all"),
    ("connectionsOfGateway", "/gateways/GATEWAY/connections?status=all"),
    ("audit", "/audit?from=FROM"),
    ("jobs", "/jobs?"),
    ("rejected", "/inbox/rejected?"),
    ("nodes", "/nodes?"),
];

/// Pages of the console.
const PAGES: [(&str, &str); 5] = [
    ("consoleOverview", "/console"),
    ("consoleGateways", "/console/gateways"),
    ("consoleGateway", "/console/gateways/GATEWAY"),
    ("consoleEvents", "/console/events"),
    ("consoleFailures", "/console/failures"),
];

/// What one kind of query took.
struct Measured {
    name: &'static str,
    /// Boxed, because there are many of them in one future.
    latencies: Box<Latencies>,
}

impl Measured {
    fn new(name: &'static str) -> Self {
        Self { name, latencies: Box::new(Latencies::new()) }
    }
}

pub(crate) async fn run(args: &Args, testbed: &Testbed<'_>) -> anyhow::Result<Outcome> {
    let baselines = Baselines::measure(testbed, args.gateways.into(), Wanted::RESPONSE).await?;
    testbed.progress.step("writing the ledger");
    let now = Timestamp::now();
    let gateways = testbed.fill_ledger(args.rows, args.gateways.into(), now, DAY).await?;
    let target = testbed.target(0).await?;
    let meter = Meter::start(target.pid);
    let mut client = Client {
        connection: HttpConnection::connect(&target.endpoint(0), &target.token).await?,
        rows: 0,
        requests: 0,
    };
    let [pages, windows, each] = ["firstPage", "anyHour", "anyGateway"].map(Measured::new);
    let [of_gateways, of_events] = ["diagnosis", "eventDiagnosis"].map(Measured::new);
    let of_rollouts = Measured::new("rollout");
    let lists = LISTS.map(|(name, _)| Measured::new(name));
    let console = PAGES.map(|(name, _)| Measured::new(name));
    let cookie = client.connection.sign_in(&target.token).await?;
    testbed.progress.bounded_step("querying", args.queries.into());
    for number in 0..args.queries {
        testbed.progress.at(number.into());
        let window = (now.minus(DAY), now);
        let found = client.failed(&pages, window, None).await?;
        let expected = usize::try_from(args.rows)?.min(PAGE);
        anyhow::ensure!(found == expected, "{found} failures on the first page, not {expected}");
        let to = now.minus(DAY.saturating_sub(HOUR).mul_f64(fastrand::f64()));
        client.failed(&windows, (to.minus(HOUR), to), None).await?;
        let gateway = fastrand::choice(&gateways).context("no gateway")?;
        client.failed(&each, window, Some(gateway)).await?;
        let path = format!("/gateways/{gateway}/diagnosis");
        let diagnosis = client.get(&of_gateways, &path).await?;
        anyhow::ensure!(member(&diagnosis, "gatewayId") == Some(gateway.clone()), "{path}");
        let at = now.minus(DAY.mul_f64(fastrand::f64()));
        let event = client.event_before(at).await?;
        let prefix: String = event.iter().flat_map(|id| id.chars()).take(PREFIX).collect();
        for ((_, path), measured) in LISTS.iter().zip(&lists) {
            if path.contains("PREFIX") && prefix.is_empty() {
                continue;
            }
            let from = window.0.to_string();
            let path = path.replace("GATEWAY", gateway).replace("FROM", &from);
            let path = path.replace("PREFIX", &prefix);
            let found = client.list(measured, &path).await?.len();
            let may_be_empty = BOUNDED.iter().any(|part| path.contains(part));
            anyhow::ensure!(found > 0 || args.rows < FEW || may_be_empty, "{path} is empty");
        }
        for ((_, path), measured) in PAGES.iter().zip(&console) {
            client.page(measured, &path.replace("GATEWAY", gateway), &cookie).await?;
        }
        client.get(&of_rollouts, "/rollouts?correlationId=bench-correlation").await?;
        if let Some(id) = event {
            let path = format!("/events/{id}/diagnosis");
            let diagnosis = client.get(&of_events, &path).await?;
            anyhow::ensure!(member(&diagnosis, "eventId") == Some(id), "{path}");
        }
    }
    let used = meter.stop();
    let baseline = Some(baselines.round_trip());
    let measured = [pages, windows, each, of_gateways, of_events, of_rollouts];
    let measured = measured.into_iter().chain(lists).chain(console);
    let mut figures = Vec::new();
    for Measured { name, latencies } in measured {
        figures.extend(latency::figures(name, &latencies.total(), baseline));
    }
    figures.extend(used.figures(client.requests));
    figures.extend(baselines.figures());
    Ok(Outcome {
        figures,
        counts: report::object(json!({ "ledgerRows": args.rows, "rowsRead": client.rows })),
        parameters: report::object(json!({
            "rows": args.rows,
            "gateways": args.gateways,
            "queries": args.queries,
        })),
    })
}

/// A member of a JSON object that is a text.
fn member(body: &Bytes, name: &str) -> Option<String> {
    let object: Value = serde_json::from_slice(body).ok()?;
    object[name].as_str().map(str::to_owned)
}

#[derive(Deserialize)]
struct Page {
    list: Vec<Value>,
}

struct Client {
    connection: HttpConnection,
    rows: usize,
    requests: u64,
}

impl Client {
    /// Gets a resource; an error unless the status is 200.
    async fn get(&mut self, measured: &Measured, path: &str) -> anyhow::Result<Bytes> {
        let started = Instant::now();
        let (status, body) = self.connection.get(path).await?;
        measured.latencies.record(0, started.elapsed());
        self.requests += 1;
        anyhow::ensure!(
            status == 200,
            "{path} was answered {status}: {}",
            String::from_utf8_lossy(&body)
        );
        Ok(body)
    }

    /// Gets a page of the console; an error unless it is complete.
    async fn page(
        &mut self,
        measured: &Measured,
        path: &str,
        cookie: &HeaderValue,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        let (status, body) = self.connection.page(path, cookie).await?;
        measured.latencies.record(0, started.elapsed());
        self.requests += 1;
        let is_complete = status == 200 && body.ends_with(b"</html>");
        anyhow::ensure!(is_complete, "{path} was answered {status}, {} bytes", body.len());
        Ok(())
    }

    /// Gets the first page of a list.
    async fn list(&mut self, measured: &Measured, path: &str) -> anyhow::Result<Vec<Value>> {
        let body = self.get(measured, &format!("{path}&limit={PAGE}")).await?;
        let Page { list } = serde_json::from_slice(&body).context("a page without list")?;
        self.rows += list.len();
        Ok(list)
    }

    /// The id of the last event before an instant, which is not measured.
    async fn event_before(&mut self, to: Timestamp) -> anyhow::Result<Option<String>> {
        let path = format!("/events?from={}&to={to}&limit=1", to.minus(DAY));
        let (_, body) = self.connection.get(&path).await?;
        let Page { list } = serde_json::from_slice(&body).context("a page without list")?;
        Ok(list.first().and_then(|event| event["id"].as_str()).map(str::to_owned))
    }

    /// Queries a page of failed deliveries, and verifies that its rows lie in the window, newest
    /// first.
    async fn failed(
        &mut self,
        measured: &Measured,
        (from, to): (Timestamp, Timestamp),
        gateway: Option<&String>,
    ) -> anyhow::Result<usize> {
        let mut path = format!("/deliveries?status=failed&from={from}&to={to}");
        if let Some(gateway) = gateway {
            path.push_str("&gatewayId=");
            path.push_str(gateway);
        }
        let rows = self.list(measured, &path).await?;
        let mut newest = to;
        for row in &rows {
            let at = row["lastFailureAt"].as_str().unwrap_or_default();
            let at = Timestamp::parse(at).map_err(anyhow::Error::msg)?;
            anyhow::ensure!(from <= at && at <= newest, "a failure of {at} is out of place");
            anyhow::ensure!(
                gateway.is_none_or(|gateway| row["gatewayId"] == gateway.as_str()),
                "a failure of another gateway: {row}"
            );
            newest = at;
        }
        Ok(rows.len())
    }
}
