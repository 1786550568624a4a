drop index failed_commands_aggregate, failed_commands_untold;
alter table failed_commands drop column waiters, drop column unended, drop column aggregate;
