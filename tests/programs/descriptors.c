// build: dynamic
// Descriptors: which are open at the start, how many there can be, what is left after running out.
#include "check.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>

static void list(void)
{
    DIR *directory = opendir("/proc/self/fd");
    MUST(directory);
    struct dirent *entry;
    int count = 0;
    while ((entry = readdir(directory)))
        if (entry->d_name[0] != '.') {
            int fd = atoi(entry->d_name);
            if (fd == dirfd(directory))
                SAY("%d is this directory", fd);
            else
                SAY("%d is open", fd);
            count++;
        }
    closedir(directory);
    SAY("%d in all", count);
}

int main(int argc, char **argv)
{
    list();
    struct rlimit limit;
    MUST(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = 1000;
    MUST(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int last = -1, fd;
    while ((fd = open("/dev/null", O_RDONLY)) >= 0)
        last = fd;
    SAY("open stops after %d: %s", last, name_of(errno));
    SAY("socket: %s", socket(AF_INET, SOCK_STREAM, 0) < 0 ? name_of(errno) : "ok");
    int fds[2];
    SAY("pipe: %s", pipe(fds) < 0 ? name_of(errno) : "ok");
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    SAY("fork: %s", child > 0 ? "ok" : name_of(errno));
    if (argc > 1 && strcmp(argv[1], "hold") == 0) {
        SAY("holding");
        pause();
    }
    for (fd = 3; fd <= last; fd++)
        close(fd);
    list();
    return 0;
}
