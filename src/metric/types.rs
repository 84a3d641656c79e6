//! Counters by event type. The number of types that are counted apart is bounded, because types are
//! registered while the service runs.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use metrics::Counter;

use super::OTHER_TYPES;

/// A metric that counts by event type.
#[derive(Debug)]
pub struct TypeCounters {
    name: &'static str,
    others: Counter,
    // Held for a lookup.
    known: RwLock<HashMap<String, Counter>>,
}

impl TypeCounters {
    /// The number of types that are counted apart. The others are counted as [`OTHER_TYPES`].
    pub const MAX_TYPES: usize = 200;

    /// Counters of a metric. Those of these types exist from the start, at 0.
    pub fn new<'a>(name: &'static str, types: impl IntoIterator<Item = &'a str>) -> Self {
        let known = types.into_iter().map(|one| (one.to_owned(), counter(name, one))).collect();
        Self { name, others: counter(name, OTHER_TYPES), known: RwLock::new(known) }
    }

    /// Counts `count` of a type.
    pub fn add(&self, event_type: &str, count: u64) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = known.get(event_type) {
            return counter.increment(count);
        }
        drop(known);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= Self::MAX_TYPES && !known.contains_key(event_type) {
            return self.others.increment(count);
        }
        known
            .entry(event_type.to_owned())
            .or_insert_with(|| counter(self.name, event_type))
            .increment(count);
    }

    /// Counts `count` whose type is not known.
    pub fn add_others(&self, count: u64) {
        self.others.increment(count);
    }
}

fn counter(name: &'static str, event_type: &str) -> Counter {
    let counter = metrics::counter!(name, "type" => event_type.to_owned());
    counter.increment(0);
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_types_is_bounded() {
        let counters = TypeCounters::new("test_total", ["a"]);
        for nth in 0..2 * TypeCounters::MAX_TYPES {
            counters.add(&format!("type.{nth}"), 1);
        }
        assert_eq!(counters.known.read().unwrap().len(), TypeCounters::MAX_TYPES);
    }
}
