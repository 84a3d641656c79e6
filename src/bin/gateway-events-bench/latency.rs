//! Latencies recorded by many tasks in a few shared histograms, so that the memory does
//! not depend on the number of tasks and the locks are rarely contended.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::figures::{Better, Figure, float};

const SHARDS: usize = 8;
/// Nanoseconds; shorter latencies are recorded as this.
const MIN_NANOS: u64 = 1_000;
const MAX_NANOS: u64 = 3_600_000_000_000;
/// Significant decimal digits.
const PRECISION: u8 = 3;

/// A sharded histogram of latencies.
pub(crate) struct Latencies([Mutex<Histogram<u64>>; SHARDS]);

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(empty())))
    }

    /// Records a latency; `task` selects the shard.
    pub(crate) fn record(&self, task: usize, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(MAX_NANOS);
        // Held only while the value is counted.
        let mut shard = self.0[task % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        shard.saturating_record(nanos.max(MIN_NANOS));
    }

    /// The sum of all shards.
    pub(crate) fn total(&self) -> Histogram<u64> {
        let mut total = empty();
        for shard in &self.0 {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            // All shards have the same bounds, so this can't fail.
            let _ = total.add(&*shard);
        }
        total
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(MIN_NANOS, MAX_NANOS, PRECISION).expect("valid bounds")
}

/// Percentiles as figures; all values and the baseline are in milliseconds.
pub(crate) fn figures(
    name: &str,
    histogram: &Histogram<u64>,
    baseline: Option<f64>,
) -> Vec<Figure> {
    if histogram.is_empty() {
        return Vec::new();
    }
    let millis = |nanos: u64| float(nanos) / 1e6;
    let mut figures: Vec<Figure> = [("P50", 0.5), ("P90", 0.9), ("P99", 0.99), ("P999", 0.999)]
        .into_iter()
        .map(|(suffix, quantile)| (suffix, histogram.value_at_quantile(quantile)))
        .chain([("Max", histogram.max())])
        .map(|(suffix, nanos)| {
            Figure::new(&format!("{name}{suffix}"), millis(nanos), "ms", Better::Lower)
        })
        .collect();
    for figure in &mut figures {
        figure.baseline = baseline;
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_all_shards() {
        let latencies = Latencies::new();
        for millis in 1..=1000 {
            latencies.record(millis, Duration::from_millis(millis as u64));
        }
        let figures = figures("latency", &latencies.total(), Some(2.0));
        let of = |name: &str| figures.iter().find(|figure| figure.name == name).unwrap();
        for (name, wanted) in [("latencyP50", 500.0), ("latencyP99", 990.0), ("latencyMax", 1000.0)]
        {
            let off = of(name).value / wanted;
            assert!((0.99..1.01).contains(&off), "{name}: {}", of(name).value);
        }
        assert_eq!(of("latencyP50").baseline, Some(2.0));
    }
}
