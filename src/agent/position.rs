//! Where the agent stores its position.

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{MAX_PAUSE, millis};
use crate::backoff::Backoff;
use crate::client::reliable::{FilePosition, PositionError, PositionStore, StoredPosition};

/// A position file that is tried again while it can't be written, for example because the disk is full.
///
/// An agent that ended instead would be started again, and would hand over an event that the product
/// has applied, until the service gave the event up.
#[derive(Debug)]
pub struct RetryingPosition {
    file: FilePosition,
    stop: CancellationToken,
}

impl RetryingPosition {
    /// Stores positions in this file. After `stop`, a failure is not tried again.
    pub const fn new(file: FilePosition, stop: CancellationToken) -> Self {
        Self { file, stop }
    }
}

#[async_trait]
impl PositionStore for RetryingPosition {
    async fn load(&self) -> Result<Option<StoredPosition>, PositionError> {
        self.file.load().await
    }

    async fn save(&self, position: &StoredPosition) -> Result<(), PositionError> {
        let mut pauses = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        loop {
            let error = match self.file.save(position).await {
                Err(error @ PositionError::Io { .. }) if !self.stop.is_cancelled() => error,
                ended => return ended,
            };
            let pause = pauses.next_pause();
            tracing::error!(
                %error,
                sequence = position.position.sequence.0,
                retry_in_ms = millis(pause),
                "the event is applied, but it can't be confirmed before its position is stored"
            );
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// The first pause before another attempt; it doubles up to a minute.
const FIRST_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
