// build: dynamic
// Vector and x87 state: kept over system calls, and over a handler that changes all of it.
#include "check.h"
#include <cpuid.h>
#include <immintrin.h>
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/time.h>

typedef struct {
    uint64_t lanes[16][4];
} vectors;

static vectors pattern(uint64_t seed)
{
    vectors v;
    for (int r = 0; r < 16; r++)
        for (int l = 0; l < 4; l++)
            v.lanes[r][l] = seed * 1000 + (uint64_t)(r * 10 + l);
    return v;
}

#define EACH(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13) M(14) M(15)
#define LOAD(n) "vmovdqu " #n "*32(%[in]), %%ymm" #n "\n"
#define STORE(n) "vmovdqu %%ymm" #n ", " #n "*32(%[out])\n"
#define CLOBBER(n) "xmm" #n,

// Loads all sixteen registers, makes a system call, stores them again.
__attribute__((target("avx"))) static vectors over_a_call(const vectors *in, long number, long one, long two)
{
    vectors out;
    long result = number;
    register long r10 __asm__("r10") = 0;
    __asm__ volatile(EACH(LOAD) "syscall\n" EACH(STORE)
                     : "+a"(result)
                     : [in] "r"(in), [out] "r"(&out), "D"(one), "S"(two), "d"(0), "r"(r10)
                     : EACH(CLOBBER) "rcx", "r11", "memory");
    return out;
}

static volatile sig_atomic_t handled;

__attribute__((target("avx"))) static void on_signal(int number)
{
    (void)number;
    vectors other = pattern(77), unused;
    __asm__ volatile(EACH(LOAD) EACH(STORE) : : [in] "r"(&other), [out] "r"(&unused) : EACH(CLOBBER) "memory");
    volatile double x = sqrt(2.0 + number);
    (void)x;
    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr ^ 0x6000); // another rounding mode
    handled++;
}

// Loads all registers, spins until a signal has been handled, stores them.
__attribute__((target("avx"))) static vectors over_a_signal(const vectors *in)
{
    vectors out;
    __asm__ volatile(EACH(LOAD) "1: pause\ncmpl $0, %[flag]\nje 1b\n" EACH(STORE)
                     : [flag] "+m"(handled)
                     : [in] "r"(in), [out] "r"(&out)
                     : EACH(CLOBBER) "memory", "cc");
    return out;
}

int main(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_AVX)) {
        SAY("no AVX");
        return 0;
    }
    vectors in = pattern(1), out;
    long calls[] = { SYS_getppid, SYS_sched_yield, SYS_getuid, 1000 };
    for (int i = 0; i < 4; i++)
        for (int round = 0; round < 3; round++) {
            out = over_a_call(&in, calls[i], 0, 0);
            SAY("call %ld: %s", calls[i], memcmp(&in, &out, sizeof in) == 0 ? "kept" : "changed");
        }
    out = over_a_call(&in, SYS_kill, getpid(), 0);
    SAY("kill 0: %s", memcmp(&in, &out, sizeof in) == 0 ? "kept" : "changed");

    struct sigaction action = { .sa_handler = on_signal };
    MUST(sigaction(SIGALRM, &action, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
    unsigned csr = _mm_getcsr();
    for (int round = 0; round < 3; round++) {
        handled = 0;
        struct itimerval once = { .it_value = { .tv_usec = 20000 } };
        MUST(setitimer(ITIMER_REAL, &once, NULL) == 0);
        out = over_a_signal(&in);
        SAY("signal while computing: %s, mxcsr %s", memcmp(&in, &out, sizeof in) == 0 ? "kept" : "changed",
            _mm_getcsr() == csr ? "kept" : "changed");
    }
    handled = 0;
    out = over_a_call(&in, SYS_kill, getpid(), SIGUSR1);
    SAY("signal within a call: handled %d, %s, mxcsr %s", (int)handled, memcmp(&in, &out, sizeof in) == 0 ? "kept" : "changed",
        _mm_getcsr() == csr ? "kept" : "changed");

    volatile long double third = 1.0L / 3.0L;
    for (int i = 0; i < 1000; i++)
        syscall(SYS_getppid);
    SAY("x87: %s", third * 3.0L == 1.0L ? "exact" : "off");
    return 0;
}
