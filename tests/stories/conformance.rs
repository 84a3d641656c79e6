//! What every implementation of the store must do. Each test creates gateways of its own and only
//! uses [`Store`].

#![expect(clippy::unwrap_used, reason = "a story that finds no answer has failed")]

use std::sync::Arc;
use std::time::Duration;

use gateway_events::clock::Timestamp;
use gateway_events::event::{
    ConnectionId, CorrelationId, Event, EventId, EventType, GatewayId, OrganisationKey, Reason,
    Sequence,
};
use gateway_events::store::{
    Actor, Appended, Attempt, Gateway, Idempotency, InvalidEvent, Labels, NewConnection, NewEvent,
    Principal, Publish, Published, Range, Record, Refusal, RetentionLimits, Store, Target,
    Unconfirmed, Validated, ValidationError,
};
use serde_json::value::RawValue;

mod actions;
mod alerts;
mod append;
mod audit;
mod browse;
mod bulk;
mod console_sessions;
mod diagnosis;
mod feed;
mod inbox;
mod inbox_edit;
mod instances;
mod maintenance;
mod outcomes;
mod positions;
mod queries;
mod reports;
mod supersession;
mod undelivered;

pub(crate) use actions::*;
pub(crate) use alerts::*;
use append::performed;
pub(crate) use append::*;
pub(crate) use audit::*;
pub(crate) use browse::*;
pub(crate) use bulk::*;
pub(crate) use console_sessions::*;
pub(crate) use diagnosis::*;
pub(crate) use feed::*;
pub(crate) use inbox::*;
pub(crate) use inbox_edit::*;
pub(crate) use instances::*;
pub(crate) use maintenance::*;
pub(crate) use outcomes::*;
pub(crate) use positions::*;
pub(crate) use queries::*;
pub(crate) use reports::*;
pub(crate) use supersession::*;
pub(crate) use undelivered::*;

/// Runs every test on a store of its own, which `$fresh` opens. What it returns beside the store is
/// kept until the test has ended.
macro_rules! conforms {
    ($fresh:path) => {
        $crate::conformance::conforms! { $fresh:
            sequences_of_concurrent_publishers_have_no_gap_and_no_duplicate
            a_repeated_id_gets_the_first_answer_and_different_content_is_refused
            an_event_can_be_repeated_with_the_id_that_the_service_generated
            a_repeat_names_the_gateways_in_the_order_of_the_first_answer
            a_repeated_key_gets_the_first_answer_though_part_of_it_was_refused
            a_repeated_key_gets_every_item_of_the_first_answer
            a_repeat_gets_the_first_answer_though_it_is_invalid_by_now
            a_request_that_failed_may_succeed_with_the_same_key
            an_unknown_gateway_only_refuses_its_own_event
            labels_select_gateways_and_a_deleted_one_gets_nothing
            payloads_keep_every_byte_and_pages_are_bounded
            an_event_with_a_long_deployment_id_is_stored_and_found
            a_report_belongs_to_the_sent_event_of_its_instant_or_else_the_newest
            a_report_finds_its_event_among_events_with_unusual_payloads
            a_late_report_finds_its_event_behind_many_newer_ones
            an_unmatched_report_finds_its_event_when_it_is_recorded
            a_receipt_revives_what_was_given_up_but_not_what_was_reported_as_failed
            a_reported_failure_replaces_the_reason_for_which_the_event_was_given_up
            a_reported_failure_of_a_redriven_event_keeps_its_record
            each_kind_of_confirmation_revives_what_was_given_up_elsewhere
            no_kind_of_confirmation_revives_what_its_connection_was_not_sent
            an_event_that_was_given_up_does_not_count_as_a_receipt
            an_applied_delivery_does_not_fail_and_stops_being_a_dead_letter
            confirmed_deliveries_are_not_recorded_as_failed
            a_new_connection_starts_at_the_position_of_the_last_one
            replicas_that_reconnect_in_any_order_find_every_position
            a_reconnect_that_repeats_confirmed_events_is_known
            an_unused_opening_is_not_counted_as_a_replica
            a_repeated_key_gets_the_result_of_the_first_action
            deliveries_are_listed_by_their_newest_outcome
            sequences_that_were_sent_are_known_and_those_not_connected_are_excluded
            a_late_receipt_does_not_recreate_a_position_that_was_taken_over
            a_named_replica_moves_its_own_position_and_its_gateways
            an_instance_resumes_at_the_position_of_its_level
            a_position_that_the_log_does_not_have_is_a_gap
            what_a_snapshot_covers_is_settled_and_recorded
            what_an_instance_does_not_want_is_settled_and_does_not_fail
            a_negative_acknowledgement_fails_or_rejects_an_event
            one_confirmation_outweighs_the_rejections_of_others
            delivered_means_confirmed_by_any_or_by_all_instances
            what_instances_apply_counts_in_rollouts
            filtered_is_a_state_unless_an_instance_receives_the_event
            if_all_must_confirm_those_that_filter_an_event_need_not_apply_it
            later_connection_of_an_instance_replaces_the_earlier_one
            a_position_of_its_own_confirms_what_lies_before
            a_position_says_that_an_event_was_received_which_another_instance_filtered
            a_position_with_an_event_id_proves_that_an_expired_event_was_received
            a_dead_letter_is_failed_in_rollouts_though_an_instance_has_applied_it
            instances_are_limited_forgotten_and_recorded
            an_abandoned_instance_expires_and_leaves_a_record
            a_resync_is_pending_until_the_instance_has_applied_a_snapshot
            retention_keeps_what_an_instance_has_not_confirmed
            a_receipt_on_a_deleted_connection_moves_its_gateway
            the_newest_event_of_a_key_supersedes_what_was_not_sent
            an_event_supersedes_none_that_lasts_longer
            superseded_deliveries_that_retention_removes_do_not_fail
            nothing_is_superseded_while_another_connection_is_open
            an_abandoned_opening_leaves_no_live_connection
            the_peak_of_simultaneous_connections_is_known
            a_refusal_is_recorded_for_its_gateway
            dead_letters_are_skipped_and_not_counted_as_confirmed
            attempts_that_blame_the_event_are_counted_until_it_is_given_up
            a_repeated_end_or_report_is_recorded_once
            deliveries_sent_by_a_lost_node_have_an_unknown_outcome
            an_event_that_another_replica_confirmed_is_not_given_up
            totals_count_each_outcome_once_through_repeats_redrive_and_retention
            events_for_gateways_that_are_not_connected_are_recorded_once
            retention_keeps_unconfirmed_events
            retention_trims_confirmed_events_in_bounded_batches
            removal_by_the_hard_limit_is_recorded_as_a_failure
            rows_that_retention_kept_are_removed_when_they_are_no_longer_needed
            undelivered_events_of_a_deleted_gateway_are_failed_and_kept_until_retention
            an_unconfirmed_event_expires_while_its_gateway_is_not_connected
            many_expired_events_are_recorded_in_bounded_batches
            expired_events_of_a_connected_gateway_delay_no_others
            a_gateway_that_just_disconnected_has_a_grace_period_and_no_other
            old_dead_letters_are_removed_with_their_deliveries
            an_open_dead_letter_outlives_its_log_and_can_be_redriven
            a_dead_letter_is_removed_by_its_own_age_and_by_the_hard_limit
            a_repeat_gets_the_first_answer_though_the_log_is_trimmed
            a_redrive_continues_where_it_stopped_oldest_first
            a_redrive_counts_everything_that_it_skips
            gateways_are_counted_by_state_with_those_furthest_behind
            a_redriven_delivery_shows_its_newest_redrive_and_its_state
            a_closed_connection_keeps_the_position_that_it_had
            a_gateway_is_failing_from_its_first_failed_report_until_a_success_or_a_redrive
            a_gateway_is_failing_until_an_event_of_the_same_type_is_applied
            expired_events_are_counted_and_not_redriven
            concurrent_redrives_append_each_delivery_once
            a_replay_appends_a_range_again_in_its_order
            a_replay_appends_an_event_once_at_its_last_place
            a_replay_says_what_is_gone_and_what_has_expired
            a_window_of_a_replay_contains_what_was_appended_in_it
            a_replayed_dead_letter_counts_as_redriven
            an_event_is_resent_to_gateways_without_it
            a_resend_that_can_not_be_done_changes_nothing
            a_large_replay_is_a_job_that_appends_everything_once
            a_redrive_counts_each_skipped_delivery_once
            a_redrive_as_a_job_counts_and_appends_like_its_requests
            jobs_over_the_same_deliveries_append_each_of_them_once
            an_aborted_job_keeps_what_it_has_appended
            a_job_whose_gateway_is_deleted_fails
            running_jobs_are_limited_and_jobs_are_paged_newest_first
            a_log_is_read_in_pages_with_states
            events_are_listed_by_every_filter_while_others_are_appended
            a_window_of_events_includes_its_start_and_excludes_its_end
            a_redriven_event_is_listed_once_at_its_first_place
            an_event_keeps_its_target_as_published
            deliveries_are_listed_by_state_in_pages
            a_rollout_counts_each_gateway_once_as_far_as_it_came
            the_history_of_a_gateway_shows_what_it_was_at_any_time
            evidence_about_a_gateway_is_complete_and_bounded
            evidence_about_an_event_has_the_gateways_at_that_time
            connections_are_paged_newest_first
            the_feed_has_events_attempts_and_changes_of_connections
            a_tokens_use_is_recorded_at_most_once_a_minute
            the_deliveries_of_a_request_are_limited
            concurrent_large_requests_are_each_appended_as_a_whole
            events_that_retention_removed_fail_once_whichever_connection_resumes
            a_paused_gateway_is_known_until_it_is_resumed
            changes_of_delivery_are_read_in_pages
            nothing_is_recorded_as_not_connected_during_a_pause
            only_a_pending_delivery_is_skipped_and_only_once
            a_skipped_event_that_the_gateway_confirms_is_delivered
            a_purged_payload_is_gone_and_its_event_stays
            an_event_without_deliveries_is_purged
            every_change_is_recorded_with_what_it_changed
            a_change_that_changes_nothing_or_fails_leaves_no_record
            records_are_paged_and_filtered_newest_first
            concurrent_changes_form_one_chain
            records_are_bounded
            old_records_are_trimmed_and_the_rest_stays_a_chain
            sessions_of_the_console_are_bounded_and_end
            rules_and_destinations_of_alerts_are_stored_and_recorded
            notifications_are_claimed_in_order_and_end_once
            each_destination_has_its_turn
            an_alert_that_fires_again_and_again_is_pending_three_times
            what_rules_of_alerts_count_is_found
        }
    };
    ($fresh:path: $($story:ident)*) => {
        $(
            #[tokio::test]
            async fn $story() {
                let (store, _kept) = $fresh().await;
                $crate::conformance::$story(store.as_ref()).await;
                store.close().await;
            }
        )*
    };
}
pub(crate) use conforms;

/// Likewise for the tests of the inbox, into which another program inserts. `$beside` creates that
/// program from what `$fresh` returned beside the store.
macro_rules! conforms_beside_another_program {
    ($fresh:path, $beside:path) => {
        $crate::conformance::conforms_beside_another_program! { $fresh, $beside:
            rows_are_moved_in_the_order_of_their_insertion
            a_row_is_moved_once
            a_rejected_row_delays_no_other_row
            a_repeated_row_creates_no_second_event
            a_rejected_row_can_be_put_back_once
            pages_of_the_inbox_are_bounded
            rows_beyond_the_limit_of_a_transaction_are_moved_by_the_next
            a_commit_of_another_program_is_noticed
            rows_rejected_long_ago_are_deleted
            retried_and_deleted_rows_are_recorded
            an_edited_row_is_published_or_keeps_its_new_reason
            of_two_edits_of_a_version_one_wins
            a_purge_removes_the_payload_from_rejected_rows
        }
    };
    ($fresh:path, $beside:path: $($story:ident)*) => {
        $(
            #[tokio::test]
            async fn $story() {
                let (store, kept) = $fresh().await;
                let program = $beside(&kept).await;
                $crate::conformance::$story(store.as_ref(), &program).await;
                drop(program);
                store.close().await;
            }
        )*
    };
}
pub(crate) use conforms_beside_another_program;

/// A test's own gateways in a store.
#[derive(Clone, Copy)]
pub(crate) struct Fixture<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) organisation: OrganisationKey,
}

impl<'a> Fixture<'a> {
    pub(crate) async fn of(store: &'a dyn Store) -> Self {
        let organisation = store.organisation("default").await.unwrap();
        Self { store, organisation }
    }

    /// Who makes the changes of a test.
    pub(crate) fn actor(&self) -> Actor {
        actor(self.organisation)
    }

    pub(crate) async fn gateway(&self, labels: &[(&str, &str)]) -> Gateway {
        let id = GatewayId::new();
        let labels: Labels =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let name = id.to_string();
        self.store.create_gateway(&self.actor(), id, &name, &labels, 1).await.unwrap()
    }

    pub(crate) async fn again(&self, gateway: &Gateway) -> Gateway {
        self.store.gateway(self.organisation, gateway.id).await.unwrap().unwrap()
    }

    pub(crate) async fn publish(&self, events: Vec<NewEvent>) -> Vec<Result<Appended, Refusal>> {
        self.publish_with(events, None).await.unwrap()
    }

    pub(crate) async fn publish_with(
        &self,
        events: Vec<NewEvent>,
        idempotency: Option<(&str, [u8; 32])>,
    ) -> Option<Vec<Result<Appended, Refusal>>> {
        self.publish_validated(events.into_iter().map(Ok).collect(), idempotency).await
    }

    async fn publish_validated(
        &self,
        events: Vec<Validated>,
        idempotency: Option<(&str, [u8; 32])>,
    ) -> Option<Vec<Result<Appended, Refusal>>> {
        let idempotency =
            idempotency.map(|(key, digest)| Idempotency { key: key.to_owned(), digest });
        let publish = Publish { organisation: self.organisation, events, idempotency };
        match self.store.append(publish).await.unwrap() {
            Published::Done(answers) => Some(answers),
            Published::KeyReused => None,
            Published::TooMany { .. } => panic!("too many deliveries"),
        }
    }

    pub(crate) async fn fill(&self, gateway: &Gateway, count: usize) {
        let events = (0..count).map(|_| event(Target::Gateways(vec![gateway.id]))).collect();
        assert!(self.publish(events).await.iter().all(Result::is_ok));
    }

    pub(crate) async fn open(&self, gateway: &Gateway) -> (ConnectionId, Sequence, Sequence) {
        let connection = connection(gateway);
        let id = connection.id;
        let opened = self.store.open_connection(connection).await.unwrap();
        (id, opened.position, opened.suspect)
    }

    pub(crate) async fn record(&self, records: Vec<Record>) {
        self.store.record(records).await.unwrap();
    }

    async fn attempts(&self, id: &EventId) -> Vec<Attempt> {
        let history = self.store.event_history(self.organisation, id).await.unwrap().unwrap();
        history.deliveries.into_iter().flat_map(|delivery| delivery.attempts).collect()
    }
}

/// Who makes the changes of a test, in an organisation.
pub(crate) fn actor(organisation: OrganisationKey) -> Actor {
    let address = "192.0.2.7".parse().ok();
    Principal::access_token("6kzj2v7qmw4t", "tests", address, Some("request-1"))
        .in_organisation(organisation)
}

pub(crate) fn event(target: Target) -> NewEvent {
    event_with(EventId::new(uuid::Uuid::now_v7().to_string()).unwrap(), target, "{}")
}

pub(crate) fn event_with(id: EventId, target: Target, payload: &str) -> NewEvent {
    let correlation_id = CorrelationId::new(id.as_str()).unwrap();
    NewEvent {
        event: Arc::new(Event {
            id,
            event_type: EventType::new("api.deployed").unwrap(),
            payload: RawValue::from_string(payload.to_owned()).unwrap(),
            correlation_id,
            user_id: None,
            occurred_at: Timestamp::now(),
            expires_at: None,
            traceparent: None,
            attributes: None,
        }),
        is_named: true,
        target,
        digest: [1; 32],
        collapse: None,
        artifact_id: None,
        deployment_id: None,
    }
}

/// An event that failed validation for this reason.
fn invalid(id: Option<&EventId>, why: &str) -> Validated {
    Err(InvalidEvent {
        identity: id.map(|id| (id.clone(), [1; 32])),
        error: ValidationError::invalid("event", why),
    })
}

pub(crate) fn connection(gateway: &Gateway) -> NewConnection {
    NewConnection {
        id: ConnectionId::new(),
        gateway: gateway.key,
        token: "token".to_owned(),
        instance: String::new(),
        transport: "websocket",
        remote_address: "192.0.2.1:4711".to_owned(),
    }
}

pub(crate) fn range(first: i64, last: i64) -> Range {
    Range { first: Sequence(first), last: Sequence(last) }
}

pub(crate) fn confirmed(
    gateway: &Gateway,
    connection: ConnectionId,
    first: i64,
    last: i64,
) -> Record {
    Record::Confirmed {
        gateway: gateway.key,
        connection,
        instance: "".into(),
        range: range(first, last),
        started_at: Timestamp::now(),
        finished_at: Timestamp::now(),
    }
}

pub(crate) fn closed(
    gateway: &Gateway,
    connection: ConnectionId,
    reason: Reason,
    unconfirmed: Option<Range>,
    give_up: bool,
) -> Record {
    Record::Closed {
        gateway: gateway.key,
        connection,
        reason,
        detail: "as the test says".to_owned(),
        unconfirmed: unconfirmed.into_iter().map(sent_now).collect(),
        is_in_progress: false,
        give_up_after: give_up.then_some(1),
        alive_at: None,
        at: Timestamp::now(),
    }
}

pub(crate) fn sent_now(range: Range) -> Unconfirmed {
    Unconfirmed { range, started_at: Timestamp::now() }
}

/// Limits that keep everything.
pub(crate) fn keep_all() -> RetentionLimits {
    const LONG: Duration = Duration::from_hours(1000);
    RetentionLimits {
        max_age: LONG,
        max_events: i64::MAX / 2,
        hard_max_age: LONG,
        hard_max_events: i64::MAX / 2,
        dead_letter_max_age: LONG,
        orphaned_cursor_max_age: LONG,
        instance_max_age: LONG,
        audit_max_age: LONG,
        batch: 10_000,
    }
}

fn ids(answers: &[Result<Appended, Refusal>]) -> Vec<EventId> {
    answers.iter().map(|answer| answer.as_ref().unwrap().id.clone()).collect()
}
