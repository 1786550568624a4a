-- What goes out: the log of events, and which batches of it are not published yet.

create sequence batch_ids;

-- json, not jsonb: what is read back is what was written.
create table events (
    position bigint generated always as identity,
    batch_id bigint not null,
    subject uuid not null,
    sequence bigint not null,
    id uuid not null,
    type text not null,
    data json not null,
    occurred_at timestamptz not null,
    recorded_on date not null default (now() at time zone 'utc')::date,
    causation_id uuid not null,
    correlation_id text,
    actor text not null,
    traceparent text,
    tracestate text
) partition by range (recorded_on);

create index events_batch on events (batch_id);
create index events_subject on events (subject, sequence);

-- The only rows that are deleted at speed.
create table outbox (
    batch_id bigint primary key,
    created_at timestamptz not null default now(),
    events integer not null
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 5000
);
