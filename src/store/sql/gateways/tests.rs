//! Gateways, their tokens and event types, on a real database.

use super::super::credentials::{
    access_credential, access_tokens, create_access_token, create_gateway_token,
    gateway_credential, gateway_tokens, has_access_tokens, note_token_use, revoke_access_token,
    revoke_gateway_token,
};
use super::super::event_types;
use super::super::fixture::{Database, Made, ORGANISATION, OTHER, at, token};
use super::super::ledger::history;
use super::*;
use crate::event::{EventType, Sequence};
use crate::store::{EventTypeInfo, Scope, TokenKind};

#[tokio::test]
async fn a_gateways_lag_in_events_and_time_is_reported() {
    let mut database = Database::new().await;
    let (key, id) = database.gateway(ORGANISATION, "a").await;
    for nth in 0..3 {
        database.append(ORGANISATION, &[key.0], &format!("e{nth}"), "a.b", "c").await;
    }
    database.cursor(key.0, 1).await;
    let conn = &mut database.conn;
    set_manifest(conn, at(4), key, r#"{"version": "1"}"#).await.unwrap();
    let found = gateway(conn, ORGANISATION, id).await.unwrap().unwrap();
    assert_eq!((found.head, found.confirmed, found.floor), (Sequence(3), Sequence(1), Sequence(0)));
    assert_eq!(found.oldest_pending_at, Some(at(6)));
    assert_eq!(
        found.manifest.map(|(text, at)| (text.get().to_owned(), at)),
        Some((r#"{"version": "1"}"#.to_owned(), at(4)))
    );
    database.cursor(key.0, 3).await;
    let found = gateway(&mut database.conn, ORGANISATION, id).await.unwrap().unwrap();
    assert_eq!(found.oldest_pending_at, None);
}

#[tokio::test]
async fn an_organisation_sees_only_its_own() {
    let mut database = Database::new().await;
    let (_, id) = database.gateway(ORGANISATION, "a").await;
    database.gateway(OTHER, "a").await;
    let conn = &mut database.conn;
    let all = GatewayFilter::default();
    assert!(gateway(conn, OTHER, id).await.unwrap().is_none());
    assert_eq!(gateways(conn, ORGANISATION, &all, None, 10).await.unwrap().len(), 1);
    let change = GatewayChange::default;
    for refused in [
        update_gateway(conn, at(2), OTHER, id, change()).await.map(drop),
        delete_gateway(conn, at(2), NodeId::new(), OTHER, id).await.map(drop),
        create_gateway_token(conn, at(2), OTHER, id, token("t", None)).await.map(drop),
        gateway_tokens(conn, OTHER, id).await.map(drop),
        revoke_gateway_token(conn, at(2), OTHER, id, "t").await.map(drop),
    ] {
        assert!(matches!(refused, Err(StoreError::NotFound("gateway"))), "{refused:?}");
    }
}

#[tokio::test]
async fn gateways_are_listed_by_name_a_page_at_a_time() {
    let mut database = Database::new().await;
    for name in ["c", "a", "b"] {
        database.gateway(ORGANISATION, name).await;
    }
    let conn = &mut database.conn;
    let all = GatewayFilter::default();
    let names = |page: Vec<Gateway>| page.into_iter().map(|one| one.name).collect::<Vec<_>>();
    assert_eq!(names(gateways(conn, ORGANISATION, &all, None, 2).await.unwrap()), ["a", "b"]);
    assert_eq!(names(gateways(conn, ORGANISATION, &all, Some("b"), 2).await.unwrap()), ["c"]);
}

#[tokio::test]
async fn names_and_ids_are_given_once_and_a_deleted_name_again() {
    let mut database = Database::new().await;
    let (key, id) = database.gateway(ORGANISATION, "a").await;
    let (_, other) = database.gateway(ORGANISATION, "b").await;
    database.append(ORGANISATION, &[key.0], "e", "a.b", "c").await;
    let reason = Some("expired");
    database
        .attempt(Made {
            gateway: key.0,
            first: 1,
            last: 1,
            outcome: "failed",
            reason,
            finished_at: 3,
        })
        .await;
    let conn = &mut database.conn;
    create_gateway_token(conn, at(2), ORGANISATION, id, token("t", None)).await.unwrap();
    let none = Labels::new();
    let taken = create_gateway(conn, at(2), ORGANISATION, GatewayId::new(), "a", &none, 1).await;
    assert!(matches!(taken, Err(StoreError::Conflict(_))), "{taken:?}");
    let taken = create_gateway(conn, at(2), ORGANISATION, id, "c", &none, 1).await;
    assert!(matches!(taken, Err(StoreError::Conflict(_))), "{taken:?}");
    let rename = |name: &str| GatewayChange { name: Some(name.to_owned()), ..Default::default() };
    let taken = update_gateway(conn, at(2), ORGANISATION, other, rename("a")).await;
    assert!(matches!(taken, Err(StoreError::Conflict(_))), "{taken:?}");
    update_gateway(conn, at(2), ORGANISATION, id, rename("a")).await.unwrap();

    let deleted = delete_gateway(conn, at(3), NodeId::new(), ORGANISATION, id).await.unwrap();
    let deleted = deleted.value;
    assert_eq!(deleted.key, key);
    let [undelivered] = &deleted.undelivered[..] else { panic!("{deleted:?}") };
    assert_eq!(undelivered.range, Range { first: Sequence(1), last: Sequence(1) });
    assert_eq!((undelivered.gateway_name.as_str(), undelivered.events.len()), ("a", 1));
    assert!(gateway(conn, ORGANISATION, id).await.unwrap().is_none());
    let credential = gateway_credential(conn, "t").await.unwrap().unwrap();
    assert!(credential.revoked);
    create_gateway(conn, at(4), ORGANISATION, GatewayId::new(), "a", &none, 1).await.unwrap();
    let totals = history::totals(conn, ORGANISATION).await.unwrap();
    assert_eq!((totals.failed_attempts, totals.pending), (2, 0));
}

#[tokio::test]
async fn disabling_again_keeps_the_first_instant() {
    let mut database = Database::new().await;
    let (_, id) = database.gateway(ORGANISATION, "a").await;
    let conn = &mut database.conn;
    let set = |disabled| GatewayChange { disabled, ..Default::default() };
    for (now, disabled, expected) in [
        (5, Some(true), Some(5)),
        (6, Some(true), Some(5)),
        (7, None, Some(5)),
        (8, Some(false), None),
        (9, None, None),
    ] {
        let found = update_gateway(conn, at(now), ORGANISATION, id, set(disabled)).await.unwrap();
        assert_eq!(found.value.disabled_at, expected.map(at));
    }
}

#[tokio::test]
async fn a_third_live_token_is_refused_until_one_has_ended() {
    let mut database = Database::new().await;
    let (key, id) = database.gateway(ORGANISATION, "a").await;
    let conn = &mut database.conn;
    create_gateway_token(conn, at(2), ORGANISATION, id, token("t1", None)).await.unwrap();
    create_gateway_token(conn, at(2), ORGANISATION, id, token("t2", Some(10))).await.unwrap();
    let third = create_gateway_token(conn, at(3), ORGANISATION, id, token("t3", None)).await;
    assert!(matches!(third, Err(StoreError::Conflict(_))), "{third:?}");
    create_gateway_token(conn, at(10), ORGANISATION, id, token("t3", None)).await.unwrap();
    revoke_gateway_token(conn, at(11), ORGANISATION, id, "t1").await.unwrap();
    revoke_gateway_token(conn, at(12), ORGANISATION, id, "t1").await.unwrap();
    create_gateway_token(conn, at(13), ORGANISATION, id, token("t4", None)).await.unwrap();
    let tokens = gateway_tokens(conn, ORGANISATION, id).await.unwrap();
    let revoked: Vec<_> =
        tokens.iter().map(|token| (token.id.as_str(), token.revoked_at)).collect();
    assert_eq!(revoked, [("t1", Some(at(11))), ("t2", None), ("t3", None), ("t4", None)]);
    let missing = revoke_gateway_token(conn, at(12), ORGANISATION, id, "t9").await;
    assert!(matches!(missing, Err(StoreError::NotFound("gateway token"))));
    let credential = gateway_credential(conn, "t4").await.unwrap().unwrap();
    assert_eq!((credential.gateway, credential.gateway_id, credential.revoked), (key, id, false));
    assert_eq!((credential.digest, credential.last_used_at), ([7; 32], None));
}

#[tokio::test]
async fn the_use_of_a_token_is_recorded_once_a_minute() {
    let mut database = Database::new().await;
    let conn = &mut database.conn;
    assert!(!has_access_tokens(conn).await.unwrap());
    let scopes = [Scope::Admin, Scope::Publish, Scope::Admin];
    let made = create_access_token(conn, at(1), ORGANISATION, "ops", &scopes, token("t", None))
        .await
        .unwrap()
        .value;
    assert_eq!(made.scopes, [Scope::Publish, Scope::Admin]);
    assert!(has_access_tokens(conn).await.unwrap());
    for (now, noted) in [(100, 100), (60_000_099, 100), (60_000_100, 60_000_100)] {
        note_token_use(conn, at(now), TokenKind::Access, "t").await.unwrap();
        let credential = access_credential(conn, "t").await.unwrap().unwrap();
        assert_eq!(credential.last_used_at, Some(at(noted)));
        assert_eq!(credential.scopes, made.scopes);
    }
    assert!(revoke_access_token(conn, at(2), OTHER, "t").await.is_err());
    revoke_access_token(conn, at(2), ORGANISATION, "t").await.unwrap();
    assert!(access_credential(conn, "t").await.unwrap().unwrap().revoked);
    assert_eq!(access_tokens(conn, ORGANISATION).await.unwrap().len(), 1);
    assert!(access_tokens(conn, OTHER).await.unwrap().is_empty());
}

#[tokio::test]
async fn built_in_types_need_no_row_and_yield_to_one() {
    let mut database = Database::new().await;
    let conn = &mut database.conn;
    let before = event_types::event_types(conn, ORGANISATION).await.unwrap().len();
    let own = |name: &str| EventTypeInfo {
        name: name.to_owned(),
        description: "own".to_owned(),
        schema: None,
        ttl_secs: None,
        barrier: false,
    };
    for (name, is_new) in [("a.b", true), ("a.b", false), ("api.deployed", false)] {
        let put = event_types::put_event_type(conn, at(1), ORGANISATION, own(name)).await.unwrap();
        assert_eq!(put.value, is_new, "{name}");
    }
    let types = event_types::event_types(conn, ORGANISATION).await.unwrap();
    assert_eq!(types.len(), before + 1);
    let name = EventType::new("api.deployed").unwrap();
    let found = event_types::event_type(conn, ORGANISATION, &name).await.unwrap().unwrap();
    assert_eq!(found.description, "own");
    let found = event_types::event_type(conn, OTHER, &name).await.unwrap().unwrap();
    assert!(found.schema.is_some());
}
