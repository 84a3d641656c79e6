//! Plain mode, as a link: a confirmation is the answer to the ping that asks for it.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use gateway_events::client::reliable::{Closed, ConnectError, Link, Received, Transport};
use gateway_events::transport::frames::{Ack, GatewayFrame, Hello, ServerFrame};
use serde_json::{Value, json};

use super::test_bed::World;
use crate::raw_gateway::{CLOSE, PING, RawGateway, TEXT};
use crate::support::streams::check;

pub(super) struct Plain {
    pub(super) world: Arc<World>,
    pub(super) key: String,
    /// The port to connect to, if it is not the service's.
    pub(super) through: Option<u16>,
}

#[async_trait]
impl Transport for Plain {
    /// The hello is not sent.
    async fn connect(&self, _: &Hello) -> Result<Box<dyn Link>, ConnectError> {
        let service = self.world.service();
        let port = self.through.unwrap_or(service.port);
        let gateway = RawGateway::try_connect(service, port, &self.key).await;
        let gateway = gateway.map_err(|status| {
            let retry_after = None;
            ConnectError::Refused { status, retry_after }
        })?;
        let (queue, pings) = (VecDeque::new(), Vec::new());
        Ok(Box::new(PlainLink { gateway, queue, pings, handled: 0, last: None }))
    }
}

struct PlainLink {
    gateway: RawGateway,
    /// What was read while a ping was awaited.
    queue: VecDeque<Result<ServerFrame, Closed>>,
    /// The sequences of pings that are not answered.
    pings: Vec<i64>,
    handled: i64,
    /// The last sequence that was received.
    last: Option<i64>,
}

impl PlainLink {
    /// Reads one frame.
    async fn read(&mut self) {
        let Some(frame) = self.gateway.next().await else {
            return self.queue.push_back(Err(Closed::lost("it has ended")));
        };
        match frame.opcode {
            PING => {
                let text = String::from_utf8(frame.payload).expect("text");
                match text.parse() {
                    Ok(asked) if asked > self.handled => self.pings.push(asked),
                    _ => self.gateway.pong(&text).await,
                }
            }
            TEXT => {
                let event = self.event(frame.json());
                self.queue.push_back(Ok(event));
            }
            CLOSE => {
                let code = Some(frame.code());
                self.queue.push_back(Err(Closed { code, why: "closed".to_owned() }));
            }
            other => panic!("a frame with the opcode {other}"),
        }
    }

    /// An event with the members that only reliable mode has.
    fn event(&mut self, mut frame: Value) -> ServerFrame {
        check("plain", &frame);
        let sequence = frame["sequence"].as_i64().expect("a sequence");
        frame["previous"] = json!(self.last.unwrap_or(sequence - 1));
        frame["attempt"] = json!(1);
        self.last = Some(sequence);
        let text = serde_json::to_vec(&frame).expect("JSON");
        ServerFrame::parse(&text).expect("a valid frame").expect("an event")
    }
}

#[async_trait]
impl Link for PlainLink {
    async fn receive(&mut self) -> Result<Received, Closed> {
        while self.queue.is_empty() {
            self.read().await;
        }
        self.queue.pop_front().expect("one").map(Received::Frame)
    }

    async fn send(&mut self, frames: &[GatewayFrame]) -> Result<(), Closed> {
        for frame in frames {
            let GatewayFrame::Ack(Ack { received, applied }) = frame else {
                panic!("plain mode has no {frame:?}");
            };
            let confirmed = applied.or(*received).expect("one of them").0;
            // The last event is followed by a ping that asks for it, or for a later one.
            while self.last == Some(confirmed) && !self.pings.iter().any(|it| *it >= confirmed) {
                self.read().await;
                if let Some(Err(closed)) = self.queue.back() {
                    return Err(closed.clone());
                }
            }
            self.handled = confirmed;
            for asked in self.pings.extract_if(.., |asked| *asked <= confirmed) {
                self.gateway.pong(&asked.to_string()).await;
            }
        }
        Ok(())
    }

    async fn close(&mut self) {
        self.gateway.send(true, CLOSE, &1000_u16.to_be_bytes()).await;
    }
}
