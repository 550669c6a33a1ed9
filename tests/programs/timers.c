// build: dynamic musl
// Clocks and timers: they agree, they run out in order, they are as late as they may be and no later.
#include "check.h"
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <time.h>

static int64_t now_ms(clockid_t clock)
{
    struct timespec t;
    MUST(clock_gettime(clock, &t) == 0);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static volatile sig_atomic_t ticks;

static void on_tick(int number)
{
    (void)number;
    ticks++;
}

int main(void)
{
    struct timeval day;
    gettimeofday(&day, NULL);
    SAY("clocks agree: %d", llabs(now_ms(CLOCK_REALTIME) - ((int64_t)day.tv_sec * 1000 + day.tv_usec / 1000)) < 1000 && llabs(time(NULL) - day.tv_sec) <= 1);
    int64_t before = now_ms(CLOCK_MONOTONIC);
    usleep(50000);
    int64_t slept = now_ms(CLOCK_MONOTONIC) - before;
    SAY("slept 50 ms: %s", slept >= 50 && slept < 2000 ? "about" : "otherwise");
    struct sigaction action = { .sa_handler = on_tick };
    MUST(sigaction(SIGALRM, &action, NULL) == 0 && sigaction(SIGVTALRM, &action, NULL) == 0 && sigaction(SIGPROF, &action, NULL) == 0);
    struct itimerval every = { .it_value = { .tv_usec = 5000 }, .it_interval = { .tv_usec = 5000 } };
    MUST(setitimer(ITIMER_REAL, &every, NULL) == 0);
    while (ticks < 10)
        pause();
    every.it_value.tv_usec = 0;
    MUST(setitimer(ITIMER_REAL, &every, NULL) == 0);
    SAY("ten ticks");
    ticks = 0;
    every.it_value.tv_usec = 5000;
    MUST(setitimer(ITIMER_VIRTUAL, &every, NULL) == 0);
    while (ticks < 3)
        ;
    every.it_value.tv_usec = 0;
    MUST(setitimer(ITIMER_VIRTUAL, &every, NULL) == 0);
    SAY("three ticks of computing time");
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    struct itimerspec soon = { .it_value = { .tv_nsec = 20000000 }, .it_interval = { .tv_nsec = 10000000 } };
    MUST(fd >= 0 && timerfd_settime(fd, 0, &soon, NULL) == 0);
    uint64_t count = 0;
    SAY("timerfd too early: %s", read(fd, &count, sizeof count) < 0 ? name_of(errno) : "read");
    struct pollfd wait = { .fd = fd, .events = POLLIN };
    MUST(poll(&wait, 1, 2000) == 1 && read(fd, &count, sizeof count) == sizeof count);
    SAY("timerfd: %s", count >= 1 ? "expired" : "not expired");
    alarm(1);
    SAY("alarm left: %u", alarm(0));
    struct timespec absolute;
    clock_gettime(CLOCK_MONOTONIC, &absolute);
    absolute.tv_sec -= 1;
    SAY("sleep until the past: %s", name_of(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &absolute, NULL)));
    struct tms spent;
    MUST(times(&spent) != (clock_t)-1);
    SAY("computing time: %s", now_ms(CLOCK_PROCESS_CPUTIME_ID) > 0 ? "counted" : "none");
    return 0;
}
