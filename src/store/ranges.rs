//! Ranges of sequences, as the ledger keeps them.

use std::collections::BTreeSet;

use super::Range;
use super::limits::LONGEST_RANGE;
use crate::event::Sequence;

/// Cuts a range into pieces that fit into a row; an empty one has none.
pub(crate) fn cut(range: Range) -> impl Iterator<Item = Range> {
    let after = |first: &i64| Some(first + LONGEST_RANGE);
    std::iter::successors(Some(range.first.0), after)
        .take_while(move |first| *first <= range.last.0)
        .map(move |first| Range {
            first: Sequence(first),
            last: Sequence(range.last.0.min(first + LONGEST_RANGE - 1)),
        })
}

/// The part of a range that lies at or below a position.
pub(crate) fn up_to(range: Range, position: Sequence) -> Option<Range> {
    let last = range.last.min(position);
    (range.first <= last).then_some(Range { first: range.first, last })
}

/// The part of a range that lies above a position.
pub(crate) fn above(range: Range, position: Sequence) -> Option<Range> {
    let first = range.first.max(position.next());
    (first <= range.last).then_some(Range { first, last: range.last })
}

/// A piece of a range of dead letters: all of it redriven, or none of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) redriven: bool,
}

/// What a range falls into when a part of it is redriven.
pub(crate) fn pieces(first: i64, last: i64, redriven: &BTreeSet<i64>) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for sequence in first..=last {
        let redriven = redriven.contains(&sequence);
        match pieces.last_mut() {
            Some(piece) if piece.redriven == redriven => piece.last = sequence,
            _ => pieces.push(Piece { first: sequence, last: sequence, redriven }),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_range_without_gap_or_overlap() {
        let range = Range { first: Sequence(5), last: Sequence(2504) };
        let pieces: Vec<_> = cut(range).map(|piece| (piece.first.0, piece.last.0)).collect();
        assert_eq!(pieces, [(5, 1004), (1005, 2004), (2005, 2504)]);
    }

    #[test]
    fn a_range_falls_into_pieces_that_cover_it() {
        let piece = |first, last, redriven| Piece { first, last, redriven };
        assert_eq!(pieces(3, 5, &BTreeSet::from([3, 4, 5])), [piece(3, 5, true)]);
        assert_eq!(
            pieces(3, 9, &BTreeSet::from([4, 5, 9])),
            [piece(3, 3, false), piece(4, 5, true), piece(6, 8, false), piece(9, 9, true)]
        );
    }
}
