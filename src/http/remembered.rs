//! What every request would ask the store for again: whose a token is, and what
//! an event's type demands. An answer serves for a second. What this node
//! changes itself it forgets at once; what another node changes holds here a
//! second later. That there is none is never remembered.

use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

/// How long an answer serves.
const SERVES: Duration = Duration::from_secs(1);

/// Answers of the store, by what was asked.
pub(super) struct Remembered<K, V> {
    answers: DashMap<K, (Instant, V)>,
    /// How often something was forgotten: an answer that was under way
    /// meanwhile may be an old one.
    forgotten: AtomicU64,
}

/// A moment before the store was asked.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    at: Instant,
    forgotten: u64,
}

impl<K: Eq + Hash, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self { answers: DashMap::new(), forgotten: AtomicU64::new(0) }
    }
}

impl<K: Eq + Hash, V: Clone> Remembered<K, V> {
    /// An answer that still serves.
    pub(super) fn recall<Q>(&self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let answer = self.answers.get(key)?;
        (answer.0.elapsed() < SERVES).then(|| answer.1.clone())
    }

    /// To be taken before the store is asked.
    pub(super) fn asking(&self) -> Asked {
        Asked { at: Instant::now(), forgotten: self.forgotten.load(Ordering::SeqCst) }
    }

    /// Keeps what the store answered, unless something was forgotten meanwhile.
    pub(super) fn keep(&self, asked: Asked, key: K, value: V) {
        // Looked at while the entry is locked: whoever forgets counts first.
        let entry = self.answers.entry(key);
        if self.forgotten.load(Ordering::SeqCst) != asked.forgotten {
            return;
        }
        match entry {
            Entry::Occupied(mut known) => _ = known.insert((asked.at, value)),
            Entry::Vacant(free) => _ = free.insert((asked.at, value)),
        }
    }

    /// Forgets an answer; to be called after the change.
    pub(super) fn forget<Q>(&self, key: &Q)
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.answers.remove(key);
    }

    /// Lets go of what serves no longer.
    pub(super) fn forget_old(&self) {
        self.answers.retain(|_, answer| answer.0.elapsed() < SERVES);
        self.answers.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_before_a_change_is_not_kept_after_it() {
        let remembered = Remembered::<String, u8>::default();
        let (early, other) = (remembered.asking(), remembered.asking());
        remembered.keep(early, "a".to_owned(), 1);
        assert_eq!(remembered.recall("a"), Some(1));
        remembered.forget("a");
        assert_eq!(remembered.recall("a"), None);
        remembered.keep(other, "a".to_owned(), 1);
        assert_eq!(remembered.recall("a"), None, "it may be the old answer");
        remembered.keep(remembered.asking(), "a".to_owned(), 2);
        assert_eq!(remembered.recall("a"), Some(2));
    }

    #[test]
    fn an_answer_serves_for_a_second_since_it_was_asked_for() {
        let remembered = Remembered::<String, u8>::default();
        let now = remembered.asking();
        let Some(at) = now.at.checked_sub(SERVES) else { return };
        remembered.keep(Asked { at, ..now }, "a".to_owned(), 1);
        assert_eq!(remembered.recall("a"), None);
        remembered.forget_old();
        assert!(remembered.answers.is_empty());
    }
}
