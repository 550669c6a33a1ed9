// build: dynamic musl static-pie
// futex(2) private to a process: what each call returns, who is woken and when, and what libraries make of it.
#include "check.h"
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

// <linux/futex.h>, which not every libc comes with.
#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#define FUTEX_REQUEUE 3
#define FUTEX_WAIT_PRIVATE 128
#define FUTEX_WAKE_PRIVATE 129
#define FUTEX_REQUEUE_PRIVATE 131
#define FUTEX_CMP_REQUEUE_PRIVATE 132
#define FUTEX_WAKE_OP_PRIVATE 133
#define FUTEX_WAIT_BITSET_PRIVATE 137
#define FUTEX_WAKE_BITSET_PRIVATE 138
#define FUTEX_PRIVATE_FLAG 128
#define FUTEX_CLOCK_REALTIME 256

enum { SET, ADD, OR, ANDN, XOR, AS_BIT = 8 };
enum { EQ, NE, LT, LE, GT, GE };
#define CHANGE(kind, operand, comparison, compared)                                                \
    ((unsigned)(kind) << 28 | (unsigned)(comparison) << 24 | ((operand) & 0xfff) << 12 | ((compared) & 0xfff))

#define WAITERS 6
#define WORKERS 8

static atomic_uint word, other, shared_word;

static long call(volatile void *at, int op, unsigned value, const void *fourth, volatile void *second, unsigned last)
{
    return syscall(SYS_futex, at, op, value, fourth, second, last);
}

static long wait_private(volatile void *at, unsigned value, const struct timespec *limit)
{
    return call(at, FUTEX_WAIT_PRIVATE, value, limit, NULL, 0);
}

static long wake_private(volatile void *at, int count)
{
    return call(at, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

static long requeue(volatile void *from, volatile void *to, int wakes, int moves)
{
    return call(from, FUTEX_REQUEUE_PRIVATE, wakes, (void *)(intptr_t)moves, to, 0);
}

// How many wait: as many as could be moved to where they are.
static long waiters(volatile void *at)
{
    return requeue(at, at, 0, INT_MAX);
}

static void await(volatile void *at, long count)
{
    while (waiters(at) != count)
        usleep(500);
}

#define SAY_CALL(what, made)                                                                       \
    do {                                                                                           \
        long done_ = (made);                                                                       \
        if (done_ < 0)                                                                             \
            SAY("%s: %s", what, name_of(errno));                                                   \
        else                                                                                       \
            SAY("%s: %ld", what, done_);                                                           \
    } while (0)

static void try_errors(void)
{
    char *bad = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *constant = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *odd = (char *)&word + 1;
    char *high = (char *)(1ul << 63);
    struct timespec negative = {-1, 0}, much = {0, 1000000000}, none = {0, 0};
    SAY_CALL("wait for another value", wait_private(&word, 1, NULL));
    SAY_CALL("wait, unaligned", wait_private(odd, 0, NULL));
    SAY_CALL("wait, unreadable", wait_private(bad, 0, NULL));
    SAY_CALL("wait, not an address", wait_private(high, 0, NULL));
    SAY_CALL("wait, constant, another value", wait_private(constant, 1, NULL));
    SAY_CALL("wait, negative time", wait_private(&word, 0, &negative));
    SAY_CALL("wait, too many nanoseconds", wait_private(&word, 1, &much));
    SAY_CALL("wait, unreadable time", wait_private(&word, 0, (void *)bad));
    SAY_CALL("wait, no time", wait_private(&word, 0, &none));
    SAY_CALL("wait, no bits", call(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, 0));
    SAY_CALL("wait, long ago", call(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, &none, NULL, 1));
    SAY_CALL("wait, long ago, wall clock",
             call(&word, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &none, NULL, 1));
    SAY_CALL("wake, wall clock", call(&word, FUTEX_WAKE_PRIVATE | FUTEX_CLOCK_REALTIME, 1, NULL, NULL, 0));
    SAY_CALL("wake nobody", wake_private(&word, INT_MAX));
    SAY_CALL("wake, unaligned", wake_private(odd, 1));
    SAY_CALL("wake, unreadable", wake_private(bad, 1));
    SAY_CALL("wake, not an address", wake_private(high, 1));
    SAY_CALL("wake, no bits", call(&word, FUTEX_WAKE_BITSET_PRIVATE, 1, NULL, NULL, 0));
    SAY_CALL("requeue, negative wakes", requeue(&word, &other, -1, 1));
    SAY_CALL("requeue, negative moves", requeue(&word, &other, 1, -1));
    SAY_CALL("requeue to an unaligned word", requeue(&word, odd, 1, 1));
    SAY_CALL("requeue nobody", requeue(&word, &other, 1, 1));
    SAY_CALL("compared requeue, another value",
             call(&word, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)1, &other, 7));
    SAY_CALL("compared requeue, unreadable", call(bad, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)1, &other, 0));
    SAY_CALL("wake and change a constant",
             call(&word, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, constant, CHANGE(SET, 1, EQ, 0)));
    SAY_CALL("wake and change, unknown change",
             call(&word, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &other, CHANGE(7, 1, EQ, 0)));
    SAY_CALL("wake and change, unknown comparison",
             call(&word, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &other, CHANGE(ADD, 5, 9, 0)));
    SAY("changed all the same: %u", atomic_exchange(&other, 0));
    SAY_CALL("unknown operation", call(&word, 77 | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, 0));
}

static void try_changes(void)
{
    for (int kind = SET; kind <= XOR; kind++) {
        atomic_store(&other, 12);
        long done = call(&word, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &other, CHANGE(kind, 10, EQ, 0));
        unsigned plain = atomic_exchange(&other, 12);
        MUST(done == 0);
        done = call(&word, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &other, CHANGE(kind | AS_BIT, 3, EQ, 0));
        SAY("change %d: %u, bit: %u, %ld", kind, plain, atomic_exchange(&other, 0), done);
    }
}

struct waiter {
    pthread_t thread;
    volatile void *at;
    unsigned bits;
    int number;
};

static atomic_int order[WAITERS], woken_count;

static void *wait_once(void *argument)
{
    struct waiter *self = argument;
    long done = call(self->at, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, self->bits);
    MUST(done == 0);
    order[atomic_fetch_add(&woken_count, 1)] = self->number;
    return NULL;
}

static struct waiter waiting[WAITERS];

// Lets waiters queue up, one after the other.
static void line_up(int count)
{
    atomic_store(&woken_count, 0);
    for (int i = 0; i < count; i++) {
        waiting[i] = (struct waiter){.at = &word, .bits = 1u << i, .number = i};
        MUST(pthread_create(&waiting[i].thread, NULL, wait_once, &waiting[i]) == 0);
        await(&word, i + 1);
    }
}

static void await_woken(int count)
{
    while (atomic_load(&woken_count) < count)
        usleep(500);
}

static void finish_line(int count)
{
    for (int i = 0; i < count; i++)
        MUST(pthread_join(waiting[i].thread, NULL) == 0);
    for (int i = 0; i < count; i++)
        printf("%d ", order[i]);
    SAY("is the order");
}

static void try_order(void)
{
    line_up(WAITERS);
    SAY_CALL("wake for a bit nobody waits for", call(&word, FUTEX_WAKE_BITSET_PRIVATE, 9, NULL, NULL, 1u << 30));
    SAY_CALL("wake two by their bits", call(&word, FUTEX_WAKE_BITSET_PRIVATE, 1, NULL, NULL, 1u << 4 | 1u << 2));
    await_woken(1);
    SAY_CALL("wake none", wake_private(&word, 0));
    await_woken(2);
    SAY_CALL("wake less than none", wake_private(&word, -1));
    await_woken(3);
    for (int i = 4; i <= WAITERS; i++) {
        MUST(wake_private(&word, 1) == 1);
        await_woken(i);
    }
    SAY_CALL("wake when all are gone", wake_private(&word, 1));
    finish_line(WAITERS);
}

static void try_requeue(void)
{
    line_up(WAITERS);
    SAY_CALL("requeue none", requeue(&word, &other, 0, 0));
    SAY_CALL("wake one, move two", requeue(&word, &other, 1, 2));
    await_woken(1);
    SAY("waiting here %ld, there %ld", waiters(&word), waiters(&other));
    SAY_CALL("compared", call(&word, FUTEX_CMP_REQUEUE_PRIVATE, 0, (void *)1, &other, 0));
    SAY_CALL("compared, another value", call(&word, FUTEX_CMP_REQUEUE_PRIVATE, 0, (void *)1, &other, 1));
    SAY("waiting here %ld, there %ld", waiters(&word), waiters(&other));
    for (int i = 2; i <= 4; i++) {
        MUST(wake_private(&other, 1) == 1);
        await_woken(i);
    }
    SAY_CALL("wake one here", wake_private(&word, 1));
    await_woken(5);
    SAY_CALL("wake and change, of one and none",
             call(&other, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &word, CHANGE(ADD, 0, GT, 0)));
    SAY_CALL("wake and change, of none and one",
             call(&other, FUTEX_WAKE_OP_PRIVATE, 1, (void *)1, &word, CHANGE(ADD, 0, GE, 0)));
    finish_line(WAITERS);
    line_up(4);
    SAY_CALL("move all", requeue(&word, &other, 0, INT_MAX));
    SAY_CALL("wake all", wake_private(&other, INT_MAX));
    for (int i = 0; i < 4; i++)
        MUST(pthread_join(waiting[i].thread, NULL) == 0);
}

static int64_t now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000ll + time.tv_nsec;
}

static struct timespec time_of(int64_t ns)
{
    return (struct timespec){ns / 1000000000, ns % 1000000000};
}

static void try_timeouts(void)
{
    const int64_t length = 30000000;
    static const struct {
        const char *name;
        int op;
        clockid_t clock;
    } ways[] = {
        {"relative", FUTEX_WAIT_PRIVATE, CLOCK_MONOTONIC},
        {"absolute", FUTEX_WAIT_BITSET_PRIVATE, CLOCK_MONOTONIC},
        {"wall clock", FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, CLOCK_REALTIME},
    };
    for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++) {
        int64_t began = now(ways[i].clock);
        struct timespec limit = time_of(ways[i].op == FUTEX_WAIT_PRIVATE ? length : began + length);
        long done = call(&word, ways[i].op, 0, &limit, NULL, 1);
        int error = errno;
        int64_t took = now(ways[i].clock) - began;
        SAY("%s: %ld %s, %s", ways[i].name, done, name_of(error), took < length ? "too early" : took > 20 * length ? "too late" : "in time");
    }
    struct timespec ever = {LONG_MAX, 999999999};
    SAY_CALL("for ever, another value", wait_private(&word, 1, &ever));
}

static volatile sig_atomic_t handled;

static void handle(int signal)
{
    (void)signal;
    handled++;
}

struct interrupted {
    const struct timespec *limit;
    long done;
    int error;
};

static void *be_interrupted(void *argument)
{
    struct interrupted *self = argument;
    self->done = wait_private(&word, 0, self->limit);
    self->error = self->done < 0 ? errno : 0;
    return NULL;
}

static void interrupt(const char *name, int flags, const struct timespec *limit)
{
    struct sigaction action = {.sa_handler = handle, .sa_flags = flags};
    MUST(sigaction(SIGUSR1, &action, NULL) == 0);
    struct interrupted self = {.limit = limit};
    pthread_t thread;
    handled = 0;
    MUST(pthread_create(&thread, NULL, be_interrupted, &self) == 0);
    await(&word, 1);
    MUST(pthread_kill(thread, SIGUSR1) == 0);
    while (!handled)
        usleep(500);
    bool waits_again = limit == NULL && flags & SA_RESTART;
    if (waits_again) {
        await(&word, 1);
        MUST(wake_private(&word, 1) == 1);
    }
    MUST(pthread_join(thread, NULL) == 0);
    SAY("%s: %ld %s, handled %d, still waiting %ld", name, self.done, name_of(self.error), (int)handled, waiters(&word));
}

static void try_signals(void)
{
    struct timespec hour = {3600, 0};
    interrupt("a signal", 0, NULL);
    interrupt("a signal, SA_RESTART", SA_RESTART, NULL);
    interrupt("a signal, with a limit", 0, &hour);
    interrupt("a signal, with a limit, SA_RESTART", SA_RESTART, &hour);
    MUST(signal(SIGUSR1, SIG_IGN) != SIG_ERR);
    line_up(1);
    MUST(pthread_kill(waiting[0].thread, SIGUSR1) == 0);
    MUST(kill(getpid(), SIGUSR1) == 0);
    SAY_CALL("an ignored signal, then a wake", wake_private(&word, 1));
    finish_line(1);
}

static void *wait_shared(void *unused)
{
    (void)unused;
    long done = call(&shared_word, FUTEX_WAIT, 0, NULL, NULL, 0);
    return (void *)(intptr_t)done;
}

static void try_shared(void)
{
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, wait_shared, NULL) == 0);
    while (call(&shared_word, FUTEX_REQUEUE, 0, (void *)INT_MAX, &shared_word, 0) != 1)
        usleep(500);
    SAY_CALL("private wake of a shared wait", wake_private(&shared_word, 1));
    SAY_CALL("shared wake of a shared wait", call(&shared_word, FUTEX_WAKE, 1, NULL, NULL, 0));
    MUST(pthread_join(thread, NULL) == 0);
    line_up(1);
    SAY_CALL("shared wake of a private wait", call(&word, FUTEX_WAKE, 1, NULL, NULL, 0));
    SAY_CALL("private wake of a private wait", wake_private(&word, 1));
    finish_line(1);
}

static atomic_long woken_sum, zero_sum, timeout_sum;
static atomic_int waiting_threads;

// Waits for hardly any time, so that wakes, moves and timeouts meet.
static void *wait_hardly(void *unused)
{
    (void)unused;
    for (int i = 0; i < 4000; i++) {
        struct timespec limit = {0, 1000 * (i % 64)};
        if (wait_private(&word, 0, &limit) == 0)
            atomic_fetch_add(&zero_sum, 1);
        else
            atomic_fetch_add(&timeout_sum, errno == ETIMEDOUT);
    }
    atomic_fetch_sub(&waiting_threads, 1);
    return NULL;
}

static void try_races(void)
{
    pthread_t threads[WORKERS];
    atomic_store(&waiting_threads, WORKERS);
    for (int i = 0; i < WORKERS; i++)
        MUST(pthread_create(&threads[i], NULL, wait_hardly, NULL) == 0);
    for (long round = 0; atomic_load(&waiting_threads) > 0; round++) {
        woken_sum += wake_private(&word, 1 + round % 3);
        requeue(&word, &other, 0, 2);
        woken_sum += wake_private(&other, 1);
        if (round % 16 == 0)
            usleep(50);
    }
    for (int i = 0; i < WORKERS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
    SAY("woken: %s, all waits: %ld", woken_sum == zero_sum ? "as many as found themselves woken" : "not so many as found themselves woken", zero_sum + timeout_sum);
    SAY("left behind: %ld %ld", waiters(&word), waiters(&other));
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static sem_t semaphore;
static long checksum, produced, consumed, generation;

static void *hammer(void *argument)
{
    long self = (intptr_t)argument;
    for (int i = 0; i < 20000; i++) {
        pthread_mutex_lock(&mutex);
        checksum = checksum + (self ^ i);
        pthread_mutex_unlock(&mutex);
    }
    // Half of them make what the others take.
    for (int i = 0; i < 2000; i++) {
        pthread_mutex_lock(&mutex);
        if (self % 2 == 0) {
            produced++;
            pthread_cond_signal(&condition);
        } else {
            while (produced == consumed)
                pthread_cond_wait(&condition, &mutex);
            consumed++;
        }
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

static void *take_part(void *argument)
{
    long self = (intptr_t)argument;
    for (int i = 0; i < 200; i++) {
        int last = pthread_barrier_wait(&barrier);
        // One thread tells all others, who wait for the same condition.
        pthread_mutex_lock(&mutex);
        if (last == PTHREAD_BARRIER_SERIAL_THREAD) {
            generation++;
            pthread_cond_broadcast(&condition);
        } else {
            while (generation == i)
                pthread_cond_wait(&condition, &mutex);
        }
        pthread_mutex_unlock(&mutex);
        if (self % 2)
            sem_post(&semaphore);
        else
            sem_wait(&semaphore);
        pthread_rwlock_wrlock(&rwlock);
        checksum++;
        pthread_rwlock_unlock(&rwlock);
        pthread_rwlock_rdlock(&rwlock);
        MUST(checksum > 0);
        pthread_rwlock_unlock(&rwlock);
    }
    return NULL;
}

static void run_all(void *(*body)(void *))
{
    pthread_t threads[WORKERS];
    for (long i = 0; i < WORKERS; i++)
        MUST(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
    for (int i = 0; i < WORKERS; i++)
        MUST(pthread_join(threads[i], NULL) == 0);
}

static void unlock(void *unused)
{
    (void)unused;
    pthread_mutex_unlock(&mutex);
}

static void *wait_for_ever(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&mutex);
    pthread_cleanup_push(unlock, NULL);
    for (;;)
        pthread_cond_wait(&condition, &mutex);
    pthread_cleanup_pop(1);
    return NULL;
}

static void try_libraries(void)
{
    run_all(hammer);
    SAY("checksum %ld, produced %ld, consumed %ld", checksum, produced, consumed);
    checksum = 0;
    MUST(pthread_barrier_init(&barrier, NULL, WORKERS) == 0 && sem_init(&semaphore, 0, 0) == 0);
    run_all(take_part);
    int left;
    sem_getvalue(&semaphore, &left);
    SAY("generations %ld, written %ld, left in the semaphore %d", generation, checksum, left);
    pthread_t thread;
    void *result;
    MUST(pthread_create(&thread, NULL, wait_for_ever, NULL) == 0);
    usleep(20000);
    MUST(pthread_cancel(thread) == 0 && pthread_join(thread, &result) == 0);
    SAY("cancelled while waiting: %d, lock %s", result == PTHREAD_CANCELED, name_of(pthread_mutex_trylock(&mutex)));
    pthread_mutex_unlock(&mutex);
}

static void say_status(const char *name, pid_t child)
{
    int status;
    MUST(child > 0 && waitpid(child, &status, 0) == child);
    SAY("%s: status %d", name, WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
}

static void try_children(void)
{
    line_up(3);
    pid_t child = fork();
    if (child == 0) {
        bool is_empty = waiters(&word) == 0 && wake_private(&word, 1) == 0;
        line_up(2);
        long woken = wake_private(&word, INT_MAX);
        for (int i = 0; i < 2; i++)
            pthread_join(waiting[i].thread, NULL);
        _exit(is_empty ? (int)woken : 9);
    }
    say_status("a child has waiters of its own", child);
    SAY("still waiting: %ld", waiters(&word));
    child = vfork();
    if (child == 0) {
        long woken = call(&word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
        _exit((int)woken);
    }
    say_status("a child that borrows the memory wakes", child);
    await_woken(1);
    SAY_CALL("wake the rest", wake_private(&word, INT_MAX));
    for (int i = 0; i < 3; i++)
        MUST(pthread_join(waiting[i].thread, NULL) == 0);
}

static void allow_all(void)
{
    struct {
        unsigned short code;
        unsigned char on_true, on_false;
        unsigned value;
    } allow = {0x06, 0, 0, 0x7fff0000};
    struct {
        unsigned short length;
        void *filter;
    } program = {1, &allow};
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    MUST(prctl(PR_SET_SECCOMP, 2, &program) == 0);
}

// Of no use as it stands: but the kernel may have been asked to watch private futexes.
static void watch_nothing(void)
{
    (void)syscall(449, NULL, 0, 0, NULL, 0);
}

// Waits that have begun before, and those that begin after it.
static void change_in_child(const char *name, void (*change)(void))
{
    pid_t child = fork();
    if (child == 0) {
        line_up(3);
        change();
        await(&word, 3);
        long woken = wake_private(&word, 2);
        await_woken(2);
        woken = 10 * woken + requeue(&word, &other, 0, 5);
        woken = 10 * woken + wake_private(&other, 5);
        await_woken(3);
        line_up(2);
        pid_t grandchild = fork();
        if (grandchild == 0) {
            line_up(2);
            _exit(wake_private(&word, INT_MAX) == 2 ? 0 : 8);
        }
        int status;
        MUST(waitpid(grandchild, &status, 0) == grandchild && status == 0);
        _exit(woken == 211 && wake_private(&word, INT_MAX) == 2 ? 0 : 9);
    }
    say_status(name, child);
}

static char path[PATH_MAX];

static void *run_anew(void *unused)
{
    (void)unused;
    await(&word, WAITERS + 1);
    char *arguments[] = {"futexes", "again", NULL};
    execv(path, arguments);
    MUST(!"it runs");
    return NULL;
}

// The program is replaced while the first thread and others wait.
static void try_exec(void)
{
    MUST(readlink("/proc/self/exe", path, sizeof path - 1) > 0);
    line_up(WAITERS);
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, run_anew, NULL) == 0);
    wait_private(&word, 0, NULL);
    MUST(!"woken");
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc == 1) {
        try_errors();
        try_changes();
        try_order();
        try_requeue();
        try_timeouts();
        try_signals();
        try_shared();
        try_races();
        try_libraries();
        try_children();
        change_in_child("with a filter", allow_all);
        change_in_child("with futex_waitv", watch_nothing);
        try_exec();
    }
    SAY("a new program: nobody waits: %ld", waiters(&word));
    line_up(3);
    SAY_CALL("wake two", wake_private(&word, 2));
    await_woken(2);
    SAY("the end, while one waits");
    return 0;
}
