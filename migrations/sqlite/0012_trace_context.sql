-- The W3C trace context (traceparent) that an event was published with, passed
-- on to gateways in its frame. Null if the publisher sent none.
alter table events add column traceparent text;

-- A program that publishes through the inbox sets it like any other column. A
-- value that is not a valid traceparent is rejected.
alter table inbox add column traceparent text;
alter table inbox_rejected add column traceparent text;
