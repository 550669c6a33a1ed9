// build: static-pie dynamic
// Identity and privilege of the process: what set-uid and the container's settings made of it.
#include "check.h"
#include <sys/auxv.h>
#include <sys/prctl.h>

int main(void)
{
    uid_t ruid, euid, suid;
    gid_t rgid, egid, sgid;
    MUST(getresuid(&ruid, &euid, &suid) == 0 && getresgid(&rgid, &egid, &sgid) == 0);
    SAY("uid %d %d %d gid %d %d %d", ruid, euid, suid, rgid, egid, sgid);
    SAY("AT_SECURE %lu, no_new_privs %d, dumpable %d", getauxval(AT_SECURE), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), prctl(PR_GET_DUMPABLE));
    FILE *status = fopen("/proc/self/status", "r");
    if (!status) {
        SAY("status: %s", name_of(errno));
        return 0;
    }
    char line[256];
    while (fgets(line, sizeof line, status))
        if (strncmp(line, "Cap", 3) == 0 || strncmp(line, "Groups", 6) == 0 || strncmp(line, "Seccomp:", 8) == 0)
            printf("%s", line);
    return 0;
}
