//! Reading back what the worker stored: all SQL on its tables stands here.

use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Row, Transaction};
use uuid::Uuid;

use super::history::{Answer, Failed, Logged, User};

/// Every user, the deleted ones included.
pub async fn users(pool: &PgPool) -> Vec<User> {
    let rows = sqlx::query(
        "select id, email, name, role::text as role, version, deleted_at is not null as deleted
         from users order by id",
    );
    let rows = rows.fetch_all(pool).await.expect("users read back");
    let user = |row: &sqlx::postgres::PgRow| User {
        id: row.get("id"),
        email: row.get("email"),
        name: row.get("name"),
        role: row.get("role"),
        version: row.get("version"),
        deleted: row.get("deleted"),
    };
    rows.iter().map(user).collect()
}

/// Every stored answer.
pub async fn inbox(pool: &PgPool) -> Vec<Answer> {
    let rows = sqlx::query("select message_id, type, answer::jsonb as answer from inbox order by message_id");
    let rows = rows.fetch_all(pool).await.expect("inbox read back");
    let answer = |row: &sqlx::postgres::PgRow| Answer {
        message_id: row.get("message_id"),
        kind: row.get("type"),
        answer: row.get::<Value, _>("answer"),
    };
    rows.iter().map(answer).collect()
}

/// The event log in the order of its positions.
pub async fn events(pool: &PgPool) -> Vec<Logged> {
    let rows = sqlx::query(
        "select position, batch_id, subject, sequence, id, type, data, causation_id
         from events order by position",
    );
    let rows = rows.fetch_all(pool).await.expect("events read back");
    let event = |row: &sqlx::postgres::PgRow| Logged {
        position: row.get("position"),
        batch_id: row.get("batch_id"),
        subject: row.get("subject"),
        sequence: row.get("sequence"),
        id: row.get("id"),
        kind: row.get("type"),
        data: row.get("data"),
        cause: row.get("causation_id"),
    };
    rows.iter().map(event).collect()
}

/// Batches not yet published.
pub async fn outbox(pool: &PgPool) -> i64 {
    count(pool, "select count(*) from outbox").await
}

/// Commands that wait to be tried again, and dead letters.
pub async fn failed(pool: &PgPool) -> Vec<Failed> {
    let rows = sqlx::query(
        "select message_id::text as message_id, type, state::text as state,
                reason::text as reason, attempts::bigint as attempts
         from failed_commands order by id",
    );
    let rows = rows.fetch_all(pool).await.expect("failed read back");
    let failed = |row: &sqlx::postgres::PgRow| Failed {
        message_id: row.get("message_id"),
        kind: row.get("type"),
        state: row.get("state"),
        reason: row.get("reason"),
        attempts: row.get("attempts"),
    };
    rows.iter().map(failed).collect()
}

/// Makes everything due now that waits to be tried again, or whose caller is still to be told.
pub async fn hurry(pool: &PgPool) {
    sqlx::query("update failed_commands set due_at = now() where due_at is not null")
        .execute(pool)
        .await
        .expect("failed commands made due");
}

/// Takes away the claims that workers have on what they are trying again.
pub async fn release_claims(pool: &PgPool) {
    sqlx::query("update failed_commands set claimed_until = null where claimed_until is not null")
        .execute(pool)
        .await
        .expect("claims released");
}

/// Until when workers have claims on what they are trying again.
pub async fn claimed_until(pool: &PgPool) -> Vec<chrono::DateTime<chrono::Utc>> {
    let statement = "select claimed_until from failed_commands where claimed_until is not null";
    sqlx::query_scalar(statement).fetch_all(pool).await.expect("claims read back")
}

/// Sessions of this database that are idle inside a transaction.
pub async fn idle_in_transaction(pool: &PgPool) -> i64 {
    let statement = "select count(*) from pg_stat_activity
                     where datname = current_database() and state like 'idle in transaction%'
                       and state_change < now() - interval '1 second'";
    count(pool, statement).await
}

/// Advisory locks held in this database: a server learns that a client is gone when the statement ends that it was
/// at, so they are given 5 s.
pub async fn advisory_locks(pool: &PgPool) -> i64 {
    let statement = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
                     where l.locktype = 'advisory' and d.datname = current_database()";
    for _ in 0..50 {
        if count(pool, statement).await == 0 {
            return 0;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    count(pool, statement).await
}

/// Connections to this database, ours included.
pub async fn connections(pool: &PgPool) -> i64 {
    let statement = "select count(*) from pg_stat_activity where datname = current_database()";
    count(pool, statement).await
}

/// Ends every connection to this database but ours; says how many.
pub async fn terminate_backends(pool: &PgPool) -> i64 {
    let statement = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                     where datname = current_database() and application_name <> 'roster-tests'";
    count(pool, statement).await
}

/// The same while the server may be away.
pub async fn try_terminate_backends(pool: &PgPool) -> Result<(), sqlx::Error> {
    let statement = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                     where datname = current_database() and application_name <> 'roster-tests'";
    sqlx::query(statement).execute(pool).await.map(|_| ())
}

/// Every row of every table as text, by table: what a planted secret is looked for in.
pub async fn everything(pool: &PgPool) -> Vec<(String, Vec<u8>)> {
    let tables = sqlx::query(
        "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'p', 'm') and not c.relispartition and n.nspname not in ('pg_catalog', 'information_schema')
           and n.nspname not like 'pg_toast%'",
    );
    let tables = tables.fetch_all(pool).await.expect("the list of tables");
    let mut all = Vec::new();
    for table in tables.iter().map(|row| row.get::<String, _>(0)) {
        let statement = format!("select coalesce(string_agg(t::text, e'\\n'), '') from {table} t");
        let rows = sqlx::query(AssertSqlSafe(statement)).fetch_one(pool).await;
        let text: String = rows.expect("a table as text").get(0);
        all.push((table, text.into_bytes()));
    }
    all
}

/// Keeps every worker from folding changes into the directory until it is dropped.
pub async fn hold_folding(pool: &PgPool) -> Transaction<'static, Postgres> {
    let mut held = pool.begin().await.expect("a transaction");
    let lock = sqlx::query("select pg_advisory_xact_lock(x'726f737465720004'::bigint)");
    lock.execute(&mut *held).await.expect("the folders' lock");
    held
}

/// Keeps the batch with this event from being committed, once all of it is written, until it is dropped.
pub async fn hold_commit(pool: &PgPool, subject: Uuid, sequence: i64) -> Transaction<'static, Postgres> {
    let gate = format!(
        "create function wait_at_the_gate() returns trigger language plpgsql as $$
        begin
            if exists (select from events where batch_id = new.batch_id and subject = '{subject}'
                and sequence = {sequence})
            then
                perform set_config('lock_timeout', '0', true), pg_advisory_xact_lock_shared(1);
            end if;
            return null;
        end $$;
        create constraint trigger gate after insert on outbox deferrable initially deferred
            for each row execute function wait_at_the_gate()"
    );
    by_hand(pool, &gate).await;
    let mut held = pool.begin().await.expect("a transaction");
    sqlx::query("select pg_advisory_xact_lock(1)").execute(&mut *held).await.expect("the gate");
    held
}

/// Sessions that wait for an advisory lock.
pub async fn waiting_for_locks(pool: &PgPool) -> i64 {
    let statement = "select count(*) from pg_locks l join pg_database d on d.oid = l.database
                     where l.locktype = 'advisory' and d.datname = current_database() and not l.granted";
    count(pool, statement).await
}

/// Sessions that wait for a lock on the table of users.
pub async fn waiting_for_users(pool: &PgPool) -> i64 {
    count(pool, "select count(*) from pg_locks where relation = 'users'::regclass and not granted").await
}

/// When the relay last asked what there is to publish, which it does every second even where nothing is committed.
pub async fn relay_asked(pool: &PgPool) -> Option<chrono::DateTime<chrono::Utc>> {
    let query = "select max(query_start) from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid() and query like '%from outbox%'
                   and query like '%order by batch_id%'";
    sqlx::query(query).fetch_one(pool).await.expect("the relay's last question").get(0)
}

/// Users whose changes are not folded into the directory yet; one who changed twice may count twice.
pub async fn unfolded(pool: &PgPool) -> i64 {
    count(pool, "select coalesce(sum(cardinality(user_ids)), 0)::bigint from user_changes").await
}

/// Users whom the directory has otherwise than `users`, and who would not be looked up there.
pub async fn astray(pool: &PgPool) -> i64 {
    let statement = "select count(*)
        from (select id, email, name, role, version, created_at, updated_at, user_search(name, email) as search
              from users where deleted_at is null) u
        full join user_directory d on (d.id, d.email, d.name, d.role, d.version, d.created_at, d.updated_at, d.search)
            = (u.id, u.email, u.name, u.role, u.version, u.created_at, u.updated_at, u.search)
        where (u.id is null or d.id is null)
            and coalesce(u.id, d.id) not in (select unnest(user_ids) from user_changes)";
    count(pool, statement).await
}

/// Users whose id and address are claimed otherwise than they should be, and claims of nobody.
pub async fn unclaimed(pool: &PgPool) -> i64 {
    let statement = "select count(*)
        from (select id, case when deleted_at is null then email else '' end as email from users) u
        full join (select id, coalesce(email, '') as email from identities) i on (i.id, i.email) = (u.id, u.email)
        where u.id is null or i.id is null";
    count(pool, statement).await
}

/// As an operator would, past the workers.
pub async fn by_hand(pool: &PgPool, statement: &str) {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(pool).await.expect(statement);
}

/// What `users` is made of: columns, indexes, triggers and options, and what functions and tables there are.
pub async fn shape(pool: &PgPool) -> Vec<String> {
    let rows = sqlx::query(
        "select attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull || ' '
            || coalesce((select pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid = attrelid and adnum = attnum), '')
         from pg_attribute where attrelid = 'users'::regclass and attnum > 0 and not attisdropped
         union all select pg_get_indexdef(indexrelid) from pg_index where indrelid = 'users'::regclass
         union all select pg_get_triggerdef(oid) from pg_trigger where tgrelid = 'users'::regclass
         union all select array_to_string(reloptions, ' ') from pg_class where oid = 'users'::regclass
         union all select proname::text from pg_proc p where pronamespace = 'public'::regnamespace
            and not exists (select from pg_depend where objid = p.oid and deptype = 'e')
         union all select relname::text from pg_class
         where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition
            and relname !~ '^_'
         order by 1",
    );
    let rows = rows.fetch_all(pool).await.expect("the shape of users");
    rows.iter().map(|row| row.get(0)).collect()
}

async fn count(pool: &PgPool, statement: &'static str) -> i64 {
    let row = sqlx::query(statement).fetch_one(pool).await;
    row.expect("a count").get(0)
}
