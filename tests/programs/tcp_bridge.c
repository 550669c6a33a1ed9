// build: dynamic
// Over a network between containers. `serve PORT`: answers whoever comes. `ask ADDRESS PORT MS`: a few questions, or why not.
#include "tcp_pair.h"

static void serve(int port)
{
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in name = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    MUST(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
    MUST(bind(listener, (struct sockaddr *)&name, sizeof name) == 0 && listen(listener, 8) == 0);
    SAY("listening");
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        MUST(fd >= 0);
        exchange_unmet(fd, true);
        close(fd);
    }
}

static void ask(const char *address, int port, int limit_ms)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in name = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    MUST(inet_pton(AF_INET, address, &name.sin_addr) == 1);
    MUST(connect(fd, (struct sockaddr *)&name, sizeof name) == 0 || errno == EINPROGRESS);
    struct pollfd one = { .fd = fd, .events = POLLOUT };
    int ready = poll(&one, 1, limit_ms);
    if (ready == 0) {
        SAY("no answer: %s", state_of(fd));
        return;
    }
    int error = socket_error(fd);
    if (error != 0) {
        SAY("no connection: %s", name_of(error));
        return;
    }
    MUST(fcntl(fd, F_SETFL, 0) == 0);
    exchange_unmet(fd, false);
    char byte;
    SAY("answered, then %s", outcome(read(fd, &byte, 1)));
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        serve(atoi(argv[2]));
    MUST(argc == 5 && strcmp(argv[1], "ask") == 0);
    ask(argv[2], atoi(argv[3]), atoi(argv[4]));
    return 0;
}
