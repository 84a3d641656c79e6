//! Latencies from many tasks, in a few histograms, so that thousands of tasks
//! need no memory of their own and do not wait for each other.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::report::{Better, Figure, float};

const SHARDS: usize = 8;
/// Nanoseconds: what is shorter counts as this.
const SHORTEST: u64 = 1_000;
const LONGEST: u64 = 3_600_000_000_000;
/// Significant digits.
const PRECISION: u8 = 3;

/// A recorder.
pub(super) struct Latencies([Mutex<Histogram<u64>>; SHARDS]);

impl Latencies {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(empty())))
    }

    /// Records one; `task` is whoever records.
    pub(super) fn record(&self, task: usize, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(LONGEST);
        // Held only to count.
        let mut shard = self.0[task % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        shard.saturating_record(nanos.max(SHORTEST));
    }

    /// All that was recorded.
    pub(super) fn total(&self) -> Histogram<u64> {
        let mut total = empty();
        for shard in &self.0 {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            // Of the same bounds: it fits.
            let _ = total.add(&*shard);
        }
        total
    }
}

fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(SHORTEST, LONGEST, PRECISION).expect("bounds that fit each other")
}

/// Percentiles as figures, in milliseconds; `floor` is in milliseconds, too.
pub(super) fn figures(name: &str, histogram: &Histogram<u64>, floor: Option<f64>) -> Vec<Figure> {
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
        figure.floor = floor;
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
        assert_eq!(of("latencyP50").floor, Some(2.0));
    }
}
