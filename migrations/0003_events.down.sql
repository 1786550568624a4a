drop table outbox;
drop table events;
drop sequence batch_ids;
