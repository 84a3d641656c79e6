//! Queries of failed deliveries in a large ledger: the first page of a day, pages of
//! random hours and random gateways, and diagnoses of random gateways. The ledger is written directly into the database
//! before the service starts.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use gateway_events::clock::Timestamp;
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
const HOUR: Duration = Duration::from_hours(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Rows of the ledger, each a failed attempt within the last 24 hours
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
    /// Gateways whose attempts they are
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    gateways: u16,
    /// Queries of each kind
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
    queries: u16,
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
    };
    let [pages, windows, each, diagnoses] = [(); 4].map(|()| Latencies::new());
    testbed.progress.bounded_step("querying", args.queries.into());
    for number in 0..args.queries {
        testbed.progress.at(number.into());
        let window = (now.minus(DAY), now);
        let found = client.query(&pages, window, None).await?;
        let expected = usize::try_from(args.rows)?.min(PAGE);
        anyhow::ensure!(found == expected, "{found} failures on the first page, not {expected}");
        let to = now.minus(DAY.saturating_sub(HOUR).mul_f64(fastrand::f64()));
        client.query(&windows, (to.minus(HOUR), to), None).await?;
        let gateway = fastrand::choice(&gateways).context("no gateway")?;
        client.query(&each, window, Some(gateway)).await?;
        client.diagnose(&diagnoses, gateway).await?;
    }
    let used = meter.stop();
    let rows = client.rows;
    let baseline = Some(baselines.round_trip());
    let mut figures = latency::figures("firstPage", &pages.total(), baseline);
    figures.extend(latency::figures("anyHour", &windows.total(), baseline));
    figures.extend(latency::figures("anyGateway", &each.total(), baseline));
    figures.extend(latency::figures("diagnosis", &diagnoses.total(), baseline));
    figures.extend(used.figures(4 * u64::from(args.queries)));
    figures.extend(baselines.figures());
    Ok(Outcome {
        figures,
        counts: report::object(json!({ "ledgerRows": args.rows, "rowsRead": rows })),
        parameters: report::object(json!({
            "rows": args.rows,
            "gateways": args.gateways,
            "queries": args.queries,
        })),
    })
}

struct Client {
    connection: HttpConnection,
    rows: usize,
}

impl Client {
    /// Diagnoses a gateway.
    async fn diagnose(&mut self, latencies: &Latencies, gateway: &str) -> anyhow::Result<()> {
        let path = format!("/gateways/{gateway}/diagnosis");
        let started = Instant::now();
        let (status, body) = self.connection.get(&path).await?;
        latencies.record(0, started.elapsed());
        let diagnosis: Value = serde_json::from_slice(&body)?;
        anyhow::ensure!(
            status == 200 && diagnosis["gatewayId"] == gateway,
            "a diagnosis was answered {status}: {diagnosis}"
        );
        Ok(())
    }

    /// Queries a page and verifies that its rows lie in the window, newest first.
    async fn query(
        &mut self,
        latencies: &Latencies,
        (from, to): (Timestamp, Timestamp),
        gateway: Option<&String>,
    ) -> anyhow::Result<usize> {
        let mut path = format!("/deliveries?status=failed&from={from}&to={to}&limit={PAGE}");
        if let Some(gateway) = gateway {
            path.push_str("&gatewayId=");
            path.push_str(gateway);
        }
        let started = Instant::now();
        let (status, body) = self.connection.get(&path).await?;
        latencies.record(0, started.elapsed());
        anyhow::ensure!(
            status == 200,
            "a query was answered {status}: {}",
            String::from_utf8_lossy(&body)
        );
        let page: Value = serde_json::from_slice(&body)?;
        let rows = page["list"].as_array().context("a page without list")?;
        let mut newest = to;
        for row in rows {
            let at = row["lastFailureAt"].as_str().unwrap_or_default();
            let at = Timestamp::parse(at).map_err(anyhow::Error::msg)?;
            anyhow::ensure!(from <= at && at <= newest, "a failure of {at} is out of place");
            anyhow::ensure!(
                gateway.is_none_or(|gateway| row["gatewayId"] == gateway.as_str()),
                "a failure of another gateway: {row}"
            );
            newest = at;
        }
        self.rows += rows.len();
        Ok(rows.len())
    }
}
