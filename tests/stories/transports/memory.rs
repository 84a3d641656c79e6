//! A transport in memory: the link between a lane and a gateway, without anything in between.

use std::sync::Arc;

use async_trait::async_trait;
use gateway_events::client::reliable::{Closed, ConnectError, Link, Received, Transport};
use gateway_events::clock::Timestamp;
use gateway_events::dispatch::{Admission, Dispatcher};
use gateway_events::event::{GatewayId, OrganisationKey, Reason};
use gateway_events::store::Store;
use gateway_events::transport::frames::{FrameError, GatewayFrame, Hello, ServerFrame};
use gateway_events::transport::reliable::Encoding;
use gateway_events::transport::{self, Control, Ended, Incoming, TransportEnd, reliable};

/// The size of the largest frame, which peers in memory don't check.
const FRAME_BYTES: u64 = 1 << 20;

pub(super) struct Memory {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) store: Arc<dyn Store>,
    pub(super) organisation: OrganisationKey,
    pub(super) id: GatewayId,
    /// Stands for the key.
    pub(super) token: String,
}

#[async_trait]
impl Transport for Memory {
    async fn connect(&self, hello: &Hello) -> Result<Box<dyn Link>, ConnectError> {
        let failed = |error: &dyn std::fmt::Display| ConnectError::Failed(error.to_string());
        let unavailable = ConnectError::Refused { status: 503, retry_after: None };
        let permit = self.dispatcher.try_admit().ok_or(unavailable)?;
        let gateway = self.store.gateway(self.organisation, self.id).await;
        let gateway = gateway.map_err(|error| failed(&error))?.expect("a gateway");
        let admission = Admission {
            gateway: gateway.key,
            gateway_id: self.id,
            gateway_name: "one".into(),
            organisation: self.organisation,
            token: self.token.clone(),
            token_expires_at: None,
            transport: "memory",
            remote_address: "127.0.0.1".to_owned(),
        };
        let greeted = self.dispatcher.greet(permit, admission).await;
        let greeted = greeted.map_err(|error| failed(&error))?;
        let greeting = greeted.greeting();
        let session =
            greeted.open(reliable::request(hello.clone())).await.map_err(|error| failed(&error))?;
        let (lane, end) = transport::link();
        session.start(lane);
        let ack = reliable::connection_ack(&greeting, FRAME_BYTES, Timestamp::now());
        let first = ServerFrame::Ack(ack);
        let encoding = Encoding { epoch: greeting.greeting.epoch, envelope: hello.envelope };
        Ok(Box::new(MemoryLink { end, encoding, next: Some(Ok(first)), closed: None }))
    }
}

struct MemoryLink {
    end: TransportEnd,
    encoding: Encoding,
    /// What comes next, whatever the lane says.
    next: Option<Result<ServerFrame, Closed>>,
    /// The end, after a frame that announces it.
    closed: Option<Closed>,
}

impl MemoryLink {
    fn violation(&mut self, error: &FrameError) {
        let why = error.code.as_str().to_owned();
        let code = Some(reliable::close_code(Reason::ProtocolError));
        self.next = Some(Ok(ServerFrame::Error(reliable::violation(error))));
        self.closed = Some(Closed { code, why });
    }

    async fn ended(&mut self, reason: Reason) {
        let (detail, shared) = (String::new(), Vec::new());
        let ended = Ended { reason, detail, by_peer: false, shared };
        let _ = self.end.incoming.send(Incoming::Ended(Box::new(ended))).await;
    }

    async fn close_for(&mut self, reason: Reason) {
        self.ended(reason).await;
        let code = Some(reliable::close_code(reason));
        self.closed = Some(Closed { code, why: reason.as_str().to_owned() });
        self.next = reliable::connection_error(reason).map(|error| Ok(ServerFrame::Error(error)));
    }
}

#[async_trait]
impl Link for MemoryLink {
    async fn receive(&mut self) -> Result<Received, Closed> {
        loop {
            if let Some(next) = self.next.take() {
                return next.map(Received::Frame);
            }
            if let Some(closed) = self.closed.clone() {
                return Err(closed);
            }
            tokio::select! {
                biased;
                control = self.end.control.recv() => match control {
                    Some(Control::Probe) => {
                        let _ = self.end.incoming.try_send(Incoming::Alive);
                        return Ok(Received::Alive);
                    }
                    Some(Control::Drain(drain)) => {
                        return Ok(Received::Frame(ServerFrame::Drain((*drain).into())));
                    }
                    Some(Control::Close(reason)) => self.close_for(reason).await,
                    Some(Control::Violation(violation)) => {
                        self.ended(Reason::ProtocolError).await;
                        self.violation(&violation.into());
                    }
                    None => self.closed = Some(Closed::lost("the lane has ended")),
                },
                Some(outgoing) = self.end.events.recv() => {
                    let text = self.encoding.text(&outgoing);
                    let frame = ServerFrame::parse(&text).expect("a valid frame");
                    return Ok(Received::Frame(frame.expect("a known frame")));
                }
            }
        }
    }

    async fn send(&mut self, frames: &[GatewayFrame]) -> Result<(), Closed> {
        for frame in frames {
            let read = match GatewayFrame::parse(&frame.to_text()) {
                Ok(Some(frame)) => reliable::incoming(frame).map(Iterator::collect::<Vec<_>>),
                Ok(None) => Ok(Vec::new()),
                Err(error) => Err(error),
            };
            match read {
                Ok(messages) => {
                    for message in messages {
                        let _ = self.end.incoming.send(message).await;
                    }
                }
                Err(error) => {
                    self.ended(Reason::ProtocolError).await;
                    self.violation(&error);
                }
            }
        }
        Ok(())
    }

    async fn close(&mut self) {
        self.ended(Reason::ClosedByGateway).await;
    }
}
