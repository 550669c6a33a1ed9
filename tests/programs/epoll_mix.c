// build: dynamic
// Waiting for many kinds at once: connections, a listener, pipes, events, timers and Unix sockets; with epoll, poll and select.
#include "tcp_pair.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/timerfd.h>

enum { CONNECTION, LISTENER, PIPE, EVENT, TIMER, PAIR, KINDS };
static const char *const kind_names[KINDS] = { "connection", "listener", "pipe", "event", "timer", "pair" };

struct mix {
    int fds[KINDS], pipe_end, pair_end, port;
};

static struct mix mix_begin(void)
{
    struct mix mix;
    int ends[2];
    mix.fds[CONNECTION] = FD;
    mix.fds[LISTENER] = listen_at(INADDR_LOOPBACK, 4, &mix.port);
    MUST(pipe2(ends, O_CLOEXEC) == 0);
    mix.fds[PIPE] = ends[0];
    mix.pipe_end = ends[1];
    mix.fds[EVENT] = eventfd(0, EFD_CLOEXEC);
    mix.fds[TIMER] = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    mix.fds[PAIR] = ends[0];
    mix.pair_end = ends[1];
    give(mix.port);
    return mix;
}

static void mix_end(struct mix *mix)
{
    for (int i = LISTENER; i < KINDS; i++)
        close(mix->fds[i]);
    close(mix->pipe_end);
    close(mix->pair_end);
}

// Makes one of them ready, after a moment in which the waiter has begun to wait.
struct deed {
    pthread_t thread;
    const struct mix *mix;
    int kind, control;
};

static void *do_later(void *argument)
{
    struct deed *deed = argument;
    const struct mix *mix = deed->mix;
    struct itimerspec once = { .it_value = { 0, 1000000 } };
    sleep_ms(10);
    switch (deed->kind) {
    case CONNECTION:
    case LISTENER:
        MUST(write(deed->control, &deed->kind, sizeof deed->kind) == sizeof deed->kind);
        break;
    case PIPE:
        MUST(write(mix->pipe_end, "x", 1) == 1);
        break;
    case EVENT:
        MUST(eventfd_write(mix->fds[EVENT], 1) == 0);
        break;
    case TIMER:
        MUST(timerfd_settime(mix->fds[TIMER], 0, &once, NULL) == 0);
        break;
    default:
        MUST(write(mix->pair_end, "x", 1) == 1);
    }
    return NULL;
}

static void begin_deed(struct deed *deed, const struct mix *mix, int kind)
{
    *deed = (struct deed) { .mix = mix, .kind = kind, .control = self->control };
    MUST(pthread_create(&deed->thread, NULL, do_later, deed) == 0);
}

static void undo(const struct mix *mix, struct deed *deed)
{
    MUST(pthread_join(deed->thread, NULL) == 0);
    uint64_t value;
    if (deed->kind == LISTENER)
        close(accept(mix->fds[LISTENER], NULL, NULL));
    else
        MUST(read(mix->fds[deed->kind], &value, sizeof value) > 0);
}

// What the peer does: it connects, or says something, until it is told that there is no more.
static void mix_client(void)
{
    int port = take(), what;
    while ((what = take()) >= 0) {
        if (what == CONNECTION)
            send_text("x");
        else
            close(connect_to(port));
    }
}

// ---- one epoll set, or a set in a set

static void epoll_server(void)
{
    struct mix mix = mix_begin();
    for (int nested = 0; nested < 2; nested++) {
        int set = epoll_create1(EPOLL_CLOEXEC), inner = set;
        if (nested) {
            struct epoll_event event = { .events = EPOLLIN, .data.u32 = 99 };
            inner = epoll_create1(EPOLL_CLOEXEC);
            MUST(epoll_ctl(set, EPOLL_CTL_ADD, inner, &event) == 0);
        }
        for (int i = 0; i < KINDS; i++) {
            struct epoll_event event = { .events = EPOLLIN, .data.u32 = (unsigned)i };
            MUST(epoll_ctl(inner, EPOLL_CTL_ADD, mix.fds[i], &event) == 0);
        }
        for (int i = 0; i < 2 * KINDS; i++) {
            struct deed deed;
            struct epoll_event events[KINDS];
            begin_deed(&deed, &mix, i % KINDS);
            int count, in_vain = 0;
            // An outer set may tell once more of an inner one in which nothing is left, but it does not go on doing so.
            do {
                count = epoll_wait(set, events, KINDS, i < KINDS ? PATIENCE_MS : -1);
                MUST(count == 1);
                if (nested)
                    count = epoll_wait(inner, events, KINDS, 0);
            } while (count == 0 && in_vain++ < 3);
            MUST(count == 1 && (int)events[0].data.u32 == i % KINDS);
            if (i < KINDS)
                note("%s%s: %d", nested ? "in a set, " : "", kind_names[events[0].data.u32], count);
            undo(&mix, &deed);
        }
        if (inner != set)
            close(inner);
        close(set);
    }
    give(-1);
    mix_end(&mix);
}

// ---- poll and ppoll

static void poll_server(void)
{
    struct mix mix = mix_begin();
    struct pollfd polled[KINDS + 2];
    for (int i = 0; i < KINDS; i++)
        polled[i] = (struct pollfd) { .fd = mix.fds[i], .events = POLLIN | POLLRDHUP };
    polled[KINDS] = (struct pollfd) { .fd = -1, .events = POLLIN };
    polled[KINDS + 1] = (struct pollfd) { .fd = FD, .events = POLLIN | POLLPRI };
    note("idle: %d", poll(polled, KINDS + 2, 20));
    struct timespec limit = { 5, 0 };
    for (int i = 0; i < 2 * KINDS; i++) {
        struct deed deed;
        begin_deed(&deed, &mix, i % KINDS);
        int count = i < KINDS ? poll(polled, KINDS + 2, PATIENCE_MS) : ppoll(polled, KINDS + 2, &limit, NULL);
        note("%s: %d, %s, the connection %s, none %s", kind_names[i % KINDS], count, event_names((unsigned)polled[i % KINDS].revents), event_names((unsigned)polled[KINDS + 1].revents),
             event_names((unsigned)polled[KINDS].revents));
        undo(&mix, &deed);
    }
    polled[0].events = POLLIN | POLLOUT;
    int ready = poll(polled, KINDS + 2, PATIENCE_MS);
    note("to write: %d, %s", ready, event_names((unsigned)polled[0].revents));
    polled[0] = (struct pollfd) { .fd = 4000, .events = POLLIN };
    ready = poll(polled, KINDS + 2, PATIENCE_MS);
    note("no descriptor: %d, %s", ready, event_names((unsigned)polled[0].revents));
    note("only a time: %d, %d", poll(NULL, 0, 20), ppoll(NULL, 0, &(struct timespec) { 0, 20000000 }, NULL));
    give(-1);
    mix_end(&mix);
}

// ---- select and pselect

static void select_server(void)
{
    struct mix mix = mix_begin();
    int highest = 0;
    for (int i = 0; i < KINDS; i++)
        highest = mix.fds[i] > highest ? mix.fds[i] : highest;
    fd_set reading, writing, urgent;
    for (int i = 0; i < 2 * KINDS; i++) {
        struct deed deed;
        FD_ZERO(&reading);
        FD_ZERO(&urgent);
        for (int k = 0; k < KINDS; k++) {
            FD_SET(mix.fds[k], &reading);
            FD_SET(mix.fds[k], &urgent);
        }
        begin_deed(&deed, &mix, i % KINDS);
        struct timeval limit = { 5, 0 };
        struct timespec fine = { 5, 0 };
        int count = i < KINDS ? select(highest + 1, &reading, NULL, &urgent, &limit) : pselect(highest + 1, &reading, NULL, &urgent, &fine, NULL);
        bool left = i >= KINDS || (limit.tv_sec < 5 && limit.tv_sec >= 1);
        note("%s: %d, it %d, the connection %d, time left is said %d", kind_names[i % KINDS], count, FD_ISSET(mix.fds[i % KINDS], &reading) != 0, FD_ISSET(FD, &reading) != 0, left);
        undo(&mix, &deed);
    }
    FD_ZERO(&reading);
    FD_ZERO(&writing);
    FD_SET(FD, &reading);
    FD_SET(FD, &writing);
    struct timeval now = { 0, 0 };
    int count = select(FD + 1, &reading, &writing, NULL, &now);
    note("to write: %d, read %d, write %d", count, FD_ISSET(FD, &reading) != 0, FD_ISSET(FD, &writing) != 0);
    struct timeval wrong = { -1, 0 };
    note("negative: %s", outcome(select(FD + 1, &reading, NULL, NULL, &wrong)));
    FD_ZERO(&reading);
    int gone = dup(FD);
    FD_SET(gone, &reading);
    close(gone);
    note("no descriptor: %s", outcome(select(gone + 1, &reading, NULL, NULL, &now)));
    give(-1);
    // The end of a connection is something to read, and an error too.
    FD_ZERO(&reading);
    FD_SET(FD, &reading);
    meet();
    struct timeval limit = { 5, 0 };
    count = select(FD + 1, &reading, NULL, NULL, &limit);
    char byte;
    note("end: %d, %s", count, outcome(read(FD, &byte, 1)));
    mix_end(&mix);
}

static void select_client(void)
{
    mix_client();
    meet();
    sleep_ms(20);
    MUST(shutdown(FD, SHUT_WR) == 0);
}

// ---- two waiters for one connection, one by epoll and one by poll: both are told

static void *poll_one(void *argument)
{
    struct pollfd one = { .fd = *(int *)argument, .events = POLLIN };
    return (void *)(intptr_t)poll(&one, 1, PATIENCE_MS);
}

static void both_server(void)
{
    int set = epoll_create1(EPOLL_CLOEXEC), fd = FD;
    struct epoll_event event = { .events = EPOLLIN | EPOLLET };
    pthread_t thread;
    void *polled;
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, FD, &event) == 0);
    MUST(pthread_create(&thread, NULL, poll_one, &fd) == 0);
    sleep_ms(30);
    give(CONNECTION);
    int count = epoll_wait(set, &event, 1, PATIENCE_MS);
    MUST(pthread_join(thread, &polled) == 0);
    note("by epoll %d, by poll %d", count, (int)(intptr_t)polled);
    give(-1);
    close(set);
}

static void both_client(void)
{
    while (take() >= 0)
        send_text("x");
}

// ---- thousands that say nothing, and a few that do

enum { IDLE = 2000, SOME = 50 };

static void idle_server(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, 128, &port), set = epoll_create1(EPOLL_CLOEXEC);
    static int fds[IDLE];
    give(port);
    for (int i = 0; i < IDLE; i++) {
        struct epoll_event event = { .events = EPOLLIN | EPOLLRDHUP, .data.u32 = (unsigned)i };
        char byte;
        fds[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        MUST(fds[i] >= 0);
        // Each has said something once, in both directions.
        receive_all(fds[i], &byte, 1);
        send_all(fds[i], &byte, 1);
        MUST(epoll_ctl(set, EPOLL_CTL_ADD, fds[i], &event) == 0);
    }
    struct epoll_event events[SOME];
    note("idle: %d", epoll_wait(set, events, SOME, 20));
    meet();
    int heard = 0;
    bool right = true;
    while (heard < SOME) {
        int count = epoll_wait(set, events, SOME, PATIENCE_MS);
        MUST(count > 0);
        for (int i = 0; i < count; i++) {
            unsigned number;
            receive_all(fds[events[i].data.u32], &number, sizeof number);
            right &= number == events[i].data.u32;
            send_all(fds[events[i].data.u32], &number, sizeof number);
            heard++;
        }
    }
    note("%d spoke, the right ones %d", heard, right);
    static struct pollfd polled[IDLE];
    for (int i = 0; i < IDLE; i++)
        polled[i] = (struct pollfd) { .fd = fds[i], .events = POLLIN };
    note("poll of all: %d", poll(polled, IDLE, 0));
    meet();
    int ended = 0;
    while (ended < IDLE) {
        int count = epoll_wait(set, events, SOME, PATIENCE_MS);
        MUST(count > 0);
        for (int i = 0; i < count; i++) {
            char byte;
            MUST(read(fds[events[i].data.u32], &byte, 1) == 0);
            close(fds[events[i].data.u32]);
            ended++;
        }
    }
    note("%d ended, then %d", ended, epoll_wait(set, events, SOME, 0));
    close(set);
    close(listener);
}

static void idle_client(void)
{
    static int fds[IDLE];
    int port = take();
    for (int i = 0; i < IDLE; i++) {
        char byte = (char)i;
        fds[i] = connect_to(port);
        send_all(fds[i], &byte, 1);
        receive_all(fds[i], &byte, 1);
        MUST(byte == (char)i);
    }
    meet();
    for (unsigned i = 0; i < SOME; i++) {
        unsigned number = (i * 397) % IDLE, answer;
        send_all(fds[number], &number, sizeof number);
        receive_all(fds[number], &answer, sizeof answer);
        MUST(answer == number);
    }
    meet();
    for (int i = 0; i < IDLE; i++)
        close(fds[i]);
}

static const struct scenario scenarios[] = {
    { "epoll", epoll_server, mix_client, 0 },
    { "poll", poll_server, mix_client, 0 },
    { "select", select_server, select_client, 0 },
    { "epoll_and_poll", both_server, both_client, 0 },
    { "idle", idle_server, idle_client, ALONE },
};

int main(int argc, char **argv)
{
    // Both ends of all the idle ones may be in one process.
    struct rlimit limit = { 2 * IDLE + 100, 2 * IDLE + 100 };
    MUST(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    return PLAY(scenarios, argc, argv);
}
