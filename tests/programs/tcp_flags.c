// build: dynamic
// The flags of send and recv: looking, waiting for all, not waiting, throwing away, urgent data.
#include "tcp_pair.h"
#include <sys/uio.h>

static __thread char text[4096];

// What recv gives with `flags`, and the bytes.
static void note_receive(const char *what, size_t len, int flags)
{
    memset(text, '.', sizeof text);
    ssize_t now = recv(FD, text, len, flags);
    if (now < 0)
        note("%s: %s", what, name_of(errno));
    else
        note("%s: %zd '%.*s'", what, now, now < 40 ? (int)now : 40, text);
}

// All that was sent until now is there.
static void wait_for(int bytes)
{
    int there = 0;
    int64_t deadline = now_ms() + PATIENCE_MS;
    while (ioctl(FD, FIONREAD, &there) == 0 && there < bytes && now_ms() < deadline)
        sleep_ms(1);
    MUST(there == bytes);
}

// ---- looking does not take

static void peek_server(void)
{
    note_receive("nothing there", 10, MSG_PEEK | MSG_DONTWAIT);
    meet();
    wait_for(10);
    note_receive("look", 4, MSG_PEEK);
    note_receive("look", 100, MSG_PEEK);
    note_receive("look for nothing", 0, MSG_PEEK);
    note_receive("take", 3, 0);
    note_receive("look", 100, MSG_PEEK | MSG_DONTWAIT);
    struct iovec parts[2] = { { text, 2 }, { text + 100, 3 } };
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
    memset(text, '.', sizeof text);
    ssize_t now = recvmsg(FD, &message, MSG_PEEK);
    note("look into two: %s '%.2s' '%.3s', flags %x", outcome(now), text, text + 100, message.msg_flags);
    note_receive("look for all of seven", 7, MSG_PEEK | MSG_WAITALL);
    note_receive("take", 100, 0);
    meet();
    // Looking waits as reading does.
    note_receive("look and wait", 100, MSG_PEEK);
    note_receive("take", 100, 0);
    meet();
    note_receive("look for all", 10, MSG_PEEK | MSG_WAITALL);
    note_receive("take", 10, 0);
    ready_with(FD, POLLRDHUP);
    note_receive("look at the end", 10, MSG_PEEK);
    note_receive("and again", 10, MSG_PEEK);
}

static void peek_client(void)
{
    meet();
    send_text("0123456789");
    meet();
    sleep_ms(50);
    send_text("later");
    meet();
    send_text("abcde");
    sleep_ms(50);
    send_text("fghij");
    MUST(shutdown(FD, SHUT_WR) == 0);
}

// ---- waiting for all

static void all_server(void)
{
    note_receive("in four pieces", 12, MSG_WAITALL);
    meet();
    struct iovec parts[3] = { { text, 5 }, { text + 100, 0 }, { text + 200, 4 } };
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = 3 };
    ssize_t now = recvmsg(FD, &message, MSG_WAITALL);
    note("into three: %s '%.5s' '%.4s'", outcome(now), text, text + 200);
    meet();
    wait_for(2);
    note_receive("not waiting wins", 10, MSG_WAITALL | MSG_DONTWAIT);
    note_receive("nothing there", 10, MSG_WAITALL | MSG_DONTWAIT);
    meet();
    struct timeval limit = { 0, 80000 };
    MUST(setsockopt(FD, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    note_receive("for a time", 10, MSG_WAITALL);
    note_receive("for a time, in vain", 10, MSG_WAITALL);
    limit = (struct timeval) { 0 };
    MUST(setsockopt(FD, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    meet();
    note_receive("until the end", 100, MSG_WAITALL);
    note_receive("after it", 100, MSG_WAITALL);
}

static void all_client(void)
{
    for (int i = 0; i < 4; i++) {
        sleep_ms(15);
        send_all(FD, "abcdefghijkl" + i * 3, 3);
    }
    meet();
    send_text("first");
    sleep_ms(30);
    send_text("next");
    meet();
    send_text("hi");
    meet();
    send_text("part");
    meet();
    send_text("until ");
    sleep_ms(20);
    send_text("here");
    MUST(shutdown(FD, SHUT_WR) == 0);
}

// A block larger than any buffer, in one call.
#define LARGE (5u << 20)

static void large_server(void)
{
    unsigned char *block = malloc(LARGE);
    MUST(block != NULL);
    ssize_t len = recv(FD, block, LARGE, MSG_WAITALL);
    note("one call: %zd, intact %d", len, len > 0 && is_pattern(block, (size_t)len, 0));
    len = send(FD, block, LARGE, 0);
    note("one call: %zd", len);
    free(block);
}

static void large_client(void)
{
    unsigned char *block = malloc(LARGE);
    MUST(block != NULL);
    put_pattern(block, LARGE, 0);
    ssize_t len = send(FD, block, LARGE, 0);
    note("one call: %zd", len);
    memset(block, 0, LARGE);
    len = recv(FD, block, LARGE, MSG_WAITALL);
    note("one call: %zd, intact %d", len, len > 0 && is_pattern(block, (size_t)len, 0));
    free(block);
}

// ---- not waiting, and throwing away

static void other_server(void)
{
    note_receive("nothing there", 10, MSG_DONTWAIT);
    meet();
    wait_for(26);
    note_receive("not waiting", 3, MSG_DONTWAIT);
    note_receive("thrown away", 5, MSG_TRUNC);
    note("thrown away to nowhere: %s", outcome(recv(FD, NULL, 4, MSG_TRUNC)));
    note_receive("look without bytes", 4, MSG_TRUNC | MSG_PEEK);
    note_receive("the rest", 100, 0);
    struct iovec part = { text, 10 };
    char control[64];
    struct sockaddr_in name;
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control, .msg_name = &name, .msg_namelen = sizeof name, .msg_flags = -1 };
    meet();
    ssize_t now = recvmsg(FD, &message, MSG_CMSG_CLOEXEC);
    note("message: %s, flags %x, %zu of control, %u of name", outcome(now), message.msg_flags, message.msg_controllen, message.msg_namelen);
    socklen_t len = sizeof name;
    meet();
    now = recvfrom(FD, text, 10, 0, (struct sockaddr *)&name, &len);
    note("from: %s, %u of name", outcome(now), len);
    note_receive("errors", 10, MSG_ERRQUEUE);
    note_receive("urgent", 1, MSG_OOB);
    meet();
    // Flags without a meaning here change nothing.
    receive_text("confirm, route, end");
    note("unknown flag: %s", outcome(recv(FD, text, 1, MSG_DONTWAIT | 0x800000)));
}

static void other_client(void)
{
    meet();
    send_text("abcdefghijklmnopqrstuvwxyz");
    meet();
    send_text("message");
    meet();
    send_text("from");
    meet();
    MUST(send(FD, "confirm, ", 9, MSG_CONFIRM) == 9 && send(FD, "route, ", 7, MSG_DONTROUTE) == 7 && send(FD, "end", 3, MSG_EOR) == 3);
}

// ---- more to come: it arrives, at the latest a moment later. How long it is held back is nobody's promise.

static void more_server(void)
{
    receive_text("begin and end");
    meet();
    int64_t begin = now_ms();
    note_receive("never completed", 100, 0);
    note("in a moment %d", now_ms() - begin < 3000);
}

static void more_client(void)
{
    MUST(send(FD, "begin", 5, MSG_MORE) == 5);
    send_text(" and end");
    meet();
    MUST(send(FD, "begin", 5, MSG_MORE) == 5);
}

// ---- urgent data

static void urgent_server(void)
{
    int mark = -1;
    note_receive("none", 1, MSG_OOB);
    note("at the mark: %s", outcome(ioctl(FD, SIOCATMARK, &mark) < 0 ? -1 : mark));
    meet();
    note("%s", ready_with(FD, POLLPRI | POLLIN));
    MUST(ioctl(FD, SIOCATMARK, &mark) == 0);
    note("at the mark %d", mark);
    note_receive("look at it", 1, MSG_OOB | MSG_PEEK);
    note_receive("it", 10, MSG_OOB);
    note_receive("again", 1, MSG_OOB);
    note("%s", event_names(ready_now(FD)));
    note_receive("up to it", 100, 0);
    MUST(ioctl(FD, SIOCATMARK, &mark) == 0);
    note("at the mark %d", mark);
    note_receive("beyond it", 100, 0);
    MUST(ioctl(FD, SIOCATMARK, &mark) == 0);
    note("at the mark %d", mark);
    meet();
    int on = 1;
    MUST(setsockopt(FD, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on) == 0);
    meet();
    wait_for(6);
    note("in line: %s", ready_with(FD, POLLPRI | POLLIN));
    note_receive("up to it", 100, 0);
    MUST(ioctl(FD, SIOCATMARK, &mark) == 0);
    note("at the mark %d", mark);
    note_receive("not apart", 1, MSG_OOB);
    note_receive("with the rest", 100, 0);
    meet();
    exchange(FD, true);
}

static void urgent_client(void)
{
    meet();
    MUST(send(FD, "before!", 7, MSG_OOB) == 7);
    send_text("after");
    meet();
    meet();
    send_text("abc");
    MUST(send(FD, "d", 1, MSG_OOB) == 1);
    send_text("ef");
    meet();
    exchange(FD, false);
}

// SIGURG goes to the owner.
static volatile sig_atomic_t urgents;

static void on_urgent(int number)
{
    (void)number;
    urgents++;
}

static void urgent_signal_server(void)
{
    struct sigaction action = { .sa_handler = on_urgent, .sa_flags = SA_RESTART };
    urgents = 0;
    MUST(sigaction(SIGURG, &action, NULL) == 0 && fcntl(FD, F_SETOWN, getpid()) == 0);
    meet();
    int64_t deadline = now_ms() + PATIENCE_MS;
    while (urgents == 0 && now_ms() < deadline)
        sleep_ms(1);
    note("signals: %d, owner is self: %d", (int)urgents, fcntl(FD, F_GETOWN) == getpid());
    note_receive("it", 1, MSG_OOB);
    signal(SIGURG, SIG_DFL);
}

static void urgent_signal_client(void)
{
    meet();
    MUST(send(FD, "!", 1, MSG_OOB) == 1);
}

// ---- sending without a copy. Who has agreed may be told when the memory is free again, or not at all.

static void zerocopy_server(void)
{
    receive_text("as it is");
    receive_text("by agreement");
    meet();
}

static void zerocopy_client(void)
{
    MUST(send(FD, "as it is", 8, MSG_ZEROCOPY) == 8);
    int on = 1;
    note("agree: %s", outcome(setsockopt(FD, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on)));
    MUST(send(FD, "by agreement", 12, MSG_ZEROCOPY) == 12);
    meet();
}

static const struct scenario scenarios[] = {
    { "peek", peek_server, peek_client, 0 },
    { "peek_of_client", peek_client, peek_server, 0 },
    { "wait_for_all", all_server, all_client, 0 },
    { "wait_for_large", large_server, large_client, 0 },
    { "other_flags", other_server, other_client, 0 },
    { "more", more_server, more_client, 0 },
    { "urgent", urgent_server, urgent_client, 0 },
    { "urgent_of_client", urgent_signal_client, urgent_signal_server, 0 },
    { "urgent_signal", urgent_signal_server, urgent_signal_client, 0 },
    { "zerocopy", zerocopy_server, zerocopy_client, 0 },
};

int main(int argc, char **argv)
{
    return PLAY(scenarios, argc, argv);
}
