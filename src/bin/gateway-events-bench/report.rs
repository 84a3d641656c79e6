//! The report of a measurement: figures with their baselines, as a table or as JSON.

use std::collections::BTreeMap;

use gateway_events::clock::Timestamp;
use gateway_events::command::{output, table};
use serde_json::{Map, Value, json};

use crate::figures::{Figure, median, number, rounded};
use crate::machine;
use crate::transport::Transport;

/// The members of a JSON object; none of any other value.
pub(crate) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// The result of one run.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) figures: Vec<Figure>,
    /// How much was done, such as `accepted` and `received`.
    pub(crate) counts: Map<String, Value>,
    /// The options that determine the load.
    pub(crate) parameters: Map<String, Value>,
}

impl Outcome {
    /// The results of one scenario over several transports as one: the names of figures and counts
    /// begin with that of the transport, unless there is only one.
    pub(crate) fn merged(mut each: Vec<(Transport, Self)>) -> Self {
        if each.len() == 1 {
            return each.swap_remove(0).1;
        }
        let mut merged = Self::default();
        let mut names = Vec::new();
        for (transport, outcome) in each {
            let name = |of: &str| format!("{}/{of}", transport.name());
            merged.figures.extend(
                outcome.figures.into_iter().map(|it| Figure { name: name(&it.name), ..it }),
            );
            merged.counts.extend(outcome.counts.into_iter().map(|(of, it)| (name(&of), it)));
            merged.parameters.extend(outcome.parameters);
            names.push(transport.name());
        }
        merged.parameters.insert("transport".to_owned(), json!(names.join(",")));
        merged
    }
}

/// The results of all runs of a scenario.
pub(crate) struct Report {
    scenario: &'static str,
    database: String,
    figures: Vec<Figure>,
    runs: Vec<Outcome>,
}

impl Report {
    /// Takes the median of each figure over the runs.
    pub(crate) fn of(scenario: &'static str, database: &str, runs: Vec<Outcome>) -> Self {
        let mut values: BTreeMap<&str, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
        for figure in runs.iter().flat_map(|run| &run.figures) {
            let (value, baselines) = values.entry(&figure.name).or_default();
            value.push(figure.value);
            baselines.extend(figure.baseline);
        }
        let first = runs.first().map_or(&[][..], |run| run.figures.as_slice());
        let figures = first
            .iter()
            .map(|figure| {
                let (value, baselines) = values.remove(figure.name.as_str()).unwrap_or_default();
                let value = median(value).unwrap_or(figure.value);
                Figure { value, baseline: median(baselines), ..figure.clone() }
            })
            .collect();
        Self { scenario, database: database.to_owned(), figures, runs }
    }

    /// Prints the report on standard output.
    pub(crate) fn print(&self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            return output::json(&self.to_value());
        }
        Ok(output::say(self.shown())?)
    }

    fn to_value(&self) -> Value {
        let figures: Map<String, Value> =
            self.figures.iter().map(|figure| (figure.name.clone(), figure.to_value())).collect();
        let values = |run: &Outcome| {
            let each = run.figures.iter().map(|it| (it.name.clone(), json!(rounded(it.value))));
            json!({ "counts": run.counts, "values": each.collect::<Map<String, Value>>() })
        };
        json!({
            "scenario": self.scenario,
            "version": env!("CARGO_PKG_VERSION"),
            "build": if cfg!(debug_assertions) { "debug" } else { "release" },
            "date": Timestamp::now().to_string(),
            "command": command(),
            "machine": { "cores": machine::cores(), "kernel": machine::kernel() },
            "database": self.database,
            "parameters": self.runs.first().map(|run| run.parameters.clone()),
            "figures": figures,
            "runs": self.runs.iter().map(values).collect::<Vec<_>>(),
        })
    }

    fn shown(&self) -> String {
        let rows = self.figures.iter().map(|figure| {
            [
                figure.name.clone(),
                number(figure.value),
                figure.unit.to_owned(),
                figure.baseline.map_or("-".to_owned(), number),
                figure.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
            ]
        });
        let table = table::table(["figure", "value", "unit", "baseline", "ratio"], rows, "nothing");
        let counts = self.runs.first().map(|run| run.counts.iter()).into_iter().flatten();
        let counts: Vec<String> = counts.map(|(name, count)| format!("{name} {count}")).collect();
        let build = if cfg!(debug_assertions) { ", not optimised" } else { "" };
        format!(
            "{} on {}, {} cores, {} run(s){build}; {}\n\n{table}",
            self.scenario,
            self.database,
            machine::cores(),
            self.runs.len(),
            counts.join(", "),
        )
    }
}

/// The command line, without the value that may contain a password.
fn command() -> String {
    let mut is_secret = false;
    let words = std::env::args().skip(1).map(|word| {
        let hidden = std::mem::replace(&mut is_secret, word == "--database-url");
        match word.split_once('=') {
            _ if hidden => "…".to_owned(),
            Some(("--database-url", _)) => "--database-url=…".to_owned(),
            _ => word,
        }
    });
    let words: Vec<String> = words.collect();
    format!("gateway-events-bench {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Better;

    #[test]
    fn figures_of_several_transports_are_named_after_them() {
        let outcome = || Outcome {
            figures: vec![Figure::new("rate", 1.0, "1/s", Better::Higher)],
            counts: object(json!({ "accepted": 1 })),
            parameters: object(json!({ "gateways": 2, "transport": "grpc" })),
        };
        let one = Outcome::merged(vec![(Transport::Grpc, outcome())]);
        assert_eq!(one.figures[0].name, "rate");
        let each = [Transport::WebSocketV1, Transport::Grpc].map(|it| (it, outcome()));
        let both = Outcome::merged(each.into());
        let names: Vec<&str> = both.figures.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["websocket.v1/rate", "grpc/rate"]);
        assert_eq!(both.counts["grpc/accepted"], 1);
        assert_eq!(both.parameters["transport"], "websocket.v1,grpc");
    }

    #[test]
    fn the_median_of_the_runs_is_reported() {
        let run = |value: f64| Outcome {
            figures: vec![
                Figure::new("rate", value, "1/s", Better::Higher).with_baseline(Some(value * 2.0)),
            ],
            ..Outcome::default()
        };
        let report = Report::of("append", "sqlite", vec![run(3.0), run(1.0), run(2.0)]);
        let value = report.to_value();
        assert_eq!(value["figures"]["rate"]["value"], 2.0);
        assert_eq!(value["figures"]["rate"]["ratioToBaseline"], 0.5);
    }
}
