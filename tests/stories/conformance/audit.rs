//! The audit log: what is recorded of each change, and the chain of the records.

use std::time::Duration;

use futures_util::future::join_all;
use gateway_events::clock::{TimeWindow, Timestamp};
use gateway_events::event::{EventType, GatewayId, Reason, Sequence};
use gateway_events::store::{
    AuditAction, AuditFilter, AuditHead, AuditRecord, Confirmation, Conflict, DeliveryFilter,
    EventTypeInfo, GatewayChange, LabelChange, Labels, NewToken, Record, RedriveSelection,
    RejectedFilter, Rejection, RejectionReason, RetentionLimits, RetrySelection, Scope, Store,
    StoreError, TrimMark, ValidatedRow,
};
use serde_json::{Value, json};

use super::{Fixture, InboxProgram, Row, actor, closed, keep_all, pass, range};

fn everything() -> AuditFilter {
    AuditFilter { window: TimeWindow::ALL, action: None, principal: None, object: None }
}

impl Fixture<'_> {
    /// All records, oldest first.
    pub(crate) async fn audit(&self) -> Vec<AuditRecord> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page =
                self.store.audit(self.organisation, &everything(), after, 1000).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.cursor());
            all.extend(page);
        }
        all.reverse();
        all
    }

    /// Actions, and what they changed, of the records after a number of others.
    async fn changes(&self, after: usize) -> Vec<(String, Value, Value)> {
        let records = self.audit().await;
        let json = |text: &str| serde_json::from_str(text).unwrap();
        let shown = |it: &AuditRecord| (it.action.clone(), json(&it.before), json(&it.after));
        records[after..].iter().map(shown).collect()
    }
}

/// Checks that records form a chain; returns its end.
pub(crate) fn chained(from: AuditHead, records: &[AuditRecord]) -> AuditHead {
    let mut head = from;
    for record in records {
        head.advance(record).unwrap();
    }
    head
}

fn token(id: &str) -> NewToken {
    NewToken { id: id.to_owned(), digest: [7; 32], expires_at: None }
}

fn one(action: &str, before: Value, after: Value) -> (String, Value, Value) {
    (action.to_owned(), before, after)
}

#[expect(clippy::too_many_lines, reason = "one change after another, each with its record")]
pub(crate) async fn every_change_is_recorded_with_what_it_changed(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let actor = fixture.actor();
    let begun = fixture.audit().await.len();
    let id = GatewayId::new();
    let labels = Labels::from([("region".to_owned(), "eu".to_owned())]);
    store.create_gateway(&actor, id, "berlin", &labels, 2).await.unwrap();
    let change = |name: Option<&str>, disabled| GatewayChange {
        name: name.map(str::to_owned),
        disabled,
        ..GatewayChange::default()
    };
    let labelled = [("region".to_owned(), Some("us".to_owned())), ("tier".to_owned(), None)];
    let merge = LabelChange::Merge(labelled.into());
    let mut all = GatewayChange { labels: Some(merge), ..change(Some("tokyo"), Some(true)) };
    all.replicas = Some(3);
    store.update_gateway(&actor, id, all).await.unwrap();
    store.update_gateway(&actor, id, change(None, Some(false))).await.unwrap();
    store.create_gateway_token(&actor, id, token("key1")).await.unwrap();
    store.create_gateway_token(&actor, id, token("key2")).await.unwrap();
    store.revoke_gateway_token(&actor, id, "key1").await.unwrap();
    store.create_access_token(&actor, "ops", &[Scope::Read], token("access1")).await.unwrap();
    store.revoke_access_token(&actor, "access1").await.unwrap();
    let info = |name: &str, description: &str, schema: Option<Value>| EventTypeInfo {
        name: name.to_owned(),
        description: description.to_owned(),
        schema: schema.map(|schema| serde_json::value::to_raw_value(&schema).unwrap()),
        ttl_secs: None,
        barrier: false,
    };
    assert!(store.put_event_type(&actor, &info("a.b", "first", None)).await.unwrap());
    let schema = json!({"type": "object"});
    assert!(!store.put_event_type(&actor, &info("a.b", "first", Some(schema))).await.unwrap());
    assert!(!store.put_event_type(&actor, &info("api.deployed", "own", None)).await.unwrap());
    let of_name = |name: &str| -> EventType { name.parse().unwrap() };
    store.delete_event_type(&actor, &of_name("api.deployed")).await.unwrap();
    let built_in = store.delete_event_type(&actor, &of_name("api.deployed")).await.unwrap_err();
    assert!(matches!(built_in, StoreError::Conflict(Conflict::BuiltInType(_))), "{built_in}");
    let unknown = store.delete_event_type(&actor, &of_name("no.such")).await.unwrap_err();
    assert!(matches!(unknown, StoreError::NotFound(_)), "{unknown}");
    let gateway = store.gateway(fixture.organisation, id).await.unwrap().unwrap();
    fixture.fill(&gateway, 4).await;
    let (connection, _, _) = fixture.open(&gateway).await;
    let skipped = Record::Skipped {
        gateway: gateway.key,
        connection,
        instance: "".into(),
        range: range(1, 3),
        reason: Reason::Expired,
        advance_to: None,
        at: Timestamp::now(),
    };
    let close = closed(&gateway, connection, Reason::ClosedByGateway, None, false);
    fixture.record(vec![skipped, close]).await;
    for sequence in [3, 1] {
        let selection = RedriveSelection::One(id, Sequence(sequence));
        store.redrive(&actor, selection, false).await.unwrap();
    }
    store.delete_gateway(&actor, id).await.unwrap();

    let key = json!({"gatewayId": id.to_string()});
    let access = json!({"scopes": ["read"]});
    let changes = fixture.changes(begun).await;
    let description = changes[12].1.clone();
    assert!(description["description"].is_string(), "{changes:#?}");
    let expected = [
        one(
            "gateway.registered",
            json!({}),
            json!({"name": "berlin", "labels.region": "eu", "replicas": 2, "disabled": false}),
        ),
        one(
            "gateway.changed",
            json!({"name": "berlin", "replicas": 2}),
            json!({"name": "tokyo", "replicas": 3}),
        ),
        one("gateway.labelled", json!({"labels.region": "eu"}), json!({"labels.region": "us"})),
        one("gateway.disabled", json!({"disabled": false}), json!({"disabled": true})),
        one("gateway.enabled", json!({"disabled": true}), json!({"disabled": false})),
        one("gateway_token.created", json!({}), key.clone()),
        one("gateway_token.created", json!({}), key.clone()),
        one("gateway_token.revoked", key, json!({})),
        one("access_token.created", json!({}), access.clone()),
        one("access_token.revoked", access, json!({})),
        one("event_type.registered", json!({}), json!({"description": "first"})),
        one("event_type.changed", json!({}), json!({"schema": "{\"type\":\"object\"}"})),
        one("event_type.changed", description, json!({"description": "own"})),
        one("event_type.deleted", json!({"description": "own"}), json!({})),
        one(
            "delivery.redriven",
            json!({}),
            json!({"deliveries": 1, "sequences": "3", "newSequences": "5"}),
        ),
        one(
            "delivery.redriven",
            json!({}),
            json!({"deliveries": 1, "sequences": "1", "newSequences": "6"}),
        ),
        one(
            "gateway.deleted",
            json!({"name": "tokyo", "labels.region": "us", "replicas": 3, "disabled": false}),
            json!({"undelivered": 3, "revokedTokens": 1}),
        ),
    ];
    assert_eq!(changes.len(), expected.len(), "{changes:#?}");
    for (found, expected) in changes.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    let records = fixture.audit().await;
    chained(AuditHead::START, &records);
    for record in &records[begun..] {
        assert_eq!(record.principal, actor.principal);
        assert_eq!(record.organisation, fixture.organisation);
    }
    let objects: Vec<_> = records[begun..].iter().map(|it| &it.object).collect();
    assert_eq!((objects[0].kind.as_str(), objects[0].name.as_str()), ("gateway", "berlin"));
    assert_eq!((objects[5].id.as_str(), objects[5].name.as_str()), ("key1", "tokyo"));
    assert_eq!((objects[8].id.as_str(), objects[8].name.as_str()), ("access1", "ops"));
    assert_eq!(objects[13].name, "api.deployed");
    assert_eq!(objects[14].id, id.to_string());
}

pub(crate) async fn a_change_that_changes_nothing_or_fails_leaves_no_record(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let (actor, gateway) = (fixture.actor(), fixture.gateway(&[("a", "1")]).await);
    store.create_gateway_token(&actor, gateway.id, token("key")).await.unwrap();
    store.create_access_token(&actor, "ops", &[Scope::Read], token("access")).await.unwrap();
    store.revoke_gateway_token(&actor, gateway.id, "key").await.unwrap();
    store.revoke_access_token(&actor, "access").await.unwrap();
    let info = EventTypeInfo {
        name: "a.b".to_owned(),
        description: "d".to_owned(),
        schema: None,
        ttl_secs: None,
        barrier: false,
    };
    store.put_event_type(&actor, &info).await.unwrap();
    let before = fixture.audit().await;

    store.revoke_gateway_token(&actor, gateway.id, "key").await.unwrap();
    store.revoke_access_token(&actor, "access").await.unwrap();
    store.put_event_type(&actor, &info).await.unwrap();
    let same = GatewayChange {
        name: Some(gateway.name.clone()),
        labels: Some(LabelChange::Merge([("a".to_owned(), Some("1".to_owned()))].into())),
        replicas: Some(1),
        confirmation: Some(Confirmation::Any),
        disabled: Some(false),
    };
    store.update_gateway(&actor, gateway.id, same).await.unwrap();
    let none = RedriveSelection::Filter(DeliveryFilter::default(), None);
    store.redrive(&actor, none, false).await.unwrap();
    let all = RetrySelection::Filter(RejectedFilter::default());
    store.retry_rejected(&actor, all).await.unwrap();
    let taken = GatewayId::new();
    let refused = store.create_gateway(&actor, taken, &gateway.name, &Labels::new(), 1).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))), "{refused:?}");
    for refused in [
        store.update_gateway(&actor, taken, GatewayChange::default()).await.map(drop),
        store.delete_gateway(&actor, taken).await.map(drop),
        store.create_gateway_token(&actor, taken, token("other")).await.map(drop),
        store.revoke_gateway_token(&actor, gateway.id, "other").await,
        store.revoke_access_token(&actor, "other").await,
        store.delete_rejected(&actor, 1).await,
    ] {
        assert!(matches!(refused, Err(StoreError::NotFound(_))), "{refused:?}");
    }
    assert_eq!(fixture.audit().await, before);
}

pub(crate) async fn records_are_paged_and_filtered_newest_first(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    for nth in 0..5 {
        let gateway = fixture.gateway(&[]).await;
        store
            .create_gateway_token(&fixture.actor(), gateway.id, token(&format!("k{nth}")))
            .await
            .unwrap();
    }
    let all = fixture.audit().await;
    assert!(
        all.is_sorted_by_key(|record| (record.recorded_at, record.sequence)),
        "newer records have later times"
    );
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = store.audit(fixture.organisation, &everything(), after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 3);
        after = Some(last.cursor());
        paged.extend(page);
    }
    paged.reverse();
    assert_eq!(paged, all);

    let of = async |filter: AuditFilter| -> Vec<i64> {
        let found = store.audit(fixture.organisation, &filter, None, 100).await.unwrap();
        found.iter().map(|record| record.sequence).collect()
    };
    let last = all.last().unwrap();
    let registered = Some(AuditAction::GatewayRegistered);
    assert_eq!(of(AuditFilter { action: registered, ..everything() }).await.len(), 5);
    for object in [last.object.id.clone(), "k4".to_owned()] {
        let found = of(AuditFilter { object: Some(object), ..everything() }).await;
        assert_eq!(found, [last.sequence]);
    }
    // By its gateway's name: the registration and the key.
    let object = Some(last.object.name.clone());
    assert_eq!(of(AuditFilter { object, ..everything() }).await.len(), 2);
    for (principal, count) in [("tests", 10), ("6kzj2v7qmw4t", 10), ("local", 0), ("test", 0)] {
        let principal = Some(principal.to_owned());
        assert_eq!(of(AuditFilter { principal, ..everything() }).await.len(), count);
    }
    let at = all[3].recorded_at;
    let window = TimeWindow::between(Some(at), None).unwrap();
    let within = all.iter().filter(|it| window.contains(it.recorded_at)).count();
    assert_eq!(of(AuditFilter { window, ..everything() }).await.len(), within);
    let window = TimeWindow::between(None, Some(at)).unwrap();
    let before = all.iter().filter(|it| window.contains(it.recorded_at)).count();
    assert_eq!(of(AuditFilter { window, ..everything() }).await.len(), before);
}

pub(crate) async fn concurrent_changes_form_one_chain(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let shared = fixture.gateway(&[]).await;
    let begun = fixture.audit().await.len();
    let changes = (0..40).map(|nth| {
        let actor = fixture.actor();
        async move {
            if nth % 4 == 0 {
                let id = GatewayId::new();
                store.create_gateway(&actor, id, &id.to_string(), &Labels::new(), 1).await.unwrap();
            } else {
                let set = [(format!("l{}", nth % 3), Some(nth.to_string()))];
                let labels = Some(LabelChange::Merge(set.into()));
                let change = GatewayChange { labels, ..GatewayChange::default() };
                store.update_gateway(&actor, shared.id, change).await.unwrap();
            }
        }
    });
    join_all(changes).await;
    let records = fixture.audit().await;
    assert_eq!(records.len() - begun, 40);
    chained(AuditHead::START, &records);
    // Each record of the same gateway begins where the one before it ended.
    let mut labels = serde_json::Map::new();
    let labelled = records.iter().filter(|record| record.action == "gateway.labelled");
    for record in labelled {
        let before: serde_json::Map<String, Value> = serde_json::from_str(&record.before).unwrap();
        let after: serde_json::Map<String, Value> = serde_json::from_str(&record.after).unwrap();
        for (name, value) in after {
            assert_eq!(labels.insert(name.clone(), value).as_ref(), before.get(&name));
        }
    }
}

pub(crate) async fn records_are_bounded(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    let large: Labels =
        (0..64).map(|nth| (format!("{nth:02}{}", "n".repeat(60)), "東".repeat(256))).collect();
    let id = GatewayId::new();
    store.create_gateway(&fixture.actor(), id, &"g".repeat(128), &large, 1).await.unwrap();
    let schema = json!({"description": "\u{1F600}".repeat(20_000)});
    let info = EventTypeInfo {
        name: "a.b".to_owned(),
        description: "a\0\u{1b}[2J\u{202e}b".repeat(100),
        schema: serde_json::value::to_raw_value(&schema).ok(),
        ttl_secs: None,
        barrier: false,
    };
    store.put_event_type(&fixture.actor(), &info).await.unwrap();
    store.delete_gateway(&fixture.actor(), id).await.unwrap();
    let records = fixture.audit().await;
    chained(AuditHead::START, &records);
    for record in &records {
        assert!(record.before.len() <= 8192 && record.after.len() <= 8192, "{record:?}");
        serde_json::from_str::<serde_json::Map<String, Value>>(&record.before).unwrap();
        serde_json::from_str::<serde_json::Map<String, Value>>(&record.after).unwrap();
    }
    let after: Value = serde_json::from_str(&records[0].after).unwrap();
    assert!(after["omitted"].as_u64().is_some_and(|omitted| omitted > 0), "{after:#}");
}

pub(crate) async fn old_records_are_trimmed_and_the_rest_stays_a_chain(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    for _ in 0..5 {
        fixture.gateway(&[]).await;
    }
    let all = fixture.audit().await;
    assert_eq!(all.len(), 5);
    let mut mark = TrimMark::default();
    pass(store, &keep_all(), &mut mark).await;
    assert_eq!(fixture.audit().await, all);
    let old = RetentionLimits { audit_max_age: Duration::ZERO, batch: 2, ..keep_all() };
    pass(store, &old, &mut mark).await;
    assert!(fixture.audit().await.is_empty());
    fixture.gateway(&[]).await;
    let rest = fixture.audit().await;
    assert_eq!(rest[0].sequence, 6);
    chained(all[4].head(), &rest);
}

pub(crate) async fn retried_and_deleted_rows_are_recorded(
    store: &dyn Store,
    outsider: &dyn InboxProgram,
) {
    let fixture = Fixture::of(store).await;
    let row = || Row {
        event_type: "a.b".to_owned(),
        payload: "{\"secret\":1}".to_owned(),
        ..Row::default()
    };
    outsider.insert(&[row(), row(), row(), row()]).await;
    let rows = store.inbox_page(1000, 1 << 20).await.unwrap();
    let rejection =
        Rejection { reason: RejectionReason::Invalid, detail: "as the test says".to_owned() };
    let bad = rows.iter().map(|it| ValidatedRow { id: it.id, result: Err(rejection.clone()) });
    store.drain_inbox(bad.collect()).await.unwrap();
    let all = RejectedFilter::default();
    let rejected = store.rejected(fixture.organisation, &all, None, 9).await.unwrap();
    let ids: Vec<i64> = rejected.iter().rev().map(|row| row.id).collect();
    let actor = actor(fixture.organisation);
    store.retry_rejected(&actor, RetrySelection::One(ids[1])).await.unwrap();
    store.delete_rejected(&actor, ids[0]).await.unwrap();
    store.retry_rejected(&actor, RetrySelection::Filter(all)).await.unwrap();
    let records = fixture.audit().await;
    let found: Vec<_> =
        records.iter().map(|it| (it.action.as_str(), it.object.id.clone())).collect();
    assert_eq!(
        found,
        [
            ("rejected_row.retried", ids[1].to_string()),
            ("rejected_row.deleted", ids[0].to_string()),
            ("rejected_row.retried", format!("{}-{}", ids[2], ids[3])),
        ]
    );
    let before: Value = serde_json::from_str(&records[1].before).unwrap();
    assert_eq!(before["reason"], "invalid");
    assert_eq!(before["eventId"].as_str(), rejected[3].event_id.as_deref());
    assert_eq!(
        serde_json::from_str::<Value>(&records[2].after).unwrap(),
        json!({"rows": 2, "ids": records[2].object.id})
    );
    assert!(records.iter().all(|it| !it.before.contains("secret")), "payloads are not recorded");
    chained(AuditHead::START, &records);
}
