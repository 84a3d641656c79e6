//! The promises, checked while faults are injected.
//!
//! - A sequence belongs to one event; the log has each once, without holes.
//! - A replica gets every event that is meant for it, in order, with its content. A gap announces
//!   what it can't get.
//! - A process handles an event once, unless it asked for it again. A replica that stores its position
//!   with its state applies each event once, whatever crashes.
//! - A client confirms what it has stored. The service records as confirmed what was confirmed.
//! - What is on record as confirmed does not fail later. What was rejected is on record.

use gateway_events::event::{Epoch, Sequence};
use gateway_events::transport::frames::GatewayFrame;

use crate::service::Service;
use crate::world::{
    GivenUp, Id, Kind, Known, Progress, Rejection, Replica, Row, State, Storage, World,
};

/// An event as a replica gets it.
pub(crate) struct Delivered<'a> {
    pub(crate) epoch: Epoch,
    pub(crate) sequence: Sequence,
    pub(crate) id: &'a str,
    pub(crate) event_type: &'a str,
    pub(crate) payload: &'a str,
}

/// What the process of a replica has handled last, and whether it has asked for that again.
pub(crate) type Handled = Option<(Epoch, i64, bool)>;

/// A client says something.
pub(crate) fn said(world: &World, id: Id, frame: &GatewayFrame) {
    let mut state = world.state();
    let replica = &mut state.gateways[id.gateway].replicas[id.replica];
    let Some((epoch, stored)) =
        replica.position.as_ref().map(|it| (it.position.epoch, it.position.sequence.0))
    else {
        if matches!(frame, GatewayFrame::Ack(_)) {
            drop(state);
            world.broken("a client confirms only what it has stored", "it has stored nothing");
        }
        return;
    };
    match frame {
        GatewayFrame::Ack(ack) => {
            let to = ack.applied.max(ack.received).map_or(0, |it| it.0);
            let progress = replica.in_log(epoch);
            progress.confirmed = progress.confirmed.max(to);
            if to > stored {
                drop(state);
                let how = format!("{} confirms {to}, stored is {stored}", world.label(id));
                world.broken("a client confirms only what it has stored", how);
            }
        }
        GatewayFrame::Hello(_)
        | GatewayFrame::Nack(_)
        | GatewayFrame::Progress(_)
        | GatewayFrame::Credit(_) => {}
    }
}

/// The service has accepted a connection. It begins with an unnamed replica that it does not know
/// where the others are.
pub(crate) fn accepted(world: &World, id: Id) {
    let mut state = world.state();
    let known = &mut state.gateways[id.gateway];
    let confirmed = world.database.confirmed_of(known.key());
    let epoch = known.log().epoch;
    let replica = &mut known.replicas[id.replica];
    if replica.name.is_none() && !std::mem::replace(&mut replica.is_known, true) {
        let progress = replica.in_log(epoch);
        progress.base = progress.base.max(confirmed);
        progress.confirmed = progress.confirmed.max(confirmed);
    }
}

/// The service says where delivery to a replica starts.
pub(crate) fn resumed(world: &World, id: Id, epoch: Epoch, from: i64) {
    let mut state = world.state();
    let known = &mut state.gateways[id.gateway];
    let is_current = known.log().epoch == epoch;
    let replica = &mut known.replicas[id.replica];
    if !std::mem::replace(&mut replica.is_known, true) {
        let progress = replica.in_log(epoch);
        progress.base = progress.base.max(from);
        progress.confirmed = progress.confirmed.max(from);
        return;
    }
    let given_up = GivenUp::of(&world.database, known.key());
    let missed = is_current.then(|| missing(known, id.replica, &given_up, from)).flatten();
    drop(state);
    if let Some(missed) = missed {
        let how = format!("{} resumes after {from} and lacks {missed}", world.label(id));
        world.broken("nothing is passed over silently", how);
    }
}

/// The first event up to `to` that is due to a replica and that it does not have.
pub(crate) fn missing(known: &Known, replica: usize, given_up: &GivenUp, to: i64) -> Option<i64> {
    let replica = &known.replicas[replica];
    let log = known.log();
    let none = Progress::default();
    let progress = replica.progress.get(&log.epoch).unwrap_or(&none);
    let is_over =
        |it: i64| given_up.has(it) || known.was_given_up(it) || replica.rejected.contains(&it);
    let is_due = |it: i64| log.row(it).is_some_and(|row| replica.wants(row)) && !is_over(it);
    (progress.base + 1..=to).find(|it| !progress.has(*it) && is_due(*it))
}

/// A replica is about to apply an event. Returns whether it is new to it.
pub(crate) fn delivered(
    world: &World,
    id: Id,
    event: &Delivered<'_>,
    handled: &mut Handled,
) -> bool {
    let (epoch, sequence) = (event.epoch, event.sequence.0);
    let mut state = world.state();
    register(&mut state, id.gateway, event);
    let known = &state.gateways[id.gateway];
    let found = known.logs.iter().rev().find(|log| log.epoch == epoch);
    let row = found.and_then(|log| log.row(sequence));
    let replica = &known.replicas[id.replica];
    let broken = match row {
        None => Some(("what is delivered was published", "it was not".to_owned())),
        Some(row) if row.id.as_str() != event.id || row.payload != event.payload => {
            let how = format!("it is {}, and {} was delivered", row.id, event.id);
            Some(("a sequence belongs to one event", how))
        }
        Some(row) if !replica.wants(row) => {
            Some(("only what is wanted is delivered", event.event_type.to_owned()))
        }
        Some(_) if known.log().epoch != epoch => None,
        Some(_) => {
            let given_up = GivenUp::of(&world.database, known.key());
            let missed = missing(known, id.replica, &given_up, sequence - 1)
                .filter(|missed| known.kind != Kind::Plain || *missed > floor(world, known));
            missed.map(|it| ("nothing is passed over silently", format!("{it} is missing")))
        }
    };
    let is_repeat = handled.is_some_and(|(of, last, again)| {
        of == epoch && sequence <= last && !(again && sequence == last)
    });
    let none = Progress::default();
    let progress = replica.progress.get(&epoch).unwrap_or(&none);
    let broken = broken.or_else(|| {
        let is_again = replica.storage == Storage::Transactional
            && progress.applied.contains(&sequence)
            && !progress.rejected.contains(&sequence)
            && !handled.is_some_and(|(_, last, again)| again && last == sequence);
        if is_repeat && known.kind == Kind::Reliable {
            Some(("a process handles an event once", "it was handled before".to_owned()))
        } else if is_again && known.kind == Kind::Reliable {
            let promise = "a replica that stores its position with its state applies once";
            Some((promise, "it was applied before".to_owned()))
        } else {
            None
        }
    });
    let is_new = !progress.has(sequence);
    *handled = Some((epoch, sequence, false));
    drop(state);
    if let Some((promise, how)) = broken {
        world.broken(promise, format!("{}: event {sequence}: {how}", world.label(id)));
    }
    is_new
}

fn floor(world: &World, known: &Known) -> i64 {
    world.database.log_of(known.key()).2
}

/// An event may be delivered before its publisher knows that it was accepted.
fn register(state: &mut State, gateway: usize, event: &Delivered<'_>) {
    let next = state.gateways[gateway].head() + 1;
    let is_pending =
        |(row, of): &&(Row, Vec<usize>)| row.id.as_str() == event.id && of.contains(&gateway);
    if event.sequence.0 < next || state.gateways[gateway].log().epoch != event.epoch {
        return;
    }
    let Some(at) = state.pending.iter().position(|it| is_pending(&it)) else { return };
    // Events of one request keep their order, so those before it have the sequences in between.
    let rows: Vec<_> = state.pending[..=at]
        .iter()
        .filter(|(_, of)| of.contains(&gateway))
        .map(|(row, _)| row.clone())
        .collect();
    let known = &mut state.gateways[gateway];
    let has =
        |known: &Known, row: &Row| known.log().rows.iter().rev().take(8).any(|it| it.id == row.id);
    for row in rows {
        if !has(known, &row)
            && let Some(log) = known.logs.last_mut()
        {
            log.rows.push(row);
        }
    }
}

/// How far a replica may count as having confirmed: as far as it has, and further over what is not
/// due to it.
fn reach(known: &Known, replica: &Replica) -> i64 {
    let log = known.log();
    let none = Progress::default();
    let progress = replica.progress.get(&log.epoch).unwrap_or(&none);
    let mut to = progress.confirmed;
    if known.kind == Kind::Hostile {
        to = progress.sent;
    }
    while let Some(row) = log.row(to + 1) {
        let is_over = !replica.wants(row)
            || known.given_up.contains_key(&(to + 1))
            || progress.rejected.contains(&(to + 1));
        if !is_over {
            break;
        }
        to += 1;
    }
    to
}

/// Compares what the database holds with what has happened.
pub(crate) fn check_store(world: &World, service: &Service) {
    let mut state = world.state();
    let mut broken = None;
    let pending = state.pending.clone();
    for (nth, known) in state.gateways.iter_mut().enumerate() {
        let of = pending.iter().filter(|(_, gateways)| gateways.contains(&nth)).count();
        if let Some(how) = check_log(world, known, i64::try_from(of).unwrap_or(0)) {
            broken = broken.or(Some(("each sequence belongs to one event, without holes", how)));
            continue;
        }
        let given_up = GivenUp::of(&world.database, known.key());
        for (sequence, is_rejected) in given_up.all() {
            // One that was skipped is withheld from all, even if a replica rejects it later.
            let before = known.given_up.entry(sequence).or_insert(is_rejected);
            *before &= is_rejected;
        }
        if let Some(how) = check_positions(world, known) {
            broken = broken.or(Some(("only what was confirmed counts as confirmed", how)));
        }
        let failed = known.settled.iter().find(|it| given_up.is_dead(**it));
        if let Some(failed) = failed {
            let how = format!("{}: {failed} failed after it was confirmed", known.name);
            broken = broken.or(Some(("what was confirmed does not fail later", how)));
        }
        let (_, _, floor) = world.database.log_of(known.key());
        let confirmed = floor + 1..=world.database.confirmed_of(known.key());
        known.settled.extend(confirmed.filter(|it| !given_up.is_dead(*it)));
        known
            .rejections
            .retain(|it| !service.has_stopped(it.node) && !given_up.is_dead(it.sequence));
    }
    drop(state);
    if let Some((promise, how)) = broken {
        world.broken(promise, how);
    }
}

fn check_log(world: &World, known: &Known, pending: i64) -> Option<String> {
    let (_, head, floor) = world.database.log_of(known.key());
    let most = known.head() + pending;
    if head < known.head() || head > most {
        return Some(format!("{}: the head is {head}, not {}..{most}", known.name, known.head()));
    }
    let mut next = floor + 1;
    for (sequence, id) in world.database.rows_of(known.key()) {
        let is_same = known.log().row(sequence).is_none_or(|row| row.id == id);
        if sequence != next || !is_same {
            return Some(format!("{}: {sequence} is {id}, expected {next}", known.name));
        }
        next += 1;
    }
    (next != head + 1).then(|| format!("{}: the log ends at {next}, not {head}", known.name))
}

fn check_positions(world: &World, known: &Known) -> Option<String> {
    let mut reaches = Vec::new();
    let positions = world.database.positions_of(known.key());
    // A restored database may not know an instance.
    let is_known = |replica: &&Replica| {
        replica.is_known
            && (!known.needs_all
                || positions.iter().any(|it| replica.name.as_deref() == Some(&it.name)))
    };
    for replica in known.replicas.iter().filter(is_known) {
        reaches.push((replica.name.clone(), reach(known, replica)));
    }
    for position in &positions {
        let own = reaches.iter().find(|(name, _)| name.as_deref() == Some(&position.name));
        if let Some((_, most)) = own
            && position.confirmed > *most
        {
            let (name, at) = (&position.name, position.confirmed);
            return Some(format!("instance {name} is at {at}, and has confirmed {most}"));
        }
    }
    let all = reaches.iter().map(|(_, most)| *most);
    let most = if known.needs_all { all.min() } else { all.max() }?;
    let confirmed = world.database.confirmed_of(known.key());
    let name = known.name;
    (confirmed > most).then(|| format!("{name} is at {confirmed}, its replicas at {reaches:?}"))
}

/// What is not delivered or not recorded; `None` if everyone has caught up.
pub(crate) fn unfinished(world: &World) -> Option<String> {
    let state = world.state();
    for known in state.gateways.iter().filter(|it| it.kind != Kind::Hostile) {
        let head = known.head();
        let given_up = GivenUp::of(&world.database, known.key());
        for nth in 0..known.replicas.len() {
            let missed = missing(known, nth, &given_up, head)
                .filter(|it| known.kind != Kind::Plain || *it > floor(world, known));
            if let Some(missed) = missed {
                return Some(format!("replica {nth} of {} lacks event {missed}", known.name));
            }
        }
        let confirmed = world.database.confirmed_of(known.key());
        if confirmed < head {
            return Some(format!("{} counts as at {confirmed} of {head}", known.name));
        }
        if let Some(rejected) = unrecorded(known, &given_up) {
            return Some(format!("{}: the rejection of {rejected} is not on record", known.name));
        }
        if let Some(rejection) = known.rejections.first() {
            let Rejection { sequence, by, .. } = rejection;
            return Some(format!("{}: {by} rejected {sequence}, unrecorded", known.name));
        }
    }
    None
}

/// The first event that a gateway has rejected, and that was not given up.
fn unrecorded(known: &Known, given_up: &GivenUp) -> Option<i64> {
    // What another replica has confirmed need not fail.
    let [replica] = &known.replicas[..] else { return None };
    let progress = replica.progress.get(&known.log().epoch)?;
    let is_recorded =
        |it: i64| given_up.is_dead(it) || known.given_up.contains_key(&it) || it <= progress.base;
    progress.rejected_last.iter().copied().find(|it| !is_recorded(*it))
}

/// A gateway that counts as connected.
pub(crate) fn connected(world: &World) -> Option<String> {
    let state = world.state();
    let is_connected = |known: &&Known| !world.database.live_connections_of(known.key()).is_empty();
    state.gateways.iter().find(is_connected).map(|known| format!("{} is not", known.name))
}
