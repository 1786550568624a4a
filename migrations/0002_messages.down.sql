drop table failed_commands;
drop table inbox;
