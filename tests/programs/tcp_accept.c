// build: dynamic
// Accepting one connection after the other: by several threads, from several listeners, with every kind of buffer for the name, and
// for as long as it takes.
#include "tcp_pair.h"

static int accept_one(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    MUST(fd >= 0);
    return fd;
}

// A byte, its answer, and the end: the server closes first. Says from which port.
static int request(int port)
{
    struct sockaddr_in own;
    socklen_t len = sizeof own;
    char byte = 'q';
    int fd = connect_to(port);
    MUST(getsockname(fd, (struct sockaddr *)&own, &len) == 0);
    send_all(fd, &byte, 1);
    receive_all(fd, &byte, 1);
    MUST(byte == 'r');
    MUST(read(fd, &byte, 1) == 0);
    close(fd);
    return ntohs(own.sin_port);
}

static void answer(int fd)
{
    char byte;
    receive_all(fd, &byte, 1);
    MUST(byte == 'q');
    send_all(fd, "r", 1);
    close(fd);
}

// ---- the one who closes first keeps the addresses for a minute, and only that one

enum { RUSH = 200 };

static void rush_server(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, 8, &port);
    give(port);
    for (int i = 0; i < RUSH; i++)
        answer(accept_one(listener));
    close(listener);
    meet();
}

static bool is_free_soon(int port)
{
    struct sockaddr_in name = loopback(port);
    int64_t deadline = now_ms() + PATIENCE_MS;
    for (;;) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        bool is_free = bind(fd, (struct sockaddr *)&name, sizeof name) == 0;
        close(fd);
        if (is_free || now_ms() > deadline)
            return is_free;
        sleep_ms(1);
    }
}

static void rush_client(void)
{
    int port = take(), kept = 0;
    for (int i = 0; i < RUSH && kept == 0; i++)
        kept += !is_free_soon(request(port));
    note("ports that the client has to leave alone: %d", kept);
    meet();
}

// ---- where the name goes

static void buffers_server(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, 16, &port);
    give(port);
    answer(accept_one(listener));
    answer(accept_one(listener));
    struct sockaddr_storage name;
    static const int lens[] = { 0, 1, 3, 8, 16, 28, 128, -1 };
    for (unsigned i = 0; i < sizeof lens / sizeof *lens; i++) {
        memset(&name, 0xee, sizeof name);
        socklen_t len = (socklen_t)lens[i];
        int fd = accept4(listener, (struct sockaddr *)&name, &len, SOCK_CLOEXEC);
        unsigned touched = 0;
        while (touched < sizeof name && ((unsigned char *)&name)[touched] != 0xee)
            touched++;
        // The name's last eight bytes are zero; those of its address are not 0xee.
        note("room for %d: %s, length %d", lens[i], fd < 0 ? name_of(errno) : "accepted", (int)len);
        if (lens[i] != 3)
            note("the family is %s", touched >= 2 ? "there" : "not there");
        if (fd >= 0)
            answer(fd);
        give(fd >= 0);
    }
    socklen_t len = sizeof name;
    note("no length: %s", outcome(accept(listener, (struct sockaddr *)&name, NULL)));
    note("no such buffer: %s", outcome(accept(listener, (struct sockaddr *)8, &len)));
    note("flags: %s", outcome(accept4(listener, NULL, NULL, 0x40)));
    close(listener);
    note("closed: %s", outcome(accept(listener, NULL, NULL)));
    meet();
}

static void lost(int port)
{
    char byte;
    int fd = connect_to(port);
    ssize_t len = read(fd, &byte, 1);
    note("what was not accepted: %s", outcome(len));
    close(fd);
}

static void buffers_client(void)
{
    int port = take();
    request(port);
    request(port);
    for (int i = 0; i < 8; i++) {
        char byte = 'q';
        int fd = connect_to(port);
        send_all(fd, &byte, 1);
        if (take()) {
            receive_all(fd, &byte, 1);
            MUST(read(fd, &byte, 1) == 0);
        }
        close(fd);
    }
    lost(port);
    lost(port);
    meet();
}

// ---- many threads accept, each connection once

enum { ACCEPTORS = 4, SHARED = 120 };

static int shared_listener;
static int shared_served;
static int shared_ended;

static void *acceptor(void *unused)
{
    for (;;) {
        int fd = accept4(shared_listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) {
            __atomic_add_fetch(&shared_ended, errno == EINVAL, __ATOMIC_SEQ_CST);
            return unused;
        }
        __atomic_add_fetch(&shared_served, 1, __ATOMIC_SEQ_CST);
        answer(fd);
    }
}

static void shared_server(void)
{
    int port;
    pthread_t threads[ACCEPTORS];
    shared_served = shared_ended = 0;
    shared_listener = listen_at(INADDR_LOOPBACK, SHARED, &port);
    for (int i = 0; i < ACCEPTORS; i++)
        MUST(pthread_create(&threads[i], NULL, acceptor, NULL) == 0);
    give(port);
    take();
    MUST(shutdown(shared_listener, SHUT_RDWR) == 0);
    for (int i = 0; i < ACCEPTORS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    note("served %d, ended %d", shared_served, shared_ended);
    close(shared_listener);
}

static void shared_client(void)
{
    int port = take(), fds[8];
    for (int i = 0; i < SHARED / 2; i++)
        request(port);
    for (int i = SHARED / 2; i < SHARED; i += 4) {
        char byte = 'q';
        for (int j = 0; j < 4; j++)
            fds[j] = connect_to(port);
        for (int j = 0; j < 4; j++)
            send_all(fds[j], &byte, 1);
        for (int j = 0; j < 4; j++) {
            receive_all(fds[j], &byte, 1);
            MUST(read(fds[j], &byte, 1) == 0);
            close(fds[j]);
        }
    }
    give(0);
}

// ---- two listeners on one port

static int listen_beside(int *port)
{
    struct sockaddr_in name = loopback(*port);
    socklen_t len = sizeof name;
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) == 0);
    MUST(bind(fd, (struct sockaddr *)&name, sizeof name) == 0 && listen(fd, 8) == 0);
    MUST(getsockname(fd, (struct sockaddr *)&name, &len) == 0);
    *port = ntohs(name.sin_port);
    return fd;
}

static void beside_server(void)
{
    int port = 0;
    struct pollfd listeners[2] = { { .events = POLLIN }, { .events = POLLIN } };
    listeners[0].fd = listen_beside(&port);
    listeners[1].fd = listen_beside(&port);
    give(port);
    for (int served = 0; served < RUSH;) {
        MUST(poll(listeners, 2, -1) > 0);
        for (int i = 0; i < 2; i++)
            if (listeners[i].revents != 0) {
                answer(accept_one(listeners[i].fd));
                served++;
            }
    }
    note("all served");
    close(listeners[0].fd);
    close(listeners[1].fd);
    meet();
}

static void beside_client(void)
{
    int port = take();
    for (int i = 0; i < RUSH; i++)
        request(port);
    meet();
}

// ---- connections that are over before they are accepted, and waits that are cut short

static void woken(int signal)
{
    (void)signal;
}

static void over_server(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, 8, &port);
    give(port);
    for (int i = 0; i < 3; i++)
        answer(accept_one(listener));
    meet();
    take();
    for (int i = 0; i < 3; i++) {
        char byte;
        int fd = accept_one(listener);
        ssize_t len = read(fd, &byte, 1);
        note("over before it was accepted: %s", outcome(len));
        if (len > 0)
            note("then %s", outcome(read(fd, &byte, 1)));
        close(fd);
    }
    struct timeval limit = { .tv_usec = 30000 };
    MUST(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    note("with a limit: %s", outcome(accept(listener, NULL, NULL)));
    note("again: %s", outcome(accept(listener, NULL, NULL)));
    limit.tv_usec = 0;
    MUST(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    struct sigaction action = { .sa_handler = woken };
    MUST(sigaction(SIGUSR2, &action, NULL) == 0);
    // Again and again: one that comes before the wait begins ends nothing.
    struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR2, ._sigev_un._tid = gettid() };
    struct itimerspec often = { { 0, 20000000 }, { 0, 20000000 } };
    timer_t timer;
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &often, NULL) == 0);
    note("with a signal: %s", outcome(accept(listener, NULL, NULL)));
    timer_delete(timer);
    close(listener);
    meet();
}

static void over_client(void)
{
    int port = take();
    for (int i = 0; i < 3; i++)
        request(port);
    meet();
    close(connect_to(port));
    int fd = connect_to(port);
    send_all(fd, "x", 1);
    close(fd);
    fd = connect_to(port);
    struct linger now = { .l_onoff = 1 };
    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0);
    close(fd);
    give(0);
    meet();
}

static const struct scenario scenarios[] = {
    { "rush", rush_server, rush_client, ALONE },
    { "buffers", buffers_server, buffers_client, ALONE },
    { "shared", shared_server, shared_client, ALONE },
    { "beside", beside_server, beside_client, ALONE },
    { "over", over_server, over_client, ALONE },
};

int main(int argc, char **argv)
{
    return PLAY(scenarios, argc, argv);
}
