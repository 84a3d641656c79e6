//! What operators see of the nodes: their list, their status, and their capacity.

use serde_json::{Value, json};

use crate::both_databases::{Backend, on_both};

on_both! {
    each_node_is_listed_with_its_status_and_capacity
}

fn statuses(nodes: &Value) -> Vec<&str> {
    let all = nodes["list"].as_array().expect("a list").iter();
    all.map(|node| node["status"].as_str().expect("a status")).collect()
}

async fn each_node_is_listed_with_its_status_and_capacity(backend: Backend) {
    let mut service = backend.start_with(&[("DELIVERY__MAX_CONNECTIONS", "7")]).await;
    let (_, key) = service.gateway("one").await;
    let socket = service.connected(&key).await.serve();
    let nodes = service.eventually("/nodes", |nodes| nodes["list"][0]["connections"] == 1).await;
    let node = &nodes["list"][0];
    let address = format!("127.0.0.1:{}", service.port);
    assert_eq!((&node["status"], &node["address"]), (&json!("live"), &json!(address)), "{node:#}");
    assert_eq!((&node["maxConnections"], &node["version"]), (&json!(7), &json!("0.1.0")));
    let connections = service.api().get("/connections").await.expect("an answer");
    assert_eq!(connections["list"][0]["node"], node["id"], "{connections:#}");
    let stats = service.api().get("/stats").await.expect("an answer");
    assert_eq!(stats["nodes"], json!({"live": 1, "connections": 1, "maxConnections": 7}));

    let table = service.run("node list").await;
    let id = node["id"].as_str().expect("an id");
    assert!([id, "live", &address].iter().all(|it| table.well().contains(it)), "{table:?}");
    assert_eq!(service.run("node list --json").await.json()["list"][0]["id"], node["id"]);

    assert_eq!(service.terminate().await, Some(0));
    socket.await.expect("closed");
    service.restart().await;
    let nodes = service.api().get("/nodes").await.expect("an answer");
    assert_eq!(statuses(&nodes), ["live", "stopped"], "{nodes:#}");
    if matches!(backend, Backend::Sqlite) {
        // No other node can have opened the file, so this is known at once.
        service.kill().await;
        service.restart().await;
        let nodes = service.api().get("/nodes").await.expect("an answer");
        assert_eq!(statuses(&nodes), ["live", "lost", "stopped"], "{nodes:#}");
    }
}
