// build: dynamic musl static-pie
// Threads: many of them, their own storage, locks that survive their owner, raw clone.
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static __thread int local = 5;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int counter, turn;

static void *count(void *add)
{
    MUST(local == 5);
    local += (int)(intptr_t)add;
    pthread_mutex_lock(&lock);
    counter++;
    pthread_mutex_unlock(&lock);
    return (void *)(intptr_t)local;
}

static void try_many(void)
{
    long sum = 0;
    for (int round = 0; round < 100; round++) {
        pthread_t threads[10];
        for (int i = 0; i < 10; i++)
            MUST(pthread_create(&threads[i], NULL, count, (void *)(intptr_t)i) == 0);
        for (int i = 0; i < 10; i++) {
            void *result;
            MUST(pthread_join(threads[i], &result) == 0);
            sum += (intptr_t)result;
        }
    }
    SAY("1000 threads: counter %d, sum %ld, own local %d", counter, sum, local);
}

static void *ping_pong(void *unused)
{
    (void)unused;
    for (int i = 0; i < 5000; i++) {
        pthread_mutex_lock(&lock);
        while (turn != 1)
            pthread_cond_wait(&changed, &lock);
        turn = 0;
        pthread_cond_signal(&changed);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static void try_condition(void)
{
    pthread_t other;
    MUST(pthread_create(&other, NULL, ping_pong, NULL) == 0);
    for (int i = 0; i < 5000; i++) {
        pthread_mutex_lock(&lock);
        while (turn != 0)
            pthread_cond_wait(&changed, &lock);
        turn = 1;
        pthread_cond_signal(&changed);
        pthread_mutex_unlock(&lock);
    }
    MUST(pthread_join(other, NULL) == 0);
    SAY("5000 turns each");
}

static void *die_holding(void *mutex)
{
    pthread_mutex_lock(mutex);
    return NULL;
}

static void try_robust(void)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_t robust;
    pthread_mutex_init(&robust, &attributes);
    pthread_t owner;
    MUST(pthread_create(&owner, NULL, die_holding, &robust) == 0 && pthread_join(owner, NULL) == 0);
    SAY("lock of a dead thread: %s", name_of(pthread_mutex_lock(&robust)));
    SAY("made consistent: %s", name_of(pthread_mutex_consistent(&robust)));
    SAY("unlocked: %s", name_of(pthread_mutex_unlock(&robust)));

    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutex_init(shared, &attributes);
    pid_t child = fork();
    if (child == 0) {
        pthread_mutex_lock(shared);
        _exit(0);
    }
    MUST(waitpid(child, NULL, 0) == child);
    SAY("lock of a dead process: %s", name_of(pthread_mutex_lock(shared)));
}

static void *inherit(void *mutex)
{
    pthread_mutex_lock(mutex);
    counter++;
    pthread_mutex_unlock(mutex);
    return NULL;
}

static void try_priority_inheritance(void)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    if (pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT)) {
        SAY("no priority inheritance");
        return;
    }
    pthread_mutex_t mutex;
    MUST(pthread_mutex_init(&mutex, &attributes) == 0);
    counter = 0;
    pthread_mutex_lock(&mutex);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        MUST(pthread_create(&threads[i], NULL, inherit, &mutex) == 0);
    usleep(20000);
    pthread_mutex_unlock(&mutex);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    SAY("priority inheritance: %d", counter);
}

static pthread_key_t key;
static volatile int destroyed;

static void destroy(void *value)
{
    destroyed += (int)(intptr_t)value;
}

static void *use_key(void *unused)
{
    (void)unused;
    pthread_setspecific(key, (void *)7);
    pthread_exit(NULL);
}

static void *wait_forever(void *unused)
{
    (void)unused;
    for (;;)
        pause();
    return NULL;
}

static void try_ends(void)
{
    pthread_t thread;
    pthread_key_create(&key, destroy);
    MUST(pthread_create(&thread, NULL, use_key, NULL) == 0 && pthread_join(thread, NULL) == 0);
    SAY("destructor ran: %d", destroyed);
    void *result;
    MUST(pthread_create(&thread, NULL, wait_forever, NULL) == 0);
    MUST(pthread_cancel(thread) == 0 && pthread_join(thread, &result) == 0);
    SAY("cancelled: %d", result == PTHREAD_CANCELED);
    sem_t semaphore;
    sem_init(&semaphore, 0, 2);
    SAY("semaphore: %d %d %s", sem_trywait(&semaphore), sem_trywait(&semaphore), sem_trywait(&semaphore) ? name_of(errno) : "taken");
}

static volatile int clone_ran;

static int clone_body(void *argument)
{
    clone_ran = *(int *)argument;
    return 3;
}

static void try_raw_clone(void)
{
    size_t size = 64 << 10;
    char *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    int value = 11;
    int status;
    pid_t child = clone(clone_body, stack + size, CLONE_VM | SIGCHLD, &value);
    MUST(child > 0 && waitpid(child, &status, 0) == child);
    SAY("CLONE_VM child: ran %d, status %d", clone_ran, WEXITSTATUS(status));
    clone_ran = 0;
    child = clone(clone_body, stack + size, SIGCHLD, &value);
    MUST(child > 0 && waitpid(child, &status, 0) == child);
    SAY("child with a copy: ran %d here, status %d", clone_ran, WEXITSTATUS(status));
    SAY("CLONE_THREAD without CLONE_VM: %s", syscall(SYS_clone, CLONE_THREAD, 0, 0, 0, 0) < 0 ? name_of(errno) : "made");
    SAY("CLONE_SIGHAND without CLONE_VM: %s", syscall(SYS_clone, CLONE_SIGHAND, 0, 0, 0, 0) < 0 ? name_of(errno) : "made");
}

static void *outlive(void *unused)
{
    (void)unused;
    usleep(50000);
    SAY("the last thread ends the process");
    return NULL;
}

int main(void)
{
    try_many();
    try_condition();
    try_robust();
    try_priority_inheritance();
    try_ends();
    try_raw_clone();
    SAY("first thread: tid is %s", (int)syscall(SYS_gettid) == getpid() ? "pid" : "another");
    cpu_set_t set;
    SAY("affinity: %s", sched_getaffinity(0, sizeof set, &set) == 0 ? "known" : name_of(errno));
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, outlive, NULL) == 0);
    pthread_exit(NULL);
}
