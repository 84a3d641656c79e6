//! A one-second cache of access tokens (used by [`auth`](super::auth)) and event types, which every
//! request would otherwise look up in the database. A change on this node removes the entry at
//! once; a change on another node takes effect here after at most a second. Missing values are not
//! cached.

use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

/// How long an entry is valid.
const TTL: Duration = Duration::from_secs(1);

/// Values by key, each valid for a second.
pub(super) struct TtlCache<K, V> {
    entries: DashMap<K, (Instant, V)>,
    /// The number of entries removed so far: a value that was being loaded meanwhile may be
    /// outdated.
    removals: AtomicU64,
}

/// When a load began.
#[derive(Clone, Copy)]
pub(super) struct Load {
    at: Instant,
    removals: u64,
}

impl<K: Eq + Hash, V> Default for TtlCache<K, V> {
    fn default() -> Self {
        Self { entries: DashMap::new(), removals: AtomicU64::new(0) }
    }
}

impl<K: Eq + Hash, V: Clone> TtlCache<K, V> {
    /// A valid value.
    pub(super) fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let entry = self.entries.get(key)?;
        (entry.0.elapsed() < TTL).then(|| entry.1.clone())
    }

    /// Must be called before a value is loaded.
    pub(super) fn begin_load(&self) -> Load {
        Load { at: Instant::now(), removals: self.removals.load(Ordering::SeqCst) }
    }

    /// Inserts a loaded value, unless an entry was removed since the load began.
    pub(super) fn insert(&self, load: Load, key: K, value: V) {
        // Compared while the entry is locked: `remove` counts before it locks.
        let entry = self.entries.entry(key);
        if self.removals.load(Ordering::SeqCst) != load.removals {
            return;
        }
        match entry {
            Entry::Occupied(mut known) => _ = known.insert((load.at, value)),
            Entry::Vacant(free) => _ = free.insert((load.at, value)),
        }
    }

    /// Removes an entry. Must be called after the change.
    pub(super) fn remove<Q>(&self, key: &Q)
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.removals.fetch_add(1, Ordering::SeqCst);
        self.entries.remove(key);
    }

    /// Frees the memory of expired entries.
    pub(super) fn remove_expired(&self) {
        self.entries.retain(|_, entry| entry.0.elapsed() < TTL);
        self.entries.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_loaded_before_a_change_is_not_inserted_after_it() {
        let cache = TtlCache::<String, u8>::default();
        let (early, other) = (cache.begin_load(), cache.begin_load());
        cache.insert(early, "a".to_owned(), 1);
        assert_eq!(cache.get("a"), Some(1));
        cache.remove("a");
        assert_eq!(cache.get("a"), None);
        cache.insert(other, "a".to_owned(), 1);
        assert_eq!(cache.get("a"), None, "it may be outdated");
        cache.insert(cache.begin_load(), "a".to_owned(), 2);
        assert_eq!(cache.get("a"), Some(2));
    }

    #[test]
    fn a_value_is_valid_for_a_second_since_its_load_began() {
        let cache = TtlCache::<String, u8>::default();
        let now = cache.begin_load();
        let Some(at) = now.at.checked_sub(TTL) else { return };
        cache.insert(Load { at, ..now }, "a".to_owned(), 1);
        assert_eq!(cache.get("a"), None);
        cache.remove_expired();
        assert!(cache.entries.is_empty());
    }
}
