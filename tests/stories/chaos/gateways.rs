//! Gateways like deployed ones that switch to the next node when theirs is gone, and what each has
//! received.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use gateway_events::client::CancellationToken;
use gateway_events::client::gateway::{
    Exit, Gateway, GatewayOptions, Handler, Notice, ReceivedEvent,
};
use secrecy::SecretString;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::publishers::Published;
use super::{Address, Cluster};

/// The interval at which a gateway tries one node after another.
const TRIES_EVERY: Duration = Duration::from_millis(150);

/// Gateways and their connections.
pub(super) struct Fleet {
    pub(super) members: Vec<Arc<Member>>,
    stop: CancellationToken,
    running: JoinSet<()>,
}

/// One gateway.
pub(super) struct Member {
    pub(super) id: String,
    pub(super) name: String,
    seen: Mutex<Seen>,
}

/// What its connections received.
#[derive(Default)]
pub(super) struct Seen {
    /// Event ids by sequence.
    pub(super) events: BTreeMap<i64, String>,
    /// The last sequence on each connection.
    pub(super) last: HashMap<String, Option<i64>>,
    pub(super) live: BTreeSet<String>,
    /// Frames, including repeats.
    pub(super) frames: usize,
    problems: Vec<String>,
}

impl Fleet {
    /// Registers this many gateways and connects them, spread over the nodes. The first `twice` of
    /// them are connected twice.
    pub(super) async fn start(cluster: &Cluster, size: usize, twice: usize) -> Self {
        let (stop, mut running, mut members) =
            (CancellationToken::new(), JoinSet::new(), Vec::new());
        for place in 0..size {
            let name = format!("gateway-{place}");
            let (id, key) = cluster.nodes[0].gateway(&name).await;
            let member = Arc::new(Member { id, name, seen: Mutex::default() });
            for copy in 0..if place < twice { 2 } else { 1 } {
                running.spawn(roam(
                    Arc::clone(&member),
                    key.clone(),
                    Arc::clone(&cluster.addresses),
                    place + copy,
                    stop.clone(),
                ));
            }
            members.push(member);
        }
        let fleet = Self { members, stop, running };
        let connected = tokio::time::timeout(super::REST, async {
            let mut polls = tokio::time::interval(Duration::from_millis(20));
            while fleet.live().len() < size + twice {
                polls.tick().await;
            }
        });
        assert!(
            connected.await.is_ok(),
            "{} are connected\n{}",
            fleet.live().len(),
            cluster.logs()
        );
        fleet
    }

    /// The ids of all live connections, sorted.
    pub(super) fn live(&self) -> Vec<String> {
        let mut live: Vec<_> =
            self.members.iter().flat_map(|member| member.seen().live.clone()).collect();
        live.sort();
        live
    }

    pub(super) fn ids(&self) -> Arc<[String]> {
        self.members.iter().map(|member| member.id.clone()).collect()
    }

    /// Frames received so far.
    pub(super) fn frames(&self) -> usize {
        self.members.iter().map(|member| member.seen().frames).sum()
    }

    /// Ends all connections; returns what they received.
    pub(super) async fn stop(mut self) -> Vec<Arc<Member>> {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.expect("no gateway panicked");
        }
        self.members
    }
}

/// Keeps one connection of a gateway, which switches to the next node when it ends.
async fn roam(
    member: Arc<Member>,
    key: String,
    addresses: Arc<[Address]>,
    first: usize,
    stop: CancellationToken,
) {
    let mut tries = tokio::time::interval(TRIES_EVERY);
    tries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for place in first.. {
        tries.tick().await;
        let address = &addresses[place % addresses.len()];
        let leave = stop.child_token();
        let recorder = Arc::new(Recorder {
            member: Arc::clone(&member),
            leave: leave.clone(),
            connection: Mutex::default(),
        });
        let mut options = GatewayOptions::new(
            address.api.base().clone(),
            SecretString::from(key.clone()),
            Arc::clone(&address.tls),
            Arc::clone(&recorder) as Arc<dyn Handler>,
        );
        options.announces = false;
        let exit = Gateway::new(options).run(leave).await;
        recorder.parted();
        if let Exit::Refused(status) = exit {
            member.seen().problems.push(format!("a good key was refused with {status}"));
        }
        if stop.is_cancelled() || exit != Exit::Cancelled {
            return;
        }
    }
}

/// Records what one connection after another to one node receives.
struct Recorder {
    member: Arc<Member>,
    leave: CancellationToken,
    connection: Mutex<Option<String>>,
}

impl Recorder {
    fn parted(&self) {
        if let Some(connection) = self.connection.lock().expect("not poisoned").take() {
            self.member.seen().live.remove(&connection);
        }
    }
}

#[async_trait]
impl Handler for Recorder {
    async fn handle(&self, event: ReceivedEvent) {
        self.member.seen().take(&event);
    }

    async fn notice(&self, notice: Notice) {
        match notice {
            Notice::Connected { connection_id, .. } => {
                let mut seen = self.member.seen();
                seen.live.insert(connection_id.clone());
                seen.last.insert(connection_id.clone(), None);
                *self.connection.lock().expect("not poisoned") = Some(connection_id);
            }
            Notice::Disconnected { .. } => self.parted(),
            // This node is gone or refuses connections: switch to the next one.
            Notice::Failed { .. } => self.leave.cancel(),
            Notice::Refused { .. } => {}
            Notice::Unreadable { why } => {
                self.member.seen().problems.push(format!("an unreadable frame: {why}"));
            }
        }
    }
}

impl Seen {
    fn take(&mut self, event: &ReceivedEvent) {
        let number = event.sequence;
        self.frames += 1;
        match self.last.insert(event.connection_id.clone(), Some(number)) {
            None => self.problems.push(format!("{number} came before its connection")),
            Some(Some(last)) if number != last + 1 => {
                self.problems.push(format!("{number} came after {last} on one connection"));
            }
            Some(_) => {}
        }
        let known = self.events.entry(number).or_insert_with(|| event.event_id.clone());
        if *known != event.event_id {
            let id = &event.event_id;
            self.problems.push(format!("{number} is both {known} and {id}"));
        }
    }

    /// The last sequence received on any connection.
    pub(super) fn farthest(&self) -> i64 {
        self.events.last_key_value().map_or(0, |(number, _)| *number)
    }
}

impl Member {
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("not poisoned")
    }

    /// Compares what was received with what was published.
    pub(super) fn check(&self, head: i64, published: &[Published]) {
        let (seen, name) = (self.seen(), &self.name);
        assert_eq!(seen.problems, Vec::<String>::new(), "{name}");
        assert!(seen.events.keys().copied().eq(1..=head), "{name}: {head}, {:?}", seen.events);
        let mut numbers: HashMap<&str, i64> = HashMap::new();
        for (number, id) in &seen.events {
            let earlier = numbers.insert(id, *number);
            assert_eq!(earlier, None, "{name}: {id} has two numbers");
        }
        let mut meant = 0;
        for row in published {
            let mut last = 0;
            for event in row.accepted.iter().filter(|event| event.is_for(&self.id)) {
                let number = *numbers
                    .get(event.id.as_str())
                    .unwrap_or_else(|| panic!("{name}: {} was accepted and never came", event.id));
                assert!(number > last, "{name}: {} came too early: {number}, {last}", event.id);
                let sequence = event.numbers.as_ref().map(|numbers| numbers[&self.id]);
                assert!(
                    sequence.is_none_or(|sequence| sequence == number),
                    "{name}: {}, {sequence:?}",
                    event.id
                );
                (last, meant) = (number, meant + 1);
            }
        }
        assert_eq!(meant, numbers.len(), "{name} got what was not published, or not for it");
    }
}
