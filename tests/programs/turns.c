// build: dynamic
// Threads that do nothing but wait for each other, many times a second: what Linux keeps of a thread across calls and interruptions
// stays as it is, however they take turns. Meant for a container confined to one CPU.
//
//   turns          all scenarios, then `turns done` by execve(2) while the other threads go on
#include <errno.h>
#include <fenv.h>
#include <linux/futex.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define EXCHANGES 20000

static long futex(atomic_int *word, int op, int value) {
    return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

// A ball that two threads throw: even for the first one, odd for the second.
struct ball {
    atomic_int turn;
    atomic_int is_over;
};

static void await(struct ball *ball, int side) {
    for (int turn; (turn = atomic_load(&ball->turn)) % 2 != side && !atomic_load(&ball->is_over);)
        futex(&ball->turn, FUTEX_WAIT, turn);
}

static void pass(struct ball *ball) {
    atomic_fetch_add(&ball->turn, 1);
    futex(&ball->turn, FUTEX_WAKE, 1);
}

static void end(struct ball *ball) {
    atomic_store(&ball->is_over, 1);
    atomic_fetch_add(&ball->turn, 2);
    futex(&ball->turn, FUTEX_WAKE, 100);
}

static void *play(void *argument) {
    struct ball *ball = argument;
    while (!atomic_load(&ball->is_over)) {
        await(ball, 1);
        pass(ball);
    }
    return NULL;
}

static struct ball *start(pthread_t *partner) {
    struct ball *ball = calloc(1, sizeof *ball);
    pthread_create(partner, NULL, play, ball);
    return ball;
}

static void exchange(struct ball *ball, int count) {
    for (int i = 0; i < count; i++) {
        pass(ball);
        await(ball, 0);
    }
}

static void stop(struct ball *ball, pthread_t partner) {
    end(ball);
    pthread_join(partner, NULL);
}

static void say(const char *what, int is_so) {
    printf("%s: %s\n", what, is_so ? "yes" : "NO");
    fflush(stdout);
}

// One futex(2) wait with vector registers, x87 stack and flags in use by the very function that makes the call.
__attribute__((target("avx"), noinline)) static int wait_with_registers(atomic_int *word, int value,
                                                                        uint64_t pattern) {
    uint64_t in[4] = {pattern, ~pattern, pattern * 3, pattern * 5}, out[4], low[2];
    double x87 = (double)(pattern & 0xffff), x87_out = 0;
    register long rax __asm__("rax") = SYS_futex;
    register long r10 __asm__("r10") = 0;
    __asm__ volatile("vmovdqu (%[in]), %%ymm9\n\t"
                     "vmovdqu (%[in]), %%ymm15\n\t"
                     "fldl %[x87]\n\t"
                     "syscall\n\t"
                     "fstpl %[x87_out]\n\t"
                     "vmovdqu %%ymm9, (%[out])\n\t"
                     "vmovdqu %%xmm15, (%[low])\n\t"
                     "vzeroupper"
                     : "+a"(rax), [x87_out] "=m"(x87_out)
                     : "D"(word), "S"(FUTEX_WAIT | FUTEX_PRIVATE_FLAG), "d"(value), "r"(r10), [in] "r"(in),
                       [out] "r"(out), [low] "r"(low), [x87] "m"(x87)
                     : "rcx", "r11", "memory", "xmm9", "xmm15");
    return !memcmp(in, out, sizeof in) && !memcmp(in, low, sizeof low) && x87 == x87_out;
}

static _Thread_local int mine;

struct player {
    struct ball *ball;
    int side, is_kept, rounding, is_same_thread, is_same_rounding;
};

static void *play_with_registers(void *argument) {
    struct player *player = argument;
    mine = player->side + 100;
    fesetround(player->rounding);
    player->is_kept = player->is_same_thread = player->is_same_rounding = 1;
    for (int i = 0; i < EXCHANGES; i++) {
        for (int turn; (turn = atomic_load(&player->ball->turn)) % 2 != player->side;)
            player->is_kept &= wait_with_registers(&player->ball->turn, turn, (uint64_t)i * 77 + player->side);
        player->is_same_thread &= mine == player->side + 100;
        player->is_same_rounding &= fegetround() == player->rounding;
        pass(player->ball);
    }
    return NULL;
}

static void registers(void) {
    struct ball ball = {0};
    struct player players[2] = {{.ball = &ball, .side = 0, .rounding = FE_UPWARD},
                                {.ball = &ball, .side = 1, .rounding = FE_TOWARDZERO}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, play_with_registers, &players[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    say("vector and x87 registers are kept", players[0].is_kept && players[1].is_kept);
    say("thread-local storage is each thread's own", players[0].is_same_thread && players[1].is_same_thread);
    say("the rounding mode is each thread's own", players[0].is_same_rounding && players[1].is_same_rounding);
}

static atomic_int taken;
static atomic_int taken_by;

static void take(int signal) {
    (void)signal;
    int before = errno;
    taken_by = (int)syscall(SYS_gettid);
    taken++;
    errno = before;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

// MXCSR but for the flags of what has happened.
static unsigned sse_control(void) {
    unsigned control;
    __asm__ volatile("stmxcsr %0" : "=m"(control));
    return control & ~0x3fu;
}

// A timer of the process ticks while threads take turns.
static void ticks(void) {
    pthread_t partner;
    struct ball *ball = start(&partner);
    struct itimerval each_ms = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
    signal(SIGALRM, take);
    taken = 0;
    fesetround(FE_UPWARD);
    unsigned sse = sse_control();
    int are_kept = 1;
    double begin = now();
    setitimer(ITIMER_REAL, &each_ms, NULL);
    while (taken < 200 && now() - begin < 20) {
        exchange(ball, 10);
        // The x87 unit's, and the vector unit's.
        are_kept &= fegetround() == FE_UPWARD && sse_control() == sse;
    }
    setitimer(ITIMER_REAL, &off, NULL);
    fesetround(FE_TONEAREST);
    stop(ball, partner);
    say("a timer's signals arrive while threads take turns", taken >= 200);
    say("and leave the rounding modes alone", are_kept);
}

static atomic_int is_computing;
static atomic_int computer_tid;

__attribute__((noinline)) static uint64_t compute(double seconds) {
    uint64_t a = 1, b = 2, c = 3, d = 4;
    double end = now() + seconds;
    while (now() < end)
        for (int i = 0; i < 10000; i++) {
            a += b ^ 0x9e3779b97f4a7c15;
            b = b << 7 | b >> 57;
            c ^= a;
            d += c * 3;
            __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d));
        }
    return a ^ b ^ c ^ d;
}

static void *compute_after_turns(void *argument) {
    struct ball *ball = argument;
    computer_tid = (int)syscall(SYS_gettid);
    exchange(ball, 2000);
    is_computing = 1;
    double end = now() + 20;
    // Without any call: only a signal brings this to an end.
    while (is_computing && now() < end)
        ;
    return NULL;
}

static void stop_computing(int signal) {
    take(signal);
    is_computing = 0;
}

static void interrupted(void) {
    pthread_t partner, computer;
    struct ball *ball = start(&partner);
    signal(SIGUSR1, stop_computing);
    taken = 0;
    is_computing = 0;
    double begin = now();
    pthread_create(&computer, NULL, compute_after_turns, ball);
    while (!is_computing && now() - begin < 20)
        usleep(1000);
    usleep(30000);
    pthread_kill(computer, SIGUSR1);
    pthread_join(computer, NULL);
    stop(ball, partner);
    say("a signal interrupts a thread that computes", taken == 1 && taken_by == computer_tid);
    say("and at once", now() - begin < 10);
}

// Others make progress while one computes, and it computes on with its registers.
static void *compute_between_turns(void *argument) {
    struct ball *ball = argument;
    int is_right = 1;
    for (int i = 0; i < 4; i++) {
        exchange(ball, 500);
        compute(0.03);
        volatile double one = 1.0, three = 3.0;
        is_right &= one / three * three == 1.0;
    }
    return (void *)(intptr_t)is_right;
}

static void computing(void) {
    pthread_t partners[2], computer;
    struct ball *balls[2] = {start(&partners[0]), start(&partners[1])};
    void *is_right;
    pthread_create(&computer, NULL, compute_between_turns, balls[0]);
    exchange(balls[1], 3000);
    pthread_join(computer, &is_right);
    for (int i = 0; i < 2; i++)
        stop(balls[i], partners[i]);
    say("threads that compute now and then", is_right != NULL);
}

static sigjmp_buf escape;
static volatile int fault_signal;
static void *volatile fault_address;

static void catch_fault(int signal, siginfo_t *info, void *context) {
    (void)context;
    fault_signal = signal;
    fault_address = info->si_addr;
    siglongjmp(escape, 1);
}

static void faults(void) {
    pthread_t partner;
    struct ball *ball = start(&partner);
    struct sigaction action = {.sa_sigaction = catch_fault, .sa_flags = SA_SIGINFO};
    int signals[] = {SIGSEGV, SIGTRAP, SIGFPE, SIGILL};
    for (int i = 0; i < 4; i++)
        sigaction(signals[i], &action, NULL);
    volatile int *volatile wild = (volatile int *)0x10;
    int is_right = 1;
    for (int round = 0; round < 20; round++) {
        exchange(ball, 100);
        if (!sigsetjmp(escape, 1))
            *wild = 1;
        is_right &= fault_signal == SIGSEGV && fault_address == (void *)wild;
        exchange(ball, 100);
        if (!sigsetjmp(escape, 1))
            __asm__ volatile("int3");
        is_right &= fault_signal == SIGTRAP;
        exchange(ball, 100);
        if (!sigsetjmp(escape, 1))
            __asm__ volatile("xorl %%ecx, %%ecx; movl $1, %%eax; cltd; idivl %%ecx" ::: "eax", "ecx", "edx");
        is_right &= fault_signal == SIGFPE;
        exchange(ball, 100);
        if (!sigsetjmp(escape, 1))
            __asm__ volatile(".byte 0xf1");
        is_right &= fault_signal == SIGTRAP;
        exchange(ball, 100);
        if (!sigsetjmp(escape, 1))
            __asm__ volatile("ud2");
        is_right &= fault_signal == SIGILL;
    }
    stop(ball, partner);
    for (int i = 0; i < 4; i++)
        signal(signals[i], SIG_DFL);
    say("faults are their thread's own", is_right);
}

// One futex(2) wait with alignment checks on: flags are each thread's own.
__attribute__((noinline)) static void wait_with_alignment_checks(atomic_int *word, int value) {
    register long rax __asm__("rax") = SYS_futex;
    register long r10 __asm__("r10") = 0;
    __asm__ volatile("subq $128, %%rsp\n\t"
                     "pushfq\n\t"
                     "orl $0x40000, (%%rsp)\n\t"
                     "popfq\n\t"
                     "syscall\n\t"
                     "pushfq\n\t"
                     "andl $~0x40000, (%%rsp)\n\t"
                     "popfq\n\t"
                     "addq $128, %%rsp"
                     : "+a"(rax)
                     : "D"(word), "S"(FUTEX_WAIT | FUTEX_PRIVATE_FLAG), "d"(value), "r"(r10)
                     : "rcx", "r11", "memory", "cc");
}

static void *play_unaligned(void *argument) {
    struct ball *ball = argument;
    char bytes[64] = {0};
    while (!atomic_load(&ball->is_over)) {
        await(ball, 1);
        *(volatile uint32_t *volatile)(void *)(bytes + 1 + ball->turn % 8) += 1;
        pass(ball);
    }
    return NULL;
}

static void alignment(void) {
    pthread_t partner;
    struct ball *ball = calloc(1, sizeof *ball);
    pthread_create(&partner, NULL, play_unaligned, ball);
    for (int i = 0; i < EXCHANGES; i++) {
        pass(ball);
        for (int turn; (turn = atomic_load(&ball->turn)) % 2 != 0;)
            wait_with_alignment_checks(&ball->turn, turn);
    }
    stop(ball, partner);
    say("alignment checks are each thread's own", 1);
}

static void masks(void) {
    pthread_t partner;
    struct ball *ball = start(&partner);
    sigset_t set, pending, before;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    signal(SIGUSR2, take);
    taken = 0;
    pthread_sigmask(SIG_BLOCK, &set, &before);
    exchange(ball, 500);
    pthread_kill(pthread_self(), SIGUSR2);
    exchange(ball, 500);
    sigpending(&pending);
    say("a blocked signal waits", taken == 0 && sigismember(&pending, SIGUSR2));
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    say("until it is unblocked", taken == 1);
    exchange(ball, 500);
    stop(ball, partner);
}

// Waits with a timeout are over in time, whatever others do meanwhile.
static void timeouts(void) {
    pthread_t partner;
    struct ball *ball = start(&partner);
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t condition;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&condition, &attributes);
    exchange(ball, 1000);
    int are_right = 1;
    for (int i = 0; i < 5; i++) {
        struct timespec at;
        double begin = now();
        clock_gettime(CLOCK_MONOTONIC, &at);
        at.tv_nsec += 30000000;
        at.tv_sec += at.tv_nsec / 1000000000;
        at.tv_nsec %= 1000000000;
        pthread_mutex_lock(&mutex);
        int error = pthread_cond_timedwait(&condition, &mutex, &at);
        pthread_mutex_unlock(&mutex);
        double took = now() - begin;
        // Never early; how late, a busy machine decides.
        are_right &= error == ETIMEDOUT && took >= 0.0299 && took < 5;
        exchange(ball, 200);
    }
    stop(ball, partner);
    say("timeouts are not early", are_right);
}

static double seconds_of(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

// CPU time is counted, and never goes back, whoever runs the thread: each clock has to get there in the end.
static void cpu_time(void) {
    pthread_t partner;
    struct ball *ball = start(&partner);
    double of_thread = seconds_of(CLOCK_THREAD_CPUTIME_ID), of_process = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    double thread_end = of_thread + 0.1, process_end = of_process + 0.2, limit = seconds_of(CLOCK_MONOTONIC) + 30;
    int went_back = 0;
    while ((of_thread < thread_end || of_process < process_end) && seconds_of(CLOCK_MONOTONIC) < limit) {
        exchange(ball, 50);
        double now = seconds_of(CLOCK_THREAD_CPUTIME_ID);
        went_back += now < of_thread;
        of_thread = now;
        if ((now = seconds_of(CLOCK_PROCESS_CPUTIME_ID)) < of_process)
            went_back++;
        of_process = now;
    }
    struct rusage used, used_here;
    getrusage(RUSAGE_SELF, &used);
    getrusage(RUSAGE_THREAD, &used_here);
    stop(ball, partner);
    say("CPU time of a thread that takes turns is counted", of_thread >= thread_end);
    say("CPU time of its process is counted", of_process >= process_end);
    say("CPU time goes on only", !went_back);
    // Two clocks, and one of them in ticks.
    double total = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    double here = used_here.ru_utime.tv_sec + used_here.ru_stime.tv_sec + (used_here.ru_utime.tv_usec + used_here.ru_stime.tv_usec) / 1e6;
    say("getrusage(2) agrees", total > of_process - 0.05 && here > of_thread - 0.05);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        say("another program, while threads took turns", !strcmp(argv[1], "done"));
        return 0;
    }
    registers();
    ticks();
    interrupted();
    computing();
    faults();
    alignment();
    masks();
    timeouts();
    cpu_time();
    pthread_t partners[2], runner;
    struct ball *balls[2] = {start(&partners[0]), start(&partners[1])};
    exchange(balls[0], 1000);
    pthread_create(&runner, NULL, compute_after_turns, balls[1]);
    usleep(20000);
    char *arguments[] = {argv[0], "done", NULL};
    execv("/proc/self/exe", arguments);
    perror("execv");
    return 1;
}
