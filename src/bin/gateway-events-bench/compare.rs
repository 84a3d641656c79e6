//! Compares two reports of the same scenario figure by figure.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use gateway_events::command::{output, table};
use serde_json::{Value, json};

use crate::figures::number;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A report, as --json printed it
    #[arg(value_name = "BEFORE")]
    before: PathBuf,
    /// A later one of the same scenario
    #[arg(value_name = "AFTER")]
    after: PathBuf,
    /// How much worse a figure may be, in percent
    #[arg(long, default_value_t = 10.0, value_name = "PERCENT")]
    threshold: f64,
}

/// A figure that both reports have.
struct Pair {
    name: String,
    unit: String,
    values: [f64; 2],
    ratios: [Option<f64>; 2],
    verdict: &'static str,
}

pub(crate) fn run(args: &Args, as_json: bool) -> anyhow::Result<ExitCode> {
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    anyhow::ensure!(
        before["scenario"] == after["scenario"],
        "{} and {} can't be compared: only runs of the same scenario can",
        before["scenario"],
        after["scenario"]
    );
    let pairs = pairs(&before, &after, args.threshold);
    anyhow::ensure!(!pairs.is_empty(), "the two reports have no figure in common");
    let is_worse = pairs.iter().any(|pair| pair.verdict == "worse");
    if as_json {
        output::json(&to_value(&before, &after, &pairs, args.threshold))?;
    } else {
        for field in ["parameters", "database", "machine", "build"] {
            if before[field] != after[field] {
                output::say(format_args!(
                    "{field} differ: {} before, {} after",
                    before[field], after[field]
                ))?;
            }
        }
        output::say(shown(&pairs))?;
    }
    Ok(if is_worse { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("failed to read {}", path.display()))?;
    let report: Value = serde_json::from_str(&text).unwrap_or_default();
    anyhow::ensure!(
        report["figures"].is_object(),
        "{} is not a report; create one with `gateway-events-bench … --json`",
        path.display()
    );
    Ok(report)
}

fn pairs(before: &Value, after: &Value, threshold: f64) -> Vec<Pair> {
    let figures = before["figures"].as_object().into_iter().flatten();
    figures
        .filter_map(|(name, old)| {
            let new = after["figures"].get(name)?;
            let values = [old["value"].as_f64()?, new["value"].as_f64()?];
            Some(Pair {
                name: name.clone(),
                unit: old["unit"].as_str().unwrap_or_default().to_owned(),
                values,
                ratios: [old["ratioToBaseline"].as_f64(), new["ratioToBaseline"].as_f64()],
                verdict: verdict(old["better"].as_str(), values, threshold),
            })
        })
        .collect()
}

fn verdict(better: Option<&str>, [before, after]: [f64; 2], threshold: f64) -> &'static str {
    let margin = before.abs() * threshold / 100.0;
    let gained = match better {
        Some("higher") => after - before,
        Some("lower") => before - after,
        _ => return "-",
    };
    if gained < -margin {
        "worse"
    } else if gained > margin {
        "better"
    } else {
        "same"
    }
}

fn shown(pairs: &[Pair]) -> String {
    let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    let rows = pairs.iter().map(|pair| {
        let [before, after] = pair.values;
        [
            pair.name.clone(),
            number(before),
            number(after),
            pair.unit.clone(),
            if before == 0.0 { "-".to_owned() } else { format!("{:.2}", after / before) },
            ratio(pair.ratios[0]),
            ratio(pair.ratios[1]),
            pair.verdict.to_owned(),
        ]
    });
    let header = [
        "figure",
        "before",
        "after",
        "unit",
        "after/before",
        "to baseline",
        "to baseline",
        "verdict",
    ];
    table::table(header, rows, "nothing")
}

fn to_value(before: &Value, after: &Value, pairs: &[Pair], threshold: f64) -> Value {
    let of = |report: &Value| {
        json!({
            "date": report["date"], "version": report["version"], "machine": report["machine"],
            "database": report["database"], "parameters": report["parameters"],
        })
    };
    let figures: serde_json::Map<String, Value> = pairs
        .iter()
        .map(|pair| {
            let [before, after] = pair.values;
            let value = json!({
                "before": before, "after": after, "unit": pair.unit,
                "ratioToBaselineBefore": pair.ratios[0], "ratioToBaselineAfter": pair.ratios[1],
                "verdict": pair.verdict,
            });
            (pair.name.clone(), value)
        })
        .collect();
    json!({
        "scenario": before["scenario"], "threshold": threshold,
        "before": of(before), "after": of(after), "figures": figures,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worse_is_what_goes_the_wrong_way_beyond_the_threshold() {
        assert_eq!(verdict(Some("higher"), [100.0, 85.0], 10.0), "worse");
        assert_eq!(verdict(Some("higher"), [100.0, 91.0], 10.0), "same");
        assert_eq!(verdict(Some("lower"), [100.0, 85.0], 10.0), "better");
        assert_eq!(verdict(Some("lower"), [100.0, 111.0], 10.0), "worse");
        assert_eq!(verdict(None, [100.0, 1.0], 10.0), "-");
    }
}
