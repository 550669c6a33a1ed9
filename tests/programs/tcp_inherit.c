// build: dynamic
// One connection under several descriptors, in several processes, handed over, and across execve.
#include "tcp_pair.h"
#include <linux/close_range.h>
#include <sys/syscall.h>

// How `cat` and this program are found again.
static char self_path[256];

static pid_t begin_child(void)
{
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0)
        signal(SIGPIPE, SIG_DFL);
    return child;
}

static void end_child(pid_t child)
{
    int status;
    MUST(waitpid(child, &status, 0) == child);
    MUST(status == 0);
}

// ---- descriptors

static void twins_server(void)
{
    int one = dup(FD), two = fcntl(FD, F_DUPFD, 50), three = fcntl(FD, F_DUPFD_CLOEXEC, 60), four = dup2(FD, 70), five = dup3(FD, 80, O_CLOEXEC);
    MUST(one >= 0 && two >= 50 && three >= 60 && four == 70 && five == 80);
    note("closed on exec: %d %d %d %d %d", fcntl(one, F_GETFD), fcntl(two, F_GETFD), fcntl(three, F_GETFD), fcntl(four, F_GETFD), fcntl(five, F_GETFD));
    note("onto itself: %s, %s", outcome(dup2(five, five) == five ? 0 : -1), outcome(dup3(five, five, 0)));
    // A twin takes up where the other one stopped.
    char text[8] = "";
    receive_all(one, text, 2);
    receive_all(FD, text + 2, 2);
    receive_all(five, text + 4, 2);
    note("read by three: %s", text);
    send_all(two, "a", 1);
    send_all(four, "b", 1);
    send_all(three, "c", 1);
    close(one);
    MUST(syscall(SYS_close_range, two, three, 0) == 0);
    note("gone: %s, %s", outcome(fcntl(two, F_GETFD)), outcome(read(three, text, 1)));
    close(FD);
    close(four);
    meet();
    receive_all(five, text, 4);
    note("the last one: %.4s", text);
    // What is put in its place closes it.
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    MUST(null >= 0 && dup3(null, five, O_CLOEXEC) == five);
    close(null);
    meet();
    close(five);
    FD = -1;
}

static void twins_client(void)
{
    send_text("abcdef");
    receive_text("abc");
    meet();
    note("still open: %s", event_names(ready_now(FD)));
    send_text("last");
    meet();
    note("closed: %s", ready_with(FD, POLLRDHUP));
}

// ---- a child goes on with it, with and without its parent

static void fork_server(void)
{
    receive_text("to the parent");
    pid_t child = begin_child();
    if (child == 0) {
        receive_text("to the child");
        send_text("from the child");
        _exit(0);
    }
    end_child(child);
    send_text("from the parent");
    receive_text("to the parent again");
    note("both of them spoke");
    // The child's end does not end it, and neither does a parent's while its child lives.
    child = begin_child();
    if (child == 0) {
        receive_text("to the second child");
        send_text("from the second child");
        sleep_ms(80);
        send_text("and goodbye");
        _exit(0);
    }
    close(FD);
    FD = -1;
    meet();
    end_child(child);
}

static void fork_client(void)
{
    send_text("to the parent");
    send_text("to the child");
    receive_text("from the child");
    receive_text("from the parent");
    send_text("to the parent again");
    meet();
    note("the parent has closed: %s", event_names(ready_now(FD)));
    send_text("to the second child");
    receive_text("from the second child");
    receive_text("and goodbye");
    char byte;
    note("then: %s", outcome(read(FD, &byte, 1)));
}

// A grandchild whose parent has ended keeps the connection.
static void orphan_server(void)
{
    pid_t child = begin_child();
    if (child == 0) {
        if (begin_child() != 0)
            _exit(0);
        receive_text("are you there");
        send_text("I am");
        _exit(0);
    }
    end_child(child);
    close(FD);
    FD = -1;
    meet();
}

static void orphan_client(void)
{
    meet();
    send_text("are you there");
    receive_text("I am");
    char byte;
    note("then: %s", outcome(read(FD, &byte, 1)));
}

// Parent and child write at the same time, and both read.
enum { SHARED = 500 };

static void shared_server(void)
{
    pid_t child = begin_child();
    unsigned char mark = child == 0;
    for (int i = 0; i < SHARED; i++)
        send_all(FD, &mark, 1);
    unsigned char got[SHARED];
    receive_all(FD, got, sizeof got);
    if (child == 0)
        _exit(0);
    end_child(child);
    meet();
}

static void shared_client(void)
{
    unsigned char marks[2 * SHARED];
    unsigned counts[2] = { 0, 0 };
    receive_all(FD, marks, sizeof marks);
    for (int i = 0; i < 2 * SHARED; i++)
        counts[marks[i] & 1]++;
    note("%u of the parent, %u of the child", counts[0], counts[1]);
    send_all(FD, marks, sizeof marks);
    meet();
    char byte;
    note("none more: %s", outcome(recv(FD, &byte, 1, MSG_DONTWAIT)));
}

// vfork's child borrows the memory, not the descriptors.
static void vfork_server(void)
{
    pid_t child = vfork();
    MUST(child >= 0);
    if (child == 0) {
        close(FD);
        _exit(0);
    }
    end_child(child);
    receive_text("still there");
    note("still there");
}

static void vfork_client(void)
{
    send_text("still there");
}

// ---- handed over

static void hand_over(int channel, int fd)
{
    char byte = 'c', control[CMSG_SPACE(sizeof fd)] = { 0 };
    struct iovec part = { &byte, 1 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    MUST(sendmsg(channel, &message, 0) == 1);
}

static int receive_over(int channel)
{
    int fd;
    char byte, control[CMSG_SPACE(sizeof fd)];
    struct iovec part = { &byte, 1 };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    MUST(recvmsg(channel, &message, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&message) != NULL);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

static void rights_server(void)
{
    int channel[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) == 0);
    pid_t child = begin_child();
    if (child == 0) {
        // It has the connection only by what is handed over.
        close(FD);
        close(channel[0]);
        FD = receive_over(channel[1]);
        receive_text("to the child");
        send_text("from the child");
        // And back, for whoever reads next.
        hand_over(channel[1], FD);
        _exit(0);
    }
    close(channel[1]);
    hand_over(channel[0], FD);
    close(FD);
    FD = receive_over(channel[0]);
    end_child(child);
    receive_text("to the parent");
    send_text("from the parent");
    // On the way it is open, though nobody has it.
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel + 0) == 0);
    hand_over(channel[0], FD);
    close(FD);
    FD = -1;
    meet();
    meet();
    FD = receive_over(channel[1]);
    receive_text("while on the way");
    hand_over(channel[0], FD);
    close(FD);
    FD = -1;
    // Nobody will ever receive it now.
    close(channel[0]);
    close(channel[1]);
    meet();
}

static void rights_client(void)
{
    send_text("to the child");
    receive_text("from the child");
    send_text("to the parent");
    receive_text("from the parent");
    meet();
    note("on the way: %s", event_names(ready_now(FD)));
    send_text("while on the way");
    meet();
    meet();
    note("lost: %s", ready_with(FD, POLLRDHUP));
}

// To the process at the other end, which then has both ends.
static void both_ends_server(void)
{
    hand_over(self->control, FD);
    close(FD);
    FD = -1;
    meet();
}

static void both_ends_client(void)
{
    int other = receive_over(self->control);
    send_text("to oneself");
    char text[16] = "";
    receive_all(other, text, 10);
    note("said: %s", text);
    send_all(other, "and back", 8);
    receive_text("and back");
    close(other);
    note("then: %s", ready_with(FD, POLLRDHUP));
    meet();
}

// ---- execve

static void run_with(const char *program, const char *argument)
{
    MUST(dup2(FD, 0) == 0 && dup2(FD, 1) == 1);
    execl(program, program, argument, (char *)NULL);
    _exit(90);
}

// What is unread when another program takes over is for that program, and it answers over the same connection.
static void cat_server(void)
{
    pid_t child = begin_child();
    if (child == 0)
        run_with("/bin/cat", NULL);
    close(FD);
    FD = -1;
    end_child(child);
}

static void cat_client(void)
{
    send_text("first ");
    receive_text("first ");
    for (int round = 0; round < 5; round++) {
        send_text("question");
        receive_text("question");
    }
    // More than fits.
    static unsigned char block[300000];
    put_pattern(block, sizeof block, 0);
    for (int round = 0; round < 4; round++) {
        send_all(FD, block + round * 75000, 75000);
        drain(FD, (uint64_t)round * 75000, 75000);
    }
    MUST(shutdown(FD, SHUT_WR) == 0);
    char byte;
    note("then: %s", outcome(read(FD, &byte, 1)));
}

static void unread_server(void)
{
    receive_text("read before, ");
    meet();
    ready_with(FD, POLLIN);
    MUST(send(FD, "written before; ", 16, 0) == 16);
    pid_t child = begin_child();
    if (child == 0)
        run_with("/bin/cat", NULL);
    close(FD);
    FD = -1;
    end_child(child);
}

static void unread_client(void)
{
    send_text("read before, ");
    send_text("unread before");
    meet();
    MUST(shutdown(FD, SHUT_WR) == 0);
    char text[64] = "";
    size_t len = 0;
    ssize_t now;
    while ((now = read(FD, text + len, sizeof text - 1 - len)) > 0)
        len += (size_t)now;
    note("%s, then: %s", text, outcome(now));
}

// The answer is long, and still in the connection when its writer has ended.
static void output_server(void)
{
    pid_t child = begin_child();
    if (child == 0) {
        MUST(dup2(FD, 1) == 1);
        execl("/bin/sh", "sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done", (char *)NULL);
        _exit(90);
    }
    end_child(child);
    send_text("and the parent");
    MUST(shutdown(FD, SHUT_WR) == 0);
}

static void output_client(void)
{
    static char text[60000], expected[60000];
    size_t len = 0, expected_len = 0;
    for (int i = 0; i < 2000; i++)
        expected_len += (size_t)sprintf(expected + expected_len, "line %d\n", i);
    expected_len += (size_t)sprintf(expected + expected_len, "and the parent");
    sleep_ms(50);
    ssize_t now;
    while ((now = read(FD, text + len, sizeof text - len)) > 0)
        len += (size_t)now;
    note("%zu bytes, as expected %d", len, len == expected_len && memcmp(text, expected, len) == 0);
}

// A descriptor that is closed on exec is closed: nothing else holds the connection.
static void cloexec_server(void)
{
    pid_t child = begin_child();
    if (child == 0) {
        MUST(fcntl(FD, F_GETFD) == FD_CLOEXEC);
        execl("/bin/sleep", "sleep", "0.25", (char *)NULL);
        _exit(90);
    }
    sleep_ms(100);
    close(FD);
    FD = -1;
    meet();
    end_child(child);
}

static void cloexec_client(void)
{
    int64_t begin = now_ms();
    meet();
    const char *closed = ready_with(FD, POLLRDHUP);
    note("closed: %s, at once %d", closed, now_ms() - begin < 3000);
    note("write: %s", outcome(send(FD, "x", 1, MSG_NOSIGNAL)));
}

// An execve that fails changes nothing.
static void failed_server(void)
{
    pid_t child = begin_child();
    if (child == 0) {
        MUST(execl("/nowhere", "nowhere", (char *)NULL) < 0 && errno == ENOENT);
        receive_text("question");
        send_text("answer");
        _exit(0);
    }
    end_child(child);
}

static void failed_client(void)
{
    send_text("question");
    receive_text("answer");
    note("answered");
}

// This program again, which goes on where it was.
static void again_server(void)
{
    receive_text("before");
    pid_t child = begin_child();
    if (child == 0)
        run_with(self_path, "again");
    end_child(child);
    receive_text("to the parent");
    send_text("from the parent");
}

static int again(void)
{
    struct side side = { .fd = 0, .name = "again" };
    self = &side;
    receive_text("after");
    send_text("from the same program");
    return 0;
}

static void again_client(void)
{
    send_text("before");
    send_text("after");
    receive_text("from the same program");
    send_text("to the parent");
    receive_text("from the parent");
    note("all of it");
}

// ---- the first process itself becomes another program, and its other connections are closed by that

static void replace(bool warm)
{
    int port, listener = listen_at(INADDR_LOOPBACK, 4, &port), channel[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) == 0);
    pid_t child = begin_child();
    struct side side = { .control = channel[child != 0], .name = child != 0 ? "server" : "client" };
    self = &side;
    if (child == 0) {
        close(channel[1]);
        int kept = connect_to(port), closed = connect_to(port);
        if (warm) {
            exchange(kept, false);
            exchange(closed, false);
        }
        send_all(kept, "unread", 6);
        send_all(closed, "unread", 6);
        give(0);
        note("closed: %s", ready_with(closed, POLLERR));
        exchange_unmet(kept, false);
        char byte;
        note("then: %s", outcome(read(kept, &byte, 1)));
        fputs(side.lines, stdout);
        exit(0);
    }
    close(channel[0]);
    int kept = accept4(listener, NULL, NULL, 0), closed = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    MUST(kept >= 0 && closed >= 0);
    if (warm) {
        exchange(kept, true);
        exchange(closed, true);
    }
    take();
    ready_with(kept, POLLIN);
    ready_with(closed, POLLIN);
    char number[16];
    snprintf(number, sizeof number, "%d", kept);
    execl(self_path, self_path, "replaced", number, warm ? "warm" : NULL, (char *)NULL);
    MUST(false);
}

static int replaced(int argc, char **argv)
{
    struct side side = { .fd = atoi(argv[2]), .name = "replaced" };
    self = &side;
    receive_text("unread");
    exchange_unmet(FD, true);
    close(FD);
    int status;
    MUST(wait(&status) > 0 && status == 0);
    SAY("replaced%s", argc > 3 ? "" : ", nothing exchanged before");
    if (argc > 3)
        return 0;
    replace(true);
    return 1;
}

static const struct scenario scenarios[] = {
    { "twins", twins_server, twins_client, 0 },
    { "forked", fork_server, fork_client, 0 },
    { "forked_client", fork_client, fork_server, APART },
    { "orphan", orphan_server, orphan_client, 0 },
    { "shared", shared_server, shared_client, 0 },
    { "vfork", vfork_server, vfork_client, 0 },
    { "rights", rights_server, rights_client, 0 },
    { "both_ends", both_ends_server, both_ends_client, 0 },
    { "cat", cat_server, cat_client, 0 },
    { "cat_of_client", cat_client, cat_server, APART },
    { "unread", unread_server, unread_client, 0 },
    { "output", output_server, output_client, 0 },
    { "closed_on_exec", cloexec_server, cloexec_client, 0 },
    { "failed_exec", failed_server, failed_client, 0 },
    { "again", again_server, again_client, 0 },
};

int main(int argc, char **argv)
{
    MUST(readlink("/proc/self/exe", self_path, sizeof self_path - 1) > 0);
    if (argc > 1 && strcmp(argv[1], "again") == 0)
        return again();
    if (argc > 1 && strcmp(argv[1], "replaced") == 0)
        return replaced(argc, argv);
    if (argc > 1 && strcmp(argv[1], "replace") == 0)
        replace(false);
    return PLAY(scenarios, argc, argv);
}
