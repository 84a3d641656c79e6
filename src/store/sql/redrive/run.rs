//! Runs a redrive in batches: one search on a reading connection, then short transactions of the
//! writer.

use super::super::Backend;
use super::super::access::{Access, run};
use super::super::bulk::results;
use crate::store::{Actor, KeptResult, RedriveSelection, Redriven, Result};
use crate::wake::Hint;

impl Backend {
    /// Appends what is selected, or only counts it.
    pub(crate) async fn run_redrive(
        &self,
        actor: &Actor,
        selection: RedriveSelection,
        dry_run: bool,
    ) -> Result<Redriven> {
        let organisation = actor.organisation;
        let (mut answer, chosen) =
            run!(self.query, |conn| super::search(conn, organisation, selection))?;
        if dry_run || chosen.is_empty() {
            return Ok(answer);
        }
        answer.redriven.clear();
        let mut parts = chosen.chunks(super::AT_A_TIME).peekable();
        // A few at a time, so that other requests are not kept waiting. A repeat skips what
        // is done.
        while let Some(few) = parts.next() {
            let (wake, few) = (self.wake.clone(), few.to_vec());
            // The last transaction keeps the result of all.
            let before = parts.peek().is_none().then(|| (actor.clone(), answer.clone()));
            let (part, _) = self
                .audited_tx_then(
                    actor,
                    move |conn, now| {
                        Box::pin(async move {
                            let done = super::append(conn, now, few).await?;
                            if let Some((actor, mut all)) = before {
                                all.add(done.value.0.clone());
                                let kept = KeptResult::Redriven(all);
                                results::keep(conn, now, &actor, &kept).await?;
                            }
                            Ok(done)
                        })
                    },
                    move |(_, heads)| {
                        // Without rows, so that each lane reads them from the log.
                        for (gateway, head) in heads {
                            wake.appended(*gateway, Hint::new(*head, []));
                        }
                    },
                )
                .await?;
            answer.add(part);
        }
        Ok(answer)
    }
}
