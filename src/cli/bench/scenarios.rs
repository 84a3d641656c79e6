//! One file per question that is asked of the service.

pub(super) mod append;
pub(super) mod deliver;
pub(super) mod fanout;
pub(super) mod idle;
pub(super) mod query;
pub(super) mod replay;
pub(super) mod storm;
