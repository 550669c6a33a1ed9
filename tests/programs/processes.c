// build: dynamic musl static-pie
// fork, vfork, posix_spawn and exec in their combinations; what a parent learns; what a child inherits.
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

extern char **environ;
static char self[4096];

static void say_status(const char *title, int status)
{
    if (WIFEXITED(status))
        SAY("%s: exit %d", title, WEXITSTATUS(status));
    else if (WIFSIGNALED(status))
        SAY("%s: signal %d%s", title, WTERMSIG(status), WCOREDUMP(status) ? " core" : "");
    else
        SAY("%s: other", title);
}

static int await(pid_t child)
{
    int status;
    MUST(waitpid(child, &status, 0) == child);
    return status;
}

static void try_fork(void)
{
    int value = 1;
    char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t parent = getpid(), child = fork();
    if (child == 0) {
        value = 2;
        shared[0] = 's';
        _exit(getppid() == parent ? 7 : 8);
    }
    say_status("fork", await(child));
    SAY("private %d, shared %c", value, shared[0]);
    for (int i = 0; i < 50; i++) {
        child = fork();
        if (child == 0)
            _exit(i);
        MUST(WEXITSTATUS(await(child)) == i);
    }
    SAY("50 children one after another");
    pid_t children[20];
    for (int i = 0; i < 20; i++)
        if ((children[i] = fork()) == 0) {
            usleep(1000);
            _exit(i);
        }
    int sum = 0;
    for (int i = 0; i < 20; i++)
        sum += WEXITSTATUS(await(children[i]));
    SAY("20 children at once: sum %d", sum);
    SAY("no more: %s", wait(NULL) < 0 ? name_of(errno) : "one");
    if ((child = fork()) == 0) {
        pid_t grandchild = fork();
        if (grandchild == 0)
            _exit(33);
        _exit(WEXITSTATUS(await(grandchild)) + 1);
    }
    say_status("through a grandchild", await(child));
    if ((child = fork()) == 0)
        raise(SIGKILL);
    say_status("killed", await(child));
    if ((child = fork()) == 0)
        abort();
    say_status("aborted", await(child) & ~0x80);
}

static void try_pipe(void)
{
    int to[2], from[2];
    MUST(pipe(to) == 0 && pipe(from) == 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(to[0], 0);
        dup2(from[1], 1);
        close(to[0]), close(to[1]), close(from[0]), close(from[1]);
        execlp("tr", "tr", "a-z", "A-Z", NULL);
        _exit(127);
    }
    close(to[0]), close(from[1]);
    MUST(write(to[1], "through a pipe", 14) == 14);
    close(to[1]);
    char buffer[64];
    ssize_t len = read(from[0], buffer, sizeof buffer);
    MUST(len > 0);
    SAY("%.*s", (int)len, buffer);
    say_status("tr", await(child));
    close(from[0]);
}

static void try_exec_errors(void)
{
    char *args[] = { "x", NULL };
    char *volatile absurd = (char *)1;
    const char *paths[] = { "/nonexistent", "/etc/passwd", "/tmp", "/etc/passwd/x", "" };
    for (int i = 0; i < 5; i++) {
        execve(paths[i], args, environ);
        SAY("execve of \"%s\": %s", paths[i], name_of(errno));
    }
    execve(absurd, args, environ);
    SAY("execve of a bad pointer: %s", name_of(errno));
    execve("/bin/true", (char **)absurd, environ);
    SAY("execve with bad arguments: %s", name_of(errno));
}

static void try_vfork_and_spawn(void)
{
    pid_t child = vfork();
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", "exit 21", NULL);
        _exit(127);
    }
    say_status("vfork and exec", await(child));
    child = vfork();
    if (child == 0)
        _exit(22);
    say_status("vfork and exit", await(child));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    int fds[2];
    MUST(pipe(fds) == 0);
    posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
    posix_spawn_file_actions_addclose(&actions, fds[0]);
    char *args[] = { "echo", "spawned", NULL };
    MUST(posix_spawnp(&child, "echo", &actions, NULL, args, environ) == 0);
    close(fds[1]);
    char buffer[64];
    ssize_t len = read(fds[0], buffer, sizeof buffer);
    SAY("posix_spawn: %.*s", (int)len - 1, buffer);
    say_status("posix_spawn", await(child));
    SAY("posix_spawn of nothing: %s", name_of(posix_spawn(&child, "/nonexistent", NULL, NULL, args, environ)));
    FILE *stream = popen("echo from popen; exit 4", "r");
    MUST(stream && fgets(buffer, sizeof buffer, stream));
    printf("%s", buffer);
    say_status("popen", pclose(stream));
    say_status("system", system("exit 6"));
    close(fds[0]);
}

static void *idle(void *unused)
{
    pause();
    return unused;
}

static void *exec_from_thread(void *unused)
{
    (void)unused;
    execl(self, self, "inherited", "thread", NULL);
    _exit(127);
}

// What the program says of itself after exec, when called with "inherited".
static int say_inherited(const char *how)
{
    sigset_t blocked, pending;
    sigprocmask(SIG_BLOCK, NULL, &blocked);
    sigpending(&pending);
    struct sigaction usr1, usr2;
    sigaction(SIGUSR1, NULL, &usr1);
    sigaction(SIGUSR2, NULL, &usr2);
    SAY("%s: USR1 %s, USR2 %s, HUP blocked %d, pending %d", how, usr1.sa_handler == SIG_IGN ? "ignored" : "default",
        usr2.sa_handler == SIG_DFL ? "default" : "handled", sigismember(&blocked, SIGHUP), sigismember(&pending, SIGHUP));
    SAY("%s: descriptor 50 %s, 51 %s", how, fcntl(50, F_GETFD) >= 0 ? "open" : "closed", fcntl(51, F_GETFD) >= 0 ? "open" : "closed");
    stack_t stack;
    sigaltstack(NULL, &stack);
    SAY("%s: alternative stack %s, umask %o, nice %d", how, stack.ss_flags & SS_DISABLE ? "gone" : "kept", umask(0), getpriority(PRIO_PROCESS, 0));
    char text[64] = "", *name = text;
    prctl(PR_GET_NAME, name);
    SAY("%s: name %s", how, text);
    return 44;
}

static void on_usr2(int number)
{
    (void)number;
}

static void try_inheritance(const char *how)
{
    pid_t child = fork();
    if (child == 0) {
        signal(SIGUSR1, SIG_IGN);
        signal(SIGUSR2, on_usr2);
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGHUP);
        sigprocmask(SIG_BLOCK, &set, NULL);
        raise(SIGHUP);
        MUST(dup2(1, 50) == 50 && dup3(1, 51, O_CLOEXEC) == 51);
        stack_t stack = { .ss_sp = malloc(64 << 10), .ss_size = 64 << 10 };
        sigaltstack(&stack, NULL);
        umask(027);
        prctl(PR_SET_NAME, "renamed");
        if (strcmp(how, "thread") == 0) {
            pthread_t thread, other;
            pthread_create(&other, NULL, idle, NULL);
            pthread_create(&thread, NULL, exec_from_thread, NULL);
            pause();
        }
        execl(self, self, "inherited", how, NULL);
        _exit(127);
    }
    say_status(how, await(child));
}

static void try_wait_kinds(void)
{
    siginfo_t info;
    pid_t child = fork();
    if (child == 0) {
        raise(SIGSTOP);
        usleep(200000); // until its going on has been seen
        _exit(12);
    }
    int status;
    MUST(waitpid(child, &status, WUNTRACED) == child);
    SAY("stopped: %d by %d", WIFSTOPPED(status), WSTOPSIG(status));
    MUST(kill(child, SIGCONT) == 0 && waitpid(child, &status, WCONTINUED) == child);
    SAY("continued: %d", WIFCONTINUED(status));
    MUST(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0);
    SAY("waitid: code %d status %d", info.si_code, info.si_status);
    struct rusage usage;
    MUST(wait4(child, &status, 0, &usage) == child);
    SAY("nothing left: %s", waitpid(child, &status, WNOHANG) < 0 ? name_of(errno) : "something");
    child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    SAY("WNOHANG: %d", waitpid(child, &status, WNOHANG));
    MUST(setpgid(child, child) == 0 && kill(-child, SIGTERM) == 0);
    MUST(waitpid(-child, &status, 0) == child);
    say_status("by its group", status);
    int fd = (int)syscall(434, getpid(), 0);
    SAY("pidfd_open: %s", fd >= 0 ? "ok" : name_of(errno));
}

static void *nothing(void *unused)
{
    return unused;
}

static void *fork_in_thread(void *unused)
{
    (void)unused;
    pid_t child = fork();
    if (child == 0) {
        // Only the forking thread lives on in the child.
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, nothing, NULL) == 0 && pthread_join(thread, NULL) == 0);
        _exit(14);
    }
    say_status("fork in a thread", await(child));
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "inherited") == 0)
        return say_inherited(argv[2]);
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    MUST(len > 0);
    struct rlimit none = { 0, 0 };
    setrlimit(RLIMIT_CORE, &none);
    try_fork();
    try_pipe();
    try_exec_errors();
    try_vfork_and_spawn();
    try_inheritance("exec");
    try_inheritance("thread");
    try_wait_kinds();
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, fork_in_thread, NULL) == 0 && pthread_join(thread, NULL) == 0);
    return 0;
}
