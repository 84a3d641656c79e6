//! Tests of supersession.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What an event is: none of these, a barrier, or one with a type and a key.
#[derive(Clone, Debug)]
enum Kind {
    Plain,
    Barrier,
    Keyed { event_type: usize, key: usize, is_open: bool, expires: Option<i64> },
}

const TYPES: [&str; 2] = ["a.b", "c.d"];
const KEYS: [&str; 3] = ["one", "two", "three"];

fn kinds() -> impl Strategy<Value = Vec<Kind>> {
    let expires = prop::option::weighted(0.3, 1_i64..9);
    let keyed = (0..TYPES.len(), 0..KEYS.len(), prop::bool::weighted(0.9), expires);
    let keyed = keyed.prop_map(|(event_type, key, is_open, expires)| Kind::Keyed {
        event_type,
        key,
        is_open,
        expires,
    });
    let kind = prop_oneof![3 => Just(Kind::Plain), 1 => Just(Kind::Barrier), 12 => keyed];
    // Several pages, so that what one page found must be known to the next.
    prop::collection::vec(kind, 0..3 * PAGE)
}

fn sequence(index: usize) -> Sequence {
    Sequence(i64::try_from(index).unwrap() + 1)
}

fn collapsible(sequence: Sequence, kind: &Kind) -> Option<Collapsible> {
    Some(match kind {
        Kind::Plain => return None,
        Kind::Barrier => Collapsible {
            sequence,
            event_type: EventType::new("barrier.type").unwrap(),
            key: BARRIER.to_owned(),
            is_open: true,
            expires_at: None,
        },
        Kind::Keyed { event_type, key, is_open, expires } => Collapsible {
            sequence,
            event_type: EventType::new(TYPES[*event_type]).unwrap(),
            key: KEYS[*key].to_owned(),
            is_open: *is_open,
            expires_at: expires.map(Timestamp::from_micros),
        },
    })
}

/// Sequences and expiry, by type and key.
type Newer = BTreeMap<(usize, usize), Vec<(i64, Option<i64>)>>;

/// What is superseded by what, read in pages as a store does.
fn superseded(log: &[Kind]) -> BTreeMap<i64, i64> {
    let head = Sequence(i64::try_from(log.len()).unwrap());
    let mut backlog = Supersession::new(GatewayKey(1), ConnectionId::new(), head);
    let mut all = BTreeMap::new();
    while !backlog.is_done {
        let before = usize::try_from(backlog.before.0 - 1).unwrap();
        let rows = log[..before].iter().enumerate().rev();
        let rows = rows.filter_map(|(index, kind)| collapsible(sequence(index), kind));
        let page: Vec<_> = rows.take(PAGE).collect();
        for Superseded { range, by } in backlog.examine(page) {
            assert!(range.last.0 - range.first.0 < MAX_RANGE_LENGTH);
            for sequence in range.first.0..=range.last.0 {
                assert_eq!(all.insert(sequence, by.0), None, "{sequence} is superseded once");
            }
        }
    }
    assert_eq!(backlog.superseded, u64::try_from(all.len()).unwrap());
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Exactly the events that a newer one of the same type and key follows before the next barrier, which
    /// does not expire earlier, are superseded, each by such an event, which is sent.
    #[test]
    fn only_the_newest_of_a_key_between_two_barriers_remains(log in kinds()) {
        let found = superseded(&log);
        // What may supersede the event at hand: for each type and key, the newer events that are sent.
        let mut newer = Newer::new();
        for (index, kind) in log.iter().enumerate().rev() {
            let sequence = sequence(index).0;
            let by = found.get(&sequence).copied();
            match kind {
                Kind::Barrier => {
                    newer.clear();
                    prop_assert_eq!(by, None);
                }
                Kind::Plain | Kind::Keyed { is_open: false, .. } => prop_assert_eq!(by, None),
                Kind::Keyed { event_type, key, is_open: true, expires } => {
                    let sent = newer.entry((*event_type, *key)).or_default();
                    let never = i64::MAX;
                    let mut lasting = sent
                        .iter()
                        .filter(|(_, end)| end.unwrap_or(never) >= expires.unwrap_or(never))
                        .map(|(sequence, _)| *sequence)
                        .peekable();
                    if let Some(by) = by {
                        prop_assert!(lasting.any(|it| it == by), "{sequence} by {by}");
                    } else {
                        prop_assert_eq!(lasting.peek(), None, "{} is sent", sequence);
                        sent.push((sequence, *expires));
                    }
                }
            }
        }
    }

    /// If none of them expires, the newest event of each type and key supersedes all others.
    #[test]
    fn without_expiry_the_newest_supersedes_all(mut log in kinds()) {
        for kind in &mut log {
            if let Kind::Keyed { expires, .. } = kind {
                *expires = None;
            }
        }
        let found = superseded(&log);
        let mut newest: BTreeMap<(usize, usize), i64> = BTreeMap::new();
        for (index, kind) in log.iter().enumerate().rev() {
            let sequence = sequence(index).0;
            match kind {
                Kind::Barrier => newest.clear(),
                Kind::Keyed { event_type, key, is_open: true, .. } => {
                    let by = newest.get(&(*event_type, *key)).copied();
                    prop_assert_eq!(found.get(&sequence).copied(), by);
                    newest.entry((*event_type, *key)).or_insert(sequence);
                }
                Kind::Plain | Kind::Keyed { is_open: false, .. } => {}
            }
        }
    }
}

#[test]
fn what_is_examined_is_bounded() {
    let newest = |nth: i64| Collapsible {
        sequence: Sequence(nth),
        event_type: EventType::new("a.b").unwrap(),
        key: nth.to_string(),
        is_open: true,
        expires_at: None,
    };
    let mut backlog = Supersession::new(GatewayKey(1), ConnectionId::new(), Sequence::MAX);
    let mut next = 1_000_000;
    while !backlog.is_done {
        let page = (0..PAGE).map(|_| {
            next -= 1;
            newest(next)
        });
        assert!(backlog.examine(page.collect()).is_empty(), "all keys differ");
    }
    assert_eq!(backlog.examined, MAX_EXAMINED);
    assert_eq!(backlog.newest.len(), MAX_KEYS);
}

#[test]
fn a_detail_names_the_newer_sequence() {
    let range = Range { first: Sequence(1), last: Sequence(4) };
    let detail = Superseded { range, by: Sequence(5) }.detail();
    assert_eq!(Superseded::by_of(&detail), Some(Sequence(5)));
    assert_eq!(Superseded::by_of("superseded by whatever"), None);
}
