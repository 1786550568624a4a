# shellcheck shell=bash
# Which servers to use: named ones, running ones, Docker Compose's, private ones, in that order and
# for each of the two by itself. ROSTER_SERVICES_MODE (auto, running, compose, private) narrows it.

POSTGRES_AT='' # the URL, once found
AMQP_AT=''

allows() { [ "$MODE" = auto ] || [ "$MODE" = "$1" ]; }

# from_environment: DATABASE_URL and AMQP_URL win over everything; they are only looked at.
from_environment() {
  local host port
  if [ -n "${DATABASE_URL:-}" ]; then
    read -r host port <<<"$(url_host_port "$DATABASE_URL" 5432)"
    port_open "$host" "$port" || die "DATABASE_URL is set, but nothing answers at $host:$port. Start it, or unset DATABASE_URL"
    say "Postgres: $host:$port, as DATABASE_URL says"
    POSTGRES_AT=$DATABASE_URL
  fi
  if [ -n "${AMQP_URL:-}" ]; then
    read -r host port <<<"$(url_host_port "$AMQP_URL" 5672)"
    port_open "$host" "$port" || die "AMQP_URL is set, but nothing answers at $host:$port. Start it, or unset AMQP_URL"
    say "RabbitMQ: $host:$port, as AMQP_URL says"
    AMQP_AT=$AMQP_URL
  fi
}

# from_running: what answers on the default local ports and lets the default users in.
from_running() {
  local status=0 url=postgres://postgres:postgres@127.0.0.1:5432
  if [ -z "$POSTGRES_AT" ]; then
    pg_talk 127.0.0.1 5432 postgres >/dev/null || status=$?
    if [ "$status" = 0 ]; then
      say "Postgres: the one running on 127.0.0.1:5432"
      make_database 127.0.0.1 5432
      POSTGRES_AT=postgres://postgres@127.0.0.1:5432/roster
    elif [ "$status" = 2 ] && psql -Atqc 'select 1' "$url/postgres" </dev/null >/dev/null 2>&1; then
      say "Postgres: the one running on 127.0.0.1:5432"
      psql -Atqc 'select 1' "$url/roster" </dev/null >/dev/null 2>&1 || psql -qc 'create database roster' "$url/postgres" </dev/null >&2
      POSTGRES_AT=$url/roster
    elif [ "$status" = 2 ]; then
      say "Postgres on 127.0.0.1:5432 wants a password for user postgres (set DATABASE_URL to use it)"
    fi
  fi
  if [ -z "$AMQP_AT" ]; then
    if amqp_login 127.0.0.1 5672; then
      say "RabbitMQ: the one running on 127.0.0.1:5672"
      AMQP_AT=amqp://guest:guest@127.0.0.1:5672
    elif port_open 127.0.0.1 5672; then
      say "what answers on 127.0.0.1:5672 does not let guest in (set AMQP_URL to use it)"
    fi
  fi
}

compose() { (cd "$ROOT" && docker compose "$@"); }

# compose_port <service> <port>: where a running service of ours is published on this machine.
compose_port() { compose port "$1" "$2" 2>/dev/null | sed -n 's/.*:\([0-9]\{1,\}\)$/\1/p' | grep -v '^0$'; }

# free_or_own <service> <port>: the published port of a running service, else the usual one if free.
free_or_own() {
  compose_port "$1" "$2" && return
  if port_open 127.0.0.1 "$2"; then free_port; else echo "$2"; fi
}

# from_compose: the services postgres and rabbitmq of docker-compose.yml.
from_compose() {
  local wanted=()
  [ -n "$POSTGRES_AT" ] || wanted+=(postgres)
  [ -n "$AMQP_AT" ] || wanted+=(rabbitmq)
  if ! docker info >/dev/null 2>&1 || ! docker compose version >/dev/null 2>&1; then
    [ "$MODE" != compose ] || die "ROSTER_SERVICES_MODE=compose, but 'docker info' or 'docker compose version' fails: start Docker"
    return 0
  fi
  # Compose reads the whole file, whatever it is asked for, and that needs the secret.
  ROSTER_SECRET=${ROSTER_SECRET:-$(secret)}
  export ROSTER_SECRET
  ROSTER_POSTGRES_PORT=$(free_or_own postgres 5432)
  ROSTER_AMQP_PORT=$(free_or_own rabbitmq 5672)
  export ROSTER_POSTGRES_PORT ROSTER_AMQP_PORT
  say "starting ${wanted[*]} with Docker Compose; the first time their images are fetched"
  if ! compose up -d --wait "${wanted[@]}" </dev/null >&2; then
    [ "$MODE" != compose ] || die "Docker Compose could not start ${wanted[*]}; see 'docker compose logs ${wanted[*]}'"
    say "Docker Compose could not start them; trying private instances"
    return 0
  fi
  : >"$STATE/.compose" # for scripts/services stop
  if [ -z "$POSTGRES_AT" ]; then
    POSTGRES_AT=postgres://postgres:${ROSTER_POSTGRES_PASSWORD:-postgres}@127.0.0.1:$(compose_port postgres 5432)/roster
    say "Postgres: Docker Compose's, on 127.0.0.1:$(compose_port postgres 5432)"
  fi
  if [ -z "$AMQP_AT" ]; then
    AMQP_AT=amqp://${ROSTER_AMQP_USER:-guest}:${ROSTER_AMQP_PASSWORD:-guest}@127.0.0.1:$(compose_port rabbitmq 5672)
    say "RabbitMQ: Docker Compose's, on 127.0.0.1:$(compose_port rabbitmq 5672)"
  fi
}

# from_private: Debian's packages, as the instance `default`.
from_private() {
  local wanted=()
  [ -n "$POSTGRES_AT" ] || wanted+=(postgres)
  [ -n "$AMQP_AT" ] || wanted+=(rabbitmq)
  need_packages "${wanted[@]}"
  if [ -z "$POSTGRES_AT" ]; then
    pg_up default
    POSTGRES_AT=$(pg_url default postgres)
    say "Postgres: a private one on port $(<"$STATE/default/postgres.port")"
  fi
  if [ -z "$AMQP_AT" ]; then
    rabbit_up default
    AMQP_AT=$(rabbit_url default rabbitmq)
    say "RabbitMQ: a private one on port $(<"$STATE/default/rabbitmq.port")"
  fi
  say "scripts/services stop ends them"
}

found_both() { [ -n "$POSTGRES_AT" ] && [ -n "$AMQP_AT" ]; }

find_servers() {
  from_environment
  if ! found_both && allows running; then from_running; fi
  if ! found_both && allows compose; then from_compose; fi
  if ! found_both && allows private; then from_private; fi
  found_both || die "no Postgres or no RabbitMQ found with ROSTER_SERVICES_MODE=$MODE: set DATABASE_URL and AMQP_URL, or the mode to auto"
  printf 'export DATABASE_URL=%q\nexport AMQP_URL=%q\n' "$POSTGRES_AT" "$AMQP_AT"
}
