//! A model test over any order of calls, and single cases.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { events: 4, bytes: 100 };
const TIMEOUT: Duration = Duration::from_mins(1);
const GIVE_UP_POLICY: GiveUpPolicy = GiveUpPolicy { max_attempts: 3, poison: Policy::DeadLetter };

#[derive(Clone, Debug)]
enum Step {
    Offer { distance: i64, bytes: usize },
    Received { distance: i64 },
    Applied { distance: i64 },
    Nack { distance: i64, retry: bool },
    Retry,
    Filter { count: i64 },
    Skip { count: i64 },
    SkipSent { distance: i64 },
    Gap { count: i64 },
    Resync { count: i64 },
    Mark,
    Credit { events: u32, bytes: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (prop_oneof![9 => Just(1), 1 => -2..4_i64], 1..150_usize)
            .prop_map(|(distance, bytes)| Step::Offer { distance, bytes }),
        4 => (-6..3_i64).prop_map(|distance| Step::Received { distance }),
        4 => (-6..3_i64).prop_map(|distance| Step::Applied { distance }),
        3 => (-6..3_i64, any::<bool>()).prop_map(|(distance, retry)| Step::Nack { distance, retry }),
        3 => Just(Step::Retry),
        2 => (-1..5_i64).prop_map(|count| Step::Filter { count }),
        1 => (-1..5_i64).prop_map(|count| Step::Skip { count }),
        3 => (-6..1_i64).prop_map(|distance| Step::SkipSent { distance }),
        1 => (-1..5_i64).prop_map(|count| Step::Gap { count }),
        1 => (0..3_i64).prop_map(|count| Step::Resync { count }),
        2 => Just(Step::Mark),
        1 => (0..8_u32, 0..200_u64).prop_map(|(events, bytes)| Step::Credit { events, bytes }),
    ]
}

/// What the peer and the recorder know.
struct Model {
    confirm: Level,
    /// The last sequence that was announced to the peer.
    announced: i64,
    /// The last sequence that was announced to the peer before each event.
    before: BTreeMap<i64, i64>,
    /// How many times each event was sent.
    sent: BTreeMap<i64, u32>,
    /// The highest acknowledgements.
    received: i64,
    applied: i64,
    position: i64,
    /// Events in flight that were skipped and are not confirmed.
    skipped: BTreeSet<i64>,
    /// Events that the peer was sent, without those that it dropped because it asked for a retry of
    /// an earlier one.
    held: BTreeSet<i64>,
}

impl Model {
    /// The peer drops an event, of which it asked for a retry, and those after it.
    fn drop_from(&mut self, sequence: i64) {
        self.held.retain(|it| *it < sequence);
        self.skipped.retain(|it| *it < sequence);
    }

    fn settle(&mut self, settled: &[Settled]) {
        for one in settled {
            let range = match *one {
                Settled::Confirmed { range, .. } => {
                    let level = match self.confirm {
                        Level::Received => self.received.max(self.applied),
                        Level::Applied => self.applied,
                    };
                    assert!(range.last.0 <= level, "confirmed without an acknowledgement");
                    for number in range.first.0..=range.last.0 {
                        assert!(self.sent.contains_key(&number), "{number} was never sent");
                    }
                    if self.skipped.remove(&range.first.0) {
                        assert_eq!(range.first, range.last, "one at a time");
                        continue;
                    }
                    range
                }
                Settled::Gap(range) => {
                    assert!(range.last.0 <= self.applied, "a gap ends with its snapshot");
                    range
                }
                Settled::Rejected(range, _)
                | Settled::Filtered(range)
                | Settled::Skipped(range, _) => range,
            };
            assert_eq!(range.first.0, self.position + 1, "each sequence is settled once, in order");
            self.position = range.last.0;
        }
    }
}

proptest! {
    #[test]
    fn any_interleaving_settles_each_sequence_once(
        start in 0..1000_i64,
        steps in prop::collection::vec(step(), 0..300),
        is_applied: bool,
        reason in prop::sample::select(Reason::ALL),
    ) {
        let now = Instant::now();
        let stamp = Timestamp::from_micros(0);
        let confirm = if is_applied { Level::Applied } else { Level::Received };
        let mut window = Window::new(LIMITS, confirm, Sequence(start), Sequence(start));
        let mut model = Model {
            confirm,
            announced: start,
            before: BTreeMap::new(),
            sent: BTreeMap::new(),
            received: start,
            applied: start,
            position: start,
            skipped: BTreeSet::new(),
            held: BTreeSet::new(),
        };
        let mut most = LIMITS;
        for step in steps {
            let (position, sent) = (window.position(), window.sent());
            let at = |distance: i64| Sequence((sent.0 + distance).max(0));
            match step {
                Step::Offer { distance, bytes } => {
                    let (sequence, was_idle) = (at(distance), window.is_idle());
                    let taken = window.offer(sequence, bytes, now, stamp);
                    prop_assert!(taken.is_err() || distance == 1 && most.events > 0 && most.bytes > 0);
                    if let Ok(Offered { previous, attempt }) = taken {
                        prop_assert_eq!(previous.0, model.announced);
                        let times = model.sent.entry(sequence.0).or_default();
                        *times += 1;
                        prop_assert!(attempt <= *times, "resyncs forget attempts only");
                        model.before.insert(sequence.0, model.announced);
                        model.announced = sequence.0;
                        model.held.insert(sequence.0);
                        prop_assert!(was_idle || window.in_flight <= most.events);
                        prop_assert!(was_idle || window.bytes <= most.bytes);
                    }
                }
                Step::Received { distance } => {
                    let sequence = at(distance);
                    match window.received(sequence, now) {
                        Ok(Acknowledged { settled, .. }) => {
                            model.received = model.received.max(sequence.0);
                            model.settle(&settled);
                        }
                        Err(_) => prop_assert!(sequence > window.highest),
                    }
                }
                Step::Applied { distance } => {
                    let sequence = at(distance);
                    match window.applied(sequence, now) {
                        Ok(Acknowledged { settled, .. }) => {
                            model.applied = model.applied.max(sequence.0);
                            model.settle(&settled);
                        }
                        Err(_) => prop_assert!(sequence > window.highest),
                    }
                }
                Step::Nack { distance, retry } => {
                    let (sequence, nacks) = (at(distance), window.nacks(at(distance)));
                    let is_held = model.held.contains(&sequence.0);
                    let answer = window.nack(sequence, Reason::ApplyFailed, retry.then_some(now));
                    match answer {
                        Ok(Nacked::Retry { .. }) => {
                            prop_assert_eq!(window.sent(), sequence.previous());
                            prop_assert_eq!(window.nacks(sequence), nacks + 1);
                            prop_assert!(!window.has_room(1) && window.retry_at().is_some());
                            model.announced = model.before[&sequence.0];
                            model.drop_from(sequence.0);
                        }
                        Ok(Nacked::Passed) => {
                            prop_assert!(retry && is_held && model.skipped.contains(&sequence.0));
                            prop_assert!(window.sent() >= sequence && !window.takes_mark());
                            prop_assert_eq!(window.nacks(sequence), nacks, "it is not sent again");
                            model.announced = model.before[&sequence.0];
                            model.drop_from(sequence.0);
                        }
                        Ok(Nacked::Rejected { .. }) => {
                            model.held.remove(&sequence.0);
                            let settled = window.settle_rejected(now);
                            model.settle(&settled);
                        }
                        Ok(Nacked::Stale) => {
                            model.skipped.remove(&sequence.0);
                            if retry && is_held {
                                model.drop_from(sequence.0);
                            }
                            model.held.remove(&sequence.0);
                        }
                        Err(Violation::BeyondSent(_)) => prop_assert!(sequence > window.highest),
                        Err(Violation::Confirmed(_)) => {
                            prop_assert!(sequence.0 <= model.received.max(model.applied));
                        }
                    }
                }
                Step::Retry => window.retry(),
                Step::Filter { count } => {
                    if let Ok(settled) = window.filter(at(count)) {
                        model.settle(&settled);
                    }
                }
                Step::Skip { count } => {
                    if let Ok(settled) = window.skip(at(count), Reason::Expired) {
                        model.settle(&settled);
                    }
                }
                Step::SkipSent { distance } => {
                    let in_flight = window.in_flight;
                    let settled = window.skip_sent(at(distance), now);
                    model.settle(&settled);
                    if window.in_flight < in_flight {
                        model.skipped.insert(sent.0 + distance);
                        // The window keeps the newest ones only. The peer asks for no older one.
                        while model.skipped.len() > LIMITS.events {
                            let forgotten = model.skipped.pop_first();
                            model.held.retain(|it| Some(*it) != forgotten);
                        }
                    }
                }
                Step::Gap { count } => {
                    let is_settled = window.position() == window.sent();
                    if let Ok(range) = window.gap(at(count)) {
                        prop_assert!(is_settled);
                        model.announced = range.last.0;
                    }
                }
                Step::Resync { count } => {
                    let range = window.resync(at(count));
                    prop_assert_eq!(range.first, window.position().next());
                    model.announced = range.last.0;
                    model.skipped.clear();
                    prop_assert!(window.has_gap() && !window.has_room(1));
                }
                Step::Mark => {
                    if window.owes_mark() {
                        model.announced = window.mark().0;
                    }
                }
                Step::Credit { events, bytes } => {
                    window.credit(Credit { events: Some(events), bytes: Some(bytes) });
                    most.events = LIMITS.events.min(usize::try_from(events)?);
                    most.bytes = LIMITS.bytes.min(usize::try_from(bytes)?);
                }
            }
            prop_assert!(window.position() >= position, "the position went back");
            prop_assert_eq!(window.position().0, model.position);
            prop_assert_eq!(window.announced().0, model.announced);
            let in_flight = window.open.iter().filter_map(|open| match open.what {
                What::Sent { bytes, .. } => Some(bytes),
                _ => None,
            });
            let is_held = |open: &Open| {
                !matches!(open.what, What::Sent { .. }) || model.held.contains(&open.range.first.0)
            };
            prop_assert!(window.open.iter().all(is_held), "the peer waits for an event again");
            prop_assert_eq!(in_flight.clone().count(), window.in_flight);
            prop_assert_eq!(in_flight.sum::<usize>(), window.bytes);
            prop_assert_eq!(window.confirmation_deadline(TIMEOUT).is_some(), !window.is_idle());
            let open: i64 =
                window.open.iter().map(|open| open.range.last.0 - open.range.first.0 + 1).sum();
            prop_assert_eq!(window.position().0 + open, window.sent().0, "nothing is lost");
            prop_assert!(window.open.len() <= 4 * LIMITS.events + LIMITS.events);
            prop_assert!(window.skipped.len() <= LIMITS.events);
        }
        let in_flight = window.in_flight;
        let closing = window.close(reason, GIVE_UP_POLICY);
        let unconfirmed = closing.unconfirmed.iter();
        let unconfirmed = unconfirmed.map(|run| run.range.last.0 - run.range.first.0 + 1).sum::<i64>();
        prop_assert_eq!(unconfirmed, i64::try_from(in_flight)?);
        let may_give_up = in_flight == 1 && reason.is_attributed_to_the_event();
        prop_assert!(closing.give_up_after.is_none_or(|most| may_give_up && most == 3));
    }
}

/// A window after `sent` events, of which none is confirmed.
fn sent(count: i64, confirm: Level) -> Window {
    let mut window = Window::new(LIMITS, confirm, Sequence::ZERO, Sequence::ZERO);
    for number in 1..=count {
        offer(&mut window, number);
    }
    window
}

fn offer(window: &mut Window, number: i64) -> Offered {
    window
        .offer(Sequence(number), 1, Instant::now(), Timestamp::from_micros(0))
        .expect("room for the next event")
}

fn range(first: i64, last: i64) -> Range {
    Range { first: Sequence(first), last: Sequence(last) }
}

fn confirmed(first: i64, last: i64) -> Settled {
    Settled::Confirmed { range: range(first, last), started_at: Timestamp::from_micros(0) }
}

#[test]
fn an_event_that_could_not_be_applied_is_sent_again_with_all_after_it() {
    let now = Instant::now();
    let mut window = sent(4, Level::Applied);
    assert_eq!(window.applied(Sequence(1), now).unwrap().settled, [confirmed(1, 1)]);
    let started_at = Timestamp::from_micros(0);
    let nacked = window.nack(Sequence(3), Reason::Overloaded, Some(now));
    assert_eq!(nacked, Ok(Nacked::Retry { started_at }));
    let again = window.nack(Sequence(4), Reason::Overloaded, Some(now));
    assert_eq!(again, Ok(Nacked::Stale), "it is sent again anyway");
    assert_eq!(window.applied(Sequence(2), now).unwrap().settled, [confirmed(2, 2)]);
    assert!(!window.has_room(1), "the peer has asked for a pause");
    window.retry();
    assert_eq!(offer(&mut window, 3), Offered { previous: Sequence(2), attempt: 2 });
    assert_eq!(offer(&mut window, 4), Offered { previous: Sequence(3), attempt: 2 });
    assert_eq!(window.applied(Sequence(4), now).unwrap().settled, [confirmed(3, 4)]);
    assert_eq!(offer(&mut window, 5), Offered { previous: Sequence(4), attempt: 1 });
}

#[test]
fn a_rejected_event_holds_back_nothing() {
    let now = Instant::now();
    let mut window = sent(3, Level::Applied);
    let started_at = Timestamp::from_micros(0);
    let nacked = window.nack(Sequence(2), Reason::Invalid, None);
    assert_eq!(nacked, Ok(Nacked::Rejected { started_at }));
    assert_eq!(window.settle_rejected(now), [], "the event before it is unconfirmed");
    let rejected = Settled::Rejected(range(2, 2), Reason::Invalid);
    let settled = window.applied(Sequence(3), now).unwrap().settled;
    assert_eq!(settled, [confirmed(1, 1), rejected, confirmed(3, 3)]);
}

#[test]
fn filtered_events_are_confirmed_by_the_next_event_or_a_mark() {
    let now = Instant::now();
    let mut window = sent(1, Level::Applied);
    assert_eq!(window.filter(Sequence(2)), Ok(vec![]));
    assert_eq!(window.filter(Sequence(5)), Ok(vec![]));
    assert_eq!(offer(&mut window, 6), Offered { previous: Sequence(1), attempt: 1 });
    assert!(!window.owes_mark());
    assert_eq!(window.filter(Sequence(9)), Ok(vec![]));
    assert!(window.owes_mark());
    assert_eq!(window.mark(), Sequence(9));
    let settled = window.applied(Sequence(6), now).unwrap().settled;
    let filtered = |first, last| Settled::Filtered(range(first, last));
    assert_eq!(settled, [confirmed(1, 1), filtered(2, 5), confirmed(6, 6), filtered(7, 9)]);
    assert_eq!(window.applied(Sequence(9), now), Ok(Acknowledged::default()), "a mark");
}

#[test]
fn an_acknowledgement_at_the_other_level_settles_nothing_and_is_recorded() {
    let now = Instant::now();
    let mut window = sent(3, Level::Applied);
    let Acknowledged { settled, also } = window.received(Sequence(2), now).unwrap();
    assert_eq!((settled.len(), also.len()), (0, 1));
    assert_eq!(also[0].0, range(1, 2));

    let mut window = sent(3, Level::Received);
    assert_eq!(window.received(Sequence(3), now).unwrap().settled, [confirmed(1, 3)]);
    assert_eq!(window.applied(Sequence(2), now).unwrap().also, [(range(1, 2), None)]);
    assert_eq!(window.applied(Sequence(3), now).unwrap().also, [(range(3, 3), None)]);
}

#[test]
fn what_was_not_sent_or_was_confirmed_is_a_violation() {
    let now = Instant::now();
    let mut window = sent(3, Level::Applied);
    let beyond = Violation::BeyondSent(Sequence(4));
    assert_eq!(window.received(Sequence(4), now), Err(beyond));
    assert_eq!(window.applied(Sequence(4), now), Err(beyond));
    assert_eq!(window.progress(Sequence(4), now), Err(beyond));
    assert_eq!(window.nack(Sequence(4), Reason::Invalid, None), Err(beyond));
    window.applied(Sequence(2), now).unwrap();
    assert_eq!(window.applied(Sequence(1), now), Ok(Acknowledged::default()), "backwards");
    let confirmed = Violation::Confirmed(Sequence(2));
    assert_eq!(window.nack(Sequence(2), Reason::Invalid, None), Err(confirmed));
}

#[test]
fn a_gap_ends_when_its_end_is_applied() {
    let now = Instant::now();
    let mut window = sent(1, Level::Received);
    assert_eq!(window.gap(Sequence(5)), Err(Refusal::Full));
    window.received(Sequence(1), now).unwrap();
    assert_eq!(window.gap(Sequence(5)), Ok(range(2, 5)));
    assert_eq!(window.received(Sequence(5), now).unwrap().settled, []);
    assert!(!window.has_room(1));
    assert_eq!(window.applied(Sequence(4), now).unwrap().settled, []);
    assert_eq!(window.applied(Sequence(5), now).unwrap().settled, [Settled::Gap(range(2, 5))]);
    assert_eq!(offer(&mut window, 6).previous, Sequence(5));

    let mut empty = sent(0, Level::Applied);
    empty.resync(Sequence::ZERO);
    assert!(!empty.has_room(1));
    let settled = empty.applied(Sequence::ZERO, now).unwrap().settled;
    assert_eq!(settled, [Settled::Gap(range(1, 0))]);
    assert!(empty.has_room(1));
}

#[test]
fn credit_is_absolute_and_bounded_by_the_servers_limits() {
    let mut window = sent(2, Level::Applied);
    let credit = |events: Option<u32>, bytes: Option<u64>| Credit { events, bytes };
    window.credit(credit(Some(0), None));
    assert!(!window.has_room(1));
    window.credit(credit(Some(3), None));
    assert!(window.has_room(1) && !window.has_room(99));
    window.credit(credit(None, Some(0)));
    assert!(!window.has_room(1));
    window.credit(credit(Some(u32::MAX), Some(u64::MAX)));
    assert!(window.has_room(98) && !window.has_room(99), "no more than the server's limit");
}

#[test]
fn progress_extends_the_deadline() {
    let base = Instant::now();
    let mut window = sent(1, Level::Applied);
    let later = base + Duration::from_secs(50);
    window.progress(Sequence(1), later).unwrap();
    assert_eq!(window.confirmation_deadline(TIMEOUT), Some(later + TIMEOUT));
}

#[test]
fn progress_with_a_skipped_event_extends_the_deadline_of_the_next_one() {
    let base = Instant::now();
    let mut window = sent(3, Level::Applied);
    window.skip_sent(Sequence(2), base);
    window.applied(Sequence(1), base).unwrap();
    let later = base + Duration::from_secs(50);
    window.progress(Sequence(2), later).unwrap();
    assert_eq!(window.confirmation_deadline(TIMEOUT), Some(later + TIMEOUT));
    window.applied(Sequence(3), later).unwrap();
    assert_eq!(window.confirmation_deadline(TIMEOUT), None);
}

#[test]
fn a_skipped_event_that_the_peer_confirms_is_confirmed() {
    let now = Instant::now();
    let mut window = sent(4, Level::Applied);
    let skipped = |number| Settled::Skipped(range(number, number), Reason::Skipped);
    assert_eq!(window.skip_sent(Sequence(1), now), [skipped(1)]);
    assert_eq!(window.skip_sent(Sequence(3), now), []);
    // It was received only, and applied is what counts.
    assert_eq!(window.received(Sequence(2), now).unwrap().settled, []);
    let settled = window.applied(Sequence(2), now).unwrap().settled;
    assert_eq!(settled, [confirmed(2, 2), skipped(3), confirmed(1, 1)]);
    // The peer could not apply it, and is not sent it again, but what it has dropped after it.
    let nacked = window.nack(Sequence(3), Reason::ApplyFailed, Some(now));
    assert_eq!(nacked, Ok(Nacked::Passed));
    offer(&mut window, 4);
    assert_eq!(window.applied(Sequence(4), now).unwrap().settled, [confirmed(4, 4)]);
}

#[test]
fn a_retry_of_a_skipped_event_sends_again_what_follows_it() {
    let now = Instant::now();
    let mut window = sent(3, Level::Applied);
    let skipped = Settled::Skipped(range(2, 2), Reason::Skipped);
    assert_eq!(window.skip_sent(Sequence(2), now), []);
    let nacked = window.nack(Sequence(2), Reason::Overloaded, Some(now));
    assert_eq!(nacked, Ok(Nacked::Passed));
    assert_eq!((window.sent(), window.announced()), (Sequence(2), Sequence(1)));
    assert!(!window.owes_mark(), "the peer would take it for one from before");
    assert!(window.has_room(1), "there is nothing to wait for");
    assert_eq!(offer(&mut window, 3), Offered { previous: Sequence(1), attempt: 2 });
    let settled = window.applied(Sequence(3), now).unwrap().settled;
    assert_eq!(settled, [confirmed(1, 1), skipped, confirmed(3, 3)]);

    // The position is beyond the event.
    let mut window = sent(3, Level::Applied);
    window.skip_sent(Sequence(2), now);
    assert_eq!(window.skip_sent(Sequence(1), now).len(), 2);
    let nacked = window.nack(Sequence(1), Reason::Overloaded, Some(now));
    assert_eq!((nacked, window.position()), (Ok(Nacked::Passed), Sequence(2)));
    assert_eq!(offer(&mut window, 3), Offered { previous: Sequence(0), attempt: 2 });
    assert_eq!(window.applied(Sequence(3), now).unwrap().settled, [confirmed(3, 3)]);

    // The peer has rejected it, and continues with the next one.
    let mut window = sent(2, Level::Applied);
    window.skip_sent(Sequence(1), now);
    assert_eq!(window.nack(Sequence(1), Reason::Invalid, None), Ok(Nacked::Stale));
    assert_eq!(window.applied(Sequence(2), now).unwrap().settled, [confirmed(2, 2)]);
}

#[test]
fn a_suspect_is_sent_alone() {
    let now = Instant::now();
    let mut window = Window::new(LIMITS, Level::Applied, Sequence::ZERO, Sequence(2));
    for number in 1..=2 {
        offer(&mut window, number);
        assert!(!window.has_room(1), "{number} may be the cause");
        window.applied(Sequence(number), now).unwrap();
    }
    offer(&mut window, 3);
    assert!(window.has_room(1));
    let give_up = GIVE_UP_POLICY;
    assert_eq!(window.close(Reason::ConnectionLost, give_up).give_up_after, Some(3));
}

#[test]
fn an_end_is_not_attributed_to_an_event_on_which_there_was_progress() {
    let now = Instant::now();
    let ended = |progress: &[i64], reason| {
        let mut window = sent(1, Level::Applied);
        for sequence in progress {
            window.progress(Sequence(*sequence), now).unwrap();
        }
        let closing = window.close(reason, GIVE_UP_POLICY);
        (closing.is_in_progress, closing.give_up_after)
    };
    assert_eq!(ended(&[], Reason::ConnectionLost), (false, Some(3)));
    assert_eq!(ended(&[1], Reason::ConnectionLost), (true, None));
    assert_eq!(ended(&[1], Reason::HeartbeatTimeout), (true, None));
    assert_eq!(ended(&[1], Reason::ConfirmationTimeout), (false, Some(3)), "there was no more");

    // A deadline that the transport postpones is no progress.
    let mut window = sent(1, Level::Applied);
    window.postpone(Sequence(1), now).unwrap();
    assert_eq!(window.close(Reason::HeartbeatTimeout, GIVE_UP_POLICY).give_up_after, Some(3));

    // Progress on an event that was confirmed or is sent again says nothing about the next one.
    let mut window = sent(2, Level::Applied);
    window.progress(Sequence(1), now).unwrap();
    window.applied(Sequence(1), now).unwrap();
    window.progress(Sequence(2), now).unwrap();
    window.nack(Sequence(2), Reason::Overloaded, Some(now)).unwrap();
    window.retry();
    offer(&mut window, 2);
    assert!(!window.close(Reason::ConnectionLost, GIVE_UP_POLICY).is_in_progress);
}

#[test]
fn events_that_were_not_sent_are_not_unconfirmed() {
    let mut window = sent(3, Level::Applied);
    window.withdraw(Sequence(2));
    let closing = window.close(Reason::HeartbeatTimeout, GIVE_UP_POLICY);
    let only = Range { first: Sequence(1), last: Sequence(1) };
    assert_eq!(closing.unconfirmed.iter().map(|run| run.range).collect::<Vec<_>>(), [only]);
    assert_eq!(closing.give_up_after, Some(3));
    let mut window = sent(1, Level::Applied);
    window.withdraw(Sequence(1));
    let closing = window.close(Reason::HeartbeatTimeout, GIVE_UP_POLICY);
    assert!(closing.unconfirmed.is_empty() && closing.give_up_after.is_none());
}

#[test]
fn what_earlier_connections_could_not_apply_is_counted() {
    let mut window = Window::new(LIMITS, Level::Applied, Sequence::ZERO, Sequence::ZERO);
    let earlier = |number, count| EarlierNacks {
        sequence: Sequence(number),
        count,
        reason: Reason::Overloaded,
        is_given_up: number == 4,
    };
    window.nacked_before(&[earlier(2, 2), earlier(3, 3), earlier(4, 0)], GIVE_UP_POLICY);
    let (now, started_at) = (Instant::now(), Timestamp::now());
    let attempts = [1, 2].map(|number| {
        window.offer(Sequence(number), 1, now, started_at).map(|offered| offered.attempt)
    });
    assert_eq!(attempts, [Ok(1), Ok(3)]);
    assert_eq!((window.nacks(Sequence(1)), window.nacks(Sequence(2))), (0, 2));
    assert!(window.was_rejected(Sequence(3)), "it was refused too often");
    assert!(window.was_rejected(Sequence(4)), "it was given up");
    let nacked = window.nack(Sequence(2), Reason::Overloaded, Some(now));
    assert_eq!((nacked, window.nacks(Sequence(2))), (Ok(Nacked::Retry { started_at }), 3));
}

#[test]
fn what_waits_for_the_oldest_event_is_bounded() {
    let now = Instant::now();
    let mut window = sent(1, Level::Applied);
    let mut next = 2;
    while window.has_room(1) {
        offer(&mut window, next);
        window.nack(Sequence(next), Reason::Invalid, None).unwrap();
        assert_eq!(window.settle_rejected(now), []);
        next += 1;
    }
    assert_eq!(next, 17, "four times the window");
    assert_eq!(window.applied(Sequence(1), now).unwrap().settled.len(), 16);
    assert!(window.has_room(1));
}

#[test]
fn an_event_that_was_rejected_is_not_sent_again_with_those_before_it() {
    let now = Instant::now();
    let mut window = sent(3, Level::Applied);
    window.nack(Sequence(2), Reason::Invalid, None).unwrap();
    window.nack(Sequence(1), Reason::Overloaded, Some(now)).unwrap();
    window.retry();
    assert_eq!(offer(&mut window, 1), Offered { previous: Sequence(0), attempt: 2 });
    assert!(window.was_rejected(Sequence(2)) && !window.was_rejected(Sequence(3)));
    assert_eq!(window.skip_rejected(Sequence(2)), Ok(vec![]));
    assert_eq!(offer(&mut window, 3), Offered { previous: Sequence(1), attempt: 2 });
    let rejected = Settled::Rejected(range(2, 2), Reason::Invalid);
    let settled = window.applied(Sequence(3), now).unwrap().settled;
    assert_eq!(settled, [confirmed(1, 1), rejected, confirmed(3, 3)]);
}

#[test]
fn an_event_that_is_given_up_is_passed_over_and_no_mark_precedes_the_next_one() {
    let now = Instant::now();
    let mut window = sent(3, Level::Applied);
    window.applied(Sequence(1), now).unwrap();
    window.nack(Sequence(2), Reason::ApplyFailed, Some(now)).unwrap();
    window.give_up(Sequence(2), Reason::ApplyFailed);
    let rejected = |number| Settled::Rejected(range(number, number), Reason::ApplyFailed);
    assert_eq!(window.skip_rejected(Sequence(2)), Ok(vec![rejected(2)]));
    assert!(!window.owes_mark(), "the peer would take it for one from before");
    assert_eq!(offer(&mut window, 3), Offered { previous: Sequence(1), attempt: 2 });
    window.nack(Sequence(3), Reason::ApplyFailed, None).unwrap();
    assert_eq!(window.settle_rejected(now), [rejected(3)]);
    window.skip(Sequence(4), Reason::Purged).unwrap();
    assert!(window.owes_mark());
}
