-- What must be unique of a user: the id for ever, and the address while the user is not deleted. Kept beside users,
-- for a unique index compares each new version of a row with all old ones that are still there, and while a
-- transaction is open anywhere those are all since it began: after five minutes, five times the rest of an update.
--
-- Until it is replaced, a worker of the version before looks an address up by reading all users.

-- Nobody writes users between the copy and the triggers, or has locked a row to write it: whoever has would wait for
-- this transaction, which waits for everybody once the constraint goes. Reads go on until then.
lock table users in exclusive mode;

create table identities (
    id uuid constraint users_identity primary key,
    -- Null once the user is deleted.
    email text collate "C" constraint users_address unique
);

insert into identities select id, case when deleted_at is null then email end from users;
analyze identities;

create function claim_identities() returns trigger language plpgsql as $$
begin
    insert into identities (id, email)
    select id, case when deleted_at is null then email end from created order by email;
    return null;
end
$$;

create function move_identity() returns trigger language plpgsql as $$
begin
    update identities set id = new.id, email = case when new.deleted_at is null then new.email end where id = old.id;
    return null;
end
$$;

create function drop_identity() returns trigger language plpgsql as $$
begin
    delete from identities where id = old.id;
    return null;
end
$$;

create function drop_identities() returns trigger language plpgsql as $$
begin
    truncate identities;
    return null;
end
$$;

-- Whoever writes users, be it an older worker or an operator.
create trigger users_claimed after insert on users
    referencing new table as created for each statement execute function claim_identities();
create trigger users_moved after update on users for each row
    when (old.id <> new.id or old.email <> new.email or (old.deleted_at is null) <> (new.deleted_at is null))
    execute function move_identity();
create trigger users_dropped after delete on users for each row execute function drop_identity();
create trigger users_emptied after truncate on users for each statement execute function drop_identities();

-- In the order of their places, so that the newest of many versions of a row is found first from the end: sorted into
-- one entry, they would be read from its beginning.
create index users_id on users (id) with (deduplicate_items = off);
alter table users drop constraint users_pkey;
alter table users alter id set not null;
-- For who replicates it logically, without a key that tells its rows apart.
alter table users replica identity full;
drop index users_email;
