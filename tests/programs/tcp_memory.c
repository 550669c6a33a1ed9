// build: dynamic
// Memory that is not there, only in part, or not to be written; and descriptors that are none, or no connection.
#include "tcp_pair.h"
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/uio.h>

enum { PAGE = 4096 };

// Two pages, of which only the first is there.
static unsigned char *half_mapped(void)
{
    unsigned char *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(pages != MAP_FAILED && munmap(pages + PAGE, PAGE) == 0);
    return pages;
}

static void wait_for(int bytes)
{
    int there = 0;
    int64_t deadline = now_ms() + PATIENCE_MS;
    while (ioctl(FD, FIONREAD, &there) == 0 && there < bytes && now_ms() < deadline)
        sleep_ms(1);
    MUST(there == bytes);
}

// An address nobody has, so that no compiler knows better.
static void *volatile nowhere = (void *)0x10;
static void *volatile in_kernel = (void *)0xffff888000000000;
static void *volatile no_address = (void *)0x8000000000000000;

// ---- reading

static void read_server(void)
{
    unsigned char *pages = half_mapped(), *edge = pages + PAGE;
    note("nothing there: %s", outcome(recv(FD, nowhere, 10, MSG_DONTWAIT)));
    meet();
    wait_for(100);
    note("nowhere: %s", outcome(read(FD, nowhere, 10)));
    note("null: %s", outcome(recv(FD, nowhere - 0x10, 10, 0)));
    note("kernel: %s", outcome(read(FD, in_kernel, 10)));
    note("no address: %s", outcome(read(FD, no_address, 10)));
    note("nothing to nowhere: %s", outcome(read(FD, nowhere, 0)));
    note("over the edge: %s", outcome(read(FD, edge - 40, 100)));
    struct iovec parts[2] = { { pages, 10 }, { nowhere, 10 } };
    note("the second part nowhere: %s", outcome(readv(FD, parts, 2)));
    MUST(mprotect(pages, PAGE, PROT_READ) == 0);
    note("not to be written: %s", outcome(read(FD, pages, 10)));
    MUST(mprotect(pages, PAGE, PROT_NONE) == 0);
    note("not to be touched: %s", outcome(recv(FD, pages, 10, MSG_PEEK)));
    MUST(mprotect(pages, PAGE, PROT_READ | PROT_WRITE) == 0);
    // Nothing is lost by all this.
    int there = 0;
    MUST(ioctl(FD, FIONREAD, &there) == 0);
    note("still %d", there);
    note("up to the edge: %s, intact %d", outcome(read(FD, edge - 40, 40)), is_pattern(edge - 40, 40, 0));
    parts[1] = (struct iovec) { NULL, 0 };
    note("an empty part nowhere: %s", outcome(readv(FD, parts, 2)));
    // More room is said than there is memory; what comes is short.
    note("a long way over the edge: %s", outcome(read(FD, pages, 64ul << 20)));
    note("parts nowhere: %s", outcome(readv(FD, nowhere, 2)));
    struct msghdr message = { .msg_iov = nowhere, .msg_iovlen = 2 };
    note("message of parts nowhere: %s", outcome(recvmsg(FD, &message, 0)));
    note("message nowhere: %s", outcome(recvmsg(FD, nowhere, 0)));
    note("message of too many: %s", outcome(recvmsg(FD, &(struct msghdr) { .msg_iov = parts, .msg_iovlen = (size_t)-1 }, 0)));
    munmap(pages, PAGE);
    meet();
}

static void read_client(void)
{
    unsigned char block[100];
    meet();
    put_pattern(block, sizeof block, 0);
    send_all(FD, block, sizeof block);
    meet();
}

// ---- writing

static void write_server(void)
{
    unsigned char *pages = half_mapped(), *edge = pages + PAGE;
    put_pattern(pages, PAGE, 0);
    note("nowhere: %s", outcome(write(FD, nowhere, 10)));
    note("kernel: %s", outcome(write(FD, in_kernel, 10)));
    note("no address: %s", outcome(write(FD, no_address, 10)));
    note("nothing from nowhere: %s", outcome(write(FD, nowhere, 0)));
    note("over the edge: %s", outcome(write(FD, edge - 40, 100)));
    struct iovec parts[2] = { { pages, 10 }, { nowhere, 10 } };
    note("the second part nowhere: %s", outcome(writev(FD, parts, 2)));
    MUST(mprotect(pages, PAGE, PROT_NONE) == 0);
    note("not to be touched: %s", outcome(send(FD, pages, 10, 0)));
    MUST(mprotect(pages, PAGE, PROT_READ) == 0);
    note("up to the edge: %s", outcome(write(FD, edge - 40, 40)));
    note("parts nowhere: %s", outcome(writev(FD, nowhere, 2)));
    struct msghdr message = { .msg_iov = nowhere, .msg_iovlen = 2 };
    note("message of parts nowhere: %s", outcome(sendmsg(FD, &message, 0)));
    note("message nowhere: %s", outcome(sendmsg(FD, nowhere, 0)));
    note("control nowhere: %s", outcome(sendmsg(FD, &(struct msghdr) { .msg_iov = parts, .msg_iovlen = 1, .msg_control = nowhere, .msg_controllen = 32 }, 0)));
    note("name nowhere: %s", outcome(sendto(FD, pages, 1, 0, nowhere, 16)));
    munmap(pages, PAGE);
    // What of a long write is there goes, or nothing does; never anything else.
    size_t len = 512 * 1024;
    unsigned char *large = mmap(NULL, 2 * len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(large != MAP_FAILED && munmap(large + len, len) == 0);
    put_pattern(large, len, PAGE - 40 + 40);
    ssize_t now = write(FD, large, 2 * len);
    note("a long way over the edge: %d", now > 0 && now <= (ssize_t)len);
    give((int)now);
    munmap(large, len);
    meet();
}

static void write_client(void)
{
    drain(FD, PAGE - 40, 40);
    int len = take();
    MUST(len > 0);
    drain(FD, PAGE, (uint64_t)len);
    char byte;
    note("none more: %s", outcome(recv(FD, &byte, 1, MSG_DONTWAIT)));
    meet();
}

// ---- what is asked about the connection

static void ask_server(void)
{
    struct sockaddr_in name;
    socklen_t len = sizeof name;
    int value = 0;
    note("own name: %s, %s", outcome(getsockname(FD, nowhere, &len)), outcome(getsockname(FD, (struct sockaddr *)&name, nowhere)));
    note("peer's name: %s, %s", outcome(getpeername(FD, nowhere, &len)), outcome(getpeername(FD, (struct sockaddr *)&name, nowhere)));
    note("option: %s, %s", outcome(getsockopt(FD, SOL_SOCKET, SO_ERROR, nowhere, &len)), outcome(getsockopt(FD, SOL_SOCKET, SO_ERROR, &value, nowhere)));
    len = (socklen_t)-1;
    note("negative: %s", outcome(getsockopt(FD, SOL_SOCKET, SO_TYPE, &value, &len)));
    note("set: %s, %s", outcome(setsockopt(FD, IPPROTO_TCP, TCP_NODELAY, nowhere, 4)), outcome(setsockopt(FD, SOL_SOCKET, SO_RCVTIMEO, nowhere, 16)));
    note("counts: %s, %s, %s", outcome(ioctl(FD, FIONREAD, nowhere)), outcome(ioctl(FD, FIONBIO, nowhere)), outcome(ioctl(FD, TIOCOUTQ, nowhere)));
    note("poll: %s, of none %s", outcome(poll(nowhere, 1, 0)), outcome(poll(nowhere, 0, 0)));
    note("select: %s", outcome(syscall(SYS_select, FD + 1, nowhere, NULL, NULL, NULL)));
    int set = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = { .events = EPOLLOUT };
    note("add: %s", outcome(epoll_ctl(set, EPOLL_CTL_ADD, FD, nowhere)));
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, FD, &event) == 0);
    note("wait: %s, for none %s", outcome(epoll_wait(set, nowhere, 1, 0)), outcome(syscall(SYS_epoll_wait, set, &event, 0, 0)));
    close(set);
    meet();
    ready_with(FD, POLLIN);
    char text[8];
    // The name is not there, but the bytes are taken.
    note("from nowhere: %s", outcome(recvfrom(FD, text, 4, 0, nowhere, nowhere)));
    note("then: %s", outcome(recv(FD, text, 8, MSG_DONTWAIT)));
}

static void ask_client(void)
{
    meet();
    send_all(FD, "abcdefgh", 8);
}

// ---- descriptors

static void descriptors_server(void)
{
    char text[8];
    int pair[2], none = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), listener, port;
    struct sockaddr_in name = loopback(1);
    struct iovec part = { text, 1 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
    socklen_t len = sizeof name;
    int several[] = { -1, 4000, AT_FDCWD, 0, none, 0 };
    static const char *const names[] = { "-1", "4000", "the directory", "a pipe", "not connected", "a listener" };
    MUST(pipe2(pair, O_CLOEXEC | O_NONBLOCK) == 0);
    listener = listen_at(INADDR_LOOPBACK, 1, &port);
    several[3] = pair[0];
    several[5] = listener;
    for (int i = 0; i < 6; i++) {
        int fd = several[i];
        note("%s: read %s, recv %s, recvmsg %s, recvmmsg %s", names[i], outcome(read(fd, text, 1)), outcome(recv(fd, text, 1, 0)), outcome(recvmsg(fd, &message, 0)),
             outcome(recvmmsg(fd, &(struct mmsghdr) { .msg_hdr = message }, 1, 0, NULL)));
        note("%s: write %s, send %s, sendmsg %s, readv %s, writev %s", names[i], i == 4 || i == 5 ? "-" : outcome(write(fd, text, 1)), outcome(send(fd, text, 1, MSG_NOSIGNAL)),
             outcome(sendmsg(fd, &message, MSG_NOSIGNAL)), outcome(readv(fd, &part, 1)), outcome(recv(fd, text, 0, 0)));
        note("%s: shutdown %s, peer %s, accept %s, connect %s", names[i], i == 5 ? "-" : outcome(shutdown(fd, SHUT_WR)), outcome(getpeername(fd, (struct sockaddr *)&name, &len)),
             i == 5 ? "-" : outcome(accept(fd, NULL, NULL)), i == 4 ? "-" : outcome(connect(fd, (struct sockaddr *)&name, sizeof name)));
    }
    struct pollfd polled[3] = { { .fd = none, .events = POLLIN | POLLOUT }, { .fd = 4000, .events = POLLIN }, { .fd = -1, .events = POLLIN } };
    int ready = poll(polled, 3, 0);
    note("poll: %d, %s, %s, %s", ready, event_names(polled[0].revents), event_names(polled[1].revents), event_names(polled[2].revents));
    close(none);
    close(listener);
    close(pair[0]);
    close(pair[1]);
    // A number that was a connection and is not any more.
    int twin = dup(FD);
    close(FD);
    note("closed: %s, %s, %s", outcome(read(FD, text, 1)), outcome(send(FD, text, 1, 0)), outcome(close(FD)));
    // And one that has become something else.
    int other = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (other != FD) {
        MUST(dup3(other, FD, O_CLOEXEC) == FD);
        close(other);
    }
    note("something else: read %s, write %s, recv %s", outcome(read(FD, text, 1)), outcome(write(FD, text, 1)), outcome(recv(FD, text, 1, 0)));
    MUST(dup2(twin, FD) == FD);
    close(twin);
    exchange(FD, true);
}

static void descriptors_client(void)
{
    exchange(FD, false);
}

static const struct scenario scenarios[] = {
    { "read", read_server, read_client, 0 },
    { "read_of_client", read_client, read_server, 0 },
    { "write", write_server, write_client, 0 },
    { "write_of_client", write_client, write_server, 0 },
    { "ask", ask_server, ask_client, 0 },
    { "descriptors", descriptors_server, descriptors_client, 0 },
};

int main(int argc, char **argv)
{
    return PLAY(scenarios, argc, argv);
}
