// build: dynamic
// One byte there and back over one blocking TCP connection.
//   server PORT               echoes, one connection after the other, for ever
//   client HOST PORT MS       prints round trips per second
//   paced HOST PORT RATE      so many round trips per second, for ever: a neighbour's steady work
#include "bench_net.h"

static void serve(int listener)
{
    for (;;) {
        char byte;
        int fd = accept(listener, NULL, NULL);
        MUST(fd >= 0);
        send_at_once(fd);
        while (recv(fd, &byte, 1, 0) == 1 && send(fd, &byte, 1, 0) == 1)
            ;
        close(fd);
    }
}

static void round_trips(int fd, int count)
{
    char byte = 'x';
    for (int i = 0; i < count; i++) {
        MUST(send(fd, &byte, 1, 0) == 1);
        MUST(recv(fd, &byte, 1, 0) == 1);
    }
}

static void measure(int fd, int64_t length_ns)
{
    int64_t began = now_ns();
    double count = 0;
    for (; now_ns() - began < length_ns; count += STEPS_PER_LOOK)
        round_trips(fd, STEPS_PER_LOOK);
    say_rate(count, began);
}

// In short bursts, as requests come in: one every four milliseconds. A burst that comes late is not made up for.
static void pace(int fd, int rate)
{
    const int64_t period_ns = 4000000;
    for (int64_t next = now_ns();; next += period_ns) {
        round_trips(fd, rate / 250);
        int64_t left = next + period_ns - now_ns();
        struct timespec pause = {.tv_nsec = left};
        if (left > 0)
            nanosleep(&pause, NULL);
        else
            next = now_ns() - period_ns;
    }
}

int main(int argc, char **argv)
{
    MUST(argc >= 3);
    if (strcmp(argv[1], "server") == 0)
        serve(listen_on(argv[2]));
    MUST(argc == 5);
    struct sockaddr_in address = address_of(argv[2], argv[3]);
    int fd = connect_to(&address);
    send_at_once(fd);
    if (strcmp(argv[1], "paced") == 0)
        pace(fd, atoi(argv[4]));
    measure(fd, atoll(argv[4]) * 1000000);
    return 0;
}
