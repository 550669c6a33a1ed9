// build: dynamic musl static-pie
// Handlers: nesting, masks, flags, alternative stacks, what siginfo and the context say.
#include "check.h"
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/wait.h>
#include <ucontext.h>

static volatile sig_atomic_t depth, depth_max, usr1_count, saw_blocked;

static void install(int number, void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags };
    sigemptyset(&action.sa_mask);
    MUST(sigaction(number, &action, NULL) == 0);
}

static void enter(void)
{
    if (++depth > depth_max)
        depth_max = depth;
}

static void on_inner(int number, siginfo_t *info, void *context)
{
    (void)context;
    enter();
    SAY("  inner: signal %d, code %s, depth %d", number, info->si_code == SI_TKILL ? "TKILL" : "other", depth);
    depth--;
}

static void on_outer(int number, siginfo_t *info, void *context)
{
    (void)info;
    (void)context;
    enter();
    SAY("outer begins: signal %d", number);
    raise(SIGUSR2);
    SAY("outer ends");
    depth--;
}

static void on_self_blocked(int number, siginfo_t *info, void *context)
{
    (void)info;
    enter();
    usr1_count++;
    sigset_t blocked, pending;
    sigprocmask(SIG_BLOCK, NULL, &blocked);
    saw_blocked = sigismember(&blocked, number);
    if (usr1_count == 1) {
        raise(number);
        sigpending(&pending);
        SAY("raised within: pending %d, depth %d", sigismember(&pending, number), depth);
    }
    SAY("context mask holds it: %d", sigismember(&((ucontext_t *)context)->uc_sigmask, number));
    depth--;
}

static void on_recursive(int number, siginfo_t *info, void *context)
{
    (void)info;
    (void)context;
    enter();
    if (depth < 4)
        raise(number);
    depth--;
}

static char *alt_low, *alt_high;

static void on_alt(int number, siginfo_t *info, void *context)
{
    (void)info;
    (void)context;
    char here;
    stack_t now;
    MUST(sigaltstack(NULL, &now) == 0);
    SAY("signal %d on the alternative stack: %d, flags say so: %d", number, &here >= alt_low && &here < alt_high, now.ss_flags == SS_ONSTACK);
    stack_t other = { .ss_sp = alt_low, .ss_size = (size_t)(alt_high - alt_low) };
    SAY("changing it meanwhile: %s", sigaltstack(&other, NULL) == 0 ? "ok" : name_of(errno));
    if (number == SIGUSR1)
        raise(SIGUSR2);
}

static void try_alternative_stack(void)
{
    size_t size = 64 << 10;
    alt_low = malloc(size);
    alt_high = alt_low + size;
    stack_t stack = { .ss_sp = alt_low, .ss_size = size }, old;
    MUST(sigaltstack(&stack, &old) == 0);
    SAY("before: %s", old.ss_flags == SS_DISABLE ? "disabled" : "set");
    install(SIGUSR1, on_alt, SA_ONSTACK);
    install(SIGUSR2, on_alt, SA_ONSTACK);
    raise(SIGUSR1);
    MUST(sigaltstack(NULL, &old) == 0);
    SAY("after: base %s, flags %d", old.ss_sp == alt_low ? "kept" : "changed", old.ss_flags);
    stack_t small = { .ss_sp = alt_low, .ss_size = 100 };
    SAY("too small: %s", sigaltstack(&small, NULL) == 0 ? "ok" : name_of(errno));
    stack.ss_flags = SS_DISABLE;
    MUST(sigaltstack(&stack, NULL) == 0);
}

static volatile uint64_t resumed_marker;

static void on_edit(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    // The interrupted code waits for a non-zero rbx.
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RBX] = 0x1234;
}

static void try_editing_the_context(void)
{
    install(SIGALRM, on_edit, 0);
    uint64_t seen;
    alarm(1);
    __asm__ volatile("xor %%ebx, %%ebx\n1: pause\ntest %%rbx, %%rbx\njz 1b\nmov %%rbx, %0" : "=r"(seen) : : "rbx", "cc");
    resumed_marker = seen;
    SAY("register changed by the handler: %llx", (unsigned long long)resumed_marker);
}

static pthread_t target;
static volatile int thread_got;

static void on_thread(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    (void)context;
    thread_got = pthread_equal(pthread_self(), target) ? 1 : 2;
}

static void *thread_body(void *unused)
{
    (void)unused;
    while (!thread_got)
        usleep(1000);
    return NULL;
}

static void try_thread_signal(void)
{
    install(SIGUSR1, on_thread, 0);
    MUST(pthread_create(&target, NULL, thread_body, NULL) == 0);
    MUST(pthread_kill(target, SIGUSR1) == 0);
    MUST(pthread_join(target, NULL) == 0);
    SAY("pthread_kill reached %s", thread_got == 1 ? "the thread" : "another thread");
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    thread_got = 0;
    MUST(pthread_create(&target, NULL, thread_body, NULL) == 0);
    MUST(pthread_sigmask(SIG_UNBLOCK, &set, NULL) == 0);
    kill(getpid(), SIGUSR1);
    while (!thread_got)
        usleep(1000);
    SAY("a process signal went to %s", thread_got == 2 ? "the thread that has it unblocked" : "the thread that blocks it");
    pthread_join(target, NULL);
}

int main(void)
{
    install(SIGUSR1, on_outer, 0);
    install(SIGUSR2, on_inner, 0);
    raise(SIGUSR1);
    SAY("deepest %d", depth_max);

    depth_max = 0;
    install(SIGUSR1, on_self_blocked, 0);
    raise(SIGUSR1);
    SAY("self-blocked: %d calls, deepest %d, was blocked %d", usr1_count, depth_max, saw_blocked);

    depth_max = 0;
    install(SIGUSR1, on_recursive, SA_NODEFER);
    raise(SIGUSR1);
    SAY("SA_NODEFER: deepest %d", depth_max);

    install(SIGUSR1, on_inner, SA_RESETHAND);
    raise(SIGUSR1);
    struct sigaction now;
    MUST(sigaction(SIGUSR1, NULL, &now) == 0);
    SAY("SA_RESETHAND: %s", now.sa_handler == SIG_DFL ? "default again" : "still set");

    try_alternative_stack();
    try_editing_the_context();
    try_thread_signal();

    struct sigaction action = { .sa_handler = SIG_IGN };
    SAY("SIGKILL: %s", sigaction(SIGKILL, &action, NULL) == 0 ? "ok" : name_of(errno));
    SAY("SIGSTOP: %s", sigaction(SIGSTOP, &action, NULL) == 0 ? "ok" : name_of(errno));
    SAY("signal 65: %s", sigaction(65, &action, NULL) == 0 ? "ok" : name_of(errno));
    SAY("kill of nobody: %s", kill(999999, 0) == 0 ? "ok" : name_of(errno));

    pid_t child = fork();
    if (child == 0) {
        signal(SIGTERM, SIG_DFL);
        raise(SIGTERM);
        _exit(1);
    }
    int status;
    MUST(waitpid(child, &status, 0) == child);
    SAY("a child ended by its own SIGTERM: %d", WIFSIGNALED(status) ? WTERMSIG(status) : -1);
    return 0;
}
