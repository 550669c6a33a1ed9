// build: dynamic dynamic-nopie static-pie static musl musl-static
// The smallest program: its arguments, and the auxiliary facts that do not vary between runs.
#include <stdio.h>

int main(int argc, char **argv)
{
    printf("hello from %d argument(s)\n", argc - 1);
    for (int i = 1; i < argc; i++)
        printf("  %s\n", argv[i]);
    return 0;
}
