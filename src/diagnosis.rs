//! Diagnoses: why a gateway or an event has missing deliveries, and what to do next. The
//! [evidence](crate::store::diagnosis) comes from the store; nothing here reads or changes anything.

pub mod event;
pub mod gateway;
pub mod labels;
mod step;

pub use step::Step;
pub(crate) use step::argument;
