//! Rules and destinations.

use super::super::dialect::{Connection, query};
use crate::clock::Timestamp;
use crate::event::OrganisationKey;
use crate::store::audit::entries;
use crate::store::{
    Audited, Conflict, Existing, MAX_DESTINATIONS, MAX_RULES, Result, Sealed, StoreError,
    StoredDestination, StoredRule,
};

pub(super) async fn rules(
    conn: &mut Connection,
    organisation: OrganisationKey,
) -> Result<Vec<StoredRule>> {
    let rows = query!(
        r#"
        select id as "id!: String", definition as "definition?: String",
            silenced_until as "silenced_until?: Timestamp", silenced_by as "silenced_by!: String",
            created_at as "created_at!: Timestamp", updated_at as "updated_at!: Timestamp"
        from alert_rules where organisation = $1 order by id
        "#,
        organisation.0
    )
    .fetch_all(conn)
    .await?;
    let rules = rows.into_iter().map(|row| StoredRule {
        id: row.id,
        definition: row.definition,
        silence: row.silenced_until.map(|until| (until, row.silenced_by)),
        created_at: row.created_at,
        updated_at: row.updated_at,
    });
    Ok(rules.collect())
}

/// Until the end of the transaction, no other one adds a rule or a destination to the organisation,
/// so that they can be counted.
async fn lock(conn: &mut Connection, organisation: OrganisationKey) -> Result<()> {
    query!("update organisations set name = name where organisation = $1", organisation.0)
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether a rule is stored, and its definition, which is not there if only its silence is stored.
async fn definition(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: &str,
) -> Result<(bool, Option<String>)> {
    let row = query!(
        r#"
        select definition as "definition?: String" from alert_rules
        where organisation = $1 and id = $2
        "#,
        organisation.0,
        id
    )
    .fetch_optional(conn)
    .await?;
    Ok((row.is_some(), row.and_then(|row| row.definition)))
}

pub(super) async fn put_rule(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: &str,
    existing: Existing,
    built_in: Option<&str>,
    new: &str,
) -> Result<Audited<bool>> {
    lock(conn, organisation).await?;
    let (is_stored, old) = definition(conn, organisation, id).await?;
    let before = old.as_deref().or(built_in);
    if existing == Existing::Refuse && before.is_some() {
        return Err(Conflict::AlertId { what: "alert rule", id: id.to_owned() }.into());
    }
    if !is_stored {
        let count = query!(
            r#"select count(*) as "count!: i64" from alert_rules where organisation = $1"#,
            organisation.0
        )
        .fetch_one(&mut *conn)
        .await?
        .count;
        if count >= MAX_RULES {
            return Err(Conflict::AlertRules { most: MAX_RULES }.into());
        }
    }
    if old.as_deref() == Some(new) {
        return Ok(Audited::new(false, []));
    }
    query!(
        r#"
        insert into alert_rules (organisation, id, definition, created_at, updated_at)
        values ($1, $2, $3, $4, $4)
        on conflict (organisation, id) do update set definition = $3, updated_at = $4
        "#,
        organisation.0,
        id,
        new,
        now as _
    )
    .execute(conn)
    .await?;
    Ok(Audited::new(before.is_none(), [entries::alert_rule_put(id, before, new)]))
}

pub(super) async fn delete_rule(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: &str,
) -> Result<Audited<()>> {
    lock(conn, organisation).await?;
    let (_, Some(old)) = definition(conn, organisation, id).await? else {
        return Err(StoreError::NotFound("alert rule"));
    };
    query!("delete from alert_rules where organisation = $1 and id = $2", organisation.0, id)
        .execute(conn)
        .await?;
    Ok(Audited::new((), [entries::alert_rule_deleted(id, &old)]))
}

pub(super) async fn silence(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: &str,
    until: Option<Timestamp>,
    by: &str,
) -> Result<Audited<()>> {
    query!(
        r#"
        insert into alert_rules
            (organisation, id, silenced_until, silenced_by, created_at, updated_at)
        values ($1, $2, $3, $4, $5, $5)
        on conflict (organisation, id) do update
        set silenced_until = $3, silenced_by = $4, updated_at = $5
        "#,
        organisation.0,
        id,
        until as _,
        by,
        now as _
    )
    .execute(conn)
    .await?;
    Ok(Audited::new((), [entries::alert_rule_silenced(id, until)]))
}

pub(super) async fn destinations(
    conn: &mut Connection,
    organisation: OrganisationKey,
) -> Result<Vec<StoredDestination>> {
    let rows = query!(
        r#"
        select id as "id!: String", definition as "definition!: String",
            sealed as "sealed!: Vec<u8>", sealed_by as "sealed_by!: String",
            created_at as "created_at!: Timestamp", updated_at as "updated_at!: Timestamp"
        from alert_destinations where organisation = $1 order by id
        "#,
        organisation.0
    )
    .fetch_all(conn)
    .await?;
    let destinations = rows.into_iter().map(|row| StoredDestination {
        id: row.id,
        definition: row.definition,
        sealed: Sealed { bytes: row.sealed, by: row.sealed_by },
        created_at: row.created_at,
        updated_at: row.updated_at,
    });
    Ok(destinations.collect())
}

pub(super) async fn destination(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: &str,
) -> Result<Option<StoredDestination>> {
    let row = query!(
        r#"
        select definition as "definition!: String", sealed as "sealed!: Vec<u8>",
            sealed_by as "sealed_by!: String", created_at as "created_at!: Timestamp",
            updated_at as "updated_at!: Timestamp"
        from alert_destinations where organisation = $1 and id = $2
        "#,
        organisation.0,
        id
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| StoredDestination {
        id: id.to_owned(),
        definition: row.definition,
        sealed: Sealed { bytes: row.sealed, by: row.sealed_by },
        created_at: row.created_at,
        updated_at: row.updated_at,
    }))
}

pub(super) async fn put_destination(
    conn: &mut Connection,
    now: Timestamp,
    organisation: OrganisationKey,
    id: &str,
    existing: Existing,
    new: &str,
    sealed: &Sealed,
) -> Result<Audited<bool>> {
    lock(conn, organisation).await?;
    let old = destination(conn, organisation, id).await?;
    if existing == Existing::Refuse && old.is_some() {
        return Err(Conflict::AlertId { what: "alert destination", id: id.to_owned() }.into());
    }
    if old.is_none() {
        let count = query!(
            r#"select count(*) as "count!: i64" from alert_destinations where organisation = $1"#,
            organisation.0
        )
        .fetch_one(&mut *conn)
        .await?
        .count;
        if count >= MAX_DESTINATIONS {
            return Err(Conflict::AlertDestinations { most: MAX_DESTINATIONS }.into());
        }
    }
    if old.as_ref().is_some_and(|old| old.definition == new && old.sealed == *sealed) {
        return Ok(Audited::new(false, []));
    }
    query!(
        r#"
        insert into alert_destinations
            (organisation, id, definition, sealed, sealed_by, created_at, updated_at)
        values ($1, $2, $3, $4, $5, $6, $6)
        on conflict (organisation, id) do update
        set definition = $3, sealed = $4, sealed_by = $5, updated_at = $6
        "#,
        organisation.0,
        id,
        new,
        sealed.bytes,
        sealed.by,
        now as _
    )
    .execute(conn)
    .await?;
    let before = old.as_ref().map(|old| old.definition.as_str());
    let has_new_secrets = old.as_ref().is_none_or(|old| old.sealed != *sealed);
    let entry = entries::alert_destination_put(id, before, new, has_new_secrets);
    Ok(Audited::new(old.is_none(), [entry]))
}

pub(super) async fn delete_destination(
    conn: &mut Connection,
    organisation: OrganisationKey,
    id: &str,
) -> Result<Audited<()>> {
    let row = query!(
        r#"
        delete from alert_destinations where organisation = $1 and id = $2
        returning definition as "definition!: String"
        "#,
        organisation.0,
        id
    )
    .fetch_optional(conn)
    .await?;
    let old = row.ok_or(StoreError::NotFound("alert destination"))?;
    Ok(Audited::new((), [entries::alert_destination_deleted(id, &old.definition)]))
}
