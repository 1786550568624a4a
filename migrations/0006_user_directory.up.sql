-- What lists are read from: the users who are not deleted, as they were when their changes were last folded in.
-- A list takes those in user_changes from users itself, so that it shows what was committed; a command pays for
-- none of these indexes.

-- Those who fold change notes in wait: what they took away would be missing below. A statement of its own, so that
-- the next one sees what they did.
select pg_advisory_xact_lock(8245936386494038020);

-- What a search looks into. No name, no address and no search holds a line break, so nothing is found across the two.
create function user_search(name text, email text) returns text immutable parallel safe language sql
return (lower(name collate "und-x-icu") || chr(10) || email) collate "C";

create table user_directory (
    id uuid primary key,
    email text collate "C" not null,
    name text collate "C" not null,
    role text not null,
    version bigint not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    -- A column rather than an expression: the planner then knows how common what is searched for is.
    search text collate "C" not null
);

insert into user_directory
select id, email, name, role, version, created_at, updated_at, user_search(name, email)
from users where deleted_at is null;

-- Not unique: users who swap addresses may be folded in one after the other.
create index user_directory_email on user_directory (email);
create index user_directory_created_at on user_directory (created_at, id);
create index user_directory_updated_at on user_directory (updated_at, id);
create index user_directory_name on user_directory (name, id);
create index user_directory_admins on user_directory (created_at, id) where role = 'admin';
-- New entries wait in a list, which is folded in after them, many at a time: that is several times cheaper. The
-- limit, in KiB, is for when nobody does.
create index user_directory_search on user_directory using gin (search gin_trgm_ops)
    with (gin_pending_list_limit = 16384);
analyze user_directory;

-- A version that changes no indexed column then stays on its page, and touches no index.
alter table users set (fillfactor = 75);
drop index users_created_at, users_updated_at, users_name, users_admins, users_search;
-- 5 of 30 µs of an update. Until it is replaced, a worker of the version before answers a search, and nothing else,
-- with INTERNAL_ERROR.
alter table users drop column search;
