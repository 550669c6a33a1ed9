// build: dynamic
// Two threads of one program that wake each other in turn: prints round trips per second.
//   futex MS        by futex(2) itself, private to the process
//   condition MS    by a mutex and a condition variable each way
#include "bench_net.h"
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>

static atomic_bool is_over;

// Whose turn it is: 0 or 1. One word each for waiting on, so that a wake hits only the other.
static atomic_uint word[2];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition[2] = {PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER};
static int turn;

static void wake_by_futex(int who)
{
    atomic_store(&word[who], 1);
    syscall(SYS_futex, &word[who], FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void wait_by_futex(int who)
{
    while (atomic_exchange(&word[who], 0) == 0)
        syscall(SYS_futex, &word[who], FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

static void wake_by_condition(int who)
{
    pthread_mutex_lock(&mutex);
    turn = who;
    pthread_cond_signal(&condition[who]);
    pthread_mutex_unlock(&mutex);
}

static void wait_by_condition(int who)
{
    pthread_mutex_lock(&mutex);
    while (turn != who)
        pthread_cond_wait(&condition[who], &mutex);
    pthread_mutex_unlock(&mutex);
}

static void (*wake)(int) = wake_by_futex;
static void (*wait_for)(int) = wait_by_futex;

static void *answer(void *unused)
{
    (void)unused;
    while (!atomic_load(&is_over)) {
        wait_for(1);
        wake(0);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    MUST(argc == 3);
    if (strcmp(argv[1], "condition") == 0) {
        wake = wake_by_condition;
        wait_for = wait_by_condition;
    }
    pthread_t other;
    MUST(pthread_create(&other, NULL, answer, NULL) == 0);
    int64_t began = now_ns(), length_ns = atoll(argv[2]) * 1000000;
    double count = 0;
    while (now_ns() - began < length_ns)
        for (int i = 0; i < STEPS_PER_LOOK; i++, count++) {
            wake(1);
            wait_for(0);
        }
    say_rate(count, began);
    // The other waits for its turn: it sees the end when it has had it.
    atomic_store(&is_over, true);
    wake(1);
    MUST(pthread_join(other, NULL) == 0);
    return 0;
}
