//! A measurement's account: figures, each with the machine's own limit beside
//! it, as a table or as JSON.

use std::collections::BTreeMap;

use gateway_events::clock::Timestamp;
use serde_json::{Map, Value, json};

use super::super::output;
use super::super::table;
use super::machine;

/// Which way a figure should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    Higher,
    Lower,
    /// It says how to read the others.
    Neither,
}

/// Something measured.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) unit: &'static str,
    /// What the machine allows, in the same unit.
    pub(super) floor: Option<f64>,
    pub(super) better: Better,
}

impl Figure {
    pub(super) fn new(name: &str, value: f64, unit: &'static str, better: Better) -> Self {
        Self { name: name.to_owned(), value, unit, floor: None, better }
    }

    /// The same with the machine's limit; nothing is no limit.
    pub(super) fn with_floor(self, floor: Option<f64>) -> Self {
        Self { floor: floor.filter(|floor| *floor > 0.0), ..self }
    }

    fn ratio(&self) -> Option<f64> {
        self.floor.map(|floor| self.value / floor)
    }

    fn to_value(&self) -> Value {
        json!({
            "value": rounded(self.value),
            "unit": self.unit,
            "floor": self.floor.map(rounded),
            "ratioToFloor": self.ratio().map(rounded),
            "better": match self.better {
                Better::Higher => Some("higher"),
                Better::Lower => Some("lower"),
                Better::Neither => None,
            },
        })
    }
}

/// A count as a number to reckon with.
#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds far below 2^52")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

/// The members of an object.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// Four digits are more than any measurement is good for.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// What one run found.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) figures: Vec<Figure>,
    /// What was done, in numbers: `accepted`, `received`.
    pub(super) counts: Map<String, Value>,
    /// What it was told.
    pub(super) parameters: Map<String, Value>,
}

/// The account of all runs of a scenario.
pub(super) struct Report {
    scenario: &'static str,
    database: String,
    figures: Vec<Figure>,
    runs: Vec<Outcome>,
}

impl Report {
    /// Medians of the runs.
    pub(super) fn of(scenario: &'static str, database: &str, runs: Vec<Outcome>) -> Self {
        let mut values: BTreeMap<&str, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
        for figure in runs.iter().flat_map(|run| &run.figures) {
            let (value, floors) = values.entry(&figure.name).or_default();
            value.push(figure.value);
            floors.extend(figure.floor);
        }
        let first = runs.first().map_or(&[][..], |run| run.figures.as_slice());
        let figures = first
            .iter()
            .map(|figure| {
                let (value, floors) = values.remove(figure.name.as_str()).unwrap_or_default();
                let value = median(value).unwrap_or(figure.value);
                Figure { value, floor: median(floors), ..figure.clone() }
            })
            .collect();
        Self { scenario, database: database.to_owned(), figures, runs }
    }

    /// Prints it.
    pub(super) fn print(&self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            return Ok(output::json(&self.to_value())?);
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
                figure.floor.map_or("-".to_owned(), number),
                figure.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
            ]
        });
        let table = table::table(["figure", "value", "unit", "floor", "ratio"], rows, "nothing");
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

/// A number for people: four digits, or all of those before the point.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.2e}"),
    }
}

/// The middle one, or the mean of both in the middle.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.len() % 2) {
        (Some(value), 1) => Some(*value),
        (Some(value), _) => Some(f64::midpoint(*value, values[middle - 1])),
        (None, _) => None,
    }
}

/// The arguments, but for the one that may hold a password.
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
    format!("gateway-events {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_runs_is_reported() {
        let run = |value: f64| Outcome {
            figures: vec![
                Figure::new("rate", value, "1/s", Better::Higher).with_floor(Some(value * 2.0)),
            ],
            ..Outcome::default()
        };
        let report = Report::of("append", "sqlite", vec![run(3.0), run(1.0), run(2.0)]);
        let value = report.to_value();
        assert_eq!(value["figures"]["rate"]["value"], 2.0);
        assert_eq!(value["figures"]["rate"]["ratioToFloor"], 0.5);
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn four_digits_are_kept() {
        assert!((rounded(123_456.0) - 123_500.0).abs() < f64::EPSILON);
        assert_eq!(number(123_456.7), "123457");
    }
}
