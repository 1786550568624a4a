-- A batch is written in one statement, which commits by itself.

-- Fails the statement that calls it: what the batch was decided on has changed meanwhile.
create function roster_conflict(what text) returns boolean language plpgsql as $$
begin
    raise exception using errcode = 'RS409', message = 'changed meanwhile', constraint = what;
end
$$;

-- By it the process that wrote a batch finds the events it still has in memory.
alter table outbox add column first_event uuid;
