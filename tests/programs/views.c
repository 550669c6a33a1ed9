// build: dynamic static-pie musl static
// What a process sees of itself: arguments, environment, auxiliary vector, /proc.
#include "check.h"
#include <elf.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/stat.h>

extern char **environ;

static size_t slurp(const char *path, char *buffer, size_t capacity)
{
    int fd = open(path, O_RDONLY);
    MUST(fd >= 0);
    size_t len = 0;
    ssize_t got;
    while ((got = read(fd, buffer + len, capacity - 1 - len)) > 0)
        len += (size_t)got;
    MUST(got == 0);
    buffer[len] = 0;
    close(fd);
    return len;
}

static void say_strings(const char *title, const char *bytes, size_t len)
{
    for (size_t at = 0; at < len; at += strlen(bytes + at) + 1)
        SAY("%s: %s", title, bytes + at);
}

static void say_auxv(void)
{
    static char bytes[4096];
    size_t len = slurp("/proc/self/auxv", bytes, sizeof bytes);
    const Elf64_auxv_t *entry = (const Elf64_auxv_t *)bytes;
    for (; (const char *)entry < bytes + len; entry++) {
        unsigned long type = entry->a_type;
        // rseq facts are a kernel's offer that a runtime need not pass on.
        if (type == 27 || type == 28)
            continue;
        if (type == AT_NULL)
            break;
        int is_same = getauxval(type) == entry->a_un.a_val;
        SAY("auxv %lu%s", type, is_same ? "" : " differs from getauxval");
    }
    SAY("PAGESZ %lu CLKTCK %lu SECURE %lu FLAGS %lu", getauxval(AT_PAGESZ), getauxval(AT_CLKTCK), getauxval(AT_SECURE),
        getauxval(AT_FLAGS));
    SAY("UID %lu EUID %lu GID %lu EGID %lu", getauxval(AT_UID), getauxval(AT_EUID), getauxval(AT_GID), getauxval(AT_EGID));
    SAY("HWCAP %lx HWCAP2 %lx MINSIGSTKSZ %lu", getauxval(AT_HWCAP), getauxval(AT_HWCAP2), getauxval(51));
    SAY("EXECFN %s PLATFORM %s", (const char *)getauxval(AT_EXECFN), (const char *)getauxval(AT_PLATFORM));
    const unsigned char *random = (const unsigned char *)getauxval(AT_RANDOM);
    int any = 0;
    for (int i = 0; i < 16; i++)
        any |= random[i];
    SAY("RANDOM is %s", any ? "random" : "zero");
    const char *vdso = (const char *)getauxval(AT_SYSINFO_EHDR);
    SAY("vdso is %s", vdso && memcmp(vdso, ELFMAG, 4) == 0 ? "an ELF image" : "missing");
    unsigned long phdr = getauxval(AT_PHDR);
    SAY("PHDR entry size %lu, first type %s", getauxval(AT_PHENT), ((Elf64_Phdr *)phdr)->p_type <= PT_PHDR ? "plausible" : "absurd");
}

static void say_status(void)
{
    static char text[16384];
    slurp("/proc/self/status", text, sizeof text);
    static const char *keys[] = { "Name:", "Umask:", "Tgid:", "Pid:", "PPid:", "TracerPid:", "Uid:", "Gid:", "Groups:", "Threads:",
        "SigBlk:", "SigPnd:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:" };
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
            if (strncmp(line, keys[i], strlen(keys[i])) == 0)
                SAY("status %s", line);
    // Signals 32 and 33 belong to the C library, and what started us may have left them ignored.
    struct sigaction action;
    for (int number = 1; number <= 64; number++)
        if (number != 32 && number != 33 && sigaction(number, NULL, &action) == 0 && action.sa_handler != SIG_DFL)
            SAY("signal %d is %s", number, action.sa_handler == SIG_IGN ? "ignored" : "handled");
}

static void say_maps(const char *exe)
{
    static char text[1 << 20];
    slurp("/proc/self/maps", text, sizeof text);
    unsigned long here = (unsigned long)&say_maps, local = (unsigned long)&local;
    int exe_lines = 0, code = 0, stack = 0, heap_or_none = 0, vdso = 0, sorted = 1;
    unsigned long before = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        unsigned long from, to;
        char permissions[5] = "";
        MUST(sscanf(line, "%lx-%lx %4s", &from, &to, permissions) == 3);
        sorted &= from >= before && from < to;
        before = to;
        exe_lines += strstr(line, exe) != NULL;
        code |= from <= here && here < to && permissions[2] == 'x' && strstr(line, exe) != NULL;
        stack |= from <= local && local < to && strstr(line, "[stack]") != NULL;
        vdso |= strstr(line, "[vdso]") != NULL;
        heap_or_none |= strstr(line, "[heap]") != NULL;
    }
    SAY("maps: %s, %s own lines, code %s, stack %s, vdso %s", sorted ? "sorted" : "unsorted", exe_lines >= 3 ? "three or more" : "few",
        code ? "found" : "missing", stack ? "found" : "missing", vdso ? "found" : "missing");
    (void)heap_or_none;
}

static int by_text(const void *one, const void *other)
{
    return strcmp(*(char *const *)one, *(char *const *)other);
}

int main(int argc, char **argv)
{
    static char bytes[65536], link[4096];
    for (int i = 0; i < argc; i++)
        SAY("argv[%d] %s", i, argv[i]);
    // The engine gives them in no certain order.
    size_t count = 0;
    while (environ[count])
        count++;
    qsort(environ, count, sizeof *environ, by_text);
    for (char **variable = environ; *variable; variable++)
        SAY("environ %s", strncmp(*variable, "HOSTNAME=", 9) ? *variable : "HOSTNAME");
    SAY("pid %d ppid %d pgrp %d sid %d", getpid(), getppid(), getpgrp(), getsid(0));
    ssize_t len = readlink("/proc/self/exe", link, sizeof link - 1);
    MUST(len > 0);
    link[len] = 0;
    SAY("exe %s", link);
    struct stat by_link, by_name;
    MUST(stat("/proc/self/exe", &by_link) == 0 && stat(link, &by_name) == 0);
    SAY("exe is %s", by_link.st_ino == by_name.st_ino && by_link.st_dev == by_name.st_dev ? "the file" : "another file");
    say_strings("cmdline", bytes, slurp("/proc/self/cmdline", bytes, sizeof bytes));
    size_t environ_len = slurp("/proc/self/environ", bytes, sizeof bytes);
    int variables = 0;
    for (size_t at = 0; at < environ_len; at += strlen(bytes + at) + 1)
        variables++;
    SAY("environ file holds %d variables", variables);
    slurp("/proc/self/comm", bytes, sizeof bytes);
    SAY("comm %s", strtok(bytes, "\n"));
    slurp("/proc/1/comm", bytes, sizeof bytes);
    SAY("comm of 1: %s", strtok(bytes, "\n"));
    slurp("/proc/self/stat", bytes, sizeof bytes);
    char *rest = strrchr(bytes, ')');
    SAY("stat starts %.*s, state %c", (int)(rest - bytes + 1), bytes, rest[2]);
    say_auxv();
    say_status();
    say_maps(link);
    return 0;
}
