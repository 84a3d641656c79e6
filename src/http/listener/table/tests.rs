//! Compares the table with a model that examines every connection each time.

use std::net::{IpAddr, Ipv4Addr};

use super::*;

fn source(last: u8) -> Source {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)).into()
}

fn table(handshakes: usize, connections: usize, reserved: usize) -> Table {
    Table::new(Limits { handshakes, connections, reserved })
}

/// Connections in the order in which they began to wait.
#[derive(Default)]
struct Model {
    waiting: Vec<(Id, Source, Phase)>,
    busy: Vec<(Id, Source)>,
}

impl Model {
    fn len(&self) -> usize {
        self.waiting.len() + self.busy.len()
    }

    fn victim(&self, of: impl Fn(Phase) -> bool) -> Option<Id> {
        let these: Vec<_> = self.waiting.iter().filter(|(_, _, phase)| of(*phase)).collect();
        let held = |source: Source| these.iter().filter(|(_, other, _)| *other == source).count();
        let most = these.iter().map(|(_, source, _)| held(*source)).max()?;
        these.iter().find(|(_, source, _)| held(*source) == most).map(|(id, ..)| *id)
    }

    fn candidate(&self) -> Option<Id> {
        self.victim(|phase| phase != Phase::Authenticated).or_else(|| self.victim(|_| true))
    }

    fn remove(&mut self, id: Id) -> Option<Source> {
        if let Some(at) = self.waiting.iter().position(|(other, ..)| *other == id) {
            return Some(self.waiting.remove(at).1);
        }
        let at = self.busy.iter().position(|(other, _)| *other == id)?;
        Some(self.busy.remove(at).1)
    }

    fn free_handshake(&mut self, limits: Limits) -> Vec<Id> {
        let mut evicted = Vec::new();
        let handshake = |phase| phase == Phase::Handshake;
        while self.waiting.iter().filter(|one| handshake(one.2)).count() >= limits.handshakes {
            let id = self.victim(handshake).unwrap();
            self.remove(id);
            evicted.push(id);
        }
        evicted
    }

    /// Frees a place. Also returns whether there is one now.
    fn freed(&mut self, limits: Limits) -> (Vec<Id>, bool) {
        let mut evicted = Vec::new();
        while self.len() >= limits.connections
            && let Some(id) = self.candidate()
        {
            self.remove(id);
            evicted.push(id);
        }
        (evicted, self.len() < limits.connections + limits.reserved)
    }

    fn admitted(&mut self, limits: Limits) -> (Vec<Id>, bool) {
        let mut evicted = self.free_handshake(limits);
        let (more, has_place) = self.freed(limits);
        evicted.extend(more);
        (evicted, has_place)
    }
}

#[test]
fn the_table_decides_like_a_model_that_examines_every_connection() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..60 {
        let limits = Limits {
            handshakes: random.usize(1..8),
            connections: random.usize(1..14),
            reserved: random.usize(0..4),
        };
        let (mut table, mut model) = (Table::new(limits), Model::default());
        let mut known: Vec<Id> = Vec::new();
        for _ in 0..400 {
            // One source opens as many connections as all others together.
            let from = source(random.u8(..5).saturating_sub(2));
            match random.u8(..11) {
                0..4 => {
                    let (evicted, has_place) = model.admitted(limits);
                    let admission = table.admit(from, false);
                    assert_eq!(admission.evicted, evicted, "seed {seed}");
                    assert_eq!(admission.id.is_some(), has_place, "seed {seed}");
                    if let Some(id) = admission.id {
                        model.waiting.push((id, from, Phase::Handshake));
                        known.push(id);
                    }
                }
                4..8 => {
                    let Some(id) = random.choice(&known).copied() else { continue };
                    let phase = [Phase::Idle, Phase::Authenticated, Phase::Busy, Phase::Busy]
                        [random.usize(..4)];
                    let found = model.remove(id);
                    assert_eq!(table.enter(id, phase), found.is_some(), "seed {seed}");
                    match found {
                        Some(source) if phase == Phase::Busy => model.busy.push((id, source)),
                        Some(source) => model.waiting.push((id, source, phase)),
                        None => {}
                    }
                }
                8 => {
                    let Some(id) = random.choice(&known).copied() else { continue };
                    let found = model.remove(id).is_some();
                    let evicted = if found { model.free_handshake(limits) } else { Vec::new() };
                    assert_eq!(table.name_client(id, from), evicted, "seed {seed}");
                    if found {
                        model.waiting.push((id, from, Phase::Handshake));
                    }
                }
                9 => {
                    let (evicted, has_place) = model.freed(limits);
                    let admission = table.admit(from, true);
                    assert_eq!(admission.evicted, evicted, "seed {seed}");
                    assert_eq!(admission.id.is_some(), has_place, "seed {seed}");
                    if let Some(id) = admission.id {
                        model.busy.push((id, from));
                        known.push(id);
                    }
                }
                _ => {
                    let Some(id) = random.choice(&known).copied() else { continue };
                    table.leave(id);
                    model.remove(id);
                }
            }
            assert_eq!(table.entries.len(), model.len(), "seed {seed}");
            assert!(model.len() <= limits.connections + limits.reserved, "seed {seed}");
            let waiting = table.unauthenticated.len + table.authenticated.len;
            assert_eq!(waiting, model.waiting.len(), "seed {seed}");
        }
        let closed = table.evict(usize::MAX);
        assert_eq!(closed.len(), model.waiting.len(), "seed {seed}");
        assert!(
            table.unauthenticated.by_source.is_empty() && table.unauthenticated.order.is_empty()
        );
    }
}

#[test]
fn a_source_that_floods_only_replaces_its_own_connections() {
    let mut table = table(8, 16, 2);
    let gateway = table.admit(source(1), false).id.unwrap();
    for _ in 0..1000 {
        let admission = table.admit(source(2), false);
        assert!(admission.id.is_some() && !admission.evicted.contains(&gateway));
    }
    assert!(table.enter(gateway, Phase::Idle));
    for _ in 0..1000 {
        let id = table.admit(source(2), false).id.unwrap();
        assert!(table.enter(id, Phase::Idle));
    }
    assert!(table.enter(gateway, Phase::Busy), "it is still there");
}

#[test]
fn an_authenticated_connection_is_evicted_last_and_a_busy_one_never() {
    let mut table = table(8, 2, 1);
    let known = table.admit(source(1), false).id.unwrap();
    table.enter(known, Phase::Authenticated);
    let idle = table.admit(source(2), false).id.unwrap();
    table.enter(idle, Phase::Idle);
    let first = table.admit(source(3), false);
    assert_eq!(first.evicted, [idle]);
    table.enter(first.id.unwrap(), Phase::Busy);
    let second = table.admit(source(3), false);
    assert_eq!(second.evicted, [known]);
    table.enter(second.id.unwrap(), Phase::Busy);
    let third = table.admit(source(3), false).id.unwrap();
    table.enter(third, Phase::Busy);
    assert!(table.is_reserve(third) && !table.is_reserve(first.id.unwrap()));
    assert_eq!(table.admit(source(4), false).id, None, "the reserve has its bound, too");
    table.leave(first.id.unwrap());
    assert!(!table.is_reserve(third), "an ordinary place is free");
}
