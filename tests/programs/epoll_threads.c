// build: dynamic
// Several threads at one epoll set: who is told, and what others do to the set while one waits.
#include "tcp_pair.h"
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

static int set;

static void change(int operation, int fd, unsigned events)
{
    struct epoll_event event = { .events = events, .data.fd = fd };
    MUST(epoll_ctl(set, operation, fd, &event) == 0);
}

struct waiter {
    pthread_t thread;
    int set, count, fd;
    unsigned events;
    atomic_int begun;
};

static void *wait_once(void *argument)
{
    struct waiter *one = argument;
    struct epoll_event event = { 0 };
    one->begun = 1;
    one->count = epoll_wait(one->set, &event, 1, PATIENCE_MS);
    one->events = event.events;
    one->fd = event.data.fd;
    return NULL;
}

static void start(struct waiter *one, int its_set)
{
    *one = (struct waiter) { .set = its_set };
    MUST(pthread_create(&one->thread, NULL, wait_once, one) == 0);
    while (!one->begun)
        sleep_ms(1);
    sleep_ms(30);
}

static const char *finish(struct waiter *one, int64_t begin)
{
    static __thread char texts[8][64];
    static __thread unsigned next;
    char *text = texts[next++ % 8];
    MUST(pthread_join(one->thread, NULL) == 0);
    snprintf(text, sizeof texts[0], "%d: %s, at once %d", one->count, event_names(one->events), now_ms() - begin < PATIENCE_MS - 1000);
    return text;
}

// ---- what is done to a set while a thread waits for it

static void changed_server(void)
{
    struct waiter one;
    set = epoll_create1(EPOLL_CLOEXEC);
    meet();
    ready_with(FD, POLLIN);
    // Added when it is ready already.
    start(&one, set);
    int64_t begin = now_ms();
    change(EPOLL_CTL_ADD, FD, EPOLLIN);
    note("added: %s", finish(&one, begin));
    // Modified to what is ready.
    change(EPOLL_CTL_MOD, FD, EPOLLPRI);
    start(&one, set);
    begin = now_ms();
    change(EPOLL_CTL_MOD, FD, EPOLLIN | EPOLLOUT);
    note("modified: %s", finish(&one, begin));
    change(EPOLL_CTL_MOD, FD, EPOLLPRI);
    start(&one, set);
    begin = now_ms();
    change(EPOLL_CTL_MOD, FD, EPOLLOUT | EPOLLONESHOT);
    note("modified, once: %s", finish(&one, begin));
    // Deleted while it is waited for: the waiter is told of another one.
    receive_text("ready");
    change(EPOLL_CTL_MOD, FD, EPOLLIN);
    int event = eventfd(0, EFD_CLOEXEC);
    change(EPOLL_CTL_ADD, event, EPOLLIN);
    start(&one, set);
    change(EPOLL_CTL_DEL, FD, 0);
    meet();
    ready_with(FD, POLLIN);
    sleep_ms(30);
    begin = now_ms();
    MUST(eventfd_write(event, 1) == 0);
    const char *text = finish(&one, begin);
    note("deleted: %s, of another %d", text, one.fd == event);
    // A descriptor that another thread closes.
    receive_text("ready");
    change(EPOLL_CTL_DEL, event, 0);
    change(EPOLL_CTL_ADD, FD, EPOLLIN);
    int twin = fcntl(FD, F_DUPFD_CLOEXEC, 0);
    change(EPOLL_CTL_ADD, event, EPOLLIN | EPOLLET);
    struct epoll_event unread;
    MUST(epoll_wait(set, &unread, 1, 1000) == 1);
    start(&one, set);
    close(twin);
    close(FD);
    FD = -1;
    meet();
    sleep_ms(30);
    begin = now_ms();
    MUST(eventfd_write(event, 1) == 0);
    text = finish(&one, begin);
    note("closed: %s, of another %d", text, one.fd == event);
    close(event);
    close(set);
}

static void changed_client(void)
{
    send_text("ready");
    meet();
    meet();
    send_text("ready");
    meet();
    note("closed: %s", ready_with(FD, POLLRDHUP));
}

// ---- one event, many threads

static void thundering_server(void)
{
    struct waiter waiters[4];
    set = epoll_create1(EPOLL_CLOEXEC);
    // By edge, one is told; or one more, when the event comes with the first bytes of a connection.
    change(EPOLL_CTL_ADD, FD, EPOLLIN | EPOLLET);
    for (int i = 0; i < 4; i++)
        start(&waiters[i], set);
    give(0);
    sleep_ms(100);
    // The others, when something else comes: each event for one.
    int told = 0, events[4];
    for (int i = 0; i < 3; i++) {
        events[i] = eventfd(1, EFD_CLOEXEC);
        change(EPOLL_CTL_ADD, events[i], EPOLLIN | EPOLLET);
    }
    for (int i = 0; i < 4; i++) {
        MUST(pthread_join(waiters[i].thread, NULL) == 0);
        told += waiters[i].count == 1 && waiters[i].fd == FD;
    }
    note("by edge, one was told: %d", told == 1 || told == 2);
    receive_text("x");
    for (int i = 0; i < 3; i++)
        close(events[i]);
    close(set);
    // Exclusive members of two sets: at least one is told, and none for ever.
    int sets[2];
    for (int i = 0; i < 2; i++) {
        set = sets[i] = epoll_create1(EPOLL_CLOEXEC);
        change(EPOLL_CTL_ADD, FD, EPOLLIN | EPOLLEXCLUSIVE);
        start(&waiters[i], sets[i]);
    }
    give(0);
    ready_with(FD, POLLIN);
    sleep_ms(50);
    int event = eventfd(1, EFD_CLOEXEC);
    told = 0;
    for (int i = 0; i < 2; i++) {
        set = sets[i];
        change(EPOLL_CTL_ADD, event, EPOLLIN);
    }
    for (int i = 0; i < 2; i++) {
        MUST(pthread_join(waiters[i].thread, NULL) == 0);
        told += waiters[i].count == 1 && waiters[i].fd == FD;
    }
    note("exclusive, one was told: %d", told >= 1);
    receive_text("x");
    close(event);
    close(sets[0]);
    close(sets[1]);
}

static void thundering_client(void)
{
    for (int i = 0; i < 2; i++) {
        take();
        send_text("x");
    }
}

// ---- a server of a few threads and one set, each connection with one of them at a time

enum { CONNECTIONS = 40, REQUESTS = 15, THREADS = 4 };

static atomic_int finished, clashes;
static atomic_int busy[4096];
static int quit_event;

static void *serve(void *unused)
{
    (void)unused;
    for (;;) {
        struct epoll_event event;
        int count = epoll_wait(set, &event, 1, -1);
        MUST(count == 1);
        int fd = event.data.fd;
        if (fd == quit_event)
            return NULL;
        clashes += atomic_exchange(&busy[fd], 1);
        char text[64];
        ssize_t len;
        // By edge: everything there is, until there is no more.
        while ((len = recv(fd, text, 5, MSG_DONTWAIT)) > 0)
            send_all(fd, text, (size_t)len);
        bool ended = len == 0;
        MUST(ended || errno == EAGAIN);
        busy[fd] = 0;
        if (ended) {
            close(fd);
            finished++;
        } else {
            change(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLET | EPOLLONESHOT);
        }
    }
}

static void pool_server(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, CONNECTIONS, &port);
    pthread_t threads[THREADS];
    set = epoll_create1(EPOLL_CLOEXEC);
    quit_event = eventfd(0, EFD_CLOEXEC);
    change(EPOLL_CTL_ADD, quit_event, EPOLLIN);
    finished = 0;
    for (int i = 0; i < THREADS; i++)
        MUST(pthread_create(&threads[i], NULL, serve, NULL) == 0);
    give(port);
    for (int i = 0; i < CONNECTIONS; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        MUST(fd >= 0);
        change(EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET | EPOLLONESHOT);
    }
    int64_t deadline = now_ms() + 15000;
    while (finished < CONNECTIONS && now_ms() < deadline)
        sleep_ms(5);
    note("%d connections served, %d clashes", finished, clashes);
    MUST(eventfd_write(quit_event, 1) == 0);
    for (int i = 0; i < THREADS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    close(quit_event);
    close(listener);
    close(set);
}

static void pool_client(void)
{
    int port = take(), fds[CONNECTIONS];
    for (int i = 0; i < CONNECTIONS; i++)
        fds[i] = connect_to(port);
    for (int request = 0; request < REQUESTS; request++) {
        char text[64], answer[64];
        size_t len = 1 + (size_t)request % 30;
        for (int i = 0; i < CONNECTIONS; i++) {
            memset(text, request + i, len);
            send_all(fds[i], text, len);
        }
        for (int i = 0; i < CONNECTIONS; i++) {
            memset(text, request + i, len);
            receive_all(fds[i], answer, len);
            MUST(memcmp(text, answer, len) == 0);
        }
    }
    for (int i = 0; i < CONNECTIONS; i++) {
        char byte;
        MUST(shutdown(fds[i], SHUT_WR) == 0);
        MUST(read(fds[i], &byte, 1) == 0);
        close(fds[i]);
    }
    note("%d requests answered", CONNECTIONS * REQUESTS);
}

// ---- one set in two processes: what is added by one is told to both

static void inherited_server(void)
{
    set = epoll_create1(EPOLL_CLOEXEC);
    change(EPOLL_CTL_ADD, FD, EPOLLIN | EPOLLONESHOT);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        struct epoll_event event;
        MUST(epoll_wait(set, &event, 1, PATIENCE_MS) == 1 && event.data.fd == FD);
        receive_text("to the child");
        send_text("from the child");
        change(EPOLL_CTL_MOD, FD, EPOLLIN);
        _exit(0);
    }
    give(0);
    int status;
    MUST(waitpid(child, &status, 0) == child && status == 0);
    struct epoll_event event;
    note("nothing for the parent: %d", epoll_wait(set, &event, 1, 20));
    give(0);
    MUST(epoll_wait(set, &event, 1, PATIENCE_MS) == 1 && event.data.fd == FD);
    receive_text("to the parent");
    note("told in both");
    close(set);
}

static void inherited_client(void)
{
    take();
    send_text("to the child");
    receive_text("from the child");
    take();
    send_text("to the parent");
}

static const struct scenario scenarios[] = {
    { "changed", changed_server, changed_client, 0 },
    { "thundering", thundering_server, thundering_client, 0 },
    { "pool", pool_server, pool_client, ALONE },
    { "inherited", inherited_server, inherited_client, 0 },
};

int main(int argc, char **argv)
{
    return PLAY(scenarios, argc, argv);
}
