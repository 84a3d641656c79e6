//! Measured values and how they are rounded and shown.

use serde_json::{Value, json};

/// Whether a higher or a lower value is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
    /// The value only helps to interpret the others.
    Neither,
}

/// A measured value.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What the machine allows, in the same unit.
    pub(crate) baseline: Option<f64>,
    pub(crate) better: Better,
}

impl Figure {
    pub(crate) fn new(name: &str, value: f64, unit: &'static str, better: Better) -> Self {
        Self { name: name.to_owned(), value, unit, baseline: None, better }
    }

    /// Sets the baseline; zero counts as none.
    pub(crate) fn with_baseline(self, baseline: Option<f64>) -> Self {
        Self { baseline: baseline.filter(|baseline| *baseline > 0.0), ..self }
    }

    /// The value divided by the baseline.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.baseline.map(|baseline| self.value / baseline)
    }

    /// The figure as a report in JSON has it.
    pub(crate) fn to_value(&self) -> Value {
        json!({
            "value": rounded(self.value),
            "unit": self.unit,
            "baseline": self.baseline.map(rounded),
            "ratioToBaseline": self.ratio().map(rounded),
            "better": match self.better {
                Better::Higher => Some("higher"),
                Better::Lower => Some("lower"),
                Better::Neither => None,
            },
        })
    }
}

/// A count as a floating-point number.
#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds far below 2^52")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// Rounds to four significant digits: measurements are not more precise.
pub(crate) fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// A number in a table: about four significant digits, and never fewer than those
/// before the decimal point.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.3}"),
        _ => format!("{value:.2e}"),
    }
}

/// The median; `None` without values.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.len() % 2) {
        (Some(value), 1) => Some(*value),
        (Some(value), _) => Some(f64::midpoint(*value, values[middle - 1])),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_values_is_the_mean_of_the_middle_two() {
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn values_are_rounded_to_four_significant_digits() {
        assert!((rounded(123_456.0) - 123_500.0).abs() < f64::EPSILON);
        assert_eq!(number(123_456.7), "123457");
    }
}
