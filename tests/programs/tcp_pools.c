// build: dynamic
// More connections than the vkernel has memory for. They are slower, or Linux's, and nothing else; and later ones are not.
//
// The last argument is for `places.h`.
#include "tcp_pair.h"
#include "places.h"
#include <sys/epoll.h>
#include <sys/resource.h>

// ---- more than there are buffers

enum {
    BEYOND = 100,
    // More than fits into a connection's own page.
    LEN = 3000,
    LONG = 300000,
};

static int count(void)
{
    return (int)at.heads[BUFFERS][1] / 2 + BEYOND;
}

static uint32_t buffers_in_use(void)
{
    return head_of(BUFFERS)->used;
}

// Sends as much of the pattern as is taken; how much that is.
static int send_some(int fd)
{
    unsigned char block[LEN];
    put_pattern(block, sizeof block, 0);
    int done = 0;
    ssize_t now;
    while (done < LEN && (now = send(fd, block + done, (size_t)(LEN - done), MSG_DONTWAIT | MSG_NOSIGNAL)) > 0)
        done += (int)now;
    return done;
}

static int receive_some(int fd)
{
    unsigned char block[LEN + 1];
    int done = 0;
    ssize_t now;
    while ((now = recv(fd, block + done, sizeof block - (size_t)done, MSG_DONTWAIT)) > 0)
        done += (int)now;
    MUST(now < 0 && errno == EAGAIN && is_pattern(block, (size_t)done, 0));
    return done;
}

static void transfer(int fd, bool sends)
{
    static __thread unsigned char block[LONG];
    if (sends) {
        put_pattern(block, LONG, 0);
        send_all(fd, block, LONG);
    } else {
        drain(fd, 0, LONG);
    }
}

// Fills all of them, reads them out, and uses those that have come last for something longer meanwhile.
static void use_all(int *fds, int len, bool server)
{
    int sent = 0, received = 0, refused = 0;
    meet();
    for (int i = 0; i < len; i++) {
        int now = send_some(fds[i]);
        sent += now;
        refused += now < LEN;
        MUST(now > 0);
    }
    meet();
    // Which side has had the buffers is chance.
    give(refused);
    refused += take();
    note("not all that was offered was taken: %d, and no buffer is left: %d", refused > 0, buffers_in_use() == at.heads[BUFFERS][1]);
    meet();
    for (int i = len - BEYOND / 2; i < len; i++)
        received += receive_some(fds[i]);
    meet();
    for (int i = len - 10; i < len; i++) {
        transfer(fds[i], server);
        transfer(fds[i], !server);
    }
    meet();
    for (int i = 0; i < len - BEYOND / 2; i++)
        received += receive_some(fds[i]);
    give(sent);
    note("what was sent has come: %d", take() == received);
    for (int i = 0; i < len; i++)
        close(fds[i]);
    free(fds);
    meet();
    note("buffers in use in the end: %u", buffers_in_use());
    meet();
    int fd = connect_pair(server);
    exchange(fd, server);
    meet();
    if (server) {
        int taken = send_some(fd);
        note("one more takes %d, buffers in use: %u", taken, buffers_in_use());
    }
    meet();
    if (!server)
        note("and %d come", receive_some(fd));
    meet();
    close(fd);
}

static void raise_limit(void)
{
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = limit.rlim_max;
    MUST(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static void buffers_server(void)
{
    int len = count(), *fds = calloc((size_t)len, sizeof *fds), port, listener = listen_at(INADDR_LOOPBACK, 128, &port);
    char byte;
    raise_limit();
    MUST(fds != NULL);
    give(port);
    for (int i = 0; i < len; i++) {
        fds[i] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        MUST(fds[i] >= 0);
        receive_all(fds[i], &byte, 1);
        send_all(fds[i], "!", 1);
    }
    close(listener);
    use_all(fds, len, true);
}

static void buffers_client(void)
{
    int len = count(), *fds = calloc((size_t)len, sizeof *fds), port = take();
    char byte;
    raise_limit();
    MUST(fds != NULL);
    for (int i = 0; i < len; i++) {
        fds[i] = connect_to(port);
        send_all(fds[i], "?", 1);
        receive_all(fds[i], &byte, 1);
    }
    use_all(fds, len, false);
}

// ---- no record of a kind

static const char *const names[] = { "sockets", "connections", "buffers", "items", "sets" };

static int is_on_ring(int fd)
{
    struct sockaddr_in local, remote;
    socklen_t len = sizeof local;
    MUST(getsockname(fd, (struct sockaddr *)&local, &len) == 0 && getpeername(fd, (struct sockaddr *)&remote, &len) == 0);
    return rings_of(ntohs(local.sin_port), ntohs(remote.sin_port)).out != NULL;
}

// A connection, in a set; how it went is `what`.
static int try_one(const char *what, bool server)
{
    int fd = connect_pair(server), set = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = { .events = EPOLLIN };
    exchange(fd, server);
    if (server) {
        MUST(set >= 0);
        const char *added = outcome(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
        bool is_member = strcmp(added, "0") == 0;
        note("%s: to be added: %s", what, added);
        note("%s: nothing to read: %s", what, outcome(epoll_wait(set, &event, 1, 0)));
        meet();
        int found = is_member ? epoll_wait(set, &event, 1, PATIENCE_MS) : poll(&(struct pollfd) { .fd = fd, .events = POLLIN }, 1, PATIENCE_MS);
        note("%s: something to read: %d", what, found);
        receive_all(fd, (char[5]) { 0 }, 5);
        note("%s: over a ring: %d", what, is_on_ring(fd));
    } else {
        meet();
        sleep_ms(20);
        send_all(fd, "bytes", 5);
    }
    exchange(fd, server);
    close(set);
    return fd;
}

static void each_pool(bool server)
{
    for (enum pool pool = SOCKETS; pool <= SETS; pool++) {
        struct head *head = head_of(pool), before = { .free = head->free, .fresh = head->fresh };
        meet();
        if (server) {
            // As if all were taken.
            head->free = before.free & 0xffffffff00000000;
            head->fresh = (uint32_t)at.heads[pool][1];
        }
        meet();
        int fd = try_one(names[pool], server);
        meet();
        if (server) {
            // Nothing has been given back meanwhile.
            MUST(head->free == (before.free & 0xffffffff00000000));
            head->free = before.free;
            head->fresh = before.fresh;
        }
        meet();
        int later = try_one("later", server);
        exchange(fd, server);
        close(fd);
        close(later);
        meet();
    }
}

static void pools_server(void)
{
    each_pool(true);
}

static void pools_client(void)
{
    each_pool(false);
}

static const struct scenario scenarios[] = {
    { "buffers", buffers_server, buffers_client, ALONE },
    { "each", pools_server, pools_client, ALONE },
};

int main(int argc, char **argv)
{
    find_places(&argc, argv);
    return PLAY(scenarios, argc, argv);
}
