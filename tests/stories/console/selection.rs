//! Actions at the rows that are selected in a list: gateways and failed deliveries.

use serde_json::Value;

use super::visitor::{Page, Visitor};
use crate::both_databases::{Backend, on_both};
use crate::support::{Service, deployed};

on_both! {
    selected_gateways_are_paused_and_resumed
    selected_gateways_are_disabled_and_enabled
    selected_failures_are_redriven_once
}

const SELECTED: &str = "/console/gateways/selected";
/// An id that no gateway has.
const NOWHERE: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// The actions of the audit log, newest first.
async fn changes(service: &Service) -> Vec<String> {
    let audit = service.api().get("/audit").await.expect("an answer");
    let list = audit["list"].as_array().expect("a list");
    list.iter().map(|it| it["action"].as_str().expect("a name").to_owned()).collect()
}

/// The row of a table that names this, as HTML.
fn row<'a>(page: &'a Page, name: &str) -> &'a str {
    let rows = page.body.split("<tr role=\"row\">");
    rows.skip(1).find(|row| row.contains(name)).unwrap_or_else(|| panic!("{name}: {page:?}"))
}

/// Submits the form of the list of gateways.
async fn select(
    visitor: &Visitor,
    step: &str,
    action: &str,
    ids: &[&str],
    more: &[(&str, &str)],
) -> Page {
    let mut fields = vec![("step", step), ("action", action)];
    fields.extend(ids.iter().map(|id| ("gateway", *id)));
    visitor.submit(SELECTED, &[&fields[..], more].concat()).await
}

async fn gateway(service: &Service, id: &str) -> Value {
    service.api().get(&format!("/gateways/{id}")).await.expect("an answer")
}

async fn selected_gateways_are_paused_and_resumed(backend: Backend) {
    let service = backend.start().await;
    let (one, _) = service.gateway("one").await;
    let (two, _) = service.gateway("two").await;
    let (three, _) = service.gateway("three").await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    visitor.submit(&format!("/console/gateways/{two}/pause"), &[("reason", "before")]).await;

    let list = visitor.get("/console/gateways?q=o&state=").await;
    assert!(list.says(&format!("name=\"gateway\" value=\"{one}\" form=\"selection\"")), "{list:?}");
    let ids = [one.as_str(), two.as_str(), NOWHERE, one.as_str()];
    let before = changes(&service).await;
    let planned = select(&visitor, "dry-run", "pause", &ids, &[("list", "q=o")]).await;
    assert_eq!(planned.status, 200, "{planned:?}");
    assert!(row(&planned, ">one<").contains("Delivery stops"), "{planned:?}");
    assert!(row(&planned, ">two<").contains("It is paused already"), "{planned:?}");
    assert!(row(&planned, NOWHERE).contains("no gateway with this id"), "{planned:?}");
    assert!(planned.says("Pause 1 gateway<") && planned.says("href=\"/console/gateways?q=o\""));
    assert_eq!(planned.body.matches("name=\"gateway\"").count(), 3, "each once");
    assert_eq!(changes(&service).await, before, "nothing was changed");

    // A reason that is refused is kept, and nothing is changed.
    let long = "x".repeat(501);
    let refused = select(&visitor, "confirmed", "pause", &ids, &[("reason", &long)]).await;
    assert!(refused.status == 422 && refused.says("must be 1 to 500 characters"), "{refused:?}");
    assert!(refused.says(&long) && refused.says("id=\"field-reason-error\""), "{refused:?}");
    assert_eq!(changes(&service).await, before, "nothing was changed");

    let reason = [("reason", "upgrade of <their> host")];
    let done = select(&visitor, "confirmed", "pause", &ids, &reason).await;
    assert_eq!(done.status, 200, "{done:?}");
    assert!(done.says("1 done, 1 unchanged, 1 refused or failed."), "{done:?}");
    assert!(row(&done, ">one<").contains("It is paused."), "{done:?}");
    assert!(row(&done, ">two<").contains("unchanged"), "{done:?}");
    assert!(row(&done, NOWHERE).contains("refused") && done.says("Try again with 1 gateway"));
    assert!(done.says(&format!("/gateways/{one}/pause")) && done.says("curl -X POST"), "{done:?}");
    assert_eq!(gateway(&service, &one).await["paused"]["reason"], reason[0].1);
    assert_eq!(gateway(&service, &two).await["paused"]["reason"], "before");
    assert_eq!(gateway(&service, &three).await.get("paused"), None);
    assert_eq!(changes(&service).await[0], "gateway.paused");
    assert_eq!(changes(&service).await.len(), before.len() + 1);

    let done = select(&visitor, "confirmed", "resume", &[&one, &two, &three], &[]).await;
    assert!(done.says("2 done, 1 unchanged."), "{done:?}");
    assert!(row(&done, ">three<").contains("It is not paused"), "{done:?}");
    let planned = select(&visitor, "dry-run", "resume", &[&one, &two, &three], &[]).await;
    assert!(planned.says("Nothing would change") && !planned.says("confirmed"), "{planned:?}");
}

async fn selected_gateways_are_disabled_and_enabled(backend: Backend) {
    let service = backend.start().await;
    let (one, key) = service.gateway("one").await;
    let (two, _) = service.gateway("two").await;
    let socket = service.connected(&key).await.serve();
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let ids = [one.as_str(), two.as_str()];
    let planned = select(&visitor, "dry-run", "disable", &ids, &[]).await;
    assert!(row(&planned, ">one<").contains("1 connection is closed"), "{planned:?}");
    assert!(planned.says("class=\"danger\"") && planned.says("Disable 2 gateways"), "{planned:?}");
    assert_eq!(gateway(&service, &one).await["disabled"], false, "it is not confirmed");

    let done = select(&visitor, "confirmed", "disable", &ids, &[]).await;
    assert!(done.says("2 done.") && done.says("curl -X PATCH"), "{done:?}");
    socket.await.expect("closed");
    assert_eq!(gateway(&service, &two).await["disabled"], true);
    let again = select(&visitor, "confirmed", "disable", &ids, &[]).await;
    assert!(again.says("2 unchanged.") && again.says("It is disabled already"), "{again:?}");
    let done = select(&visitor, "confirmed", "enable", &ids, &[]).await;
    assert!(done.says("2 done."), "{done:?}");
    assert_eq!(gateway(&service, &one).await["disabled"], false);
}

#[tokio::test]
async fn a_selection_is_bounded_and_validated() {
    let service = Service::start().await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let before = changes(&service).await;
    let many: Vec<String> = (0..51).map(|nth| format!("{}{nth:02}", &NOWHERE[..34])).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (action, ids, says) in [
        ("pause", &many[..0], "select at least one row"),
        ("pause", &many[..], "at most 50 rows can be selected"),
        ("pause", &["one"][..], "must be the id of a gateway"),
        ("delete", &many[..1], "must be one of pause, resume, disable, enable"),
    ] {
        for step in ["dry-run", "confirmed"] {
            let page = select(&visitor, step, action, ids, &[]).await;
            assert!(page.status == 422 && page.says(says), "{says}: {page:?}");
        }
    }
    let page = select(&visitor, "dry-run", "pause", &many[..50], &[]).await;
    assert!(page.status == 200 && page.says("Nothing would change"), "{page:?}");
    assert_eq!(changes(&service).await, before, "nothing was changed");
}

async fn selected_failures_are_redriven_once(backend: Backend) {
    let service = backend.start().await;
    let (one, _) = service.gateway("one").await;
    let (two, _) = service.gateway("two").await;
    for nth in 1..=3 {
        let event = deployed(&[&one, &two], &format!("d-{nth}"));
        service.api().post("/events", &event).await.expect("accepted");
    }
    service.eventually("/deliveries", |list| list["count"] == 6).await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    for (id, sequence) in [(&one, "1"), (&one, "2"), (&two, "1")] {
        let skip = format!("/console/gateways/{id}/skip");
        let done = visitor.submit(&skip, &[("sequence", sequence), ("reason", "not now")]).await;
        assert_eq!(done.status, 200, "{done:?}");
    }
    let path = "/console/failures/redrive-selected";
    let first = format!("{one}:1");
    let list = visitor.get("/console/failures?last=1h").await;
    assert!(list.says(&format!("value=\"{first}\"")) && list.says("Redrive selected…"));
    let pending = visitor.get("/console/failures?status=pending").await;
    assert!(!pending.says("checkbox"), "only failures can be selected: {pending:?}");

    // Those that can be redriven, newest first; one that is still pending, one that is unknown.
    let (newest, second, third) = (format!("{one}:2"), format!("{two}:1"), format!("{one}:3"));
    let unknown = format!("{NOWHERE}:1");
    let chosen = [
        ("delivery", newest.as_str()),
        ("delivery", first.as_str()),
        ("delivery", second.as_str()),
        ("delivery", third.as_str()),
        ("delivery", unknown.as_str()),
    ];
    let asked = [&[("step", "dry-run"), ("list", "last=1h")][..], &chosen].concat();
    let planned = visitor.submit(path, &asked).await;
    assert_eq!(planned.status, 200, "{planned:?}");
    assert!(planned.says("would be appended again") && planned.says("Redrive 3 deliveries"));
    assert!(planned.says("Nothing. It is still pending."), "{planned:?}");
    assert!(planned.says("href=\"/console/failures?last=1h\""), "{planned:?}");
    let head = async |id: &str| gateway(&service, id).await["head"].as_i64();
    assert_eq!((head(&one).await, head(&two).await), (Some(3), Some(3)), "a dry run");

    let start = planned.body.find("name=\"key\" value=\"").expect("a key") + 18;
    let key = &planned.body[start..start + 36];
    let confirmed = [&[("step", "confirmed"), ("key", key)][..], &chosen].concat();
    let done = visitor.submit(path, &confirmed).await;
    assert!(done.status == 200 && done.says("3 done, 1 unchanged, 1 refused"), "{done:?}");
    assert!(done.says("Idempotency-Key: ") && done.says("Try again with 1 delivery"), "{done:?}");
    assert_eq!((head(&one).await, head(&two).await), (Some(5), Some(4)));
    let path_of_one = format!("/deliveries?gatewayId={one}");
    let list = service.eventually(&path_of_one, |list| list["count"].as_i64() >= Some(2)).await;
    for (sequence, new) in [(1, 4), (2, 5)] {
        let mut rows = list["list"].as_array().expect("rows").iter();
        let row = rows.find(|row| row["sequence"] == sequence).expect("it is listed");
        assert_eq!(row["redrivenAs"]["sequence"], new, "in order: {row:#}");
    }
    // Sent twice, it has the same result, and redrives once.
    let again = visitor.submit(path, &confirmed).await;
    assert!(again.says("3 done, 1 unchanged, 1 refused"), "{again:?}");
    assert_eq!((head(&one).await, head(&two).await), (Some(5), Some(4)));
    // With another key, the deliveries are redriven already.
    let anew = [&[("step", "confirmed"), ("key", NOWHERE)][..], &chosen].concat();
    let anew = visitor.submit(path, &anew).await;
    assert!(anew.says("4 unchanged") && anew.says("It was redriven before."), "{anew:?}");
    let redrives = changes(&service).await.into_iter().filter(|it| it.contains("redriven"));
    assert_eq!(redrives.count(), 3);
}

/// Fields, selected deliveries, and what the refusal says.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a str);

#[tokio::test]
async fn a_selection_of_failures_is_bounded_and_validated() {
    let service = Service::start().await;
    let visitor = Visitor::signed_in(&service, &service.token).await;
    let many: Vec<String> = (1..=101).map(|nth| format!("{NOWHERE}:{nth}")).collect();
    let key = [("step", "confirmed"), ("key", NOWHERE)];
    let no_key = [("step", "confirmed"), ("key", "x")];
    let cases: [Case<'_>; 5] = [
        (&key, &[], "select at least one row"),
        (&key, &["1"], "must be a gateway"),
        (&key, &["01890a5d-ac96-774b-bcce-b302099a8057:x"], "must be a gateway"),
        (&no_key, &["01890a5d-ac96-774b-bcce-b302099a8057:1"], "must be the UUID"),
        (&key, &many.iter().map(String::as_str).collect::<Vec<_>>(), "at most 100 rows"),
    ];
    for (fields, chosen, says) in cases {
        let mut fields = fields.to_vec();
        fields.extend(chosen.iter().map(|one| ("delivery", *one)));
        let page = visitor.submit("/console/failures/redrive-selected", &fields).await;
        assert!(page.status == 422 && page.says(says), "{says}: {page:?}");
    }
}
