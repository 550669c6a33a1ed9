// build: dynamic musl
// Calls that a signal interrupts: EINTR without SA_RESTART, continued with it where Linux does so.
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#define FUTEX_WAIT_PRIVATE 128

static volatile sig_atomic_t handled;
static int pipe_fds[2], pair_fds[2];

static void on_alarm(int number)
{
    (void)number;
    handled++;
}

static void arm(int flags)
{
    struct sigaction action = { .sa_handler = on_alarm, .sa_flags = flags };
    MUST(sigaction(SIGALRM, &action, NULL) == 0);
    handled = 0;
    struct itimerval once = { .it_value = { .tv_usec = 50000 } };
    MUST(setitimer(ITIMER_REAL, &once, NULL) == 0);
}

// Ends a restarted call: writes a byte a while after the signal.
static void *later(void *fd)
{
    usleep(200000);
    MUST(write((int)(intptr_t)fd, "x", 1) == 1);
    return NULL;
}

static void report(const char *call, int flags, long result, int error)
{
    SAY("%-14s %-10s handled %d: %s", call, flags & SA_RESTART ? "SA_RESTART" : "", (int)handled, result >= 0 ? "went on" : name_of(error));
}

static void try_read(int flags, int from, int to, const char *name)
{
    pthread_t thread;
    char byte;
    sigset_t alarm_only;
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    // The helper must not be the one that takes the signal.
    pthread_sigmask(SIG_BLOCK, &alarm_only, NULL);
    MUST(pthread_create(&thread, NULL, later, (void *)(intptr_t)to) == 0);
    pthread_sigmask(SIG_UNBLOCK, &alarm_only, NULL);
    arm(flags);
    long got = read(from, &byte, 1);
    int error = errno;
    report(name, flags, got, error);
    pthread_join(thread, NULL);
    if (got < 0)
        MUST(read(from, &byte, 1) == 1);
}

static void try_sleeps(int flags)
{
    struct timespec wish = { .tv_nsec = 150000000 }, left = { 0 };
    arm(flags);
    long result = nanosleep(&wish, &left);
    report("nanosleep", flags, result, errno);
    SAY("  time was left: %d", left.tv_nsec > 0);
    arm(flags);
    int error = clock_nanosleep(CLOCK_MONOTONIC, 0, &wish, NULL);
    report("clock_nanosleep", flags, error ? -1 : 0, error);
}

static void try_polls(int flags)
{
    struct pollfd wait = { .fd = pipe_fds[0], .events = POLLIN };
    arm(flags);
    report("poll", flags, poll(&wait, 1, 300), errno);
    fd_set set;
    FD_ZERO(&set);
    FD_SET(pipe_fds[0], &set);
    struct timeval limit = { .tv_usec = 300000 };
    arm(flags);
    report("select", flags, select(pipe_fds[0] + 1, &set, NULL, NULL, &limit), errno);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = { .events = EPOLLIN };
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, pipe_fds[0], &event) == 0);
    arm(flags);
    report("epoll_wait", flags, epoll_wait(epoll, &event, 1, 300), errno);
    close(epoll);
}

static void try_futex(int flags)
{
    uint32_t word = 7;
    struct timespec limit = { .tv_nsec = 300000000 };
    arm(flags);
    long result = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 7, &limit, NULL, 0);
    SAY("%-14s %-10s handled %d: %s", "futex", flags & SA_RESTART ? "SA_RESTART" : "", (int)handled, result == 0 ? "woken" : name_of(errno));
}

static void try_wait(int flags)
{
    pid_t child = fork();
    if (child == 0) {
        usleep(200000);
        _exit(5);
    }
    int status = 0;
    arm(flags);
    long result = waitpid(child, &status, 0);
    report("waitpid", flags, result, errno);
    if (result < 0)
        MUST(waitpid(child, &status, 0) == child);
    SAY("  child ended with %d", WEXITSTATUS(status));
}

static void try_pause_and_suspend(void)
{
    arm(SA_RESTART);
    long result = pause();
    report("pause", SA_RESTART, result, errno);
    sigset_t none;
    sigemptyset(&none);
    arm(SA_RESTART);
    result = sigsuspend(&none);
    report("sigsuspend", SA_RESTART, result, errno);
}

static char masks_seen[128];

// Which of three signals a handler has blocked.
static void on_masked(int number)
{
    sigset_t mask;
    MUST(sigprocmask(SIG_BLOCK, NULL, &mask) == 0);
    size_t len = strlen(masks_seen);
    snprintf(masks_seen + len, sizeof masks_seen - len, " [%s:%s%s%s]", number == SIGUSR1 ? "usr1" : "usr2",
             sigismember(&mask, SIGUSR1) ? " usr1" : "", sigismember(&mask, SIGUSR2) ? " usr2" : "",
             sigismember(&mask, SIGALRM) ? " alrm" : "");
}

// A handler that ends a wait with a mask of its own starts with that mask, and all that it lets through come at once.
static void try_masks(void)
{
    struct sigaction action = { .sa_handler = on_masked };
    sigset_t blocked, waiting, pending;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigaddset(&blocked, SIGUSR2);
    sigfillset(&waiting);
    sigdelset(&waiting, SIGUSR1);
    sigdelset(&waiting, SIGUSR2);
    MUST(sigaction(SIGUSR1, &action, NULL) == 0 && sigaction(SIGUSR2, &action, NULL) == 0);
    MUST(sigprocmask(SIG_BLOCK, &blocked, NULL) == 0);
    const char *names[] = { "sigsuspend", "ppoll", "pselect", "epoll_pwait" };
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int call = 0; call < 4; call++) {
        struct timespec limit = { .tv_sec = 5 };
        struct epoll_event event;
        masks_seen[0] = 0;
        MUST(raise(SIGUSR1) == 0 && raise(SIGUSR2) == 0);
        int result = call == 0   ? sigsuspend(&waiting)
                     : call == 1 ? ppoll(NULL, 0, &limit, &waiting)
                     : call == 2 ? pselect(0, NULL, NULL, NULL, &limit, &waiting)
                                 : epoll_pwait(epoll, &event, 1, 5000, &waiting);
        int error = errno;
        MUST(sigpending(&pending) == 0);
        SAY("%s: %d, %s;%s; still pending %d", names[call], result, name_of(error), masks_seen,
            sigismember(&pending, SIGUSR1) + sigismember(&pending, SIGUSR2));
    }
    close(epoll);
    MUST(sigprocmask(SIG_UNBLOCK, &blocked, NULL) == 0);
}

// After SA_RESETHAND a signal that is ignored by default disturbs nobody.
static void try_reset(void)
{
    struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESETHAND };
    MUST(sigaction(SIGURG, &action, NULL) == 0 && raise(SIGURG) == 0);
    handled = 0;
    pid_t child = fork();
    if (child == 0) {
        usleep(50000);
        kill(getppid(), SIGURG);
        usleep(100000);
        _exit(0);
    }
    long result = waitpid(child, NULL, 0);
    SAY("SA_RESETHAND: handled %d, waitpid %s", (int)handled, result == child ? "ok" : name_of(errno));
}

int main(void)
{
    MUST(pipe(pipe_fds) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair_fds) == 0);
    int ways[] = { 0, SA_RESTART };
    for (int i = 0; i < 2; i++) {
        try_read(ways[i], pipe_fds[0], pipe_fds[1], "read of pipe");
        try_read(ways[i], pair_fds[0], pair_fds[1], "read of socket");
        try_sleeps(ways[i]);
        try_polls(ways[i]);
        try_futex(ways[i]);
        try_wait(ways[i]);
    }
    try_pause_and_suspend();
    try_masks();
    try_reset();
    return 0;
}
