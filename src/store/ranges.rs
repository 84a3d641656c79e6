//! Arithmetic on ranges of sequences, as the ledger stores them.

use std::collections::BTreeMap;

use super::Range;
use super::limits::MAX_RANGE_LENGTH;
use crate::event::Sequence;

/// Splits a range into pieces that fit into a row. An empty range has none.
pub fn cut(range: Range) -> impl Iterator<Item = Range> {
    let after = |first: &i64| Some(first + MAX_RANGE_LENGTH);
    std::iter::successors(Some(range.first.0), after)
        .take_while(move |first| *first <= range.last.0)
        .map(move |first| Range {
            first: Sequence(first),
            last: Sequence(range.last.0.min(first + MAX_RANGE_LENGTH - 1)),
        })
}

/// The part of a range at or below a position.
pub fn up_to(range: Range, position: Sequence) -> Option<Range> {
    let last = range.last.min(position);
    (range.first <= last).then_some(Range { first: range.first, last })
}

/// The part of a range above a position.
pub fn above(range: Range, position: Sequence) -> Option<Range> {
    let first = range.first.max(position.next());
    (first <= range.last).then_some(Range { first, last: range.last })
}

/// A piece of a range of dead letters. Either all of it was redriven, under consecutive new
/// sequences that begin at `redriven_first`, or none of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// The first sequence.
    pub first: i64,
    /// The last sequence, inclusive.
    pub last: i64,
    /// The new sequence of the first delivery, if the piece was redriven.
    pub redriven_first: Option<i64>,
}

impl Piece {
    /// Whether a delivery, redriven under `new` or not redriven, extends this piece.
    fn is_continued_by(&self, sequence: i64, new: Option<i64>) -> bool {
        new == self.redriven_first.map(|first| first + sequence - self.first)
    }
}

/// Splits a range of which some deliveries were redriven. `redriven` maps old sequences to new
/// ones.
pub fn pieces(first: i64, last: i64, redriven: &BTreeMap<i64, i64>) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for sequence in first..=last {
        let new = redriven.get(&sequence).copied();
        match pieces.last_mut() {
            Some(piece) if piece.is_continued_by(sequence, new) => piece.last = sequence,
            _ => pieces.push(Piece { first: sequence, last: sequence, redriven_first: new }),
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
        let piece = |first, last, redriven_first| Piece { first, last, redriven_first };
        let redriven = BTreeMap::from([(3, 7), (4, 8), (5, 9)]);
        assert_eq!(pieces(3, 5, &redriven), [piece(3, 5, Some(7))]);
        let redriven = BTreeMap::from([(4, 11), (5, 12), (6, 14), (9, 15)]);
        assert_eq!(
            pieces(3, 9, &redriven),
            [
                piece(3, 3, None),
                piece(4, 5, Some(11)),
                piece(6, 6, Some(14)),
                piece(7, 8, None),
                piece(9, 9, Some(15))
            ]
        );
    }
}
