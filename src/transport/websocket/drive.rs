//! Runs both halves of a socket, in either mode: reads and writes until one of them ends, then ends
//! the other.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::super::{Control, Drain, Ended, Violation};
use super::reading::ReadEnd;
use crate::event::Reason;

/// How long a peer that violated the protocol, or has been silent, has to read the close frame.
const LINGER: Duration = Duration::from_millis(250);

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// How long the peer may take to read a write.
    pub(super) write: Duration,
    /// How long the peer may take to complete the close handshake.
    pub(super) close: Duration,
}

/// The half of a socket that writes.
pub(super) trait Writer {
    /// How the service closes a connection in this mode.
    type Close: Close;

    /// Writes until the lane closes the connection or the socket fails.
    async fn run(&mut self) -> WriteEnd<Self::Close>;
    /// Sends the close frame, if the peer reads.
    async fn close(&mut self, close: Self::Close);
}

/// How the service closes a connection.
pub(super) trait Close: From<Reason> + From<Violation> {
    /// Why.
    fn reason(&self) -> Reason;
}

/// Why writing ended.
pub(super) enum WriteEnd<C> {
    /// The lane closed the connection.
    Closed(C),
    /// The peer does not read.
    TimedOut,
    /// The socket failed.
    Failed(String),
}

/// Reads and writes until one of them ends, then ends the other.
pub(super) async fn drive<W, V>(
    writer: &mut W,
    reader: impl Future<Output = ReadEnd<V>>,
    timeouts: Timeouts,
) -> Ended
where
    W: Writer,
    W::Close: for<'a> From<&'a V>,
    V: fmt::Display,
{
    let mut reader = pin!(reader);
    let written = tokio::select! {
        read = &mut reader => {
            match &read {
                ReadEnd::Violation(violation) => {
                    writer.close(violation.into()).await;
                    // The peer may have sent more. Closing now would reset the connection before
                    // the peer has read the close frame.
                    sleep(LINGER.min(timeouts.close)).await;
                }
                ReadEnd::LaneGone => writer.close(Reason::Shutdown.into()).await,
                ReadEnd::Closed(_) | ReadEnd::Lost(_) | ReadEnd::Silent(_) => {}
            }
            return read.into_ended();
        }
        written = writer.run() => written,
    };
    // What the peer has sent still counts, so reading continues to the end.
    match written {
        WriteEnd::Closed(close) => {
            let reason = close.reason();
            // A silent peer will not answer, and its failure is recorded only after this.
            let is_silent =
                matches!(reason, Reason::HeartbeatTimeout | Reason::ConfirmationTimeout);
            let wait = if is_silent { LINGER } else { timeouts.close };
            let ending = async { tokio::join!(writer.close(close), reader).1 };
            match timeout(wait, ending).await {
                Ok(read) => Ended::new(reason, String::new(), read.into_ended().by_peer),
                Err(_) => Ended::new(reason, "the peer did not answer the close".to_owned(), false),
            }
        }
        WriteEnd::TimedOut => Ended::not_read(timeouts.write),
        WriteEnd::Failed(error) => match timeout(timeouts.close, reader).await {
            Ok(read) => read.into_ended(),
            Err(_) => Ended::new(Reason::ConnectionLost, error, false),
        },
    }
}

/// What overtakes events.
#[derive(Default)]
pub(super) struct Due {
    pub(super) ping: bool,
    pub(super) drain: Option<Box<Drain>>,
}

impl Due {
    /// Notes a control message. Returns how to close the connection, if it says so.
    pub(super) fn note<C: Close>(&mut self, control: Option<Control>) -> Option<C> {
        match control {
            Some(Control::Probe) => self.ping = true,
            Some(Control::Drain(drain)) => self.drain = Some(drain),
            Some(Control::Close(reason)) => return Some(reason.into()),
            Some(Control::Violation(violation)) => return Some(violation.into()),
            None => return Some(Reason::Shutdown.into()),
        }
        None
    }

    /// Waits for the lane to close the connection while something is written.
    pub(super) async fn closed<C: Close>(&mut self, control: &mut mpsc::Receiver<Control>) -> C {
        loop {
            let received = control.recv().await;
            if let Some(close) = self.note(received) {
                return close;
            }
        }
    }
}
