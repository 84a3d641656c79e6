//! Races between the check of a key and the opening of its connection.

use secrecy::ExposeSecret as _;

use super::*;
use crate::dispatch::Options;
use crate::event::{GatewayId, NodeId};
use crate::jobs::Supervisor;
use crate::store::sqlite::{self, SqliteStore};
use crate::store::{
    Credentials as _, GatewayChange, Gateways as _, Health as _, Labels, NewToken, Principal,
};
use crate::token::{self, Kind};
use crate::wake::Wake;

#[tokio::test]
async fn a_gateway_that_changed_after_its_key_was_checked_is_refused_for_what_it_is_now() {
    let directory = tempfile::tempdir().unwrap();
    let options =
        sqlite::Options { path: directory.path().join("test.db"), ..sqlite::Options::default() };
    let store = SqliteStore::open(&options, NodeId::new(), Wake::default()).await.unwrap();
    let (organisation, id) = (store.organisation("default").await.unwrap(), GatewayId::new());
    let actor = Principal::local("tester", "localhost").in_organisation(organisation);
    store.create_gateway(&actor, id, "one", &Labels::new(), 1).await.unwrap();
    let issued = token::issue(Kind::Gateway).unwrap();
    let new = NewToken { id: issued.id.clone(), digest: issued.digest, expires_at: None };
    store.create_gateway_token(&actor, id, new).await.unwrap();
    let key = Presented::parse(Kind::Gateway, issued.key.expose_secret()).unwrap();
    let shared = Arc::clone(&store) as Arc<dyn Store>;
    let jobs = Supervisor::default();
    let dispatcher =
        Dispatcher::new(Arc::clone(&shared), Wake::default(), Options::default(), &jobs);
    let admissions = Admissions::new(shared, dispatcher, NonZeroU32::MIN);
    let cause = async || admissions.not_found(&key).await.cause;
    let disable = |disabled| GatewayChange { disabled: Some(disabled), ..Default::default() };
    store.update_gateway(&actor, id, disable(true)).await.unwrap();
    assert!(matches!(cause().await, Cause::Disabled));
    store.update_gateway(&actor, id, disable(false)).await.unwrap();
    assert!(matches!(cause().await, Cause::Interrupted));
    store.delete_gateway(&actor, id).await.unwrap();
    assert!(matches!(cause().await, Cause::InvalidKey));
    store.close().await;
}
