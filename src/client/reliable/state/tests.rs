//! The state against a model of the service and of the network: frames are lost and repeated,
//! connections break, the client crashes, events are refused, and old ones are removed.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::super::fixture::{acknowledged, at, epoch, event, gap, mark, resumed};
use super::*;
use crate::transport::frames::{ConnectionDrain, NackCode};

fn settings(start: Resume, batch: u32) -> Settings {
    Settings {
        instance: Some("one".to_owned()),
        start,
        window: Some(8),
        window_bytes: None,
        types: None,
        confirm: Confirm::Applied,
        envelope: None,
        batch,
    }
}

fn open(state: &mut ClientState, log: u8, from: i64) -> Hello {
    let hello = state.connect();
    state.receive(acknowledged(log));
    state.receive(resumed(log, from));
    hello
}

fn actions(state: &mut ClientState) -> Vec<Action> {
    std::iter::from_fn(|| state.next_action()).collect()
}

/// The sequence of the event to handle.
fn to_handle(actions: &[Action]) -> Vec<i64> {
    let sequence = |action: &Action| match action {
        Action::Handle(event) => Some(event.sequence.0),
        _ => None,
    };
    actions.iter().filter_map(sequence).collect()
}

fn is_broken(actions: &[Action]) -> bool {
    actions.iter().any(|it| matches!(it, Action::Disconnect(Disconnect::Broken(_))))
}

#[test]
fn an_event_is_confirmed_after_its_position_was_stored() {
    let mut state = ClientState::new(settings(Resume::Server, 1), None);
    assert_eq!(open(&mut state, 1, 4).resume, Resume::Server);
    state.receive(ServerFrame::Event(event(1, 5, 4, 1)));
    state.receive(ServerFrame::Event(event(1, 6, 5, 1)));
    assert_eq!(to_handle(&actions(&mut state)), [5], "one at a time");
    state.handled(Outcome::Applied);
    let now = actions(&mut state);
    assert_eq!(to_handle(&now), [6]);
    assert!(matches!(&now[1], Action::Save(it) if Some(&it.position) == at(1, 5).as_ref()));
    assert!(state.has_unconfirmed());
    state.saved();
    let ack = Ack { received: None, applied: Some(Sequence(5)) };
    assert!(
        matches!(&actions(&mut state)[..], [Action::Send(GatewayFrame::Ack(sent))] if *sent == ack)
    );
    assert!(!state.has_unconfirmed());
}

#[test]
fn a_window_that_changes_after_the_hello_is_announced_when_delivery_begins() {
    let mut state = ClientState::new(settings(Resume::Server, 1), None);
    assert_eq!(state.connect().window, Some(8));
    state.receive(acknowledged(1));
    state.credit(Some(0), None);
    assert!(actions(&mut state).is_empty(), "nothing precedes the answer to the hello");
    state.receive(resumed(1, 4));
    let paused = Credit { window: Some(0), window_bytes: None };
    let announced = |state: &mut ClientState, credit: Credit| matches!(&actions(state)[..], [Action::Send(GatewayFrame::Credit(it))] if *it == credit);
    assert!(announced(&mut state, paused));
    state.receive(mark(5));
    assert!(
        !actions(&mut state).iter().any(|it| matches!(it, Action::Send(GatewayFrame::Credit(_)))),
        "it is announced once"
    );
    state.credit(Some(3), None);
    assert!(announced(&mut state, Credit { window: Some(3), window_bytes: None }));
}

#[test]
fn confirmations_are_batched_until_a_flush() {
    let mut state =
        ClientState::new(settings(Resume::Server, 3), at(1, 0).map(StoredPosition::from));
    open(&mut state, 1, 0);
    for sequence in 1..=2 {
        state.receive(ServerFrame::Event(event(1, sequence, sequence - 1, 1)));
        actions(&mut state);
        state.handled(Outcome::Applied);
        assert!(actions(&mut state).is_empty());
    }
    state.flush();
    assert!(
        matches!(&actions(&mut state)[..], [Action::Save(it)] if it.position.sequence == Sequence(2))
    );
    state.saved();
    assert!(matches!(&actions(&mut state)[..], [Action::Send(_)]));
    state.flush();
    assert!(actions(&mut state).is_empty(), "there is nothing to confirm");
}

#[test]
fn a_lost_event_is_detected_and_a_skipped_one_is_no_loss() {
    let mut state =
        ClientState::new(settings(Resume::Server, 1), at(1, 4).map(StoredPosition::from));
    let hello = open(&mut state, 1, 4);
    assert_eq!(hello.resume, Resume::After(at(1, 4).expect("a position")));
    // 5 and 6 are skipped, with and without a mark.
    state.receive(mark(5));
    state.receive(ServerFrame::Event(event(1, 7, 5, 1)));
    assert_eq!(to_handle(&actions(&mut state)), [7]);
    state.receive(ServerFrame::Event(event(1, 9, 8, 1)));
    assert!(is_broken(&actions(&mut state)));
    state.receive(ServerFrame::Event(event(1, 8, 7, 1)));
    assert!(actions(&mut state).is_empty(), "the connection is being closed");
}

#[test]
fn a_jump_ahead_without_a_gap_and_another_log_are_losses() {
    let mut state =
        ClientState::new(settings(Resume::Server, 1), at(1, 4).map(StoredPosition::from));
    open(&mut state, 1, 9);
    state.receive(ServerFrame::Event(event(1, 10, 9, 1)));
    assert!(is_broken(&actions(&mut state)));
    state.disconnected();
    open(&mut state, 2, 0);
    state.receive(ServerFrame::Event(event(2, 1, 0, 1)));
    assert!(is_broken(&actions(&mut state)));
}

#[test]
fn repeats_are_dropped_and_confirmed_again() {
    let mut state =
        ClientState::new(settings(Resume::Server, 10), at(1, 6).map(StoredPosition::from));
    open(&mut state, 1, 4);
    for sequence in [5, 6, 6, 7] {
        state.receive(ServerFrame::Event(event(1, sequence, sequence - 1, 2)));
    }
    assert_eq!(to_handle(&actions(&mut state)), [7]);
    assert!(state.has_unconfirmed());
    state.flush();
    let ack = Ack { received: None, applied: Some(Sequence(6)) };
    assert!(
        matches!(&actions(&mut state)[..], [Action::Send(GatewayFrame::Ack(sent))] if *sent == ack)
    );
}

#[test]
fn what_was_in_flight_after_a_refused_event_is_dropped_until_it_comes_again() {
    let mut state =
        ClientState::new(settings(Resume::Server, 10), at(1, 4).map(StoredPosition::from));
    open(&mut state, 1, 4);
    for sequence in 5..=7 {
        state.receive(ServerFrame::Event(event(1, sequence, sequence - 1, 1)));
    }
    actions(&mut state);
    state.handled(Outcome::RetryAfter {
        after: Duration::from_millis(1500),
        code: NackCode::Overloaded,
        detail: Some("é".repeat(2000)),
    });
    let now = actions(&mut state);
    let [Action::Send(GatewayFrame::Nack(nack))] = &now[..] else { panic!("{now:?}") };
    assert_eq!((nack.retryable, nack.retry_after_ms), (true, Some(1500)));
    assert_eq!(nack.detail.as_ref().map(String::len), Some(2048));
    assert!(state.is_retrying());
    // Still in flight.
    state.receive(ServerFrame::Event(event(1, 8, 7, 1)));
    state.receive(mark(9));
    assert!(actions(&mut state).is_empty());
    for sequence in 5..=6 {
        state.receive(ServerFrame::Event(event(1, sequence, sequence - 1, 2)));
    }
    assert_eq!(to_handle(&actions(&mut state)), [5]);
    state.handled(Outcome::Reject { code: NackCode::Invalid, detail: None });
    let now = actions(&mut state);
    assert!(
        matches!(&now[0], Action::Send(GatewayFrame::Nack(nack)) if !nack.retryable),
        "{now:?}"
    );
    assert_eq!(to_handle(&now), [6], "the next one is not held up");
}

#[test]
fn a_handler_that_outlives_its_connection_handles_its_event_once() {
    let mut state =
        ClientState::new(settings(Resume::Server, 1), at(1, 4).map(StoredPosition::from));
    open(&mut state, 1, 4);
    state.receive(ServerFrame::Event(event(1, 5, 4, 1)));
    assert_eq!(to_handle(&actions(&mut state)), [5]);
    state.disconnected();
    state.progress();
    assert!(actions(&mut state).is_empty());
    open(&mut state, 1, 4);
    state.receive(ServerFrame::Event(event(1, 5, 4, 2)));
    state.receive(ServerFrame::Event(event(1, 6, 5, 1)));
    state.progress();
    assert!(matches!(&actions(&mut state)[..], [Action::Send(GatewayFrame::Progress(_))]));
    state.handled(Outcome::Applied);
    assert_eq!(to_handle(&actions(&mut state)), [6]);
}

#[test]
fn what_is_handled_between_connections_is_stored_before_the_next() {
    let mut state = ClientState::new(settings(Resume::Server, 4), None);
    open(&mut state, 1, 0);
    state.receive(ServerFrame::Event(event(1, 1, 0, 1)));
    actions(&mut state);
    state.disconnected();
    state.handled(Outcome::Applied);
    assert!(matches!(&actions(&mut state)[..], [Action::Save(_)]));
    state.saved();
    assert_eq!(state.connect().resume, Resume::After(at(1, 1).expect("a position")));
}

/// A backup was restored before the first position was stored. The service has to be told which log
/// the events are of, so that it answers with a gap.
#[test]
fn a_position_that_no_hello_has_stated_is_stated_once_the_log_is_another_one() {
    // When the handler ends: before the next connection knows the log, or after that.
    for ends_late in [false, true] {
        for first in [resumed(2, 0), gap(2, 3)] {
            let mut state = ClientState::new(settings(Resume::Server, 4), None);
            open(&mut state, 1, 0);
            state.receive(ServerFrame::Event(event(1, 1, 0, 1)));
            actions(&mut state);
            state.disconnected();
            assert_eq!(state.connect().resume, Resume::Server);
            if !ends_late {
                state.handled(Outcome::Applied);
            }
            state.receive(acknowledged(2));
            if ends_late {
                state.receive(first);
                state.receive(ServerFrame::Event(event(2, 4, 3, 1)));
                state.handled(Outcome::Applied);
            }
            let found = actions(&mut state);
            assert!(is_broken(&found), "{found:?}");
            assert!(to_handle(&found).is_empty(), "{found:?}");
            state.disconnected();
            actions(&mut state);
            if state.is_saving() {
                state.saved();
            }
            assert_eq!(state.connect().resume, Resume::After(at(1, 1).expect("a position")));
        }
    }
}

/// A client that has rejections to repeat resumes at the service's position.
#[test]
fn a_gap_of_another_log_is_not_read_before_the_position_was_stated() {
    let mut state = ClientState::new(settings(Resume::Server, 1), None);
    open(&mut state, 1, 0);
    state.receive(ServerFrame::Event(event(1, 1, 0, 1)));
    actions(&mut state);
    state.handled(Outcome::Reject { code: NackCode::Invalid, detail: None });
    actions(&mut state);
    state.saved();
    state.disconnected();
    actions(&mut state);
    assert_eq!(state.connect().resume, Resume::Server);
    state.receive(gap(2, 1));
    let found = actions(&mut state);
    assert!(matches!(&found[..], [Action::Disconnect(Disconnect::Broken(_))]), "{found:?}");
    state.disconnected();
    assert_eq!(state.connect().resume, Resume::After(at(1, 1).expect("a position")));
}

#[test]
fn a_refusal_after_the_connection_ended_is_repeated_on_the_next() {
    for outcome in [
        Outcome::Reject { code: NackCode::Invalid, detail: None },
        Outcome::RetryAfter { after: Duration::ZERO, code: NackCode::Timeout, detail: None },
    ] {
        let mut state =
            ClientState::new(settings(Resume::Server, 1), at(1, 4).map(StoredPosition::from));
        open(&mut state, 1, 4);
        state.receive(ServerFrame::Event(event(1, 5, 4, 1)));
        actions(&mut state);
        state.disconnected();
        state.handled(outcome);
        assert!(actions(&mut state).is_empty(), "nothing is confirmed");
        assert_eq!(open(&mut state, 1, 4).resume, Resume::After(at(1, 4).expect("a position")));
        state.receive(ServerFrame::Event(event(1, 5, 4, 2)));
        assert_eq!(to_handle(&actions(&mut state)), [5]);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Resumes {
    BeforeTheGap,
    AfterTheGap,
    AfterTheSnapshot,
}

#[test]
fn a_snapshot_is_read_stored_and_then_confirmed() {
    for resumes in [Resumes::BeforeTheGap, Resumes::AfterTheGap, Resumes::AfterTheSnapshot] {
        let mut state =
            ClientState::new(settings(Resume::Server, 10), at(1, 4).map(StoredPosition::from));
        state.connect();
        state.receive(acknowledged(2));
        if resumes == Resumes::BeforeTheGap {
            state.receive(resumed(2, 20));
        }
        state.receive(gap(2, 20));
        if resumes == Resumes::AfterTheGap {
            state.receive(resumed(2, 20));
        }
        let now = actions(&mut state);
        assert!(matches!(&now[..], [Action::ReadSnapshot(_)]), "{now:?}");
        state.snapshot_read();
        let now = actions(&mut state);
        let [Action::Save(StoredPosition { position, .. })] = &now[..] else { panic!("{now:?}") };
        assert_eq!((position.epoch, position.sequence), (epoch(2), Sequence(20)));
        state.saved();
        let ack = Ack { received: None, applied: Some(Sequence(20)) };
        let now = actions(&mut state);
        assert!(
            matches!(&now[..], [Action::Send(GatewayFrame::Ack(sent))] if *sent == ack),
            "{now:?}"
        );
        assert!(!state.has_unconfirmed());
        if resumes == Resumes::AfterTheSnapshot {
            state.receive(resumed(2, 20));
        }
        state.receive(ServerFrame::Event(event(2, 21, 20, 1)));
        assert_eq!(to_handle(&actions(&mut state)), [21]);
    }
}

#[test]
fn a_gap_between_events_is_read_after_those_before_it() {
    let mut state =
        ClientState::new(settings(Resume::Server, 10), at(1, 4).map(StoredPosition::from));
    open(&mut state, 1, 4);
    state.receive(ServerFrame::Event(event(1, 5, 4, 1)));
    state.receive(ServerFrame::Event(event(1, 6, 5, 1)));
    state.receive(gap(1, 20));
    assert_eq!(to_handle(&actions(&mut state)), [5]);
    // What is to come again is in the snapshot.
    state.handled(Outcome::RetryAfter {
        after: Duration::ZERO,
        code: NackCode::Timeout,
        detail: None,
    });
    let now = actions(&mut state);
    assert!(matches!(&now[..], [Action::Send(_), Action::ReadSnapshot(_)]), "{now:?}");
    assert!(!state.is_retrying());
    state.snapshot_read();
    state.saved();
    assert_eq!(state.position().map(|it| it.sequence), Some(Sequence(20)));
}

#[test]
fn a_snapshot_is_not_confirmed_on_a_connection_that_did_not_ask_for_it() {
    let mut state =
        ClientState::new(settings(Resume::Server, 10), at(1, 4).map(StoredPosition::from));
    state.connect();
    state.receive(acknowledged(2));
    state.receive(gap(2, 20));
    actions(&mut state);
    state.disconnected();
    assert_eq!(state.connect().resume, Resume::After(at(1, 4).expect("a position")));
    state.receive(acknowledged(2));
    state.receive(resumed(2, 22));
    state.receive(gap(2, 22));
    state.snapshot_read();
    state.saved();
    let now = actions(&mut state);
    assert!(now.iter().all(|it| !matches!(it, Action::Send(_))), "{now:?}");
    assert!(now.iter().any(|it| matches!(it, Action::ReadSnapshot(gap) if gap.to.0 == 22)));
}

#[test]
fn a_snapshot_before_an_event_that_outlived_its_connection_does_not_repeat_it() {
    let mut state =
        ClientState::new(settings(Resume::Server, 10), at(1, 5).map(StoredPosition::from));
    open(&mut state, 1, 5);
    // 6 and 7 are skipped.
    state.receive(ServerFrame::Event(event(1, 8, 5, 1)));
    assert_eq!(to_handle(&actions(&mut state)), [8]);
    state.disconnected();
    state.connect();
    state.receive(acknowledged(1));
    state.receive(gap(1, 6));
    state.handled(Outcome::Applied);
    let now = actions(&mut state);
    assert!(matches!(&now[..], [Action::ReadSnapshot(_)]), "{now:?}");
    state.snapshot_read();
    state.saved();
    let now = actions(&mut state);
    let ack = Ack { received: None, applied: Some(Sequence(6)) };
    assert!(
        matches!(&now[..], [Action::Save(_), Action::Send(GatewayFrame::Ack(sent))] if *sent == ack),
        "{now:?}"
    );
    state.receive(resumed(1, 6));
    state.receive(ServerFrame::Event(event(1, 8, 6, 1)));
    state.receive(ServerFrame::Event(event(1, 9, 8, 1)));
    assert_eq!(to_handle(&actions(&mut state)), [9]);
    assert_eq!(state.position(), at(1, 8).as_ref());
}

#[test]
fn the_newest_position_is_stored_before_the_first_event() {
    let mut state = ClientState::new(settings(Resume::Latest, 10), None);
    assert_eq!(open(&mut state, 1, 7).resume, Resume::Latest);
    assert!(
        matches!(&actions(&mut state)[..], [Action::Save(it)] if it.position.sequence == Sequence(7))
    );
    state.saved();
    state.disconnected();
    let Resume::After(position) = state.connect().resume else { panic!("a position") };
    assert_eq!(position.sequence, Sequence(7));
}

#[test]
fn a_drain_finishes_and_confirms_what_was_received() {
    let mut state =
        ClientState::new(settings(Resume::Server, 10), at(1, 0).map(StoredPosition::from));
    open(&mut state, 1, 0);
    for sequence in 1..=2 {
        state.receive(ServerFrame::Event(event(1, sequence, sequence - 1, 1)));
    }
    state.receive(ServerFrame::Drain(ConnectionDrain {
        reason: "shutdown".to_owned(),
        reconnect_after_ms: 700,
        grace_ms: 5000,
    }));
    assert_eq!(to_handle(&actions(&mut state)), [1]);
    state.handled(Outcome::Applied);
    assert_eq!(to_handle(&actions(&mut state)), [2]);
    state.handled(Outcome::Applied);
    assert!(matches!(&actions(&mut state)[..], [Action::Save(_)]));
    state.saved();
    let now = actions(&mut state);
    let drained = Disconnect::Drained(Duration::from_millis(700));
    assert!(
        matches!(&now[..], [Action::Send(_), Action::Disconnect(why)] if *why == drained),
        "{now:?}"
    );
}

#[test]
fn a_stop_finishes_the_current_event_only() {
    let mut state =
        ClientState::new(settings(Resume::Server, 10), at(1, 0).map(StoredPosition::from));
    open(&mut state, 1, 0);
    for sequence in 1..=2 {
        state.receive(ServerFrame::Event(event(1, sequence, sequence - 1, 1)));
    }
    actions(&mut state);
    state.stop();
    assert!(actions(&mut state).is_empty() && !state.is_finished());
    state.handled(Outcome::Applied);
    assert!(
        matches!(&actions(&mut state)[..], [Action::Save(it)] if it.position.sequence == Sequence(1))
    );
    state.saved();
    let now = actions(&mut state);
    assert!(
        matches!(&now[..], [Action::Send(_), Action::Disconnect(Disconnect::Stopped)]),
        "{now:?}"
    );
    state.disconnected();
    assert!(state.is_finished());
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// The service sends the next event, or passes over it.
    Send {
        skips: bool,
        marks: bool,
    },
    /// The client receives the next frame: it arrives, twice, or not at all.
    Arrive {
        times: u8,
    },
    /// The service reads the client's next frame.
    Reply,
    Finish(u8),
    Saved,
    Flush,
    Break,
    Crash {
        applied: bool,
    },
    /// Retention removes everything up to here.
    Remove(u8),
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (any::<bool>(), any::<bool>()).prop_map(|(a, b)| Step::Send { skips: a && b, marks: a }),
        10 => prop_oneof![12 => Just(1), 1 => Just(0), 1 => Just(2)].prop_map(|times| Step::Arrive { times }),
        8 => Just(Step::Reply),
        8 => (0..8_u8).prop_map(Step::Finish),
        6 => Just(Step::Saved),
        3 => Just(Step::Flush),
        1 => Just(Step::Break),
        1 => any::<bool>().prop_map(|applied| Step::Crash { applied }),
        1 => (0..20_u8).prop_map(Step::Remove),
        1 => Just(Step::Drain),
    ]
}

/// How many events there are.
const HEAD: i64 = 24;

/// A service with one log, the network, a position store, and what the gateway has applied.
struct World {
    state: ClientState,
    batch: u32,
    is_connected: bool,
    /// Whether an event was lost on this connection.
    is_lossy: bool,
    to_client: VecDeque<ServerFrame>,
    to_service: VecDeque<GatewayFrame>,
    /// The next sequence to send, and the last one that the client should have seen.
    next: i64,
    previous: i64,
    sent: i64,
    /// A gap waits for this confirmation.
    gap: Option<i64>,
    floor: i64,
    skipped: BTreeSet<i64>,
    rejected: BTreeSet<i64>,
    /// What the client has rejected.
    refused: BTreeSet<i64>,
    /// What it has rejected and not applied since. The service has it on record in the end.
    to_record: BTreeSet<i64>,
    covered: BTreeSet<i64>,
    confirmed_here: i64,
    /// What the service has on record as confirmed or rejected.
    cursor: i64,
    stored: Option<StoredPosition>,
    saving: Option<StoredPosition>,
    handling: Option<i64>,
    reading: Option<i64>,
    applied: Vec<i64>,
    /// What this process of the client has handled.
    handled: BTreeSet<i64>,
}

impl World {
    fn new(batch: u32) -> Self {
        Self {
            state: ClientState::new(settings(Resume::Earliest, batch), None),
            batch,
            is_connected: false,
            is_lossy: false,
            to_client: VecDeque::new(),
            to_service: VecDeque::new(),
            next: 1,
            previous: 0,
            sent: 0,
            gap: None,
            floor: 0,
            skipped: BTreeSet::new(),
            rejected: BTreeSet::new(),
            refused: BTreeSet::new(),
            to_record: BTreeSet::new(),
            covered: BTreeSet::new(),
            confirmed_here: 0,
            cursor: 0,
            stored: None,
            saving: None,
            handling: None,
            reading: None,
            applied: Vec::new(),
            handled: BTreeSet::new(),
        }
    }

    fn connect(&mut self) {
        if self.is_connected || self.state.is_saving() {
            return;
        }
        let hello = self.state.connect();
        self.is_connected = true;
        self.to_client = VecDeque::from([acknowledged(1)]);
        self.to_service.clear();
        (self.sent, self.confirmed_here, self.gap) = (0, 0, None);
        self.is_lossy = false;
        let from = match hello.resume {
            Resume::After(position) => position.sequence.0,
            Resume::Server => self.cursor,
            Resume::Earliest | Resume::Latest => {
                self.covered.extend(1..=self.floor);
                self.floor
            }
        };
        self.settle(from);
        let start = from.max(self.floor);
        self.to_client.push_back(resumed(1, start));
        if from < self.floor {
            self.gap = Some(self.floor);
            self.to_client.push_back(gap(1, self.floor));
        }
        (self.next, self.previous) = (start + 1, start);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send { skips, marks } => self.send(skips, marks),
            Step::Arrive { times } => {
                if let Some(frame) = self.to_client.pop_front() {
                    // Other frames are not numbered. A mark would hide that an event was lost.
                    let times = match frame {
                        ServerFrame::Event(_) => times,
                        ServerFrame::Mark(_) if self.is_lossy => 0,
                        _ => 1,
                    };
                    self.is_lossy |= times == 0;
                    for _ in 0..times {
                        self.state.receive(frame.clone());
                    }
                }
            }
            Step::Reply => self.reply(),
            Step::Finish(kind) => self.finish(kind),
            Step::Saved => {
                if let Some(position) = self.saving.take() {
                    self.stored = Some(position);
                    self.state.saved();
                }
            }
            Step::Flush => self.state.flush(),
            Step::Break => self.disconnect(),
            Step::Crash { applied } => self.crash(applied),
            Step::Remove(to) => {
                // What was not confirmed is covered by the snapshot that the client reads.
                self.floor = self.floor.max(i64::from(to).min(self.next - 1));
            }
            Step::Drain if self.is_connected && self.sent > 0 => {
                self.to_client.push_back(ServerFrame::Drain(ConnectionDrain {
                    reason: "shutdown".to_owned(),
                    reconnect_after_ms: 0,
                    grace_ms: 0,
                }));
            }
            Step::Drain => {}
        }
        self.act();
        self.connect();
        self.act();
    }

    fn send(&mut self, skips: bool, marks: bool) {
        if !self.is_connected || self.gap.is_some() || self.next > HEAD {
            return;
        }
        let sequence = self.next;
        self.next += 1;
        // What was passed over once stays so, as after an admin's skip.
        if skips && !self.applied.contains(&sequence) && self.handling != Some(sequence) {
            self.skipped.insert(sequence);
        }
        if self.skipped.contains(&sequence) || self.rejected.contains(&sequence) {
            if marks || sequence == HEAD {
                self.to_client.push_back(mark(sequence));
                self.previous = sequence;
            }
            return;
        }
        let event = event(1, sequence, self.previous, 1);
        self.to_client.push_back(ServerFrame::Event(event));
        self.previous = sequence;
        self.sent = self.sent.max(sequence);
    }

    /// The service has it on record that everything up to here is confirmed.
    fn settle(&mut self, to: i64) {
        self.cursor = self.cursor.max(to);
        while self.skipped.contains(&(self.cursor + 1))
            || self.rejected.contains(&(self.cursor + 1))
        {
            self.cursor += 1;
        }
    }

    fn reply(&mut self) {
        match self.to_service.pop_front() {
            Some(GatewayFrame::Ack(ack)) => {
                let applied = ack.applied.expect("this client confirms what it applied").0;
                if self.gap == Some(applied) {
                    self.gap = None;
                }
                self.settle(applied);
            }
            Some(GatewayFrame::Nack(nack)) if nack.retryable => {
                self.next = nack.sequence.0;
                self.previous = (0..self.next)
                    .rev()
                    .find(|it| !self.skipped.contains(it) && !self.rejected.contains(it))
                    .unwrap_or_default()
                    .max(self.floor.min(self.next - 1));
            }
            Some(GatewayFrame::Nack(nack)) => {
                self.rejected.insert(nack.sequence.0);
                self.settle(self.cursor);
            }
            _ => {}
        }
    }

    fn finish(&mut self, kind: u8) {
        if let Some(to) = self.reading.take() {
            let last = self.applied.last().copied().unwrap_or_default();
            self.covered.extend(last + 1..=to);
            self.state.snapshot_read();
            return;
        }
        let Some(sequence) = self.handling.take() else { return };
        let outcome = match kind {
            0 => {
                Outcome::RetryAfter { after: Duration::ZERO, code: NackCode::Timeout, detail: None }
            }
            1 => Outcome::Reject { code: NackCode::Invalid, detail: None },
            _ => {
                self.apply(sequence);
                Outcome::Applied
            }
        };
        self.state.handled(outcome);
    }

    /// A gateway that ignores repeats.
    fn apply(&mut self, sequence: i64) {
        self.to_record.remove(&sequence);
        if self.applied.last().is_none_or(|last| *last < sequence) {
            self.applied.push(sequence);
        }
        assert!(self.handled.insert(sequence), "{sequence} was applied twice by one process");
    }

    fn crash(&mut self, applied: bool) {
        if let Some(sequence) = self.handling.take().filter(|_| applied) {
            self.apply(sequence);
        }
        if let Some(position) = self.saving.take().filter(|_| applied) {
            self.stored = Some(position);
        }
        self.reading = None;
        self.handled.clear();
        self.is_connected = false;
        self.to_client.clear();
        self.state = ClientState::new(settings(Resume::Earliest, self.batch), self.stored.clone());
    }

    fn disconnect(&mut self) {
        if self.is_connected {
            self.is_connected = false;
            self.to_client.clear();
            self.state.disconnected();
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.state.next_action() {
            match action {
                Action::Send(frame) => {
                    assert!(self.is_connected, "{frame:?} without a connection");
                    if let GatewayFrame::Ack(Ack { applied: Some(Sequence(applied)), .. }) = frame {
                        let stored = self.stored.as_ref().expect("a position").position.sequence.0;
                        let allowed = self.gap.unwrap_or_default().max(self.sent).max(self.floor);
                        assert!(applied <= stored, "{applied} is not stored");
                        assert!(applied <= allowed, "{applied} was not sent");
                        assert!(applied > self.confirmed_here || self.gap.is_some());
                        self.confirmed_here = applied;
                    }
                    if let GatewayFrame::Nack(Nack { sequence, retryable: false, .. }) = frame {
                        self.refused.insert(sequence.0);
                        self.to_record.insert(sequence.0);
                    }
                    self.to_service.push_back(frame);
                }
                Action::Handle(event) => {
                    assert!(self.handling.is_none() && self.reading.is_none());
                    self.handling = Some(event.sequence.0);
                }
                Action::ReadSnapshot(gap) => {
                    assert!(self.handling.is_none() && self.reading.is_none());
                    self.reading = Some(gap.resume_at.0);
                }
                Action::Save(position) => {
                    assert!(self.saving.is_none());
                    self.saving = Some(position);
                }
                Action::Disconnect(_) => {
                    self.disconnect();
                }
            }
        }
    }

    /// Without further failures, everything arrives.
    fn heal(&mut self) {
        for _ in 0..20 * HEAD {
            for step in [
                Step::Send { skips: false, marks: true },
                Step::Arrive { times: 1 },
                Step::Arrive { times: 1 },
                Step::Finish(7),
                Step::Flush,
                Step::Saved,
                Step::Reply,
                Step::Reply,
            ] {
                self.step(step);
            }
            // The driver's remedy if what is to come again never comes, and the end of a connection
            // that lost the last event.
            let is_stuck = self.state.is_retrying() || self.is_lossy;
            if is_stuck && self.next > HEAD && self.to_client.is_empty() {
                self.disconnect();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_is_applied_in_order_and_once(
        steps in prop::collection::vec(step(), 0..200),
        batch in 1..6_u32,
    ) {
        let mut world = World::new(batch);
        world.connect();
        for step in steps {
            world.step(step);
            prop_assert!(world.applied.is_sorted_by(|one, next| one < next));
        }
        world.heal();
        prop_assert!(world.applied.is_sorted_by(|one, next| one < next), "{:?}", world.applied);
        for sequence in 1..=HEAD {
            let is_accounted_for = world.applied.contains(&sequence)
                || world.skipped.contains(&sequence)
                || world.refused.contains(&sequence)
                || world.covered.contains(&sequence);
            prop_assert!(is_accounted_for, "{} was lost: {:?}", sequence, world.applied);
            let is_recorded = !world.to_record.contains(&sequence)
                || sequence <= world.floor
                || world.rejected.contains(&sequence)
                || world.skipped.contains(&sequence)
                || world.covered.contains(&sequence);
            prop_assert!(is_recorded, "the rejection of {} is not on record", sequence);
        }
        prop_assert!(!world.state.has_unconfirmed());
        let position = world.state.position().map(|it| it.sequence.0);
        prop_assert_eq!(position.unwrap_or_default(), HEAD);
    }
}
