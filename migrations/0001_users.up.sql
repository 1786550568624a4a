-- The state of the user accounts. Deleted users stay, so that their ids are never given away again.
create extension if not exists pg_trgm;

create table users (
    id uuid primary key,
    -- Sorted by code point, whatever locale the cluster has: an index must outlive an upgrade of its libraries.
    email text collate "C" not null,
    name text collate "C" not null,
    role text not null constraint users_role check (role in ('user', 'admin')),
    password_hash text not null,
    version bigint not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    deleted_at timestamptz,
    -- No name, no address and no search holds a line break, so nothing is found across the two. A column rather
    -- than an expression: the planner then knows how common what is searched for is.
    search text collate "C" not null
        generated always as (lower(name collate "und-x-icu") || chr(10) || email) stored
) with (fillfactor = 90);

create unique index users_email on users (email) where deleted_at is null;
create index users_created_at on users (created_at, id) where deleted_at is null;
create index users_updated_at on users (updated_at, id) where deleted_at is null;
create index users_name on users (name, id) where deleted_at is null;
create index users_admins on users (created_at, id) where deleted_at is null and role = 'admin';
-- New entries wait in a list, which the workers fold in off the commands' path, many at a time: that is several
-- times cheaper. The limit, in KiB, is for when nobody does.
create index users_search on users using gin (search gin_trgm_ops)
    with (gin_pending_list_limit = 16384)
    where deleted_at is null;
