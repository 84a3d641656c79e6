//! A transport of text lines over any byte stream. It shows that a transport needs only the public
//! contract.
//!
//! To the gateway: `HELLO gateway connection`, `EVENT sequence payload`, `PROBE`, `CLOSE reason`.
//! From the gateway: `ACK sequence`, `ALIVE`. Each event is acknowledged separately, so events
//! never share a receipt.

use std::time::Duration;

use gateway_events::event::{Reason, Sequence};
use gateway_events::transport::{
    Control, Ended, Greeting, Incoming, InvalidMessage, Outgoing, OutgoingEvent, TransportEnd,
};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader, split,
};
use tokio::time::timeout;

/// The longest line that a gateway may send, in bytes.
const MAX_LINE_BYTES: usize = 1024;

/// Runs a connection to its end.
pub(crate) async fn run(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    greeting: Greeting,
    end: TransportEnd,
    write_timeout: Duration,
) {
    let (read, mut write) = split(stream);
    let mut read = BufReader::new(read);
    let TransportEnd { mut events, mut control, incoming } = end;
    let hello = format!("HELLO {} {}\n", greeting.gateway_id, greeting.connection_id);
    let writing = async {
        let mut next = Some(hello);
        loop {
            if let Some(line) = next.take() {
                let writing = write.write_all(line.as_bytes());
                // A close does not wait for a write.
                tokio::select! {
                    biased;
                    reason = closed(&mut control) => return reason,
                    written = timeout(write_timeout, writing) => match written {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return Reason::ConnectionLost,
                        Err(_) => return Reason::WriteTimeout,
                    },
                }
            }
            tokio::select! {
                biased;
                received = control.recv() => match received {
                    Some(Control::Probe) => next = Some("PROBE\n".to_owned()),
                    Some(Control::Drain(_)) => {}
                    Some(Control::Violation(_)) => return Reason::ProtocolError,
                    Some(Control::Close(reason)) => {
                        let close = format!("CLOSE {}\n", reason.as_str());
                        let _ = timeout(write_timeout, write.write_all(close.as_bytes())).await;
                        return reason;
                    }
                    None => return Reason::Shutdown,
                },
                Some(outgoing) = events.recv() => {
                    let Outgoing::Event(outgoing) = *outgoing else { continue };
                    let OutgoingEvent { sequence, event, .. } = outgoing;
                    next = Some(format!("EVENT {} {}\n", sequence.0, event.payload.get()));
                }
            }
        }
    };
    let reading = async {
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut limited = tokio::io::AsyncReadExt::take(&mut read, MAX_LINE_BYTES as u64);
            match limited.read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return Reason::ConnectionLost,
                Ok(_) if line.last() != Some(&b'\n') => return Reason::ProtocolError,
                Ok(_) => {}
            }
            let text = String::from_utf8_lossy(&line);
            let message = match text.trim_end().split_once(' ') {
                None if text.trim_end() == "ALIVE" => Incoming::Alive,
                Some(("ACK", number)) => {
                    number.parse().map_or(Incoming::Invalid(InvalidMessage::Malformed), |number| {
                        Incoming::Receipt(Sequence(number))
                    })
                }
                _ => Incoming::Invalid(InvalidMessage::UnknownType),
            };
            if incoming.send(message).await.is_err() {
                return Reason::Shutdown;
            }
        }
    };
    let (reason, by_peer) = tokio::select! {
        reason = writing => (reason, false),
        reason = reading => (reason, true),
    };
    let ended = Ended { reason, detail: String::new(), by_peer, shared: Vec::new() };
    let _ = incoming.send(Incoming::Ended(Box::new(ended))).await;
}

/// Waits for a close. Probes are not needed while something is being written.
async fn closed(control: &mut tokio::sync::mpsc::Receiver<Control>) -> Reason {
    loop {
        match control.recv().await {
            Some(Control::Close(reason)) => return reason,
            Some(Control::Violation(_)) => return Reason::ProtocolError,
            Some(Control::Probe | Control::Drain(_)) => {}
            None => return Reason::Shutdown,
        }
    }
}
