//! Writes log lines to standard error on a separate thread, so that no task waits for a slow reader
//! or fails with it. The queue is bounded. A line that does not fit, or that can't be written, is
//! dropped and counted. The number is logged as soon as the log can be written again.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use crate::metric;

/// Capacity of the queue, in lines and in bytes.
const QUEUE_LINES: usize = 8192;
const QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// The minimum interval between two lines about dropped lines.
const NOTICE_INTERVAL: Duration = Duration::from_secs(1);
/// The interval between retries of a write that would block, and of adding to a full queue.
const RETRY: Duration = Duration::from_millis(10);

/// Formats a line about the number of dropped lines.
pub(super) type Notice = fn(u64) -> String;

enum Message {
    Line(Vec<u8>),
    /// Answered when all lines before it have been written.
    Flush(SyncSender<()>),
}

#[derive(Debug, Default)]
struct Counts {
    queued_bytes: AtomicUsize,
    dropped: AtomicU64,
}

impl Counts {
    fn drop_line(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(metric::LOG_LINES_DROPPED).increment(1);
    }
}

/// A writer of whole lines. Cheap to clone; never blocks and never fails.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    queue: SyncSender<Message>,
    counts: Arc<Counts>,
}

impl Lines {
    /// Starts the thread.
    pub(super) fn start(out: impl Write + Send + 'static, notice: Notice) -> io::Result<Self> {
        let (queue, waiting) = sync_channel(QUEUE_LINES);
        let counts = Arc::new(Counts::default());
        let output = Output {
            out,
            notice,
            counts: Arc::clone(&counts),
            reported: 0,
            reported_at: None,
            ends_in_mid_line: false,
        };
        std::thread::Builder::new().name("log".to_owned()).spawn(move || output.run(&waiting))?;
        Ok(Self { queue, counts })
    }

    /// Waits until all lines so far have been written or dropped, at most `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let (done, written) = sync_channel(1);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.queue.try_send(Message::Flush(done.clone())) {
                Ok(()) => {
                    let _ = written.recv_timeout(left);
                    return;
                }
                Err(TrySendError::Full(_)) if !left.is_zero() => pause(RETRY.min(left)),
                Err(_) => return,
            }
        }
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let bytes = line.len();
        let queued = self.counts.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = queued.saturating_add(bytes) <= QUEUE_BYTES;
        if !fits || self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.counts.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.drop_line();
        }
        Ok(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread's state.
struct Output<W> {
    out: W,
    notice: Notice,
    counts: Arc<Counts>,
    /// Dropped lines that have been reported, and when.
    reported: u64,
    reported_at: Option<Instant>,
    /// Whether a write failed in the middle of a line.
    ends_in_mid_line: bool,
}

impl<W: Write> Output<W> {
    fn run(mut self, waiting: &Receiver<Message>) {
        while let Ok(message) = waiting.recv() {
            match message {
                Message::Line(line) => {
                    let written = self.put(&line);
                    self.counts.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
                    if written.is_err() {
                        self.counts.drop_line();
                    } else if self.reported_at.is_none_or(|at| at.elapsed() >= NOTICE_INTERVAL) {
                        self.report();
                    }
                }
                Message::Flush(done) => {
                    self.report();
                    let _ = self.out.flush();
                    let _ = done.try_send(());
                }
            }
        }
    }

    /// Writes how many lines were dropped since the last report.
    fn report(&mut self) {
        let dropped = self.counts.dropped.load(Ordering::Relaxed);
        if dropped == self.reported {
            return;
        }
        let notice = (self.notice)(dropped - self.reported);
        if self.put(notice.as_bytes()).is_ok() {
            self.reported = dropped;
            self.reported_at = Some(Instant::now());
        }
    }

    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        if self.ends_in_mid_line {
            self.write_all(b"\n")?;
            self.ends_in_mid_line = false;
        }
        self.write_all(line)
    }

    fn write_all(&mut self, mut rest: &[u8]) -> io::Result<()> {
        let length = rest.len();
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another program has made this terminal or pipe non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => pause(RETRY),
                Err(error) => {
                    self.ends_in_mid_line |= rest.len() < length;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "the log's thread, or the end of the process")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Accepts this many more bytes, and then fails until more room is given.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(usize, Vec<u8>)>>);

    impl Disk {
        fn give(&self, room: usize) {
            self.0.lock().unwrap().0 = room;
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().1.clone()).unwrap()
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut disk = self.0.lock().unwrap();
            let fits = bytes.len().min(disk.0);
            if fits == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            disk.0 -= fits;
            disk.1.extend(&bytes[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const LIMIT: Duration = Duration::from_secs(20);

    fn lines(out: impl Write + Send + 'static) -> Lines {
        Lines::start(out, |dropped| format!("{dropped} dropped\n")).unwrap()
    }

    #[test]
    fn lines_that_a_full_disk_refuses_are_counted_and_reported_later() {
        let disk = Disk::default();
        disk.give(8);
        let mut lines = lines(disk.clone());
        lines.write_all(b"one\n").unwrap();
        lines.write_all(b"too long\n").unwrap();
        lines.write_all(b"two\n").unwrap();
        lines.flush(LIMIT);
        disk.give(100);
        lines.write_all(b"three\n").unwrap();
        lines.flush(LIMIT);
        assert_eq!(disk.text(), "one\ntoo \nthree\n2 dropped\n");
    }

    #[test]
    fn a_reader_that_stalls_blocks_nothing_and_the_queue_is_bounded() {
        let (reader, writer) = io::pipe().unwrap();
        let mut lines = lines(writer);
        let line = [b'x'; 1024];
        for _ in 0..2 * QUEUE_LINES {
            lines.write_all(&line).unwrap();
        }
        assert!(lines.counts.queued_bytes.load(Ordering::Relaxed) <= QUEUE_BYTES);
        assert!(lines.counts.dropped.load(Ordering::Relaxed) >= (QUEUE_LINES / 2) as u64);
        let began = Instant::now();
        lines.flush(Duration::from_millis(100));
        assert!(began.elapsed() >= Duration::from_millis(100));
        // A reader that goes away is an error for the thread alone.
        drop(reader);
        lines.flush(LIMIT);
        lines.write_all(&line).unwrap();
    }
}
