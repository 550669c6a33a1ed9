// What the programs that measure share: sockets that must work, a clock, and a rate as the result.
// They use send and recv: gVisor on the host's network answers a blocking read(2) of a socket with
// EAGAIN, and every runtime is to run the same program.
#ifndef BENCH_NET_H
#define BENCH_NET_H

#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>

// So many steps are done between two looks at the clock: it is not what is measured.
#define STEPS_PER_LOOK 16

static inline int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

// Prints how often something was done per second since `began`: the program's result.
static inline void say_rate(double count, int64_t began)
{
    SAY("%.1f", count * 1e9 / (double)(now_ns() - began));
}

static inline void send_at_once(int fd)
{
    int on = 1;
    MUST(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
}

static inline struct sockaddr_in address_of(const char *host, const char *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    MUST(inet_pton(AF_INET, host, &address.sin_addr) == 1);
    return address;
}

// A listening socket on all addresses; says so, for whoever waits to start the clients.
static inline int listen_on(const char *port)
{
    // A client that goes away must not take the server with it.
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in address = address_of("0.0.0.0", port);
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    MUST(fd >= 0);
    MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    MUST(listen(fd, 1024) == 0);
    SAY("listening");
    return fd;
}

static inline int connect_to(const struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    MUST(fd >= 0);
    MUST(connect(fd, (const struct sockaddr *)address, sizeof *address) == 0);
    return fd;
}

#endif
