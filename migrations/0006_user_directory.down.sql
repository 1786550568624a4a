alter table users set (fillfactor = 90);
alter table users add column search text collate "C" not null
    generated always as (lower(name collate "und-x-icu") || chr(10) || email) stored;
create index users_created_at on users (created_at, id) where deleted_at is null;
create index users_updated_at on users (updated_at, id) where deleted_at is null;
create index users_name on users (name, id) where deleted_at is null;
create index users_admins on users (created_at, id) where deleted_at is null and role = 'admin';
create index users_search on users using gin (search gin_trgm_ops)
    with (gin_pending_list_limit = 16384)
    where deleted_at is null;
drop table user_directory;
drop function user_search;
