-- What an event was published for, and how many gateways that selected at the time:
-- gateways may be registered, deleted and relabelled afterwards. `target` is `all`,
-- `gateways` (by id: they are those of its deliveries), or the labels as a JSON
-- object. Null for events of earlier versions.
alter table events add column target text;
alter table events add column matched integer;

-- The events of an artifact, newest first: few among many, so they can't be found by
-- age. Events without an artifact cost nothing here. Users have no index: each event of
-- the platform names one, and one more index is a third of the cost of appending it.
create index events_by_artifact on events (artifact_id, organisation, appended_at)
    where artifact_id is not null;

-- The delivery that a redrive repeats, by its sequence in the same log. Null for
-- the first delivery of an event to a gateway, which gives its place in the log.
alter table outbox add column repeats integer;
alter table trimmed add column repeats integer;
update outbox set repeats = d.first_sequence + outbox.sequence - d.redriven_first
from dead_letters d
where d.redriven_first is not null and d.gateway = outbox.gateway
    and outbox.sequence between d.redriven_first and d.redriven_first + d.last_sequence - d.first_sequence;
update trimmed set repeats = d.first_sequence + trimmed.sequence - d.redriven_first
from dead_letters d
where d.redriven_first is not null and d.gateway = trimmed.gateway
    and trimmed.sequence between d.redriven_first and d.redriven_first + d.last_sequence - d.first_sequence;
