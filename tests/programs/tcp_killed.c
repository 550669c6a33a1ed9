// build: dynamic
// What a killed process had of the vkernel's memory is free again soon afterwards, and its neighbours go on.
//
// Of the records of all, only those of the victims change: the survivors make no connection meanwhile, and the neighbours keep
// the one that they have. The last argument is for `places.h`. Others: `each` plays all in one container; `serve` and `join`
// are two containers, of which the one with the further argument `victim` gets killed; `neighbours` transfer until SIGTERM.
#include "tcp_pair.h"
#include "places.h"
#include <sys/epoll.h>
#include <sys/mman.h>

enum { CONNECTIONS_EACH = 24, VICTIMS_MAX = 4, FREE_WITHIN_MS = 20000, LONG = 300000 };

static uint32_t in_use[5];

static void look(void)
{
    for (int pool = 0; pool < 5; pool++)
        in_use[pool] = head_of((enum pool)pool)->used;
}

// Items that a thread which was killed in epoll_wait had in its hands stay in use: LIMITS.md.
static bool loses_items;

// Whether as few are in use as when they were looked at; of buffers the neighbours take and give back their own.
static bool is_free_again(void)
{
    for (int pool = 0; pool < 5; pool++)
        if (pool != BUFFERS && !(pool == ITEMS && loses_items) && head_of((enum pool)pool)->used > in_use[pool])
            return false;
    return head_of(BUFFERS)->used <= in_use[BUFFERS] + 2;
}

static void must_become_free(const char *what)
{
    int64_t deadline = now_ms() + FREE_WITHIN_MS;
    while (!is_free_again() && now_ms() < deadline) {
        sleep_ms(5);
        // Somebody has to have an occasion to look.
        close(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    }
    bool all = is_free_again();
    SAY("%s: all is free again: %d", what, all);
    for (int pool = 0; pool < 5 && !all; pool++)
        SAY("pool %d: %u instead of %u", pool, head_of((enum pool)pool)->used, in_use[pool]);
}

// ---- the neighbours: a transfer both ways that goes on

static volatile sig_atomic_t is_enough;

static void note_enough(int signal)
{
    (void)signal;
    is_enough = 1;
}

// One asks with a block, and the other answers with it, each checked.
static void transfer_on(int fd, bool asks)
{
    static unsigned char block[9000];
    uint64_t offset = 0;
    for (unsigned round = 0; asks ? !is_enough : true; round++) {
        size_t len = 1 + (size_t)(round * 977 % sizeof block);
        for (int way = 0; way < 2; way++)
            if ((way == 0) == asks) {
                put_pattern(block, len, offset);
                send_all(fd, block, len);
            } else {
                size_t done = 0;
                while (done < len) {
                    ssize_t now = read(fd, block + done, len - done);
                    if (now == 0 && done == 0 && !asks)
                        return;
                    MUST(now > 0);
                    done += (size_t)now;
                }
                MUST(is_pattern(block, len, offset));
            }
        offset += len;
        if (asks && round == 40)
            SAY("the neighbours transfer");
    }
    SAY("the neighbours have transferred: %d", offset > LONG);
}

static void neighbours(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, 4, &port), status;
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        close(listener);
        transfer_on(connect_to(port), false);
        _exit(0);
    }
    // Without SA_RESTART nothing would be wrong either: no call of the child's sees it.
    struct sigaction enough = { .sa_handler = note_enough, .sa_flags = SA_RESTART };
    MUST(sigaction(SIGTERM, &enough, NULL) == 0);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    MUST(fd >= 0);
    close(listener);
    transfer_on(fd, true);
    close(fd);
    MUST(waitpid(child, &status, 0) == child && status == 0);
}

// ---- a victim, and who survives it

// A few round trips, which it takes until both ends have found each other; then as many unread bytes as fit, on some.
static void warm(int fd, bool server, int number)
{
    exchange_unmet(fd, server);
    static const char byte = 1;
    static unsigned char block[50000];
    while (number % 3 == 0 && send(fd, block, sizeof block, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        continue;
    if (number % 3 == 1)
        send_all(fd, &byte, 1);
}

static void *wait_to_read(void *fd)
{
    static __thread char byte[70000];
    for (;;)
        if (recv((int)(intptr_t)fd, byte, sizeof byte, 0) <= 0)
            pause();
    return NULL;
}

static void *wait_in_set(void *set)
{
    struct epoll_event events[4];
    for (;;)
        epoll_wait((int)(intptr_t)set, events, 4, -1);
    return NULL;
}

static void *stream_on(void *fd)
{
    static __thread unsigned char block[6000];
    for (;;)
        if (send((int)(intptr_t)fd, block, sizeof block, MSG_NOSIGNAL) <= 0)
            pause();
    return NULL;
}

static void start(void *(*body)(void *), int argument)
{
    pthread_t thread;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 1 << 20);
    MUST(pthread_create(&thread, &small, body, (void *)(intptr_t)argument) == 0);
}

// With `threads`, calls are under way on all of it when it is killed.
static void be_victim(int *fds, bool threads)
{
    int set = epoll_create1(EPOLL_CLOEXEC), other = epoll_create1(EPOLL_CLOEXEC);
    MUST(set >= 0 && other >= 0);
    for (int i = 0; i < CONNECTIONS_EACH; i++) {
        struct epoll_event event = { .events = EPOLLIN | EPOLLRDHUP | (i % 2 ? (unsigned)EPOLLET : 0) };
        MUST(epoll_ctl(set, EPOLL_CTL_ADD, fds[i], &event) == 0);
        if (i % 4 == 0)
            MUST(epoll_ctl(other, EPOLL_CTL_ADD, fds[i], &event) == 0);
    }
    if (threads) {
        for (int i = 0; i < CONNECTIONS_EACH; i++)
            start(i % 3 == 0 ? stream_on : wait_to_read, fds[i]);
        start(wait_in_set, set);
        start(wait_in_set, other);
        sleep_ms(30);
    }
}

static void *drain_on(void *fd)
{
    static __thread char block[70000];
    while (read((int)(intptr_t)fd, block, sizeof block) > 0)
        continue;
    return NULL;
}

// Reads what its dead peer has sent, to the end.
static void read_out_and_close(int *fds, int len)
{
    for (int i = 0; i < len; i++) {
        drain_on((void *)(intptr_t)fds[i]);
        close(fds[i]);
    }
}

// ---- in one container

enum kind {
    ALONE_AND_WAITED_FOR,
    WITH_THREADS,
    ENDS_ITSELF,
    NOT_WAITED_FOR,
    HAS_A_CHILD,
    KINDS,
};

static const char *const kinds[KINDS] = { "one thread", "many threads", "ends itself with many threads", "its parent does not wait", "its child is killed as well" };

// The victim's side of the forked one; `channel` tells that it is as it shall be.
static void live(int port, int channel, enum kind kind)
{
    int fds[CONNECTIONS_EACH];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < CONNECTIONS_EACH; i++) {
        fds[i] = connect_to(port);
        warm(fds[i], false, i);
    }
    pid_t child = 0;
    if (kind == HAS_A_CHILD) {
        child = fork();
        MUST(child >= 0);
    }
    be_victim(fds, kind == WITH_THREADS || kind == ENDS_ITSELF);
    pid_t told[2] = { getpid(), child };
    if (child != 0 || kind != HAS_A_CHILD)
        MUST(write(channel, told, sizeof told) == sizeof told);
    char byte;
    if (kind == ENDS_ITSELF && read(channel, &byte, 1) == 1)
        exit(0);
    for (;;)
        pause();
}

// Takes the victim's connections: with `channel` the victim says who is to be killed.
static void accept_all(int listener, int *fds)
{
    for (int i = 0; i < CONNECTIONS_EACH; i++) {
        fds[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        MUST(fds[i] >= 0);
        warm(fds[i], true, i);
    }
}

static void play_victims(enum kind kind, int count)
{
    int port, listener = listen_at(INADDR_LOOPBACK, 64, &port), fds[VICTIMS_MAX][CONNECTIONS_EACH], channels[VICTIMS_MAX][2];
    pid_t victims[VICTIMS_MAX], parent[VICTIMS_MAX], told[VICTIMS_MAX][2];
    look();
    for (int i = 0; i < count; i++) {
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channels[i]) == 0);
        parent[i] = fork();
        MUST(parent[i] >= 0);
        if (parent[i] == 0) {
            close(listener);
            for (int k = 0; k < i; k++)
                for (int c = 0; c < CONNECTIONS_EACH; c++)
                    close(fds[k][c]);
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            // One in between, which leaves its child alone.
            if (kind == NOT_WAITED_FOR && fork() != 0)
                for (;;)
                    pause();
            live(port, channels[i][1], kind);
        }
        accept_all(listener, fds[i]);
        MUST(read(channels[i][0], told[i], sizeof told[i]) == sizeof told[i]);
        victims[i] = told[i][0];
    }
    for (int i = 0; i < count; i++) {
        if (kind == ENDS_ITSELF)
            MUST(write(channels[i][0], "", 1) == 1);
        else
            MUST(kill(victims[i], SIGKILL) == 0);
        if (kind == HAS_A_CHILD)
            // Its parent's death does it anyway.
            (void)kill(told[i][1], SIGKILL);
        if (kind != NOT_WAITED_FOR)
            MUST(waitpid(parent[i], NULL, 0) == parent[i]);
    }
    for (int i = 0; i < count; i++) {
        read_out_and_close(fds[i], CONNECTIONS_EACH);
        close(channels[i][0]);
        close(channels[i][1]);
    }
    loses_items = kind == WITH_THREADS || kind == ENDS_ITSELF;
    must_become_free(kinds[kind]);
    for (int i = 0; i < count && kind == NOT_WAITED_FOR; i++)
        MUST(kill(parent[i], SIGKILL) == 0 && waitpid(parent[i], NULL, 0) == parent[i]);
    close(listener);
}

static void play_each(void)
{
    int status;
    pid_t beside = fork();
    MUST(beside >= 0);
    if (beside == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        neighbours();
        exit(0);
    }
    // Until they have all that they will have.
    sleep_ms(500);
    for (int round = 0; round < 2; round++)
        for (enum kind kind = 0; kind < KINDS; kind++)
            play_victims(kind, 1 + round * (VICTIMS_MAX - 1));
    MUST(kill(beside, SIGTERM) == 0 && waitpid(beside, &status, 0) == beside);
    SAY("the neighbours' status: %d", status);
}

// ---- two containers

static void play_apart(const char *program, bool server, bool is_victim, bool threads)
{
    struct side side = { .control = meet_other(program, server), .name = server ? "server" : "client" };
    self = &side;
    int fds[CONNECTIONS_EACH], port = 0, listener = -1;
    if (server)
        listener = listen_at(INADDR_LOOPBACK, 64, &port);
    if (!is_victim)
        look();
    if (server)
        give(port);
    else
        port = take();
    for (int i = 0; i < CONNECTIONS_EACH; i++) {
        fds[i] = server ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : connect_to(port);
        MUST(fds[i] >= 0);
        warm(fds[i], server, i);
    }
    meet();
    if (is_victim) {
        be_victim(fds, threads);
        give(0);
        for (;;)
            pause();
    }
    take();
    SAY("to be killed now");
    char byte;
    // Its end, and no sooner.
    while (read(side.control, &byte, 1) > 0)
        continue;
    read_out_and_close(fds, CONNECTIONS_EACH);
    must_become_free("the other container");
}

int main(int argc, char **argv)
{
    find_places(&argc, argv);
    watch_begin("killed processes", 100);
    const char *what = argc > 1 ? argv[1] : "each";
    bool is_victim = argc > 2 && strcmp(argv[2], "victim") == 0;
    bool threads = argc > 3 && strcmp(argv[3], "threads") == 0;
    loses_items = argc > 4 && strcmp(argv[4], "items") == 0;
    if (strcmp(what, "neighbours") == 0)
        neighbours();
    else if (strcmp(what, "each") == 0)
        play_each();
    else
        play_apart(argv[0], strcmp(what, "serve") == 0, is_victim, threads);
    return 0;
}
