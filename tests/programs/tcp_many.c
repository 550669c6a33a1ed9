// build: dynamic
// Connections one after the other, by the thousand, and a table of descriptors that is full. A number as the last argument
// says how many thousand.
#include "tcp_pair.h"
#include <sys/resource.h>

static int thousands = 3;

static int count_descriptors(void)
{
    int count = 0;
    for (int fd = 0; fd < 4096; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

// Who closes first, and how, changes with the number.
enum { WAYS = 4 };

static void farewell(int fd, int way, bool server)
{
    char byte;
    struct linger linger = { 1, 0 };
    bool first = (way % 2 == 0) == server;
    if (first && way >= 2)
        MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
    else if (!first && way >= 2)
        MUST(read(fd, &byte, 1) < 0 && errno == ECONNRESET);
    else if (!first)
        MUST(read(fd, &byte, 1) == 0);
    MUST(close(fd) == 0);
}

static void open_server(void)
{
    int before = count_descriptors(), port, listener = listen_at(INADDR_LOOPBACK, 128, &port);
    give(port);
    for (int i = 0; i < thousands * 1000; i++) {
        if (i % 1000 == 0)
            watch_begin("open_and_close", SCENARIO_LIMIT_S);
        unsigned number;
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        MUST(fd >= 0);
        for (int round = 0; round < i % 3; round++) {
            receive_all(fd, &number, sizeof number);
            MUST(number == (unsigned)i);
            send_all(fd, &number, sizeof number);
        }
        farewell(fd, i % WAYS, true);
    }
    close(listener);
    meet();
    note("%d000 connections, descriptors left open: %d", thousands, count_descriptors() - before);
}

static void open_client(void)
{
    struct sockaddr_in name = loopback(take());
    for (unsigned i = 0; i < (unsigned)thousands * 1000; i++) {
        if (i % 1000 == 0)
            watch_begin("open_and_close", SCENARIO_LIMIT_S);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        // All ports may be waiting for their time to pass, for a moment.
        bool reset = false;
        while (!reset && connect(fd, (struct sockaddr *)&name, sizeof name) < 0) {
            // Who resets at once may have done so before the call returns.
            reset = errno == ECONNRESET && i % WAYS == 2 && i % 3 == 0;
            MUST(reset || errno == EADDRNOTAVAIL);
            if (!reset)
                sleep_ms(20);
        }
        if (reset) {
            MUST(close(fd) == 0);
            continue;
        }
        unsigned number;
        for (unsigned round = 0; round < i % 3; round++) {
            send_all(fd, &i, sizeof i);
            receive_all(fd, &number, sizeof number);
            MUST(number == i);
        }
        farewell(fd, (int)(i % WAYS), false);
    }
    meet();
}

// ---- no descriptor for one more

enum { WAITING = 5 };

static void full_server(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, WAITING, &port);
    struct rlimit before, limit;
    MUST(getrlimit(RLIMIT_NOFILE, &before) == 0);
    int next = dup(listener);
    close(next);
    // Room for two.
    limit = (struct rlimit) { (rlim_t)next + 2, before.rlim_max };
    give(port);
    take();
    MUST(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int fds[WAITING], count = 0;
    while (count < WAITING) {
        fds[count] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fds[count] < 0)
            break;
        count++;
    }
    note("accepted %d, then %s", count, name_of(errno));
    note("another: %s, a socket: %s, a twin: %s", outcome(accept(listener, NULL, NULL)), outcome(socket(AF_INET, SOCK_STREAM, 0)), outcome(dup(listener)));
    note("the listener: %s", event_names(ready_now(listener)));
    for (int i = 0; i < count; i++)
        exchange(fds[i], true);
    MUST(setrlimit(RLIMIT_NOFILE, &before) == 0);
    // Which of those that waited is lost by a refused accept, if any, shows in how many are left.
    MUST(fcntl(listener, F_SETFL, O_NONBLOCK) == 0);
    while (count < WAITING && (fds[count] = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
        count++;
    note("in the end %d", count);
    give(count);
    for (int i = 2; i < count; i++)
        exchange(fds[i], true);
    for (int i = 0; i < count; i++)
        close(fds[i]);
    close(listener);
}

static void full_client(void)
{
    int port = take(), fds[WAITING];
    for (int i = 0; i < WAITING; i++)
        fds[i] = connect_to(port);
    give(0);
    exchange(fds[0], false);
    exchange(fds[1], false);
    int count = take();
    for (int i = 2; i < count; i++)
        exchange(fds[i], false);
    for (int i = 0; i < WAITING; i++)
        close(fds[i]);
}

static const struct scenario scenarios[] = {
    { "open_and_close", open_server, open_client, ALONE },
    { "full_table", full_server, full_client, ALONE | APART },
};

int main(int argc, char **argv)
{
    if (argc > 1 && atoi(argv[argc - 1]) > 0)
        thousands = atoi(argv[--argc]);
    return PLAY(scenarios, argc, argv);
}
