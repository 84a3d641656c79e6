//! Named instances on several nodes.

use serde_json::json;

use super::peer::Peer;
use crate::server::Database;
use crate::support::Service;

#[tokio::test]
async fn an_instance_that_connects_to_another_node_is_closed_here() {
    let database = Database::new();
    let service = Service::start_with(&[("DATABASE__URL", &database.url())]).await;
    let second = service.another().await;
    let (_, key) = service.gateway("one").await;
    let mut earlier = Peer::connect(&service, &key, json!({"instance": "one"})).await;
    let _later = Peer::connect(&second, &key, json!({"instance": "one"})).await;
    assert_eq!(earlier.closed().await.0, 4009);
}
