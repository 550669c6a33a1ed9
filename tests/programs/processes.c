// build: dynamic musl static-pie
// fork, vfork, posix_spawn and exec in their combinations; what a parent learns; what a child inherits.
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

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

static void on_usr1(int number)
{
    (void)number;
}

static const char *disposition(int number)
{
    struct sigaction action;
    MUST(sigaction(number, NULL, &action) == 0);
    return action.sa_handler == SIG_DFL ? "default" : action.sa_handler == SIG_IGN ? "ignored" : "handled";
}

// clone3(2) with CLONE_CLEAR_SIGHAND: what posix_spawn(3) of newer C libraries does.
static void try_clear_handlers(void)
{
    struct {
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
    } args = { .flags = 1ULL << 32, .exit_signal = SIGCHLD };
    signal(SIGUSR1, on_usr1);
    signal(SIGSEGV, on_usr1);
    signal(SIGUSR2, SIG_IGN);
    pid_t child = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (child == 0) {
        SAY("cleared: SIGUSR1 %s, SIGSEGV %s, SIGUSR2 %s", disposition(SIGUSR1), disposition(SIGSEGV), disposition(SIGUSR2));
        _exit(15);
    }
    if (child > 0)
        say_status("CLONE_CLEAR_SIGHAND", await(child));
    else
        SAY("CLONE_CLEAR_SIGHAND: %s", name_of(errno));
    SAY("here: SIGUSR1 %s, SIGSEGV %s, SIGUSR2 %s", disposition(SIGUSR1), disposition(SIGSEGV), disposition(SIGUSR2));
    args.stack = ~0ULL - 100;
    args.stack_size = 1000;
    child = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (child == 0)
        _exit(16);
    SAY("a stack past all memory: %s", child > 0 ? "taken" : name_of(errno));
    signal(SIGUSR1, SIG_DFL);
    signal(SIGSEGV, SIG_DFL);
    signal(SIGUSR2, SIG_DFL);
}

static volatile int count;

static int count_up(void *unused)
{
    (void)unused;
    count++;
    return 0;
}

static int outlive_exec(void *unused)
{
    (void)unused;
    usleep(300000);
    return 17;
}

static char borrowed_stack[65536] __attribute__((aligned(16)));

// What a debugger does: the child of a vfork(2) asks to be traced before it runs its program.
static void try_traced_vfork(void)
{
    int status;
    pid_t child = vfork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        execl("/bin/true", "true", NULL);
        _exit(95);
    }
    MUST(waitpid(child, &status, 0) == child);
    SAY("traced: stopped %d by %d", WIFSTOPPED(status), WSTOPSIG(status));
    MUST(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
    say_status("traced", await(child));
}

// CLONE_VM alone: the child shares the memory, and nobody waits for it to go.
static void try_shared_memory(void)
{
    int children = 0;
    for (; children < 15000; children++) {
        pid_t child = clone(count_up, borrowed_stack + sizeof borrowed_stack, CLONE_VM | SIGCHLD, NULL);
        if (child < 0 || await(child) != 0)
            break;
    }
    SAY("CLONE_VM: %d children, counted %d", children, count);
}

// More children at once than any table of fixed size may hold; and more that nobody waits for.
static void try_many(void)
{
    enum { MANY = 1300 };
    static pid_t children[MANY];
    int fds[2], started = 0, right = 0;
    MUST(pipe(fds) == 0);
    for (; started < MANY; started++) {
        pid_t child = children[started] = fork();
        if (child < 0)
            break;
        if (child == 0) {
            char byte;
            close(fds[1]);
            if (started % 2 == 0)
                MUST(read(fds[0], &byte, 1) == 0);
            // Those beyond the table can have children, too.
            if (started % 100 == 0 && (child = fork()) == 0)
                _exit(0);
            _exit(started % 100 == 0 && await(child) != 0 ? 98 : started % 50);
        }
    }
    SAY("%d children at once: %s", started, started == MANY ? "ok" : name_of(errno));
    close(fds[0]);
    close(fds[1]);
    for (int i = 0; i < started; i++)
        right += WEXITSTATUS(await(children[i])) == i % 50;
    SAY("right status: %d", right);
}

// Children in another pid namespace must not take those of this one for dead.
static void try_namespace(void)
{
    int fds[2], status;
    MUST(pipe(fds) == 0);
    pid_t outer = fork();
    if (outer == 0) {
        char byte;
        close(fds[1]);
        MUST(read(fds[0], &byte, 1) == 0);
        pid_t child = fork();
        if (child == 0)
            _exit(18);
        _exit(WEXITSTATUS(await(child)));
    }
    pid_t inner = fork();
    if (inner == 0) {
        if (unshare(CLONE_NEWPID) != 0)
            _exit(0);
        pid_t first = fork();
        if (first == 0) {
            for (int i = 0; i < 600; i++) {
                pid_t child = fork();
                if (child == 0)
                    _exit(0);
                await(child);
            }
            _exit(getpid() == 1 ? 0 : 1);
        }
        _exit(WEXITSTATUS(await(first)));
    }
    status = await(inner);
    say_status("in a pid namespace", status);
    close(fds[0]);
    close(fds[1]);
    say_status("outside it", await(outer));
}

// execve(2) of the first process, and what of the old program must be gone, or still be there.
static int after_exec(int has_child)
{
    struct itimerspec left;
    struct itimerval alarm_left;
    // The first round made a timer that has had time to go off.
    usleep(50000);
    SAY("timer: %s", syscall(SYS_timer_gettime, 0, &left) == 0 ? "there" : name_of(errno));
    MUST(getitimer(ITIMER_REAL, &alarm_left) == 0);
    SAY("alarm: %s", alarm_left.it_value.tv_sec > 90 ? "kept" : "gone");
    if (!has_child)
        return 0;
    int status;
    MUST(wait(&status) > 0);
    say_status("child of the old program", status);
    return 0;
}

// A child that has the same memory, and keeps it when its parent gets a new program.
static int with_borrower;

static void exec_here(void)
{
    timer_t timer;
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
    struct itimerspec soon = { .it_value = { .tv_nsec = 20000000 }, .it_interval = { .tv_nsec = 20000000 } };
    struct itimerval late = { .it_value = { .tv_sec = 100 } };
    signal(SIGUSR1, on_usr1);
    MUST(setitimer(ITIMER_REAL, &late, NULL) == 0);
    MUST(mkfifo("/tmp/pegasus-fifo", 0777) == 0 || errno == EEXIST);
    execl("/tmp/pegasus-fifo", self, NULL);
    SAY("a pipe: %s", name_of(errno));
    unlink("/tmp/pegasus-fifo");
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &soon, NULL) == 0);
    if (with_borrower)
        MUST(clone(outlive_exec, borrowed_stack + sizeof borrowed_stack, CLONE_VM | SIGCHLD, NULL) > 0);
    execl("/proc/self/exe", self, with_borrower ? "again, with a child" : "again", NULL);
    SAY("exec: %s", name_of(errno));
}

static pthread_barrier_t all_ready;
static char next_round[16];

static void *race_to_exec(void *unused)
{
    pthread_barrier_wait(&all_ready);
    execl("/proc/self/exe", self, "race", next_round, NULL);
    return unused;
}

static void *suspend(void *unused)
{
    sigset_t all;
    sigfillset(&all);
    sigsuspend(&all);
    return unused;
}

static void *wait_for_any(void *unused)
{
    sigset_t all;
    int number;
    sigfillset(&all);
    sigwait(&all, &number);
    SAY("sigwait: %d", number);
    return unused;
}

// Each thread wants to replace the program, while others wait with every signal blocked.
static int race(int round)
{
    pthread_t thread;
    if (round == 40) {
        SAY("40 races");
        exec_here();
    }
    snprintf(next_round, sizeof next_round, "%d", round + 1);
    MUST(pthread_barrier_init(&all_ready, NULL, 4) == 0);
    MUST(pthread_create(&thread, NULL, round % 2 ? suspend : wait_for_any, NULL) == 0);
    for (int i = 0; i < 3; i++)
        MUST(pthread_create(&thread, NULL, race_to_exec, NULL) == 0);
    race_to_exec(NULL);
    return 97;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "inherited") == 0)
        return say_inherited(argv[2]);
    if (argc == 2 && strncmp(argv[1], "again", 5) == 0)
        return after_exec(argv[1][5] != 0);
    if (argc == 3 && strcmp(argv[1], "race") == 0)
        return race(atoi(argv[2]));
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    MUST(len > 0);
    if (argc == 2 && strcmp(argv[1], "borrower") == 0) {
        with_borrower = 1;
        exec_here();
    }
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
    try_clear_handlers();
    try_traced_vfork();
    try_shared_memory();
    try_many();
    try_namespace();
    return race(0);
}
