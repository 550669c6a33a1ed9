// build: dynamic musl static-pie
// Mapping calls: what they return, what they refuse, and that memory holds what it should.
#include "check.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

static const size_t page = 4096;

static char *map(void *hint, size_t len, int flags)
{
    return mmap(hint, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

static sigjmp_buf back;

static void on_segv(int number)
{
    siglongjmp(back, number);
}

static int can_read(const volatile char *at)
{
    if (sigsetjmp(back, 1))
        return 0;
    (void)*at;
    return 1;
}

static void try_placement(void)
{
    char *area = map(NULL, 16 * page, 0);
    MUST(area != MAP_FAILED && ((uintptr_t)area & (page - 1)) == 0);
    memset(area, 1, 16 * page);
    char *inside = map(area + 4 * page, 4 * page, MAP_FIXED);
    SAY("MAP_FIXED: %s, zeroed %d, neighbours kept %d", inside == area + 4 * page ? "there" : "elsewhere", inside[0] == 0,
        area[4 * page - 1] == 1 && area[8 * page] == 1);
    char *refused = map(area + 8 * page, page, MAP_FIXED_NOREPLACE);
    SAY("MAP_FIXED_NOREPLACE over one: %s", refused == MAP_FAILED ? name_of(errno) : "mapped");
    MUST(munmap(area + 12 * page, page) == 0);
    char *hole = map(area + 12 * page, page, MAP_FIXED_NOREPLACE);
    SAY("MAP_FIXED_NOREPLACE in a hole: %s", hole == area + 12 * page ? "there" : "elsewhere");
    MUST(munmap(area + 2 * page, 3 * page) == 0);
    SAY("a hint into a hole: %s", map(area + 2 * page, page, 0) == area + 2 * page ? "taken" : "not taken");
    SAY("a hint over a mapping: %s", map(area, page, 0) != area ? "elsewhere" : "replaced");
    SAY("unaligned MAP_FIXED: %s", map((char *)(area + 1), page, MAP_FIXED) == MAP_FAILED ? name_of(errno) : "mapped");
    SAY("length 0: %s", map(NULL, 0, 0) == MAP_FAILED ? name_of(errno) : "mapped");
    SAY("length absurd: %s", map(NULL, (size_t)1 << 62, 0) == MAP_FAILED ? name_of(errno) : "mapped");
    SAY("MAP_FIXED in the kernel half: %s", map((void *)0xffff800000000000ul, page, MAP_FIXED) == MAP_FAILED ? name_of(errno) : "mapped");
    SAY("munmap unaligned: %s", munmap(area + 1, page) == 0 ? "ok" : name_of(errno));
    SAY("munmap of nothing: %s", munmap(map(NULL, page, 0), page) == 0 ? "ok" : name_of(errno));
    MUST(munmap(area, 16 * page) == 0);
    SAY("after munmap: %s", can_read(area) ? "readable" : "gone");
    char *reserve = mmap(NULL, (size_t)64 << 30, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    SAY("64 GiB reserved: %s", reserve == MAP_FAILED ? name_of(errno) : "ok");
    MUST(mprotect(reserve + ((size_t)32 << 30), page, PROT_READ | PROT_WRITE) == 0);
    reserve[(size_t)32 << 30] = 1;
    MUST(munmap(reserve, (size_t)64 << 30) == 0);
}

static void try_low(void)
{
    char *low = map(NULL, 8 * page, MAP_32BIT);
    SAY("MAP_32BIT: %s", low == MAP_FAILED ? name_of(errno) : (uintptr_t)low + 8 * page <= 1ul << 31 ? "below 2 GiB" : "above");
    if (low != MAP_FAILED) {
        memset(low, 3, 8 * page);
        MUST(munmap(low, 8 * page) == 0);
    }
}

static void try_protection(void)
{
    char *area = map(NULL, 4 * page, 0);
    area[page] = 5;
    MUST(mprotect(area + page, page, PROT_NONE) == 0);
    SAY("PROT_NONE: %s, neighbours %d %d", can_read(area + page) ? "readable" : "not readable", can_read(area), can_read(area + 2 * page));
    MUST(mprotect(area + page, page, PROT_READ) == 0);
    SAY("again readable, still %d", area[page]);
    SAY("mprotect unaligned: %s", mprotect(area + 1, page, PROT_READ) == 0 ? "ok" : name_of(errno));
    MUST(munmap(area + 3 * page, page) == 0);
    SAY("mprotect over a hole: %s", mprotect(area, 4 * page, PROT_READ) == 0 ? "ok" : name_of(errno));
    unsigned char code[] = { 0xb8, 42, 0, 0, 0, 0xc3 };
    char *text = map(NULL, page, 0);
    memcpy(text, code, sizeof code);
    MUST(mprotect(text, page, PROT_READ | PROT_EXEC) == 0);
    SAY("code written and run: %d", ((int (*)(void))text)());
}

static void try_mremap(void)
{
    char *area = map(NULL, 4 * page, 0);
    for (int i = 0; i < 4; i++)
        area[(size_t)i * page] = (char)(i + 1);
    char *grown = mremap(area, 4 * page, 64 * page, MREMAP_MAYMOVE);
    MUST(grown != MAP_FAILED);
    SAY("grown: %d %d %d, new part %d", grown[0], grown[page], grown[3 * page], grown[40 * page]);
    char *shrunk = mremap(grown, 64 * page, 2 * page, 0);
    SAY("shrunk: %s, rest %s", shrunk == grown ? "in place" : "moved", can_read(grown + 2 * page) ? "readable" : "gone");
    char *target = map(NULL, 8 * page, 0);
    char *moved = mremap(shrunk, 2 * page, 2 * page, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    SAY("MREMAP_FIXED: %s, holds %d", moved == target ? "there" : "elsewhere", moved[page]);
    SAY("old place: %s", can_read(shrunk) ? "readable" : "gone");
    SAY("in place into a mapping: %s", mremap(moved, 2 * page, 4 * page, 0) == MAP_FAILED ? name_of(errno) : "grown");
    SAY("of nothing: %s", mremap(shrunk, page, 2 * page, MREMAP_MAYMOVE) == MAP_FAILED ? name_of(errno) : "moved");
}

static void try_brk(void)
{
    char *before = sbrk(0);
    if (before == (void *)-1) {
        SAY("sbrk: %s", name_of(errno));
        return;
    }
    char *now = (char *)syscall(SYS_brk, 0);
    char *grown = (char *)syscall(SYS_brk, now + 1000000);
    SAY("brk grown: %s", grown == now + 1000000 ? "as asked" : "otherwise");
    memset(now, 7, 1000000);
    SAY("brk back: %s", (char *)syscall(SYS_brk, now) == now ? "as asked" : "otherwise");
    SAY("brk below its start: %s", (char *)syscall(SYS_brk, 4096) == now ? "unchanged" : "changed");
}

static void try_files(void)
{
    char name[] = "/tmp/memory.XXXXXX";
    int fd = mkstemp(name);
    MUST(fd >= 0 && ftruncate(fd, (off_t)(4 * page)) == 0);
    char *shared = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *private = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    MUST(shared != MAP_FAILED && private != MAP_FAILED);
    shared[0] = 'a';
    char byte;
    MUST(pread(fd, &byte, 1, 0) == 1);
    SAY("shared reaches the file: %c, private sees %c", byte, private[0]);
    private[0] = 'b';
    SAY("private stays private: %c", shared[0]);
    MUST(msync(shared, page, MS_SYNC) == 0);
    char *part = mmap(NULL, page, PROT_READ, MAP_PRIVATE, fd, (off_t)(2 * page));
    shared[2 * page] = 'c';
    SAY("with offset: %c", part[0]);
    SAY("unaligned offset: %s", mmap(NULL, page, PROT_READ, MAP_PRIVATE, fd, 1) == MAP_FAILED ? name_of(errno) : "mapped");
    SAY("bad descriptor: %s", mmap(NULL, page, PROT_READ, MAP_PRIVATE, 999, 0) == MAP_FAILED ? name_of(errno) : "mapped");
    int memory = (int)syscall(SYS_memfd_create, "m", 0);
    MUST(memory >= 0 && ftruncate(memory, (off_t)page) == 0);
    char *one = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    char *two = mmap(NULL, page, PROT_READ, MAP_SHARED, memory, 0);
    strcpy(one, "seen twice");
    SAY("memfd: %s", two);
    MUST(unlink(name) == 0);
}

static void try_advice(void)
{
    char *area = map(NULL, 4 * page, 0);
    memset(area, 9, 4 * page);
    MUST(madvise(area, 2 * page, MADV_DONTNEED) == 0);
    SAY("MADV_DONTNEED: %d %d", area[0], area[2 * page]);
    unsigned char resident[4];
    MUST(mincore(area, 4 * page, resident) == 0);
    SAY("mincore: last page %d", resident[3] & 1);
    MUST(munmap(area, 4 * page) == 0);
    SAY("mincore of nothing: %s", mincore(area, page, resident) == 0 ? "ok" : name_of(errno));
    SAY("madvise of nothing: %s", madvise(area, page, MADV_DONTNEED) == 0 ? "ok" : name_of(errno));
}

static size_t deep(size_t left)
{
    volatile char frame[32 << 10];
    frame[0] = 1;
    frame[sizeof frame - 1] = 1;
    return left <= sizeof frame ? (size_t)frame[0] : deep(left - sizeof frame) + (size_t)frame[0];
}

static void try_limits(void)
{
    struct rlimit before, small = { 256 << 20, 256 << 20 };
    MUST(getrlimit(RLIMIT_AS, &before) == 0);
    small.rlim_max = before.rlim_max;
    MUST(setrlimit(RLIMIT_AS, &small) == 0);
    SAY("RLIMIT_AS 256 MiB, mmap 512 MiB: %s", map(NULL, 512 << 20, 0) == MAP_FAILED ? name_of(errno) : "mapped");
    SAY("RLIMIT_AS 256 MiB, mmap 8 MiB: %s", map(NULL, 8 << 20, 0) == MAP_FAILED ? name_of(errno) : "mapped");
    MUST(setrlimit(RLIMIT_AS, &before) == 0);
}

// The stack may be allowed to grow further while the program runs.
static void try_raised_stack(void)
{
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_STACK, &limit) == 0);
    if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < 64 << 20)
        return;
    if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < 64 << 20)
        limit.rlim_cur = 64 << 20;
    MUST(setrlimit(RLIMIT_STACK, &limit) == 0);
    SAY("stack of 40 MiB: %s", deep(40 << 20) > 100 ? "grew" : "odd");
}

// Rings that the kernel wants to place itself.
static void try_rings(void)
{
    char params[120] = { 0 };
    int ring = (int)syscall(425, 4, params);
    if (ring < 0) {
        SAY("io_uring_setup: %s", name_of(errno));
        return;
    }
    char *queue = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0);
    SAY("io_uring queue: %s", queue == MAP_FAILED ? name_of(errno) : "mapped");
    if (queue != MAP_FAILED)
        SAY("unmapped: %s", munmap(queue, 4096) == 0 ? "ok" : name_of(errno));
    close(ring);
}

// mlockall(2) knows RLIMIT_MEMLOCK.
static void try_lock_limit(void)
{
    pid_t child = fork();
    if (child == 0) {
        struct rlimit small = { 65536, 65536 };
        MUST(setrlimit(RLIMIT_MEMLOCK, &small) == 0);
        if (geteuid() == 0)
            MUST(setgid(1000) == 0 && setuid(1000) == 0);
        SAY("mlockall beyond the limit: %s", mlockall(MCL_CURRENT) == 0 ? "locked" : name_of(errno));
        _exit(0);
    }
    MUST(waitpid(child, NULL, 0) == child);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "rings") == 0) {
        try_rings();
        return 0;
    }
    if (argc > 1 && strcmp(argv[1], "low") == 0) {
        try_low();
        return 0;
    }
    struct sigaction action = { .sa_handler = on_segv };
    MUST(sigaction(SIGSEGV, &action, NULL) == 0 && sigaction(SIGBUS, &action, NULL) == 0);
    try_placement();
    try_protection();
    try_mremap();
    try_brk();
    try_files();
    try_advice();
    SAY("stack of 6 MiB: %s", deep(6 << 20) > 100 ? "grew" : "odd");
    try_raised_stack();
    try_lock_limit();
    try_limits();
    for (int i = 0; i < 200; i++) {
        char *block = malloc((size_t)(i + 1) * 10000);
        MUST(block);
        memset(block, i, (size_t)(i + 1) * 10000);
        free(block);
    }
    SAY("done");
    return 0;
}
