//! Recognises repeated requests and matches their items with the stored responses.

use super::{Appended, Publish, Published, Refusable, Refusal, Validated};
use crate::event::EventId;

/// An item's id and the digest of its content, if its publisher chose an id that can be read.
pub fn named(item: &Validated) -> Option<(&EventId, &[u8; 32])> {
    match item {
        Ok(new) => new.is_named.then_some((&new.event.id, &new.digest)),
        Err(invalid) => invalid.identity.as_ref().map(|(id, digest)| (id, digest)),
    }
}

/// A stored response, item by item. Responses stored by earlier versions lack the items that were
/// invalid then. If these can't be identified any more, a refusal is better than the result of another
/// item.
pub fn in_place(kept: &[Refusable<Appended>], publish: &Publish) -> Published {
    if kept.len() == publish.events.len() {
        return Published::Done(kept.to_vec());
    }
    if kept.len() != publish.valid().count() {
        return Published::KeyReused;
    }
    let mut kept = kept.iter().cloned();
    let results = publish.events.iter().filter_map(|item| match item {
        Ok(_) => kept.next(),
        Err(invalid) => Some(Err(Refusal::Invalid(invalid.error.clone()))),
    });
    Published::Done(results.collect())
}
