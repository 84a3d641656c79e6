//! What a connection of long polling has returned in responses, and what the next one will have. Does
//! no I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Events;
use crate::clock::Timestamp;
use crate::event::Sequence;
use crate::transport::reliable::Encoding;
use crate::transport::{Gap, GapReason, Greeting, Outgoing, Resumed};

/// The most bytes of events in a response, unless one event is larger.
const RESPONSE_BYTES: usize = 1024 * 1024;
/// The time before a gap is returned again, from the second time on. Doubled each time, up to the
/// longest: a gateway that does not read the responses must not cause load.
const MIN_REPEAT_PAUSE: Duration = Duration::from_millis(100);
const MAX_REPEAT_PAUSE: Duration = Duration::from_secs(1);

/// What was returned in responses, and what the next response will have.
#[derive(Debug)]
pub(super) struct Responses {
    encoding: Encoding,
    /// Whether the lane has said where delivery begins.
    pub(super) is_resumed: bool,
    /// Whether a request has had a response. The connection was opened for the first one.
    pub(super) is_used: bool,
    /// The last known sequence of the log.
    pub(super) head: Sequence,
    /// The lane has passed everything up to here.
    pub(super) passed: Sequence,
    /// The position of the gateway.
    pub(super) position: Sequence,
    /// The gateway has the events up to here from an earlier connection.
    held: Sequence,
    /// What the gateway has confirmed as applied. It may be ahead of what the lane has passed.
    pub(super) acked: Sequence,
    /// The part of it that the lane has been told.
    confirmed: Sequence,
    /// A gap that was returned in a response and is not confirmed.
    gap: Option<OpenGap>,
    /// The highest position that a request stated before the gap was returned.
    stated: Option<Sequence>,
    /// The first event that the lane has passed.
    first: Option<Sequence>,
    /// Whether any event was returned in a response.
    has_returned_events: bool,
    /// Events and gaps that were taken from the lane, and were in no response yet.
    kept: Vec<Outgoing>,
    /// Where the lane has marked the log as complete, and what was announced to the gateway before:
    /// responses have no marks. The first event after a mark says so, even if it is sent again.
    marks: BTreeMap<Sequence, Sequence>,
    /// The last of them, if no event has followed it.
    last_mark: Option<Sequence>,
}

/// A gap that was returned in a response and is not confirmed.
#[derive(Debug)]
struct OpenGap {
    gap: Box<Gap>,
    /// Whether the gateway may state its end without having read the snapshot.
    is_ambiguous: bool,
    /// How many times it was returned again.
    repeats: u32,
}

impl Responses {
    pub(super) const fn new(encoding: Encoding) -> Self {
        Self {
            encoding,
            is_resumed: false,
            is_used: false,
            head: Sequence::ZERO,
            passed: Sequence::ZERO,
            position: Sequence::ZERO,
            held: Sequence::ZERO,
            acked: Sequence::ZERO,
            confirmed: Sequence::ZERO,
            gap: None,
            stated: None,
            first: None,
            has_returned_events: false,
            kept: Vec::new(),
            marks: BTreeMap::new(),
            last_mark: None,
        }
    }

    /// Keeps what is to be sent to a gateway, and notes the rest.
    pub(super) fn keep(&mut self, mut message: Outgoing) {
        match &mut message {
            Outgoing::Resumed(resumed) => {
                self.is_resumed = true;
                self.head = self.head.max(resumed.head);
                self.passed = resumed.from;
                self.position = resumed.from;
                self.acked = resumed.from;
                self.confirmed = resumed.from;
            }
            Outgoing::Mark(mark) => {
                self.head = self.head.max(mark.head);
                self.passed = self.passed.max(mark.sequence);
                if let Some(unused) = self.last_mark.replace(mark.sequence) {
                    self.marks.remove(&unused);
                }
                let announced = self.announced().min(mark.sequence);
                self.marks.insert(mark.sequence, announced);
            }
            Outgoing::Event(event) => {
                let sequence = event.sequence;
                if let Some(announced) = self.marks.get(&event.previous) {
                    event.previous = *announced;
                }
                self.last_mark = None;
                if sequence <= self.passed {
                    // It is sent again because the gateway has rejected it, and with it what follows.
                    self.acked = self.acked.min(sequence.previous());
                    self.confirmed = self.confirmed.min(sequence.previous());
                }
                self.passed = sequence;
                self.first.get_or_insert(sequence);
                if sequence > self.held {
                    self.kept.push(message);
                }
            }
            Outgoing::Gap(gap) => {
                // It may come before the lane says where delivery begins, which then waits for the
                // gateway.
                self.is_resumed = true;
                self.passed = self.passed.max(gap.resume_at);
                // The gateway continues at the end of the gap.
                self.held = Sequence::ZERO;
                self.kept.push(message);
            }
        }
    }

    /// Whether an event has expired while it was kept.
    pub(super) fn has_expired(&self, now: Timestamp) -> bool {
        self.kept.iter().any(|message| match message {
            Outgoing::Event(event) => event.event.expires_at.is_some_and(|at| at <= now),
            _ => false,
        })
    }

    /// The lane passes everything after this again that was in no response.
    pub(super) fn restart(&mut self, resumed: &Resumed) {
        let passed = resumed.from;
        self.kept.clear();
        self.passed = passed;
        self.head = self.head.max(resumed.head);
        self.marks.retain(|mark, _| *mark <= passed);
        self.last_mark = self.last_mark.filter(|mark| *mark <= passed);
    }

    /// The last sequence that was announced to the gateway, kept messages included.
    fn announced(&self) -> Sequence {
        let last = self.kept.last().and_then(|message| match message {
            Outgoing::Event(event) => Some(event.sequence),
            Outgoing::Gap(gap) => Some(gap.resume_at),
            Outgoing::Resumed(_) | Outgoing::Mark(_) => None,
        });
        last.unwrap_or(self.position)
    }

    /// How many messages are kept.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// The first event that was taken from the lane and was in no response yet.
    pub(super) fn first_kept(&self) -> Option<Sequence> {
        self.kept.iter().find_map(|message| match message {
            Outgoing::Event(event) => Some(event.sequence),
            _ => None,
        })
    }

    /// The first of the last events that the lane has passed and that were in no response.
    pub(super) fn unsent(&self) -> Option<Sequence> {
        if self.has_returned_events { self.first_kept() } else { self.first }
    }

    /// Whether the gateway has confirmed more than the lane has passed.
    pub(super) fn is_ahead(&self) -> bool {
        self.acked > self.passed
    }

    /// Whether the gateway has confirmed everything that responses have contained.
    pub(super) fn is_confirmed(&self) -> bool {
        self.gap.is_none() && self.acked >= self.position
    }

    /// Whether the lane is about to pass something: it has not passed the whole log, and waits for no
    /// snapshot to be read.
    pub(super) fn is_behind(&self) -> bool {
        self.gap.is_none() && self.kept.is_empty() && self.passed < self.head
    }

    /// Continues after the position of the first request. False if delivery begins after it.
    pub(super) fn continue_after(&mut self, after: Sequence) -> bool {
        if self.keeps_gap() {
            return true;
        }
        if after < self.position {
            return false;
        }
        self.position = after;
        self.held = after;
        true
    }

    /// Whether a gap waits for the next response.
    fn keeps_gap(&self) -> bool {
        self.kept.iter().any(|message| matches!(message, Outgoing::Gap(_)))
    }

    /// Whether a gap was returned in a response and is not confirmed.
    pub(super) fn has_gap(&self) -> bool {
        self.gap.is_some()
    }

    /// A request states this position.
    pub(super) fn stated(&mut self, position: Option<Sequence>) {
        if self.gap.is_none() {
            self.stated = self.stated.max(position);
        }
    }

    /// Whether the acknowledgement of a request counts. It may be one from before the gap that was
    /// returned, unless the request says that the snapshot was read (`is_of_this`: that of this
    /// connection).
    pub(super) fn may_confirm(&self, is_of_this: Option<bool>) -> bool {
        self.gap.as_ref().is_none_or(|open| is_of_this.unwrap_or(!open.is_ambiguous))
    }

    /// Whether a request that resumes at `after` may be a repeat of one that was answered with the gap.
    pub(super) fn may_repeat_gap(&self, after: Option<Sequence>, is_of_this: Option<bool>) -> bool {
        self.gap.as_ref().is_some_and(|open| {
            let is_stated = after.is_some() && is_of_this.is_none() && !open.is_ambiguous;
            !is_stated && after.is_none_or(|after| after == self.position)
        })
    }

    /// After what time the gap is returned again.
    pub(super) fn repeat_gap(&mut self) -> Duration {
        let Some(open) = &mut self.gap else { return Duration::ZERO };
        let earlier = open.repeats;
        open.repeats = earlier.saturating_add(1);
        match earlier.checked_sub(1) {
            None => Duration::ZERO,
            Some(nth) => {
                let factor = 1_u32.checked_shl(nth).unwrap_or(u32::MAX);
                MIN_REPEAT_PAUSE.saturating_mul(factor).min(MAX_REPEAT_PAUSE)
            }
        }
    }

    /// The response with the gap, again.
    pub(super) fn gap_again(&self, greeting: Greeting) -> Option<Box<Events>> {
        let Greeting { epoch, connection_id: connection, .. } = greeting;
        let gap = self.gap.as_ref()?.gap.clone();
        let (head, events, gap) = (self.head.max(self.position), Vec::new(), Some(gap));
        Some(Box::new(Events { epoch, head, connection, events, gap }))
    }

    /// The gateway has applied everything up to `ack`, which is at most its position. Returns what is
    /// to be reported to the lane.
    pub(super) fn acked(&mut self, ack: Sequence) -> Option<Sequence> {
        self.acked = self.acked.max(ack);
        if self.gap.as_ref().is_some_and(|open| ack >= open.gap.resume_at) {
            self.gap = None;
            // Even if everything up to the end of the gap was confirmed before.
            self.confirmed = self.acked.min(self.passed);
            return Some(self.confirmed);
        }
        self.confirmable()
    }

    /// What the gateway has confirmed and can be reported to the lane now.
    pub(super) fn confirmable(&mut self) -> Option<Sequence> {
        // Its end must be confirmed after it was returned.
        if self.gap.is_some() || self.keeps_gap() {
            return None;
        }
        let to = self.acked.min(self.passed);
        (to > self.confirmed).then(|| {
            self.confirmed = to;
            self.marks = self.marks.split_off(&to);
            to
        })
    }

    /// The next response, with the first of the kept messages. `None` if there is nothing to return.
    pub(super) fn next(&self, greeting: Greeting, max: usize) -> Option<Next> {
        let Greeting { epoch, connection_id: connection, .. } = greeting;
        let (mut events, mut gap, mut bytes) = (Vec::new(), None, 0);
        let mut position = self.position;
        for message in self.kept.iter().take(max) {
            match message {
                Outgoing::Event(event) => {
                    let text = self.encoding.event_text(event);
                    bytes += text.len();
                    if bytes > RESPONSE_BYTES && !events.is_empty() {
                        break;
                    }
                    events.push(text);
                    position = event.sequence;
                }
                Outgoing::Gap(found) => {
                    position = found.resume_at;
                    gap = Some(found.clone());
                    break;
                }
                Outgoing::Resumed(_) | Outgoing::Mark(_) => {}
            }
        }
        let count = events.len() + usize::from(gap.is_some());
        if count == 0 {
            return None;
        }
        let head = self.head.max(position);
        let events = Box::new(Events { epoch, head, connection, events, gap: gap.clone() });
        Some(Next { events, count, position, gap })
    }

    /// Notes that the next response was returned.
    pub(super) fn returned(&mut self, count: usize, position: Sequence, gap: Option<Box<Gap>>) {
        self.has_returned_events |= count > usize::from(gap.is_some());
        self.kept.drain(..count);
        self.position = position;
        self.head = self.head.max(position);
        if let Some(gap) = gap {
            let is_empty = gap.to < gap.from && gap.reason == GapReason::Resync;
            // A request that stated more can't be repeated with less.
            let is_ambiguous = is_empty || self.stated == Some(gap.resume_at);
            self.gap = Some(OpenGap { gap, is_ambiguous, repeats: 0 });
        }
    }
}

/// The next response.
pub(super) struct Next {
    pub(super) events: Box<Events>,
    /// How many of the kept messages it has.
    pub(super) count: usize,
    /// The position of the gateway after it.
    pub(super) position: Sequence,
    /// Its gap.
    pub(super) gap: Option<Box<Gap>>,
}
