//! A command whose node is lost while it waits continues at another node behind the same address.

use std::time::Duration;

use tokio::process::Command;

use crate::fault_proxy::{Fault, FaultProxy};
use crate::server::Database;
use crate::support::command::run;
use crate::support::{Service, TEST_TIMEOUT};

/// Two nodes on one database behind one address.
struct Cluster {
    first: Service,
    other: Service,
    address: FaultProxy,
    directory: tempfile::TempDir,
}

impl Cluster {
    async fn start(database: &Database) -> Self {
        let first = Service::start_with(&[("DATABASE__URL", &database.url())]).await;
        let other = first.another().await;
        let address = FaultProxy::to(first.port).await;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let cluster = Self { first, other, address, directory };
        let both = [&cluster.first, &cluster.other]
            .map(|node| std::fs::read_to_string(node.certificate()).expect("a certificate"));
        std::fs::write(cluster.authorities(), both.concat()).expect("written");
        cluster
    }

    /// Each node has a certificate of its own.
    fn authorities(&self) -> std::path::PathBuf {
        self.directory.path().join("both.pem")
    }

    /// Publishes for a gateway at the common address, and waits until that has received the event.
    fn publish(&self, gateway: &str) -> Command {
        let payload = r#"{"configType":"cache","action":"update"}"#;
        let mut command = self.first.command(&format!(
            "event publish gateway.config.updated {payload} --gateway {gateway} \
             --wait received --timeout 30s"
        ));
        command
            .env("GATEWAY_EVENTS_URL", format!("https://localhost:{}", self.address.port))
            .env("GATEWAY_EVENTS_CA_FILE", self.authorities());
        command
    }

    /// Waits until an event was published, so that the command waits for the gateway.
    async fn published(&self, gateway: &str) {
        self.other.eventually(&format!("/gateways/{gateway}"), |it| it["head"] == 1).await;
    }
}

#[tokio::test]
async fn a_command_goes_on_waiting_at_another_node_when_its_own_is_killed() {
    let database = Database::new();
    let mut cluster = Cluster::start(&database).await;
    let (id, key) = cluster.first.gateway("one").await;
    let mut command = cluster.publish("one");
    let lose_node = async {
        cluster.published(&id).await;
        cluster.address.forward_to(cluster.other.port);
        cluster.first.kill().await;
        cluster.other.connected(&key).await.serve().abort_handle()
    };
    let (output, socket) = futures_util::join!(run(&mut command), lose_node);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.out.starts_with("reached: received by 1 of 1 gateways"), "{output:?}");
    socket.abort();
}

/// The node's host is gone, so nothing closes the connection.
#[tokio::test]
async fn a_command_goes_on_waiting_at_another_node_when_the_network_to_its_own_is_cut() {
    let database = Database::new();
    let cluster = Cluster::start(&database).await;
    let (id, key) = cluster.first.gateway("one").await;
    let mut command = cluster.publish("one");
    let lose_node = async {
        cluster.published(&id).await;
        cluster.address.set_fault(Fault::BlackHole);
        cluster.address.forward_to(cluster.other.port);
        // Connections that exist stay cut.
        let settled =
            tokio::time::timeout(Duration::from_millis(200), std::future::pending::<()>());
        assert!(settled.await.is_err());
        cluster.address.set_fault(Fault::None);
        let socket = cluster.other.connected(&key).await.serve().abort_handle();
        cluster.other.eventually(&format!("/gateways/{id}"), |it| it["confirmed"] == 1).await;
        socket
    };
    let both = async { futures_util::join!(run(&mut command), lose_node) };
    let both = Box::pin(tokio::time::timeout(2 * TEST_TIMEOUT, both)).await;
    let (output, socket) = both.expect("it ends in time");
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.out.starts_with("reached"), "{output:?}");
    socket.abort();
}
