//! Arguments that identify a gateway by its name, which is unique in the organisation, by its id or
//! by the beginning of its id; and events and tokens by their ids or the beginnings of these.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use gateway_events::api::{EventFilter, Gateway, GatewaysQuery, JobsQuery};
use gateway_events::client::api::{Api, ApiError};
use gateway_events::clock::Timestamp;
use gateway_events::event::{EventId, EventIdPrefix, EventType, GatewayId, JobId};
use gateway_events::names::closest;

use super::output::{cell, note};

/// The shortest beginning of an id that stands for it.
const MIN_PREFIX_BYTES: usize = 4;
/// Jobs among which a beginning is looked up.
const NEWEST_JOBS: usize = 1000;
/// The maximum number of candidates in an error.
const CANDIDATES: usize = 10;

/// An id, the beginning of one, or a name. A text that has the form of an id is one.
#[derive(Clone, Debug)]
pub(crate) enum GatewayRef {
    Id(GatewayId),
    Name(String),
}

impl FromStr for GatewayRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("a gateway's name or id is required".to_owned());
        }
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Id))
    }
}

impl GatewayRef {
    /// The gateway's id. Looks up a name, which must exist.
    pub(crate) async fn resolve(&self, api: &Api) -> anyhow::Result<GatewayId> {
        match resolve_all(std::slice::from_ref(self), api).await?[..] {
            [id] => Ok(id),
            _ => anyhow::bail!("failed to look up the gateway"),
        }
    }
}

/// The ids of several gateways, in order.
pub(crate) async fn resolve_all(
    gateways: &[GatewayRef],
    api: &Api,
) -> anyhow::Result<Vec<GatewayId>> {
    let mut ids = Vec::with_capacity(gateways.len());
    for gateway in gateways {
        ids.push(match gateway {
            GatewayRef::Id(id) => *id,
            GatewayRef::Name(name) => named(name, api).await?,
        });
    }
    Ok(ids)
}

/// The gateway with this name or, without one, the only one whose id begins with it. Other gateways
/// are only read for the error.
async fn named(name: &str, api: &Api) -> anyhow::Result<GatewayId> {
    if let Some(id) = gateway_named(name, api).await? {
        return Ok(id);
    }
    let found = match name.len() {
        0..MIN_PREFIX_BYTES => Vec::new(),
        _ => beginning_with(name, CANDIDATES + 1, api).await?,
    };
    match &found[..] {
        [one] => Ok(one.id),
        [] => {
            let list = api.gateways().await?;
            Err(unknown(name, list.iter().map(|gateway| gateway.name.as_str())))
        }
        _ => {
            let shown = found.iter().map(|it| format!("{}  {}", it.id, cell(&it.name)));
            Err(ambiguous("gateways", name, shown, found.len()))
        }
    }
}

/// The gateways whose ids begin so, at most `limit`. None if no id can begin so.
pub(crate) async fn beginning_with(
    text: &str,
    limit: usize,
    api: &Api,
) -> anyhow::Result<Vec<Gateway>> {
    let Ok(prefix) = text.to_ascii_lowercase().parse() else { return Ok(Vec::new()) };
    let query = GatewaysQuery { id_prefix: Some(prefix), ..GatewaysQuery::default() };
    Ok(api.matching_gateways(&query, limit).await?)
}

/// The gateway with this name.
pub(crate) async fn gateway_named(name: &str, api: &Api) -> anyhow::Result<Option<GatewayId>> {
    let query = GatewaysQuery { name: Some(name.to_owned()), ..GatewaysQuery::default() };
    Ok(api.matching_gateways(&query, 1).await?.first().map(|gateway| gateway.id))
}

/// The error about a beginning that several ids have.
fn ambiguous(
    what: &str,
    prefix: &str,
    candidates: impl Iterator<Item = String>,
    count: usize,
) -> anyhow::Error {
    let mut lines: Vec<String> =
        candidates.take(CANDIDATES).map(|candidate| format!("  {candidate}")).collect();
    if count > CANDIDATES {
        lines.push("  …".to_owned());
    }
    anyhow::anyhow!("the ids of several {what} begin with {prefix:?}:\n{}", lines.join("\n"))
}

/// The id of the event with this id or, without one, the only one whose id begins with it. The id
/// as it was given if there is none: the service says so.
pub(crate) async fn event_id(given: &EventId, api: &Api) -> anyhow::Result<EventId> {
    const UUID: usize = 36;
    let Some(prefix) = EventIdPrefix::new(given.as_str())
        .ok()
        .filter(|_| (MIN_PREFIX_BYTES..UUID).contains(&given.as_str().len()))
    else {
        return Ok(given.clone());
    };
    let filter = EventFilter {
        from: Some(Timestamp::from_micros(0)),
        id_prefix: Some(prefix),
        ..EventFilter::default()
    };
    let found = api.events(&filter, CANDIDATES + 1).await?.list;
    match &found[..] {
        [one] => Ok(one.id.clone()),
        [] => Ok(given.clone()),
        // Listed by descending id, so the shortest one may be beyond this page.
        _ if found.iter().any(|one| one.id == *given) || api.event(given).await.is_ok() => {
            Ok(given.clone())
        }
        _ => {
            let shown = found.iter().map(|it| format!("{}  {}", it.id, it.event_type));
            Err(ambiguous("events", given.as_str(), shown, found.len()))
        }
    }
}

/// The id of the job with this id or, without one, of the only one whose id begins with it, among
/// the newest.
pub(crate) async fn job_id(given: &str, api: &Api) -> anyhow::Result<JobId> {
    if let Ok(id) = given.parse() {
        return Ok(id);
    }
    let prefix = given.to_ascii_lowercase();
    anyhow::ensure!(
        is_id_prefix(&prefix),
        "{given:?} is not the id of a job, or its beginning; `gateway-events job list` shows all"
    );
    let jobs = api.jobs(&JobsQuery::default(), NEWEST_JOBS).await?.list;
    let found: Vec<_> = jobs.iter().filter(|job| job.id.to_string().starts_with(&prefix)).collect();
    match found[..] {
        [one] => Ok(one.id),
        [] => Err(anyhow::anyhow!(
            "no job's id begins with {given:?}; `gateway-events job list` shows all"
        )),
        _ => {
            let shown = found.iter().map(|job| format!("{}  {}", job.id, job.kind.as_str()));
            Err(ambiguous("jobs", given, shown, found.len()))
        }
    }
}

/// Whether a text may be the beginning of a UUID.
fn is_id_prefix(text: &str) -> bool {
    text.len() >= MIN_PREFIX_BYTES
        && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

/// The public id with this beginning among these; what was given if there is none.
pub(crate) fn token_id(given: &str, ids: Vec<(String, String)>) -> anyhow::Result<String> {
    if given.len() < MIN_PREFIX_BYTES || ids.iter().any(|(id, _)| id == given) {
        return Ok(given.to_owned());
    }
    let found: Vec<(String, String)> =
        ids.into_iter().filter(|(id, _)| id.starts_with(given)).collect();
    match &found[..] {
        [(id, _)] => Ok(id.clone()),
        [] => Ok(given.to_owned()),
        _ => {
            let shown = found.iter().map(|(id, name)| format!("{id}  {}", cell(name)));
            Err(ambiguous("tokens", given, shown, found.len()))
        }
    }
}

/// The names of gateways, by id. Without the scope `read`, or if a gateway was deleted, a name is
/// missing.
pub(crate) struct Names(HashMap<GatewayId, String>);

impl Names {
    /// Looks up the names of these gateways.
    pub(crate) async fn of(ids: impl Iterator<Item = GatewayId>, api: &Api) -> Self {
        /// More gateways than this are looked up in the list of all.
        const FEW: usize = 3;
        let ids: HashSet<GatewayId> = ids.collect();
        let mut gateways = Vec::new();
        if ids.len() <= FEW {
            for id in ids {
                gateways.extend(api.gateway(id).await);
            }
        } else {
            gateways = api.gateways().await.unwrap_or_default();
        }
        Self(gateways.into_iter().map(|gateway| (gateway.id, gateway.name)).collect())
    }

    /// The name or, if it is unknown, the id, as the text of a table's cell.
    pub(crate) fn cell(&self, id: GatewayId) -> String {
        self.0.get(&id).map_or_else(|| cell(id), cell)
    }
}

/// Remarks on standard error if the type that an empty list was filtered by is not registered: it is
/// probably mistyped. Older events may have such a type, so it is no error.
pub(crate) async fn note_unknown_type(filter: Option<&EventType>, api: &Api) {
    let Some(name) = filter else { return };
    let Ok(known) = api.event_types().await else { return };
    let names = known.list.iter().map(|info| info.name.as_str());
    if names.clone().any(|known| known == name.as_str()) {
        return;
    }
    let advice = match closest(name.as_str(), names) {
        Some(closest) => format!("did you mean {}?", cell(closest)),
        None => "`gateway-events event-type list` shows all".to_owned(),
    };
    note(format_args!("{name} is not a registered event type; {advice}"));
}

/// The error about an event type; suggests another one if there is no such type.
pub(crate) async fn event_type_error(
    error: ApiError,
    name: &EventType,
    api: &Api,
) -> anyhow::Error {
    if error.status() != Some(404) {
        return error.into();
    }
    let known = api.event_types().await.map(|page| page.list).unwrap_or_default();
    match closest(name.as_str(), known.iter().map(|info| info.name.as_str())) {
        Some(closest) => anyhow::anyhow!("{error}\n  did you mean {}?", cell(closest)),
        None => error.into(),
    }
}

fn unknown<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> anyhow::Error {
    match closest(name, names) {
        Some(closest) => {
            anyhow::anyhow!("no gateway is named {name:?}; did you mean {closest:?}?")
        }
        None => anyhow::anyhow!(
            "no gateway is named {name:?}, and no id begins with it; `gateway-events gateway list` shows all names"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_in_the_form_of_an_id_is_an_id() {
        let id = "0198c0de-0000-7000-8000-000000000001";
        assert!(matches!(id.parse(), Ok(GatewayRef::Id(_))));
        assert!(matches!("berlin".parse(), Ok(GatewayRef::Name(name)) if name == "berlin"));
        assert!(" ".parse::<GatewayRef>().is_err());
    }

    #[test]
    fn the_beginning_of_one_id_is_enough_and_candidates_are_listed() {
        let ids = |ids: &[&str]| ids.iter().map(|id| (id.to_string(), "n".to_owned())).collect();
        assert_eq!(token_id("abcd", ids(&["abcd1", "b"])).unwrap(), "abcd1");
        assert_eq!(token_id("abc", ids(&["abcd1"])).unwrap(), "abc");
        assert_eq!(token_id("abcd", ids(&["abcd", "abcd1"])).unwrap(), "abcd");
        assert_eq!(token_id("zzzz", ids(&["abcd1"])).unwrap(), "zzzz");
        let error = token_id("abcd", ids(&["abcd1", "abcd2"])).unwrap_err().to_string();
        assert!(error.contains("abcd1") && error.contains("abcd2"), "{error}");
    }

    #[test]
    fn a_similar_name_is_suggested() {
        let said = |name| unknown(name, ["amsterdam", "Berlin"].into_iter()).to_string();
        assert!(said("berln").contains("did you mean \"Berlin\""), "{}", said("berln"));
        assert!(said("tokyo").contains("gateway list"), "{}", said("tokyo"));
    }
}
