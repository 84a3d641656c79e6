//! What tells a repeated request, and what it is answered.

use super::{Appended, Publish, Published, Refusal, Validated};
use crate::event::EventId;

/// An item's id, if its publisher gave it one that can be read, and the digest
/// of its content.
pub fn named(item: &Validated) -> Option<(&EventId, &[u8; 32])> {
    match item {
        Ok(new) => new.is_named.then_some((&new.event.id, &new.digest)),
        Err(invalid) => invalid.identity.as_ref().map(|(id, digest)| (id, digest)),
    }
}

/// A kept answer, item by item. Rows of earlier versions have none for items
/// that were invalid at that time; where these can't be told from the others any
/// more, no answer is better than another item's.
pub fn in_place(kept: &[std::result::Result<Appended, Refusal>], publish: &Publish) -> Published {
    if kept.len() == publish.events.len() {
        return Published::Done(kept.to_vec());
    }
    if kept.len() != publish.valid().count() {
        return Published::KeyReused;
    }
    let mut kept = kept.iter().cloned();
    let answers = publish.events.iter().filter_map(|item| match item {
        Ok(_) => kept.next(),
        Err(invalid) => Some(Err(Refusal::Invalid(invalid.error.clone()))),
    });
    Published::Done(answers.collect())
}
