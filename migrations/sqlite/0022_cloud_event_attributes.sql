-- What an event that was published as a CloudEvent has besides its payload and the attributes that
-- other columns hold: `source`, `subject`, `dataschema`, a `datacontenttype` other than
-- application/json, and the extension attributes that this service does not know. A JSON object whose
-- values are strings, booleans and 32-bit integers, as they were published. Null for all other events.
-- Not jsonb: it is written and read as a whole, and never searched.
alter table events add column attributes text;
