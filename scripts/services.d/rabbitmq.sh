# shellcheck shell=bash
# Private RabbitMQ nodes, each in $STATE/<name>/<node>: `rabbitmq` alone, or the cluster of
# `rabbitmq1` to `rabbitmq3`. Name, folders, ports, cookie and epmd are their own; no plugins.

rabbit_url() { echo "amqp://guest:guest@127.0.0.1:$(<"$STATE/$1/$2.port")"; }
rabbit_node() { echo "$1-$2@localhost"; }

# rabbit_pid <name> <node>: prints nothing where the number has since gone to a stranger.
rabbit_pid() {
  local pid
  { read -r pid <"$STATE/$1/$2.pid"; } 2>/dev/null || return 0
  if grep -qsazFx "RABBITMQ_PID_FILE=$STATE/$1/$2/own.pid" "/proc/$pid/environ"; then echo "$pid"; fi
}

# rabbit_env <name> <node> <command...>: runs one of RabbitMQ's programs for that node. The environment
# is built anew, so that nothing of a system-wide installation leaks in.
rabbit_env() {
  local name=$1 node=$2 home=$STATE/$1/$2
  shift 2
  (cd "$home" && exec env -i \
    PATH="$PATH" LANG=C.UTF-8 HOME="$STATE/$name/home" \
    ERL_EPMD_PORT="$(<"$STATE/$name/epmd.port")" ERL_EPMD_ADDRESS=127.0.0.1 \
    RABBITMQ_NODENAME="$(rabbit_node "$name" "$node")" \
    RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT="$(<"$STATE/$name/$node.port")" \
    RABBITMQ_DIST_PORT="$(<"$STATE/$name/$node-dist.port")" \
    RABBITMQ_CONF_ENV_FILE="$home/env.conf" RABBITMQ_CONFIG_FILE="$home/rabbitmq.conf" \
    RABBITMQ_ADVANCED_CONFIG_FILE="$home/advanced.config" RABBITMQ_GENERATED_CONFIG_DIR="$home/generated" \
    RABBITMQ_ENABLED_PLUGINS_FILE="$home/enabled_plugins" RABBITMQ_MNESIA_BASE="$home/data" \
    RABBITMQ_LOG_BASE="$home/log" RABBITMQ_PID_FILE="$home/own.pid" \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1}' \
    RUNNING_UNDER_SYSTEMD=1 \
    "$@")
}

# rabbit_ctl <name> <node> <argument...>
rabbit_ctl() {
  local name=$1 node=$2
  shift 2
  [ -d "$STATE/$name/$node" ] || die "no private RabbitMQ '$name/$node'"
  rabbit_env "$name" "$node" "$(rabbit_bin rabbitmqctl)" "$@"
}

# rabbit_make <name> <node> [first]: folders, ports and configuration. A node with a first one joins
# its cluster when it boots for the first time.
rabbit_make() {
  local name=$1 node=$2 first=${3:-} home=$STATE/$1/$2
  [ ! -e "$STATE/$name/$node.made" ] || return 0
  rm -rf "$home"
  mkdir -p "$home"/{data,log,generated} "$STATE/$name/home"
  if [ ! -e "$STATE/$name/home/.erlang.cookie" ]; then
    (umask 077 && od -An -N20 -tx1 /dev/urandom | tr -d ' \n' >"$STATE/$name/home/.erlang.cookie")
    chmod 400 "$STATE/$name/home/.erlang.cookie"
  fi
  [ -e "$STATE/$name/epmd.port" ] || free_port >"$STATE/$name/epmd.port"
  free_port >"$STATE/$name/$node.port"
  free_port >"$STATE/$name/$node-dist.port"
  touch "$home/env.conf"
  echo '[].' >"$home/enabled_plugins"
  {
    echo "log.file.level = info"
    echo "disk_free_limit.absolute = 50MB"
    if [ -n "$first" ]; then
      echo "net_ticktime = 15"
      echo "cluster_partition_handling = pause_minority"
      echo "cluster_formation.peer_discovery_backend = classic_config"
      echo "cluster_formation.classic_config.nodes.1 = $(rabbit_node "$name" "$first")"
    fi
  } >"$home/rabbitmq.conf"
  touch "$STATE/$name/$node.made"
}

# rabbit_launch <name> <node>: starts it and returns at once; of its own session, so that it outlives
# the shell, and of no inherited file.
rabbit_launch() {
  local name=$1 node=$2
  if alive "$(rabbit_pid "$name" "$node")"; then return; fi
  say "starting private RabbitMQ $name/$node on port $(<"$STATE/$name/$node.port")"
  rm -f "$STATE/$name/$node.pid"
  # shellcheck disable=SC2016
  rabbit_env "$name" "$node" setsid sh -c 'echo $$ >"$1" && mv "$1" "$2" && exec "$0"' \
    "$(rabbit_bin rabbitmq-server)" "$STATE/$name/$node.pid.new" "$STATE/$name/$node.pid" \
    </dev/null >"$STATE/$name/$node/out.log" 2>&1 9>&- &
  until [ -e "$STATE/$name/$node.pid" ]; do sleep 0.05; done
}

# rabbit_await <name> <node>: until it lets guest in.
rabbit_await() {
  local port
  port=$(<"$STATE/$1/$2.port")
  until_ready 120 "$(rabbit_pid "$1" "$2")" "$STATE/$1/$2/out.log" amqp_login 127.0.0.1 "$port" ||
    die "the private RabbitMQ $1/$2 did not start; its logs are in $STATE/$1/$2"
}

rabbit_start() {
  rabbit_launch "$@"
  rabbit_await "$@"
}

rabbit_up() {
  [ -e "$STATE/$1/rabbitmq.made" ] || say "making a private RabbitMQ in $STATE/$1/rabbitmq"
  rabbit_make "$1" rabbitmq
  rabbit_start "$1" rabbitmq
}

# rabbit_stop <name> <node>: as an operator would; killed where that takes more than half a minute.
rabbit_stop() {
  local pid
  pid=$(rabbit_pid "$1" "$2")
  alive "$pid" || return 0
  signal_tree CONT "$pid"
  kill -TERM "$pid" 2>/dev/null || true
  gone "$pid" 30 || rabbit_kill "$1" "$2"
}

rabbit_kill() {
  local pid
  pid=$(rabbit_pid "$1" "$2")
  alive "$pid" || return 0
  signal_tree KILL "$pid"
  gone "$pid" 10 || die "the private RabbitMQ $1/$2 (process $pid) does not die"
}

# rabbit_cluster <name>: the first node, then the two that join it.
rabbit_cluster() {
  local name=$1 node running tries=30
  [ -e "$STATE/$name/rabbitmq3.made" ] || say "making a cluster of three private RabbitMQ nodes in $STATE/$name"
  for node in rabbitmq1 rabbitmq2 rabbitmq3; do rabbit_make "$name" "$node" rabbitmq1; done
  if [ -d "$STATE/$name/rabbitmq3/data/$(rabbit_node "$name" rabbitmq3)" ]; then
    # They know each other, and each may wait for the one that stopped last.
    for node in rabbitmq1 rabbitmq2 rabbitmq3; do rabbit_launch "$name" "$node"; done
  fi
  for node in rabbitmq1 rabbitmq2 rabbitmq3; do rabbit_start "$name" "$node"; done
  until running=$(rabbit_ctl "$name" rabbitmq1 -q eval 'length(rabbit_nodes:all_running()).') && [ "$running" = 3 ]; do
    ((tries-- > 0)) || die "the cluster $name did not form: ${running:-0} of 3 nodes"
    sleep 1
  done
}

# rabbit_partition <name> <node>: it refuses the others' cookie; nothing else is cut, so that its clients still
# reach it. In one go: cut off from one after the other, it would be in a partial partition for a while, and
# RabbitMQ ends one by pausing nodes of the majority too.
rabbit_partition() {
  local name=$1 node=$2 other others=
  for other in $(nodes_of "$name"); do
    [ "$other" = "$node" ] || others+="${others:+, }'$(rabbit_node "$name" "$other")'"
  done
  rabbit_ctl "$name" "$node" -q eval "Others = [$others],
    [erlang:set_cookie(N, cut_off) || N <- Others], [erlang:disconnect_node(N) || N <- Others]." >/dev/null
  say "cut $node of $name off"
}

# rabbit_heal <name>
rabbit_heal() {
  local name=$1 node other cookie
  cookie=$(<"$STATE/$name/home/.erlang.cookie")
  for node in $(nodes_of "$name"); do
    for other in $(nodes_of "$name"); do
      [ "$other" = "$node" ] ||
        rabbit_ctl "$name" "$node" -q eval "erlang:set_cookie('$(rabbit_node "$name" "$other")', '$cookie')." >/dev/null
    done
  done
  say "healed $name"
}

# rabbit_forget <name> <node>
rabbit_forget() {
  [ -d "$STATE/$1/$2" ] || return 0
  rabbit_kill "$1" "$2"
  rm -rf "${STATE:?}/$1/$2" "$STATE/$1/$2".* "$STATE/$1/$2"-dist.port
}

# rabbit_epmd_stop <name>: the port mapper that the first node started. It refuses while it has a node
# on its list, and takes a moment to notice that one has died.
rabbit_epmd_stop() {
  local port epmd tries=20
  [ -e "$STATE/$1/epmd.port" ] || return 0
  port=$(<"$STATE/$1/epmd.port")
  epmd=$(command -v epmd || find /usr/lib/erlang -name epmd -path '*/bin/*' 2>/dev/null | head -n 1) || true
  [ -n "$epmd" ] || return 0
  while port_open 127.0.0.1 "$port" && ((tries-- > 0)); do
    "$epmd" -port "$port" -kill >/dev/null 2>&1 || true
    sleep 0.1
  done
}
