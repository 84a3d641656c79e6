//! The cases worth a name; any interleaving of them is told to whole stores.

use super::*;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_micros(secs * 1_000_000)
}

fn position(name: &str, received: i64, connected: i64, seen: i64, is_closed: bool) -> Position {
    Position {
        instance: name.to_owned(),
        received: Sequence(received),
        life: Life { connected_at: at(connected), seen_at: at(seen) },
        is_closed,
        superseded_at: None,
    }
}

fn dropped(opening: &Opening) -> Vec<&str> {
    opening.dropped.iter().map(String::as_str).collect()
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
    assert_eq!(alive(&unused), 1, "an ended one without a sign of life is none");
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
    assert_eq!(opening.superseded, [("a".to_owned(), at(3))]);
    let half_open = Position { superseded_at: Some(at(3)), is_closed: true, ..half_open };
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
fn of_two_that_are_away_the_higher_one_goes() {
    let away = vec![position("low", 2, 1, 5, true), position("high", 7, 2, 5, true)];
    let opening = open(away, 2, at(6));
    assert_eq!(opening.start, Some(Sequence(2)));
    assert_eq!(dropped(&opening), ["high"]);
}

#[test]
fn a_position_is_kept_for_each_replica_that_was_declared() {
    let opening = open(vec![position("a", 5, 1, 2, true)], 2, at(3));
    assert_eq!(opening, Opening { start: Some(Sequence(5)), ..Opening::default() });
}
