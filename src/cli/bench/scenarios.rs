//! One file per question that is asked of the service.

pub(super) mod append;
pub(super) mod deliver;
