//! Turns, bounds and failures of the pool.

use std::sync::mpsc;

use super::*;

/// Keeps the only thread busy until the returned sender is dropped.
async fn blocked(pool: &Arc<Pool>) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let (begun, has_begun) = oneshot::channel();
    let pool = Arc::clone(pool);
    tokio::spawn(async move {
        let work = move || {
            _ = begun.send(());
            _ = released.recv();
        };
        pool.run(&Source::new("blocker"), work).await
    });
    has_begun.await.expect("it begins");
    release
}

/// Waits until this many jobs of a source are queued.
async fn queued(pool: &Pool, source: &Source, count: usize) {
    while pool.shared.lock().waiting.get(source).map_or(0, VecDeque::len) < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn sources_take_turns_and_each_keeps_its_order() {
    let pool = Arc::new(Pool::with_threads(1));
    let release = blocked(&pool).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut running = Vec::new();
    for (name, count) in [("many", 4), ("few", 2)] {
        for nth in 0..count {
            let (own, order) = (Arc::clone(&pool), Arc::clone(&order));
            running.push(tokio::spawn(async move {
                let work = move || order.lock().expect("whole").push((name, nth));
                own.run(&Source::new(name), work).await
            }));
            queued(&pool, &Source::new(name), nth + 1).await;
        }
    }
    drop(release);
    for job in running {
        assert_eq!(job.await.expect("a task"), Ok(()));
    }
    let expected = [("many", 0), ("few", 0), ("many", 1), ("few", 1), ("many", 2), ("many", 3)];
    assert_eq!(*order.lock().expect("whole"), expected);
}

#[tokio::test]
async fn a_source_with_too_many_waiting_jobs_is_refused_and_another_is_not() {
    let pool = Arc::new(Pool::with_threads(1));
    let release = blocked(&pool).await;
    let source = Source::new("many");
    let mut waiting = Vec::new();
    for _ in 0..MAX_QUEUED {
        let (pool, source) = (Arc::clone(&pool), source.clone());
        waiting.push(tokio::spawn(async move { pool.run(&source, || ()).await }));
    }
    queued(&pool, &source, MAX_QUEUED).await;
    assert_eq!(pool.run(&source, || ()).await, Err(ComputeError::Busy));
    let other = Arc::clone(&pool);
    let other = tokio::spawn(async move { other.run(&Source::new("other"), || 7).await });
    queued(&pool, &Source::new("other"), 1).await;
    drop(release);
    assert_eq!(other.await.expect("a task"), Ok(7));
    for job in waiting {
        assert_eq!(job.await.expect("a task"), Ok(()));
    }
}

#[tokio::test]
async fn a_panic_ends_its_job_only_and_an_abandoned_job_is_skipped() {
    let pool = Arc::new(Pool::with_threads(1));
    let source = Source::new("one");
    let panicked = pool.run(&source, || std::panic::resume_unwind(Box::new("on purpose"))).await;
    assert_eq!(panicked, Err::<(), _>(ComputeError::Panicked));
    let release = blocked(&pool).await;
    let (ran, has_run) = mpsc::channel();
    let (abandoned, own) = (Arc::clone(&pool), source.clone());
    let job = tokio::spawn(async move { abandoned.run(&own, move || ran.send(())).await });
    queued(&pool, &source, 1).await;
    job.abort();
    assert!(job.await.expect_err("aborted").is_cancelled());
    drop(release);
    assert_eq!(pool.run(&source, || 7).await, Ok(7));
    assert!(has_run.recv().is_err(), "an abandoned job has run");
}
