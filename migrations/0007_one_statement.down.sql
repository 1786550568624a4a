alter table outbox drop column first_event;
drop function roster_conflict(text);
