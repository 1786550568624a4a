# shellcheck shell=bash
# Debian's packages of the two servers: found, or installed without starting a system service.

# pg_bin <program>: the newest installed one's path.
pg_bin() {
  local found
  found=$(find /usr/lib/postgresql -maxdepth 3 -path "*/bin/$1" 2>/dev/null | sort -V | tail -n 1)
  [ -n "$found" ] || found=$(command -v "$1") || return 1
  echo "$found"
}

# rabbit_bin <program>: Debian's wrappers in /usr/sbin switch to the system's user and folders, so
# the plain scripts are called.
rabbit_bin() {
  local dir
  for dir in /usr/lib/rabbitmq/bin "$(dirname "$(command -v "$1" || echo /nowhere/x)")"; do
    [ -x "$dir/$1" ] && { echo "$dir/$1"; return; }
  done
  return 1
}

# need_packages [postgres] [rabbitmq]
need_packages() {
  local missing=() server
  for server in "$@"; do
    case $server in
      postgres) pg_bin initdb >/dev/null || missing+=(postgresql) ;;
      rabbitmq) rabbit_bin rabbitmq-server >/dev/null || missing+=(rabbitmq-server) ;;
    esac
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null ||
    die "needs ${missing[*]}, and there is no apt-get: install them, start Docker, or set DATABASE_URL and AMQP_URL"
  [ "$(id -u)" = 0 ] || die "needs packages, and only root may install them. Run: sudo apt-get install ${missing[*]}
        (or start Docker, or set DATABASE_URL and AMQP_URL), then try again"
  say "installing ${missing[*]} with apt-get (no system service is started); a minute or two"
  quietly_install "${missing[@]}"
}

# quietly_install <package...>: a policy-rc.d that says no keeps the packages' scripts from starting
# their services, and they are not enabled for the next boot either.
quietly_install() (
  local policy=/usr/sbin/policy-rc.d saved=/usr/sbin/policy-rc.d.before-roster log=$STATE/apt.log status=0 unit
  if [ -e "$policy" ] && [ ! -e "$saved" ]; then cp -p "$policy" "$saved"; fi
  # shellcheck disable=SC2064 # as they are now
  trap "if [ -e $saved ]; then mv $saved $policy; else rm -f $policy; fi" EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  {
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y --no-install-recommends "$@" ||
      { apt-get update && apt-get install -y --no-install-recommends "$@"; }
  } </dev/null >"$log" 2>&1 || status=$?
  if [ "$status" != 0 ]; then
    tail -n 15 "$log" >&2
    die "apt-get could not install $*; the whole output is in $log"
  fi
  if [ -d /run/systemd/system ]; then
    for unit in "$@"; do systemctl disable "$unit" >>"$log" 2>&1 || true; done
  fi
)
