//! Stories through the public surface: the real binary, real TLS, real files.
//!
//! | requirement | story |
//! |---|---|
//! | FR-001, 002, 015, 022, 024 | `journey::only_a_registered_key_is_admitted_and_the_first_frame_says_so` |
//! | FR-003, 004, 007 | `journey::an_event_reaches_every_connection_of_its_gateway_and_nobody_else` |
//! | FR-005, 017, 018 | `journey::an_admin_sees_who_is_connected_and_who_was` |
//! | FR-006 | `faults::silence::a_dead_peer_is_gone_within_thirty_seconds_of_its_last_sign_of_life` |
//! | FR-008, 010, 011 | `journey::a_type_is_registered_while_running` |
//! | FR-005, 009, 015, in the log | `edge::log` |
//! | FR-009, 016, 019 | `ledger::a_missed_event_is_a_failure_on_record_and_still_arrives` |
//! | FR-012, 013 | the window and the in-memory transport, in the library |
//! | FR-014 | `crash::whatever_was_accepted_arrives_in_order_after_a_kill`, `faults::replicas` |
//! | FR-020, 023 | `journey::connections_and_attempts_are_limited` |
//! | FR-023, in any minute | `http::rates`, in the library |
//! | FR-021 | `journey::an_event_too_large_is_refused_and_one_that_fits_is_not` |

mod conformance;
mod crash;
mod edge;
mod fake;
mod faults;
mod journey;
mod ledger;
mod line;
mod raw;
mod simulator;
mod store_sqlite;
mod support;
