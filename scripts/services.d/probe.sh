# shellcheck shell=bash
# Messages, and asking a server over TCP whether it lets us in. Needs bash alone: a fresh machine
# has neither psql nor an AMQP client.

say() { printf 'roster: %s\n' "$*" >&2; }
die() { printf 'roster: %s\n' "$*" >&2; exit 1; }

# be32 <n>: n as four big-endian bytes, in printf's escapes.
be32() { printf '\\x%02x\\x%02x\\x%02x\\x%02x' $(($1 >> 24 & 255)) $(($1 >> 16 & 255)) $(($1 >> 8 & 255)) $(($1 & 255)); }

# port_open <host> <port>
# shellcheck disable=SC2016 # the inner shell expands it
port_open() { timeout 3 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$1" "$2" 2>/dev/null; }

# free_port: prints a port nobody listens on and no instance of ours has taken; below the range
# that the kernel hands out to clients.
free_port() {
  local port
  while :; do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    grep -qsx "$port" "$STATE"/*/*.port && continue
    port_open 127.0.0.1 "$port" || { echo "$port"; return; }
  done
}

# url_host_port <url> <default port>: prints "host port".
url_host_port() {
  local rest=${1#*://} port
  rest=${rest%%[/?]*}
  rest=${rest##*@}
  case $rest in
    \[*\]*) port=${rest##*]}; port=${port#:}; rest=${rest%%]*}; rest=${rest#[} ;;
    *:*) port=${rest##*:}; rest=${rest%%:*} ;;
    *) port= ;;
  esac
  echo "${rest:-127.0.0.1} ${port:-$2}"
}

# pg_talk <host> <port> <database> [sql]: logs in as postgres without a password and runs one
# statement. 0: done; 2: the server wants a password; 3: the statement failed (SQLSTATE on standard
# output); 1: no answer.
# shellcheck disable=SC2016 # the inner shell expands it
pg_talk() {
  local body="user\\0postgres\\0database\\0$3\\0\\0" sql=${4:-} answer
  local startup_length=$((4 + 4 + 14 + 9 + ${#3} + 2))
  answer=$(
    timeout 20 bash -c '
      exec 3<>"/dev/tcp/$0/$1" || exit 1
      printf "$2" >&3
      cat <&3 | od -An -v -tx1 | tr -d " \n"
    ' "$1" "$2" "$(be32 "$startup_length")\\x00\\x03\\x00\\x00$body${sql:+Q$(be32 $((5 + ${#sql})))$sql\\0}X\\x00\\x00\\x00\\x04" 2>/dev/null
  ) || return 1
  case $answer in
    520000000800000000*) ;;           # R, AuthenticationOk
    52*) return 2 ;;                  # R, another way to authenticate
    45*) error_code "$answer"; return 3 ;;
    *) return 1 ;;
  esac
  case $answer in
    *564552524f5200*|*56464154414c00*) error_code "$answer"; return 3 ;; # VERROR, VFATAL
  esac
}

# error_code <hex>: the SQLSTATE (field C) of the first error in a server's answer.
error_code() {
  local rest code='' i
  case $1 in
    *4552524f520043*) rest=${1#*4552524f520043} ;;
    *) rest=${1#*464154414c0043} ;;
  esac
  for i in 0 2 4 6 8; do code+=$(printf '%b' "\\x${rest:i:2}"); done
  echo "$code"
}

# amqp_login <host> <port>: whether guest/guest is let in (the broker answers with Tune).
# shellcheck disable=SC2016 # the inner shell expands it
amqp_login() {
  timeout 10 bash -c '
    exec 3<>"/dev/tcp/$0/$1" || exit 1
    printf "AMQP\x00\x00\x09\x01" >&3
    frame() { head -c 7 <&3 | od -An -v -tu1 | tr -s " \n" " "; }
    read -r _ _ _ a b c d <<<"$(frame)"
    [ -n "$d" ] || exit 1
    head -c $(((a << 24) + (b << 16) + (c << 8) + d + 1)) <&3 >/dev/null
    printf "\x01\x00\x00\x00\x00\x00\x24\x00\x0a\x00\x0b\x00\x00\x00\x00\x05PLAIN\x00\x00\x00\x0c\x00guest\x00guest\x05en_US\xce" >&3
    read -r _ _ _ a b c d <<<"$(frame)"
    [ -n "$d" ] || exit 1
    [ "$(head -c 4 <&3 | od -An -v -tx1 | tr -d " \n")" = 000a001e ]
  ' "$1" "$2" 2>/dev/null
}
