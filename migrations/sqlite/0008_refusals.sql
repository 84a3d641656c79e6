-- The last connection attempt of a gateway that was refused, for operators. A
-- gateway that ends its process on 401 has no other way to say why it is away.
alter table gateways add column last_refusal_at integer;
alter table gateways add column last_refusal_code text;      -- as in the answer's problem document
alter table gateways add column last_refusal_address text;
