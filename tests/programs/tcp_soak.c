// build: dynamic
// Many connections at once for a while, with blocks of random sizes in both directions, and clients that are killed: of what
// arrives every byte is the one that belongs there. Arguments: fork, serve or join, and for how many seconds.
//
// Each direction of each connection is a stream that both sides can compute, from a number that the client says first. The
// server answers each block with one of its own stream that is as long, so that neither side gets ahead for ever.
#include "tcp_pair.h"
#include <sys/epoll.h>

enum { CLIENTS = 6, CONNECTIONS = 4, BLOCK = 40000 };

static __thread uint64_t random_state;

static unsigned random_below(unsigned limit)
{
    // xorshift64; each thread has its own.
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)(random_state >> 33) % limit;
}

// Small ones mostly, now and then a large one.
static unsigned random_size(void)
{
    unsigned kind = random_below(10);
    return 1 + random_below(kind < 5 ? 64 : kind < 8 ? 2000 : BLOCK);
}

// The bytes of a stream, eight at a time.
static void stream_bytes(unsigned char *block, size_t len, uint64_t stream, uint64_t offset)
{
    for (size_t i = 0; i < len;) {
        uint64_t word = (stream + (offset + i) / 8) * 0x9e3779b97f4a7c15ull;
        word ^= word >> 29;
        for (size_t k = (offset + i) % 8; k < 8 && i < len; k++, i++)
            block[i] = (unsigned char)(word >> (8 * k));
    }
}

static void check_bytes(const unsigned char *block, size_t len, uint64_t stream, uint64_t offset)
{
    unsigned char expected[BLOCK];
    stream_bytes(expected, len, stream, offset);
    for (size_t i = 0; i < len; i++)
        if (block[i] != expected[i]) {
            printf("stream %llx: byte %llu is %02x, not %02x\n", (unsigned long long)stream, (unsigned long long)(offset + i), block[i], expected[i]);
            fflush(stdout);
            _exit(97);
        }
}

// ---- the server

struct conversation {
    int fd;
    uint64_t stream; // the client's; the server's own is its complement
    uint64_t read, written;
    bool named;
    bool by_edge;
};

static unsigned conversations_ended, conversations_cut;

enum progress { WAITS, ENDED };

// Everything that goes without waiting. What was cut off is no fault: its client was killed.
static enum progress converse(struct conversation *one)
{
    unsigned char block[BLOCK];
    for (;;) {
        ssize_t len;
        if (!one->named) {
            len = recv(one->fd, &one->stream, sizeof one->stream, MSG_PEEK | MSG_DONTWAIT);
            if (len == sizeof one->stream) {
                MUST(recv(one->fd, &one->stream, sizeof one->stream, 0) == sizeof one->stream);
                one->named = true;
                continue;
            }
            // Of eight bytes a part may have come; it will be told of when there are more.
            if (len > 0)
                return WAITS;
        } else if (one->written < one->read) {
            size_t wanted = one->read - one->written;
            unsigned some = random_size();
            wanted = wanted < some ? wanted : some;
            stream_bytes(block, wanted, ~one->stream, one->written);
            len = send(one->fd, block, wanted, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (len > 0) {
                one->written += (uint64_t)len;
                continue;
            }
        } else {
            len = recv(one->fd, block, random_size(), MSG_DONTWAIT);
            if (len > 0) {
                check_bytes(block, (size_t)len, one->stream, one->read);
                one->read += (uint64_t)len;
                continue;
            }
        }
        if (len < 0 && errno == EAGAIN)
            return WAITS;
        if (len < 0) {
            MUST(errno == ECONNRESET || errno == EPIPE);
            conversations_cut++;
        } else {
            conversations_ended++;
        }
        return ENDED;
    }
}

static void serve(int control)
{
    int port, listener = listen_at(INADDR_LOOPBACK, 64, &port), set = epoll_create1(EPOLL_CLOEXEC), open = 0, asked_fd = control;
    bool over = false;
    MUST(fcntl(listener, F_SETFL, O_NONBLOCK) == 0);
    MUST(write(control, &port, sizeof port) == sizeof port);
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = &listener };
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, listener, &event) == 0);
    event.data.ptr = &asked_fd;
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, control, &event) == 0);
    while (!over || open > 0) {
        struct epoll_event events[16];
        int count = epoll_wait(set, events, 16, 20000);
        MUST(count > 0 || errno == EINTR);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == &listener) {
                int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                if (fd < 0)
                    continue;
                struct conversation *one = calloc(1, sizeof *one);
                MUST(one != NULL);
                one->fd = fd;
                one->by_edge = open++ % 2;
                event = (struct epoll_event) { .events = EPOLLIN | EPOLLRDHUP | (one->by_edge ? EPOLLOUT | (unsigned)EPOLLET : 0), .data.ptr = one };
                MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0);
            } else if (events[i].data.ptr == &asked_fd) {
                // The client has said that it begins no more.
                over = true;
                MUST(epoll_ctl(set, EPOLL_CTL_DEL, control, NULL) == 0);
            } else {
                struct conversation *one = events[i].data.ptr;
                if (converse(one) == ENDED) {
                    close(one->fd);
                    free(one);
                    open--;
                } else if (!one->by_edge) {
                    bool blocked = one->named && one->written < one->read;
                    event = (struct epoll_event) { .events = blocked ? EPOLLOUT : EPOLLIN, .data.ptr = one };
                    MUST(epoll_ctl(set, EPOLL_CTL_MOD, one->fd, &event) == 0);
                }
            }
        }
        if (!over || open > 0)
            played_until_ms = now_ms() + SCENARIO_LIMIT_S * 1000;
    }
    close(set);
    close(listener);
    dprintf(2, "%u conversations ended, %u were cut off\n", conversations_ended, conversations_cut);
}

// ---- the clients

struct talk {
    int fd;
    uint64_t stream, written, read, limit;
};

// Some connections at a time, each to its end, for as long as there is time; blocking calls, and ones that do not wait.
static void talk(int port, uint64_t seed, int64_t until_ms)
{
    unsigned char block[BLOCK];
    random_state = seed * 0x9e3779b97f4a7c15ull | 1;
    struct talk talks[CONNECTIONS];
    while (now_ms() < until_ms) {
        for (int i = 0; i < CONNECTIONS; i++) {
            talks[i] = (struct talk) { .fd = connect_to(port), .stream = (uint64_t)random_below(1u << 30) << 20 | random_below(1u << 20), .limit = 20000 + random_below(2000000) };
            send_all(talks[i].fd, &talks[i].stream, sizeof talks[i].stream);
        }
        int open = CONNECTIONS;
        while (open > 0) {
            struct pollfd polled[CONNECTIONS];
            for (int i = 0; i < CONNECTIONS; i++) {
                struct talk *one = &talks[i];
                bool may_write = one->written < one->limit && one->written - one->read < 200000;
                polled[i] = (struct pollfd) { .fd = one->fd, .events = (short)(POLLIN | (may_write ? POLLOUT : 0)) };
            }
            MUST(poll(polled, CONNECTIONS, 20000) > 0);
            for (int i = 0; i < CONNECTIONS; i++) {
                struct talk *one = &talks[i];
                if (polled[i].revents & POLLOUT) {
                    uint64_t left = one->limit - one->written;
                    unsigned some = random_size();
                    size_t len = left < some ? (size_t)left : some;
                    stream_bytes(block, len, one->stream, one->written);
                    ssize_t now = send(one->fd, block, len, MSG_NOSIGNAL | (random_below(2) ? MSG_DONTWAIT : 0));
                    MUST(now > 0 || errno == EAGAIN);
                    if (now > 0)
                        one->written += (uint64_t)now;
                    if (one->written == one->limit)
                        MUST(shutdown(one->fd, SHUT_WR) == 0);
                }
                if (polled[i].revents & (POLLIN | POLLHUP | POLLERR)) {
                    ssize_t now = recv(one->fd, block, random_size(), 0);
                    MUST(now >= 0);
                    if (now > 0) {
                        check_bytes(block, (size_t)now, ~one->stream, one->read);
                        one->read += (uint64_t)now;
                        continue;
                    }
                    // All that was asked was answered.
                    MUST(one->read == one->limit && one->written == one->limit);
                    close(one->fd);
                    one->fd = -1;
                    open--;
                }
            }
        }
    }
}

struct own_talk {
    int port;
    int64_t until_ms;
};

static void *talk_in_thread(void *argument)
{
    const struct own_talk *own = argument;
    talk(own->port, 12345, own->until_ms);
    return NULL;
}

static pid_t begin_client(int port, uint64_t seed, int64_t until_ms)
{
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        talk(port, seed, until_ms);
        _exit(0);
    }
    return child;
}

static void join(int control, int seconds)
{
    int port;
    MUST(recv(control, &port, sizeof port, MSG_WAITALL) == sizeof port);
    int64_t until_ms = now_ms() + seconds * 1000;
    watch_begin("soak", seconds + SCENARIO_LIMIT_S);
    pid_t clients[CLIENTS];
    uint64_t seed = (uint64_t)now_ms();
    dprintf(2, "seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = begin_client(port, ++seed, until_ms);
    // This process talks as well, and is never killed.
    struct own_talk own = { port, until_ms };
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, talk_in_thread, &own) == 0);
    random_state = seed;
    unsigned killed = 0;
    while (now_ms() < until_ms) {
        sleep_ms(20 + (int)random_below(100));
        // Half of the clients are never killed.
        int victim = (int)random_below(CLIENTS / 2), status;
        MUST(kill(clients[victim], SIGKILL) == 0 && waitpid(clients[victim], &status, 0) == clients[victim]);
        MUST(WIFSIGNALED(status) || status == 0);
        clients[victim] = begin_client(port, ++seed, until_ms);
        killed++;
    }
    for (int i = 0; i < CLIENTS; i++) {
        int status;
        MUST(waitpid(clients[i], &status, 0) == clients[i]);
        if (status != 0)
            SAY("a client ended with status %x", status);
        MUST(status == 0);
    }
    MUST(pthread_join(thread, NULL) == 0);
    dprintf(2, "%u clients killed\n", killed);
    int over = 0;
    MUST(write(control, &over, sizeof over) == sizeof over);
}

int main(int argc, char **argv)
{
    MUST(argc == 3);
    int seconds = atoi(argv[2]), pair[2];
    random_state = 88172645463325252ull;
    if (strcmp(argv[1], "serve") == 0) {
        int control = meet_other(argv[0], true);
        watch_begin("soak", SCENARIO_LIMIT_S);
        serve(control);
    } else if (strcmp(argv[1], "join") == 0) {
        join(meet_other(argv[0], false), seconds);
    } else {
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        pid_t child = fork();
        MUST(child >= 0);
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            close(pair[0]);
            join(pair[1], seconds);
            exit(0);
        }
        close(pair[1]);
        watch_begin("soak", SCENARIO_LIMIT_S);
        serve(pair[0]);
        int status;
        MUST(waitpid(child, &status, 0) == child && status == 0);
    }
    SAY("not a byte was lost");
    return 0;
}
