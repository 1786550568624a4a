# shellcheck shell=bash
# Private Postgres servers: a primary and its streaming standby, in $STATE/<name>/{postgres,standby}.
# Loopback only, no password, fsync left on.

# as_postgres <command...>: initdb and postgres refuse to run as root.
as_postgres() {
  if [ "$(id -u)" = 0 ]; then
    (cd / && exec runuser -u postgres -- "$@")
  else
    "$@"
  fi
}

pg_url() { echo "postgres://postgres@127.0.0.1:$(<"$STATE/$1/$2.port")/roster"; }

# pg_pid <name> <server>: prints nothing where the number has since gone to a stranger.
pg_pid() {
  local pid data
  data=$(pg_home "$1" "$2")/data
  { read -r pid <"$data/postmaster.pid"; } 2>/dev/null || return 0
  if [ "$(readlink "/proc/$pid/cwd")" = "$data" ]; then echo "$pid"; fi
}

# pg_home <name> <server>: its folder, without the links that user postgres may be unable to follow.
pg_home() { readlink -f "$STATE/$1/$2"; }

# pg_make_home <name> <server>: where user postgres cannot reach the checkout (as under /root), the
# folder is made under /var/tmp and linked to.
pg_make_home() {
  local home=$STATE/$1/$2 elsewhere
  mkdir -p "$STATE/$1"
  if [ "$(id -u)" != 0 ]; then
    mkdir -p "$home"
  elif as_postgres test -x "$STATE/$1"; then
    install -d -o postgres "$home"
  else
    elsewhere=$(mktemp -d "/var/tmp/roster-$1-$2.XXXXXX")
    chown postgres "$elsewhere"
    ln -sfn "$elsewhere" "$home"
    say "user postgres cannot reach $STATE; the data is in $elsewhere"
  fi
  free_port >"$STATE/$1/$2.port"
}

# pg_settings <name> <server>: appended to postgresql.conf, where a later line wins.
pg_settings() {
  cat <<SETTINGS
port = $(<"$STATE/$1/$2.port")
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
cluster_name = '$2'
max_connections = 400
max_prepared_transactions = 10
log_min_messages = warning
log_line_prefix = '%m [%p] %q%d '
SETTINGS
}

# pg_up <name>: makes the primary where it is missing, starts it, makes the database.
pg_up() {
  local name=$1 home
  if [ ! -e "$STATE/$name/postgres.made" ]; then
    rm -rf "$STATE/$name/postgres"
    pg_make_home "$name" postgres
    home=$(pg_home "$name" postgres)
    say "making a private Postgres in $home"
    as_postgres "$(pg_bin initdb)" -D "$home/data" -U postgres --auth=trust -E UTF8 --locale=C.UTF-8 \
      >"$STATE/$name/initdb.log" 2>&1 || { cat "$STATE/$name/initdb.log" >&2; die "initdb failed"; }
    pg_settings "$name" postgres | as_postgres tee -a "$home/data/postgresql.conf" >/dev/null
    touch "$STATE/$name/postgres.made"
  fi
  pg_start "$name" postgres
  make_database 127.0.0.1 "$(<"$STATE/$name/postgres.port")"
}

# pg_start <name> <server>
pg_start() {
  local home pid
  home=$(pg_home "$1" "$2")
  pid=$(pg_pid "$1" "$2")
  if alive "$pid"; then return; fi
  # Left behind by a kill; where process ids are not reaped, Postgres would take it for a live server.
  rm -f "$home/data/postmaster.pid"
  say "starting private Postgres $1/$2 on port $(<"$STATE/$1/$2.port")"
  as_postgres "$(pg_bin pg_ctl)" -D "$home/data" -l "$home/log" -w -t 60 start </dev/null >/dev/null 2>&1 9>&- ||
    { tail -n 15 "$home/log" >&2; die "the private Postgres $1/$2 did not start; its log is $home/log"; }
}

# pg_stop <name> <server> <fast|immediate>
pg_stop() {
  local pid
  pid=$(pg_pid "$1" "$2")
  alive "$pid" || return 0
  signal_tree CONT "$pid"
  as_postgres "$(pg_bin pg_ctl)" -D "$(pg_home "$1" "$2")/data" -m "$3" -w -t 60 stop >/dev/null 2>&1 || signal_tree KILL "$pid"
  gone "$pid" 10 || die "the private Postgres $1/$2 (process $pid) does not stop"
}

pg_kill() {
  local pid
  pid=$(pg_pid "$1" "$2")
  alive "$pid" || return 0
  signal_tree KILL "$pid"
  gone "$pid" 10 || die "the private Postgres $1/$2 (process $pid) does not die"
}

# pg_standby <name>: a copy of the primary that follows it. From then on a commit waits for both, so that
# none that was confirmed is lost with the primary; and none is confirmed while the standby is away.
pg_standby() {
  local name=$1 home port sql
  [ -e "$STATE/$name/postgres.made" ] || die "no private Postgres '$name': scripts/services private up $name"
  if [ ! -e "$STATE/$name/standby.made" ]; then
    rm -rf "$STATE/$name/standby"
    pg_make_home "$name" standby
    home=$(pg_home "$name" standby)
    say "copying private Postgres $name to a standby"
    as_postgres "$(pg_bin pg_basebackup)" -d "host=127.0.0.1 port=$(<"$STATE/$name/postgres.port") user=postgres application_name=standby" \
      -D "$home/data" -R -X stream -c fast >"$STATE/$name/basebackup.log" 2>&1 ||
      { cat "$STATE/$name/basebackup.log" >&2; die "pg_basebackup failed"; }
    pg_settings "$name" standby | as_postgres tee -a "$home/data/postgresql.conf" >/dev/null
    # It has no standby of its own to wait for once it is promoted.
    as_postgres sed -i '/^synchronous_standby_names/d' "$home/data/postgresql.auto.conf"
    touch "$STATE/$name/standby.made"
  fi
  pg_start "$name" standby
  port=$(<"$STATE/$name/postgres.port")
  for sql in "alter system set synchronous_standby_names = 'standby'" 'select pg_reload_conf()'; do
    pg_talk 127.0.0.1 "$port" postgres "$sql" || die "the primary of $name refused: $sql"
  done
  sql="select 1 / count(*) from pg_stat_replication where sync_state = 'sync'"
  until_ready 60 "$(pg_pid "$name" standby)" "$(pg_home "$name" standby)/log" pg_talk 127.0.0.1 "$port" postgres "$sql" ||
    die "the standby of $name does not follow its primary"
}

pg_promote() {
  as_postgres "$(pg_bin pg_ctl)" -D "$(pg_home "$1" standby)/data" -w -t 60 promote >/dev/null ||
    die "the standby of $1 was not promoted"
  say "the standby of $1 takes writes now"
}

# make_database <host> <port>: the database roster, where it is missing.
make_database() {
  local code status=0
  pg_talk "$1" "$2" roster >/dev/null && return 0
  code=$(pg_talk "$1" "$2" postgres 'create database roster') || status=$?
  case $status/$code in
    0/*) say "made the database roster" ;;
    3/42P04) ;; # somebody else just made it
    *) die "could not create the database roster on $1:$2 (SQLSTATE ${code:-unknown})" ;;
  esac
}

# pg_forget <name> <server>: stopped and deleted.
pg_forget() {
  [ -L "$STATE/$1/$2" ] || [ -d "$STATE/$1/$2" ] || return 0
  pg_stop "$1" "$2" immediate
  rm -rf "$(pg_home "$1" "$2")" "${STATE:?}/$1/$2" "$STATE/$1/$2".*
}
