// build: dynamic musl
// Sockets within one process and between parent and child: streams, datagrams, descriptors, readiness.
#include "check.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

static int listen_on_loopback(struct sockaddr_in *address)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    *address = (struct sockaddr_in) { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t len = sizeof *address;
    MUST(fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    MUST(bind(fd, (struct sockaddr *)address, len) == 0 && listen(fd, 16) == 0);
    MUST(getsockname(fd, (struct sockaddr *)address, &len) == 0);
    return fd;
}

static void try_stream(void)
{
    struct sockaddr_in address, peer;
    int listener = listen_on_loopback(&address);
    pid_t child = fork();
    if (child == 0) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        MUST(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
        char buffer[65536];
        size_t total = 0;
        ssize_t len;
        while ((len = read(fd, buffer, sizeof buffer)) > 0)
            total += (size_t)len;
        MUST(write(fd, &total, sizeof total) == sizeof total);
        _exit(0);
    }
    socklen_t len = sizeof peer;
    int fd = accept4(listener, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC);
    MUST(fd >= 0);
    SAY("peer is on loopback: %d", peer.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
    static char block[1 << 20];
    for (int i = 0; i < 8; i++)
        for (size_t sent = 0; sent < sizeof block;) {
            ssize_t now = send(fd, block + sent, sizeof block - sent, 0);
            MUST(now > 0);
            sent += (size_t)now;
        }
    MUST(shutdown(fd, SHUT_WR) == 0);
    size_t total;
    MUST(recv(fd, &total, sizeof total, MSG_WAITALL) == sizeof total);
    SAY("the other side read %zu bytes", total);
    SAY("then end of file: %zd", read(fd, block, 1));
    int status;
    MUST(waitpid(child, &status, 0) == child && status == 0);
    signal(SIGPIPE, SIG_IGN);
    SAY("send after shutdown: %s", send(fd, "x", 1, 0) < 0 ? name_of(errno) : "ok");
    close(fd);
    close(listener);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    SAY("connect to nobody: %s", connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ? name_of(errno) : "ok");
    close(fd);
}

static void try_datagrams(void)
{
    int one = socket(AF_INET, SOCK_DGRAM, 0), two = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t len = sizeof address;
    MUST(bind(one, (struct sockaddr *)&address, len) == 0 && getsockname(one, (struct sockaddr *)&address, &len) == 0);
    MUST(sendto(two, "first", 5, 0, (struct sockaddr *)&address, len) == 5 && sendto(two, "second", 6, 0, (struct sockaddr *)&address, len) == 6);
    char buffer[16];
    SAY("datagrams keep their bounds: %zd", recv(one, buffer, 3, MSG_TRUNC));
    SAY("and their order: %zd", recv(one, buffer, sizeof buffer, 0));
    SAY("none left: %s", recv(one, buffer, sizeof buffer, MSG_DONTWAIT) < 0 ? name_of(errno) : "one");
    close(one);
    close(two);
}

static void try_unix(void)
{
    int pair[2], file = open("/etc/hostname", O_RDONLY);
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0 && file >= 0);
    char byte = 'f', control[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec vector = { &byte, 1 };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &file, sizeof file);
    pid_t child = fork();
    if (child == 0) {
        MUST(sendmsg(pair[1], &message, 0) == 1);
        _exit(0);
    }
    close(file);
    MUST(recvmsg(pair[0], &message, MSG_CMSG_CLOEXEC) == 1);
    int received;
    memcpy(&received, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof received);
    char text[8];
    SAY("a descriptor came with %c and can be read: %d", byte, read(received, text, sizeof text) > 0);
    MUST(waitpid(child, NULL, 0) == child);
    struct ucred who;
    socklen_t len = sizeof who;
    MUST(getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &who, &len) == 0);
    SAY("peer: uid %d, self %d", (int)who.uid, who.pid == getpid());
    struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "/tmp/sockets.sock" };
    unlink(name.sun_path);
    int listener = socket(AF_UNIX, SOCK_SEQPACKET, 0), client = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    MUST(bind(listener, (struct sockaddr *)&name, sizeof name) == 0 && listen(listener, 1) == 0);
    SAY("bind again: %s", bind(client, (struct sockaddr *)&name, sizeof name) < 0 ? name_of(errno) : "ok");
    MUST(connect(client, (struct sockaddr *)&name, sizeof name) == 0);
    int server = accept(listener, NULL, NULL);
    MUST(write(client, "packet", 6) == 6);
    SAY("seqpacket: %zd", read(server, control, 4));
    unlink(name.sun_path);
}

static void try_readiness(void)
{
    int epoll = epoll_create1(0), event = eventfd(0, EFD_NONBLOCK), pair[2];
    MUST(epoll >= 0 && event >= 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    struct epoll_event level = { .events = EPOLLIN, .data.u32 = 1 }, edge = { .events = EPOLLIN | EPOLLET, .data.u32 = 2 }, got[4];
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &level) == 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, pair[0], &edge) == 0);
    SAY("added twice: %s", epoll_ctl(epoll, EPOLL_CTL_ADD, event, &level) < 0 ? name_of(errno) : "ok");
    SAY("nothing ready: %d", epoll_wait(epoll, got, 4, 0));
    MUST(eventfd_write(event, 3) == 0 && write(pair[1], "ab", 2) == 2);
    SAY("both ready: %d", epoll_wait(epoll, got, 4, 1000));
    int again = epoll_wait(epoll, got, 4, 0);
    SAY("level again, edge not: %d, %u", again, got[0].data.u32);
    eventfd_t value;
    MUST(eventfd_read(event, &value) == 0);
    SAY("eventfd %llu, then %d ready", (unsigned long long)value, epoll_wait(epoll, got, 4, 0));
    close(pair[1]);
    MUST(epoll_wait(epoll, got, 4, 1000) == 1);
    SAY("hang-up: %d", (got[0].events & EPOLLHUP) != 0);
    struct pollfd several[3] = { { .fd = event, .events = POLLIN | POLLOUT }, { .fd = pair[0], .events = POLLIN }, { .fd = 999, .events = POLLIN } };
    int ready = poll(several, 3, 1000);
    SAY("poll: %d ready, %x %x %x", ready, several[0].revents, several[1].revents, several[2].revents);
}

int main(void)
{
    try_stream();
    try_datagrams();
    try_unix();
    try_readiness();
    return 0;
}
