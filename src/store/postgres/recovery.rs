//! Changes that an operator makes directly in the database: an access token for an operator who has
//! none, while nodes may be running, and new epochs for all logs, while none is. Both refuse a
//! database whose schema is another version's.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};

use super::connect;
use super::errors::OpenError;
use super::servers::Access;
use super::sql::dialect::NodeStatements as _;
use super::{Options, migrations, sql};
use crate::event::NodeId;
use crate::store::{NewToken, NodeStatus, Principal, RenewalReason};

/// Creates an access token with all scopes in the organisation `default`. Running nodes accept it
/// at once, because they look tokens up in the database.
pub async fn add_admin_token(
    options: &Options,
    principal: Principal,
    name: &str,
    token: NewToken,
) -> Result<(), OpenError> {
    migrations::refuse_another_version(options).await?;
    let (mut conn, link) = connect::first(options, Access::Write).await?;
    let mut transaction = conn.begin_with(link.begin()).await?;
    let now = transaction.now().await?;
    sql::credentials::recover_admin_token(&mut transaction, now, principal, name, token).await?;
    transaction.commit().await?;
    conn.close().await?;
    Ok(())
}

/// Nodes that are listed in an error, at most.
const NAMED_NODES: usize = 10;

/// Fails if [`renew_epochs`] can't be done because of the database's state. Changes nothing.
pub async fn check_renewal(options: &Options) -> Result<(), OpenError> {
    migrations::refuse_another_version(options).await?;
    let (mut conn, link) = connect::first(options, Access::Write).await?;
    let mut transaction = conn.begin_with(link.begin()).await?;
    refuse_running_nodes(&mut transaction, options.node_timeout).await?;
    transaction.rollback().await?;
    conn.close().await?;
    Ok(())
}

/// Gives every log a new epoch; returns the number of logs. Fails while a node is running, which its
/// heartbeats show.
pub async fn renew_epochs(options: &Options, principal: Principal) -> Result<u64, OpenError> {
    migrations::refuse_another_version(options).await?;
    let (mut conn, link) = connect::first(options, Access::Write).await?;
    let mut transaction = conn.begin_with(link.begin()).await?;
    // A node that starts meanwhile registers itself after the commit, and then reads new epochs.
    sqlx::query("lock table nodes in share row exclusive mode").execute(&mut *transaction).await?;
    refuse_running_nodes(&mut transaction, options.node_timeout).await?;
    let reason = RenewalReason::Requested;
    let logs = sql::epochs::renew(&mut transaction, principal, reason).await?;
    transaction.commit().await?;
    conn.close().await?;
    Ok(logs)
}

/// Fails while a node is running.
async fn refuse_running_nodes(conn: &mut PgConnection, timeout: Duration) -> Result<(), OpenError> {
    let nodes = sql::nodes::list(conn, NodeId::new(), timeout, NAMED_NODES).await?.into_iter();
    let running: Vec<String> = nodes
        .filter(|node| node.status == NodeStatus::Live)
        .map(|node| match node.host {
            Some(host) => format!("{} on {host}", node.id),
            None => node.id.to_string(),
        })
        .collect();
    if !running.is_empty() {
        return Err(OpenError::NodesRunning { nodes: running.join(", "), timeout });
    }
    Ok(())
}
