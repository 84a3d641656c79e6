//! A model test over any order of calls, and single cases.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { events: 4, bytes: 100 };
const TIMEOUT: Duration = Duration::from_mins(1);
const GIVE_UP_POLICY: GiveUpPolicy = GiveUpPolicy { max_attempts: 3, poison: Policy::DeadLetter };

fn at(base: Instant, secs: u64) -> (Instant, Timestamp) {
    let stamp = Timestamp::from_micros(0).plus(Duration::from_secs(secs));
    (base + Duration::from_secs(secs), stamp)
}

#[derive(Clone, Debug)]
enum Step {
    Offer { distance: i64, bytes: usize },
    Receipt { distance: i64 },
    Skip { count: i64 },
    Settle { distance: i64 },
    Wait { secs: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (prop_oneof![9 => Just(1), 1 => -2..4_i64], 1..150_usize)
            .prop_map(|(distance, bytes)| Step::Offer { distance, bytes }),
        4 => (-6..3_i64).prop_map(|distance| Step::Receipt { distance }),
        1 => (-1..5_i64).prop_map(|count| Step::Skip { count }),
        1 => (-6..2_i64).prop_map(|distance| Step::Settle { distance }),
        1 => (0..100_u64).prop_map(|secs| Step::Wait { secs }),
    ]
}

proptest! {
    #[test]
    fn any_interleaving_settles_each_sequence_once(
        start in 0..1000_i64,
        steps in prop::collection::vec(step(), 0..200),
        reason in prop::sample::select(Reason::ALL),
    ) {
        let base = Instant::now();
        let mut secs = 0;
        let mut window =
            Window::new(LIMITS, Sequence(start), Sequence(start));
        let (mut sent, mut settled) = (BTreeSet::new(), BTreeSet::new());
        let mut unconfirmed = BTreeSet::new();
        // What was settled without a receipt, until the position passes it or a receipt confirms it.
        let (mut passing, mut late) = (BTreeSet::new(), BTreeSet::new());
        for step in steps {
            let (now, stamp) = at(base, secs);
            let before = window.position();
            match step {
                Step::Offer { distance, bytes } => {
                    let sequence = Sequence(window.sent().0 + distance);
                    let taken = window.offer(sequence, bytes, now, stamp);
                    prop_assert!(taken.is_err() || distance == 1);
                    if taken.is_ok() {
                        prop_assert!(sent.insert(sequence), "{sequence} was sent twice");
                        unconfirmed.insert(sequence);
                    }
                }
                Step::Receipt { distance } => {
                    let sequence = Sequence(window.sent().0 + distance);
                    match window.receipt(sequence, now) {
                        Receipt::Confirmed { range, .. } => {
                            prop_assert_eq!(range.last, sequence);
                            for number in (range.first.0..=range.last.0).map(Sequence) {
                                let was_sent = unconfirmed.remove(&number);
                                prop_assert!(was_sent || passing.remove(&number), "never sent");
                                settled.insert(number);
                            }
                        }
                        Receipt::Stale => {
                            prop_assert!(unconfirmed.first().is_none_or(|first| *first > sequence));
                        }
                        Receipt::BeyondSent => prop_assert!(distance > 0),
                    }
                    let confirmed: Vec<Sequence> =
                        window.take_settled(sequence).map(|(settled, _)| settled).collect();
                    let expected: Vec<Sequence> =
                        late.iter().copied().filter(|it| *it <= sequence).collect();
                    // The oldest ones are forgotten when there are too many.
                    prop_assert!(expected.ends_with(&confirmed));
                    let all = late.len() <= LIMITS.events;
                    prop_assert!(!all || confirmed == expected, "{confirmed:?} {expected:?}");
                    late.retain(|it| *it > sequence);
                }
                Step::Settle { distance } => {
                    let sequence = Sequence(window.sent().0 + distance);
                    let is_sent = unconfirmed.remove(&sequence);
                    prop_assert_eq!(window.settle(sequence, now), is_sent);
                    if is_sent {
                        passing.insert(sequence);
                        late.insert(sequence);
                    }
                }
                Step::Skip { count } => {
                    let last = Sequence(window.sent().0 + count);
                    if let Ok(range) = window.skip(last) {
                        prop_assert!(unconfirmed.is_empty());
                        for number in range.first.0..=range.last.0 {
                            prop_assert!(sent.insert(Sequence(number)));
                            settled.insert(Sequence(number));
                        }
                    }
                }
                Step::Wait { secs: more } => secs += more,
            }
            while let Some(range) = window.pass_settled() {
                for number in (range.first.0..=range.last.0).map(Sequence) {
                    prop_assert!(passing.remove(&number), "{number} was not settled");
                    settled.insert(number);
                }
            }
            // One that was forgotten is passed with what follows it.
            let held_back = passing.split_off(&window.position().next());
            settled.append(&mut passing);
            passing = held_back;
            prop_assert!(window.settled.len() <= LIMITS.events);
            prop_assert!(window.position() >= before, "the position went back");
            prop_assert!(window.in_flight.len() <= LIMITS.events);
            prop_assert!(window.bytes <= LIMITS.bytes || window.in_flight.len() == 1);
            prop_assert_eq!(window.in_flight.len(), unconfirmed.len());
            prop_assert_eq!(settled.len() + passing.len() + unconfirmed.len(), sent.len());
            prop_assert_eq!(
                window.in_flight.iter().map(|sent| sent.bytes).sum::<usize>(), window.bytes
            );
            prop_assert_eq!(window.position().0, start + i64::try_from(settled.len())?);
            prop_assert_eq!(window.sent().0, start + i64::try_from(sent.len())?);
            prop_assert_eq!(window.confirmation_deadline(TIMEOUT).is_some(), !unconfirmed.is_empty());
        }
        let closing = window.close(reason, Some(&[]), GIVE_UP_POLICY);
        let range = closing.unconfirmed.first().map(|run| (run.range.first, run.range.last));
        let expected = unconfirmed.first().copied().zip(sent.last().copied());
        prop_assert_eq!(range, expected);
        let may_give_up = reason.is_attributed_to_the_event() && !unconfirmed.is_empty();
        prop_assert!(closing.give_up_after.is_none_or(|most| may_give_up && most == 3));
    }
}

#[test]
fn the_deadline_runs_from_the_last_progress() {
    let base = Instant::now();
    let mut window = Window::new(LIMITS, Sequence::ZERO, Sequence::ZERO);
    assert_eq!(window.confirmation_deadline(TIMEOUT), None);
    for (sequence, secs) in [(1, 0), (2, 5)] {
        let (now, stamp) = at(base, secs);
        assert_eq!(window.offer(Sequence(sequence), 1, now, stamp).err(), None);
    }
    assert_eq!(window.confirmation_deadline(TIMEOUT), Some(base + TIMEOUT));
    let (now, _) = at(base, 50);
    window.receipt(Sequence(1), now);
    assert_eq!(window.confirmation_deadline(TIMEOUT), Some(now + TIMEOUT));
    // Receipts that confirm nothing buy no time.
    window.receipt(Sequence(1), at(base, 70).0);
    assert_eq!(window.confirmation_deadline(TIMEOUT), Some(now + TIMEOUT));
}

#[test]
fn an_event_larger_than_the_window_goes_alone() {
    let (now, stamp) = at(Instant::now(), 0);
    let mut window = Window::new(LIMITS, Sequence::ZERO, Sequence::ZERO);
    assert_eq!(window.offer(Sequence(1), 1000, now, stamp).err(), None);
    assert_eq!(window.offer(Sequence(2), 1, now, stamp), Err(Refusal::Full));
    window.receipt(Sequence(1), now);
    assert_eq!(window.offer(Sequence(2), 1, now, stamp).err(), None);
}

fn ended(confirmed: i64, reason: Reason, poison: Policy) -> Closing {
    let (now, stamp) = at(Instant::now(), 0);
    let mut window = Window::new(LIMITS, Sequence::ZERO, Sequence::ZERO);
    for sequence in 1..=3 {
        assert_eq!(window.offer(Sequence(sequence), 1, now, stamp).err(), None);
    }
    window.receipt(Sequence(confirmed), now);
    window.close(reason, Some(&[]), GiveUpPolicy { poison, ..GIVE_UP_POLICY })
}

#[test]
fn only_the_first_unconfirmed_event_is_given_up_and_not_for_our_own_doing() {
    let (lost, shutdown) = (Reason::ConnectionLost, Reason::Shutdown);
    assert_eq!(ended(0, lost, Policy::DeadLetter).give_up_after, Some(3));
    assert_eq!(ended(1, lost, Policy::DeadLetter).give_up_after, Some(3));
    assert_eq!(ended(0, shutdown, Policy::DeadLetter).give_up_after, None);
    assert_eq!(ended(0, lost, Policy::Block).give_up_after, None);
    assert_eq!(ended(3, lost, Policy::DeadLetter), Closing::default());
}

#[test]
fn an_event_that_shares_a_receipt_with_the_next_one_is_not_given_up() {
    let give_up = GiveUpPolicy { max_attempts: 1, ..GIVE_UP_POLICY };
    let cases: [(i64, Option<&[Sequence]>, bool); 6] = [
        (1, Some(&[]), true),
        (1, Some(&[Sequence(1)]), true),
        (1, None, true),
        (2, Some(&[]), true),
        (2, Some(&[Sequence(1)]), false),
        (2, None, false),
    ];
    for (events, shared, is_given_up) in cases {
        let mut window = Window::new(LIMITS, Sequence::ZERO, Sequence::ZERO);
        let (now, stamp) = at(Instant::now(), 0);
        for sequence in (1..=events).map(Sequence) {
            assert_eq!(window.offer(sequence, 1, now, stamp), Ok(()));
        }
        let closing = window.close(Reason::ConnectionLost, shared, give_up);
        assert_eq!(closing.give_up_after.is_some(), is_given_up, "{events} {shared:?}");
    }
}

#[test]
fn suspects_and_the_event_after_them_need_receipts_of_their_own() {
    let window = Window::new(LIMITS, Sequence::ZERO, Sequence(2));
    let own = [1, 2, 3, 4].map(|sequence| window.needs_own_receipt(Sequence(sequence)));
    assert_eq!(own, [true, true, true, false]);
}

#[test]
fn an_event_that_is_settled_without_a_receipt_makes_room_and_blames_no_other() {
    let base = Instant::now();
    let (now, stamp) = at(base, 0);
    let mut window = Window::new(LIMITS, Sequence(0), Sequence(0));
    for number in 1..=4 {
        window.offer(Sequence(number), 10, now, stamp).unwrap();
    }
    assert!(!window.has_room(10));
    let (later, _) = at(base, 30);
    assert!(window.settle(Sequence(3), later));
    assert!(!window.settle(Sequence(3), later), "it is not in flight any more");
    assert_eq!(window.pass_settled(), None, "the first two hold it back");
    assert!(window.settle(Sequence(1), later));
    let first = Range { first: Sequence(1), last: Sequence(1) };
    assert_eq!(window.pass_settled(), Some(first));
    assert!(window.has_room(10));
    // The others get the whole time anew.
    assert_eq!(window.confirmation_deadline(TIMEOUT), Some(later + TIMEOUT));
    assert_eq!(window.receipt(Sequence(1), later), Receipt::Stale);
    let closing = |window: Window| {
        window.close(Reason::ConnectionLost, Some(&[]), GIVE_UP_POLICY).give_up_after
    };
    let mut other = Window::new(LIMITS, Sequence(0), Sequence(0));
    other.offer(Sequence(1), 10, now, stamp).unwrap();
    other.offer(Sequence(2), 10, now, stamp).unwrap();
    assert!(other.settle(Sequence(1), later));
    assert_eq!(closing(other), None, "the gateway may still be handling the first one");
    // The gateway has handled both, and the position passes what was settled after them.
    let confirmed = window.receipt(Sequence(2), later);
    assert!(matches!(confirmed, Receipt::Confirmed { range, .. } if range.first == Sequence(2)));
    let taken: Vec<Sequence> = window.take_settled(Sequence(2)).map(|(it, _)| it).collect();
    assert_eq!(taken, [Sequence(1)]);
    assert_eq!(window.pass_settled(), Some(Range { first: Sequence(3), last: Sequence(3) }));
    assert_eq!(
        window.receipt(Sequence(4), later),
        Receipt::Confirmed {
            range: Range { first: Sequence(4), last: Sequence(4) },
            started_at: stamp,
        }
    );
    assert_eq!(window.take_settled(Sequence(4)).count(), 1, "the third one was confirmed, too");
    window.offer(Sequence(5), 10, now, stamp).unwrap();
    assert_eq!(closing(window), Some(3));
}
