//! Marks dead letters as redriven. They are stored as ranges, so a range of which only a part was
//! redriven is split.

use std::collections::BTreeMap;

use super::super::dialect::{Connection, query};

use super::Candidate;
use crate::clock::Timestamp;
use crate::event::{GatewayKey, Reason, Sequence};
use crate::store::Result;
use crate::store::ranges::pieces;

/// Marks these as redriven, each under its new sequence.
pub(crate) async fn mark(
    conn: &mut Connection,
    chosen: &[(Candidate, Sequence)],
    now: Timestamp,
) -> Result<()> {
    let mut ranges: BTreeMap<(GatewayKey, i64), BTreeMap<i64, i64>> = BTreeMap::new();
    for (candidate, new) in chosen {
        ranges
            .entry((candidate.gateway, candidate.range_first))
            .or_default()
            .insert(candidate.sequence, new.0);
    }
    for ((gateway, first), redriven) in ranges {
        let range = query!(
            r#"
            delete from dead_letters where gateway = $1 and first_sequence = $2
            returning last_sequence as "last!: i64", reason as "reason!: Reason",
                dead_at as "dead_at!: Timestamp", rejected_by as "rejected_by?: String"
            "#,
            gateway.0,
            first
        )
        .fetch_one(&mut *conn)
        .await?;
        for piece in pieces(first, range.last, &redriven) {
            let redriven_at = piece.redriven_first.map(|_| now);
            query!(
                r#"
                insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at,
                    redriven_at, redriven_first, rejected_by)
                values ($1, $2, $3, $4, $5, $6, $7, $8)
                "#,
                gateway.0,
                piece.first,
                piece.last,
                range.reason as _,
                range.dead_at as _,
                redriven_at as _,
                piece.redriven_first,
                range.rejected_by
            )
            .execute(&mut *conn)
            .await?;
        }
    }
    Ok(())
}
