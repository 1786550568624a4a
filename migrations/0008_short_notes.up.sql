-- A batch of few users is noted without what it takes to split one of many: most are small when it counts.
create or replace function note_user_changes() returns trigger language plpgsql as $$
begin
    -- 400 ids fit on a page.
    insert into user_changes (user_ids)
    select array_agg(id) from changed having count(*) between 1 and 400;
    if not found then
        insert into user_changes (user_ids)
        select array_agg(id) from (select id, row_number() over () / 400 as part from changed) as numbered
        group by part;
    end if;
    return null;
end
$$;
