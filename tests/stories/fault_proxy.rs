//! A TCP proxy between gateways and the service that can inject faults. It does not interpret TLS
//! or WebSocket, and applies a fault to all its connections.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockFilter, SockRef};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The current fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No fault.
    None,
    /// Everything is received and acknowledged, but nothing is forwarded: the peer's host is alive,
    /// but its process is not.
    Discard,
    /// No segment arrives in either direction, and none is acknowledged: the network is cut.
    BlackHole,
    /// Both ends are reset.
    Reset,
}

/// Forwards connections to a local port until it is dropped.
pub(crate) struct FaultProxy {
    pub(crate) port: u16,
    to: watch::Sender<u16>,
    fault: watch::Sender<Fault>,
    accepting: JoinHandle<()>,
}

impl FaultProxy {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let fault = watch::Sender::new(Fault::None);
        let own_port = listener.local_addr().expect("an address").port();
        let to = watch::Sender::new(port);
        let accepting = tokio::spawn(accept(listener, to.subscribe(), fault.clone()));
        Self { port: own_port, to, fault, accepting }
    }

    /// Forwards later connections to another port.
    pub(crate) fn forward_to(&self, port: u16) {
        self.to.send_replace(port);
    }

    /// Sets the fault for all connections.
    pub(crate) fn set_fault(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        // Connections that are still open end with the last sender.
        self.fault.send_replace(Fault::Reset);
    }
}

async fn accept(listener: TcpListener, to: watch::Receiver<u16>, fault: watch::Sender<Fault>) {
    loop {
        let (near, _) = listener.accept().await.expect("a connection");
        let address = SocketAddr::from(([127, 0, 0, 1], *to.borrow()));
        // If the service is down, the connection ends.
        let Ok(far) = TcpStream::connect(address).await else { continue };
        for stream in [&near, &far] {
            stream.set_nodelay(true).expect("no delay");
        }
        let (near_in, near_out) = near.into_split();
        let (far_in, far_out) = far.into_split();
        tokio::spawn(forward(near_in, far_out, fault.subscribe()));
        tokio::spawn(forward(far_in, near_out, fault.subscribe()));
    }
}

/// Forwards one direction.
async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut fault: watch::Receiver<Fault>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let current = *fault.borrow_and_update();
        match current {
            Fault::None | Fault::Discard => {}
            Fault::BlackHole => drop_segments(from.as_ref()),
            Fault::Reset => {
                let reset = SockRef::from(from.as_ref()).set_linger(Some(Duration::ZERO));
                reset.expect("a socket that can be reset");
                // If it were dropped, it would send a FIN first.
                to.forget();
                return;
            }
        }
        let reads = matches!(current, Fault::None | Fault::Discard);
        let count = tokio::select! {
            changed = fault.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            read = from.read(&mut buffer), if reads => read.unwrap_or(0),
        };
        if count == 0 {
            let _ = to.shutdown().await;
            return;
        }
        if *fault.borrow() == Fault::None && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// The kernel drops every segment before TCP receives it, so it is not acknowledged either.
fn drop_segments(stream: &TcpStream) {
    const RETURN: u16 = 0x06;
    let drop_all = [SockFilter::new(RETURN, 0, 0, 0)];
    SockRef::from(stream).attach_filter(&drop_all).expect("a filter");
}
