//! Executes what the [`ClientState`] decides: connects, reads, runs the handler, stores positions, and keeps
//! the times.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::state::{Action, ClientState, Disconnect, Settings};
use super::{
    Client, ClientError, Closed, ConnectError, Handler, Link, Notice, Outcome, PositionError,
    Received,
};
use crate::backoff::Backoff;
use crate::transport::frames::{Credit, DeliveryGap, GatewayFrame, ServerFrame, close_code};

#[cfg(test)]
mod tests;

/// A service that sends nothing for this many of its heartbeats is dead.
const MISSED_HEARTBEATS: u32 = 3;
/// How much longer than its pause a repetition may take.
const RETRY_MARGIN: Duration = Duration::from_secs(30);
/// A connection that lasted for so long was a success: the next pause is a short one.
const STABLE: Duration = Duration::from_secs(10);
/// Frames that may wait beyond the window: marks.
const SLACK: u32 = 64;

/// A running client.
pub(super) struct Driver<'a> {
    client: &'a Client,
    state: ClientState,
    tasks: Tasks,
    stop: CancellationToken,
    is_stopped: bool,
    credit: watch::Receiver<Credit>,
    backoff: Backoff,
}

/// What runs besides the connection, and outlives it.
#[derive(Default)]
struct Tasks {
    handling: Option<BoxFuture<'static, Outcome>>,
    reading: Option<BoxFuture<'static, ()>>,
    saving: Option<BoxFuture<'static, Result<(), PositionError>>>,
}

enum Done {
    Handled(Outcome),
    SnapshotRead,
    Saved(Result<(), PositionError>),
}

impl Tasks {
    /// Waits until one of them is done. Cancel-safe.
    async fn next(&mut self) -> Done {
        let Self { handling, reading, saving } = self;
        tokio::select! {
            // Each of them ends once, so none can starve another.
            biased;
            outcome = ready(handling) => Done::Handled(outcome),
            () = ready(reading) => Done::SnapshotRead,
            saved = ready(saving) => Done::Saved(saved),
        }
    }
}

/// The result of a future, which is removed then; never if there is none.
async fn ready<T>(task: &mut Option<BoxFuture<'static, T>>) -> T {
    match task {
        Some(future) => {
            let result = future.await;
            *task = None;
            result
        }
        None => std::future::pending().await,
    }
}

/// How a connection ended.
enum End {
    /// The client closed it.
    Closed(Disconnect),
    /// The service closed it, or it broke.
    Lost(Closed),
}

/// The times at which a connection needs attention.
struct Times {
    opened: Instant,
    heartbeat: Duration,
    received: Instant,
    flush: Option<Instant>,
    progress: Option<Instant>,
    retry: Option<Instant>,
}

impl<'a> Driver<'a> {
    /// Loads the position.
    pub(super) async fn start(
        client: &'a Client,
        stop: CancellationToken,
    ) -> Result<Self, ClientError> {
        let options = &client.options;
        let position = client.store.load().await?;
        let settings = Settings {
            instance: options.instance.clone(),
            start: options.start.clone(),
            window: options.window,
            window_bytes: options.window_bytes,
            types: options.types.clone(),
            confirm: options.confirm,
            envelope: options.envelope,
            batch: options.batch,
        };
        let mut credit = client.credit.subscribe();
        let mut state = ClientState::new(settings, position);
        let Credit { window, window_bytes } = *credit.borrow_and_update();
        state.credit(window, window_bytes);
        let backoff = options.backoff;
        Ok(Self {
            client,
            state,
            tasks: Tasks::default(),
            stop,
            is_stopped: false,
            credit,
            backoff,
        })
    }

    pub(super) async fn run(mut self) -> Result<(), ClientError> {
        loop {
            if !self.settle().await? {
                return Ok(());
            }
            let hello = self.state.connect();
            let client = self.client;
            let connecting = client.transport.connect(&hello);
            let Some(connected) = self.meanwhile(connecting).await? else {
                continue;
            };
            let wait = match connected {
                Ok(mut link) => {
                    let (end, opened) = self.connection(link.as_mut()).await?;
                    self.ended(end, opened).await?
                }
                Err(error) => self.refused(error).await?,
            };
            self.meanwhile(sleep(wait)).await?;
        }
    }

    /// Waits until the next connection may be opened; false if the client has stopped.
    async fn settle(&mut self) -> Result<bool, ClientError> {
        loop {
            self.perform_offline();
            if self.is_stopped {
                if self.state.is_finished() {
                    return Ok(false);
                }
            } else if !self.state.is_saving() {
                return Ok(true);
            }
            self.step().await?;
        }
    }

    /// Awaits a future while the tasks continue; `None` if the client is stopped first.
    async fn meanwhile<T>(
        &mut self,
        future: impl Future<Output = T>,
    ) -> Result<Option<T>, ClientError> {
        let mut future = std::pin::pin!(future);
        while !self.is_stopped {
            self.perform_offline();
            tokio::select! {
                // The future ends once.
                biased;
                result = &mut future => return Ok(Some(result)),
                stepped = self.step() => stepped?,
            }
        }
        self.state.disconnected();
        Ok(None)
    }

    /// Waits for the next thing that happens without a connection.
    async fn step(&mut self) -> Result<(), ClientError> {
        tokio::select! {
            // The stop counts once, and a task is followed by another one only after this returns, so
            // only the credit can wait, for an application that changes it continuously.
            biased;
            () = self.stop.cancelled(), if !self.is_stopped => self.stop_now(),
            done = self.tasks.next() => self.done(done)?,
            Ok(()) = self.credit.changed() => self.credit_changed(),
        }
        Ok(())
    }

    fn stop_now(&mut self) {
        self.is_stopped = true;
        self.tasks.reading = None;
        self.state.stop();
    }

    fn credit_changed(&mut self) {
        let Credit { window, window_bytes } = *self.credit.borrow_and_update();
        self.state.credit(window, window_bytes);
    }

    fn done(&mut self, done: Done) -> Result<(), ClientError> {
        match done {
            Done::Handled(outcome) => self.state.handled(outcome),
            Done::SnapshotRead => self.state.snapshot_read(),
            Done::Saved(saved) => {
                saved?;
                self.state.saved();
            }
        }
        Ok(())
    }

    /// Executes the actions that need no connection. There are no others without one.
    fn perform_offline(&mut self) {
        while let Some(action) = self.state.next_action() {
            self.perform(action);
        }
    }

    /// Executes an action; returns it if it needs a connection.
    fn perform(&mut self, action: Action) -> Option<Action> {
        match action {
            Action::Handle(event) => {
                let handler = Arc::clone(&self.client.handler);
                self.tasks.handling = Some(Box::pin(async move { handler.handle(*event).await }));
            }
            Action::ReadSnapshot(gap) => {
                let handler = Arc::clone(&self.client.handler);
                let backoff = self.client.options.backoff;
                self.tasks.reading = Some(Box::pin(read_snapshot(handler, gap, backoff)));
            }
            Action::Save(position) => {
                let store = Arc::clone(&self.client.store);
                self.tasks.saving = Some(Box::pin(async move { store.save(&position).await }));
            }
            action @ (Action::Send(_) | Action::Disconnect(_)) => return Some(action),
        }
        None
    }

    /// Serves a connection to its end. Also returns since when it was open.
    async fn connection(&mut self, link: &mut dyn Link) -> Result<(End, Instant), ClientError> {
        let now = Instant::now();
        let mut times = Times {
            opened: now,
            heartbeat: RETRY_MARGIN,
            received: now,
            flush: None,
            progress: None,
            retry: None,
        };
        loop {
            if let Some(end) = self.perform_online(link, &mut times).await {
                return Ok((end, times.opened));
            }
            self.update(&mut times);
            let limit = self.state.limits().map_or(0, |limits| limits.window);
            let limit = usize::try_from(limit.saturating_add(SLACK)).unwrap_or(usize::MAX);
            let has_room = self.state.waiting() < limit;
            // While nothing is read, silence does not mean that the service is gone.
            let silent = times.received + times.heartbeat * MISSED_HEARTBEATS;
            tokio::select! {
                // The service may send continuously, so frames come after what is due meanwhile. That
                // ends once, or is due again only after some time, so it can't starve the frames. A
                // frame that has arrived counts before the last two deadlines.
                biased;
                stepped = self.step() => {
                    stepped?;
                    if !has_room {
                        times.received = Instant::now();
                    }
                }
                () = until(times.flush) => {
                    times.flush = None;
                    self.state.flush();
                }
                () = until(times.progress) => {
                    times.progress = None;
                    self.state.progress();
                }
                received = link.receive(), if has_room => {
                    times.received = Instant::now();
                    match received {
                        Ok(Received::Frame(frame)) => self.receive(frame, &mut times).await,
                        Ok(Received::Alive) => {}
                        Err(closed) => return Ok((End::Lost(closed), times.opened)),
                    }
                }
                () = until(times.retry) => {
                    let why = "the refused event did not come again".to_owned();
                    link.close().await;
                    return Ok((End::Closed(Disconnect::Broken(why)), times.opened));
                }
                () = sleep_until(silent), if has_room => {
                    let why = "the service was silent for too long".to_owned();
                    link.close().await;
                    return Ok((End::Closed(Disconnect::Broken(why)), times.opened));
                }
            }
        }
    }

    /// Executes all actions; how the connection ended, if it did.
    async fn perform_online(&mut self, link: &mut dyn Link, times: &mut Times) -> Option<End> {
        let mut frames = Vec::new();
        let mut disconnect = None;
        while let Some(action) = self.state.next_action() {
            match self.perform(action) {
                Some(Action::Send(frame)) => {
                    if let GatewayFrame::Nack(nack) = &frame
                        && nack.retryable
                    {
                        let after = Duration::from_millis(nack.retry_after_ms.unwrap_or(0));
                        times.retry = Some(Instant::now() + after + RETRY_MARGIN);
                    }
                    frames.push(frame);
                }
                Some(Action::Disconnect(why)) => disconnect = Some(why),
                _ => {}
            }
        }
        if !frames.is_empty()
            && let Err(closed) = link.send(&frames).await
        {
            return Some(End::Lost(closed));
        }
        let why = disconnect?;
        link.close().await;
        Some(End::Closed(why))
    }

    /// Sets the times that follow from the state.
    fn update(&self, times: &mut Times) {
        let options = &self.client.options;
        let now = Instant::now();
        let is_waiting = self.state.has_unconfirmed() && !self.state.is_saving();
        times.flush = is_waiting.then(|| times.flush.unwrap_or(now + options.batch_delay));
        let is_handling = self.tasks.handling.is_some();
        times.progress =
            is_handling.then(|| times.progress.unwrap_or(now + options.progress_interval));
        times.retry = times.retry.filter(|_| self.state.is_retrying());
    }

    async fn receive(&mut self, frame: ServerFrame, times: &mut Times) {
        let notice = match &frame {
            ServerFrame::Ack(ack) => {
                times.heartbeat = Duration::from_millis(ack.heartbeat_ms.max(1000));
                Some(Notice::Connected(ack.clone()))
            }
            ServerFrame::Resumed(resumed) => Some(Notice::Resumed(*resumed)),
            _ => None,
        };
        self.state.receive(frame);
        if let Some(notice) = notice {
            self.client.handler.notice(notice).await;
        }
    }

    /// After a connection; returns the pause before the next one.
    async fn ended(&mut self, end: End, opened: Instant) -> Result<Duration, ClientError> {
        let drain = self.state.drain();
        let error = self.state.error().cloned();
        self.state.disconnected();
        let (code, why, is_drained) = match end {
            End::Closed(Disconnect::Stopped) => return Ok(Duration::ZERO),
            End::Closed(Disconnect::OtherGateway { stored, connected }) => {
                return Err(ClientError::OtherGateway { stored, connected });
            }
            End::Closed(Disconnect::Drained(_)) => (None, "drained".to_owned(), true),
            End::Closed(Disconnect::Broken(why)) => (None, why, false),
            End::Lost(closed) => {
                let is_drained = closed.code == Some(close_code::DRAIN);
                (closed.code, closed.why, is_drained)
            }
        };
        let why = error.map_or(why, |error| format!("{}: {}", error.code, error.message));
        if let Some(code) = code.filter(|code| close_code::is_final(*code)) {
            self.finish().await?;
            return Err(ClientError::Closed { code, why });
        }
        let wait = match drain {
            // The service has spread the slots.
            Some(after) if is_drained => {
                self.backoff.reset();
                after
            }
            _ => {
                if opened.elapsed() >= STABLE && code != Some(close_code::REPLACED) {
                    self.backoff.reset();
                }
                self.backoff.next_full_jitter()
            }
        };
        self.client.handler.notice(Notice::Disconnected { code, why, wait }).await;
        Ok(wait)
    }

    /// After a failed attempt to connect; returns the pause before the next one.
    async fn refused(&mut self, error: ConnectError) -> Result<Duration, ClientError> {
        self.state.disconnected();
        let end = match &error {
            ConnectError::Refused { status, .. } if error.is_final() => {
                Some(ClientError::Refused(*status))
            }
            ConnectError::Unsupported(what) => Some(ClientError::Unsupported(what)),
            _ => None,
        };
        if let Some(end) = end {
            self.finish().await?;
            return Err(end);
        }
        let mut wait = self.backoff.next_full_jitter();
        if let ConnectError::Refused { retry_after: Some(after), .. } = &error {
            wait += *after;
        }
        self.client.handler.notice(Notice::Failed { why: error.to_string(), wait }).await;
        Ok(wait)
    }

    /// Finishes the current event and stores the position.
    async fn finish(&mut self) -> Result<(), ClientError> {
        self.stop_now();
        self.settle().await.map(|_| ())
    }
}

/// Reads a snapshot, with pauses between failed attempts.
async fn read_snapshot(handler: Arc<dyn Handler>, gap: DeliveryGap, mut backoff: Backoff) {
    while let Err(error) = handler.read_snapshot(&gap).await {
        let wait = backoff.next_full_jitter();
        handler.notice(Notice::SnapshotFailed { why: error.to_string(), wait }).await;
        sleep(wait).await;
    }
}

/// Waits until then; forever if there is no time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
