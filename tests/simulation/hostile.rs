//! Gateways of reliable mode that confirm what they were not sent, contradict themselves, and read
//! slowly or not at all. What they confirm counts for themselves only.

use std::sync::Arc;
use std::time::Duration;

use gateway_events::event::{Reason, Sequence};
use gateway_events::transport::{
    Confirmation, Control, Credit, DeliveryRequest, Ended, Incoming, Nack, Outgoing, Start,
    TransportEnd, link,
};
use tokio::time::{Instant, sleep_until};

use crate::network::delay;
use crate::service::Service;
use crate::world::{Id, World, note, one_in};

/// Connects again and again, until the task is aborted.
pub(crate) async fn run(world: Arc<World>, service: Arc<Service>, id: Id) {
    loop {
        sleep_until(Instant::now() + delay() + Duration::from_millis(300)).await;
        let Some(node) = service.any() else { continue };
        let Some(permit) = node.dispatcher.try_admit() else { continue };
        let Ok(greeted) = node.dispatcher.greet(permit, service.admission(id.gateway)).await else {
            continue;
        };
        let greeting = greeted.greeting();
        let epoch = greeting.greeting.epoch;
        let sequence = Sequence(fastrand::i64(0..=greeting.head.0 + 2));
        let request = DeliveryRequest {
            instance: world.state().gateways[id.gateway].replicas[id.replica].name.clone(),
            start: match fastrand::u8(..4) {
                0 => Start::Earliest,
                1 => Start::After { epoch, sequence, event_id: None },
                _ => Start::Stored,
            },
            credit: Credit { events: one_in(2).then(|| fastrand::u32(0..5)), bytes: None },
            types: None,
            confirmation: if one_in(2) { Confirmation::Applied } else { Confirmation::Received },
        };
        if let Start::After { epoch, sequence, .. } = &request.start {
            // It says that it has confirmed this.
            note_sent(&world, id, *epoch, sequence.0);
        }
        let Ok(session) = greeted.open(request).await else { continue };
        note!(world, world.label(id), "connects to node {}", node.number);
        let (lane, end) = link();
        session.start(lane);
        let _ = node.down.run_until_cancelled(send_invalid(&world, id, end, epoch)).await;
    }
}

fn note_sent(world: &World, id: Id, epoch: gateway_events::event::Epoch, to: i64) {
    let mut state = world.state();
    let replica = &mut state.gateways[id.gateway].replicas[id.replica];
    replica.is_known = true;
    let progress = replica.in_log(epoch);
    progress.sent = progress.sent.max(to);
}

async fn send_invalid(
    world: &World,
    id: Id,
    mut end: TransportEnd,
    epoch: gateway_events::event::Epoch,
) {
    let mut seen = 0;
    let reason = loop {
        let pause = Duration::from_millis(if one_in(30) { 30_000 } else { fastrand::u64(10..900) });
        let next = Instant::now() + pause;
        tokio::select! {
            biased;
            control = end.control.recv() => match control {
                Some(Control::Close(reason)) => break reason,
                Some(Control::Violation(_)) => break Reason::ProtocolError,
                Some(_) => {}
                None => return,
            },
            outgoing = end.events.recv() => {
                let Some(outgoing) = outgoing else { return };
                let last = match *outgoing {
                    Outgoing::Event(event) => event.sequence,
                    Outgoing::Gap(gap) => gap.resume_at,
                    Outgoing::Mark(mark) => mark.sequence,
                    Outgoing::Resumed(resumed) => resumed.from,
                };
                seen = seen.max(last.0);
                note_sent(world, id, epoch, seen);
                continue;
            },
            () = sleep_until(next) => {}
        }
        if one_in(25) {
            break Reason::ConnectionLost;
        }
        let message = false_message(seen);
        note!(world, world.label(id), "> {message:?}");
        let _ = end.incoming.send(message).await;
    };
    note!(world, world.label(id), "disconnected: {reason}");
    let detail = "ended by the simulation".to_owned();
    let ended = Ended { reason, detail, by_peer: true, shared: Vec::new() };
    let _ = end.incoming.send(Incoming::Ended(Box::new(ended))).await;
}

fn false_message(seen: i64) -> Incoming {
    let beyond = if one_in(12) { seen + fastrand::i64(1..3) } else { seen };
    let sequence = Sequence(fastrand::i64(0..=beyond));
    match fastrand::u8(..10) {
        0..=2 => Incoming::Receipt(sequence),
        3..=5 => Incoming::Applied(sequence),
        6 => Incoming::Nack(Box::new(Nack {
            sequence,
            reason: Reason::Conflict,
            retryable: one_in(2),
            retry_after: Some(Duration::from_millis(fastrand::u64(0..2000))),
            detail: String::new(),
        })),
        7 => Incoming::Progress(sequence),
        8 => {
            Incoming::Credit(Box::new(Credit { events: Some(fastrand::u32(0..1000)), bytes: None }))
        }
        _ => Incoming::Alive,
    }
}
