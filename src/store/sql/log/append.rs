//! Appends events. Sequences are assigned here, in one transaction for all waiting requests, with
//! one statement per table or one for all tables.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::super::dialect::log::{BatchEvent, BatchRows, Head};
use super::super::dialect::{Connection, LogStatements};

use super::idempotency::{self, Identity};
use super::targets::Targets;
use crate::clock::Timestamp;
use crate::event::{Event, EventId, GatewayId, GatewayKey, OrganisationKey, Sequence};
use crate::store::limits::MAX_DELIVERIES;
use crate::store::{
    Appended, AppendedDelivery, Idempotency, NewEvent, Publish, Published, Refusable, Refusal,
    Result, StoreError, Validated,
};

/// The result of a batch.
pub(crate) struct Outcome {
    /// One result per request.
    pub(crate) published: Vec<Published>,
    /// The streams to wake lanes for.
    pub(crate) grown: Vec<Grown>,
}

/// The new rows of a stream.
pub(crate) struct Grown {
    pub(crate) gateway: GatewayKey,
    pub(crate) head: Sequence,
    pub(crate) rows: Vec<(Sequence, Arc<Event>)>,
}

/// What becomes of one event of a request, before sequences are assigned.
enum Plan {
    /// It is new. The value is its index in `Planner::fresh`.
    Fresh(usize),
    /// It exists already, or is refused.
    Settled(Refusable<Appended>),
}

/// The response to one request.
enum Response {
    /// Its idempotency key was used before this batch.
    Ready(Published),
    /// Its idempotency key was used by an earlier request of this batch.
    SameAs(usize),
    /// The response, event by event.
    Planned(Vec<Plan>),
}

struct Fresh<'a> {
    organisation: OrganisationKey,
    new: &'a NewEvent,
    targets: Vec<(GatewayKey, GatewayId)>,
}

/// Appends the events of these requests.
pub(crate) async fn append(
    conn: &mut Connection,
    now: Timestamp,
    publishes: &[&Publish],
    targets: &Targets,
) -> Result<Outcome> {
    if publishes.is_empty() {
        return Ok(Outcome { published: Vec::new(), grown: Vec::new() });
    }
    let (responses, fresh) = plan(conn, publishes, targets).await?;
    let rows = BatchRows::of(&fresh);
    let heads = if fresh.is_empty() {
        Vec::new()
    } else {
        let heads = conn.append(now, &rows).await?;
        checked(heads, &rows.counts)?
    };
    let (numbered, grown) = number(&fresh, &rows.counts, &heads)?;
    let keys = collapse_keys(&fresh, &numbered);
    if !keys.is_empty() {
        conn.set_collapse_keys(&keys).await?;
    }
    let appended: Vec<Appended> = fresh
        .iter()
        .zip(numbered)
        .map(|(fresh, numbers)| Appended {
            id: fresh.new.event.id.clone(),
            deliveries: fresh
                .targets
                .iter()
                .zip(numbers)
                .map(|((_, gateway_id), sequence)| AppendedDelivery {
                    gateway_id: *gateway_id,
                    sequence,
                })
                .collect(),
        })
        .collect();
    let settled = settle(responses, &appended);
    idempotency::keep_responses(conn, now, publishes, &settled).await?;
    Ok(Outcome { published: settled, grown })
}

/// What appending the only event of a request would do: it writes nothing. The sequences of a new
/// event are not known.
pub(crate) async fn check(
    conn: &mut Connection,
    publish: &Publish,
    targets: &Targets,
) -> Result<Refusable<(EventId, Vec<GatewayId>)>> {
    let (mut responses, fresh) = plan(conn, &[publish], targets).await?;
    let new = fresh.first().map(|fresh| {
        let gateways = fresh.targets.iter().map(|(_, id)| *id).collect();
        (fresh.new.event.id.clone(), gateways)
    });
    let plan = match responses.pop() {
        Some(Response::Planned(mut plans)) => plans.pop(),
        _ => None,
    };
    match (plan, new) {
        (Some(Plan::Settled(result)), _) => Ok(result.map(|appended| {
            let gateways = appended.deliveries.iter().map(|it| it.gateway_id).collect();
            (appended.id, gateways)
        })),
        (Some(Plan::Fresh(_)), Some(new)) => Ok(Ok(new)),
        _ => Err(StoreError::Corrupt("a request without an event was checked".to_owned())),
    }
}

/// The state while a batch is planned.
struct Planner<'a> {
    known: HashMap<Identity, (Vec<u8>, Appended)>,
    targets: &'a Targets,
    /// New events of this batch, by id.
    met: HashMap<(OrganisationKey, &'a str), usize>,
    fresh: Vec<Fresh<'a>>,
}

/// Decides which events are new, in the order of the requests.
async fn plan<'a>(
    conn: &mut Connection,
    publishes: &[&'a Publish],
    targets: &'a Targets,
) -> Result<(Vec<Response>, Vec<Fresh<'a>>)> {
    let kept = idempotency::kept_responses(conn, publishes).await?;
    let mut planner = Planner {
        known: idempotency::known_events(conn, publishes).await?,
        targets,
        met: HashMap::new(),
        fresh: Vec::new(),
    };
    let mut keys: HashMap<Identity, usize> = HashMap::new();
    let mut responses = Vec::with_capacity(publishes.len());
    for (place, publish) in publishes.iter().copied().enumerate() {
        if let Some(Idempotency { key, digest }) = &publish.idempotency {
            let name = (publish.organisation, key.clone());
            if let Some((kept_digest, results)) = kept.get(&name) {
                responses.push(Response::Ready(if kept_digest.as_slice() == digest {
                    idempotency::in_place(results, publish)
                } else {
                    Published::KeyReused
                }));
                continue;
            }
            if let Some(first) = keys.get(&name) {
                let same =
                    publishes[*first].idempotency.as_ref().is_some_and(|it| it.digest == *digest);
                responses.push(if same {
                    Response::SameAs(*first)
                } else {
                    Response::Ready(Published::KeyReused)
                });
                continue;
            }
            keys.insert(name, place);
        }
        // A single event is appended whatever its number of deliveries.
        if publish.events.len() > 1 {
            let deliveries = planner.deliveries(publish);
            if deliveries > MAX_DELIVERIES {
                let too_many = Published::TooMany { deliveries, most: MAX_DELIVERIES };
                responses.push(Response::Ready(too_many));
                continue;
            }
        }
        let plans = publish.events.iter().map(|item| planner.plan(publish.organisation, item));
        responses.push(Response::Planned(plans.collect()));
    }
    Ok((responses, planner.fresh))
}

impl<'a> Planner<'a> {
    /// The deliveries of the new events of a request.
    fn deliveries(&self, publish: &Publish) -> usize {
        let organisation = publish.organisation;
        let is_new = |new: &&NewEvent| self.first(organisation, new.event.id.as_str()).is_none();
        let count = |new: &NewEvent| self.targets.count(organisation, &new.target);
        publish.valid().filter(is_new).map(count).sum()
    }

    fn plan(&mut self, organisation: OrganisationKey, item: &'a Validated) -> Plan {
        let named = idempotency::named(item).map(|(id, digest)| (id.as_str(), digest));
        // Repeats are checked before validity: the event was valid when it was first published.
        let repeated = named.and_then(|(id, digest)| self.repeated(organisation, id, digest));
        match (repeated, item) {
            (Some(Ok(plan)), _) => plan,
            (_, Err(invalid)) => Plan::Settled(Err(Refusal::Invalid(invalid.error.clone()))),
            (Some(Err(Clash)), Ok(new)) => {
                Plan::Settled(Err(Refusal::IdTaken(new.event.id.clone())))
            }
            (None, Ok(new)) => match self.targets.of(organisation, &new.target) {
                Err(unknown) => Plan::Settled(Err(Refusal::UnknownGateways(unknown))),
                Ok(targets) => {
                    let place = self.fresh.len();
                    self.met.extend(named.map(|(id, _)| ((organisation, id), place)));
                    self.fresh.push(Fresh { organisation, new, targets });
                    Plan::Fresh(place)
                }
            },
        }
    }

    /// The outcome of an earlier event with this id.
    fn repeated(
        &self,
        organisation: OrganisationKey,
        id: &str,
        digest: &[u8; 32],
    ) -> Option<std::result::Result<Plan, Clash>> {
        let (first, plan) = match self.first(organisation, id)? {
            First::Known(first, appended) => (first, Plan::Settled(Ok(appended.clone()))),
            First::Met(place) => (self.fresh[place].new.digest.as_slice(), Plan::Fresh(place)),
        };
        Some(if first == digest { Ok(plan) } else { Err(Clash) })
    }

    fn first(&self, organisation: OrganisationKey, id: &str) -> Option<First<'_>> {
        // Most batches repeat nothing.
        if !self.known.is_empty()
            && let Some((digest, appended)) = self.known.get(&(organisation, id.to_owned()))
        {
            return Some(First::Known(digest, appended));
        }
        self.met.get(&(organisation, id)).copied().map(First::Met)
    }
}

/// The first event with an id.
enum First<'a> {
    /// It was published before this batch. Its digest and result.
    Known(&'a [u8], &'a Appended),
    /// It is in this batch. Its index in `Planner::fresh`.
    Met(usize),
}

/// The id belongs to an event with different content.
struct Clash;

impl<'a> BatchRows<'a> {
    fn of(fresh: &[Fresh<'a>]) -> Self {
        let mut counts: BTreeMap<GatewayKey, i64> = BTreeMap::new();
        let mut deliveries = Vec::with_capacity(fresh.len());
        for (event, fresh) in fresh.iter().enumerate() {
            for (gateway, _) in &fresh.targets {
                let count = counts.entry(*gateway).or_default();
                *count += 1;
                deliveries.push((*gateway, *count, event));
            }
        }
        deliveries.sort_unstable();
        let events = fresh.iter().map(|fresh| BatchEvent {
            organisation: fresh.organisation,
            new: fresh.new,
            matched: i64::try_from(fresh.targets.len()).unwrap_or(i64::MAX),
        });
        let events = events.collect();
        Self { events, counts, deliveries }
    }
}

/// Assigns sequences up to the streams' new heads, in order.
fn number(
    fresh: &[Fresh<'_>],
    counts: &BTreeMap<GatewayKey, i64>,
    heads: &[(GatewayKey, Sequence)],
) -> Result<(Vec<Vec<Sequence>>, Vec<Grown>)> {
    let mut grown: HashMap<GatewayKey, Grown> = HashMap::with_capacity(heads.len());
    let mut last: HashMap<GatewayKey, Sequence> = HashMap::with_capacity(heads.len());
    for (gateway, head) in heads.iter().copied() {
        last.insert(gateway, Sequence(head.0 - counts.get(&gateway).copied().unwrap_or(0)));
        grown.insert(gateway, Grown { gateway, head, rows: Vec::new() });
    }
    let mut numbered = Vec::with_capacity(fresh.len());
    for fresh in fresh {
        let mut numbers = Vec::with_capacity(fresh.targets.len());
        for (gateway, _) in &fresh.targets {
            let (Some(last), Some(grown)) = (last.get_mut(gateway), grown.get_mut(gateway)) else {
                return Err(StoreError::Corrupt(
                    "the head of an unexpected stream was raised".to_owned(),
                ));
            };
            *last = last.next();
            numbers.push(*last);
            grown.rows.push((*last, Arc::clone(&fresh.new.event)));
        }
        numbered.push(numbers);
    }
    Ok((numbered, grown.into_values().collect()))
}

/// The new deliveries whose events take part in supersession, and their keys as they are stored.
fn collapse_keys<'a>(
    fresh: &[Fresh<'a>],
    numbered: &[Vec<Sequence>],
) -> Vec<(GatewayKey, Sequence, &'a str)> {
    let with_keys = fresh.iter().zip(numbered).filter_map(|(fresh, numbers)| {
        let key = fresh.new.collapse.as_ref()?.stored();
        let gateways = fresh.targets.iter().map(|(gateway, _)| *gateway);
        Some(gateways.zip(numbers).map(move |(gateway, sequence)| (gateway, *sequence, key)))
    });
    with_keys.flatten().collect()
}

/// Raises heads by these counts; returns the new heads.
pub(crate) async fn raise_heads(
    conn: &mut Connection,
    counts: &BTreeMap<GatewayKey, i64>,
) -> Result<Vec<(GatewayKey, Sequence)>> {
    if counts.is_empty() {
        return Ok(Vec::new());
    }
    checked(conn.raise_heads(counts).await?, counts)
}

/// Checks that all streams to be raised exist and are not full.
fn checked(
    heads: Vec<Head>,
    counts: &BTreeMap<GatewayKey, i64>,
) -> Result<Vec<(GatewayKey, Sequence)>> {
    if heads.len() != counts.len() {
        return Err(StoreError::Corrupt("a gateway has no stream".to_owned()));
    }
    let full = heads.iter().find(|row| row.head > Sequence::MAX);
    if let Some(Head { gateway, .. }) = full {
        return Err(StoreError::Corrupt(format!("the log of gateway {} is full", gateway.0)));
    }
    Ok(heads.into_iter().map(|row| (row.gateway, row.head)).collect())
}

fn settle(responses: Vec<Response>, appended: &[Appended]) -> Vec<Published> {
    let mut settled: Vec<Published> = Vec::with_capacity(responses.len());
    for response in responses {
        let published = match response {
            Response::Ready(published) => published,
            Response::SameAs(first) => settled[first].clone(),
            Response::Planned(plans) => Published::Done(
                plans
                    .into_iter()
                    .map(|plan| match plan {
                        Plan::Fresh(place) => Ok(appended[place].clone()),
                        Plan::Settled(result) => result,
                    })
                    .collect(),
            ),
        };
        settled.push(published);
    }
    settled
}
