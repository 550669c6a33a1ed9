// build: dynamic
// How connections end: half-close in either order, end of file, resets, and writing to one who has gone.
#include "tcp_pair.h"
#include <sys/sendfile.h>
#include <sys/uio.h>

static __thread volatile sig_atomic_t pipes;

static void on_pipe(int number)
{
    (void)number;
    pipes++;
}

static void count_pipes(void)
{
    struct sigaction action = { .sa_handler = on_pipe };
    MUST(sigaction(SIGPIPE, &action, NULL) == 0);
    pipes = 0;
}

// A write's result, and how many signals there have been by then.
static void note_write(const char *what, ssize_t result)
{
    const char *text = outcome(result);
    note("%s: %s, %d signals", what, text, (int)pipes);
}

static const char *receive(void)
{
    static __thread char text[128];
    char data[64];
    ssize_t len = recv(FD, data, sizeof data, 0);
    if (len > 0)
        snprintf(text, sizeof text, "%zd '%.*s'", len, (int)len, data);
    else
        snprintf(text, sizeof text, "%s", len < 0 ? name_of(errno) : "end of file");
    return text;
}

// ---- half-close, the client first

static void half_server(void)
{
    note("asked: %s", receive());
    note("then %s", ready_with(FD, POLLRDHUP));
    note("then: %s", receive());
    note("again: %s", receive());
    note("state %s", state_of(FD));
    send_text("answer");
    meet();
    meet();
    MUST(shutdown(FD, SHUT_WR) == 0);
    note("then %s", ready_with(FD, POLLHUP));
    note("read: %s", receive());
    note("send: %s", outcome(send(FD, "x", 1, MSG_NOSIGNAL)));
    note("error %s", name_of(socket_error(FD)));
    meet();
    note("state %s", state_with(FD, "CLOSE"));
    note("shutdown again: %s", outcome(shutdown(FD, SHUT_WR)));
}

static void half_client(void)
{
    send_text("question");
    MUST(shutdown(FD, SHUT_WR) == 0);
    note("state %s", state_with(FD, "FIN_WAIT2"));
    note("send: %s", outcome(send(FD, "x", 1, MSG_NOSIGNAL)));
    meet();
    note("before the answer is read %s", ready_with(FD, POLLIN));
    note("answered: %s", receive());
    meet();
    note("then: %s", receive());
    meet();
    note("at the end %s", ready_with(FD, POLLHUP));
    note("again: %s", receive());
}

// ---- one end shuts, the other only closes

static void close_server(void)
{
    send_text("all there is");
    MUST(close(FD) == 0);
    FD = -1;
    meet();
}

static void close_client(void)
{
    meet();
    note("%s", ready_with(FD, POLLRDHUP));
    note("state %s", state_with(FD, "CLOSE_WAIT"));
    note("read: %s", receive());
    note("read: %s", receive());
    note("%s", ready_with(FD, POLLRDHUP));
    MUST(shutdown(FD, SHUT_RDWR) == 0);
    note("%s", ready_with(FD, POLLHUP));
    note("read: %s", receive());
}

// ---- writing to one who has closed: taken once, then refused

static void gone_server(void)
{
    MUST(close(FD) == 0);
    FD = -1;
    meet();
}

static void gone_client(void)
{
    count_pipes();
    meet();
    note("%s", ready_with(FD, POLLRDHUP));
    note_write("first write", write(FD, "a", 1));
    note("%s", ready_with(FD, POLLERR));
    note("state %s", state_of(FD));
    note_write("second write", write(FD, "b", 1));
    note("%s", event_names(ready_now(FD)));
    note("read: %s", receive());
    note("error %s", name_of(socket_error(FD)));
    note_write("third write", write(FD, "c", 1));
    struct iovec vector = { "d", 1 };
    note_write("writev", writev(FD, &vector, 1));
    note_write("send", send(FD, "e", 1, 0));
    note_write("send without signal", send(FD, "e", 1, MSG_NOSIGNAL));
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
    note_write("sendmsg", sendmsg(FD, &message, 0));
    struct mmsghdr several = { .msg_hdr = message };
    note_write("sendmmsg", sendmmsg(FD, &several, 1, 0));
    note_write("sendmmsg without signal", sendmmsg(FD, &several, 1, MSG_NOSIGNAL));
    note_write("empty write", write(FD, "", 0));
    note_write("empty send", send(FD, "", 0, 0));
    int file = open("/proc/self/exe", O_RDONLY);
    note_write("sendfile", sendfile(FD, file, NULL, 10));
    close(file);
    struct sockaddr_in name;
    socklen_t len = sizeof name;
    note("peer's name: %s", outcome(getpeername(FD, (struct sockaddr *)&name, &len)));
    note("own name: %s", outcome(getsockname(FD, (struct sockaddr *)&name, &len)));
    note("shutdown: %s", outcome(shutdown(FD, SHUT_WR)));
}

// ---- the default action of SIGPIPE ends the process

static void deadly_server(void)
{
    MUST(shutdown(FD, SHUT_WR) == 0);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        signal(SIGPIPE, SIG_DFL);
        (void)!write(FD, "x", 1);
        _exit(1);
    }
    int status;
    MUST(waitpid(child, &status, 0) == child);
    note("ended by signal %d", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    child = fork();
    MUST(child >= 0);
    if (child == 0) {
        signal(SIGPIPE, SIG_IGN);
        _exit(write(FD, "x", 1) < 0 ? errno : 0);
    }
    MUST(waitpid(child, &status, 0) == child);
    note("ignored: %s", name_of(WEXITSTATUS(status)));
    meet();
}

static void deadly_client(void)
{
    meet();
}

// ---- close with unread data: a reset; what had come before can be read, then the error, once

static void reset_server(void)
{
    send_text("said before");
    meet();
    note("unread %s", ready_with(FD, POLLIN));
    MUST(close(FD) == 0);
    FD = -1;
    meet();
}

static void reset_client(void)
{
    send_text("never read");
    ready_with(FD, POLLIN);
    meet();
    meet();
    note("%s", ready_with(FD, POLLERR | POLLHUP));
    note("state %s", state_of(FD));
    note("read: %s", receive());
    note("read: %s", receive());
    note("read: %s", receive());
    note("%s", event_names(ready_now(FD)));
    note("write: %s", outcome(send(FD, "x", 1, MSG_NOSIGNAL)));
    struct sockaddr_in name;
    socklen_t len = sizeof name;
    note("peer's name: %s", outcome(getpeername(FD, (struct sockaddr *)&name, &len)));
}

// ---- the same, found by writing, and by SO_ERROR

static void reset_write_client(void)
{
    count_pipes();
    send_text("never read");
    ready_with(FD, POLLIN);
    meet();
    meet();
    ready_with(FD, POLLERR | POLLHUP);
    note_write("write", write(FD, "x", 1));
    note_write("write", write(FD, "x", 1));
    note("read: %s", receive());
    note("read: %s", receive());
}

static void reset_error_client(void)
{
    send_text("never read");
    ready_with(FD, POLLIN);
    meet();
    meet();
    ready_with(FD, POLLERR | POLLHUP);
    note("error %s", name_of(socket_error(FD)));
    note("error %s", name_of(socket_error(FD)));
    note("%s", event_names(ready_now(FD)));
    note("read: %s", receive());
    note("read: %s", receive());
}

// ---- SO_LINGER

static void linger_zero_server(void)
{
    struct linger linger = { 1, 0 };
    MUST(setsockopt(FD, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
    send_text("said before");
    meet();
    MUST(close(FD) == 0);
    FD = -1;
    meet();
}

static void linger_zero_client(void)
{
    // What has not been sent yet is lost.
    ready_with(FD, POLLIN);
    meet();
    meet();
    note("%s", ready_with(FD, POLLERR | POLLHUP));
    note("read: %s", receive());
    note("read: %s", receive());
    note("read: %s", receive());
}

static void linger_server(void)
{
    struct linger linger = { 1, 5 };
    socklen_t len = sizeof linger;
    MUST(setsockopt(FD, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
    MUST(getsockopt(FD, SOL_SOCKET, SO_LINGER, &linger, &len) == 0);
    note("linger %d, %d s", linger.l_onoff, linger.l_linger);
    send_text("said before");
    MUST(close(FD) == 0);
    FD = -1;
    meet();
}

static void linger_client(void)
{
    note("read: %s", receive());
    note("read: %s", receive());
    meet();
}

// ---- a reset after the end of file

static void reset_late_server(void)
{
    struct linger linger = { 1, 0 };
    send_text("said before");
    MUST(shutdown(FD, SHUT_WR) == 0);
    meet();
    meet();
    MUST(setsockopt(FD, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
    MUST(close(FD) == 0);
    FD = -1;
    meet();
}

static void reset_late_client(void)
{
    meet();
    note("%s", ready_with(FD, POLLIN | POLLRDHUP));
    meet();
    meet();
    note("%s", ready_with(FD, POLLERR | POLLHUP));
    note("read: %s", receive());
    note("read: %s", receive());
    note("write: %s", outcome(send(FD, "x", 1, MSG_NOSIGNAL)));
    note("write: %s", outcome(send(FD, "x", 1, MSG_NOSIGNAL)));
}

// ---- shutting the reading half says nothing to the peer, and hides nothing that comes

static void deaf_server(void)
{
    meet();
    ready_with(FD, POLLIN);
    MUST(shutdown(FD, SHUT_RD) == 0);
    note("%s", ready_with(FD, POLLRDHUP));
    note("read: %s", receive());
    note("read: %s", receive());
    meet();
    meet();
    // Nothing says when it has come: the socket has been readable since.
    sleep_ms(100);
    note("%s", event_names(ready_now(FD)));
    note("read: %s", receive());
    note("read: %s", receive());
    send_text("one can still speak");
    meet();
}

static void deaf_client(void)
{
    send_text("said before");
    meet();
    meet();
    note("%s", event_names(ready_now(FD)));
    note("send: %s", outcome(send(FD, "said after", 10, MSG_NOSIGNAL)));
    meet();
    note("read: %s", receive());
    meet();
    note("send: %s", outcome(send(FD, "x", 1, MSG_NOSIGNAL)));
}

// ---- both halves at once

static void both_server(void)
{
    note("how -1: %s, how 3: %s", outcome(shutdown(FD, -1)), outcome(shutdown(FD, 3)));
    MUST(shutdown(FD, SHUT_RDWR) == 0);
    note("read: %s", receive());
    note("write: %s", outcome(send(FD, "x", 1, MSG_NOSIGNAL)));
    meet();
    meet();
    note("%s", ready_with(FD, POLLHUP));
    note("shutdown: %s", outcome(shutdown(FD, SHUT_RDWR)));
}

static void both_client(void)
{
    meet();
    note("%s", ready_with(FD, POLLRDHUP));
    note("read: %s", receive());
    MUST(shutdown(FD, SHUT_RDWR) == 0);
    note("%s", ready_with(FD, POLLHUP));
    note("write: %s", outcome(send(FD, "x", 1, MSG_NOSIGNAL)));
    meet();
}

// ---- close right after a long write: nothing is lost

#define LONG (3u << 20)

static void long_server(void)
{
    static unsigned char block[LONG];
    put_pattern(block, sizeof block, 0);
    send_all(FD, block, sizeof block);
    MUST(close(FD) == 0);
    FD = -1;
}

static void long_client(void)
{
    sleep_ms(20);
    drain(FD, 0, LONG);
    note("all of it, then: %s", receive());
}

// ---- closing wakes who waits

static void wake_reader_server(void)
{
    sleep_ms(60);
    MUST(close(FD) == 0);
    FD = -1;
}

static void wake_reader_client(void)
{
    note("read: %s", receive());
}

// A full connection whose reader goes: the writer's call ends.
static void wake_writer_server(void)
{
    take();
    sleep_ms(60);
    MUST(close(FD) == 0);
    FD = -1;
    meet();
}

static void wake_writer_client(void)
{
    size_t len = 16u << 20;
    unsigned char *block = calloc(1, len);
    MUST(block != NULL);
    fill(FD, 0);
    give(0);
    ssize_t now = send(FD, block, len, MSG_NOSIGNAL);
    // Who has got rid of a part is not told of the error until the next call.
    if (now > 0 && now < (ssize_t)len)
        now = send(FD, "x", 1, MSG_NOSIGNAL);
    note("send that waited: %s", outcome(now));
    note("read: %s", receive());
    free(block);
    meet();
}

static const struct scenario scenarios[] = {
    { "half_close", half_server, half_client, 0 },
    { "half_close_of_server", half_client, half_server, 0 },
    { "close", close_server, close_client, 0 },
    { "close_of_client", close_client, close_server, 0 },
    { "write_to_closed", gone_server, gone_client, 0 },
    { "write_to_closed_client", gone_client, gone_server, 0 },
    { "deadly_pipe", deadly_server, deadly_client, 0 },
    { "reset_by_unread", reset_server, reset_client, 0 },
    { "reset_of_client", reset_client, reset_server, 0 },
    { "reset_found_by_write", reset_server, reset_write_client, 0 },
    { "reset_found_by_error", reset_server, reset_error_client, 0 },
    { "linger_zero", linger_zero_server, linger_zero_client, 0 },
    { "linger", linger_server, linger_client, 0 },
    { "reset_after_end", reset_late_server, reset_late_client, 0 },
    { "deaf", deaf_server, deaf_client, 0 },
    { "both_halves", both_server, both_client, 0 },
    { "close_after_long_write", long_server, long_client, 0 },
    { "close_wakes_reader", wake_reader_server, wake_reader_client, 0 },
    { "close_wakes_writer", wake_writer_server, wake_writer_client, 0 },
};

int main(int argc, char **argv)
{
    return PLAY(scenarios, argc, argv);
}
