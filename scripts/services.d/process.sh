# shellcheck shell=bash
# Processes of private servers: whether they live, and stopping, freezing and killing all of one.

# alive <pid>: a zombie that nobody has reaped counts as dead.
alive() {
  local stat
  [ -n "${1:-}" ] && { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  stat=${stat##*) }
  [ "${stat%% *}" != Z ]
}

# tree <pid>: the process and everything under it, parents first.
tree() {
  local children child
  echo "$1"
  { read -ra children <"/proc/$1/task/$1/children"; } 2>/dev/null || true # no newline at its end
  for child in "${children[@]}"; do tree "$child"; done
}

# signal_tree <signal> <pid>: all of it, the parent first, so that it starts nothing new meanwhile.
signal_tree() {
  local pid
  if [ "$1" = KILL ]; then kill -STOP "$2" 2>/dev/null || true; fi
  for pid in $(tree "$2"); do kill "-$1" "$pid" 2>/dev/null || true; done
}

# gone <pid> <seconds>: waits for the end of a process.
gone() {
  local tries=$(($2 * 10))
  while alive "$1"; do
    ((tries-- > 0)) || return 1
    sleep 0.1
  done
}

# until_ready <seconds> <pid> <log> <command...>: waits for the command to succeed while the process lives.
until_ready() {
  local deadline=$((SECONDS + $1)) pid=$2 log=$3
  shift 3
  until "$@" >/dev/null 2>&1; do
    if ! alive "$pid" || ((SECONDS > deadline)); then
      [ -r "$log" ] && tail -n 20 "$log" >&2
      return 1
    fi
    sleep 0.2
  done
}
