//! What must be true of every run: everything that was accepted has a number of
//! its own, numbers have no gap, and each gateway gets them once and in order.

use serde::Deserialize;

/// Which numbers of a gateway's log were given to this run's events.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    bits: Vec<u64>,
    count: u64,
}

impl Numbers {
    /// Takes a number; one that was given before is a fault.
    pub(super) fn take(&mut self, number: i64) -> Result<(), String> {
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

    /// Adds what another publisher was given.
    pub(super) fn merge(&mut self, other: &Self) -> Result<(), String> {
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

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// They must be 1, 2, 3, … without a gap.
    pub(super) fn gapless(&self) -> Result<(), String> {
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

/// What of a frame is looked at.
#[derive(Deserialize)]
pub(super) struct Frame<'a> {
    #[serde(rename = "type")]
    pub(super) kind: &'a str,
    #[serde(default)]
    pub(super) sequence: i64,
    pub(super) payload: Option<Stamp>,
}

/// What the load's payloads say of themselves.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Stamp {
    /// Who published it.
    pub(super) publisher: usize,
    /// Its number among that publisher's.
    pub(super) number: u64,
    /// When it was to be sent, in nanoseconds since the measurement began.
    pub(super) at: u64,
}

/// What one gateway has received.
#[derive(Clone, Debug, Default)]
pub(super) struct Received {
    /// The last number.
    pub(super) last: i64,
    /// Each publisher's last one.
    publishers: Vec<u64>,
}

impl Received {
    /// Takes the next event; whatever is not next is a fault.
    pub(super) fn take(&mut self, sequence: i64, stamp: Stamp) -> Result<(), String> {
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
        // Counted from 1, so that 0 is "none yet".
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
        given.iter().try_for_each(|number| numbers.take(*number))?;
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
        received.take(1, stamp(5)).unwrap();
        assert!(received.clone().take(1, stamp(6)).unwrap_err().contains("repeat"));
        assert!(received.clone().take(3, stamp(6)).unwrap_err().contains("gap"));
        assert!(received.clone().take(2, stamp(5)).unwrap_err().contains("disorder"));
        received.take(2, stamp(9)).unwrap();
        assert_eq!(received.last, 2);
    }
}
