// build: dynamic musl static-pie
// Faults: what the handler learns, coming back with siglongjmp, overflow of the stack; or dying of one.
#include "check.h"
#include <fcntl.h>
#include <setjmp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>

static sigjmp_buf back;
static volatile int seen_signal, seen_code;
static void *volatile seen_address;

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    seen_signal = number;
    seen_code = info->si_code;
    seen_address = info->si_addr;
    siglongjmp(back, 1);
}

static void report(const char *what, const void *expected)
{
    SAY("%s: signal %d code %d address %s", what, seen_signal, seen_code, seen_address == expected ? "right" : "wrong");
    seen_signal = seen_code = 0;
}

#define ATTEMPT(what, expected, statement)                                                         \
    do {                                                                                           \
        if (sigsetjmp(back, 1) == 0) {                                                             \
            statement;                                                                             \
            SAY("%s: no fault", what);                                                             \
        } else                                                                                     \
            report(what, expected);                                                                \
    } while (0)

static void try_memory(void)
{
    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(page != MAP_FAILED);
    ATTEMPT("write to read-only", page + 100, *(volatile char *)(page + 100) = 1);
    MUST(munmap(page, 4096) == 0);
    ATTEMPT("read of unmapped", page + 5, (void)*(volatile char *)(page + 5));
    ATTEMPT("read of NULL", NULL, (void)*(volatile char *)NULL);
    ATTEMPT("write to 8", (void *)8, *(volatile char *)8 = 1);
    // A non-canonical address gives a general protection fault, which has no address.
    ATTEMPT("non-canonical", NULL, (void)*(volatile char *)0x8000000000000000ul);
    char *data = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    data[0] = (char)0xc3;
    ATTEMPT("jump to data", data, ((void (*)(void))data)());
    char name[] = "/tmp/faults.XXXXXX";
    int fd = mkstemp(name);
    MUST(fd >= 0 && ftruncate(fd, 100) == 0);
    char *map = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
    MUST(map != MAP_FAILED);
    ATTEMPT("past end of file", map + 4096, (void)*(volatile char *)(map + 4096));
    MUST(unlink(name) == 0);
}

static volatile int zero, one = 1;

static void try_computing(void)
{
    if (sigsetjmp(back, 1) == 0) {
        volatile int result = one / zero;
        (void)result;
        SAY("division: no fault");
    } else
        SAY("division by zero: signal %d code %d", seen_signal, seen_code);
    if (sigsetjmp(back, 1) == 0) {
        __asm__ volatile("ud2");
    } else
        SAY("ud2: signal %d code %d", seen_signal, seen_code);
    if (sigsetjmp(back, 1) == 0) {
        __asm__ volatile("hlt");
    } else
        SAY("hlt: signal %d code %d", seen_signal, seen_code);
    if (sigsetjmp(back, 1) == 0) {
        __asm__ volatile("int3");
        SAY("int3: no fault");
    } else
        SAY("int3: signal %d code %d", seen_signal, seen_code);
}

static int overflow(int n)
{
    volatile char frame[4096];
    frame[0] = (char)n;
    return n == zero - 1 ? 0 : overflow(n + 1) + frame[0];
}

static void try_overflow(void)
{
    size_t size = 64 << 10;
    stack_t stack = { .ss_sp = malloc(size), .ss_size = size };
    MUST(sigaltstack(&stack, NULL) == 0);
    for (int round = 0; round < 2; round++)
        if (sigsetjmp(back, 1) == 0)
            SAY("%d", overflow(0));
        else
            SAY("stack overflow: signal %d code %d, came back", seen_signal, seen_code);
}

static void die(const char *how)
{
    if (strcmp(how, "segv") == 0)
        *(volatile char *)16 = 1;
    else if (strcmp(how, "bus") == 0)
        raise(SIGBUS);
    else if (strcmp(how, "fpe") == 0)
        SAY("%d", one / zero);
    else if (strcmp(how, "ill") == 0)
        __asm__ volatile("ud2");
    else if (strcmp(how, "abort") == 0)
        abort();
    else if (strcmp(how, "overflow") == 0)
        SAY("%d", overflow(0));
    else if (strcmp(how, "trap") == 0)
        __asm__ volatile("int3");
    else if (strcmp(how, "jump") == 0)
        ((void (*)(void))0x10)();
    else if (strcmp(how, "blocked") == 0) {
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_BLOCK, &all, NULL);
        *(volatile char *)16 = 1;
    } else if (strcmp(how, "ignored") == 0) {
        signal(SIGSEGV, SIG_IGN);
        *(volatile char *)16 = 1;
    }
}

// A call that a filter of the program's own turns into a signal.
static void on_filtered(int number, siginfo_t *info, void *context)
{
    ucontext_t *state = context;
    SAY("filtered: signal %d code %d call %d at %s", number, info->si_code, info->si_syscall,
        info->si_call_addr == (void *)state->uc_mcontext.gregs[REG_RIP] ? "the place of the call" : "another place");
    state->uc_mcontext.gregs[REG_RAX] = 4242;
}

// As in <linux/filter.h> and <linux/seccomp.h>, which not every C library brings.
struct instruction {
    uint16_t code;
    uint8_t on_true, on_false;
    uint32_t k;
};
#define RET_KILL_PROCESS 0x80000000U
#define RET_TRAP 0x00030000U
#define RET_ALLOW 0x7fff0000U
#define FILTER_LOAD { 0x20, 0, 0, 0 }
#define FILTER_CASE(number, result) { 0x15, 0, 1, number }, { 0x06, 0, 0, result }
#define FILTER_ELSE(result) { 0x06, 0, 0, result }

static void install(const struct instruction *filter, uint16_t len)
{
    struct {
        uint16_t len;
        const struct instruction *filter;
    } program = { len, filter };
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    MUST(prctl(PR_SET_SECCOMP, 2, &program) == 0);
}
#define INSTALL(...)                                                                               \
    do {                                                                                           \
        struct instruction filter[] = { __VA_ARGS__ };                                             \
        install(filter, sizeof filter / sizeof *filter);                                           \
    } while (0)

static void *nothing(void *unused)
{
    return unused;
}

static void filtered_list(void)
{
    INSTALL(FILTER_LOAD, FILTER_CASE(SYS_write, RET_ALLOW), FILTER_CASE(SYS_getppid, RET_ALLOW),
            FILTER_CASE(SYS_exit_group, RET_ALLOW), FILTER_ELSE(RET_KILL_PROCESS));
    for (int i = 0; i < 20; i++)
        syscall(SYS_getppid);
    MUST(write(1, "only what is on the list\n", 25) == 25);
}

static void filtered_handler(void)
{
    struct sigaction action = { .sa_sigaction = on_filtered, .sa_flags = SA_SIGINFO };
    MUST(sigaction(SIGSYS, &action, NULL) == 0);
    INSTALL(FILTER_LOAD, FILTER_CASE(SYS_getppid, RET_TRAP), FILTER_ELSE(RET_ALLOW));
    for (int i = 0; i < 3; i++)
        SAY("result %ld", syscall(SYS_getppid));
}

static void filtered_default(void)
{
    for (int i = 0; i < 20; i++)
        syscall(SYS_getppid);
    INSTALL(FILTER_LOAD, FILTER_CASE(SYS_getppid, RET_TRAP), FILTER_ELSE(RET_ALLOW));
    syscall(SYS_getppid);
    SAY("not killed");
}

static void filtered_thread(void)
{
    pthread_t thread;
    INSTALL(FILTER_LOAD, FILTER_CASE(SYS_prctl, RET_KILL_PROCESS),
            FILTER_CASE(SYS_arch_prctl, RET_KILL_PROCESS),
            FILTER_CASE(SYS_sigaltstack, RET_KILL_PROCESS), FILTER_ELSE(RET_ALLOW));
    MUST(pthread_create(&thread, NULL, nothing, NULL) == 0 && pthread_join(thread, NULL) == 0);
    SAY("a thread under a filter");
}

static void try_filters(void)
{
    void (*const cases[])(void) = { filtered_list, filtered_handler, filtered_default, filtered_thread };
    for (int i = 0; i < 4; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            cases[i]();
            _exit(0);
        }
        MUST(waitpid(child, &status, 0) == child);
        SAY("filter %d: signal %d", i, WTERMSIG(status));
    }
}

int main(int argc, char **argv)
{
    struct rlimit none = { 0, 0 };
    setrlimit(RLIMIT_CORE, &none);
    if (argc > 1) {
        SAY("about to die of %s", argv[1]);
        die(argv[1]);
        SAY("still alive");
        return 0;
    }
    struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    int numbers[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
    for (int i = 0; i < 5; i++)
        MUST(sigaction(numbers[i], &action, NULL) == 0);
    try_memory();
    try_computing();
    try_overflow();
    try_filters();
    return 0;
}
