drop index failed_commands_aggregate;
alter table failed_commands drop column waiters, drop column unended, drop column aggregate;
