// Two sides of a TCP connection, which a program plays as two threads, as parent and child, or in two containers.
//
// A scenario is two functions that run at the same time, one per side. What they agree on (whose turn it is, ports) goes over
// a Unix socket, so that the connection under test carries nothing else. What a side observes is kept until the scenario ends
// and then printed, the server's lines first; meanwhile the lines go to standard error, for a program that hangs.
//
// Arguments: `threads` and `fork` play both sides; `serve` and `join` one each, and find each other by an abstract Unix name,
// which processes of one network namespace share. Any other argument is the name of the only scenarios to play.
#ifndef TCP_PAIR_H
#define TCP_PAIR_H

#include "check.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

enum {
    ALONE = 1, // makes its own sockets, and is played once
    APART = 2, // only for sides that are separate processes
};

struct scenario {
    const char *name;
    void (*server)(void);
    void (*client)(void);
    unsigned flags;
};

// How long a scenario may take.
#define SCENARIO_LIMIT_S 25
// The most that an observation waits for what must come.
#define PATIENCE_MS 5000

struct side {
    int fd;      // its end of the connection
    int control; // to the other side
    const char *name;
    char *lines;
    size_t lines_len;
};

static __thread struct side *self;
#define FD (self->fd)

// ---- what a side has seen

__attribute__((format(printf, 1, 2))) static inline void note(const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    dprintf(2, "    %s: %s\n", self->name, line);
    size_t len = strlen(line) + strlen(self->name) + 4;
    self->lines = realloc(self->lines, self->lines_len + len);
    MUST(self->lines != NULL);
    sprintf(self->lines + self->lines_len, "%s: %s\n", self->name, line);
    self->lines_len += len - 1;
}

// A call's result: the number, or the name of the error.
static inline const char *outcome(ssize_t result)
{
    static __thread char texts[8][48];
    static __thread unsigned next;
    char *text = texts[next++ % 8];
    if (result < 0)
        snprintf(text, sizeof texts[0], "%s", name_of(errno));
    else
        snprintf(text, sizeof texts[0], "%zd", result);
    return text;
}

static inline const char *event_names(unsigned events)
{
    static __thread char texts[4][64];
    static __thread unsigned next;
    char *text = texts[next++ % 4];
    snprintf(text, sizeof texts[0], "%s%s%s%s%s%s%s", events & POLLIN ? " IN" : "", events & POLLPRI ? " PRI" : "", events & POLLOUT ? " OUT" : "",
             events & POLLERR ? " ERR" : "", events & POLLHUP ? " HUP" : "", events & POLLNVAL ? " NVAL" : "", events & POLLRDHUP ? " RDHUP" : "");
    return *text ? text + 1 : "nothing";
}

static inline unsigned ready_now(int fd)
{
    struct pollfd one = { .fd = fd, .events = POLLIN | POLLPRI | POLLOUT | POLLRDHUP };
    while (poll(&one, 1, 0) < 0)
        MUST(errno == EINTR);
    return one.revents;
}

static inline int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000ll + now.tv_nsec / 1000000;
}

static inline void sleep_ms(int ms)
{
    struct timespec left = { ms / 1000, ms % 1000 * 1000000l };
    while (nanosleep(&left, &left) < 0)
        MUST(errno == EINTR);
}

// What poll says of `fd`, once all of `expected` is in it: a FIN or RST needs a moment.
static inline const char *ready_with(int fd, unsigned expected)
{
    int64_t deadline = now_ms() + PATIENCE_MS;
    while ((ready_now(fd) & expected) != expected && now_ms() < deadline)
        sleep_ms(1);
    return event_names(ready_now(fd));
}

static inline const char *state_of(int fd)
{
    static const char *const names[] = { "?", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING" };
    struct tcp_info info;
    socklen_t len = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
        return name_of(errno);
    return info.tcpi_state < 12 ? names[info.tcpi_state] : "?";
}

// The state, once it is `expected`.
static inline const char *state_with(int fd, const char *expected)
{
    int64_t deadline = now_ms() + PATIENCE_MS;
    while (strcmp(state_of(fd), expected) != 0 && now_ms() < deadline)
        sleep_ms(1);
    return state_of(fd);
}

static inline int socket_error(int fd)
{
    int error;
    socklen_t len = sizeof error;
    MUST(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0);
    return error;
}

// ---- turns

static inline void give(int value)
{
    ssize_t len;
    while ((len = write(self->control, &value, sizeof value)) < 0 && errno == EINTR)
        continue;
    MUST(len == sizeof value);
}

static inline int take(void)
{
    int value;
    ssize_t len;
    while ((len = recv(self->control, &value, sizeof value, MSG_WAITALL)) < 0 && errno == EINTR)
        continue;
    MUST(len == sizeof value);
    return value;
}

// Both sides have come here.
static inline void meet(void)
{
    give(0);
    take();
}

// ---- whole transfers

static inline void send_all(int fd, const void *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t now = send(fd, (const char *)data + done, len - done, MSG_NOSIGNAL);
        MUST(now > 0);
        done += (size_t)now;
    }
}

static inline void receive_all(int fd, void *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        // So that an end of file is not reported as the error of an earlier call.
        errno = 0;
        ssize_t now = read(fd, (char *)data + done, len - done);
        MUST(now > 0);
        done += (size_t)now;
    }
}

static inline void send_text(const char *text)
{
    send_all(FD, text, strlen(text));
}

// Exactly as many bytes as `expected` has, and those.
static inline void receive_text(const char *expected)
{
    char text[256];
    size_t len = strlen(expected);
    receive_all(FD, text, len);
    MUST(memcmp(text, expected, len) == 0);
}

// The byte that belongs at `offset` of a long transfer; no two neighbouring blocks are alike.
static inline unsigned char byte_at(uint64_t offset)
{
    return (unsigned char)((offset * 131 + (offset >> 8) * 29 + (offset >> 16) * 7) & 0xff);
}

static inline void put_pattern(unsigned char *block, size_t len, uint64_t offset)
{
    for (size_t i = 0; i < len; i++)
        block[i] = byte_at(offset + i);
}

static inline bool is_pattern(const unsigned char *block, size_t len, uint64_t offset)
{
    for (size_t i = 0; i < len; i++)
        if (block[i] != byte_at(offset + i))
            return false;
    return true;
}

// Writes the pattern from `offset` on until the socket takes nothing, not even a moment later; returns how much it took.
static inline uint64_t fill(int fd, uint64_t offset)
{
    static __thread unsigned char block[30000];
    uint64_t begin = offset;
    for (int refused = 0; refused < 3;) {
        put_pattern(block, sizeof block, offset);
        ssize_t len = send(fd, block, sizeof block, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (len > 0) {
            offset += (uint64_t)len;
            refused = 0;
        } else {
            MUST(len < 0 && errno == EAGAIN);
            refused++;
            sleep_ms(20);
        }
    }
    return offset - begin;
}

// Reads `len` bytes of the pattern.
static inline void drain(int fd, uint64_t offset, uint64_t len)
{
    static __thread unsigned char block[50000];
    for (uint64_t done = 0; done < len;) {
        size_t wanted = len - done < sizeof block ? (size_t)(len - done) : sizeof block;
        ssize_t now = read(fd, block, wanted);
        MUST(now > 0 && is_pattern(block, (size_t)now, offset + done));
        done += (uint64_t)now;
    }
}

// ---- connections

static inline int listen_at(uint32_t address, int backlog, int *port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in name = { .sin_family = AF_INET, .sin_addr = { htonl(address) } };
    socklen_t len = sizeof name;
    MUST(fd >= 0 && bind(fd, (struct sockaddr *)&name, len) == 0 && listen(fd, backlog) == 0);
    MUST(getsockname(fd, (struct sockaddr *)&name, &len) == 0);
    *port = ntohs(name.sin_port);
    return fd;
}

static inline struct sockaddr_in loopback(int port)
{
    return (struct sockaddr_in) { .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = { htonl(INADDR_LOOPBACK) } };
}

static inline int connect_to(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in name = loopback(port);
    MUST(fd >= 0 && connect(fd, (struct sockaddr *)&name, sizeof name) == 0);
    return fd;
}

// The server's end of one connection: `connect_pair` on either side.
static inline int connect_pair(bool server)
{
    if (!server)
        return connect_to(take());
    int port, listener = listen_at(INADDR_LOOPBACK, 8, &port);
    give(port);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    MUST(fd >= 0);
    close(listener);
    return fd;
}

// A few rounds of questions and answers on `fd`.
static inline void exchange_unmet(int fd, bool server)
{
    char block[700];
    for (unsigned round = 0; round < 8; round++) {
        size_t question = 1 + round * 90, answer = 640 - round * 80;
        if (server) {
            receive_all(fd, block, question);
            MUST(block[question - 1] == (char)round);
            memset(block, (int)round + 100, answer);
            send_all(fd, block, answer);
        } else {
            memset(block, (int)round, question);
            send_all(fd, block, question);
            receive_all(fd, block, answer);
            MUST(block[answer - 1] == (char)(round + 100));
        }
    }
}

// The same, known to both.
static inline void exchange(int fd, bool server)
{
    exchange_unmet(fd, server);
    meet();
}

// ---- playing

static const char *volatile played = "start";
static volatile int64_t played_until_ms;

// Ends the program when a scenario takes too long, and says which.
static void *watch(void *unused)
{
    (void)unused;
    for (;;) {
        sleep_ms(500);
        if (now_ms() > played_until_ms) {
            printf("hangs: %s\n", played);
            fflush(stdout);
            _exit(98);
        }
    }
}

static inline void watch_begin(const char *name, int limit_s)
{
    played = name;
    played_until_ms = now_ms() + limit_s * 1000ll;
    static bool begun;
    if (begun)
        return;
    begun = true;
    // Signals are for the sides.
    sigset_t all, before;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    MUST(pthread_create(&thread, NULL, watch, NULL) == 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static inline void play_side(const struct scenario *scenario, struct side *side, bool server, bool warm)
{
    self = side;
    side->name = server ? "server" : "client";
    side->fd = -1;
    if (!(scenario->flags & ALONE)) {
        side->fd = connect_pair(server);
        if (warm)
            exchange(side->fd, server);
    }
    (server ? scenario->server : scenario->client)();
    // Neither is to see the other's end, unless that is what they are about.
    meet();
    if (side->fd >= 0)
        close(side->fd);
    // The server's lines first.
    if (!server)
        take();
    if (side->lines != NULL)
        fputs(side->lines, stdout);
    fflush(stdout);
    if (server) {
        give(0);
        take();
    } else {
        give(0);
    }
    free(side->lines);
    side->lines = NULL;
    side->lines_len = 0;
}

struct thread_side {
    const struct scenario *scenario;
    struct side side;
    bool warm;
};

static void *play_client_thread(void *argument)
{
    struct thread_side *one = argument;
    play_side(one->scenario, &one->side, false, one->warm);
    return NULL;
}

static inline void play_here(const struct scenario *scenario, bool forked, bool warm)
{
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    struct side server = { .control = pair[0] };
    struct thread_side client = { scenario, { .control = pair[1] }, warm };
    if (forked) {
        pid_t child = fork();
        MUST(child >= 0);
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            close(pair[0]);
            play_side(scenario, &client.side, false, warm);
            exit(0);
        }
        close(pair[1]);
        play_side(scenario, &server, true, warm);
        int status;
        MUST(waitpid(child, &status, 0) == child && status == 0);
    } else {
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, play_client_thread, &client) == 0);
        play_side(scenario, &server, true, warm);
        MUST(pthread_join(thread, NULL) == 0);
        close(pair[1]);
    }
    close(pair[0]);
}

// The other container, over a Unix socket that is named after the program.
static inline int meet_other(const char *program, bool server)
{
    const char *slash = strrchr(program, '/');
    struct sockaddr_un name = { .sun_family = AF_UNIX };
    snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "%s", slash == NULL ? program : slash + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(fd >= 0);
    if (server) {
        MUST(bind(fd, (struct sockaddr *)&name, sizeof name) == 0 && listen(fd, 1) == 0);
        int other = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        MUST(other >= 0);
        close(fd);
        return other;
    }
    int64_t deadline = now_ms() + 20000;
    while (connect(fd, (struct sockaddr *)&name, sizeof name) < 0) {
        MUST(now_ms() < deadline);
        sleep_ms(10);
    }
    return fd;
}

static inline bool is_mode(const char *word)
{
    return strcmp(word, "threads") == 0 || strcmp(word, "fork") == 0 || strcmp(word, "serve") == 0 || strcmp(word, "join") == 0;
}

static inline bool is_wanted(const char *name, int argc, char **argv)
{
    bool any = false;
    for (int i = 1; i < argc; i++) {
        any |= !is_mode(argv[i]);
        if (strcmp(argv[i], name) == 0)
            return true;
    }
    return !any;
}

static inline void play_all(const char *mode, const struct scenario *scenarios, size_t count, int argc, char **argv)
{
    bool server = strcmp(mode, "serve") == 0, client = strcmp(mode, "join") == 0, forked = strcmp(mode, "fork") == 0;
    struct side side = { .control = server || client ? meet_other(argv[0], server) : -1 };
    for (size_t i = 0; i < count; i++) {
        const struct scenario *one = &scenarios[i];
        if (!is_wanted(one->name, argc, argv) || (one->flags & APART && strcmp(mode, "threads") == 0))
            continue;
        for (int warm = one->flags & ALONE ? 1 : 0; warm < 2; warm++) {
            watch_begin(one->name, SCENARIO_LIMIT_S);
            SAY("== %s, %s%s", one->name, mode, warm ? "" : ", nothing exchanged before");
            dprintf(2, "== %s, %s%s\n", one->name, mode, warm ? "" : ", nothing exchanged before");
            if (server || client)
                play_side(one, &side, server, warm);
            else
                play_here(one, forked, warm);
        }
    }
    if (side.control >= 0)
        close(side.control);
}

#define PLAY(scenarios, argc, argv) play_main(scenarios, sizeof(scenarios) / sizeof *(scenarios), argc, argv)

static inline int play_main(const struct scenario *scenarios, size_t count, int argc, char **argv)
{
    // One that is found with a signal ignored would not see what others see.
    signal(SIGPIPE, SIG_DFL);
    for (int i = 1; i < argc; i++)
        if (is_mode(argv[i]))
            play_all(argv[i], scenarios, count, argc, argv);
    return 0;
}

#endif
