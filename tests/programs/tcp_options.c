// build: dynamic
// What can be set on a connection and asked of it: time limits, low-water marks, options, state, counts, descriptor flags.
#include "tcp_pair.h"
#include <linux/sockios.h>
#include <sys/mman.h>
#include <sys/stat.h>

static const char *option_text(int level, int name)
{
    static __thread char texts[4][32];
    static __thread unsigned next;
    char *text = texts[next++ % 4];
    int value = -1;
    socklen_t len = sizeof value;
    if (getsockopt(FD, level, name, &value, &len) < 0)
        return name_of(errno);
    snprintf(text, sizeof texts[0], "%d", value);
    return text;
}

static int set(int level, int name, int value)
{
    return setsockopt(FD, level, name, &value, sizeof value);
}

static int count_of(unsigned long request)
{
    int count = -1;
    MUST(ioctl(FD, request, &count) == 0);
    return count;
}

// Waits until `request` counts `expected`.
static int count_with(unsigned long request, int expected)
{
    int64_t deadline = now_ms() + PATIENCE_MS;
    while (count_of(request) != expected && now_ms() < deadline)
        sleep_ms(1);
    return count_of(request);
}

// ---- limits of time

static void note_limit(const char *what, ssize_t result, int64_t begin)
{
    const char *text = outcome(result);
    int64_t took = now_ms() - begin;
    note("%s: %s, after the time %d, soon after %d", what, text, took >= 75, took < 3000);
}

static void limits_server(void)
{
    struct timeval limit = { 0, 80000 };
    char byte;
    MUST(setsockopt(FD, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    int64_t begin = now_ms();
    note_limit("read", read(FD, &byte, 1), begin);
    begin = now_ms();
    note_limit("look", recv(FD, &byte, 1, MSG_PEEK), begin);
    struct timeval wrong = { 0, 1000000 };
    note("too many microseconds: %s", outcome(setsockopt(FD, SOL_SOCKET, SO_RCVTIMEO, &wrong, sizeof wrong)));
    note("too short: %s", outcome(setsockopt(FD, SOL_SOCKET, SO_RCVTIMEO, &limit, 4)));
    socklen_t len = sizeof limit;
    MUST(getsockopt(FD, SOL_SOCKET, SO_RCVTIMEO, &limit, &len) == 0);
    note("limit %ld.%06ld", (long)limit.tv_sec, (long)limit.tv_usec);
    meet();
    // What comes in time is read at once.
    limit = (struct timeval) { 20, 0 };
    MUST(setsockopt(FD, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    note("in time: %s", outcome(read(FD, &byte, 1)));
    meet();
    limit = (struct timeval) { 0, 80000 };
    MUST(setsockopt(FD, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0);
    uint64_t sent = fill(FD, 0);
    ssize_t len_sent;
    // A probe of the closed window may make room for a little more.
    for (int try = 0; try < 10; try++) {
        sent += fill(FD, sent);
        char byte = (char)byte_at(sent);
        begin = now_ms();
        len_sent = send(FD, &byte, 1, 0);
        if (len_sent < 0)
            break;
        sent++;
    }
    note_limit("write", len_sent, begin);
    give((int)sent);
    meet();
    // A limit in which part of it goes: that much is said.
    limit = (struct timeval) { 0, 160000 };
    MUST(setsockopt(FD, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0);
    unsigned char *large = malloc(20u << 20);
    MUST(large != NULL);
    put_pattern(large, 20u << 20, 0);
    ssize_t part = send(FD, large, 20u << 20, 0);
    note("part of it: %d", part > 0 && part < 20 << 20);
    give((int)part);
    free(large);
    meet();
}

static void limits_client(void)
{
    meet();
    sleep_ms(30);
    send_text("x");
    meet();
    drain(FD, 0, (uint64_t)take());
    meet();
    drain(FD, 0, (uint64_t)take());
    meet();
}

// ---- the low-water mark of reading

static void low_server(void)
{
    note("mark %s", option_text(SOL_SOCKET, SO_RCVLOWAT));
    MUST(set(SOL_SOCKET, SO_RCVLOWAT, 10) == 0);
    note("mark %s", option_text(SOL_SOCKET, SO_RCVLOWAT));
    meet();
    MUST(count_with(FIONREAD, 4) == 4);
    note("four: %s", event_names(ready_now(FD)));
    struct timeval limit = { 0, 100000 };
    MUST(setsockopt(FD, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    char text[64];
    note("read: %s", outcome(recv(FD, text, sizeof text, MSG_PEEK)));
    note("not waiting: %s", outcome(recv(FD, text, 1, MSG_DONTWAIT)));
    // A call for fewer needs no more than it asks for.
    note("two of them: %s", outcome(read(FD, text, 2)));
    meet();
    note("eleven: %s", ready_with(FD, POLLIN));
    note("read: %s", outcome(read(FD, text, sizeof text)));
    limit = (struct timeval) { 0 };
    MUST(setsockopt(FD, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    meet();
    note("in three pieces: %s", outcome(read(FD, text, sizeof text)));
    meet();
    MUST(count_with(FIONREAD, 3) == 3);
    note("three: %s", event_names(ready_now(FD)));
    MUST(set(SOL_SOCKET, SO_RCVLOWAT, 1) == 0);
    note("with a mark of 1: %s", event_names(ready_now(FD)));
    MUST(set(SOL_SOCKET, SO_RCVLOWAT, 100) == 0);
    meet();
    note("end: %s", ready_with(FD, POLLRDHUP));
    note("read: %s", outcome(read(FD, text, sizeof text)));
    note("read: %s", outcome(read(FD, text, sizeof text)));
    note("write mark: %s", outcome(set(SOL_SOCKET, SO_SNDLOWAT, 10)));
}

static void low_client(void)
{
    meet();
    send_text("four");
    meet();
    send_text("and more.");
    meet();
    for (int i = 0; i < 3; i++) {
        sleep_ms(15);
        send_text("abcd");
    }
    meet();
    send_text("end");
    meet();
    MUST(shutdown(FD, SHUT_WR) == 0);
}

// ---- options, both ways

static void note_set(const char *what, int level, int name, int value)
{
    const char *before = option_text(level, name), *done = outcome(set(level, name, value));
    note("%s: %s, set: %s, %s", what, before, done, option_text(level, name));
}

static void options_server(void)
{
    note_set("nodelay", IPPROTO_TCP, TCP_NODELAY, 1);
    note_set("cork", IPPROTO_TCP, TCP_CORK, 1);
    note_set("cork", IPPROTO_TCP, TCP_CORK, 0);
    // Whether it holds, and what the buffers were before, is the connection's own affair.
    note("quick acknowledgement: %s", outcome(set(IPPROTO_TCP, TCP_QUICKACK, 1)));
    MUST(set(SOL_SOCKET, SO_RCVBUF, 20000) == 0 && set(SOL_SOCKET, SO_SNDBUF, 20000) == 0);
    note_set("idle time", IPPROTO_TCP, TCP_KEEPIDLE, 33);
    note_set("interval", IPPROTO_TCP, TCP_KEEPINTVL, 7);
    note_set("probes", IPPROTO_TCP, TCP_KEEPCNT, 3);
    note_set("user time limit", IPPROTO_TCP, TCP_USER_TIMEOUT, 12345);
    note_set("linger", IPPROTO_TCP, TCP_LINGER2, 5);
    note_set("unsent", IPPROTO_TCP, TCP_NOTSENT_LOWAT, 4096);
    note_set("unsent", IPPROTO_TCP, TCP_NOTSENT_LOWAT, 0);
    note_set("keepalive", SOL_SOCKET, SO_KEEPALIVE, 1);
    note_set("reuse", SOL_SOCKET, SO_REUSEADDR, 1);
    note_set("route", SOL_SOCKET, SO_DONTROUTE, 1);
    note_set("priority", SOL_SOCKET, SO_PRIORITY, 4);
    note_set("in line", SOL_SOCKET, SO_OOBINLINE, 1);
    note_set("receive buffer", SOL_SOCKET, SO_RCVBUF, 30000);
    note_set("send buffer", SOL_SOCKET, SO_SNDBUF, 30000);
    note_set("tiny buffer", SOL_SOCKET, SO_SNDBUF, 1);
    note_set("type of service", IPPROTO_IP, IP_TOS, 0x10);
    note_set("time to live", IPPROTO_IP, IP_TTL, 60);
    note_set("error", SOL_SOCKET, SO_ERROR, 1);
    note_set("type", SOL_SOCKET, SO_TYPE, 1);
    note_set("unknown", SOL_SOCKET, 9999, 1);
    note_set("unknown", IPPROTO_TCP, 9999, 1);
    note_set("unknown level", 9999, 1, 1);
    unsigned char little[3] = { 9, 9, 9 };
    socklen_t len = 1;
    MUST(getsockopt(FD, IPPROTO_TCP, TCP_NODELAY, little, &len) == 0);
    note("one byte of it: %d %d, length %u", little[0], little[1], len);
    len = 100;
    int many[25] = { 0 };
    MUST(getsockopt(FD, IPPROTO_TCP, TCP_NODELAY, many, &len) == 0);
    note("a hundred bytes: length %u", len);
    note("short value: %s", outcome(setsockopt(FD, IPPROTO_TCP, TCP_NODELAY, little, 3)));
    exchange(FD, true);
}

static void options_client(void)
{
    struct tcp_info info;
    socklen_t len = sizeof info;
    MUST(getsockopt(FD, IPPROTO_TCP, TCP_INFO, &info, &len) == 0);
    note("state %d, retransmits %d, segment size %d", info.tcpi_state, info.tcpi_retransmits, info.tcpi_snd_mss > 500);
    len = 1;
    MUST(getsockopt(FD, IPPROTO_TCP, TCP_INFO, &info, &len) == 0);
    note("only the state: %d, length %u", info.tcpi_state, len);
    char name[32];
    len = sizeof name;
    note("congestion control: %s", outcome(getsockopt(FD, IPPROTO_TCP, TCP_CONGESTION, name, &len)));
    exchange(FD, false);
}

// ---- corked: nothing is lost by it. Whether it is held back so long is nobody's promise.

static void cork_server(void)
{
    MUST(set(IPPROTO_TCP, TCP_CORK, 1) == 0);
    send_text("corked ");
    send_text("twice ");
    meet();
    MUST(set(IPPROTO_TCP, TCP_CORK, 0) == 0);
    meet();
}

static void cork_client(void)
{
    meet();
    receive_text("corked twice ");
    meet();
}

// ---- how much is there, how much is under way

static void counts_server(void)
{
    note("nothing: %d to read, %d, at the mark %d", count_of(FIONREAD), count_of(SIOCINQ), count_of(SIOCATMARK));
    meet();
    meet();
    note("sent: %d to read", count_with(FIONREAD, 1000));
    char block[600];
    receive_all(FD, block, 600);
    note("partly read: %d to read", count_of(FIONREAD));
    receive_all(FD, block, 400);
    note("all read: %d to read", count_of(FIONREAD));
    meet();
    uint64_t total = (uint64_t)take();
    note("full: something to read %d", count_of(FIONREAD) > 10000);
    drain(FD, 0, total);
    note("all read: %d to read", count_of(FIONREAD));
    meet();
    MUST(ready_with(FD, POLLRDHUP) != NULL);
    note("at the end: %d to read", count_of(FIONREAD));
    receive_text("last");
    note("at the end: %d to read", count_of(FIONREAD));
}

static void counts_client(void)
{
    char block[1000] = { 0 };
    note("nothing: %d under way, %d not sent", count_with(SIOCOUTQ, 0), count_of(SIOCOUTQNSD));
    meet();
    send_all(FD, block, sizeof block);
    // What the peer has not read may be under way for as long.
    note("in the end: %d not sent", count_with(SIOCOUTQNSD, 0));
    meet();
    meet();
    note("read: %d under way", count_with(SIOCOUTQ, 0));
    uint64_t total = fill(FD, 0);
    note("full: something under way %d, %s", count_of(SIOCOUTQ) > 10000, event_names(ready_now(FD)));
    give((int)total);
    meet();
    note("read: %d under way, %s", count_with(SIOCOUTQ, 0), event_names(ready_now(FD)));
    send_text("last");
    MUST(shutdown(FD, SHUT_WR) == 0);
}

// ---- the descriptor

static void descriptor_server(void)
{
    char byte;
    int on = 1, off = 0, twin = dup(FD);
    MUST(ioctl(twin, FIONBIO, &on) == 0);
    note("set on its twin: %d, read: %s", (fcntl(FD, F_GETFL) & O_NONBLOCK) != 0, outcome(read(FD, &byte, 1)));
    MUST(ioctl(FD, FIONBIO, &off) == 0);
    note("and taken back: %d", (fcntl(twin, F_GETFL) & O_NONBLOCK) != 0);
    MUST(fcntl(FD, F_SETFL, O_NONBLOCK) == 0);
    note("read by its twin: %s", outcome(read(twin, &byte, 1)));
    MUST(fcntl(FD, F_SETFL, 0) == 0);
    note("flags %x", fcntl(FD, F_GETFL));
    close(twin);
    struct stat about;
    MUST(fstat(FD, &about) == 0);
    note("a socket %d, size %ld", S_ISSOCK(about.st_mode), (long)about.st_size);
    char link[64], target[64] = "", expected[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", FD);
    snprintf(expected, sizeof expected, "socket:[%lu]", (unsigned long)about.st_ino);
    MUST(readlink(link, target, sizeof target - 1) > 0);
    note("named so %d", strcmp(target, expected) == 0);
    note("opened again: %s", outcome(open(link, O_RDWR)));
    note("seek: %s", outcome(lseek(FD, 0, SEEK_CUR)));
    note("read at: %s", outcome(pread(FD, &byte, 1, 0)));
    note("write at: %s", outcome(pwrite(FD, "x", 1, 0)));
    note("truncate: %s", outcome(ftruncate(FD, 0)));
    note("sync: %s", outcome(fsync(FD)));
    note("map: %s", outcome(mmap(NULL, 4096, PROT_READ, MAP_SHARED, FD, 0) == MAP_FAILED ? -1 : 0));
    note("a terminal: %s", outcome(isatty(FD) ? 0 : -1));
    note("directory: %s", outcome(fchdir(FD)));
    meet();
    exchange(FD, true);
    // The connection is in the kernel's table, with both its ports.
    struct sockaddr_in own, peer;
    socklen_t len = sizeof own;
    MUST(getsockname(FD, (struct sockaddr *)&own, &len) == 0 && getpeername(FD, (struct sockaddr *)&peer, &len) == 0);
    snprintf(expected, sizeof expected, ":%04X 0100007F:%04X 01 ", ntohs(own.sin_port), ntohs(peer.sin_port));
    FILE *table = fopen("/proc/net/tcp", "re");
    char line[256];
    int found = 0;
    while (table != NULL && fgets(line, sizeof line, table) != NULL)
        found += strstr(line, expected) != NULL;
    note("in the table %d", found);
    if (table != NULL)
        fclose(table);
}

static void descriptor_client(void)
{
    meet();
    exchange(FD, false);
}

// ---- a signal when something has come: it can be asked for, and does no harm

static void arrival_server(void)
{
    // Whether it is sent is not looked at.
    signal(SIGRTMIN, SIG_IGN);
    MUST(fcntl(FD, F_SETSIG, SIGRTMIN) == 0 && fcntl(FD, F_SETOWN, getpid()) == 0 && fcntl(FD, F_SETFL, O_ASYNC) == 0);
    note("signal %d, owner is self: %d, asked for %d", fcntl(FD, F_GETSIG) == SIGRTMIN, fcntl(FD, F_GETOWN) == getpid(), (fcntl(FD, F_GETFL) & O_ASYNC) != 0);
    meet();
    receive_text("here I am");
    MUST(fcntl(FD, F_SETFL, 0) == 0);
    note("asked for %d", (fcntl(FD, F_GETFL) & O_ASYNC) != 0);
    meet();
    signal(SIGRTMIN, SIG_DFL);
}

static void arrival_client(void)
{
    meet();
    send_text("here I am");
    meet();
}

// ---- what could come along with the data, when it is asked for: the data does, with or without it

static void control_server(void)
{
    char text[64], control[256];
    struct iovec part = { text, 3 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    note("left to read: %s, %s", outcome(set(IPPROTO_TCP, TCP_INQ, 1)), option_text(IPPROTO_TCP, TCP_INQ));
    meet();
    MUST(count_with(FIONREAD, 10) == 10);
    note("message: %s, flags %x", outcome(recvmsg(FD, &message, 0)), message.msg_flags);
    note("none of it: %s", outcome(set(IPPROTO_TCP, TCP_INQ, 0)));
    note("stamps: %s, %s", outcome(set(SOL_SOCKET, SO_TIMESTAMP, 1)), option_text(SOL_SOCKET, SO_TIMESTAMP));
    receive_text("message");
    meet();
    message.msg_controllen = sizeof control;
    note("message: %s, flags %x", outcome(recvmsg(FD, &message, MSG_WAITALL)), message.msg_flags);
}

static void control_client(void)
{
    meet();
    send_text("a: message");
    meet();
    send_text("end");
}

static const struct scenario scenarios[] = {
    { "limits", limits_server, limits_client, 0 },
    { "low_water", low_server, low_client, 0 },
    { "low_water_of_client", low_client, low_server, 0 },
    { "options", options_server, options_client, 0 },
    { "cork", cork_server, cork_client, 0 },
    { "counts", counts_server, counts_client, 0 },
    { "counts_of_client", counts_client, counts_server, 0 },
    { "descriptor", descriptor_server, descriptor_client, 0 },
    { "descriptor_of_client", descriptor_client, descriptor_server, APART },
    { "arrival", arrival_server, arrival_client, 0 },
    { "control", control_server, control_client, 0 },
};

int main(int argc, char **argv)
{
    return PLAY(scenarios, argc, argv);
}
