//! A deterministic simulation of the service and its gateways: the real dispatcher, with its lanes,
//! windows and recorder, and the real client, over the store in memory and a network and a clock that
//! fail. A run first checks the promises while faults are injected; then everything is healed, and
//! everyone must catch up. Its seed decides everything that happens in it.
//!
//! ```text
//! cargo test --test simulation                      5,000 runs, and the tests of the simulation
//! cargo test --test simulation -- seed=7            one run, with its trace
//! cargo test --test simulation -- seeds=100000      as many runs; seeds=FROM..TO as well
//! cargo test --test simulation -- seed=7 bug=skip_row   one run with a deliberate bug
//! ```

#![expect(clippy::print_stdout, reason = "this is a test without the standard harness")]

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use gateway_events::clock::{Timestamp, follow};

#[path = "../reference/mod.rs"]
#[allow(dead_code, reason = "the stories use the rest")]
mod reference;

mod bugs;
mod gateway;
mod hostile;
mod network;
mod plain;
mod promises;
mod run;
mod service;
mod watch;
mod world;

use bugs::Bug;
use run::{PANIC, run};

/// The runs of a test.
const SEEDS: u64 = 5000;
/// Each deliberate bug is found within so many runs.
const UNTIL_FOUND: u64 = 400;
/// Runs that are repeated and compared.
const REPEATED: Range<u64> = 0..12;

/// Returns whether it has passed, and prints the result.
type Test = fn() -> bool;

/// What runs without arguments, by name: a filter for other test targets selects none of them.
const TESTS: [(&str, Test); 3] = [
    ("the_same_seed_gives_the_same_trace", repeats),
    ("each_deliberate_bug_is_found", finds_bugs),
    ("all_promises_are_kept", || many(0..SEEDS)),
];

fn main() -> ExitCode {
    // From now on, time is that of each run's clock.
    follow(Timestamp::from_micros(1_767_225_600_000_000), Duration::ZERO);
    std::panic::set_hook(Box::new(|panic| {
        PANIC.with_borrow_mut(|message| {
            message.get_or_insert_with(|| panic.to_string());
        });
    }));
    let (mut seed, mut seeds, mut bug, mut filters) = (None, None, None, Vec::new());
    for argument in std::env::args().skip(1) {
        let is_read = match argument.split_once('=') {
            Some(("seed", number)) => set(&mut seed, number.parse::<u64>().ok()),
            Some(("seeds", range)) => set(&mut seeds, parse(range)),
            Some(("bug", name)) => {
                set(&mut bug, Bug::ALL.iter().find(|it| it.name() == name).copied())
            }
            // Options of the standard harness.
            _ if argument.starts_with('-') => true,
            _ => {
                filters.push(argument.clone());
                true
            }
        };
        if !is_read {
            let names = Bug::ALL.iter().map(|bug| bug.name()).collect::<Vec<_>>().join(", ");
            println!(
                "{argument} can't be read: use seed=N, seeds=N, seeds=FROM..TO or bug=NAME (one of {names})"
            );
            return ExitCode::FAILURE;
        }
    }
    let is_fine = match (seed, seeds) {
        (Some(seed), _) => one(seed, bug),
        (None, Some(seeds)) => many(seeds),
        // All of them, even after a failure.
        (None, None) => TESTS
            .iter()
            .filter(|(name, _)| filters.is_empty() || filters.iter().any(|it| name.contains(it)))
            .fold(true, |is_fine, (_, test)| test() && is_fine),
    };
    if is_fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Sets a value; whether there was one.
fn set<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    *place = value;
    place.is_some()
}

fn parse(range: &str) -> Option<Range<u64>> {
    match range.split_once("..") {
        Some((from, to)) => Some(from.parse().ok()?..to.parse().ok()?),
        None => Some(0..range.parse().ok()?),
    }
}

/// Prints the trace of a run.
fn one(seed: u64, bug: Option<Bug>) -> bool {
    let outcome = run(seed, bug, true);
    for line in &outcome.trace {
        println!("{line}");
    }
    match &outcome.broken {
        None => println!("seed {seed}: all promises were kept"),
        Some(broken) => failed(seed, broken),
    }
    outcome.broken.is_none()
}

fn failed(seed: u64, broken: &str) {
    println!("seed {seed}: BROKEN {broken}");
    println!("repeat it with: cargo test --test simulation -- seed={seed}");
}

/// The seeds of a range, on all cores. Prints the trace of the first one that fails.
fn many(seeds: Range<u64>) -> bool {
    let began = Instant::now();
    let (next, published, is_over) =
        (AtomicU64::new(seeds.start), AtomicU64::new(0), AtomicBool::new(false));
    let failures = Mutex::new(Vec::new());
    on_all_cores(|| {
        while !is_over.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let outcome = run(seed, None, false);
            published.fetch_add(outcome.published as u64, Ordering::Relaxed);
            if let Some(broken) = outcome.broken {
                let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                failures.push((seed, broken));
                // A few say more than one, and more would say the same.
                is_over.store(failures.len() >= 10, Ordering::Relaxed);
            }
        }
    });
    let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    failures.sort();
    if let Some((seed, _)) = failures.first() {
        one(*seed, None);
    }
    for (seed, broken) in failures.iter().skip(1) {
        failed(*seed, broken);
    }
    let (count, took) = (seeds.end - seeds.start, began.elapsed());
    let events = published.into_inner();
    let rate = f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / took.as_secs_f64();
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    println!("simulation of {count} seeds, {events} events, {took:.1?}, {rate:.0}/s ... {verdict}");
    failures.is_empty()
}

fn on_all_cores(work: impl Fn() + Sync) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(&work);
        }
    });
}

/// The same seed gives the same trace, and different seeds give different ones.
fn repeats() -> bool {
    let traces: Vec<_> = REPEATED.map(|seed| (seed, run(seed, None, true).trace)).collect();
    let mut is_fine = true;
    for (seed, trace) in &traces {
        // On another thread, whose state is another one.
        let again = std::thread::scope(|scope| {
            scope.spawn(|| run(*seed, None, true).trace).join().unwrap_or_default()
        });
        let differs = trace.iter().zip(&again).find(|(one, other)| one != other);
        if let Some((one, other)) = differs {
            println!("seed {seed} differs:\n  {one}\n  {other}");
        }
        is_fine &= *trace == again && traces.iter().filter(|(_, it)| it == trace).count() == 1;
    }
    println!("the same seed gives the same trace ... {}", if is_fine { "ok" } else { "FAILED" });
    is_fine
}

/// Each deliberate bug breaks a promise.
fn finds_bugs() -> bool {
    let next = AtomicU64::new(0);
    let found = Mutex::new(Vec::new());
    on_all_cores(|| {
        while let Some(bug) = usize::try_from(next.fetch_add(1, Ordering::Relaxed))
            .ok()
            .and_then(|nth| Bug::ALL.get(nth))
        {
            let broken = (0..UNTIL_FOUND)
                .find_map(|seed| run(seed, Some(*bug), false).broken.map(|broken| (seed, broken)));
            found.lock().unwrap_or_else(PoisonError::into_inner).push((*bug, broken));
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by_key(|(bug, _)| bug.name());
    for (bug, broken) in &found {
        let name = bug.name();
        match broken {
            Some((seed, broken)) => println!("  {name:<20} seed {seed}: {broken}"),
            None => println!("  {name:<20} NOT FOUND within {UNTIL_FOUND} seeds"),
        }
    }
    let is_fine = found.iter().all(|(_, broken)| broken.is_some());
    println!("each deliberate bug is found ... {}", if is_fine { "ok" } else { "FAILED" });
    is_fine
}
