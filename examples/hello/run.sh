#!/bin/sh
# Says hello from an unmodified Debian image, run by Pegasus.
set -eu

RUNTIME=${RUNTIME:-pegasus}
IMAGE=${IMAGE:-debian:bookworm}

docker run --rm --network none --runtime "$RUNTIME" "$IMAGE" /bin/echo hello
