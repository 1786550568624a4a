drop trigger users_inserted on users;
drop trigger users_updated on users;
drop trigger users_deleted on users;
drop function note_user_changes;
drop table user_changes;
