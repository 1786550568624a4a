-- What came in: answered messages in the inbox, failed ones beside it.

-- The day of the message itself, so that every resend meets the same unique index entry.
create table inbox (
    message_id uuid not null,
    issued_on date not null,
    type text not null,
    actor text not null,
    fingerprint bytea not null,
    answer text not null,
    primary key (message_id, issued_on)
) partition by range (issued_on);

create table failed_commands (
    id uuid primary key,
    message_id uuid,
    issued_on date,
    type text not null,
    actor text not null,
    actor_grant text,
    -- Not jsonb, which cannot hold U+0000.
    properties json not null,
    -- Encrypted: it may hold a password.
    body bytea not null,
    fingerprint bytea not null,
    reason text not null,
    state text not null constraint failed_commands_state check (state in ('waiting', 'dead')),
    attempts integer not null,
    first_error text not null,
    last_error text not null,
    due_at timestamptz,
    claimed_until timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create unique index failed_commands_message on failed_commands (message_id, issued_on)
    where message_id is not null;
create index failed_commands_waiting on failed_commands (due_at) where state = 'waiting';
create index failed_commands_dead on failed_commands (updated_at) where state = 'dead';
