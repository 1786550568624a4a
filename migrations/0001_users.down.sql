-- The extension stays: others may use it.
drop table users;
