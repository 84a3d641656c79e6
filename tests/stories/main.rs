//! Tests of the public interfaces, called stories: with the real binary, real TLS, real files.
//!
//! Stories of `journey`, `ledger` and `crash` run twice, in `embedded` and in `shared`.
//!
//! | requirement | story |
//! |---|---|
//! | gateways connect over TLS with a registered key; the first frame confirms it, and refusals are logged | `journey::only_registered_keys_are_admitted_and_acknowledged` |
//! | unauthorised requests are refused | `scopes::requests_without_a_valid_token_get_the_same_answer_everywhere` |
//! | a gateway may have several connections, and each of them gets its events | `journey::an_event_reaches_every_connection_of_its_gateway_and_no_other` |
//! | connections are listed with their times and states, also after their end | `journey::live_and_past_connections_are_listed` |
//! | a dead peer is detected within 30 s | `faults::silence::a_dead_peer_is_disconnected_within_thirty_seconds_of_its_last_activity` |
//! | an event is for the gateways that it targets | `publish::an_event_targets_named_or_labelled_gateways_or_all` |
//! | a payload arrives byte for byte as it was published | `payloads::a_payload_arrives_byte_for_byte_live_and_from_the_log` |
//! | event types are registered without a change of code | `journey::a_type_is_registered_while_running` |
//! | a failed delivery is recorded if the gateway is not connected | `ledger::an_event_for_a_disconnected_gateway_is_recorded_as_failed_and_still_arrives` |
//! | a failure can be queried soon | `operations::a_failure_is_recorded_at_once`, `disconnected` |
//! | connections, disconnections, refusals and failed deliveries are logged | `edge::log` |
//! | delivery does not depend on a transport | `transports`: one suite over all of them; `delivery`, with a transport in memory and one of text lines |
//! | a gateway that was away for long catches up with bounded memory | `transports::catch_up` |
//! | each gateway gets its events in order | `crash::every_accepted_event_arrives_in_order_after_a_kill`, `faults::replicas` |
//! | each attempt is recorded with its outcome | `operations::the_state_of_a_gateway_and_of_an_event_is_shown` |
//! | the state of the connected gateways can be queried | `operations::totals_are_from_the_database_and_survive_a_kill` |
//! | failed deliveries can be queried by filters | `delivery_queries::every_combination_of_filters_returns_exactly_the_matches` |
//! | failed deliveries can be queried for a window of time | `delivery_queries::a_window_includes_its_start_and_excludes_its_end` |
//! | failed deliveries can be paged through | `paging::pages_of_failures_are_one_snapshot_while_more_arrive` |
//! | events by the shared database | `inbox`, `inbox_postgres` |
//! | several nodes | `nodes`, `cluster`, `lost_nodes`, `node_list`; under faults: `chaos` |
//! | through a pooler, a balancer | `pooler`, `balancer`, `proxied` |
//! | backups are consistent, and no sequence is reused in an epoch after a restore | `backup` |
//! | stores behave alike | `conformance`, `model` |
//! | connections, and attempts to connect per minute and address, are limited | `journey::connections_and_attempts_are_limited` |
//! | attempts to connect are limited in any minute | `admission::rates` and `admission::reconnects`, in the library |
//! | attempts of one gateway are limited | `edge::reconnects` |
//! | connections of one gateway are limited | `edge::gateway_limit` |
//! | each refusal and each failed delivery is logged | `edge::refusals` |
//! | idle and silent peers | `edge::connection_limits`; which connection is closed: `http::listener::table`, in the library |
//! | an event is at most 1 MiB | `journey::an_event_too_large_is_refused_and_one_that_fits_is_not` |
//! | an event is at most 1 MiB, as the whole frame | `payloads::the_largest_event_is_a_frame_of_one_mebibyte_with_the_largest_sequence` |
//! | TLS is required, and clients verify the certificate | `trust::a_certificate_is_verified_unless_that_is_disabled` |
//! | serving without TLS is only allowed on loopback addresses; invalid settings are reported | `settings::an_invalid_value_is_reported_with_its_source_and_what_is_allowed` |
//! | what happens is shown as it happens, and nothing is missed | `feed`, `feed_postgres` |
//! | lists of a large database read few rows | `plans_postgres` |
//! | corrective action | `redrive::only_dead_letters_are_redriven_and_only_once` |
//! | why a gateway did not get its deployments, and what to do about it | `diagnosis` |
//! | waiting until gateways have received or applied an event, on any node | `rollouts` |
//! | corrective action | `command_line::a_dead_letter_is_redriven_by_hand` |
//! | corrective action over many deliveries, which survives the loss of its node | `bulk_jobs` |
//! | corrective action on one gateway or event: pause, skip, purge, edit of a rejected row | `actions`, `delivery::actions`, and at random: `model::lanes` |
//! | every change by an admin is recorded, and `verify` finds records that were changed | `audit`, `conformance` |
//! | the console: sessions, forms, scopes, hostile texts; every page in a browser, also by keyboard and without scripts | `console` |
//! | sqlx-cli | `migrations`, on both databases, and `releases` |

#[path = "../reference/mod.rs"]
mod reference;

mod access;
mod actions;
mod agent;
mod alerts;
mod asyncapi;
mod audit;
mod backup;
mod balancer;
mod bench;
mod bench_running;
mod both_databases;
mod browse;
mod built_ins;
mod bulk_jobs;
mod bursts;
mod chaos;
mod client;
mod clocks;
mod cloud_events;
mod cluster;
mod command_formats;
mod command_line;
mod completions;
mod conformance;
mod console;
mod crash;
mod delivery;
mod delivery_queries;
mod delivery_states;
mod diagnosis;
mod disconnected;
mod disk;
mod dry_runs;
mod edge;
mod example_programs;
mod examples;
mod failed_statements;
mod failover;
mod fake_service;
mod fault_proxy;
mod faults;
mod feed;
mod feed_postgres;
mod filtered;
mod health;
mod hostile;
mod idempotency;
mod inbox;
mod inbox_postgres;
mod inbox_program;
mod inbox_program_postgres;
mod instances;
mod jobs;
mod journey;
mod ledger;
mod listening;
mod log_api;
mod logging;
mod lost_nodes;
mod lost_sessions;
mod lost_waits;
mod merge_patch;
mod migrations;
mod misconfigured;
mod mistyped;
mod model;
mod newer_version;
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
mod plans_postgres;
mod plans_sqlite;
mod pooler;
mod positions;
mod proxied;
mod publish;
mod published;
mod query_parameters;
mod raw_gateway;
mod redrive;
mod releases;
mod reliable;
mod retention;
mod retention_postgres;
mod rollouts;
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
mod streams;
mod summary;
mod supersession;
mod support;
mod tables;
mod transports;
mod trust;
mod unmatched;
mod unreadable;
mod verdict;
