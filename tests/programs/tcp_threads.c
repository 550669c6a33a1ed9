// build: dynamic
// Several threads on one end: woken by shutdown, closing under a reader, reading and writing at the same time.
#include "tcp_pair.h"

struct worker {
    pthread_t thread;
    int fd;
    int way;
    uint64_t offset, len;
    ssize_t result;
    int error;
    volatile int begun;
};

static void start(struct worker *worker, void *(*body)(void *))
{
    worker->begun = 0;
    MUST(pthread_create(&worker->thread, NULL, body, worker) == 0);
    while (!worker->begun)
        sleep_ms(1);
    // Long enough for it to be waiting.
    sleep_ms(40);
}

static const char *finish(struct worker *worker)
{
    MUST(pthread_join(worker->thread, NULL) == 0);
    errno = worker->error;
    return outcome(worker->result);
}

static void *wait_to_read(void *argument)
{
    struct worker *worker = argument;
    char byte;
    worker->begun = 1;
    struct pollfd one = { .fd = worker->fd, .events = POLLIN | POLLRDHUP };
    if (worker->way == 0)
        worker->result = recv(worker->fd, &byte, 1, 0);
    else if (worker->way == 1)
        worker->result = recv(worker->fd, &byte, 1, MSG_PEEK);
    else
        worker->result = poll(&one, 1, PATIENCE_MS) == 1 ? one.revents : -1;
    worker->error = errno;
    return NULL;
}

static void *wait_to_write(void *argument)
{
    struct worker *worker = argument;
    size_t len = 32u << 20;
    char *block = calloc(1, len);
    MUST(block != NULL);
    worker->begun = 1;
    worker->result = send(worker->fd, block, len, MSG_NOSIGNAL);
    worker->error = errno;
    free(block);
    return NULL;
}

// ---- shutdown wakes

static void shut_server(void)
{
    struct worker reader = { .fd = FD }, looker = { .fd = FD, .way = 1 }, poller = { .fd = FD, .way = 2 };
    start(&reader, wait_to_read);
    start(&looker, wait_to_read);
    start(&poller, wait_to_read);
    MUST(shutdown(FD, SHUT_RD) == 0);
    note("reader: %s", finish(&reader));
    note("looker: %s", finish(&looker));
    finish(&poller);
    note("poller: %s", event_names((unsigned)poller.result));
    meet();
    // The other half still goes.
    send_text("on");
    meet();
}

static void shut_client(void)
{
    meet();
    receive_text("on");
    meet();
}

static void shut_writer_server(void)
{
    struct worker writer = { .fd = FD };
    fill(FD, 0);
    start(&writer, wait_to_write);
    MUST(shutdown(FD, SHUT_WR) == 0);
    MUST(pthread_join(writer.thread, NULL) == 0);
    // What went before is said; what did not is refused.
    bool part = writer.result > 0 && writer.result < 32 << 20;
    bool refused = writer.result < 0 && writer.error == EPIPE;
    note("writer: %d", part || refused);
    note("then: %s", outcome(send(FD, "x", 1, MSG_NOSIGNAL)));
    meet();
}

static void shut_writer_client(void)
{
    meet();
    static char block[65536];
    ssize_t len;
    while ((len = read(FD, block, sizeof block)) > 0)
        continue;
    note("then: %s", outcome(len));
}

// ---- closing a descriptor while another thread waits in it: whether that one still reads, or is told that the descriptor is
// gone, is nobody's promise; but it ends, and so does the connection

static void closed_server(void)
{
    struct worker reader = { .fd = FD };
    start(&reader, wait_to_read);
    close(FD);
    FD = -1;
    meet();
    finish(&reader);
    note("reader: %d", reader.result == 1 || (reader.result < 0 && reader.error == EBADF));
    meet();
}

static void closed_client(void)
{
    meet();
    sleep_ms(30);
    send_text("x");
    meet();
    ready_with(FD, POLLRDHUP);
    note("then it ends: %d", (ready_now(FD) & (POLLIN | POLLRDHUP)) == (POLLIN | POLLRDHUP));
}

// ---- a listener that is shut wakes who accepts

static void *wait_to_accept(void *argument)
{
    struct worker *worker = argument;
    worker->begun = 1;
    worker->result = accept(worker->fd, NULL, NULL);
    worker->error = errno;
    return NULL;
}

static void listener_server(void)
{
    int port;
    struct worker one = { .fd = listen_at(INADDR_LOOPBACK, 4, &port) };
    start(&one, wait_to_accept);
    MUST(shutdown(one.fd, SHUT_RD) == 0);
    note("accept: %s", finish(&one));
    note("accept: %s", outcome(accept(one.fd, NULL, NULL)));
    note("listener: %s", event_names(ready_now(one.fd)));
    close(one.fd);
    // Two wait, two come.
    struct worker two[2];
    int listener = listen_at(INADDR_LOOPBACK, 4, &port);
    for (int i = 0; i < 2; i++) {
        two[i] = (struct worker) { .fd = listener };
        start(&two[i], wait_to_accept);
    }
    give(port);
    // Which of them has which connection is open; the client says which one it begins with.
    int first = take();
    for (int i = 0; i < 2; i++) {
        finish(&two[i]);
        MUST(two[i].result >= 0);
    }
    struct sockaddr_in name;
    socklen_t len = sizeof name;
    MUST(getpeername((int)two[0].result, (struct sockaddr *)&name, &len) == 0);
    int swapped = ntohs(name.sin_port) != first;
    for (int i = 0; i < 2; i++) {
        exchange((int)two[i ^ swapped].result, true);
        close((int)two[i ^ swapped].result);
    }
    note("accepted two");
    close(listener);
}

static void listener_client(void)
{
    int port = take(), fds[2];
    for (int i = 0; i < 2; i++)
        fds[i] = connect_to(port);
    struct sockaddr_in name;
    socklen_t len = sizeof name;
    MUST(getsockname(fds[0], (struct sockaddr *)&name, &len) == 0);
    give(ntohs(name.sin_port));
    exchange(fds[0], false);
    exchange(fds[1], false);
    close(fds[0]);
    close(fds[1]);
}

// ---- one thread reads while another writes, on both ends at once

enum { STREAM = 4000000 };

static void *write_stream(void *argument)
{
    struct worker *worker = argument;
    static __thread unsigned char block[33333];
    worker->begun = 1;
    for (uint64_t done = 0; done < worker->len;) {
        size_t len = sizeof block < worker->len - done ? sizeof block : (size_t)(worker->len - done);
        put_pattern(block, len, worker->offset + done);
        send_all(worker->fd, block, len);
        done += len;
    }
    return NULL;
}

static void duplex(uint64_t own, uint64_t other)
{
    struct worker writer = { .fd = FD, .offset = own, .len = STREAM };
    MUST(pthread_create(&writer.thread, NULL, write_stream, &writer) == 0);
    drain(FD, other, STREAM);
    MUST(pthread_join(writer.thread, NULL) == 0);
    note("both directions");
}

static void duplex_server(void)
{
    duplex(0, 12345);
}

static void duplex_client(void)
{
    duplex(12345, 0);
}

// A reader that waits does not keep the same end from writing.
static void waiting_server(void)
{
    struct worker reader = { .fd = FD };
    for (int round = 0; round < 3; round++) {
        start(&reader, wait_to_read);
        send_text("while one waits");
        note("reader: %s", finish(&reader));
    }
}

static void waiting_client(void)
{
    for (int round = 0; round < 3; round++) {
        receive_text("while one waits");
        send_text("x");
    }
}

// ---- records from two writers and to two readers: none is lost, and none torn by a single call

// Few enough to fit: a call that has to wait for room may be torn.
enum { RECORDS = 100, RECORD = 64, ROUNDS = 20 };

struct record {
    unsigned writer, number;
    unsigned char filling[RECORD - 8];
};

static void *write_records(void *argument)
{
    struct worker *worker = argument;
    struct record record = { .writer = (unsigned)worker->way };
    for (unsigned i = 0; i < RECORDS; i++) {
        record.number = i;
        memset(record.filling, (int)(i + record.writer), sizeof record.filling);
        // A blocking call that fits is one piece.
        ssize_t len = send(worker->fd, &record, sizeof record, MSG_NOSIGNAL);
        MUST(len == sizeof record);
    }
    return NULL;
}

static void writers_server(void)
{
    struct worker two[2];
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < 2; i++) {
            two[i] = (struct worker) { .fd = FD, .way = i };
            MUST(pthread_create(&two[i].thread, NULL, write_records, &two[i]) == 0);
        }
        for (int i = 0; i < 2; i++)
            MUST(pthread_join(two[i].thread, NULL) == 0);
        meet();
    }
}

static void writers_client(void)
{
    bool whole = true;
    unsigned total = 0;
    struct record record;
    for (int round = 0; round < ROUNDS; round++) {
        unsigned next[2] = { 0, 0 };
        for (int i = 0; i < 2 * RECORDS; i++) {
            receive_all(FD, &record, sizeof record);
            MUST(record.writer < 2 && record.number == next[record.writer]++);
            for (size_t k = 0; k < sizeof record.filling; k++)
                whole &= record.filling[k] == (unsigned char)(record.number + record.writer);
        }
        total += next[0] + next[1];
        meet();
    }
    note("%u records, whole %d", total, whole);
}

static void *read_bytes(void *argument)
{
    struct worker *worker = argument;
    unsigned char block[100];
    uint64_t sum = 0;
    ssize_t len;
    while ((len = recv(worker->fd, block, 1 + (size_t)(worker->len * 37 % sizeof block), 0)) > 0) {
        for (ssize_t i = 0; i < len; i++)
            sum += block[i];
        worker->len += (uint64_t)len;
    }
    worker->result = len;
    worker->offset = sum;
    return NULL;
}

static void readers_server(void)
{
    struct worker three[3];
    uint64_t total = 0, sum = 0;
    for (int i = 0; i < 3; i++) {
        three[i] = (struct worker) { .fd = FD };
        MUST(pthread_create(&three[i].thread, NULL, read_bytes, &three[i]) == 0);
    }
    for (int i = 0; i < 3; i++) {
        MUST(pthread_join(three[i].thread, NULL) == 0);
        MUST(three[i].result == 0);
        total += three[i].len;
        sum += three[i].offset;
    }
    note("three readers: %llu bytes, sum %llu", (unsigned long long)total, (unsigned long long)sum);
}

static void readers_client(void)
{
    static unsigned char block[500000];
    uint64_t sum = 0;
    put_pattern(block, sizeof block, 7);
    for (size_t i = 0; i < sizeof block; i++)
        sum += block[i];
    for (size_t done = 0; done < sizeof block;) {
        size_t len = 1 + done % 3333 < sizeof block - done ? 1 + done % 3333 : sizeof block - done;
        send_all(FD, block + done, len);
        done += len;
    }
    MUST(shutdown(FD, SHUT_WR) == 0);
    note("sum %llu", (unsigned long long)sum);
}

// All who wait see the end.
static void ends_server(void)
{
    struct worker three[3];
    for (int i = 0; i < 3; i++) {
        three[i] = (struct worker) { .fd = FD };
        start(&three[i], wait_to_read);
    }
    meet();
    for (int i = 0; i < 3; i++)
        note("reader: %s", finish(&three[i]));
}

static void ends_client(void)
{
    meet();
    MUST(shutdown(FD, SHUT_WR) == 0);
}

static const struct scenario scenarios[] = {
    { "shutdown_wakes", shut_server, shut_client, 0 },
    { "shutdown_wakes_client", shut_client, shut_server, 0 },
    { "shutdown_wakes_writer", shut_writer_server, shut_writer_client, 0 },
    { "closed_while_read", closed_server, closed_client, 0 },
    { "listener", listener_server, listener_client, ALONE },
    { "duplex", duplex_server, duplex_client, 0 },
    { "write_while_reading", waiting_server, waiting_client, 0 },
    { "writers", writers_server, writers_client, 0 },
    { "readers", readers_server, readers_client, 0 },
    { "end_for_all", ends_server, ends_client, 0 },
};

int main(int argc, char **argv)
{
    return PLAY(scenarios, argc, argv);
}
