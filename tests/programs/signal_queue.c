// build: dynamic musl
// Real-time signals queue in order with their values; others do not; ways to take them without a handler.
#include "check.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

static volatile int order[32], order_len;

static void on_queued(int number, siginfo_t *info, void *context)
{
    (void)context;
    order[order_len++] = (number - SIGRTMIN) * 100 + info->si_value.sival_int;
}

static void on_classic(int number, siginfo_t *info, void *context)
{
    (void)info;
    (void)context;
    order[order_len++] = -number;
}

static void say_order(const char *title)
{
    printf("%s:", title);
    for (int i = 0; i < order_len; i++)
        printf(" %d", order[i]);
    SAY("%s", "");
    order_len = 0;
}

static void queue(int number, int value)
{
    union sigval payload = { .sival_int = value };
    MUST(sigqueue(getpid(), number, payload) == 0);
}

static void say_info(const char *title, const siginfo_t *info)
{
    SAY("%s: signal %s%d, code %d, from %s, uid %d, value %d", title, info->si_signo >= SIGRTMIN ? "RTMIN+" : "",
        info->si_signo >= SIGRTMIN ? info->si_signo - SIGRTMIN : info->si_signo, info->si_code,
        info->si_pid == getpid() ? "self" : "another", (int)info->si_uid, info->si_value.sival_int);
}

static void try_waiting(const sigset_t *set)
{
    siginfo_t info;
    queue(SIGRTMIN + 1, 11);
    MUST(sigwaitinfo(set, &info) == SIGRTMIN + 1);
    say_info("sigwaitinfo", &info);
    kill(getpid(), SIGUSR1);
    MUST(sigwaitinfo(set, &info) == SIGUSR1);
    SAY("kill: signal %d, code %d, from self %d", info.si_signo, info.si_code, info.si_pid == getpid());
    struct timespec soon = { .tv_nsec = 30000000 };
    SAY("sigtimedwait with nothing: %s", sigtimedwait(set, &info, &soon) < 0 ? name_of(errno) : "got one");
    int fd = signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK);
    MUST(fd >= 0);
    struct signalfd_siginfo record;
    SAY("signalfd with nothing: %s", read(fd, &record, sizeof record) < 0 ? name_of(errno) : "got one");
    queue(SIGRTMIN + 2, 22);
    MUST(read(fd, &record, sizeof record) == sizeof record);
    SAY("signalfd: RTMIN+%d value %d", (int)record.ssi_signo - SIGRTMIN, record.ssi_int);
    pid_t child = fork();
    if (child == 0)
        _exit(9);
    sigset_t chld;
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    MUST(sigwaitinfo(&chld, &info) == SIGCHLD);
    SAY("SIGCHLD: code %d, status %d, of the child %d", info.si_code, info.si_status, info.si_pid == child);
    MUST(waitpid(child, NULL, 0) == child);
    close(fd);
}

static void try_timer(const sigset_t *set)
{
    timer_t timer;
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 3, .sigev_value = { .sival_int = 33 } };
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    struct itimerspec once = { .it_value = { .tv_nsec = 10000000 } };
    MUST(timer_settime(timer, 0, &once, NULL) == 0);
    siginfo_t info;
    MUST(sigwaitinfo(set, &info) == SIGRTMIN + 3);
    SAY("timer: code %d, value %d", info.si_code, info.si_value.sival_int);
    MUST(timer_delete(timer) == 0);
}

int main(void)
{
    sigset_t set, pending;
    sigemptyset(&set);
    for (int i = 0; i < 6; i++)
        sigaddset(&set, SIGRTMIN + i);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGCHLD);
    struct sigaction queued = { .sa_sigaction = on_queued, .sa_flags = SA_SIGINFO };
    struct sigaction classic = { .sa_sigaction = on_classic, .sa_flags = SA_SIGINFO };
    sigfillset(&queued.sa_mask);
    sigfillset(&classic.sa_mask);
    for (int i = 0; i < 6; i++)
        MUST(sigaction(SIGRTMIN + i, &queued, NULL) == 0);
    MUST(sigaction(SIGUSR1, &classic, NULL) == 0 && sigaction(SIGUSR2, &classic, NULL) == 0);

    MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    for (int i = 0; i < 5; i++)
        queue(SIGRTMIN + 4, i);
    for (int i = 0; i < 3; i++)
        queue(SIGRTMIN + 2, i);
    for (int i = 0; i < 3; i++)
        kill(getpid(), SIGUSR2);
    kill(getpid(), SIGUSR1);
    MUST(sigpending(&pending) == 0);
    SAY("pending: USR1 %d USR2 %d RT2 %d RT4 %d RT5 %d", sigismember(&pending, SIGUSR1), sigismember(&pending, SIGUSR2),
        sigismember(&pending, SIGRTMIN + 2), sigismember(&pending, SIGRTMIN + 4), sigismember(&pending, SIGRTMIN + 5));
    MUST(sigprocmask(SIG_UNBLOCK, &set, NULL) == 0);
    say_order("delivered");

    MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    try_waiting(&set);
    try_timer(&set);
    return 0;
}
