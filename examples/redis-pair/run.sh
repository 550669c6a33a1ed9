#!/bin/sh
# redis-server and redis-benchmark, two containers of one fusion group: one address space.
# RUNTIME must have been installed with `--group NAME --isolation none`, IMAGE must hold redis.
set -eu

RUNTIME=${RUNTIME:-pegasus-demo}
IMAGE=${IMAGE:-pegasus-demo:redis}
PREFIX=${PREFIX:-redis-pair}
PEGASUS=${PEGASUS:-pegasus}
PEGASUS_ROOT=${PEGASUS_ROOT:-/var/run/docker/runtime-runc/moby}

clean_up() {
    docker rm --force "$PREFIX-server" "$PREFIX-client" >/dev/null 2>&1 || true
}
trap clean_up EXIT
clean_up

docker run --detach --name "$PREFIX-server" --runtime "$RUNTIME" --network none "$IMAGE" \
    redis-server --save '' >/dev/null
tries=0
until docker exec "$PREFIX-server" redis-cli ping 2>/dev/null | grep -q PONG; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { docker logs "$PREFIX-server"; exit 1; }
    sleep 0.1
done

# A client that stays, so that there are two containers to look at.
docker run --detach --name "$PREFIX-client" --runtime "$RUNTIME" --network "container:$PREFIX-server" "$IMAGE" \
    redis-cli blpop nothing 0 >/dev/null

echo "== the pair, as the runtime sees it"
for name in server client; do
    "$PEGASUS" --root "$PEGASUS_ROOT" inspect "$(docker inspect --format '{{.Id}}' "$PREFIX-$name")"
done

echo "== redis-benchmark from a third container of the group"
docker run --rm --runtime "$RUNTIME" --network "container:$PREFIX-server" "$IMAGE" \
    redis-benchmark -n 20000 -c 10 -q -t set,get | tr '\r' '\n' | grep 'per second'
