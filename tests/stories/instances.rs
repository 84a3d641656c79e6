//! Named instances of a gateway, for admins: the list, the setting of what counts as delivered, and
//! forgetting one.

use serde_json::json;

use crate::both_databases::{Backend, on_both};
use crate::support::Service;

on_both! {
    instances_are_listed_and_forgotten
}

/// Stores an instance of a gateway, as if it had been connected.
pub(crate) async fn known(backend: &Backend, service: &Service, gateway: &str, name: &str) {
    let now = match backend {
        Backend::Sqlite => "cast((julianday('now') - 2440587.5) * 86400000 as integer) * 1000",
        Backend::Postgres(_) => "now()",
    };
    let insert = format!(
        "insert into cursors (gateway, instance, received, applied_up_to, confirm, updated_at)
         select gateway, '{name}', 0, 0, 'applied', {now} from gateways where id = '{gateway}'"
    );
    backend.change(service, &insert).await;
}

async fn instances_are_listed_and_forgotten(backend: Backend) {
    let service = backend.start().await;
    let (id, _) = service.gateway("berlin").await;
    let (admin, path) = (service.admin(), format!("/gateways/{id}"));
    let list = format!("{path}/instances");
    let none = admin.get(&list).await.success();
    assert_eq!(none, json!({"count": 0, "list": [], "expired": [], "resyncs": []}));
    known(&backend, &service, &id, "berlin/0").await;
    let event = crate::support::deployed(&[&id], "d-1");
    service.api().post("/events", &event).await.expect("published");
    let found = admin.get(&list).await.success();
    let one = &found["list"][0];
    assert_eq!((&found["count"], &one["name"]), (&json!(1), &json!("berlin/0")));
    assert_eq!((&one["confirm"], &one["lag"]), (&json!("applied"), &json!(1)));
    assert_eq!((&one["connected"], one.get("connection")), (&json!(false), None));

    assert_eq!(admin.get(&path).await.success()["confirmation"], "any");
    let changed = admin.patch(&path, &json!({"confirmation": "all"})).await.success();
    assert_eq!(changed["confirmation"], "all");
    admin.patch(&path, &json!({"confirmation": "most"})).await.invalid("confirmation", &["any"]);
    let audited = admin.get("/audit?action=gateway.changed").await.success();
    let change = &audited["list"][0];
    assert_eq!(change["before"], json!({"confirmation": "any"}));
    assert_eq!(change["after"], json!({"confirmation": "all"}));

    let instance = format!("{list}/berlin%2F0");
    admin.delete(&instance).await.success();
    admin.delete(&instance).await.refusal(404, "not_found");
    assert_eq!(admin.get(&list).await.success()["count"], 0);
    let forgotten = admin.get("/audit?action=instance.forgotten").await.success();
    assert_eq!(forgotten["list"][0]["before"]["instance"], "berlin/0");
    assert_eq!(backend.verify(&service).await.problems, Vec::<String>::new());
}

#[tokio::test]
async fn the_command_line_lists_and_forgets_instances() {
    let service = Service::start().await;
    let (id, _) = service.gateway("berlin").await;
    let none = service.run("gateway instances berlin").await;
    assert!(none.well().contains("no named instances"), "{none:?}");
    known(&Backend::Sqlite, &service, &id, "east").await;
    let list = service.run("gateway instances berlin").await;
    assert!(list.well().contains("east") && list.out.contains("applied"), "{list:?}");
    let shown = service.run("gateway update berlin --confirmation all").await;
    assert!(shown.well().contains("confirmation all"), "{shown:?}");
    service.run("gateway update berlin --confirmation most").await.failed(2, &["any, all"]);
    service.run("gateway forget-instance berlin east").await.failed(1, &["--yes"]);
    let gone = service.run("gateway forget-instance berlin east --yes").await;
    assert_eq!(gone.well(), "instance east is forgotten\n");
    service
        .run("gateway forget-instance berlin east --yes")
        .await
        .failed(1, &["404", "no such instance"]);
}
