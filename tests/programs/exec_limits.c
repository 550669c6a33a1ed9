// build: dynamic
// How long arguments and environment of execve(2) may be, together and each.
#include "check.h"
#include <sys/resource.h>
#include <sys/wait.h>

static void attempt(const char *what, size_t count, size_t len)
{
    char **args = calloc(count + 2, sizeof *args);
    args[0] = "true";
    for (size_t i = 1; i <= count; i++) {
        args[i] = malloc(len + 1);
        memset(args[i], 'x', len);
        args[i][len] = 0;
    }
    int fds[2], error = 0, status;
    MUST(pipe(fds) == 0);
    pid_t child = fork();
    if (child == 0) {
        char *none[] = { NULL };
        execve("/bin/true", args, none);
        error = errno;
        MUST(write(fds[1], &error, sizeof error) == sizeof error);
        _exit(1);
    }
    close(fds[1]);
    ssize_t got = read(fds[0], &error, sizeof error);
    MUST(waitpid(child, &status, 0) == child);
    SAY("%s: %s, status %d", what, got > 0 ? name_of(error) : "ran", WEXITSTATUS(status));
    close(fds[0]);
    for (size_t i = 1; i <= count; i++)
        free(args[i]);
    free(args);
}

int main(void)
{
    struct rlimit stack = { 8 << 20, 8 << 20 }, now;
    MUST(getrlimit(RLIMIT_STACK, &now) == 0);
    stack.rlim_max = now.rlim_max;
    MUST(setrlimit(RLIMIT_STACK, &stack) == 0);
    attempt("one string of 131071", 1, 131071);
    attempt("one string of 131072", 1, 131072);
    attempt("10 strings of 100000", 10, 100000);
    attempt("20 strings of 100000", 20, 100000);
    attempt("21 strings of 100000", 21, 100000);
    attempt("100000 strings of 1", 100000, 1);
    attempt("300000 strings of 1", 300000, 1);
    attempt("10000 empty strings", 10000, 0);
    return 0;
}
