//! Rate limits for log lines that peers can cause: per minute and key (such as an address
//! and a kind of failure), and per minute for all keys together. Suppressed lines are
//! counted, and the count is logged with the key's next line or at the end of its minute.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_mins(1);

/// Limits on log lines that peers can cause.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Lines per minute and key.
    pub per_key: u32,
    /// Lines per minute of all keys together.
    pub in_all: u32,
    /// Keys that are tracked; lines of other keys are counted together.
    pub keys: usize,
}

/// A rate limiter of log lines by key.
#[derive(Debug)]
pub struct LogLimit<K> {
    bounds: Bounds,
    state: Mutex<State<K>>,
}

#[derive(Debug)]
struct State<K> {
    keys: HashMap<K, Count>,
    all: Count,
    /// Suppressed lines of keys that are not tracked.
    others: u64,
}

/// The counters of one minute.
#[derive(Clone, Copy, Debug)]
struct Count {
    since: Instant,
    written: u32,
    suppressed: u64,
}

impl Count {
    const fn from(now: Instant) -> Self {
        Self { since: now, written: 0, suppressed: 0 }
    }
}

impl<K: Eq + Hash + Clone> LogLimit<K> {
    /// Creates a limiter with all counters at zero.
    pub fn new(bounds: Bounds) -> Self {
        let state = State { keys: HashMap::new(), all: Count::from(Instant::now()), others: 0 };
        Self { bounds, state: Mutex::new(state) }
    }

    /// Whether a line may be logged now. If so, returns the number of lines of the same key
    /// suppressed since the last one.
    pub fn admit(&self, key: &K) -> Option<u64> {
        self.admit_at(key, Instant::now())
    }

    /// Removes the keys whose minute has passed. Returns those with suppressed lines and
    /// their numbers, and the number of suppressed lines of untracked keys.
    pub fn take_suppressed(&self) -> (Vec<(K, u64)>, u64) {
        self.take_suppressed_at(Instant::now())
    }

    /// Held for a lookup, never across an await.
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit_at(&self, key: &K, now: Instant) -> Option<u64> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if now.duration_since(state.all.since) >= MINUTE {
            state.all = Count::from(now);
        }
        let has_room = state.keys.len() < self.bounds.keys;
        let all_written = state.all.written;
        let count = match state.keys.get_mut(key) {
            Some(count) => count,
            None if has_room => state.keys.entry(key.clone()).or_insert(Count::from(now)),
            None => {
                state.others += 1;
                return None;
            }
        };
        if now.duration_since(count.since) >= MINUTE {
            count.since = now;
            count.written = 0;
        }
        if count.written >= self.bounds.per_key || all_written >= self.bounds.in_all {
            count.suppressed += 1;
            return None;
        }
        count.written += 1;
        let suppressed = std::mem::take(&mut count.suppressed);
        state.all.written += 1;
        Some(suppressed)
    }

    fn take_suppressed_at(&self, now: Instant) -> (Vec<(K, u64)>, u64) {
        let mut state = self.lock();
        let mut suppressed = Vec::new();
        state.keys.retain(|key, count| {
            let has_passed = now.duration_since(count.since) >= MINUTE;
            if has_passed && count.suppressed > 0 {
                suppressed.push((key.clone(), count.suppressed));
            }
            !has_passed
        });
        state.keys.shrink_to_fit();
        (suppressed, std::mem::take(&mut state.others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For any sequence of lines, neither the logged lines nor the tracked keys exceed the
    /// limits, and each line is logged or counted.
    #[test]
    fn every_line_is_written_or_counted_and_both_are_bounded() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..50 {
            let bounds = Bounds {
                per_key: random.u32(1..5),
                in_all: random.u32(1..20),
                keys: random.usize(1..6),
            };
            let limit = LogLimit::new(bounds);
            let mut now = Instant::now();
            let (mut came, mut written, mut counted) = (0_u64, Vec::new(), 0);
            for _ in 0..600 {
                now += Duration::from_millis(random.u64(..400));
                let key = random.u8(..8);
                came += 1;
                if let Some(suppressed) = limit.admit_at(&key, now) {
                    written.push((now, key));
                    counted += suppressed;
                }
                if random.u8(..20) == 0 {
                    let (keys, others) = limit.take_suppressed_at(now);
                    counted += keys.iter().map(|(_, count)| count).sum::<u64>() + others;
                }
                assert!(limit.lock().keys.len() <= bounds.keys, "seed {seed}");
            }
            let (keys, others) = limit.take_suppressed_at(now + MINUTE);
            counted += keys.iter().map(|(_, count)| count).sum::<u64>() + others;
            assert_eq!(came, counted + written.len() as u64, "seed {seed}");
            assert!(limit.lock().keys.is_empty(), "seed {seed}");
            // Any interval of a minute overlaps at most two counted minutes.
            for (from, _) in &written {
                let within = |at: &Instant| *at >= *from && *at < *from + MINUTE;
                let lines = written.iter().filter(|(at, _)| within(at)).count();
                assert!(lines <= 2 * bounds.in_all as usize, "seed {seed}");
                for key in 0..8 {
                    let of = |(at, other): &&(Instant, u8)| *other == key && within(at);
                    let lines = written.iter().filter(of).count();
                    assert!(lines <= 2 * bounds.per_key as usize, "seed {seed}");
                }
            }
        }
    }
}
