// build: dynamic
// Measures one system call: prints nanoseconds per getppid(2), best of several rounds.
#include "check.h"
#include <sys/syscall.h>
#include <time.h>

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(void)
{
    const int calls = 1000000;
    double best = 1e18;
    for (int round = 0; round < 7; round++) {
        double before = now_ns();
        for (int i = 0; i < calls; i++)
            getppid();
        double each = (now_ns() - before) / calls;
        if (each < best)
            best = each;
    }
    SAY("%.2f", best);
    return 0;
}
