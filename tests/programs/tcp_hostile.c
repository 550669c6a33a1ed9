// build: dynamic
// A side that writes nonsense into the rings of connections of its own, as any program can that shares the vkernel's memory. Its
// peer is told of a reset, and nothing else comes of it: neither to the peer, nor to another connection of the two.
//
// The last argument is for `places.h`.
#include "tcp_pair.h"
#include "places.h"
#include <sys/epoll.h>
#include <sys/uio.h>

static int port_of(int fd, bool remote)
{
    struct sockaddr_in name;
    socklen_t len = sizeof name;
    MUST((remote ? getpeername : getsockname)(fd, (struct sockaddr *)&name, &len) == 0);
    return ntohs(name.sin_port);
}

// With a few bytes in the one that is written, by which it shows that they are what they are taken for.
static struct rings find_rings(int fd)
{
    struct rings found = rings_of(port_of(fd, false), port_of(fd, true));
    MUST(found.out != NULL);
    uint64_t before = found.out->tail;
    send_text("a few bytes");
    MUST(found.out->tail == before + 11);
    return found;
}

// ---- what is written

// A ring's length, unless it has a buffer.
enum { INLINE_LEN = 1728 };

static void tail_far(struct rings *rings)
{
    rings->out->tail += 1ull << 40;
}

static void tail_last(struct rings *rings)
{
    rings->out->tail = UINT64_MAX;
}

static void tail_before_head(struct rings *rings)
{
    rings->out->tail = rings->out->head - 1;
}

static void tail_too_far(struct rings *rings)
{
    rings->out->tail += 2 << 20;
}

static void no_such_buffer(struct rings *rings)
{
    rings->out->from = rings->out->head;
    rings->out->buffer = UINT32_MAX;
}

static void head_after_tail(struct rings *rings)
{
    rings->in->head = rings->in->tail + 1;
}

static void head_last(struct rings *rings)
{
    rings->in->head = UINT64_MAX;
}

static void head_too_far_back(struct rings *rings)
{
    MUST(rings->in->tail > INLINE_LEN && rings->in->buffer == 0);
    rings->in->head = rings->in->tail - INLINE_LEN - 1;
}

static void no_such_buffer_to_write(struct rings *rings)
{
    rings->in->from = 0;
    rings->in->buffer = UINT32_MAX;
}

// ---- what the peer does then

static char text[64];
static struct iovec parts[2] = { { text, 10 }, { text + 10, 20 } };

static ssize_t by_read(int fd)
{
    return read(fd, text, sizeof text);
}

static ssize_t by_readv(int fd)
{
    return readv(fd, parts, 2);
}

static ssize_t by_peek(int fd)
{
    return recv(fd, text, sizeof text, MSG_PEEK);
}

static ssize_t by_nonblocking_read(int fd)
{
    return recv(fd, text, sizeof text, MSG_DONTWAIT);
}

static ssize_t by_poll_and_read(int fd)
{
    int waiting;
    ready_now(fd);
    MUST(ioctl(fd, FIONREAD, &waiting) == 0);
    return by_read(fd);
}

static ssize_t by_epoll_and_read(int fd)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP };
    int set = epoll_create1(EPOLL_CLOEXEC);
    MUST(set >= 0 && epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0);
    for (int i = 0; i < 3; i++)
        MUST(epoll_wait(set, &event, 1, 10) >= 0);
    ssize_t result = by_read(fd);
    int error = errno;
    close(set);
    errno = error;
    return result;
}

static ssize_t by_send(int fd)
{
    return send(fd, text, 10, MSG_NOSIGNAL);
}

static ssize_t by_writev(int fd)
{
    return writev(fd, parts, 2);
}

static ssize_t by_poll_and_send(int fd)
{
    int waiting;
    ready_now(fd);
    MUST(ioctl(fd, TIOCOUTQ, &waiting) == 0);
    return send(fd, text, 10, MSG_DONTWAIT | MSG_NOSIGNAL);
}

typedef ssize_t (*way)(int);

static const way reading[] = { by_read, by_readv, by_peek, by_nonblocking_read, by_poll_and_read, by_epoll_and_read, NULL };
static const way writing[] = { by_send, by_writev, by_poll_and_send, NULL };

static const struct nonsense {
    const char *name;
    void (*write)(struct rings *);
    const way *ways;
} nonsense[] = {
    { "tail far ahead", tail_far, reading },
    { "tail at the last number", tail_last, reading },
    { "tail before head", tail_before_head, reading },
    { "tail further than a ring is long", tail_too_far, reading },
    { "bytes in a buffer that is none", no_such_buffer, reading },
    { "head after tail", head_after_tail, writing },
    { "head at the last number", head_last, writing },
    { "head further back than a ring is long", head_too_far_back, writing },
    { "a buffer that is none", no_such_buffer_to_write, writing },
};

enum { KINDS = sizeof nonsense / sizeof *nonsense };

// A connection beside the one that play_side has made; `FD` is the new one until `part`.
static int besides(bool server)
{
    int first = FD;
    FD = connect_pair(server);
    // The first of it may go through Linux.
    for (int i = 0; i < 3; i++)
        exchange(FD, server);
    return first;
}

// The first connection is as it was.
static void part(int first, bool server)
{
    MUST(close(FD) == 0);
    FD = first;
    meet();
    exchange(FD, server);
}

static void peer_of_each(void)
{
    // writev(2) to an end that has been reset says so with a signal too.
    signal(SIGPIPE, SIG_IGN);
    for (int kind = 0; kind < KINDS; kind++) {
        char before[128] = "", now[128];
        for (const way *way = nonsense[kind].ways; *way != NULL; way++) {
            int first = besides(true);
            watch_begin(nonsense[kind].name, SCENARIO_LIMIT_S);
            meet();
            const char *how = outcome((*way)(FD));
            const char *again = outcome((*way)(FD));
            snprintf(now, sizeof now, "%s, then %s", how, again);
            // The same in each way, mostly.
            if (strcmp(now, before) != 0)
                note("%s: %s", nonsense[kind].name, now);
            strcpy(before, now);
            meet();
            part(first, true);
        }
    }
}

// How its own end of such a connection ends.
static bool is_over(int fd)
{
    struct pollfd one = { .fd = fd, .events = POLLIN };
    for (int i = 0; i < 1000; i++) {
        if (poll(&one, 1, PATIENCE_MS) <= 0)
            return false;
        ssize_t len = recv(fd, text, sizeof text, MSG_DONTWAIT);
        if (len == 0 || (len < 0 && errno != EAGAIN))
            return true;
    }
    return false;
}

static void write_each(void)
{
    int over = 0, all = 0;
    for (int kind = 0; kind < KINDS; kind++)
        for (const way *way = nonsense[kind].ways; *way != NULL; way++) {
            int first = besides(false);
            struct rings rings = find_rings(FD);
            nonsense[kind].write(&rings);
            meet();
            meet();
            all++;
            over += is_over(FD);
            part(first, false);
        }
    note("its own ends are over: %d", over == all);
}

// ---- a peer that is asleep meanwhile

static void sleeper(void)
{
    for (int kind = 0; kind < KINDS; kind++) {
        if (nonsense[kind].ways != reading)
            continue;
        int first = besides(true);
        watch_begin(nonsense[kind].name, SCENARIO_LIMIT_S);
        receive_text("a few bytes");
        meet();
        note("asleep, %s: %s", nonsense[kind].name, outcome(by_read(FD)));
        meet();
        part(first, true);
    }
}

static void wake_by_nonsense(void)
{
    for (int kind = 0; kind < KINDS; kind++) {
        if (nonsense[kind].ways != reading)
            continue;
        int first = besides(false);
        struct rings rings = find_rings(FD);
        meet();
        sleep_ms(30);
        nonsense[kind].write(&rings);
        // With it or without, its own call ends, and wakes the peer or resets the connection.
        (void)!send(FD, "!", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        close(FD);
        FD = dup(first);
        meet();
        part(first, false);
    }
}

// ---- all the time, and anything

enum { ROUNDS = 60 };

static void peer_of_anything(void)
{
    static char block[9000];
    signal(SIGPIPE, SIG_IGN);
    for (int round = 0; round < ROUNDS; round++) {
        int first = besides(true), there;
        watch_begin("anything", SCENARIO_LIMIT_S);
        meet();
        for (int i = 0; i < 300; i++) {
            size_t len = (size_t)(i * 37 + round) % sizeof block;
            ssize_t got = recv(FD, block, len, MSG_DONTWAIT | (i % 5 == 0 ? MSG_PEEK : 0) | (i % 7 == 0 ? MSG_TRUNC : 0));
            MUST(got <= (ssize_t)len);
            got = send(FD, block, len, MSG_DONTWAIT | MSG_NOSIGNAL);
            MUST(got <= (ssize_t)len);
            ready_now(FD);
            (void)!ioctl(FD, i % 2 ? FIONREAD : TIOCOUTQ, &there);
        }
        part(first, true);
    }
    note("lives");
}

// xorshift64
static uint64_t any(void)
{
    static uint64_t state = 0x9e3779b97f4a7c15;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

// Something of which each position may be, or nearly.
static uint64_t likely(const struct ring *ring)
{
    const uint64_t bases[] = { 0, UINT64_MAX, ring->tail, ring->head, ring->from, ring->tail + (1 << 20), any() };
    const uint64_t steps[] = { 0, 1, (uint64_t)-1, 1728, 1 << 20, any() % 4096, (uint64_t)-(int64_t)(any() % 4096) };
    return bases[any() % 7] + steps[any() % 7];
}

static void write_anything(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        int first = besides(false);
        struct rings rings = find_rings(FD);
        meet();
        int64_t end = now_ms() + 4;
        while (now_ms() < end) {
            struct ring *ring = any() % 2 ? rings.out : rings.in;
            switch (any() % 5) {
            case 0:
                ring->tail = likely(ring);
                break;
            case 1:
                ring->head = likely(ring);
                break;
            case 2:
                ring->from = likely(ring);
                break;
            case 3:
                // None that another connection may have.
                ring->buffer = any() % 2 ? 0 : UINT32_MAX - (uint32_t)(any() % 4096);
                break;
            case 4:
                ring->small_writes = (uint32_t)any();
                break;
            }
        }
        part(first, false);
    }
    note("lives");
}

static const struct scenario scenarios[] = {
    { "each", peer_of_each, write_each, 0 },
    { "asleep", sleeper, wake_by_nonsense, 0 },
    { "anything", peer_of_anything, write_anything, 0 },
};

int main(int argc, char **argv)
{
    find_places(&argc, argv);
    return PLAY(scenarios, argc, argv);
}
