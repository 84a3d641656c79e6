//! Runs a redrive in batches: one search on a reading connection, then short transactions of the
//! writer.

use super::super::Backend;
use super::super::access::{Access, run};
use crate::store::{Actor, RedriveSelection, Redriven, Result};
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
        // A few at a time, so that other requests are not kept waiting. A repeat skips what
        // is done.
        for few in chosen.chunks(super::AT_A_TIME) {
            let (wake, few) = (self.wake.clone(), few.to_vec());
            let (part, _) = self
                .audited_tx_then(
                    actor,
                    move |conn, now| Box::pin(super::append(conn, now, few)),
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
