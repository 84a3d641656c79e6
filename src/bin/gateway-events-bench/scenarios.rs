//! One file per scenario.

pub(crate) mod append;
pub(crate) mod catch_up;
pub(crate) mod deliver;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod query;
pub(crate) mod replay;
pub(crate) mod replay_job;
pub(crate) mod storm;
