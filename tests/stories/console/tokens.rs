//! Access tokens in the console: created, shown once, and revoked.

use serde_json::json;

use super::visitor::Visitor;
use crate::both_databases::{Backend, on_both};

on_both! {
    a_token_is_created_shown_once_and_revoked
}

const PATH: &str = "/console/access-tokens";

async fn a_token_is_created_shown_once_and_revoked(backend: Backend) {
    let service = backend.start().await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let once = uuid::Uuid::now_v7().to_string();
    let typed = [
        ("name", "<deployer>"),
        ("scopes", "read"),
        ("scopes", "publish"),
        ("days", "30"),
        ("once", once.as_str()),
    ];
    for (wrong, says) in [
        (&typed[..1], "is required"),
        (&[("name", "n"), ("days", "30"), typed[4]][..], "must contain at least one"),
        (
            &[("name", " "), ("scopes", "read"), ("days", "30"), typed[4]][..],
            "must be 1 to 128 characters",
        ),
        (&[("name", "n"), ("scopes", "all"), ("days", "30")][..], "must be read, publish or admin"),
        (&[("name", "n"), ("scopes", "read"), ("days", "9999999"), typed[4]][..], "must be 1 to"),
    ] {
        let refused = visitor.submit(PATH, wrong).await;
        assert!(refused.status == 422 && refused.says(says), "{wrong:?}: {refused:?}");
    }
    let refused = visitor.submit(PATH, &typed[..3]).await;
    assert!(refused.says("value=\"&lt;deployer&gt;\""), "what was typed is kept: {refused:?}");
    assert_eq!(refused.body.matches(" checked").count(), 2, "{refused:?}");

    let made = visitor.submit(PATH, &typed).await;
    assert_eq!((made.status, made.header("cache-control")), (200, "no-store"), "{made:?}");
    assert!(made.says("only time that it is shown") && made.says("&lt;deployer&gt;"), "{made:?}");
    let start = made.body.find("gwa_").expect("a token");
    let token: String =
        made.body[start..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    let id = token.split('_').nth(1).expect("an id");
    let list = visitor.get(PATH).await;
    assert!(list.says(id) && !list.says(&token), "{list:?}");
    let tokens = service.api().get("/access-tokens").await.expect("an answer");
    let shown = tokens["list"].as_array().expect("a list").iter().find(|it| it["id"] == id);
    let shown = shown.expect("the new token");
    assert_eq!(shown["scopes"], json!(["publish", "read"]), "{shown}");
    assert!(shown["expiresAt"].is_string(), "{shown}");
    let once = uuid::Uuid::now_v7().to_string();
    let never =
        [("name", "forever"), ("scopes", "read"), ("days", "never"), ("once", once.as_str())];
    assert_eq!(visitor.submit(PATH, &never).await.status, 200);
    let tokens = service.api().get("/access-tokens").await.expect("an answer");
    let forever =
        tokens["list"].as_array().expect("a list").iter().find(|it| it["name"] == "forever");
    assert_eq!(forever.expect("it")["expiresAt"], json!(null));

    // It signs in until it is revoked.
    let guest = Visitor::signed_in(&service, &token).await;
    assert_eq!(guest.get("/console/publish").await.status, 200);
    let revoked = visitor.submit(&format!("{PATH}/{id}/revoke"), &[]).await;
    assert_eq!((revoked.status, revoked.header("location")), (303, PATH), "{revoked:?}");
    assert_eq!(guest.get("/console/publish").await.status, 303);
    assert_eq!(visitor.submit(&format!("{PATH}/unknown/revoke"), &[]).await.status, 404);
    let audit = service.api().get("/audit").await.expect("an answer");
    assert_eq!(audit["list"][0]["action"], "access_token.revoked", "{audit:#}");

    // A token may revoke itself, which ends its sessions.
    let own = service.token.split('_').nth(1).expect("an id");
    assert!(visitor.get(PATH).await.says("This ends your session"));
    assert_eq!(visitor.submit(&format!("{PATH}/{own}/revoke"), &[]).await.status, 303);
    assert_eq!(
        visitor.get(PATH).await.header("location").split('?').next(),
        Some("/console/sign-in")
    );
}
