//! Edits of rejected rows.

use gateway_events::clock::Timestamp;
use gateway_events::event::{EventId, GatewayId, OrganisationKey};
use gateway_events::store::audit::entries;
use gateway_events::store::{
    Audited, Conflict, EditedRow, NewEvent, Publish, Published, Refusal, RejectedContent,
    RejectedEdit, RejectedRow, Rejection, Result, StoreError,
};

use super::append::Growth;
use super::tables::Tables;

const MISSING: StoreError = StoreError::NotFound("rejected row");

impl Tables {
    pub(super) fn rejected_content(
        &self,
        organisation: OrganisationKey,
        id: i64,
        max_bytes: usize,
    ) -> Option<RejectedContent> {
        let (shown, _) = self.rejected_row(organisation, id, 0)?;
        let row = self.rejected.get(&id)?;
        let mut content = row.row.content.clone();
        let payload_bytes = content.payload.len();
        if payload_bytes > max_bytes {
            content.payload.clear();
        }
        Some(RejectedContent {
            content,
            payload_bytes,
            inserted_at: row.row.inserted_at,
            version: shown.version,
            retried_at: shown.retried_at,
        })
    }

    pub(super) fn edit_rejected(
        &mut self,
        now: Timestamp,
        organisation: OrganisationKey,
        edit: RejectedEdit,
        dry_run: bool,
    ) -> Result<Audited<(EditedRow, Growth)>> {
        let before = self.current(organisation, &edit)?;
        let checked = match &edit.result {
            Ok(new) => self.would_append(organisation, new).map_err(Rejection::from),
            Err(rejection) => Err(rejection.clone()),
        };
        let is_same =
            checked.as_ref().is_err_and(|rejection| edit.changes_nothing(&before, rejection));
        let dry = |edited| Ok(Audited::new((edited, Growth::new()), []));
        let rejection = match (checked, edit.result) {
            (Ok((id, gateways)), _) if dry_run => {
                return dry(EditedRow::WouldPublish(id, gateways));
            }
            (Err(rejection), _) if dry_run || is_same => {
                return dry(EditedRow::Rejected(rejection, Box::new(before)));
            }
            (Ok(_), Ok(new)) => {
                self.rejected.remove(&edit.id);
                let entry = entries::rejected_published(&before, &new.event, edit.has_payload);
                let publish = Publish { organisation, events: vec![Ok(new)], idempotency: None };
                let mut growth = Growth::new();
                let Published::Done(mut results) = self.append(now, &publish, &mut growth) else {
                    return Err(Conflict::Concurrent.into());
                };
                let appended = results.pop().and_then(std::result::Result::ok);
                let appended = appended.ok_or(StoreError::Conflict(Conflict::Concurrent))?;
                return Ok(Audited::new((EditedRow::Published(appended), growth), [entry]));
            }
            (Err(rejection), _) | (Ok(_), Err(rejection)) => rejection,
        };
        let row = self.rejected.get_mut(&edit.id).ok_or(MISSING)?;
        row.row.content = edit.content;
        row.rejection = rejection.clone();
        row.rejected_at = now;
        row.version += 1;
        let (after, _) = self.rejected_row(organisation, edit.id, 0).ok_or(MISSING)?;
        let entry = entries::rejected_edited(&before, &after, edit.has_payload);
        let edited = EditedRow::Rejected(rejection, Box::new(after));
        Ok(Audited::new((edited, Growth::new()), [entry]))
    }

    fn current(&self, organisation: OrganisationKey, edit: &RejectedEdit) -> Result<RejectedRow> {
        let (row, _) = self.rejected_row(organisation, edit.id, 0).ok_or(MISSING)?;
        if row.retried_at.is_some() {
            return Err(Conflict::PutBack(row.id).into());
        }
        if row.version != edit.version {
            return Err(Conflict::Edited { id: row.id, version: row.version }.into());
        }
        Ok(row)
    }

    /// What appending an event would do: its id, and the gateways that it is for.
    pub(super) fn would_append(
        &self,
        organisation: OrganisationKey,
        new: &NewEvent,
    ) -> std::result::Result<(EventId, Vec<GatewayId>), Refusal> {
        let id = &new.event.id;
        match self.first(organisation, id).filter(|_| new.is_named) {
            Some((digest, appended)) if *digest == new.digest => {
                let gateways = appended.deliveries.iter().map(|it| it.gateway_id);
                Ok((appended.id.clone(), gateways.collect()))
            }
            Some(_) => Err(Refusal::IdTaken(id.clone())),
            None => {
                let targets = self.targets(organisation, &new.target)?;
                Ok((id.clone(), targets.into_iter().map(|(_, id)| id).collect()))
            }
        }
    }
}
