//! Single cases. The stories test random interleavings on the stores.

use super::*;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_micros(secs * 1_000_000)
}

fn position(name: &str, received: i64, connected: i64, seen: i64, is_closed: bool) -> Position {
    Position {
        instance: name.to_owned(),
        received: Sequence(received),
        life: Life { connected_at: at(connected), seen_at: at(seen) },
        left_at: is_closed.then_some(at(seen)),
        superseded_at: None,
    }
}

fn dropped(opening: &Opening) -> Vec<&str> {
    opening.dropped.iter().map(String::as_str).collect()
}

fn superseded(opening: &Opening) -> Vec<(&str, Option<Timestamp>)> {
    opening.changed.iter().map(|it| (it.instance.as_str(), it.superseded_at)).collect()
}

#[test]
fn those_alive_at_once_gave_a_sign_after_the_last_one_was_opened() {
    let life = |connected, seen| Life { connected_at: at(connected), seen_at: at(seen) };
    let alive = |lives: &[Life]| alive_at_once(lives, at(0));
    assert_eq!(alive(&[]), 0);
    assert_eq!(alive(&[life(1, 1)]), 1);
    assert_eq!(alive(&[life(1, 5), life(5, 9)]), 1, "the sign came before");
    assert_eq!(alive(&[life(1, 6), life(5, 9), life(7, 8)]), 2);
    assert_eq!(alive(&[life(1, 9), life(2, 9), life(3, 3)]), 3);
    let unused = [(1, 1), (1, 9)].into_iter();
    let unused: Vec<_> = unused.filter_map(|(from, to)| Life::ended(at(from), at(to))).collect();
    assert_eq!(alive(&unused), 1, "an ended one without activity does not count");
    let long_ago = [life(-50, 2), life(-40, 1), life(-30, -10)];
    assert_eq!(alive_at_once(&long_ago, at(0)), 2, "two lived on into the window");
}

#[test]
fn a_half_open_connection_is_superseded_and_repeats_nothing() {
    let half_open = position("a", 5, 1, 2, false);
    let clean = position("b", 10, 3, 4, true);
    let opening = open(vec![half_open.clone(), clean.clone()], 1, at(6));
    assert_eq!(opening.start, Some(Sequence(10)));
    assert_eq!(dropped(&opening), ["b"]);
    assert_eq!(superseded(&opening), [("a", Some(at(3)))]);
    let half_open = Position { superseded_at: Some(at(3)), left_at: Some(at(7)), ..half_open };
    let opening = open(vec![half_open, position("c", 12, 6, 7, true)], 1, at(8));
    assert_eq!(opening.start, Some(Sequence(12)));
    assert_eq!(dropped(&opening), ["a", "c"]);
}

#[test]
fn a_sign_of_life_brings_a_superseded_position_back() {
    let slow = Position { superseded_at: Some(at(3)), ..position("a", 5, 1, 9, true) };
    let opening = open(vec![slow, position("b", 10, 3, 9, false)], 2, at(10));
    assert_eq!(opening.start, Some(Sequence(5)));
}

#[test]
fn of_two_that_are_away_the_higher_one_is_superseded_until_the_lower_one_is_gone() {
    let high = position("high", 7, 2, 5, true);
    let opening = open(vec![position("low", 2, 1, 5, true), high.clone()], 2, at(6));
    assert_eq!(opening.start, Some(Sequence(2)));
    assert_eq!(dropped(&opening), [""; 0]);
    assert_eq!(superseded(&opening), [("high", Some(at(6)))]);
    let high = Position { superseded_at: Some(at(6)), ..high };
    let new = position("new", 9, 6, 8, true);
    let opening = open(vec![high.clone(), new.clone()], 2, at(9));
    assert_eq!(opening.start, Some(Sequence(7)), "its replica may be the one that comes back");
    assert_eq!(superseded(&opening), [("high", None), ("new", Some(at(9)))]);
    let opening = open(vec![high, new], 1, at(9));
    assert_eq!(opening.start, Some(Sequence(9)));
    assert_eq!(dropped(&opening), ["high", "new"], "one replica needs no others");
}

#[test]
fn few_superseded_positions_stay_and_each_ends_no_earlier_than_those_it_replaces() {
    let position = |received: i64, left: i64| Position {
        superseded_at: Some(at(left)),
        ..position(&format!("{received} {left}"), received, left - 1, left, true)
    };
    let low = Position { superseded_at: None, ..position(1, 0) };
    let old = [(3, 10), (4, 20), (5, 30), (8, 400), (7, 410), (7, 1_000)];
    let mut positions = vec![low];
    positions.extend(old.map(|(received, left)| position(received, left)));
    let mut opening = open(positions, 2, at(2_000));
    opening.dropped.sort_unstable();
    assert_eq!(opening.start, Some(Sequence(1)));
    assert_eq!(dropped(&opening), ["4 20", "5 30", "7 410", "8 400"]);
    let changed: Vec<_> =
        opening.changed.iter().map(|it| (it.instance.as_str(), it.left_at)).collect();
    assert_eq!(changed, [("3 10", Some(at(30)))]);
}

#[test]
fn many_positions_are_bounded_at_once() {
    let count = 20_000;
    let live = (0..count).map(|nth| position(&nth.to_string(), nth, nth, count + nth, false));
    let lives: Vec<Life> = live.clone().map(|it| it.life).collect();
    let count = usize::try_from(count).unwrap();
    assert_eq!(alive_at_once(&lives, at(0)), count);
    let opening = open(live.collect(), count / 2, at(100_000));
    assert_eq!(opening.start, Some(Sequence(0)));
    assert_eq!(opening.changed.len(), count / 2 + 1);
}

/// The same connections mean different things: two replicas, of which the first one returns, or one
/// replica that has made both. So the events are repeated rather than skipped.
#[test]
fn a_declared_replica_that_does_not_exist_looks_like_one_that_is_disconnected() {
    let (first, second) = (position("a", 10, 1, 2, true), position("b", 100, 3, 4, true));
    assert_eq!(alive_at_once(&[first.life, second.life], at(0)), 1);
    let opening = open(vec![first.clone(), second.clone()], 2, at(5));
    assert_eq!(opening.start, Some(Sequence(10)));
    let repeats = Repeats::new(Sequence(10), Sequence(100), 2, 1);
    assert_eq!(repeats, Repeats { events: 90, missing_replicas: 1 });
    assert_eq!(open(vec![first, second], 1, at(5)).start, Some(Sequence(100)));
}

#[test]
fn a_position_is_kept_for_each_replica_that_was_declared() {
    let opening = open(vec![position("a", 5, 1, 2, true)], 2, at(3));
    assert_eq!(opening, Opening { start: Some(Sequence(5)), ..Opening::default() });
}
