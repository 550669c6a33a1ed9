// build: dynamic
// Bulk data in one direction over one TCP connection, in sends of 64 KiB.
//   server PORT            reads to the end, then answers how many bytes there were
//   client HOST PORT MS    prints bytes per second, counted by the server, up to its answer
#include "bench_net.h"

#define CHUNK (64 << 10)

static char chunk[CHUNK];

static void serve(int listener)
{
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        MUST(fd >= 0);
        uint64_t total = 0;
        ssize_t len;
        while ((len = recv(fd, chunk, CHUNK, 0)) > 0)
            total += (uint64_t)len;
        MUST(len == 0);
        MUST(send(fd, &total, sizeof total, 0) == sizeof total);
        close(fd);
    }
}

static void measure(int fd, int64_t length_ns)
{
    int64_t began = now_ns();
    uint64_t sent = 0, arrived = 0;
    while (now_ns() - began < length_ns) {
        ssize_t len = send(fd, chunk, CHUNK, 0);
        MUST(len > 0);
        sent += (uint64_t)len;
    }
    MUST(shutdown(fd, SHUT_WR) == 0);
    MUST(recv(fd, &arrived, sizeof arrived, 0) == sizeof arrived);
    MUST(arrived == sent);
    say_rate((double)arrived, began);
}

int main(int argc, char **argv)
{
    MUST(argc >= 3);
    // Not zeros, and every page is there: what is copied are bytes, not one page of them.
    memset(chunk, 'x', CHUNK);
    if (strcmp(argv[1], "server") == 0)
        serve(listen_on(argv[2]));
    MUST(argc == 5);
    struct sockaddr_in address = address_of(argv[2], argv[3]);
    measure(connect_to(&address), atoll(argv[4]) * 1000000);
    return 0;
}
