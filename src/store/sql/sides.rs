//! The sides of the database: a glance, a reader's moment, an answer that may
//! take its time, or a transaction that writes.

/// Runs a verb's one statement, which reads few rows.
macro_rules! look {
    ($store:ident, $connection:ident => $work:expr) => {
        $store.looking(move |$connection| Box::pin(async move { $work.await })).await
    };
}

/// Runs a verb's statements in a moment of the database.
macro_rules! read {
    ($store:ident, $connection:ident => $work:expr) => {
        $store.reading(move |$connection| Box::pin(async move { $work.await })).await
    };
}

/// The same for what people ask: it can take its time, so that it waits in a
/// queue of its own, and is ended when it takes too long.
macro_rules! ask {
    ($store:ident, $connection:ident => $work:expr) => {
        $store.asking(move |$connection| Box::pin(async move { $work.await })).await
    };
}

/// Runs a verb's statements as a transaction that writes.
macro_rules! write {
    ($store:ident, $connection:ident, $now:ident => $work:expr) => {
        $store.writer.run(move |$connection, $now| Box::pin(async move { $work.await })).await
    };
}
pub(super) use {ask, look, read, write};
