-- Whom a failed command is about, and who else waits for its answer.

alter table failed_commands
    -- What its body names: a user's or a session's id, or the address of a user to be. For order, and for operators.
    add column aggregate text,
    -- Tries that began and never ended: the process may have died of it.
    add column unended integer not null default 0,
    -- Callers that sent the same message again while it waited.
    add column waiters jsonb not null default '[]';

-- Dead letters that somebody waits for who is still to be told.
create index failed_commands_untold on failed_commands (due_at) where state = 'dead' and due_at is not null;
create index failed_commands_aggregate on failed_commands (aggregate, created_at, id);
