// build: dynamic
// Names, ports, listening and connecting: what a connection says of itself, and how one comes about or not.
#include "tcp_pair.h"

static const char *address_text(const struct sockaddr_storage *name)
{
    static __thread char texts[4][80];
    static __thread unsigned next;
    char *text = texts[next++ % 4];
    if (name->ss_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)name)->sin_addr, text, sizeof texts[0]);
    else if (name->ss_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)name)->sin6_addr, text, sizeof texts[0]);
    else
        snprintf(text, sizeof texts[0], "family %d", name->ss_family);
    return text;
}

static int port_in(const struct sockaddr_storage *name)
{
    // The port is in the same place in both families.
    return ntohs(((const struct sockaddr_in *)name)->sin_port);
}

static int port_of(int fd, bool peer)
{
    struct sockaddr_storage name;
    socklen_t len = sizeof name;
    MUST((peer ? getpeername : getsockname)(fd, (struct sockaddr *)&name, &len) == 0);
    return port_in(&name);
}

static void note_names(const char *what, int fd)
{
    struct sockaddr_storage own = { 0 }, peer = { 0 };
    socklen_t own_len = sizeof own, peer_len = sizeof peer;
    MUST(getsockname(fd, (struct sockaddr *)&own, &own_len) == 0);
    if (getpeername(fd, (struct sockaddr *)&peer, &peer_len) < 0)
        note("%s: own %s, peer: %s", what, address_text(&own), name_of(errno));
    else
        note("%s: own %s (%u bytes), peer %s (%u bytes)", what, address_text(&own), own_len, address_text(&peer), peer_len);
}

// ---- both names of both ends

static void names_server(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, 8, &port);
    give(port);
    struct sockaddr_storage peer;
    memset(&peer, 0xee, sizeof peer);
    socklen_t len = sizeof peer;
    FD = accept4(listener, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC);
    MUST(FD >= 0);
    note("accepted from %s, %u bytes", address_text(&peer), len);
    int client = take();
    note("ports agree: %d %d %d", port_in(&peer) == client, port_of(FD, true) == client, port_of(FD, false) == port);
    exchange(FD, true);
    note_names("after an exchange", FD);
    note("ports agree: %d %d", port_of(FD, true) == client, port_of(FD, false) == port);
    struct sockaddr_in part;
    memset(&part, 0xee, sizeof part);
    len = 4;
    MUST(getpeername(FD, (struct sockaddr *)&part, &len) == 0);
    note("four bytes of it: family %d, length %u, rest untouched %d", part.sin_family, len, part.sin_addr.s_addr == 0xeeeeeeee);
    len = (socklen_t)-1;
    note("negative length: %s", outcome(getsockname(FD, (struct sockaddr *)&part, &len)));
    note("bind again: %s", outcome(bind(FD, (struct sockaddr *)&part, sizeof part)));
    struct sockaddr_in name = loopback(port);
    note("connect again: %s", outcome(connect(FD, (struct sockaddr *)&name, sizeof name)));
    note("listen: %s", outcome(listen(FD, 1)));
    note("accept: %s", outcome(accept(FD, NULL, NULL)));
    note("sendto a name: %s", outcome(sendto(FD, "x", 1, 0, (struct sockaddr *)&name, sizeof name)));
    close(listener);
    note_names("without the listener", FD);
    meet();
}

static void names_client(void)
{
    int port = take();
    FD = connect_to(port);
    give(port_of(FD, false));
    exchange(FD, false);
    note_names("after an exchange", FD);
    note("ports agree: %d", port_of(FD, true) == port);
    int domain, type, protocol, accepts;
    socklen_t len = sizeof domain;
    MUST(getsockopt(FD, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && getsockopt(FD, SOL_SOCKET, SO_TYPE, &type, &len) == 0);
    MUST(getsockopt(FD, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) == 0 && getsockopt(FD, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &len) == 0);
    note("domain %d, type %d, protocol %d, accepts %d", domain, type, protocol, accepts);
    receive_text("x");
    meet();
}

// ---- many at once have ports of their own

enum { MANY = 200 };

static void many_server(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, MANY, &port), fds[MANY];
    static unsigned char seen[65536];
    memset(seen, 0, sizeof seen);
    give(port);
    unsigned distinct = 0;
    for (int i = 0; i < MANY; i++) {
        fds[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        MUST(fds[i] >= 0);
        int from = port_of(fds[i], true);
        distinct += seen[from]++ == 0;
        // Each client says its own port: no two connections are mixed up.
        int said;
        receive_all(fds[i], &said, sizeof said);
        MUST(said == from);
        send_all(fds[i], &i, sizeof i);
    }
    note("%u of %d ports are distinct", distinct, MANY);
    for (int i = 0; i < MANY; i++) {
        int again;
        receive_all(fds[i], &again, sizeof again);
        MUST(again == i);
        close(fds[i]);
    }
    close(listener);
}

static void many_client(void)
{
    int port = take(), fds[MANY], numbers[MANY];
    for (int i = 0; i < MANY; i++) {
        fds[i] = connect_to(port);
        int own = port_of(fds[i], false);
        send_all(fds[i], &own, sizeof own);
    }
    for (int i = 0; i < MANY; i++)
        receive_all(fds[i], &numbers[i], sizeof numbers[i]);
    for (int i = MANY - 1; i >= 0; i--)
        send_all(fds[i], &numbers[i], sizeof numbers[i]);
    for (int i = 0; i < MANY; i++) {
        char end;
        MUST(read(fds[i], &end, 1) == 0);
        close(fds[i]);
    }
}

// ---- nobody listens

static void refused_server(void)
{
    int port;
    close(listen_at(INADDR_LOOPBACK, 1, &port));
    give(port);
    meet();
}

static void refused_client(void)
{
    struct sockaddr_in name = loopback(take());
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    note("blocking: %s", outcome(connect(fd, (struct sockaddr *)&name, sizeof name)));
    note("%s, error %s", event_names(ready_now(fd)), name_of(socket_error(fd)));
    note("again: %s", outcome(connect(fd, (struct sockaddr *)&name, sizeof name)));
    close(fd);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    note("new: %s", event_names(ready_now(fd)));
    note("not blocking: %s", outcome(connect(fd, (struct sockaddr *)&name, sizeof name)));
    note("then %s", ready_with(fd, POLLOUT | POLLERR));
    note("error %s", name_of(socket_error(fd)));
    note("error %s", name_of(socket_error(fd)));
    close(fd);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    note("not blocking: %s", outcome(connect(fd, (struct sockaddr *)&name, sizeof name)));
    ready_with(fd, POLLERR);
    note("write: %s", outcome(send(fd, "x", 1, MSG_NOSIGNAL)));
    note("read: %s", outcome(read(fd, &name, 1)));
    close(fd);
    meet();
}

// ---- without waiting

static void nonblocking_server(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, 4, &port);
    MUST(fcntl(listener, F_SETFL, O_NONBLOCK) == 0);
    note("nobody yet: %s, %s", outcome(accept(listener, NULL, NULL)), event_names(ready_now(listener)));
    give(port);
    take();
    note("listener %s", ready_with(listener, POLLIN));
    FD = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    MUST(FD >= 0);
    note("nonblocking %d, on exec closed %d", (fcntl(FD, F_GETFL) & O_NONBLOCK) != 0, (fcntl(FD, F_GETFD) & FD_CLOEXEC) != 0);
    char byte;
    note("read: %s", outcome(read(FD, &byte, 1)));
    MUST(fcntl(FD, F_SETFL, 0) == 0);
    meet();
    exchange(FD, true);
    // The listener's own flags do not go to what it accepts.
    meet();
    ready_with(listener, POLLIN);
    int second = accept(listener, NULL, NULL);
    note("nonblocking %d, on exec closed %d", (fcntl(second, F_GETFL) & O_NONBLOCK) != 0, (fcntl(second, F_GETFD) & FD_CLOEXEC) != 0);
    close(second);
    close(listener);
    meet();
}

static void nonblocking_client(void)
{
    struct sockaddr_in name = loopback(take());
    FD = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    note("connect: %s", outcome(connect(FD, (struct sockaddr *)&name, sizeof name)));
    note("then %s", ready_with(FD, POLLOUT));
    note("error %s", name_of(socket_error(FD)));
    note("state %s", state_of(FD));
    note("connect: %s", outcome(connect(FD, (struct sockaddr *)&name, sizeof name)));
    note("connect: %s", outcome(connect(FD, (struct sockaddr *)&name, sizeof name)));
    give(0);
    meet();
    char byte;
    note("read: %s", outcome(read(FD, &byte, 1)));
    MUST(fcntl(FD, F_SETFL, 0) == 0);
    exchange(FD, false);
    meet();
    close(connect_to(ntohs(name.sin_port)));
    meet();
}

// ---- a short queue: what does not fit waits, and what was written before accept is there after it

static void backlog_server(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, 2, &port);
    give(port);
    take();
    int fds[3];
    for (int i = 0; i < 3; i++) {
        char byte;
        fds[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        MUST(fds[i] >= 0);
        receive_all(fds[i], &byte, 1);
        note("said before accept: %c, state %s", byte, state_of(fds[i]));
    }
    for (int i = 0; i < 3; i++) {
        exchange(fds[i], true);
        close(fds[i]);
    }
    close(listener);
}

static void backlog_client(void)
{
    struct sockaddr_in name = loopback(take());
    int fds[6], established = 0;
    for (int i = 0; i < 6; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        MUST(connect(fds[i], (struct sockaddr *)&name, sizeof name) < 0 && errno == EINPROGRESS);
        sleep_ms(5);
    }
    for (int i = 0; i < 6; i++)
        established += (ready_now(fds[i]) & POLLOUT) != 0;
    note("%d of 6 are established", established);
    note("the last: %s, state %s", event_names(ready_now(fds[5])), state_of(fds[5]));
    note("its write: %s", outcome(send(fds[5], "x", 1, MSG_NOSIGNAL)));
    note("its connect: %s", outcome(connect(fds[5], (struct sockaddr *)&name, sizeof name)));
    for (int i = 3; i < 6; i++)
        close(fds[i]);
    for (int i = 0; i < 3; i++) {
        char byte = (char)('a' + i);
        MUST(fcntl(fds[i], F_SETFL, 0) == 0);
        send_all(fds[i], &byte, 1);
    }
    give(0);
    for (int i = 0; i < 3; i++) {
        exchange(fds[i], false);
        close(fds[i]);
    }
}

// ---- a listener that goes takes those with it that were not accepted, and no others

static void deserted_server(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, 4, &port);
    give(port);
    FD = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    MUST(FD >= 0);
    take();
    ready_with(listener, POLLIN);
    close(listener);
    meet();
    exchange(FD, true);
}

static void deserted_client(void)
{
    int port = take();
    FD = connect_to(port);
    int other = connect_to(port);
    send_all(other, "never read", 10);
    give(0);
    meet();
    note("not accepted: %s", ready_with(other, POLLERR));
    char byte;
    note("read: %s", outcome(read(other, &byte, 1)));
    close(other);
    exchange(FD, false);
    struct sockaddr_in name = loopback(port);
    other = socket(AF_INET, SOCK_STREAM, 0);
    note("connect: %s", outcome(connect(other, (struct sockaddr *)&name, sizeof name)));
    close(other);
}

// ---- every address, and both families

struct meeting {
    const char *what;
    const char *listens; // NULL for the wildcard of IPv6 with IPv4
    const char *connects;
};

static const struct meeting meetings[] = {
    { "loopback", "127.0.0.1", "127.0.0.1" },
    { "another loopback address", "127.0.0.1", "127.1.2.3" },
    { "wildcard", "0.0.0.0", "127.0.0.1" },
    { "wildcard by another address", "0.0.0.0", "127.1.2.3" },
    { "wildcard by the wildcard", "0.0.0.0", "0.0.0.0" },
    { "IPv6", "::1", "::1" },
    { "IPv6 wildcard", "::", "::1" },
    { "IPv6 wildcard by IPv4", NULL, "127.0.0.1" },
    { "IPv6 wildcard by a mapped address", NULL, "::ffff:127.0.0.1" },
    { "IPv6 wildcard by itself", NULL, "::" },
    { "mapped address by IPv4", "::ffff:127.0.0.1", "127.0.0.1" },
    { "mapped address by itself", "::ffff:127.0.0.1", "::ffff:127.0.0.1" },
    { "IPv4 by a mapped address", "127.0.0.1", "::ffff:127.0.0.1" },
    { "IPv6 only, by IPv4", "::", "127.0.0.1" },
};
enum { MEETINGS = sizeof meetings / sizeof *meetings };

static socklen_t address_from(const char *text, int port, struct sockaddr_storage *name)
{
    struct sockaddr_in *four = (struct sockaddr_in *)name;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)name;
    memset(name, 0, sizeof *name);
    if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons((uint16_t)port);
        return sizeof *four;
    }
    MUST(inet_pton(AF_INET6, text, &six->sin6_addr) == 1);
    six->sin6_family = AF_INET6;
    six->sin6_port = htons((uint16_t)port);
    return sizeof *six;
}

static void everywhere_server(void)
{
    for (unsigned i = 0; i < MEETINGS; i++) {
        const struct meeting *one = &meetings[i];
        struct sockaddr_storage name;
        socklen_t len = address_from(one->listens == NULL ? "::" : one->listens, 0, &name);
        int listener = socket(name.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), only = strcmp(one->what, "IPv6 only, by IPv4") == 0;
        if (listener >= 0 && name.ss_family == AF_INET6)
            MUST(setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only) == 0);
        if (listener < 0 || bind(listener, (struct sockaddr *)&name, len) < 0) {
            note("%s: not here: %s", one->what, name_of(errno));
            give(-1);
            close(listener);
            continue;
        }
        MUST(listen(listener, 4) == 0);
        note_names(one->what, listener);
        give(port_of(listener, false));
        if (take() == 0) {
            len = sizeof name;
            memset(&name, 0, sizeof name);
            int fd = accept4(listener, (struct sockaddr *)&name, &len, SOCK_CLOEXEC);
            MUST(fd >= 0);
            note("accepted from %s, %u bytes", address_text(&name), len);
            exchange(fd, true);
            note_names(one->what, fd);
            close(fd);
        }
        close(listener);
    }
}

static void everywhere_client(void)
{
    for (unsigned i = 0; i < MEETINGS; i++) {
        const struct meeting *one = &meetings[i];
        int port = take();
        if (port < 0)
            continue;
        struct sockaddr_storage name;
        socklen_t len = address_from(one->connects, port, &name);
        int fd = socket(name.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(fd, (struct sockaddr *)&name, len) < 0) {
            note("%s: %s", one->what, name_of(errno));
            give(1);
        } else {
            give(0);
            exchange(fd, false);
            note_names(one->what, fd);
        }
        close(fd);
    }
}

// ---- an end that is dissolved can be connected anew

static void dissolve_server(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, 4, &port);
    give(port);
    FD = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    MUST(FD >= 0);
    exchange(FD, true);
    meet();
    note("dissolved: %s", ready_with(FD, POLLHUP));
    char byte;
    note("read: %s", outcome(read(FD, &byte, 1)));
    note("read: %s", outcome(read(FD, &byte, 1)));
    close(FD);
    meet();
    FD = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    MUST(FD >= 0);
    exchange(FD, true);
    close(listener);
}

static void dissolve_client(void)
{
    int port = take();
    FD = connect_to(port);
    exchange(FD, false);
    struct sockaddr nothing = { .sa_family = AF_UNSPEC };
    note("dissolve: %s", outcome(connect(FD, &nothing, sizeof nothing)));
    note_names("then", FD);
    note("%s, state %s", event_names(ready_now(FD)), state_of(FD));
    char byte;
    note("read: %s", outcome(read(FD, &byte, 1)));
    note("write: %s", outcome(send(FD, "x", 1, MSG_NOSIGNAL)));
    meet();
    meet();
    struct sockaddr_in name = loopback(port);
    note("connect anew: %s", outcome(connect(FD, (struct sockaddr *)&name, sizeof name)));
    exchange(FD, false);
    note_names("then", FD);
}

// ---- a socket that is connected with itself: the port it has is the one it calls

static void self_server(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in name = loopback(0);
    socklen_t len = sizeof name;
    MUST(bind(fd, (struct sockaddr *)&name, len) == 0 && getsockname(fd, (struct sockaddr *)&name, &len) == 0);
    note("connect: %s", outcome(connect(fd, (struct sockaddr *)&name, len)));
    note("own port is the peer's: %d", port_of(fd, false) == port_of(fd, true));
    char text[8] = "";
    for (int round = 0; round < 6; round++) {
        send_all(fd, "echo", 4);
        receive_all(fd, text, 4);
    }
    note("read: %s", text);
    note("none left: %s", outcome(recv(fd, text, 4, MSG_DONTWAIT)));
    send_all(fd, "last", 4);
    MUST(shutdown(fd, SHUT_WR) == 0);
    receive_all(fd, text, 4);
    note("read: %s, then %s", text, outcome(read(fd, text, 4)));
    close(fd);
}

static void self_client(void)
{
}

// ---- options that change how a connection begins

static void early_server(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, 4, &port), on = 1;
    MUST(setsockopt(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, &on, sizeof on) == 0);
    // What the listener is set to, its connections are too.
    MUST(setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0 && setsockopt(listener, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) == 0);
    struct timeval limit = { 7, 0 };
    MUST(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
    give(port);
    FD = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    MUST(FD >= 0);
    note("accepted when %s", event_names(ready_now(FD)));
    receive_text("early");
    int nodelay = -1, keep = -1;
    socklen_t len = sizeof nodelay;
    MUST(getsockopt(FD, IPPROTO_TCP, TCP_NODELAY, &nodelay, &len) == 0 && getsockopt(FD, SOL_SOCKET, SO_KEEPALIVE, &keep, &len) == 0);
    limit = (struct timeval) { 0 };
    len = sizeof limit;
    MUST(getsockopt(FD, SOL_SOCKET, SO_RCVTIMEO, &limit, &len) == 0);
    note("inherited: nodelay %d, keepalive %d, limit %ld s", nodelay, keep, (long)limit.tv_sec);
    exchange(FD, true);
    close(FD);
    FD = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    MUST(FD >= 0);
    // What came with the connect is read in two parts, between which the client sends more.
    receive_text("fi");
    meet();
    meet();
    receive_text("rst, second");
    exchange(FD, true);
    close(listener);
}

static void early_client(void)
{
    struct sockaddr_in name = loopback(take());
    FD = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(connect(FD, (struct sockaddr *)&name, sizeof name) == 0);
    send_text("early");
    exchange(FD, false);
    close(FD);
    FD = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    note("data with the connect: %s", outcome(sendto(FD, "first", 5, MSG_FASTOPEN, (struct sockaddr *)&name, sizeof name)));
    meet();
    send_text(", second");
    meet();
    exchange(FD, false);
    note_names("then", FD);
}

// ---- a client that names its own port, twice in a row

static void named_server(void)
{
    int port, listener = listen_at(INADDR_LOOPBACK, 4, &port);
    give(port);
    for (int i = 0; i < 2; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        MUST(fd >= 0);
        note("from the port it named: %d", port_of(fd, true) == take());
        exchange(fd, true);
        close(fd);
    }
    struct sockaddr_in name = loopback(port);
    int other = socket(AF_INET, SOCK_STREAM, 0);
    note("bind to a port in use: %s", outcome(bind(other, (struct sockaddr *)&name, sizeof name)));
    close(other);
    close(listener);
}

static void named_client(void)
{
    int port = take(), own = 0, on = 1;
    for (int i = 0; i < 2; i++) {
        struct sockaddr_in name = loopback(own), peer = loopback(port);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
        MUST(bind(fd, (struct sockaddr *)&name, sizeof name) == 0);
        own = port_of(fd, false);
        MUST(connect(fd, (struct sockaddr *)&peer, sizeof peer) == 0);
        give(own);
        exchange(fd, false);
        char byte;
        MUST(read(fd, &byte, 1) == 0);
        close(fd);
    }
}

static const struct scenario scenarios[] = {
    { "names", names_server, names_client, ALONE },
    { "many", many_server, many_client, ALONE },
    { "refused", refused_server, refused_client, ALONE },
    { "nonblocking", nonblocking_server, nonblocking_client, ALONE },
    { "backlog", backlog_server, backlog_client, ALONE },
    { "deserted", deserted_server, deserted_client, ALONE },
    { "everywhere", everywhere_server, everywhere_client, ALONE },
    { "dissolve", dissolve_server, dissolve_client, ALONE },
    { "self", self_server, self_client, ALONE },
    { "early", early_server, early_client, ALONE },
    { "named", named_server, named_client, ALONE },
};

int main(int argc, char **argv)
{
    return PLAY(scenarios, argc, argv);
}
