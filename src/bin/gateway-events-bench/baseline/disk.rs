//! The baseline of the disk: 4 KiB appended to a file and synced with fdatasync.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::figures::median;

const BLOCK: [u8; 4096] = [7; 4096];

/// The median of a synced write in milliseconds.
pub(super) async fn sync(directory: &Path, time: Duration) -> anyhow::Result<f64> {
    let path = directory.join("sync");
    let measured = tokio::task::spawn_blocking(move || {
        let mut file = File::create(path)?;
        let started = Instant::now();
        let mut taken = Vec::new();
        while taken.is_empty() || started.elapsed() < time {
            let before = Instant::now();
            file.write_all(&BLOCK)?;
            file.sync_data()?;
            taken.push(before.elapsed().as_secs_f64() * 1e3);
        }
        std::io::Result::Ok(taken)
    });
    median(measured.await??).context("nothing was written")
}
