//! Verifies every run: all accepted events have sequence numbers of their own, the
//! numbers have no gap, and each gateway receives its events once and in order.

use serde::Deserialize;

use crate::payload::Stamp;

/// A set of the sequence numbers that this run's events got in one gateway's log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Numbers {
    bits: Vec<u64>,
    count: u64,
}

impl Numbers {
    /// Adds a number; an error if it is invalid or was added before.
    pub(crate) fn insert(&mut self, number: i64) -> Result<(), String> {
        let Some(place) = usize::try_from(number).ok().and_then(|it| it.checked_sub(1)) else {
            return Err(format!("an event was given the number {number}"));
        };
        let (word, bit) = (place / 64, 1 << (place % 64));
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit != 0 {
            return Err(format!("two events were given the number {number}"));
        }
        self.bits[word] |= bit;
        self.count += 1;
        Ok(())
    }

    /// Adds the numbers that another publisher's events got; an error if both have one.
    pub(crate) fn merge(&mut self, other: &Self) -> Result<(), String> {
        if self.bits.len() < other.bits.len() {
            self.bits.resize(other.bits.len(), 0);
        }
        for (place, (mine, theirs)) in self.bits.iter_mut().zip(&other.bits).enumerate() {
            if *mine & theirs != 0 {
                let both = (*mine & theirs).trailing_zeros() as usize;
                return Err(format!("two events were given the number {}", place * 64 + both + 1));
            }
            *mine |= theirs;
        }
        self.count += other.count;
        Ok(())
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Verifies that the numbers are 1, 2, 3, … without a gap.
    pub(crate) fn gapless(&self) -> Result<(), String> {
        let mut given = 0;
        for word in &self.bits {
            given += u64::from(word.trailing_ones());
            if *word != u64::MAX {
                break;
            }
        }
        if given == self.count {
            return Ok(());
        }
        Err(format!("{} events were accepted, but none has the number {}", self.count, given + 1))
    }
}

/// The members of an event's frame that are checked.
#[derive(Deserialize)]
pub(crate) struct Frame<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: &'a str,
    #[serde(default)]
    pub(crate) sequence: i64,
    pub(crate) payload: Option<Stamp>,
}

/// What one gateway has received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    /// The last sequence number.
    pub(crate) last: i64,
    /// The number of the last event, by publisher.
    publishers: Vec<u64>,
}

impl Received {
    /// Adds the next event; an error if it is out of order.
    pub(crate) fn insert(&mut self, sequence: i64, stamp: Stamp) -> Result<(), String> {
        let expected = self.last + 1;
        if sequence != expected {
            let what = if sequence < expected { "repeat or disorder" } else { "a gap" };
            return Err(format!("{what}: the event {sequence} came where {expected} was next"));
        }
        self.last = sequence;
        if self.publishers.len() <= stamp.publisher {
            self.publishers.resize(stamp.publisher + 1, 0);
        }
        let before = &mut self.publishers[stamp.publisher];
        // Events are numbered from 1, so 0 means "none yet".
        if stamp.number <= *before {
            return Err(format!(
                "disorder: publisher {} sent its event {} before {before}, which came first",
                stamp.publisher, stamp.number
            ));
        }
        *before = stamp.number;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(given: &[i64]) -> Result<Numbers, String> {
        let mut numbers = Numbers::default();
        given.iter().try_for_each(|number| numbers.insert(*number))?;
        Ok(numbers)
    }

    #[test]
    fn numbers_are_given_once_and_without_a_gap() {
        let whole: Vec<i64> = (1..=130).rev().collect();
        numbers(&whole).unwrap().gapless().unwrap();
        numbers(&[]).unwrap().gapless().unwrap();
        assert!(numbers(&[1, 3]).unwrap().gapless().unwrap_err().contains("number 2"));
        assert!(numbers(&[1, 1]).is_err() && numbers(&[0]).is_err() && numbers(&[-1]).is_err());
        let mut one = numbers(&[1, 70]).unwrap();
        assert!(one.merge(&numbers(&[2, 70]).unwrap()).unwrap_err().contains("number 70"));
    }

    #[test]
    fn a_gateway_gets_each_number_once_and_each_publishers_events_in_order() {
        let stamp = |number| Stamp { publisher: 3, number, at: 0 };
        let mut received = Received::default();
        received.insert(1, stamp(5)).unwrap();
        assert!(received.clone().insert(1, stamp(6)).unwrap_err().contains("repeat"));
        assert!(received.clone().insert(3, stamp(6)).unwrap_err().contains("gap"));
        assert!(received.clone().insert(2, stamp(5)).unwrap_err().contains("disorder"));
        received.insert(2, stamp(9)).unwrap();
        assert_eq!(received.last, 2);
    }
}
