// build: dynamic
// How an epoll set tells of a connection: by level, by edge, once; nested, exclusive, and with the errors of epoll_ctl.
#include "tcp_pair.h"
#include <sys/epoll.h>

static int set;

static void watch_fd(int operation, int fd, unsigned events)
{
    struct epoll_event event = { .events = events, .data.u64 = 0x1234567800000000ull | (unsigned)fd };
    MUST(epoll_ctl(set, operation, fd, &event) == 0);
}

// What the set says within `ms`, of how many.
static const char *told(int ms)
{
    static __thread char texts[8][96];
    static __thread unsigned next;
    char *text = texts[next++ % 8];
    struct epoll_event events[4];
    int count = epoll_wait(set, events, 4, ms);
    if (count < 0)
        snprintf(text, sizeof texts[0], "%s", name_of(errno));
    else if (count == 0)
        snprintf(text, sizeof texts[0], "nothing");
    else
        snprintf(text, sizeof texts[0], "%d:%s%s%s%s%s%s%s", count, events[0].events & EPOLLIN ? " IN" : "", events[0].events & EPOLLPRI ? " PRI" : "",
                 events[0].events & EPOLLOUT ? " OUT" : "", events[0].events & EPOLLERR ? " ERR" : "", events[0].events & EPOLLHUP ? " HUP" : "",
                 events[0].events & EPOLLRDHUP ? " RDHUP" : "", events[0].data.u64 >> 32 == 0x12345678 ? "" : " of whom?");
    return text;
}

static void wait_for(int bytes)
{
    int there = 0;
    int64_t deadline = now_ms() + PATIENCE_MS;
    while (ioctl(FD, FIONREAD, &there) == 0 && there < bytes && now_ms() < deadline)
        sleep_ms(1);
    MUST(there == bytes);
}

// The peer's answer to each number that it is given: so many bytes, or what else it can do.
enum { END = -1, CLOSE = -2, RESET = -3, URGENT = -4, READ = -5, OVER = -6 };

static void obedient_client(void)
{
    for (;;) {
        int order = take();
        static char block[100000];
        struct linger linger = { 1, 0 };
        if (order > 0)
            send_all(FD, block, (size_t)order);
        else if (order == END)
            MUST(shutdown(FD, SHUT_WR) == 0);
        else if (order == URGENT)
            MUST(send(FD, "!", 1, MSG_OOB) == 1);
        else if (order == RESET)
            MUST(setsockopt(FD, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
        else if (order == READ)
            while (poll(&(struct pollfd) { .fd = FD, .events = POLLIN }, 1, 60) == 1)
                MUST(read(FD, block, sizeof block) > 0);
        if (order == CLOSE || order == RESET) {
            close(FD);
            FD = -1;
        }
        give(0);
        if (order == OVER)
            return;
    }
}

static void order(int what)
{
    give(what);
    take();
}

static void begin_set(void)
{
    set = epoll_create1(EPOLL_CLOEXEC);
    MUST(set >= 0);
}

static void end_set(void)
{
    order(OVER);
    close(set);
}

static char bytes[100000];

// ---- by level

static void level_server(void)
{
    begin_set();
    watch_fd(EPOLL_CTL_ADD, FD, EPOLLIN | EPOLLRDHUP);
    note("idle: %s", told(20));
    order(10);
    note("ten came: %s", told(2000));
    note("still: %s", told(0));
    receive_all(FD, bytes, 4);
    note("six left: %s", told(0));
    receive_all(FD, bytes, 6);
    note("none left: %s", told(0));
    watch_fd(EPOLL_CTL_MOD, FD, EPOLLIN | EPOLLOUT);
    note("and to write: %s", told(0));
    uint64_t sent = fill(FD, 0);
    note("full: %s", told(0));
    order(READ);
    note("room: %s", told(2000));
    MUST(sent > 0);
    watch_fd(EPOLL_CTL_MOD, FD, EPOLLIN | EPOLLRDHUP | EPOLLPRI);
    order(URGENT);
    note("urgent: %s", told(2000));
    MUST(recv(FD, bytes, 1, MSG_OOB) == 1);
    note("urgent taken: %s", told(0));
    order(END);
    ready_with(FD, POLLRDHUP);
    note("end: %s", told(2000));
    watch_fd(EPOLL_CTL_MOD, FD, 0);
    note("for nothing: %s", told(0));
    MUST(shutdown(FD, SHUT_WR) == 0);
    ready_with(FD, POLLHUP);
    note("both ends, for nothing: %s", told(2000));
    end_set();
}

// ---- by edge

static void edge_server(void)
{
    begin_set();
    watch_fd(EPOLL_CTL_ADD, FD, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    note("at first: %s", told(100));
    note("not again: %s", told(20));
    order(10);
    wait_for(10);
    note("ten came: %s", told(2000));
    note("not again: %s", told(20));
    // A part is read: nothing new.
    receive_all(FD, bytes, 4);
    note("six left: %s", told(20));
    // More comes on top: new.
    order(5);
    wait_for(11);
    note("eleven there: %s", told(2000));
    note("not again: %s", told(20));
    // Nothing is read, and more comes: new each time.
    order(5);
    wait_for(16);
    note("sixteen there: %s", told(2000));
    receive_all(FD, bytes, 16);
    note("all read: %s", told(20));
    // Two arrivals, one telling.
    order(5);
    order(5);
    wait_for(10);
    note("twice five: %s", told(2000));
    note("not again: %s", told(20));
    // To modify is to begin anew.
    watch_fd(EPOLL_CTL_MOD, FD, EPOLLIN | EPOLLOUT | EPOLLET);
    note("modified: %s", told(0));
    note("not again: %s", told(20));
    // Writing by itself tells nothing; what the peer reads does only when there had been no room.
    MUST(write(FD, "abc", 3) == 3);
    order(READ);
    watch_fd(EPOLL_CTL_MOD, FD, EPOLLOUT | EPOLLET);
    note("modified: %s", told(0));
    fill(FD, 0);
    note("full: %s", told(0));
    order(READ);
    note("room: %s", told(2000));
    watch_fd(EPOLL_CTL_MOD, FD, EPOLLIN | EPOLLRDHUP | EPOLLET);
    note("ten unread: %s", told(0));
    order(END);
    ready_with(FD, POLLRDHUP);
    note("end: %s", told(2000));
    note("not again: %s", told(20));
    receive_all(FD, bytes, 10);
    MUST(read(FD, bytes, 1) == 0);
    note("read to the end: %s", told(20));
    end_set();
}

static void edge_end_server(void)
{
    begin_set();
    watch_fd(EPOLL_CTL_ADD, FD, EPOLLIN | EPOLLRDHUP | EPOLLET);
    order(RESET);
    ready_with(FD, POLLERR);
    note("reset: %s", told(2000));
    note("not again: %s", told(20));
    MUST(read(FD, bytes, 1) < 0);
    note("error read: %s", told(20));
    watch_fd(EPOLL_CTL_MOD, FD, EPOLLIN | EPOLLET);
    note("modified: %s", told(0));
    end_set();
}

// ---- once

static void once_server(void)
{
    begin_set();
    watch_fd(EPOLL_CTL_ADD, FD, EPOLLIN | EPOLLONESHOT);
    order(10);
    wait_for(10);
    note("ten came: %s", told(2000));
    note("disarmed: %s", told(0));
    order(10);
    wait_for(20);
    note("more came: %s", told(20));
    watch_fd(EPOLL_CTL_MOD, FD, EPOLLIN | EPOLLONESHOT);
    note("armed: %s", told(0));
    receive_all(FD, bytes, 20);
    watch_fd(EPOLL_CTL_MOD, FD, EPOLLIN | EPOLLONESHOT | EPOLLET);
    note("armed, empty: %s", told(20));
    order(10);
    note("ten came: %s", told(2000));
    order(10);
    wait_for(20);
    note("disarmed: %s", told(20));
    order(CLOSE);
    ready_with(FD, POLLRDHUP);
    note("disarmed, closed: %s", told(20));
    watch_fd(EPOLL_CTL_MOD, FD, EPOLLRDHUP | EPOLLONESHOT);
    note("armed: %s", told(0));
    note("disarmed: %s", told(0));
    end_set();
}

// ---- told before either side has used the connection

static void early_server(void)
{
    begin_set();
    watch_fd(EPOLL_CTL_ADD, FD, EPOLLIN | EPOLLOUT | EPOLLONESHOT);
    note("to write: %s", told(1000));
    order(10);
    wait_for(10);
    note("disarmed, ten came: %s", told(50));
    watch_fd(EPOLL_CTL_MOD, FD, EPOLLIN | EPOLLONESHOT);
    note("armed: %s", told(1000));
    note("disarmed: %s", told(0));
    end_set();
}

static void early_edge_server(void)
{
    begin_set();
    watch_fd(EPOLL_CTL_ADD, FD, EPOLLIN | EPOLLOUT | EPOLLET);
    order(READ);
    note("nothing to read: %s", outcome(recv(FD, bytes, 1, MSG_DONTWAIT)));
    note("to write: %s", told(1000));
    note("not again: %s", told(20));
    end_set();
}

// ---- sets in sets

static void nested_server(void)
{
    begin_set();
    watch_fd(EPOLL_CTL_ADD, FD, EPOLLIN);
    int inner = set, outer = epoll_create1(EPOLL_CLOEXEC), edge = epoll_create1(EPOLL_CLOEXEC);
    set = outer;
    watch_fd(EPOLL_CTL_ADD, inner, EPOLLIN);
    set = edge;
    watch_fd(EPOLL_CTL_ADD, inner, EPOLLIN | EPOLLET);
    note("idle: %s", told(20));
    order(10);
    wait_for(10);
    set = outer;
    note("outer: %s", told(2000));
    note("outer again: %s", told(0));
    set = edge;
    note("edge: %s", told(2000));
    note("edge again: %s", told(20));
    note("poll of the inner: %s", event_names(ready_now(inner)));
    set = inner;
    note("inner: %s", told(0));
    receive_all(FD, bytes, 10);
    note("inner, all read: %s", told(0));
    set = outer;
    note("outer, all read: %s", told(0));
    note("poll of the outer: %s", event_names(ready_now(outer)));
    order(10);
    wait_for(10);
    note("outer: %s", told(2000));
    set = edge;
    note("edge: %s", told(2000));
    // A ring of sets is refused.
    struct epoll_event event = { .events = EPOLLIN };
    note("a ring: %s", outcome(epoll_ctl(inner, EPOLL_CTL_ADD, outer, &event)));
    note("itself: %s", outcome(epoll_ctl(inner, EPOLL_CTL_ADD, inner, &event)));
    close(inner);
    note("inner closed: %s", told(20));
    set = outer;
    note("inner closed: %s", told(20));
    close(edge);
    end_set();
}

// ---- errors of epoll_ctl, and descriptors that come and go

static void errors_server(void)
{
    begin_set();
    struct epoll_event event = { .events = EPOLLIN };
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), directory = open("/", O_RDONLY | O_CLOEXEC);
    note("modify what is not in it: %s", outcome(epoll_ctl(set, EPOLL_CTL_MOD, FD, &event)));
    note("delete what is not in it: %s", outcome(epoll_ctl(set, EPOLL_CTL_DEL, FD, NULL)));
    watch_fd(EPOLL_CTL_ADD, FD, EPOLLIN);
    note("add twice: %s", outcome(epoll_ctl(set, EPOLL_CTL_ADD, FD, &event)));
    note("no descriptor: %s, %s", outcome(epoll_ctl(set, EPOLL_CTL_ADD, 4000, &event)), outcome(epoll_ctl(4000, EPOLL_CTL_ADD, FD, &event)));
    note("a file: %s, a directory: %s", outcome(epoll_ctl(set, EPOLL_CTL_ADD, file, &event)), outcome(epoll_ctl(set, EPOLL_CTL_ADD, directory, &event)));
    note("not a set: %s, %s", outcome(epoll_ctl(FD, EPOLL_CTL_ADD, set, &event)), outcome(epoll_wait(FD, &event, 1, 0)));
    note("no operation: %s", outcome(epoll_ctl(set, 99, FD, &event)));
    note("wait for none: %s", outcome(epoll_wait(set, &event, 0, 0)));
    note("wait on nothing: %s", outcome(epoll_wait(4000, &event, 1, 0)));
    event.events = EPOLLIN | EPOLLEXCLUSIVE;
    note("modify to exclusive: %s", outcome(epoll_ctl(set, EPOLL_CTL_MOD, FD, &event)));
    MUST(epoll_ctl(set, EPOLL_CTL_DEL, FD, NULL) == 0);
    event.events = EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT;
    note("exclusive and once: %s", outcome(epoll_ctl(set, EPOLL_CTL_ADD, FD, &event)));
    event.events = EPOLLIN | EPOLLEXCLUSIVE;
    note("exclusive: %s", outcome(epoll_ctl(set, EPOLL_CTL_ADD, FD, &event)));
    event.events = EPOLLIN;
    note("modify exclusive: %s", outcome(epoll_ctl(set, EPOLL_CTL_MOD, FD, &event)));
    MUST(epoll_ctl(set, EPOLL_CTL_DEL, FD, NULL) == 0);
    // A twin is another member.
    int twin = dup(FD);
    watch_fd(EPOLL_CTL_ADD, FD, EPOLLIN);
    watch_fd(EPOLL_CTL_ADD, twin, EPOLLIN);
    order(10);
    wait_for(10);
    note("twins: %s", told(0));
    // What is closed stays in the set as long as a twin lives.
    struct epoll_event two[2];
    int old = FD;
    close(FD);
    FD = twin;
    note("one closed: %s", told(0));
    note("delete the closed: %s", outcome(epoll_ctl(set, EPOLL_CTL_DEL, old, NULL)));
    int count = epoll_wait(set, two, 2, 0);
    bool both = count == 2 && two[0].data.u64 != two[1].data.u64;
    note("both are told of: %d", both);
    receive_all(FD, bytes, 10);
    note("all read: %s", told(0));
    order(10);
    wait_for(10);
    note("ten came: %s", told(0));
    // The number is used again for something else.
    MUST(dup2(file, old) == old);
    note("number in use for a file: %s", outcome(epoll_ctl(set, EPOLL_CTL_MOD, old, &event)));
    close(old);
    close(FD);
    FD = -1;
    note("all closed: %s", told(0));
    close(file);
    close(directory);
    end_set();
}

// ---- limits of time

static void limits_server(void)
{
    begin_set();
    watch_fd(EPOLL_CTL_ADD, FD, EPOLLIN);
    struct epoll_event event;
    struct timespec limits[3] = { { 0, 0 }, { 0, 50000000 }, { 0, 1000000000 } };
    for (int i = 0; i < 3; i++) {
        int64_t begin = now_ms();
        const char *text = outcome(epoll_pwait2(set, &event, 1, &limits[i], NULL));
        int64_t took = now_ms() - begin;
        note("limit %d: %s, after the time %d", i, text, i != 1 || (took >= 45 && took < 3000));
    }
    int64_t begin = now_ms();
    note("30 ms: %s", told(30));
    note("after the time %d", now_ms() - begin >= 28);
    note("negative: told when it comes");
    give(10);
    note("ten: %s", told(-1));
    take();
    note("without limit: %s", outcome(epoll_pwait2(set, &event, 1, NULL, NULL)));
    end_set();
}

// ---- many members: each is told of in turn

enum { MEMBERS = 12 };

static void many_server(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, MEMBERS, &port), fds[MEMBERS];
    begin_set();
    give(port);
    for (int i = 0; i < MEMBERS; i++) {
        fds[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        MUST(fds[i] >= 0);
        exchange(fds[i], true);
        struct epoll_event event = { .events = EPOLLIN, .data.u32 = (unsigned)i };
        MUST(epoll_ctl(set, EPOLL_CTL_ADD, fds[i], &event) == 0);
    }
    meet();
    for (int i = 0; i < MEMBERS; i++)
        ready_with(fds[i], POLLIN);
    unsigned seen[MEMBERS] = { 0 }, rounds = 0;
    // A few at a time: all come before any comes again.
    for (rounds = 0; rounds < MEMBERS / 4; rounds++) {
        struct epoll_event events[4];
        int count = epoll_wait(set, events, 4, 1000);
        MUST(count == 4);
        for (int i = 0; i < count; i++)
            seen[events[i].data.u32]++;
    }
    bool fair = true;
    for (int i = 0; i < MEMBERS; i++)
        fair &= seen[i] == 1;
    note("each once in %u rounds: %d", rounds, fair);
    for (int i = 0; i < MEMBERS; i++)
        close(fds[i]);
    close(listener);
    close(set);
}

static void many_client(void)
{
    int port = take(), fds[MEMBERS];
    for (int i = 0; i < MEMBERS; i++) {
        fds[i] = connect_to(port);
        exchange(fds[i], false);
    }
    for (int i = MEMBERS - 1; i >= 0; i--)
        send_all(fds[i], "x", 1);
    meet();
    for (int i = 0; i < MEMBERS; i++) {
        char byte;
        (void)!read(fds[i], &byte, 1);
        close(fds[i]);
    }
}

static const struct scenario scenarios[] = {
    { "level", level_server, obedient_client, 0 },
    { "level_of_client", obedient_client, level_server, APART },
    { "edge", edge_server, obedient_client, 0 },
    { "edge_of_client", obedient_client, edge_server, APART },
    { "edge_of_reset", edge_end_server, obedient_client, 0 },
    { "once", once_server, obedient_client, 0 },
    { "early", early_server, obedient_client, 0 },
    { "early_edge", early_edge_server, obedient_client, 0 },
    { "nested", nested_server, obedient_client, 0 },
    { "errors", errors_server, obedient_client, 0 },
    { "limits", limits_server, obedient_client, 0 },
    { "many", many_server, many_client, ALONE },
};

int main(int argc, char **argv)
{
    return PLAY(scenarios, argc, argv);
}
