// build: dynamic
// A new TCP connection for each request, one at a time.
//   server PORT            answers one byte with one byte, and closes
//   client HOST PORT MS    prints connections per second
// The server closes first, as with HTTP/1.0, so that the client does not run out of ports.
#include "bench_net.h"

static void serve(int listener)
{
    for (;;) {
        char byte;
        int fd = accept(listener, NULL, NULL);
        MUST(fd >= 0);
        if (recv(fd, &byte, 1, 0) == 1 && send(fd, &byte, 1, 0) != 1)
            SAY("a client left early");
        close(fd);
    }
}

static void request(const struct sockaddr_in *address)
{
    char byte = 'x';
    int fd = connect_to(address);
    MUST(send(fd, &byte, 1, 0) == 1);
    MUST(recv(fd, &byte, 1, 0) == 1);
    MUST(recv(fd, &byte, 1, 0) == 0);
    close(fd);
}

int main(int argc, char **argv)
{
    MUST(argc >= 3);
    if (strcmp(argv[1], "server") == 0)
        serve(listen_on(argv[2]));
    MUST(argc == 5);
    struct sockaddr_in address = address_of(argv[2], argv[3]);
    int64_t length_ns = atoll(argv[4]) * 1000000, began = now_ns();
    double count = 0;
    for (; now_ns() - began < length_ns; count++)
        request(&address);
    say_rate(count, began);
    return 0;
}
