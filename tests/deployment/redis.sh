#!/usr/bin/env bash
# Runs a farm on deploy/redis: each role with its user and its certificate. Spawns once, and holds the agent's user against what it must
# not do.
#
# usage: redis.sh DEPLOY HATCHERY TS3D-SC-SIM
set -euo pipefail
. "$(dirname "$0")/sample-redis.sh"
deploy=$1 hatchery=$(realpath "$2") simulator=$(realpath "$3")
dir=$(mktemp -d)
redis='' roles=()
tidy() {
    kill ${roles[@]+"${roles[@]}"} $redis 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap tidy EXIT
fail() {
    echo "$*"
    tail -n 20 "$dir"/*.log
    exit 1
}

read -r port http admin grpc agent_admin liveliness first <<<"$(python3 "$(dirname "$0")/ports.py" 6 20)"
sample_redis "$deploy" "$hatchery" "$dir" "$port" --frontdoor door=127.0.0.1,localhost --agent n=127.0.0.1 || exit 1

export HATCHERY_SERVER=https://127.0.0.1:$http HATCHERY_CA=$dir/certs/ca.pem
tls() { echo --tls-cert "$dir/certs/$1.pem" --tls-key "$dir/certs/$1.key" --tls-client-ca "$dir/certs/ca.pem"; }
registry() { echo --registry "rediss://$1@127.0.0.1:$port?ca=$dir/certs/ca.pem" --registry-password-file "$dir/$1-redis-password"; }
# shellcheck disable=SC2046
"$hatchery" frontdoor $(registry frontdoor) $(tls door) --listen "127.0.0.1:$http" --admin-listen "127.0.0.1:$admin" >"$dir/door.log" 2>&1 &
roles+=($!)
echo license >"$dir/license"
# shellcheck disable=SC2046
"$hatchery" agent $(registry agent) $(tls n) --node n --listen "127.0.0.1:$grpc" --admin-listen "127.0.0.1:$agent_admin" \
    --liveliness-listen "127.0.0.1:$liveliness" --executable "$simulator" --license-file "$dir/license" --slots 2 \
    --ports "$first-$((first + 19))" --state-dir "$dir/state" --on-shutdown kill >"$dir/agent.log" 2>&1 &
roles+=($!)

end=$((SECONDS + 30))
until "$hatchery" spawn --idempotency-key once >/dev/null 2>"$dir/spawn.log"; do
    [ "$SECONDS" -lt "$end" ] || fail "nothing can be spawned"
    sleep 0.2
done
! grep -h "NOPERM" "$dir"/*.log || fail "a role is refused something it needs"

keys=$(redis_as frontdoor "$dir" "$port" EXISTS '{hatchery:default}:idem:once')
[ "$keys" = 1 ] || fail "the front door's user does not see the idempotency key: $keys"
for words in 'HGETALL {hatchery:default}:idem:once' 'EXISTS {hatchery:default}:idem:once' 'DEL {hatchery:default}:idem:once' \
    'GET {hatchery:other}:seq' 'KEYS *' 'CONFIG GET dir' 'ACL LIST' 'FLUSHALL' 'SAVE'; do
    # shellcheck disable=SC2086
    answer=$(set -f && redis_as agent "$dir" "$port" $words || true)
    [[ $answer == *NOPERM* ]] || fail "the agent's user may $words: $answer"
done
# What it may, the same way.
[[ $(redis_as agent "$dir" "$port" GET '{hatchery:default}:seq') == [0-9]* ]] || fail "the agent's user cannot read what is its own"

[ "$(redis-cli --tls --cacert "$dir/certs/ca.pem" -h 127.0.0.1 -p "$port" PING 2>&1)" = 'NOAUTH Authentication required.' ] ||
    fail "who shows no password is not told so"
# From an address that is not the machine's own, where Redis' protected mode would refuse everybody if its users were not set.
answer=$(python3 - "$port" "$dir/certs/ca.pem" <<'EOF'
import socket, ssl, sys
plain = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10, source_address=("127.0.0.2", 0))
with ssl.create_default_context(cafile=sys.argv[2]).wrap_socket(plain, server_hostname="127.0.0.1") as connection:
    connection.sendall(b"PING\r\n")
    print(connection.recv(4096).decode())
EOF
)
[[ $answer == -NOAUTH* ]] || fail "other addresses are told: $answer"
answer=$(timeout 10 redis-cli -h 127.0.0.1 -p "$port" PING 2>&1 || true)
[[ $answer != *PONG* && $answer != *NOAUTH* ]] || fail "plain TCP is answered: $answer"
kill -0 "$redis" || fail "Redis has ended"
[ -z "$(ls -A "$dir/redis-data")" ] || fail "Redis has something on its disk: $(ls "$dir/redis-data")"
