// build: dynamic
// Every call that moves bytes, in both directions, with nothing to move, and with more than goes at once.
#include "tcp_pair.h"
#include <limits.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>

// ---- each way of writing, read in one of the ways of reading

enum { WAYS = 8, BLOCK = 999 };

static ssize_t send_in_way(int way, unsigned char *block, size_t len)
{
    struct iovec parts[4] = { { block, 1 }, { block, 0 }, { block + 1, len / 2 }, { block + 1 + len / 2, len - 1 - len / 2 } };
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = 4 };
    struct mmsghdr several[2] = { { .msg_hdr = { .msg_iov = parts, .msg_iovlen = 2 } }, { .msg_hdr = { .msg_iov = parts + 2, .msg_iovlen = 2 } } };
    switch (way) {
    case 0:
        return write(FD, block, len);
    case 1:
        return writev(FD, parts, 4);
    case 2:
        return send(FD, block, len, 0);
    case 3:
        return sendto(FD, block, len, MSG_NOSIGNAL, NULL, 0);
    case 4:
        return sendmsg(FD, &message, 0);
    case 5:
        MUST(sendmmsg(FD, several, 2, 0) == 2);
        return several[0].msg_len + several[1].msg_len;
    case 6:
        return pwritev2(FD, parts, 4, -1, 0);
    default:
        return syscall(SYS_sendto, FD, block, len, 0, NULL, 0);
    }
}

static ssize_t receive_in_way(int way, unsigned char *block, size_t len)
{
    struct iovec parts[4] = { { block, 1 }, { block, 0 }, { block + 1, len / 2 }, { block + 1 + len / 2, len - 1 - len / 2 } };
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = 4 };
    struct mmsghdr several[2] = { { .msg_hdr = { .msg_iov = parts, .msg_iovlen = 2 } }, { .msg_hdr = { .msg_iov = parts + 2, .msg_iovlen = 2 } } };
    switch (way) {
    case 0:
        return read(FD, block, len);
    case 1:
        return readv(FD, parts, 4);
    case 2:
        return recv(FD, block, len, 0);
    case 3:
        return recvfrom(FD, block, len, MSG_WAITALL, NULL, NULL);
    case 4:
        return recvmsg(FD, &message, 0);
    case 5:
        if (recvmmsg(FD, several, 2, MSG_WAITALL, NULL) != 2)
            return -1;
        return several[0].msg_len + several[1].msg_len;
    case 6:
        return preadv2(FD, parts, 4, -1, 0);
    default:
        return syscall(SYS_recvfrom, FD, block, len, 0, NULL, NULL);
    }
}

static void wait_for(int bytes)
{
    int there = 0;
    int64_t deadline = now_ms() + PATIENCE_MS;
    while (ioctl(FD, FIONREAD, &there) == 0 && there < bytes && now_ms() < deadline)
        sleep_ms(1);
    MUST(there == bytes);
}

static void ways_server(void)
{
    unsigned char block[BLOCK + 1];
    uint64_t offset = 0;
    for (int out = 0; out < WAYS; out++)
        for (int in = out % 4; in < WAYS; in += 4) {
            wait_for(BLOCK);
            memset(block, 0, sizeof block);
            ssize_t len = receive_in_way(in, block, BLOCK);
            if (len != BLOCK || !is_pattern(block, BLOCK, offset))
                note("sent in way %d, received in way %d: %s, intact %d", out, in, outcome(len), is_pattern(block, BLOCK, offset));
            offset += BLOCK;
            put_pattern(block, BLOCK, offset);
            len = send_in_way((out + in) % WAYS, block, BLOCK);
            if (len != BLOCK)
                note("sent in way %d: %s", (out + in) % WAYS, outcome(len));
        }
    note("%llu bytes", (unsigned long long)offset);
}

static void ways_client(void)
{
    unsigned char block[BLOCK + 1];
    uint64_t offset = 0;
    for (int out = 0; out < WAYS; out++)
        for (int in = out % 4; in < WAYS; in += 4) {
            put_pattern(block, BLOCK, offset);
            ssize_t len = send_in_way(out, block, BLOCK);
            if (len != BLOCK)
                note("sent in way %d: %s", out, outcome(len));
            offset += BLOCK;
            memset(block, 0, sizeof block);
            receive_all(FD, block, BLOCK);
            MUST(is_pattern(block, BLOCK, offset));
        }
}

// ---- nothing to move

static void nothing_server(void)
{
    char text[16];
    struct iovec none[2] = { { text, 0 }, { NULL, 0 } };
    struct msghdr message = { .msg_iov = none, .msg_iovlen = 2 };
    note("read: %s", outcome(read(FD, text, 0)));
    note("readv: %s, of none %s", outcome(readv(FD, none, 2)), outcome(readv(FD, none, 0)));
    note("recv: %s", outcome(recv(FD, text, 0, MSG_DONTWAIT)));
    note("recvmsg: %s", outcome(recvmsg(FD, &message, MSG_DONTWAIT)));
    note("recvmmsg of none: %s", outcome(recvmmsg(FD, NULL, 0, MSG_DONTWAIT, NULL)));
    note("write: %s", outcome(write(FD, text, 0)));
    note("writev: %s, of none %s", outcome(writev(FD, none, 2)), outcome(writev(FD, none, 0)));
    note("send: %s", outcome(send(FD, text, 0, 0)));
    note("sendmsg: %s", outcome(sendmsg(FD, &message, 0)));
    note("sendmmsg of none: %s", outcome(sendmmsg(FD, NULL, 0, 0)));
    note("%s", event_names(ready_now(FD)));
    meet();
    meet();
    // With something there.
    ready_with(FD, POLLIN);
    note("read: %s", outcome(read(FD, text, 0)));
    note("recv: %s", outcome(recv(FD, text, 0, 0)));
    receive_text("something");
    meet();
    ready_with(FD, POLLRDHUP);
    note("at the end: %s, %s", outcome(read(FD, text, 0)), outcome(recv(FD, text, 0, 0)));
}

static void nothing_client(void)
{
    meet();
    char byte;
    // Empty writes are nothing that the peer sees.
    note("%s, read: %s", event_names(ready_now(FD)), outcome(recv(FD, &byte, 1, MSG_DONTWAIT)));
    send_text("something");
    meet();
    meet();
    MUST(shutdown(FD, SHUT_WR) == 0);
}

// ---- many parts, and too many

static void parts_server(void)
{
    static unsigned char block[IOV_MAX * 7];
    struct iovec parts[IOV_MAX + 1];
    for (int i = 0; i <= IOV_MAX; i++)
        parts[i] = (struct iovec) { block + (i % IOV_MAX) * 7, 7 };
    put_pattern(block, sizeof block, 0);
    note("most: %s", outcome(writev(FD, parts, IOV_MAX)));
    note("one more: %s", outcome(writev(FD, parts, IOV_MAX + 1)));
    note("fewer than none: %s", outcome(syscall(SYS_writev, FD, parts, -1)));
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = IOV_MAX + 1 };
    note("one more by message: %s", outcome(sendmsg(FD, &message, 0)));
    note("one more to read: %s", outcome(recvmsg(FD, &message, MSG_DONTWAIT)));
    parts[0].iov_len = SSIZE_MAX;
    parts[1].iov_len = SSIZE_MAX;
    note("too long: %s, %s", outcome(writev(FD, parts, 2)), outcome(readv(FD, parts, 2)));
    parts[0].iov_len = (size_t)-1;
    note("negative: %s, %s", outcome(writev(FD, parts, 1)), outcome(readv(FD, parts, 1)));
    for (int i = 0; i < IOV_MAX; i++)
        parts[i] = (struct iovec) { block + i, 1 };
    memset(block, 0, sizeof block);
    meet();
    ready_with(FD, POLLIN);
    wait_for(1500);
    ssize_t len = readv(FD, parts, IOV_MAX);
    note("into single bytes: %s, intact %d", outcome(len), is_pattern(block, IOV_MAX, 9));
    len = readv(FD, parts, IOV_MAX);
    note("the rest: %s, intact %d", outcome(len), is_pattern(block, 1500 - IOV_MAX, 9 + IOV_MAX));
}

static void parts_client(void)
{
    drain(FD, 0, IOV_MAX * 7);
    unsigned char block[1500];
    put_pattern(block, sizeof block, 9);
    send_all(FD, block, sizeof block);
    meet();
}

// ---- several messages in one call

static void messages_server(void)
{
    char text[4][8] = { "" };
    struct iovec parts[4];
    struct mmsghdr several[4] = { 0 };
    for (int i = 0; i < 4; i++) {
        parts[i] = (struct iovec) { text[i], 4 };
        several[i].msg_hdr.msg_iov = &parts[i];
        several[i].msg_hdr.msg_iovlen = 1;
    }
    note("nothing there: %s", outcome(recvmmsg(FD, several, 4, MSG_DONTWAIT, NULL)));
    meet();
    wait_for(10);
    int count = recvmmsg(FD, several, 4, MSG_WAITFORONE, NULL);
    note("ten bytes: %d messages of %u %u %u, '%s' '%s' '%s'", count, several[0].msg_len, several[1].msg_len, several[2].msg_len, text[0], text[1], text[2]);
    struct timespec limit = { 0, 50000000 };
    meet();
    ready_with(FD, POLLIN);
    // The limit is looked at after each message only.
    count = recvmmsg(FD, several, 2, 0, &limit);
    note("with a limit: %d messages", count);
    meet();
    struct timespec wrong = { 0, -1 };
    note("wrong limit: %s", outcome(recvmmsg(FD, several, 2, 0, &wrong)));
    parts[1].iov_base = NULL;
    ready_with(FD, POLLIN);
    wait_for(12);
    count = recvmmsg(FD, several, 3, 0, NULL);
    note("the second to nowhere: %d messages", count);
    note("and then: %s", outcome(read(FD, text[0], 8)));
    // The error of a message that was not the first may be kept for the next call: it is taken here, and not looked at.
    socket_error(FD);
    parts[1].iov_base = text[1];
    parts[2].iov_base = (void *)1;
    count = sendmmsg(FD, several, 4, 0);
    note("the third from nowhere: %d messages", count);
}

static void messages_client(void)
{
    meet();
    send_text("abcdefghij");
    meet();
    send_text("1234");
    sleep_ms(100);
    send_text("5678");
    meet();
    send_text("abcdefghijkl");
    char text[16];
    receive_all(FD, text, 8);
    note("none more: %s", outcome(recv(FD, text, 1, MSG_DONTWAIT)));
}

// ---- files

static int pattern_file(size_t len)
{
    int file = memfd_create("pattern", MFD_CLOEXEC);
    unsigned char block[10000];
    for (size_t done = 0; done < len; done += sizeof block) {
        put_pattern(block, sizeof block, done);
        MUST(write(file, block, sizeof block) == sizeof block);
    }
    MUST(lseek(file, 0, SEEK_SET) == 0);
    return file;
}

enum { FILE_LEN = 2000000 };

static void files_server(void)
{
    int file = pattern_file(FILE_LEN);
    off_t offset = 100;
    note("a piece: %s", outcome(sendfile(FD, file, &offset, 900)));
    note("the offset went on to %ld, the file's stayed at %ld", (long)offset, (long)lseek(file, 0, SEEK_CUR));
    size_t done = 0;
    while (done < FILE_LEN) {
        ssize_t len = sendfile(FD, file, NULL, FILE_LEN);
        MUST(len > 0);
        done += (size_t)len;
    }
    note("the whole: %zu, at its end %s", done, outcome(sendfile(FD, file, NULL, 10)));
    offset = FILE_LEN - 5;
    note("over the end: %s", outcome(sendfile(FD, file, &offset, 100)));
    offset = -1;
    note("negative: %s", outcome(sendfile(FD, file, &offset, 100)));
    note("from a socket to a file: %s", outcome(sendfile(file, FD, NULL, 10)));
    note("from the socket to itself: %s", outcome(sendfile(FD, FD, NULL, 10)));
    note("copied: %s", outcome(copy_file_range(file, &(off_t) { 0 }, FD, NULL, 10, 0)));
    MUST(shutdown(FD, SHUT_WR) == 0);
    close(file);
}

static void files_client(void)
{
    drain(FD, 100, 900);
    drain(FD, 0, FILE_LEN);
    drain(FD, FILE_LEN - 5, 5);
    char byte;
    note("then: %s", outcome(read(FD, &byte, 1)));
}

// ---- pipes in between

static void splice_server(void)
{
    int pair[2];
    MUST(pipe2(pair, O_CLOEXEC) == 0);
    // The flag SPLICE_F_NONBLOCK is about the pipe only.
    MUST(fcntl(FD, F_SETFL, O_NONBLOCK) == 0);
    note("nothing there: %s", outcome(splice(FD, NULL, pair[1], NULL, 100, 0)));
    MUST(fcntl(FD, F_SETFL, 0) == 0);
    meet();
    wait_for(1000);
    note("to a pipe: %s", outcome(splice(FD, NULL, pair[1], NULL, 600, 0)));
    note("to a pipe: %s", outcome(splice(FD, NULL, pair[1], NULL, 600, SPLICE_F_MORE)));
    unsigned char block[1000];
    MUST(read(pair[0], block, sizeof block) == sizeof block);
    note("intact %d", is_pattern(block, sizeof block, 0));
    MUST(write(pair[1], block, 700) == 700);
    note("from a pipe: %s", outcome(splice(pair[0], NULL, FD, NULL, 300, 0)));
    note("from a pipe: %s", outcome(splice(pair[0], NULL, FD, NULL, 1000, SPLICE_F_MOVE)));
    note("with an offset: %s", outcome(splice(FD, &(off_t) { 0 }, pair[1], NULL, 10, 0)));
    note("no pipe: %s", outcome(splice(FD, NULL, FD, NULL, 10, 0)));
    note("tee: %s", outcome(tee(FD, pair[1], 10, 0)));
    struct iovec part = { block, 10 };
    note("vmsplice: %s", outcome(vmsplice(FD, &part, 1, 0)));
    meet();
    // Splicing waits as reading does, and ends as it does.
    note("later: %s", outcome(splice(FD, NULL, pair[1], NULL, 100, 0)));
    note("at the end: %s", outcome(splice(FD, NULL, pair[1], NULL, 100, 0)));
    close(pair[0]);
    close(pair[1]);
}

static void splice_client(void)
{
    meet();
    unsigned char block[1000];
    put_pattern(block, sizeof block, 0);
    send_all(FD, block, sizeof block);
    drain(FD, 0, 700);
    meet();
    sleep_ms(40);
    send_text("later");
    sleep_ms(40);
    MUST(shutdown(FD, SHUT_WR) == 0);
}

// ---- writes that do not fit

static void full_server(void)
{
    MUST(fcntl(FD, F_SETFL, O_NONBLOCK) == 0);
    uint64_t sent = 0;
    ssize_t last;
    // A probe of the closed window may make room for a little more.
    do {
        sent += fill(FD, sent);
        char byte = (char)byte_at(sent);
        last = write(FD, &byte, 1);
        sent += last == 1;
    } while (last == 1);
    note("full: write %s, %s", outcome(last), event_names(ready_now(FD)));
    // The other direction is not affected.
    char text[8];
    MUST(ready_with(FD, POLLIN) != NULL);
    note("read: %s", outcome(read(FD, text, 7)));
    give((int)sent);
    note("read by the peer: %s", ready_with(FD, POLLOUT));
    meet();
    // Blocks of odd sizes while the peer reads blocks of other sizes.
    static unsigned char block[77777];
    uint64_t offset = 0;
    unsigned waits = 0;
    while (offset < 6000000) {
        size_t len = 1 + (size_t)(offset * 7919 % sizeof block);
        put_pattern(block, len, offset);
        ssize_t now = write(FD, block, len);
        if (now < 0) {
            MUST(errno == EAGAIN);
            waits++;
            struct pollfd one = { .fd = FD, .events = POLLOUT };
            MUST(poll(&one, 1, PATIENCE_MS) == 1);
            continue;
        }
        offset += (uint64_t)now;
    }
    (void)waits;
    MUST(shutdown(FD, SHUT_WR) == 0);
    give((int)offset);
}

static void full_client(void)
{
    send_text("reverse");
    uint64_t sent = (uint64_t)take();
    drain(FD, 0, sent);
    note("all there");
    char byte;
    note("none more: %s", outcome(recv(FD, &byte, 1, MSG_DONTWAIT)));
    meet();
    static unsigned char block[20000];
    uint64_t offset = 0;
    for (;;) {
        ssize_t now = read(FD, block, 1 + (size_t)(offset * 31 % sizeof block));
        MUST(now >= 0);
        if (now == 0)
            break;
        MUST(is_pattern(block, (size_t)now, offset));
        offset += (uint64_t)now;
    }
    note("all there %d", offset == (uint64_t)take());
}

// ---- both directions full at once: each side writes all before it reads

enum { CROSSED = 60000 };

static void crossed(unsigned seed)
{
    static __thread unsigned char block[CROSSED];
    for (int round = 0; round < 20; round++) {
        put_pattern(block, sizeof block, seed + (unsigned)round);
        send_all(FD, block, sizeof block);
        drain(FD, 1 - seed + (unsigned)round, sizeof block);
    }
    note("crossed");
}

static void crossed_server(void)
{
    crossed(0);
}

static void crossed_client(void)
{
    crossed(1);
}

static const struct scenario scenarios[] = {
    { "ways", ways_server, ways_client, 0 },
    { "nothing", nothing_server, nothing_client, 0 },
    { "nothing_of_client", nothing_client, nothing_server, 0 },
    { "parts", parts_server, parts_client, 0 },
    { "messages", messages_server, messages_client, 0 },
    { "files", files_server, files_client, 0 },
    { "files_of_client", files_client, files_server, 0 },
    { "splice", splice_server, splice_client, 0 },
    { "full", full_server, full_client, 0 },
    { "full_of_client", full_client, full_server, 0 },
    { "crossed", crossed_server, crossed_client, 0 },
};

int main(int argc, char **argv)
{
    return PLAY(scenarios, argc, argv);
}
