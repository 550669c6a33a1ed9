// build: dynamic musl static-pie
// Faults: what the handler learns, coming back with siglongjmp, overflow of the stack; or dying of one.
#include "check.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/resource.h>

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
    return 0;
}
