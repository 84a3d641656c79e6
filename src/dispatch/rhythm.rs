//! How many events a gateway may be sent before it is asked how far it has got.
//! Asking after each one shows the progress of a slow handler, and costs a quick
//! one as much as the events: each answer is a write of its own. Asking seldom
//! means to learn late that a handler hangs.

use std::time::Duration;

/// The longest stretch that one answer may stand for.
const LONGEST: u8 = 8;

/// The rhythm of one connection.
#[derive(Debug)]
pub struct Rhythm {
    stride: u8,
    quick: Duration,
}

impl Rhythm {
    /// Starts with every event. At the pace that counts as quick, the longest
    /// stretch takes half of the time that a gateway has to confirm an event.
    pub fn new(confirmation_timeout: Duration) -> Self {
        Self { stride: 1, quick: confirmation_timeout / (2 * u32::from(LONGEST)) }
    }

    /// One of so many events is to be followed by a question, and so is the
    /// last one of those that are written together.
    pub const fn stride(&self) -> u8 {
        self.stride
    }

    /// An answer came so long after the first event that it stands for was sent.
    pub fn answered(&mut self, after: Duration) {
        self.stride = if after <= self.quick { (self.stride * 2).min(LONGEST) } else { 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_quick_is_asked_less_often_and_who_slows_down_after_each_event() {
        let mut rhythm = Rhythm::new(Duration::from_secs(16));
        let strides = [0, 1, 1, 1, 1, 2, 0].map(|secs| {
            rhythm.answered(Duration::from_secs(secs));
            rhythm.stride()
        });
        assert_eq!(strides, [2, 4, 8, 8, 8, 1, 2]);
    }
}
