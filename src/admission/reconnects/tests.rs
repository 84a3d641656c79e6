//! Compares the history with a model that keeps everything.

use super::*;

/// Every attempt, and when its connection was held.
#[derive(Default)]
struct Model {
    attempts: Vec<(Instant, Option<Instant>)>,
    connections: Vec<(Instant, Option<Instant>)>,
}

impl Model {
    /// The most connections at once, at any instant of the hour before `now`.
    fn peak(&self, now: Instant) -> usize {
        let at = |instant: Instant| {
            let open = |(from, to): &&(Instant, Option<Instant>)| {
                *from <= instant && to.is_none_or(|to| to >= instant)
            };
            self.connections.iter().filter(open).count()
        };
        let is_lately = |at: &Instant| now.duration_since(*at) < LATELY;
        let starts = self.connections.iter().map(|(from, _)| *from);
        let ends = self.connections.iter().filter_map(|(_, to)| *to);
        starts.chain(ends).filter(is_lately).chain([now]).map(at).max().unwrap_or(0)
    }

    /// When the attempts began that count at `now`.
    fn counted(&self, now: Instant) -> Vec<Instant> {
        let counts = |(began, ended): &&(Instant, Option<Instant>)| {
            ended.is_some() && now.duration_since(*began) < MINUTE
        };
        self.attempts.iter().filter(counts).map(|(began, _)| *began).collect()
    }

    fn most(&self, now: Instant, configured: usize) -> usize {
        let peak = self.peak(now);
        2 * peak + configured + usize::from(peak > 0)
    }
}

#[test]
fn attempts_are_limited_by_what_was_held_in_the_last_hour() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut refused = 0;
    for _ in 0..40 {
        let configured = random.usize(1..6);
        let (mut history, mut model) = (History::default(), Model::default());
        let mut now = Instant::now();
        // Indices into the model's lists of what is open.
        let mut open: Vec<(usize, usize)> = Vec::new();
        for _ in 0..300 {
            // Usually seconds, and sometimes a large part of an hour.
            let pause = if random.u8(..40) == 0 { 1_500_000 } else { 4000 };
            // Distinct instants, because the order of simultaneous events is undefined.
            now += Duration::from_millis(random.u64(1..pause));
            if random.bool() && !open.is_empty() {
                let (attempt, connection) = open.swap_remove(random.usize(..open.len()));
                history.closed(now);
                history.ended(model.attempts[attempt].0, now);
                model.attempts[attempt].1 = Some(now);
                model.connections[connection].1 = Some(now);
                continue;
            }
            let most = model.most(now, configured);
            let counted = model.counted(now).len();
            match history.check(now, configured, 0) {
                Ok(()) => {
                    assert!(counted < most, "seed {seed}");
                    model.attempts.push((now, None));
                    if random.u8(..3) == 0 {
                        history.ended(now, now);
                        model.attempts.last_mut().unwrap().1 = Some(now);
                    } else {
                        history.opened(now);
                        model.connections.push((now, None));
                        open.push((model.attempts.len() - 1, model.connections.len() - 1));
                    }
                }
                Err(wait) => {
                    refused += 1;
                    assert!(counted >= most, "seed {seed}");
                    assert!(wait <= MINUTE, "seed {seed}");
                    // By then enough of them have expired, and not a moment earlier.
                    let still = |at: Instant| model.counted(at).len();
                    assert!(still(now + wait) < most, "seed {seed}");
                    assert!(
                        still((now + wait).checked_sub(Duration::from_nanos(1)).unwrap()) >= most,
                        "seed {seed}"
                    );
                }
            }
            assert_eq!(history.peak(), model.peak(now), "seed {seed}");
        }
        assert!(history.peaks.len() <= model.connections.len(), "seed {seed}");
    }
    assert!(refused > 0, "seed {seed}");
}

#[test]
fn a_fleet_comes_back_at_once_and_one_that_held_nothing_is_slowed_down() {
    let now = Instant::now();
    let mut fleet = History::default();
    for _ in 0..2 {
        for _ in 0..100 {
            assert!(fleet.check(now, 10, 0).is_ok());
            fleet.opened(now);
        }
        for _ in 0..100 {
            fleet.closed(now);
            fleet.ended(now, now);
        }
    }
    let mut failing = History::default();
    for _ in 0..10 {
        assert!(failing.check(now, 10, 0).is_ok());
        failing.ended(now, now);
    }
    assert_eq!(failing.check(now, 10, 0), Err(MINUTE));
    assert!(failing.check(now, 10, 1).is_ok(), "the database knows that it held one");
}

#[test]
fn a_controller_may_restart_twelve_times_in_a_minute_by_default() {
    let now = Instant::now();
    let mut history = History::default();
    for _ in 0..=12 {
        assert!(history.check(now, 10, 0).is_ok());
        history.opened(now);
        history.closed(now);
        history.ended(now, now);
    }
    assert_eq!(history.check(now, 10, 0), Err(MINUTE));
}
