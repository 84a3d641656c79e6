//! Rejected rows are edited, and their payloads purged.

use gateway_events::event::{EventId, GatewayId, Sequence};
use gateway_events::store::{
    Conflict, EditedRow, Gateway, RejectedContent, RejectedEdit, RejectedFilter, RejectedRow,
    Rejection, RejectionReason, RetrySelection, Store, StoreError, Target, ValidatedRow,
};

use super::{Fixture, InboxProgram, Row, event_with};

/// Rejects one row of another program, and returns it.
async fn rejected(
    store: &dyn Store,
    outsider: &dyn InboxProgram,
    payload: &str,
) -> (RejectedRow, RejectedContent) {
    let fixture = Fixture::of(store).await;
    let (event_type, payload) = ("a.b".to_owned(), payload.to_owned());
    outsider.insert(&[Row { event_type, payload, ..Row::default() }]).await;
    let rows = store.inbox_page(10, 1 << 20).await.unwrap();
    store.drain_inbox(vec![ValidatedRow { id: rows[0].id, result: Err(bad()) }]).await.unwrap();
    let all = RejectedFilter::default();
    let row = store.rejected(fixture.organisation, &all, None, 1).await.unwrap().remove(0);
    let content = store.rejected_content(fixture.organisation, row.id, 100).await.unwrap();
    (row, content.unwrap())
}

fn bad() -> Rejection {
    Rejection { reason: RejectionReason::Invalid, detail: "as the test says".to_owned() }
}

/// An edit that makes the event valid, for these gateways.
fn valid(row: &RejectedRow, content: &RejectedContent, gateways: Vec<GatewayId>) -> RejectedEdit {
    let mut content = content.content.clone();
    "{\"n\":2}".clone_into(&mut content.payload);
    let id = EventId::new(content.event_id.clone().unwrap()).unwrap();
    let result = Ok(event_with(id, Target::Gateways(gateways), &content.payload));
    RejectedEdit { id: row.id, version: row.version, content, has_payload: true, result }
}

/// An edit after which the event is still invalid.
fn invalid(row: &RejectedRow, content: &RejectedContent) -> RejectedEdit {
    let mut content = content.content.clone();
    "b.c".clone_into(&mut content.event_type);
    content.user_id = Some("u".to_owned());
    let why = Rejection { reason: RejectionReason::UnknownEventType, detail: "b.c".to_owned() };
    let version = row.version;
    RejectedEdit { id: row.id, version, content, has_payload: false, result: Err(why) }
}

async fn payloads(store: &dyn Store, gateway: &Gateway) -> Vec<String> {
    let page = store.read(gateway.key, Sequence::ZERO, 10, usize::MAX).await.unwrap();
    page.rows.iter().map(|row| row.event.payload.get().to_owned()).collect()
}

pub(crate) async fn an_edited_row_is_published_or_keeps_its_new_reason(
    store: &dyn Store,
    outsider: &dyn InboxProgram,
) {
    let fixture = Fixture::of(store).await;
    let (actor, organisation) = (fixture.actor(), fixture.organisation);
    let gateway = fixture.gateway(&[]).await;
    let (row, content) = rejected(store, outsider, "{\"n\":1}").await;
    assert_eq!((row.version, content.version, content.payload_bytes), (1, 1, 7));
    let short = store.rejected_content(organisation, row.id, 6).await.unwrap().unwrap();
    assert_eq!((short.content.payload.as_str(), short.payload_bytes), ("", 7));
    assert!(store.rejected_content(organisation, row.id + 1, 100).await.unwrap().is_none());

    // Still invalid: the row has the new columns and the new reason.
    let dry = store.edit_rejected(&actor, invalid(&row, &content), true).await.unwrap();
    let EditedRow::Rejected(why, same) = dry else { panic!("{dry:?}") };
    assert_eq!((why.reason, &*same), (RejectionReason::UnknownEventType, &row));
    let edited = store.edit_rejected(&actor, invalid(&row, &content), false).await.unwrap();
    let EditedRow::Rejected(_, after) = edited else { panic!("{edited:?}") };
    assert_eq!((after.version, after.event_type.as_str()), (2, "b.c"));
    assert_eq!(after.reason, RejectionReason::UnknownEventType);
    assert_eq!(after.user_id.as_deref(), Some("u"));
    assert_eq!((after.inbox_id, &after.event_id), (row.inbox_id, &row.event_id));

    // Refused by the log: for a gateway that is not registered.
    let unknown = valid(&after, &content, vec![GatewayId::new()]);
    let edited = store.edit_rejected(&actor, unknown, false).await.unwrap();
    let EditedRow::Rejected(why, after) = edited else { panic!("{edited:?}") };
    assert_eq!((why.reason, after.version), (RejectionReason::UnknownGateways, 3));

    // An edit that changes nothing leaves the row and the audit log as they are.
    let records = async || fixture.audit().await;
    let before = records().await.len();
    let current = store.rejected_content(organisation, row.id, 100).await.unwrap().unwrap();
    let why = Rejection { reason: after.reason, detail: after.detail.clone() };
    let (id, version, content_now) = (after.id, after.version, current.content);
    let same =
        RejectedEdit { id, version, content: content_now, has_payload: false, result: Err(why) };
    let edited = store.edit_rejected(&actor, same, false).await.unwrap();
    let EditedRow::Rejected(_, unchanged) = edited else { panic!("{edited:?}") };
    assert_eq!(unchanged, after);
    assert_eq!(records().await.len(), before);

    let good = || valid(&after, &content, vec![gateway.id]);
    let dry = store.edit_rejected(&actor, good(), true).await.unwrap();
    let EditedRow::WouldPublish(_, would) = &dry else { panic!("{dry:?}") };
    assert_eq!(would, &[gateway.id], "those that it would be appended for");
    assert!(payloads(store, &gateway).await.is_empty());
    let edited = store.edit_rejected(&actor, good(), false).await.unwrap();
    let EditedRow::Published(appended) = edited else { panic!("{edited:?}") };
    assert_eq!(appended.deliveries[0].sequence, Sequence(1));
    assert_eq!(payloads(store, &gateway).await, ["{\"n\":2}"]);
    let everything = RejectedFilter { retried: true, ..RejectedFilter::default() };
    assert!(store.rejected(organisation, &everything, None, 9).await.unwrap().is_empty());
    let gone = store.edit_rejected(&actor, good(), false).await;
    assert!(matches!(gone, Err(StoreError::NotFound("rejected row"))), "{gone:?}");
}

pub(crate) async fn of_two_edits_of_a_version_one_wins(
    store: &dyn Store,
    outsider: &dyn InboxProgram,
) {
    let fixture = Fixture::of(store).await;
    let actor = fixture.actor();
    let gateway = fixture.gateway(&[]).await;
    let (row, content) = rejected(store, outsider, "{\"n\":1}").await;
    let (one, other) = tokio::join!(
        store.edit_rejected(&actor, invalid(&row, &content), false),
        store.edit_rejected(&actor, valid(&row, &content, vec![gateway.id]), false),
    );
    let refused = match (one, other) {
        (Ok(_), Err(error)) | (Err(error), Ok(_)) => error,
        both => panic!("{both:?}"),
    };
    let is_reported = matches!(
        refused,
        StoreError::Conflict(Conflict::Edited { version: 2, .. })
            | StoreError::NotFound("rejected row")
    );
    assert!(is_reported, "{refused:?}");

    let (row, content) = rejected(store, outsider, "{\"n\":3}").await;
    store.retry_rejected(&actor, RetrySelection::One(row.id)).await.unwrap();
    let refused = store.edit_rejected(&actor, invalid(&row, &content), false).await;
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict::PutBack(_)))), "{refused:?}");
}

pub(crate) async fn a_purge_removes_the_payload_from_rejected_rows(
    store: &dyn Store,
    outsider: &dyn InboxProgram,
) {
    let fixture = Fixture::of(store).await;
    let (actor, organisation) = (fixture.actor(), fixture.organisation);
    let gateway = fixture.gateway(&[]).await;
    let (row, _) = rejected(store, outsider, "{\"key\":\"s3cret\"}").await;
    // Put back, and published: the rejected row stays on record.
    store.retry_rejected(&actor, RetrySelection::One(row.id)).await.unwrap();
    let rows = store.inbox_page(10, 1 << 20).await.unwrap();
    let id = EventId::new(row.event_id.clone().unwrap()).unwrap();
    let payload = rows[0].content.as_ref().unwrap().payload.clone();
    let event = event_with(id.clone(), Target::Gateways(vec![gateway.id]), &payload);
    let result = Ok((organisation, event));
    store.drain_inbox(vec![ValidatedRow { id: rows[0].id, result }]).await.unwrap();
    assert_eq!(payloads(store, &gateway).await, ["{\"key\":\"s3cret\"}"]);

    store.purge_event(&actor, &id, "leaked", false).await.unwrap();
    assert_eq!(payloads(store, &gateway).await, ["{}"]);
    let (shown, payload) = store.rejected_row(organisation, row.id, 100).await.unwrap().unwrap();
    assert_eq!((payload.as_str(), shown.version), ("{}", 2));
}
