create or replace function note_user_changes() returns trigger language plpgsql as $$
begin
    -- 400 ids fit on a page.
    insert into user_changes (user_ids)
    select array_agg(id) from (select id, row_number() over () / 400 as part from changed) as numbered
    group by part;
    return null;
end
$$;
