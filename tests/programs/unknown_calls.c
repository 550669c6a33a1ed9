// build: dynamic
// Call numbers that Linux does not have, and calls with arguments that make no sense.
#include "check.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static void ask(const char *what, long result)
{
    SAY("%s: %s", what, result < 0 ? name_of(errno) : "ok");
}

int main(void)
{
    long numbers[] = { 400, 512, 547, 600, 1023, 4096, 65535, 0x3fffffff, 0x40000000 + 39, -1, -39 };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        for (int round = 0; round < 2; round++) {
            errno = 0;
            long result = syscall(numbers[i]);
            SAY("call %ld: %ld %s", numbers[i], result == getpid() ? 1 : result, name_of(errno));
        }
    // Only the low half of the number counts.
    SAY("getppid with a high half: %s", syscall(SYS_getppid | 1L << 32) >= 0 ? "ok" : name_of(errno));
    void *absurd[] = { NULL, (void *)1, (void *)0x7ffffffff000, (void *)0xffff800000000000, (void *)0x200000000000, (void *)0x200100000000 };
    int fds[2];
    MUST(pipe(fds) == 0 && write(fds[1], "0123456789", 10) == 10);
    for (size_t i = 0; i < sizeof absurd / sizeof *absurd; i++) {
        SAY("pointer %zu", i);
        ask("  read", read(fds[0], absurd[i], 1));
        ask("  write", write(fds[1], absurd[i], 1));
        ask("  open", syscall(SYS_openat, AT_FDCWD, absurd[i], O_RDONLY));
        ask("  uname", syscall(SYS_uname, absurd[i]));
        ask("  pipe", syscall(SYS_pipe2, absurd[i], 0));
        ask("  rt_sigaction", syscall(SYS_rt_sigaction, 10, absurd[i], NULL, 8) ? -1 : 0);
        ask("  futex", syscall(SYS_futex, absurd[i], 0, 0, NULL, NULL, 0));
        ask("  nanosleep", syscall(SYS_nanosleep, absurd[i], NULL));
    }
    ask("close of nothing", close(12345));
    ask("dup2 too high", dup2(0, 1 << 30));
    ask("socket of no family", socket(99, SOCK_STREAM, 0));
    ask("rt_sigaction with a wrong size", syscall(SYS_rt_sigaction, 10, NULL, NULL, 4));
    return 0;
}
