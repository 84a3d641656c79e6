-- A database as the release with migration 1 left it when it was killed: `@90`
-- is 90 minutes ago, and x'00' are bytes, in either database's words. Inside
-- keys are left out, since tables that begin empty count from 1.

insert into gateways (id, organisation, name, labels, created_at, disabled_at, deleted_at, manifest, manifest_at)
values
    ('0198c0de-0000-7000-8000-000000000001', 1, 'berlin', '{"region":"eu"}', @6000, null, null, '{"apis": 3}', @5900),
    ('0198c0de-0000-7000-8000-000000000002', 1, 'tokyo', '{"region":"asia"}', @6000, null, null, null, null),
    ('0198c0de-0000-7000-8000-000000000003', 1, 'paris', '{}', @6000, null, @4000, null, null),
    ('0198c0de-0000-7000-8000-000000000004', 1, 'lima', '{}', @6000, @200, null, null, null);

-- Of keys that were issued by that release.
insert into gateway_tokens (id, gateway, digest, created_at, expires_at, revoked_at, last_used_at)
values
    ('6mge4ne2iadl', 1, x'6e5f54eeac438512a9725a83e5408d987fed18e7d80c0c9d409c3d5e6a4cec9d', @6000, null, null, @100),
    ('ucfu6635fots', 2, x'fdd5dcf9b9378d27f827a2be3f14fe52a564415f0073f38d249e563dd4fbcf6b', @6000, null, @50, @150),
    ('aaaaaaaaaaaa', 3, x'00000000000000000000000000000000000000000000000000000000000000aa', @6000, null, @4000, null);
insert into access_tokens (id, organisation, name, scopes, digest, created_at, expires_at, revoked_at, last_used_at)
values ('nlxqvsnbacbh', 1, 'first', 'publish read admin',
    x'a37e8cc221db83c0154e35c078048f7644308786298b3c51534c053745cac44e', @6000, null, null, @100);

insert into event_types (organisation, name, schema, description, created_at, updated_at)
values (1, 'cache.flushed', '{"type":"object","required":["cache"]}', 'A cache was emptied.', @6000, @6000);

-- Berlin: 1 and 2 are trimmed; 3 failed and was appended again as 7; 5 was
-- given up; 6 is confirmed; 7 to 10 are pending. Tokyo has everything. Paris is
-- deleted, and its log is gone. Lima is disabled, and one event waits for it.
insert into streams (gateway, epoch, head, floor, missed, confirmed_total, failed_total, last_failure_at, last_failure_reason)
values
    (1, '0198c0de-0000-7000-8000-0000000000e1', 10, 2, 10, 4, 9, @120, 'not_connected'),
    (2, '0198c0de-0000-7000-8000-0000000000e2', 2, 0, 2, 2, 0, null, null),
    (3, '0198c0de-0000-7000-8000-0000000000e3', 1, 1, 1, 0, 1, @4000, 'gateway_deleted'),
    (4, '0198c0de-0000-7000-8000-0000000000e4', 1, 0, 1, 0, 1, @3890, 'not_connected');

insert into events (organisation, id, type, payload, correlation_id, user_id, occurred_at, appended_at, expires_at,
    digest, artifact_id, deployment_id)
values
    (1, 'e-3', 'api.deployed', '{"apiId":"a-1","deploymentId":"d-3","performedAt":"2026-01-31T09:30:00.001Z"}',
        'c-3', null, @4010, @4010, null, x'03', 'a-1', 'd-3'),
    (1, 'e-4', 'api.deployed', '{"apiId":"a-2","deploymentId":"d-4","performedAt":"2026-01-31T09:30:00.001Z"}',
        'c-4', 'alice', @3910, @3910, null, x'04', 'a-2', 'd-4'),
    (1, 'e-5', 'gateway.config.updated', '{"configType":"cache","action":"crash"}',
        'c-5', null, @3900, @3900, null, x'05', null, null),
    (1, 'e-6', 'api.undeployed', '{"apiId":"a-1","deploymentId":"d-6","performedAt":"2026-01-31T09:30:00.001Z"}',
        'c-6', null, @2950, @2950, null, x'06', 'a-1', 'd-6'),
    (1, 'e-keyed', 'gateway.config.updated', '{"configType":"cache","action":"update","ratio":1.10}',
        'c-keyed', null, @130, @130, null, x'fd99794724324b6a6658406f63cecee357e36559bfeefd6ecd3bcee6c713c67a', null, null),
    (1, 'e-9', 'cache.flushed', '{"z":"\u0000 \"quoted\" ü","cache":"tokens","n":1.50}',
        'c-9', 'bob', @129, @129, null, x'09', null, null),
    (1, 'e-10', 'api.deployed', '{"apiId":"a-3","deploymentId":"d-10","performedAt":"2026-01-31T09:30:00.001Z"}',
        'c-10', null, @128, @128, null, x'10', 'a-3', 'd-10');

insert into outbox (gateway, sequence, event)
values (1, 3, 1), (1, 4, 2), (1, 5, 3), (1, 6, 4), (1, 7, 1), (1, 8, 5), (1, 9, 6), (1, 10, 7),
    (2, 1, 2), (2, 2, 5), (4, 1, 2);

insert into idempotency_keys (organisation, key, digest, answer, created_at)
values (1, 'k-1', x'a9672999d92dc2b6b8dbfa6f6c939b8d41bb7b42b9ad47eb30a8ef627799dedc',
    '[{"Ok":{"id":"e-keyed","deliveries":[{"gatewayId":"0198c0de-0000-7000-8000-000000000001","sequence":8},{"gatewayId":"0198c0de-0000-7000-8000-000000000002","sequence":2}]}}]',
    @130);

-- It was killed: it never stopped, and berlin's last connection never closed.
insert into nodes (id, started_at, heartbeat_at, stopped_at)
values ('0198c0de-0000-7000-8000-0000000000b1', @6000, @90, null);
insert into connections (id, gateway, token, instance, transport, node, remote_address, connected_at,
    last_heartbeat_at, closed_at, close_reason)
values
    ('0198c0de-0000-7000-8000-0000000000c1', 1, '6mge4ne2iadl', '', 'websocket',
        '0198c0de-0000-7000-8000-0000000000b1', '192.0.2.1', @5000, @3810, @3800, 'connection_lost'),
    ('0198c0de-0000-7000-8000-0000000000c2', 1, '6mge4ne2iadl', '', 'websocket',
        '0198c0de-0000-7000-8000-0000000000b1', '192.0.2.1', @2960, @2890, @2880, 'closed_by_gateway'),
    ('0198c0de-0000-7000-8000-0000000000c3', 1, '6mge4ne2iadl', '', 'websocket',
        '0198c0de-0000-7000-8000-0000000000b1', '192.0.2.1', @100, @90, null, null),
    ('0198c0de-0000-7000-8000-0000000000c4', 2, 'ucfu6635fots', '', 'websocket',
        '0198c0de-0000-7000-8000-0000000000b1', '2001:db8::1', @5000, @60, @50, 'token_revoked');
insert into cursors (gateway, instance, received, applied, updated_at, left_at)
values
    (1, '', 6, 4, @2900, null),
    (1, '0198c0de-0000-7000-8000-0000000000c3', 6, 0, @100, null),
    (2, '', 2, 1, @130, null);

insert into attempts (gateway, first_sequence, last_sequence, outcome, reason, detail, connection, instance, node,
    started_at, finished_at)
values
    (1, 1, 2, 'received', null, null, '0198c0de-0000-7000-8000-0000000000c1', '', '0198c0de-0000-7000-8000-0000000000b1', @5000, @4999),
    (3, 1, 1, 'failed', 'gateway_deleted', null, null, '', '0198c0de-0000-7000-8000-0000000000b1', @4000, @4000),
    (1, 3, 3, 'failed', 'gateway_processing_error', 'no such upstream', '0198c0de-0000-7000-8000-0000000000c1', '', '0198c0de-0000-7000-8000-0000000000b1', @4010, @4009),
    (1, 4, 4, 'received', null, null, '0198c0de-0000-7000-8000-0000000000c1', '', '0198c0de-0000-7000-8000-0000000000b1', @3910, @3909),
    (1, 4, 4, 'applied', null, null, '0198c0de-0000-7000-8000-0000000000c1', '', '0198c0de-0000-7000-8000-0000000000b1', @3908, @3908),
    (2, 1, 1, 'received', null, null, '0198c0de-0000-7000-8000-0000000000c4', '', '0198c0de-0000-7000-8000-0000000000b1', @3910, @3909),
    (2, 1, 1, 'applied', null, null, '0198c0de-0000-7000-8000-0000000000c4', '', '0198c0de-0000-7000-8000-0000000000b1', @3908, @3908),
    (4, 1, 1, 'failed', 'not_connected', null, null, '', '0198c0de-0000-7000-8000-0000000000b1', @3890, @3890),
    (1, 5, 5, 'failed', 'connection_lost', 'the peer went away', '0198c0de-0000-7000-8000-0000000000c1', '', '0198c0de-0000-7000-8000-0000000000b1', @3801, @3800),
    (1, 5, 5, 'failed', 'connection_lost', null, '0198c0de-0000-7000-8000-0000000000d1', '', '0198c0de-0000-7000-8000-0000000000b1', @3797, @3796),
    (1, 5, 5, 'failed', 'connection_lost', null, '0198c0de-0000-7000-8000-0000000000d2', '', '0198c0de-0000-7000-8000-0000000000b1', @3795, @3794),
    (1, 5, 5, 'failed', 'connection_lost', null, '0198c0de-0000-7000-8000-0000000000d3', '', '0198c0de-0000-7000-8000-0000000000b1', @3793, @3792),
    (1, 5, 5, 'failed', 'connection_lost', null, '0198c0de-0000-7000-8000-0000000000d4', '', '0198c0de-0000-7000-8000-0000000000b1', @3791, @3790),
    (1, 6, 6, 'received', null, null, '0198c0de-0000-7000-8000-0000000000c2', '', '0198c0de-0000-7000-8000-0000000000b1', @2950, @2900),
    (2, 2, 2, 'received', null, null, '0198c0de-0000-7000-8000-0000000000c4', '', '0198c0de-0000-7000-8000-0000000000b1', @130, @130),
    (1, 8, 10, 'failed', 'not_connected', null, null, '', '0198c0de-0000-7000-8000-0000000000b1', @120, @120);
insert into dead_letters (gateway, first_sequence, last_sequence, reason, dead_at, redriven_at)
values
    (1, 3, 3, 'gateway_processing_error', @4009, @2940),
    (1, 5, 5, 'connection_lost', @3790, null);
