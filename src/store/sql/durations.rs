//! How long reads take, by class.

use std::time::Instant;

use metrics::Histogram;

use crate::metric;

/// The histograms of a store's reads.
#[derive(Debug)]
pub(crate) struct ReadDurations {
    /// The durations of single statements that read few rows.
    pub(crate) point: Class,
    /// The durations of snapshots.
    pub(crate) snapshot: Class,
    /// The durations of queries of the API.
    pub(crate) query: Class,
}

/// A class of reads.
#[derive(Debug)]
pub(crate) struct Class(Histogram);

impl ReadDurations {
    pub(crate) fn new() -> Self {
        let of = |class| Class(metrics::histogram!(metric::READ_DURATION, "class" => class));
        Self { point: of("point"), snapshot: of("snapshot"), query: of("query") }
    }
}

impl Class {
    /// Records how long a read takes, whatever its result.
    pub(crate) async fn measure<T>(&self, read: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let done = read.await;
        self.0.record(begun.elapsed());
        done
    }
}
