//! Names that this version does not know.
//!
//! Nodes are replaced one after another, so nodes of two versions share a database for a while. A
//! newer one may store a reason that an older one does not know. The older one reads it as an
//! [`UnknownName`] instead of failing: it shows the name and writes it back unchanged.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The maximum number of different names, and of bytes of each.
const MAX_NAMES: usize = 64;
const MAX_BYTES: usize = 64;
/// Stands for all others.
const OTHER: &str = "other";

/// A name that this version does not know. Known names never equal it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnknownName(&'static str);

impl UnknownName {
    /// A process keeps each name until its end, so that names can be copied like known ones. It
    /// keeps at most 64 names of at most 64 bytes; all others become `other`.
    pub fn new(name: &str) -> Self {
        // Locked only to find or add a name.
        static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
        if name.len() > MAX_BYTES {
            return Self(OTHER);
        }
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = names.get(name) {
            return Self(kept);
        }
        if names.len() >= MAX_NAMES {
            return Self(OTHER);
        }
        let kept: &'static str = Box::leak(name.into());
        names.insert(kept);
        Self(kept)
    }

    /// The name.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_there_are_not_too_many() {
        let first = UnknownName::new("quota_exceeded");
        assert_eq!(first.as_str(), "quota_exceeded");
        assert!(std::ptr::eq(first.as_str(), UnknownName::new("quota_exceeded").as_str()));
        assert_eq!(UnknownName::new(&"x".repeat(MAX_BYTES + 1)).as_str(), OTHER);
        let names: BTreeSet<_> =
            (0..2 * MAX_NAMES).map(|nth| UnknownName::new(&format!("name_{nth}"))).collect();
        assert!(names.len() <= MAX_NAMES + 1, "{}", names.len());
        assert_eq!(UnknownName::new("quota_exceeded"), first);
    }
}
