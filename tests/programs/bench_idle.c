// build: dynamic
// Connections that are open and silent.
//   server PORT                     keeps all of its clients in one epoll set and echoes what they say
//   hold HOST PORT COUNT WHICH      opens COUNT connections and keeps them: says "holding" when the
//                                   server has accepted them all
// WHICH of them exchange a line with the server before they fall silent: `each`, or the `last`, whose
// answer shows that all before it are accepted, too. The line is one that Redis answers as well.
#include "bench_net.h"
#include <sys/epoll.h>

static void serve(int listener)
{
    int set = epoll_create1(0);
    MUST(set >= 0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, listener, &event) == 0);
    for (;;) {
        char line[64];
        MUST(epoll_wait(set, &event, 1, -1) == 1 || errno == EINTR);
        int fd = event.data.fd;
        if (fd == listener) {
            fd = accept(listener, NULL, NULL);
            MUST(fd >= 0);
            event.data.fd = fd;
            event.events = EPOLLIN;
            MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) == 0);
            continue;
        }
        ssize_t len = recv(fd, line, sizeof line, 0);
        if (len <= 0 || send(fd, line, (size_t)len, 0) != len)
            close(fd);
    }
}

static void exchange(int fd)
{
    static const char ping[] = "PING\r\n";
    char answer[64];
    MUST(send(fd, ping, sizeof ping - 1, 0) == sizeof ping - 1);
    MUST(recv(fd, answer, sizeof answer, 0) > 0);
}

int main(int argc, char **argv)
{
    MUST(argc >= 3);
    if (strcmp(argv[1], "server") == 0)
        serve(listen_on(argv[2]));
    MUST(argc == 6);
    struct sockaddr_in address = address_of(argv[2], argv[3]);
    int count = atoi(argv[4]);
    for (int i = 1; i <= count; i++) {
        int fd = connect_to(&address);
        if (i == count || strcmp(argv[5], "each") == 0)
            exchange(fd);
    }
    SAY("holding %d", count);
    for (;;)
        pause();
}
