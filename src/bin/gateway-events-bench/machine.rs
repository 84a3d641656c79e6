//! Properties of the machine and resource usage of processes, from /proc on Linux.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::task::JoinHandle;

use crate::figures::{Better, Figure, float};

const MEMORY_INTERVAL: Duration = Duration::from_millis(10);

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The operating system and the kernel's release.
pub(crate) fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} {}", std::env::consts::OS, release.trim()).trim_end().to_owned()
}

/// Raises the soft limit on open files to the hard limit, for this process and its
/// children: every socket counts.
pub(crate) fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Smaller measurements work with the old limit, too.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Watches the resident memory of a process.
pub(crate) struct PeakMemory {
    before: u64,
    peak: Arc<AtomicU64>,
    watching: JoinHandle<()>,
}

impl PeakMemory {
    /// Starts watching; `None` if the memory can't be read.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let before = resident_bytes(pid)?;
        let peak = Arc::new(AtomicU64::new(before));
        let highest = Arc::clone(&peak);
        let watching = tokio::spawn(async move {
            let mut looks = tokio::time::interval(MEMORY_INTERVAL);
            while let Some(bytes) = resident_bytes(pid) {
                highest.fetch_max(bytes, Ordering::Relaxed);
                looks.tick().await;
            }
        });
        Some(Self { before, peak, watching })
    }

    /// The memory at the start and at most since then.
    pub(crate) fn figures(&self, name: &str) -> [Figure; 2] {
        let peak = self.peak.load(Ordering::Relaxed);
        [("Before", self.before), ("Peak", peak)].map(|(when, bytes)| {
            let mebibytes = float(bytes) / 1_048_576.0;
            Figure::new(&format!("{name}{when}"), mebibytes, "MiB", Better::Lower)
        })
    }
}

impl Drop for PeakMemory {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// User and system time that a process has used.
fn processor_time(pid: &str) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may contain spaces.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: Vec<u64> =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    let [user, system] = ticks.as_slice() else { return None };
    let nanos = (user + system) * 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_nanos(nanos))
}

/// Measures the processor time of the load generator and the server.
pub(crate) struct Meter {
    started: Instant,
    server: Option<u32>,
    before: [Option<Duration>; 2],
}

/// Processor time used between [`Meter::start`] and [`Meter::stop`].
pub(crate) struct Used {
    elapsed: Duration,
    generator: Option<Duration>,
    server: Option<Duration>,
}

impl Meter {
    pub(crate) fn start(server: Option<u32>) -> Self {
        Self { started: Instant::now(), server, before: read(server) }
    }

    pub(crate) fn stop(&self) -> Used {
        let [generator, server] = read(self.server);
        let since =
            |now: Option<Duration>, before: Option<Duration>| Some(now?.saturating_sub(before?));
        Used {
            elapsed: self.started.elapsed(),
            generator: since(generator, self.before[0]),
            server: since(server, self.before[1]),
        }
    }
}

fn read(server: Option<u32>) -> [Option<Duration>; 2] {
    [processor_time("self"), server.and_then(|pid| processor_time(&pid.to_string()))]
}

impl Used {
    /// The average number of busy cores, and the server's time per event.
    pub(crate) fn figures(&self, events: u64) -> Vec<Figure> {
        let cores = |used: Duration| used.as_secs_f64() / self.elapsed.as_secs_f64();
        let mut figures = Vec::new();
        if let Some(server) = self.server {
            figures.push(Figure::new("serverCores", cores(server), "cores", Better::Neither));
            let each = server.as_secs_f64() * 1e6 / float(events.max(1));
            figures.push(Figure::new("serverCpuPerEvent", each, "µs", Better::Lower));
        }
        if let Some(generator) = self.generator {
            figures.push(Figure::new("generatorCores", cores(generator), "cores", Better::Neither));
        }
        figures
    }

    /// Processor time of the server, if its process is known.
    pub(crate) fn server_time(&self) -> Option<Duration> {
        self.server
    }
}
