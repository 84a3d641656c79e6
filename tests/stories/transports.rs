//! What every transport must do: each case is written once, against the [`Link`] of a gateway, and runs
//! over WebSocket in both modes, server-sent events, long polling, gRPC and a transport in memory, on
//! both databases. All but the last are served by the real binary, and the links of the client library
//! connect to it, so that a case tests both ends.
//!
//! What a transport can't do, a case leaves out by the list of [`Kind`]s that it runs over.
//!
//! [`Link`]: gateway_events::client::reliable::Link

use std::sync::Arc;

use tokio::task::LocalSet;

use crate::both_databases::Backend;

mod acknowledgements;
mod admission;
mod bad_frames;
mod catch_up;
mod dead_peers;
mod delivery;
mod endings;
mod gaps;
mod instances;
mod memory;
mod peer;
mod plain;
mod test_bed;

use peer::{Peer, hello};
pub(crate) use test_bed::{Kind, transport};
use test_bed::{TestBed, World};

/// Every transport.
const ALL: &[Kind] =
    &[Kind::Plain, Kind::WebSocket, Kind::Sse, Kind::LongPoll, Kind::Grpc, Kind::Memory];
/// Those of reliable mode.
const RELIABLE: &[Kind] = &[Kind::WebSocket, Kind::Sse, Kind::LongPoll, Kind::Grpc, Kind::Memory];
/// Those that start with a hello, or its members as parameters.
const GREETED: &[Kind] = &[Kind::WebSocket, Kind::Sse, Kind::Grpc, Kind::Memory];
/// Those of the binary.
const SERVED: &[Kind] = &[Kind::Plain, Kind::WebSocket, Kind::Sse, Kind::LongPoll, Kind::Grpc];

/// Runs a case over transports, at the same time on one service, each with a gateway of its own.
async fn over<F, C>(backend: &Backend, settings: &[(&str, &str)], kinds: &[Kind], case: F)
where
    F: Fn(TestBed) -> C,
    C: Future<Output = ()> + 'static,
{
    let mut all = vec![("LIMITS__ATTEMPTS_PER_MINUTE", "1000")];
    all.extend(settings);
    let is_served = kinds.iter().any(|kind| *kind != Kind::Memory);
    let served = if is_served { Some(Arc::new(World::served(backend, &all).await)) } else { None };
    let (local, mut running) = (LocalSet::new(), Vec::new());
    for kind in kinds {
        let world = match &served {
            Some(served) if *kind != Kind::Memory => Arc::clone(served),
            _ => Arc::new(World::in_memory(backend, &all).await),
        };
        let bed = TestBed::new(world, *kind, "one").await;
        running.push((kind, local.spawn_local(case(bed))));
    }
    for (kind, case) in running {
        if let Err(failed) = local.run_until(case).await {
            let log = served.as_ref().map(|served| served.service().log()).unwrap_or_default();
            panic!("over {kind:?}: {}\n{log}", why(failed));
        }
    }
}

/// The message of a panic.
fn why(failed: tokio::task::JoinError) -> String {
    match failed.try_into_panic().map(<Box<dyn std::any::Any + Send>>::downcast::<String>) {
        Ok(Ok(message)) => *message,
        Ok(Err(panic)) => {
            panic.downcast::<&str>().map_or_else(|_| "a panic".into(), |it| (*it).into())
        }
        Err(failed) => failed.to_string(),
    }
}
