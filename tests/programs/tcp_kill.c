// build: dynamic
// A process that is killed in the middle of a transfer: what it had sent is read to the last byte, and then it has ended.
#include "tcp_pair.h"
#include <sys/epoll.h>
#include <sys/mman.h>

// What the victim has sent, which it says after each call.
static volatile uint64_t *sent;

static int accept_from(pid_t *victim, bool warm, void (*body)(void))
{
    int port, listener = listen_at(INADDR_LOOPBACK, 4, &port), channel[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) == 0);
    *sent = 0;
    *victim = fork();
    MUST(*victim >= 0);
    if (*victim == 0) {
        struct side side = { .control = channel[1], .name = "victim" };
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        self = &side;
        close(listener);
        close(channel[0]);
        FD = connect_to(port);
        if (warm)
            exchange(FD, false);
        body();
        _exit(0);
    }
    static struct side side;
    side = (struct side) { .control = channel[0], .name = "survivor" };
    self = &side;
    FD = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    MUST(FD >= 0);
    close(listener);
    close(channel[1]);
    if (warm)
        exchange(FD, true);
    return FD;
}

static void kill_now(pid_t victim)
{
    int status;
    MUST(kill(victim, SIGKILL) == 0 && waitpid(victim, &status, 0) == victim);
    MUST(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

// Reads to the end; says how it ended.
static const char *read_out(uint64_t *total)
{
    static unsigned char block[20000];
    for (;;) {
        ssize_t len = read(FD, block, 1 + (size_t)(*total * 31 % sizeof block));
        if (len <= 0)
            return len == 0 ? "end of file" : name_of(errno);
        MUST(is_pattern(block, (size_t)len, *total));
        *total += (uint64_t)len;
    }
}

static void stream(void)
{
    unsigned char block[7000];
    for (uint64_t offset = 0;;) {
        size_t len = 1 + (size_t)(offset * 7 % sizeof block);
        put_pattern(block, len, offset);
        ssize_t now = send(FD, block, len, MSG_NOSIGNAL);
        MUST(now > 0);
        offset += (uint64_t)now;
        *sent = offset;
    }
}

// While it streams, at different moments; the survivor has read some of it, or none, or waits.
static void kill_writers(bool warm)
{
    for (int round = 0; round < 12; round++) {
        pid_t victim;
        accept_from(&victim, warm, stream);
        uint64_t total = 0;
        unsigned char block[5000];
        for (int reads = round % 4 * 300; reads > 0; reads--) {
            ssize_t len = read(FD, block, sizeof block);
            MUST(len > 0 && is_pattern(block, (size_t)len, total));
            total += (uint64_t)len;
        }
        sleep_ms(round % 3 * 7);
        kill_now(victim);
        const char *how = read_out(&total);
        if (total < *sent || strcmp(how, "end of file") != 0)
            SAY("round %d: %llu sent, %llu read, then %s", round, (unsigned long long)*sent, (unsigned long long)total, how);
        close(FD);
        close(self->control);
    }
    SAY("writers: nothing that was sent is lost");
}

static void wait_for_all(void)
{
    char byte;
    (void)!recv(FD, &byte, 1, 0);
}

static void *kill_later(void *victim)
{
    sleep_ms(40);
    MUST(kill(*(pid_t *)victim, SIGKILL) == 0);
    return NULL;
}

// While it waits to read, and the survivor waits too, in one way or another.
static void kill_readers(bool warm)
{
    static const char *const ways[] = { "read", "poll", "epoll", "epoll by edge" };
    for (int way = 0; way < 4; way++) {
        pid_t victim;
        pthread_t thread;
        accept_from(&victim, warm, wait_for_all);
        struct epoll_event event = { .events = EPOLLIN | EPOLLRDHUP | (way == 3 ? (unsigned)EPOLLET : 0) };
        struct pollfd one = { .fd = FD, .events = POLLIN | POLLRDHUP };
        int set = epoll_create1(EPOLL_CLOEXEC);
        MUST(epoll_ctl(set, EPOLL_CTL_ADD, FD, &event) == 0);
        MUST(pthread_create(&thread, NULL, kill_later, &victim) == 0);
        event.events = 0;
        if (way == 1) {
            MUST(poll(&one, 1, PATIENCE_MS) == 1);
            event.events = (unsigned)one.revents;
        } else if (way >= 2) {
            MUST(epoll_wait(set, &event, 1, PATIENCE_MS) == 1);
        }
        char byte;
        ssize_t len = read(FD, &byte, 1);
        SAY("reader, by %s: %s, then %s", ways[way], event_names(event.events), outcome(len));
        MUST(pthread_join(thread, NULL) == 0 && waitpid(victim, NULL, 0) == victim);
        close(set);
        close(FD);
        close(self->control);
    }
}

static void say_and_wait(void)
{
    unsigned char block[5000];
    put_pattern(block, sizeof block, 0);
    send_all(FD, block, sizeof block);
    *sent = sizeof block;
    for (;;)
        pause();
}

// With data that it has not read: a reset, before which everything that had come can be read.
static void kill_unread(bool warm)
{
    pid_t victim;
    accept_from(&victim, warm, say_and_wait);
    send_all(FD, "unread", 6);
    int there = 0;
    while (there < 5000) {
        MUST(ioctl(FD, FIONREAD, &there) == 0);
        sleep_ms(1);
    }
    // Until it has come to the other side too.
    sleep_ms(60);
    kill_now(victim);
    ready_with(FD, POLLERR);
    // Linux says a reset. Over a ring the killed process can have read, or not, without Linux's knowledge: then it may be an end.
    unsigned seen = ready_now(FD);
    SAY("with unread data: %s", event_names(seen & ~(unsigned)(POLLERR | POLLHUP)));
    uint64_t total = 0;
    const char *how = read_out(&total);
    bool is_over = strcmp(how, "end of file") == 0 || strcmp(how, "Connection reset by peer") == 0;
    SAY("read %llu, then it is over %d, then %s", (unsigned long long)total, is_over, outcome(read(FD, &there, 1)));
    close(FD);
    close(self->control);
}

// While the survivor waits to write.
static void kill_while_written_to(bool warm)
{
    pid_t victim;
    pthread_t thread;
    accept_from(&victim, warm, say_and_wait);
    fill(FD, 0);
    size_t len = 16u << 20;
    char *block = calloc(1, len);
    MUST(block != NULL && pthread_create(&thread, NULL, kill_later, &victim) == 0);
    ssize_t now = send(FD, block, len, MSG_NOSIGNAL);
    if (now > 0 && now < (ssize_t)len)
        now = send(FD, "x", 1, MSG_NOSIGNAL);
    // Which of the two depends on what Linux has noticed first.
    SAY("written to: refused %d", now < 0 && (errno == ECONNRESET || errno == EPIPE));
    MUST(pthread_join(thread, NULL) == 0 && waitpid(victim, NULL, 0) == victim);
    free(block);
    close(FD);
    close(self->control);
}

static void wait_in_full(void)
{
    unsigned char block[65536];
    uint64_t offset = 0;
    give(0);
    for (;;) {
        put_pattern(block, sizeof block, offset);
        ssize_t now = send(FD, block, sizeof block, MSG_NOSIGNAL);
        offset += (uint64_t)now;
        *sent = offset;
    }
}

// While it waits to write because nobody reads.
static void kill_full(bool warm)
{
    pid_t victim;
    accept_from(&victim, warm, wait_in_full);
    take();
    sleep_ms(100);
    kill_now(victim);
    uint64_t total = 0;
    const char *how = read_out(&total);
    SAY("full: all of it %d, then %s", total >= *sent && total > 65536, how);
    close(FD);
    close(self->control);
}

// ---- two containers, of which somebody else kills the client's

static void serve(const char *program)
{
    struct side side = { .control = meet_other(program, true), .name = "survivor" };
    self = &side;
    watch_begin("the client's end", 40);
    FD = connect_pair(true);
    exchange(FD, true);
    SAY("the client streams");
    uint64_t total = 0, said = 0;
    const char *how = read_out(&total);
    // What it said that it had sent, to the last word.
    while (read(side.control, &said, sizeof said) == sizeof said)
        continue;
    SAY("nothing that was sent is lost: %d, then %s", total >= said && said > 0, how);
}

static void join(const char *program)
{
    struct side side = { .control = meet_other(program, false), .name = "victim" };
    self = &side;
    FD = connect_pair(false);
    exchange(FD, false);
    unsigned char block[7000];
    for (uint64_t offset = 0;;) {
        size_t len = 1 + (size_t)(offset * 7 % sizeof block);
        put_pattern(block, len, offset);
        send_all(FD, block, len);
        offset += len;
        (void)!send(side.control, &offset, sizeof offset, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "serve") == 0) {
        serve(argv[0]);
        return 0;
    }
    if (argc > 1)
        join(argv[0]);
    sent = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(sent != MAP_FAILED);
    for (int warm = 0; warm < 2; warm++) {
        SAY("== %s", warm ? "after an exchange" : "nothing exchanged before");
        watch_begin("a killed process", 40);
        kill_writers(warm);
        kill_readers(warm);
        kill_unread(warm);
        kill_while_written_to(warm);
        kill_full(warm);
    }
    return 0;
}
