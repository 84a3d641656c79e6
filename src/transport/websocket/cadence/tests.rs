//! Simulates a gateway with its watchdog for every plan of pings.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::super::receipts::Receipts;
use super::*;
use crate::event::Sequence;
use crate::transport::OutgoingEvent;
use crate::transport::websocket::tests::event_of_type;

const CONFIRMATION: Duration = Duration::from_mins(1);
/// The window of the lane, in events.
const WINDOW: i64 = 64;
const HEARTBEAT: Duration = Duration::from_secs(10);
/// The gateway's watchdog timeout.
const WATCHDOG: Duration = Duration::from_secs(35);
/// How long a handler takes, by event type.
const HANDLING_MS: [u64; 8] = [0, 1, 150, 900, 1_800, 6_000, 14_000, 33_000];

fn kind(number: usize) -> EventType {
    EventType::new(format!("type.n{number}")).unwrap()
}

enum Frame {
    Event(usize),
    Ping(Sequence),
}

/// The transport's receipts, the wire, and a gateway that handles one frame at a time.
struct Simulation {
    receipts: Receipts,
    sent: Sequence,
    confirmed: Sequence,
    base: Instant,
    /// Virtual time since `base`.
    now: Duration,
    next_heartbeat: Duration,
    wire: VecDeque<Frame>,
    /// When the gateway has handled its current frame.
    free_at: Duration,
    ping_read_at: Duration,
    pings: usize,
}

impl Simulation {
    fn new() -> Self {
        Self {
            receipts: Receipts::new(CONFIRMATION),
            sent: Sequence::ZERO,
            confirmed: Sequence::ZERO,
            base: Instant::now(),
            now: Duration::ZERO,
            next_heartbeat: HEARTBEAT,
            wire: VecDeque::new(),
            free_at: Duration::ZERO,
            ping_read_at: Duration::ZERO,
            pings: 0,
        }
    }

    /// Sends events together, as many as the window takes.
    fn burst(&mut self, types: &[usize]) {
        let mut is_pinged = true;
        for number in types {
            if self.sent.0 - self.confirmed.0 >= WINDOW {
                self.pass(Duration::from_secs(1));
                continue;
            }
            let now = self.base + self.now;
            let outgoing =
                OutgoingEvent { sequence: self.sent.next(), ..event_of_type(kind(*number)) };
            match self.receipts.plan(&outgoing, is_pinged, now) {
                PingBefore::Always => self.wire.push_back(Frame::Ping(self.sent)),
                PingBefore::Between if !is_pinged => self.wire.push_back(Frame::Ping(self.sent)),
                _ => {}
            }
            self.wire.push_back(Frame::Event(*number));
            self.sent = outgoing.sequence;
            is_pinged = false;
        }
        if !is_pinged {
            self.wire.push_back(Frame::Ping(self.sent));
        }
        self.pass(Duration::ZERO);
    }

    /// Lets time pass for the gateway, with heartbeats.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.next_heartbeat <= until {
            self.gateway(self.next_heartbeat);
            self.wire.push_back(Frame::Ping(self.sent));
            self.next_heartbeat += HEARTBEAT;
        }
        self.gateway(until);
        self.now = until;
    }

    fn gateway(&mut self, until: Duration) {
        self.free_at = self.free_at.max(self.now);
        while self.free_at <= until
            && let Some(frame) = self.wire.pop_front()
        {
            match frame {
                Frame::Event(number) => {
                    self.free_at += Duration::from_millis(HANDLING_MS[number]);
                    let without = self.free_at.saturating_sub(self.ping_read_at);
                    assert!(without < WATCHDOG, "type {number}: no ping was read for {without:?}");
                }
                Frame::Ping(sequence) => {
                    self.pings += 1;
                    self.ping_read_at = self.free_at;
                    self.receipts.pong(sequence, self.base + self.free_at);
                    self.confirmed = self.confirmed.max(sequence);
                }
            }
        }
        self.now = self.now.max(until);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Burst {
        types: Vec<usize>,
    },
    /// The same type many times, which makes it eligible for groups.
    Flow {
        number: usize,
        count: usize,
    },
    Pass {
        millis: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..HANDLING_MS.len();
    prop_oneof![
        3 => prop::collection::vec(number.clone(), 1..40).prop_map(|types| Step::Burst { types }),
        3 => (number, 1..64_usize).prop_map(|(number, count)| Step::Flow { number, count }),
        3 => (0..60_000_u64).prop_map(|millis| Step::Pass { millis }),
        1 => (0..100_u64).prop_map(|millis| Step::Pass { millis }),
    ]
}

proptest! {
    /// The gateway's watchdog never fires, whenever events are sent, if each type takes as long as
    /// before and no handler takes the whole 35 s.
    #[test]
    fn the_gateways_watchdog_never_fires(steps in prop::collection::vec(step(), 0..60)) {
        let mut simulation = Simulation::new();
        for step in steps {
            match step {
                Step::Burst { types } => simulation.burst(&types),
                Step::Flow { number, count } => simulation.burst(&vec![number; count]),
                Step::Pass { millis } => simulation.pass(Duration::from_millis(millis)),
            }
        }
        simulation.pass(Duration::from_hours(2));
        prop_assert!(simulation.wire.is_empty());
        prop_assert_eq!(simulation.confirmed, simulation.sent);
    }
}

#[test]
fn a_flow_of_quick_events_shares_its_pings() {
    let mut simulation = Simulation::new();
    for _ in 0..100 {
        simulation.burst(&[0; 64]);
        simulation.pass(Duration::from_millis(1));
    }
    let sent = usize::try_from(simulation.sent.0).unwrap();
    assert_eq!(sent, 6_400);
    assert!(simulation.pings * 7 < sent, "{} pings for {sent} events", simulation.pings);
}

#[test]
fn a_burst_after_a_pause_has_a_ping_for_each_event() {
    let mut simulation = Simulation::new();
    for _ in 0..10 {
        simulation.burst(&[0; 64]);
        simulation.pass(Duration::from_millis(1));
    }
    // A pause without a heartbeat in it, except at its end.
    simulation.pass(Duration::from_secs(16));
    let before = simulation.pings;
    simulation.burst(&[0; 20]);
    // One of them precedes the first event.
    assert_eq!(simulation.pings - before, 21);
}

#[test]
fn types_beyond_the_measured_ones_have_a_ping_each_and_take_no_memory() {
    let mut cadence = Cadence::new(CONFIRMATION);
    let now = Instant::now();
    cadence.plan(&kind(0), true, now);
    for number in 1..1_000 {
        let (ping, slot) = cadence.plan(&kind(number), false, now);
        assert_eq!(ping, PingBefore::Between);
        assert_eq!(slot.is_some(), number < MEASURED_TYPES);
    }
    assert_eq!(cadence.measured.len(), MEASURED_TYPES);
    // After the next pause, other types take its slot.
    assert!(cadence.plan(&kind(1_000), true, now).1.is_some());
    assert_eq!(cadence.measured.len(), 1);
}

#[test]
fn a_slow_event_ends_the_group_of_its_type() {
    let mut cadence = Cadence::new(CONFIRMATION);
    let now = Instant::now();
    let slot = cadence.plan(&kind(0), true, now).1;
    cadence.confirmed([slot; 200].into_iter(), Duration::ZERO, now, now);
    assert_eq!(cadence.limit(slot, now), MAX_GROUP_EVENTS);
    cadence.confirmed([slot].into_iter(), Duration::from_secs(2), now, now);
    assert_eq!(cadence.limit(slot, now), 1);
}
