//! A redrive in batches: one search by a reader, then short transactions of the writer.

use super::super::Backend;
use super::super::sides::ask;
use crate::event::OrganisationKey;
use crate::store::{RedriveSelection, Redriven, Result};
use crate::wake::Hint;

impl Backend {
    /// Appends what is selected, or only counts it.
    pub(in super::super) async fn run_redrive(
        &self,
        organisation: OrganisationKey,
        selection: RedriveSelection,
        dry_run: bool,
    ) -> Result<Redriven> {
        let (mut answer, chosen) =
            ask!(self, connection => super::search(connection, organisation, selection))?;
        if dry_run || chosen.is_empty() {
            return Ok(answer);
        }
        answer.redriven.clear();
        // A few at a time, because others want the writer. A repeat skips what is done.
        for few in chosen.chunks(super::AT_A_TIME) {
            let (wake, few) = (self.wake.clone(), few.to_vec());
            let (mut redriven, _) = self
                .writer
                .run_then(
                    move |connection, now| Box::pin(super::append(connection, now, few)),
                    move |(_, heads)| {
                        // Without rows: each lane reads them from the log.
                        for (gateway, head) in heads {
                            wake.appended(*gateway, Hint { head: *head, rows: [].into() });
                        }
                    },
                )
                .await?;
            answer.redriven.append(&mut redriven);
        }
        Ok(answer)
    }
}
