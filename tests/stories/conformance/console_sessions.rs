//! Sessions of the console.

use std::time::Duration;

use gateway_events::store::{NewToken, SESSIONS_PER_TOKEN, Scope, Store, StoreError, TrimMark};

use super::{Fixture, keep_all, pass};

const HOUR: Duration = Duration::from_hours(1);

pub(crate) async fn sessions_of_the_console_are_bounded_and_end(store: &dyn Store) {
    let fixture = Fixture::of(store).await;
    for id in ["operator1", "operator2"] {
        let token = NewToken { id: id.to_owned(), digest: [7; 32], expires_at: None };
        let scopes = [Scope::Read];
        store.create_access_token(&fixture.actor(), id, &scopes, token).await.unwrap();
    }
    let unknown = store.begin_console_session([1; 32], "no-such", HOUR).await;
    assert!(matches!(unknown, Err(StoreError::NotFound("access token"))), "{unknown:?}");
    assert_eq!(store.console_session(&[1; 32]).await.unwrap(), None);

    // Falling, because the order of sessions of the same microsecond is that of their digests.
    let digest = |number: i64| [u8::try_from(200 - number).unwrap(); 32];
    store.begin_console_session(digest(100), "operator2", HOUR).await.unwrap();
    for number in 0..SESSIONS_PER_TOKEN + 2 {
        store.begin_console_session(digest(number), "operator1", HOUR).await.unwrap();
    }
    for number in 0..SESSIONS_PER_TOKEN + 2 {
        let found = store.console_session(&digest(number)).await.unwrap();
        assert_eq!(found.is_some(), number >= 2, "{number}: {found:?}");
    }
    let other = store.console_session(&digest(100)).await.unwrap().unwrap();
    assert_eq!(other.token, "operator2", "that of another token stays");
    assert_eq!(other.expires_at.since(other.last_used_at), HOUR);

    store.end_console_session(&digest(5)).await.unwrap();
    store.end_console_session(&digest(5)).await.unwrap();
    assert_eq!(store.console_session(&digest(5)).await.unwrap(), None);
    store.begin_console_session(digest(101), "operator2", Duration::ZERO).await.unwrap();
    assert_eq!(store.console_session(&digest(101)).await.unwrap(), None, "it has expired");
    pass(store, &keep_all(), &mut TrimMark::default()).await;
    assert!(store.console_session(&digest(100)).await.unwrap().is_some(), "it has not");
}
