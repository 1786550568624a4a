-- Which users were written since the directory (0006) was last brought up to date: whoever writes a user, be it an
-- older worker or an operator, leaves a note in the same transaction.

-- No index: it is read whole, and is short. Many ids to a row, so that a large batch writes one.
create table user_changes (
    user_ids uuid[] not null
) with (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 5000
);
-- In the row itself, never beside it.
alter table user_changes alter user_ids set storage plain;

create function note_user_changes() returns trigger language plpgsql as $$
begin
    -- 400 ids fit on a page.
    insert into user_changes (user_ids)
    select array_agg(id) from (select id, row_number() over () / 400 as part from changed) as numbered
    group by part;
    return null;
end
$$;

create trigger users_inserted after insert on users
    referencing new table as changed for each statement execute function note_user_changes();
create trigger users_updated after update on users
    referencing new table as changed for each statement execute function note_user_changes();
create trigger users_deleted after delete on users
    referencing old table as changed for each statement execute function note_user_changes();
