//! Tests of the public interfaces, called stories: with the real binary, real TLS, real files.
//!
//! Stories of `journey`, `ledger` and `crash` run twice, in `embedded` and in `shared`.
//!
//! | requirement | story |
//! |---|---|
//! | FR-001, 002, 015, 022, 024 | `journey::only_a_registered_key_is_admitted_and_the_first_frame_says_so` |
//! | FR-002 | `scopes::requests_without_a_valid_token_get_the_same_answer_everywhere` |
//! | FR-003, 004, 007 | `journey::an_event_reaches_every_connection_of_its_gateway_and_no_other` |
//! | FR-005, 017, 018 | `journey::live_and_past_connections_are_listed` |
//! | FR-006 | `faults::silence::a_dead_peer_is_disconnected_within_thirty_seconds_of_its_last_activity` |
//! | FR-007 | `publish::an_event_targets_named_or_labelled_gateways_or_all` |
//! | FR-008 | `payloads::a_payload_arrives_byte_for_byte_live_and_from_the_log` |
//! | FR-008, 010, 011 | `journey::a_type_is_registered_while_running` |
//! | FR-009, 016, 019 | `ledger::an_event_for_a_disconnected_gateway_is_recorded_as_failed_and_still_arrives` |
//! | FR-009 | `operations::a_failure_is_recorded_within_a_second`, `disconnected` |
//! | FR-005, 009, 015, in the log | `edge::log` |
//! | FR-012, 013 | `delivery`, with a transport in memory and one of text lines |
//! | FR-014 | `crash::every_accepted_event_arrives_in_order_after_a_kill`, `faults::replicas` |
//! | FR-016 | `operations::the_state_of_a_gateway_and_of_an_event_is_shown` |
//! | FR-017, 018 | `operations::totals_are_from_the_database_and_survive_a_kill` |
//! | FR-019 | `delivery_queries::every_combination_of_filters_returns_exactly_the_matches` |
//! | FR-019 | `delivery_queries::a_window_includes_its_start_and_excludes_its_end` |
//! | FR-019 | `paging::pages_of_failures_are_one_snapshot_while_more_arrive` |
//! | events by the shared database | `inbox`, `inbox_postgres` |
//! | several nodes | `nodes`, `cluster`, `lost_nodes`, `node_list`; under faults: `chaos` |
//! | through a pooler, a balancer | `pooler`, `balancer`, `proxied` |
//! | stores behave alike | `conformance`, `model` |
//! | FR-020, 023 | `journey::connections_and_attempts_are_limited` |
//! | FR-023, in any minute | `http::rates` and `http::reconnects`, in the library |
//! | FR-023, of a gateway | `edge::reconnects` |
//! | FR-020, of a gateway | `edge::gateway_limit` |
//! | FR-015, refusals and failed deliveries | `edge::refusals` |
//! | idle and silent peers | `edge::connection_limits`; which connection is closed: `http::listener::table`, in the library |
//! | FR-021 | `journey::an_event_too_large_is_refused_and_one_that_fits_is_not` |
//! | FR-021 | `payloads::the_largest_event_is_a_frame_of_one_mebibyte_with_the_largest_sequence` |
//! | FR-022 | `trust::a_certificate_is_verified_unless_that_is_disabled` |
//! | FR-022 | `settings::an_invalid_value_is_reported_with_its_source_and_what_is_allowed` |
//! | corrective action | `redrive::only_dead_letters_are_redriven_and_only_once` |
//! | corrective action | `command_line::a_dead_letter_is_redriven_by_hand` |
//! | sqlx-cli | `migrations`, on both databases, and `releases` |

#[path = "../reference/mod.rs"]
mod reference;

mod access;
mod balancer;
mod bench;
mod bench_running;
mod both_databases;
mod built_ins;
mod bursts;
mod chaos;
mod clocks;
mod cluster;
mod command_line;
mod conformance;
mod crash;
mod delivery;
mod delivery_queries;
mod disconnected;
mod disk;
mod edge;
mod example_programs;
mod examples;
mod failed_statements;
mod fake_service;
mod fault_proxy;
mod faults;
mod health;
mod hostile;
mod idempotency;
mod inbox;
mod inbox_postgres;
mod inbox_program;
mod inbox_program_postgres;
mod jobs;
mod journey;
mod ledger;
mod listening;
mod log_api;
mod logging;
mod lost_nodes;
mod lost_sessions;
mod merge_patch;
mod migrations;
mod model;
mod node_list;
mod nodes;
mod observability;
mod offline_database;
mod openapi;
mod operations;
mod organisations;
mod outages;
mod paging;
mod payloads;
mod pooler;
mod positions;
mod proxied;
mod publish;
mod raw_gateway;
mod redrive;
mod releases;
mod retention;
mod scopes;
mod secrets;
mod secured_postgres;
mod server;
mod settings;
mod simulator;
mod socket_options;
mod store_memory;
mod store_postgres;
mod store_sqlite;
mod summary;
mod support;
mod switch_over;
mod tables;
mod trust;
mod unmatched;
mod verdict;
