//! The first frames.

use serde_json::json;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::peer::Peer;
use crate::support::{Service, deployed};

#[tokio::test]
async fn the_first_frame_has_the_limits_and_delivery_starts_with_the_hello() {
    let service = Service::start().await;
    let (id, key) = service.gateway("one").await;
    for deployment in ["d-1", "d-2"] {
        service.api().post("/events", &deployed(&[&id], deployment)).await.expect("accepted");
    }
    let mut peer = Peer::greet(&service, &key).await;
    let ack = peer.ack.clone();
    assert_eq!(ack["gatewayId"], id.as_str());
    assert_eq!(ack["protocol"], "gateway-events.v1");
    assert_eq!((&ack["head"], &ack["oldest"]), (&json!(2), &json!(1)));
    assert_eq!(ack["heartbeatMs"], 10_000);
    assert_eq!(ack["limits"]["window"], 64);
    assert_eq!(ack["limits"]["windowBytes"], 4 * 1024 * 1024);
    peer.hello(json!({"instance": "a"})).await;
    let resumed = peer.frame().await;
    let epoch = &ack["epoch"];
    assert_eq!(
        resumed,
        json!({"type": "connection.resumed", "from": 0, "head": 2, "epoch": epoch, "mode": "replay", "pending": 2})
    );
    let first = peer.event(1).await;
    assert_eq!((&first["previous"], &first["attempt"]), (&json!(0), &json!(1)));
    assert_eq!(first["payload"]["deploymentId"], "d-1");
    assert_eq!(peer.event(2).await["previous"], 1);
    let mark = peer.frame().await;
    assert_eq!(mark, json!({"type": "delivery.mark", "sequence": 2, "head": 2}));
    peer.applied(2).await;
    service.eventually(&format!("/gateways/{id}"), |shown| shown["confirmed"] == 2).await;
    let connections =
        service.api().get(&format!("/gateways/{id}/connections")).await.expect("some");
    assert_eq!(connections["list"][0]["transport"], "websocket.v1");
}

#[tokio::test]
async fn an_unknown_subprotocol_selects_plain_mode() {
    let service = Service::start().await;
    let (_, key) = service.gateway("one").await;
    for (offered, chosen) in
        [("mqtt", None), ("mqtt, gateway-events.v1", Some("gateway-events.v1"))]
    {
        let url = format!("wss://localhost:{}/api/internal/v1/ws/gateways/connect", service.port);
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("api-key", key.parse().expect("a header"));
        request.headers_mut().insert("sec-websocket-protocol", offered.parse().expect("a header"));
        let tls = service.tls(service.port).await;
        let answer = tokio_tungstenite::client_async(request, tls).await;
        // The library of this client refuses an answer without a subprotocol that it has offered.
        let headers = match &answer {
            Ok((_, answer)) => answer.headers().get("sec-websocket-protocol").cloned(),
            Err(error) => {
                assert!(error.to_string().contains("subprotocol"), "{error}");
                None
            }
        };
        assert_eq!(headers.as_ref().map(|it| it.to_str().expect("text")), chosen);
    }
}

#[tokio::test]
async fn missing_hello_times_out() {
    let service = Service::start_with(&[("RELIABLE__HELLO_TIMEOUT", "300ms")]).await;
    let (id, key) = service.gateway("one").await;
    let mut peer = Peer::greet(&service, &key).await;
    let (code, error) = peer.closed().await;
    assert_eq!((code, &error["code"]), (4501, &json!("hello_timeout")), "{error}");
    let connections =
        service.api().get(&format!("/gateways/{id}/connections")).await.expect("some");
    assert_eq!(connections["count"], 0, "it is not recorded: {connections}");
}
