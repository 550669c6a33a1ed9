// build: dynamic
// Memory of a neighbour, in the same address space, is not there for the calls that the vkernel answers.
//   hold           says where it has memory, and until SIGTERM whether anybody has changed it
//   probe ADDRESS  makes calls with that address, over a connection that it has with itself, and says what they give
#include "tcp_pair.h"
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/uio.h>

enum { LEN = 64 };

static unsigned char held[4096] __attribute__((aligned(4096)));
static volatile sig_atomic_t is_enough;

static void note_enough(int signal)
{
    (void)signal;
    is_enough = 1;
}

static void hold(void)
{
    put_pattern(held, sizeof held, 0);
    MUST(signal(SIGTERM, note_enough) != SIG_ERR);
    SAY("held at %p", (void *)held);
    while (!is_enough)
        sleep_ms(20);
    SAY("unchanged: %d", is_pattern(held, sizeof held, 0));
}

static void say(const char *call, ssize_t result)
{
    SAY("%s: %s", call, outcome(result));
}

static void probe_at(char *at, int mine, int other)
{
    char own[LEN] = "own";
    struct iovec parts[2] = { { own, 3 }, { at, 3 } }, *all = (struct iovec *)at;
    struct msghdr message = { .msg_iov = parts + 1, .msg_iovlen = 1 };
    struct epoll_event event = { .events = EPOLLIN };
    socklen_t len = sizeof(int);
    int set = epoll_create1(EPOLL_CLOEXEC);
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, mine, &event) == 0);
    say("write", write(mine, at, LEN));
    say("send", send(mine, at, LEN, 0));
    say("writev of it", writev(mine, parts + 1, 1));
    say("writev by it", writev(mine, all, 1));
    say("sendmsg of it", sendmsg(mine, &message, 0));
    say("sendmsg by it", sendmsg(mine, (struct msghdr *)at, 0));
    say("sendmmsg by it", syscall(SYS_sendmmsg, mine, at, 1, 0));
    int there = 0;
    MUST(ioctl(other, FIONREAD, &there) == 0);
    SAY("sent: %d", there);
    send_all(other, "what is to be read", 18);
    while (ioctl(mine, FIONREAD, &there) == 0 && there < 18)
        sleep_ms(1);
    say("read", read(mine, at, LEN));
    say("recv", recv(mine, at, LEN, 0));
    say("peek", recv(mine, at, LEN, MSG_PEEK));
    say("readv to it", readv(mine, parts + 1, 1));
    say("readv by it", readv(mine, all, 1));
    say("recvmsg to it", recvmsg(mine, &message, 0));
    say("recvmsg by it", recvmsg(mine, (struct msghdr *)at, 0));
    say("recvmmsg by it", syscall(SYS_recvmmsg, mine, at, 1, 0, NULL));
    say("epoll_wait", epoll_wait(set, (struct epoll_event *)at, 1, 0));
    say("epoll_ctl", epoll_ctl(set, EPOLL_CTL_MOD, mine, (struct epoll_event *)at));
    say("ppoll for it", syscall(SYS_ppoll, &(struct pollfd) { .fd = mine, .events = POLLIN }, 1, at, NULL, 8));
    say("FIONREAD", ioctl(mine, FIONREAD, at));
    say("getsockopt", getsockopt(mine, SOL_SOCKET, SO_RCVLOWAT, at, &len));
    say("futex", syscall(SYS_futex, (uintptr_t)at & ~3ul, FUTEX_WAIT_PRIVATE, 0, &(struct timespec) { 0, 1000 }));
    say("futex for it", syscall(SYS_futex, &there, FUTEX_WAIT_PRIVATE, there, at));
    say("sigaction", syscall(SYS_rt_sigaction, SIGUSR1, at, NULL, 8));
    say("sigaction to it", syscall(SYS_rt_sigaction, SIGUSR1, NULL, at, 8));
    say("sigprocmask", syscall(SYS_rt_sigprocmask, SIG_BLOCK, at, NULL, 8));
    say("sigprocmask to it", syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, at, 8));
    say("sigaltstack", syscall(SYS_sigaltstack, at, NULL));
    say("sigaltstack to it", syscall(SYS_sigaltstack, NULL, at));
    char rest[LEN];
    SAY("still to be read: %s", outcome(recv(mine, rest, sizeof rest, MSG_DONTWAIT)));
    close(set);
}

int main(int argc, char **argv)
{
    static struct side side = { .name = "probe", .control = -1 };
    self = &side;
    if (argc < 3) {
        hold();
        return 0;
    }
    char *at = (char *)strtoull(argv[2], NULL, 0);
    int port, listener = listen_at(INADDR_LOOPBACK, 4, &port), mine = connect_to(port), other = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    char byte;
    MUST(other >= 0);
    // Until both ends have found each other.
    for (int round = 0; round < 8; round++) {
        send_all(mine, "a", 1);
        receive_all(other, &byte, 1);
        send_all(other, "b", 1);
        receive_all(mine, &byte, 1);
    }
    SAY("== at its beginning");
    probe_at(at, mine, other);
    SAY("== across");
    probe_at(at + 1021, mine, other);
    return 0;
}
