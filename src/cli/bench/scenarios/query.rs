//! Failed deliveries over a window, asked of a ledger of many rows: the first
//! page, as an admin sees it, and windows and gateways picked at random. The
//! ledger is written straight into the database before the service starts.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use gateway_events::client::kept::Kept;
use gateway_events::clock::Timestamp;
use serde_json::{Value, json};

use super::super::floor::{Floors, Wanted};
use super::super::ground::Ground;
use super::super::latency::{self, Latencies};
use super::super::machine::Meter;
use super::super::options::Common;
use super::super::report::{self, Outcome};

/// As many as the command line asks for.
const PAGE: usize = 100;
const DAY: Duration = Duration::from_hours(24);
const HOUR: Duration = Duration::from_hours(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(in super::super) common: Common,
    /// Rows of the ledger, each a failed attempt within the last 24 hours
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
    /// Gateways whose attempts they are
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    gateways: u16,
    /// Questions of each kind
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..))]
    questions: u16,
}

pub(in super::super) async fn run(args: &Args, ground: &Ground<'_>) -> anyhow::Result<Outcome> {
    let floors = Floors::measure(ground, args.gateways.into(), Wanted::ANSWER).await?;
    ground.progress.say("writing the ledger");
    let now = Timestamp::now();
    let gateways = ground.fill_ledger(args.rows, args.gateways.into(), now, DAY).await?;
    let target = ground.target(0).await?;
    let meter = Meter::start(target.pid);
    let mut asker =
        Asker { kept: Kept::connect(&target.endpoint(0), &target.token).await?, rows: 0 };
    let [pages, windows, each] = [(); 3].map(|()| Latencies::new());
    ground.progress.expect("asking", args.questions.into());
    for number in 0..args.questions {
        ground.progress.at(number.into());
        let window = (now.minus(DAY), now);
        let found = asker.ask(&pages, window, None).await?;
        let expected = usize::try_from(args.rows)?.min(PAGE);
        anyhow::ensure!(found == expected, "{found} failures on the first page, not {expected}");
        let to = now.minus(DAY.saturating_sub(HOUR).mul_f64(fastrand::f64()));
        asker.ask(&windows, (to.minus(HOUR), to), None).await?;
        let gateway = fastrand::choice(&gateways).context("no gateway")?;
        asker.ask(&each, window, Some(gateway)).await?;
    }
    let used = meter.stop();
    let rows = asker.rows;
    let floor = Some(floors.round_trip());
    let mut figures = latency::figures("firstPage", &pages.total(), floor);
    figures.extend(latency::figures("anyHour", &windows.total(), floor));
    figures.extend(latency::figures("anyGateway", &each.total(), floor));
    figures.extend(used.figures(3 * u64::from(args.questions)));
    figures.extend(floors.figures());
    Ok(Outcome {
        figures,
        counts: report::object(json!({ "ledgerRows": args.rows, "rowsRead": rows })),
        parameters: report::object(json!({
            "rows": args.rows,
            "gateways": args.gateways,
            "questions": args.questions,
        })),
    })
}

struct Asker {
    kept: Kept,
    rows: usize,
}

impl Asker {
    /// Asks, and checks that the rows lie in the window, newest first.
    async fn ask(
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
        let asked = Instant::now();
        let (status, body) = self.kept.get(&path).await?;
        latencies.record(0, asked.elapsed());
        anyhow::ensure!(
            status == 200,
            "a question was answered {status}: {}",
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
