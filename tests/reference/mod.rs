//! Simple implementations of the library's contracts, which tests compare the real
//! ones with, or use in their place.

pub(crate) mod store;
pub(crate) mod text_transport;
pub(crate) mod transport;
