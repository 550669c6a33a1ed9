// build: dynamic
// Signals while a call waits: given up with EINTR, or begun again when the action says so; never a byte lost.
#include "tcp_pair.h"
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
    (void)number;
    caught++;
}

static void catch(int number, int flags)
{
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = flags };
    MUST(sigaction(number, &action, NULL) == 0);
    caught = 0;
}

struct disturbance {
    pthread_t thread, target;
    int number;
    void (*then)(void *);
    void *argument;
    volatile bool over;
};

// Signals a thread that waits: three times, and then does what it waits for; or until it has given up.
static void *disturb(void *argument)
{
    struct disturbance *one = argument;
    for (int i = 0; (one->then == NULL || i < 3) && !one->over; i++) {
        sleep_ms(12);
        if (!one->over)
            pthread_kill(one->target, one->number);
    }
    if (one->then != NULL) {
        sleep_ms(12);
        one->over = true;
        one->then(one->argument);
    }
    return NULL;
}

static void begin(struct disturbance *one)
{
    one->target = pthread_self();
    one->over = false;
    caught = 0;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    MUST(pthread_create(&one->thread, NULL, disturb, one) == 0);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void end(struct disturbance *one)
{
    one->over = true;
    MUST(pthread_join(one->thread, NULL) == 0);
}

static void give_to_peer(void *control)
{
    int value = 0;
    MUST(write(*(int *)control, &value, sizeof value) == sizeof value);
}

static void note_caught(const char *what, ssize_t result)
{
    const char *text = outcome(result);
    note("%s: %s, signals %d", what, text, caught > 0);
}

// ---- reading

static void read_server(void)
{
    char text[16];
    catch(SIGUSR1, 0);
    catch(SIGUSR2, SA_RESTART);
    struct disturbance one = { .number = SIGUSR1 };
    begin(&one);
    note_caught("read", read(FD, text, 5));
    end(&one);
    begin(&one);
    note_caught("look", recv(FD, text, 5, MSG_PEEK));
    end(&one);
    begin(&one);
    struct iovec part = { text, 5 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    note_caught("recvmsg", recvmsg(FD, &message, 0));
    end(&one);
    begin(&one);
    struct mmsghdr several = { .msg_hdr = message };
    note_caught("recvmmsg", recvmmsg(FD, &several, 1, 0, NULL));
    end(&one);
    // Begun again, three times, and then read what came.
    struct disturbance more = { .number = SIGUSR2, .then = give_to_peer, .argument = &self->control };
    begin(&more);
    note_caught("read that goes on", read(FD, text, 5));
    end(&more);
    begin(&more);
    note_caught("recvmsg that goes on", recvmsg(FD, &message, 0));
    end(&more);
    // With a limit of time it is not begun again.
    struct timeval limit = { 10, 0 };
    MUST(setsockopt(FD, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    struct disturbance once = { .number = SIGUSR2 };
    begin(&once);
    note_caught("read with a limit", read(FD, text, 5));
    end(&once);
    limit = (struct timeval) { 0 };
    MUST(setsockopt(FD, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    // Part of all: that much is said.
    meet();
    ready_with(FD, POLLIN);
    begin(&one);
    note_caught("read for all", recv(FD, text, 10, MSG_WAITALL));
    end(&one);
    // What is blocked or ignored disturbs nobody.
    signal(SIGUSR1, SIG_IGN);
    struct disturbance ignored = { .number = SIGUSR1, .then = give_to_peer, .argument = &self->control };
    begin(&ignored);
    note_caught("read with the signal ignored", read(FD, text, 5));
    end(&ignored);
    catch(SIGUSR1, 0);
    sigset_t set, before;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, &before);
    begin(&ignored);
    note_caught("read with the signal blocked", read(FD, text, 5));
    end(&ignored);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    note("then %d signals", (int)caught);
}

static void read_client(void)
{
    for (int i = 0; i < 2; i++) {
        take();
        send_text("12345");
    }
    meet();
    send_text("part");
    for (int i = 0; i < 2; i++) {
        take();
        send_text("12345");
    }
}

// ---- writing

static void write_server(void)
{
    size_t len = 32u << 20;
    unsigned char *block = malloc(len);
    MUST(block != NULL);
    catch(SIGUSR1, 0);
    catch(SIGUSR2, SA_RESTART);
    // Part of it goes: that much is said, whatever the action says.
    put_pattern(block, len, 0);
    struct disturbance one = { .number = SIGUSR2 };
    begin(&one);
    ssize_t part = write(FD, block, len);
    note("a part %d, signals %d", part > 0 && part < (ssize_t)len, caught > 0);
    end(&one);
    uint64_t sent = (uint64_t)part + fill(FD, (uint64_t)part);
    one.number = SIGUSR1;
    begin(&one);
    ssize_t now = send(FD, block + sent, 1, 0);
    // A probe of the closed window may have made room for it.
    if (now == 1)
        sent++;
    note("none of it: %d", now == 1 || (now < 0 && errno == EINTR && caught > 0));
    end(&one);
    // Begun again until the peer reads.
    struct disturbance more = { .number = SIGUSR2, .then = give_to_peer, .argument = &self->control };
    begin(&more);
    now = 0;
    while (!more.over) {
        now = send(FD, block + sent, 1, 0);
        MUST(now == 1);
        sent++;
    }
    note("begun again: %zd, signals %d", now, caught > 0);
    end(&more);
    give((int)sent);
    free(block);
    meet();
}

static void write_client(void)
{
    take();
    // Enough to make room; how much there is comes later.
    drain(FD, 0, 100000);
    static unsigned char block[65536];
    uint64_t done = 100000;
    struct pollfd both[2] = { { .fd = FD, .events = POLLIN }, { .fd = self->control, .events = POLLIN } };
    uint64_t total = 0;
    while (total == 0 || done < total) {
        MUST(poll(both, total == 0 ? 2 : 1, PATIENCE_MS) > 0);
        if (both[0].revents) {
            ssize_t now = read(FD, block, sizeof block);
            MUST(now > 0 && is_pattern(block, (size_t)now, done));
            done += (uint64_t)now;
        }
        if (total == 0 && both[1].revents)
            total = (uint64_t)take();
    }
    note("all there %d", done == total);
    meet();
}

// ---- waiting for readiness: never begun again

static void wait_server(void)
{
    struct epoll_event event = { .events = EPOLLIN };
    int set = epoll_create1(EPOLL_CLOEXEC);
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, FD, &event) == 0);
    struct pollfd polled = { .fd = FD, .events = POLLIN };
    fd_set reading;
    FD_ZERO(&reading);
    FD_SET(FD, &reading);
    struct timespec limit = { 10, 0 };
    for (int restart = 0; restart < 2; restart++) {
        catch(SIGUSR1, restart ? SA_RESTART : 0);
        struct disturbance one = { .number = SIGUSR1 };
        begin(&one);
        note_caught("epoll_wait", epoll_wait(set, &event, 1, 10000));
        end(&one);
        begin(&one);
        note_caught("epoll_wait without end", epoll_wait(set, &event, 1, -1));
        end(&one);
        begin(&one);
        note_caught("epoll_pwait2", epoll_pwait2(set, &event, 1, &limit, NULL));
        end(&one);
        begin(&one);
        note_caught("poll", poll(&polled, 1, 10000));
        end(&one);
        begin(&one);
        note_caught("ppoll", ppoll(&polled, 1, NULL, NULL));
        end(&one);
        begin(&one);
        fd_set copy = reading;
        note_caught("select", select(FD + 1, &copy, NULL, NULL, NULL));
        end(&one);
        begin(&one);
        copy = reading;
        note_caught("pselect", pselect(FD + 1, &copy, NULL, NULL, &limit, NULL));
        end(&one);
    }
    // A mask for the time of the wait: a signal that was blocked comes through, and the wait ends.
    sigset_t blocked, open;
    sigemptyset(&open);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    caught = 0;
    raise(SIGUSR1);
    note_caught("blocked", epoll_wait(set, &event, 1, 20));
    note_caught("epoll_pwait", epoll_pwait(set, &event, 1, 10000, &open));
    caught = 0;
    raise(SIGUSR1);
    note_caught("ppoll", ppoll(&polled, 1, &limit, &open));
    caught = 0;
    raise(SIGUSR1);
    fd_set copy = reading;
    note_caught("pselect", pselect(FD + 1, &copy, NULL, NULL, &limit, &open));
    // What is ready goes first, and the signal stays where it was.
    meet();
    // Not only for poll: Linux has the bytes a moment before it has told its sets, and so even runc differs now and then.
    ready_with(FD, POLLIN);
    MUST(epoll_wait(set, &event, 1, PATIENCE_MS) == 1);
    caught = 0;
    raise(SIGUSR1);
    note_caught("with something ready", epoll_pwait(set, &event, 1, 10000, &open));
    raise(SIGUSR1);
    note_caught("with something ready, ppoll", ppoll(&polled, 1, &limit, &open));
    pthread_sigmask(SIG_UNBLOCK, &blocked, NULL);
    note("and then: %d signals", (int)caught);
    close(set);
}

static void wait_client(void)
{
    meet();
    send_text("ready");
}

// ---- accepting and connecting

static void connect_self(void *port)
{
    close(connect_to(*(int *)port));
}

static void accept_server(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, 4, &port);
    catch(SIGUSR1, 0);
    catch(SIGUSR2, SA_RESTART);
    struct disturbance one = { .number = SIGUSR1 };
    begin(&one);
    note_caught("accept", accept(listener, NULL, NULL));
    end(&one);
    struct disturbance more = { .number = SIGUSR2, .then = connect_self, .argument = &port };
    begin(&more);
    int fd = accept(listener, NULL, NULL);
    note_caught("accept that goes on", fd >= 0 ? 0 : -1);
    end(&more);
    close(fd);
    close(listener);
}

static void nobody(void)
{
}

// ---- a handler that reads and writes on the connection it interrupted

static int handler_fd;

static void on_signal_io(int number)
{
    (void)number;
    int saved = errno;
    if (write(handler_fd, "handled", 7) == 7)
        caught++;
    errno = saved;
}

static void handler_server(void)
{
    handler_fd = FD;
    struct sigaction action = { .sa_handler = on_signal_io, .sa_flags = SA_RESTART };
    MUST(sigaction(SIGUSR1, &action, NULL) == 0);
    caught = 0;
    struct disturbance one = { .number = SIGUSR1 };
    begin(&one);
    char text[16];
    note_caught("read", read(FD, text, 6));
    end(&one);
    give((int)caught);
}

static void handler_client(void)
{
    receive_text("handled");
    receive_text("handled");
    send_text("enough");
    int times = take();
    for (int i = 2; i < times; i++)
        receive_text("handled");
    note("handled more than once %d", times > 1);
}

// ---- a timer that fires all the while: not a byte is lost

enum { STREAM = 3000000 };

static void storm(uint64_t offset, bool writes)
{
    static __thread unsigned char block[10000];
    for (uint64_t done = 0; done < STREAM;) {
        size_t wanted = sizeof block < STREAM - done ? sizeof block : (size_t)(STREAM - done);
        if (writes)
            put_pattern(block, wanted, offset + done);
        ssize_t now = writes ? write(FD, block, wanted) : read(FD, block, wanted);
        if (now < 0) {
            MUST(errno == EINTR);
            continue;
        }
        MUST(now > 0 && (writes || is_pattern(block, (size_t)now, offset + done)));
        done += (uint64_t)now;
    }
}

static void storm_server(void)
{
    timer_t timer;
    struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 1 };
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    struct itimerspec often = { { 0, 700000 }, { 0, 700000 } };
    catch(SIGRTMIN + 1, 0);
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &often, NULL) == 0);
    storm(0, true);
    storm(99, false);
    sleep_ms(10);
    timer_delete(timer);
    note("through it, signals %d", caught > 3);
}

static void storm_client(void)
{
    storm(0, false);
    storm(99, true);
    note("through it");
}

static const struct scenario scenarios[] = {
    { "read", read_server, read_client, 0 },
    { "read_of_client", read_client, read_server, APART },
    { "write", write_server, write_client, 0 },
    { "wait", wait_server, wait_client, 0 },
    { "accept", accept_server, nobody, ALONE },
    { "handler", handler_server, handler_client, 0 },
    { "storm", storm_server, storm_client, 0 },
};

int main(int argc, char **argv)
{
    return PLAY(scenarios, argc, argv);
}
