//! Memory for the bodies of `POST /events`, which may be large. Bytes are counted as
//! they arrive: all bodies together may take `server.body_memory`, and those of one
//! access token half of it, so that one publisher can't exclude the others. A request
//! beyond that is refused at once with `Retry-After`; waiting would let slow senders
//! hold the memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;

use super::extract;
use super::problem::{HandlerResult, Problem};
use crate::api::Code;
use crate::compute::Source;
use crate::metric;

/// Bodies up to this size are not counted: `server.max_http_connections` bounds them.
const FREE_BYTES: usize = 64 * 1024;

/// The memory for all bodies.
#[derive(Debug)]
pub(super) struct Memory {
    most: usize,
    body_limit: usize,
    // Held to add and compare two numbers.
    taken: Mutex<HashMap<Source, usize>>,
}

/// A body, and its share of the memory, which is given back when it is dropped.
pub(super) struct Body {
    pub(super) bytes: Bytes,
    pub(super) share: Share,
}

/// The memory of one body.
pub(super) struct Share {
    memory: Arc<Memory>,
    source: Source,
    bytes: usize,
}

impl Memory {
    /// Memory of `most` bytes, for bodies of up to `body_limit` bytes each.
    pub(super) fn new(most: usize, body_limit: usize) -> Arc<Self> {
        Arc::new(Self { most, body_limit, taken: Mutex::default() })
    }

    /// Reads a request's body. The memory of a refused one is free at once.
    pub(super) async fn read(
        self: &Arc<Self>,
        source: Source,
        request: axum::extract::Request,
    ) -> HandlerResult<Body> {
        let mut parts = extract::BodyParts::new(request, self.body_limit);
        let mut share = Share { memory: Arc::clone(self), source, bytes: 0 };
        let mut kept = Vec::new();
        while let Some(part) = parts.next().await {
            let part = part.and_then(|part| {
                let length = kept.len() + part.len();
                let has_memory = length <= FREE_BYTES || share.grow_to(length);
                if has_memory { Ok(part) } else { Err(overloaded()) }
            });
            match part {
                Ok(part) => kept.extend_from_slice(&part),
                Err(problem) => {
                    drop((kept, share));
                    parts.discard().await;
                    return Err(problem);
                }
            }
        }
        Ok(Body { bytes: kept.into(), share })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Source, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// The access token that the body came with.
    pub(super) const fn source(&self) -> &Source {
        &self.source
    }

    /// Takes the missing bytes; false if there are not enough.
    fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let mut taken = self.memory.lock();
        let all: usize = taken.values().sum();
        let own = taken.get(&self.source).copied().unwrap_or(0);
        if all + more > self.memory.most || own + more > self.memory.most / 2 {
            return false;
        }
        taken.insert(self.source.clone(), own + more);
        self.bytes = bytes;
        true
    }

    fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut taken = self.memory.lock();
        if let Some(own) = taken.get_mut(&self.source) {
            *own -= bytes;
            if *own == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.give_back();
        }
    }
}

fn overloaded() -> Problem {
    metrics::counter!(metric::BODIES_REFUSED).increment(1);
    Problem::unavailable(
        Code::Overloaded,
        "Too many large requests are under way (server.body_memory); try again later.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(memory: &Arc<Memory>, name: &str) -> Share {
        Share { memory: Arc::clone(memory), source: Source::new(name), bytes: 0 }
    }

    #[test]
    fn a_source_has_half_of_the_memory_at_most_and_gives_it_back() {
        let memory = Memory::new(100, 50);
        let (mut one, mut two) = (share(&memory, "one"), share(&memory, "one"));
        assert!(one.grow_to(30) && two.grow_to(20));
        assert!(!two.grow_to(21), "its source has half already");
        let mut other = share(&memory, "other");
        assert!(other.grow_to(50), "another source has its own half");
        let mut third = share(&memory, "third");
        assert!(!third.grow_to(1), "there is no more");
        drop(one);
        assert!(third.grow_to(30) && !two.grow_to(21));
        drop((two, other, third));
        assert!(memory.lock().is_empty(), "something is still taken");
    }
}
