//! After any sequence of operations, the databases return the same as the store in memory. A
//! failure prints the shortest steps that lead to it, and its seed. `MODEL_CASES` sets the number of
//! cases, and `MODEL_SEED` the seed.

#![expect(clippy::unwrap_used, reason = "a story that finds no answer has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use gateway_events::clock::Timestamp;
use gateway_events::event::NodeId;
use gateway_events::store::{Store, TrimMark, sqlite};
use gateway_events::wake::Wake;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tempfile::TempDir;

use crate::conformance::InboxProgram;
use crate::reference::store::{Clock, MemoryDatabase, MemoryStore};
use crate::server::Database;
use crate::support::TEST_TIMEOUT;
use crate::{inbox_program, inbox_program_postgres, store_memory, store_postgres, store_sqlite};

mod bulk;
mod calls;
mod instances;
mod lanes;
mod reports;
mod snapshot;
mod steps;

use calls::World;
use snapshot::picture;
use steps::Step;

/// Where a store keeps its data.
enum Place {
    Memory(MemoryDatabase),
    Embedded(TempDir),
    Shared(Database),
}

impl Place {
    async fn open(&self, node: NodeId) -> Arc<dyn Store> {
        self.open_with(node, Wake::default()).await
    }

    async fn open_with(&self, node: NodeId, wake: Wake) -> Arc<dyn Store> {
        match self {
            Self::Memory(database) => MemoryStore::open(database, node, wake),
            Self::Embedded(directory) => {
                // A process that another test starts inherits the lock of the file until it
                // executes its program.
                let mut tries = tokio::time::interval(Duration::from_millis(5));
                let opening = async {
                    loop {
                        tries.tick().await;
                        match store_sqlite::open_with(directory.path(), node, wake.clone()).await {
                            Err(sqlite::OpenError::InUse(_)) => {}
                            other => return other.unwrap(),
                        }
                    }
                };
                tokio::time::timeout(TEST_TIMEOUT, opening).await.expect("it is free in time")
            }
            Self::Shared(database) => {
                store_postgres::open_with(database, node, wake).await.unwrap()
            }
        }
    }

    async fn program(&self) -> Box<dyn InboxProgram> {
        match self {
            Self::Memory(database) => Box::new(store_memory::Program(database.clone())),
            Self::Embedded(directory) => Box::new(
                inbox_program::Program::start(&directory.path().join("gateway-events.db")).await,
            ),
            Self::Shared(database) => {
                Box::new(inbox_program_postgres::Program::start(database).await)
            }
        }
    }

    /// The inconsistencies that a database's verification reports.
    async fn problems(&self) -> Vec<String> {
        match self {
            Self::Memory(_) => Vec::new(),
            Self::Embedded(directory) => {
                let path = directory.path().join("gateway-events.db");
                sqlite::verify::verify(&path).await.unwrap().problems
            }
            Self::Shared(database) => {
                let options = store_postgres::options(database);
                gateway_events::store::postgres::verify(&options).await.unwrap().problems
            }
        }
    }
}

/// One of the two stores that are compared.
struct Side {
    place: Place,
    store: Arc<dyn Store>,
    program: Box<dyn InboxProgram>,
    mark: TrimMark,
}

impl Side {
    async fn of(place: Place, node: NodeId) -> Self {
        let store = place.open(node).await;
        let program = place.program().await;
        Self { place, store, program, mark: TrimMark::default() }
    }

    async fn restart(&mut self, node: NodeId) {
        self.store.close().await;
        // The file is free when nothing uses the store any more.
        let idle = MemoryDatabase::new(Arc::new(Timestamp::now));
        self.store = MemoryStore::open(&idle, node, Wake::default());
        self.store = self.place.open(node).await;
    }
}

/// A clock that never returns the same instant twice.
fn clock() -> Clock {
    let last = AtomicI64::new(0);
    Arc::new(move || {
        let now = Timestamp::now().micros();
        let before = last.fetch_max(now, Ordering::Relaxed);
        let now = if now > before { now } else { last.fetch_add(1, Ordering::Relaxed) + 1 };
        Timestamp::from_micros(now)
    })
}

/// Runs the steps on both stores, and compares every result and, at the end and now and then,
/// everything that can be queried.
async fn compare(place: Place, steps: Vec<Step>) -> Result<(), TestCaseError> {
    const EVERY: usize = 5;
    let node = NodeId::new();
    let since = Timestamp::now();
    let model = Side::of(Place::Memory(MemoryDatabase::new(clock())), node).await;
    let mut sides = [model, Side::of(place, node).await];
    let mut world = World::new(since.minus(Duration::from_hours(1)), since);
    world.begin(&mut sides).await;
    let last = steps.len().saturating_sub(1);
    for (nth, step) in steps.iter().enumerate() {
        let [model, database] = world.perform(&mut sides, step).await;
        prop_assert_eq!(model, database, "the answer to {:?}, step {}", step, nth);
        if nth % EVERY == 0 || nth == last {
            let mut pictures = Vec::new();
            for side in &sides {
                let of = world.organisation;
                pictures.push(picture(side.store.as_ref(), of, world.begun, since).await);
            }
            let both = pictures[0].lines().zip(pictures[1].lines());
            for (model, database) in both {
                prop_assert_eq!(model, database, "after {:?}, step {}", step, nth);
            }
            world.check_reports(sides[0].store.as_ref()).await;
        }
    }
    let [model, database] = sides;
    model.store.close().await;
    database.store.close().await;
    let problems = database.place.problems().await;
    prop_assert!(problems.is_empty(), "{:?}", problems);
    Ok(())
}

/// The seed of a run: a random one unless `MODEL_SEED` is set.
fn seed() -> u64 {
    let set = std::env::var("MODEL_SEED").ok().and_then(|it| it.parse().ok());
    set.unwrap_or_else(|| fastrand::u64(..))
}

fn run(cases: u32, place: impl Fn() -> Place) {
    let cases = std::env::var("MODEL_CASES").ok().and_then(|it| it.parse().ok()).unwrap_or(cases);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let seed = seed();
    // The random generator takes 32 bytes.
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed.to_le_bytes(); 4].concat());
    let mut runner = TestRunner::new_with_rng(config, rng);
    let result = runner.run(&steps::steps(), |steps| runtime.block_on(compare(place(), steps)));
    if let Err(failure) = result {
        panic!("MODEL_SEED={seed}: {failure}");
    }
}

#[test]
fn the_embedded_store_behaves_like_the_model() {
    run(24, || Place::Embedded(tempfile::tempdir().expect("a temporary directory")));
}

#[test]
fn the_postgres_store_behaves_like_the_model() {
    run(6, || Place::Shared(Database::new()));
}
