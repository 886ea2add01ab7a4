# Sourced: starts Redis as deploy/redis has it, but for addresses, paths and passwords.

# sample_redis DEPLOY HATCHERY DIRECTORY PORT [NAMES-FOR-CERTS...]: makes certificates in DIRECTORY/certs and a password for each role
# (frontdoor-redis-password, agent-redis-password), starts Redis on loopback, sets `redis` to its process, and waits for it.
sample_redis() {
    local deploy=$1 hatchery=$2 dir=$3 port=$4 role
    shift 4
    "$hatchery" certs new --dir "$dir/certs" --redis redis=127.0.0.1 "$@" >/dev/null
    local edit=()
    for role in frontdoor agent; do
        (umask 077 && openssl rand -hex 32 >"$dir/$role-redis-password")
        edit+=(-e "s#CHANGE-$role-password#$(cat "$dir/$role-redis-password")#")
    done
    (umask 077 && sed "${edit[@]}" "$deploy/redis/users.acl" >"$dir/users.acl")
    sed -e "s#^bind .*#bind 127.0.0.1#; s#^tls-port .*#tls-port $port#; s#/etc/redis/hatchery/users.acl#$dir/users.acl#" \
        -e "s#/etc/redis/hatchery/#$dir/certs/#" "$deploy/redis/redis.conf" >"$dir/redis.conf"
    mkdir "$dir/redis-data"
    # shellcheck disable=SC2034
    (cd "$dir/redis-data" && exec redis-server "$dir/redis.conf") >"$dir/redis.log" 2>&1 &
    redis=$!
    local end=$((SECONDS + 15))
    until [ "$(redis_as agent "$dir" "$port" PING 2>/dev/null)" = PONG ]; do
        [ "$SECONDS" -lt "$end" ] || { echo "the sample's Redis does not answer" && cat "$dir/redis.log" && return 1; }
        sleep 0.1
    done
}

# redis_as ROLE DIRECTORY PORT WORDS...: what Redis answers a role.
redis_as() {
    local role=$1 dir=$2 port=$3
    shift 3
    REDISCLI_AUTH=$(cat "$dir/$role-redis-password") \
        redis-cli --no-auth-warning --tls --cacert "$dir/certs/ca.pem" -h 127.0.0.1 -p "$port" --user "$role" "$@" 2>&1
}
