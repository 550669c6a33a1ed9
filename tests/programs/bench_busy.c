// build: dynamic
// A neighbour that computes, for ever.
#include "check.h"

int main(void)
{
    SAY("computing");
    for (volatile unsigned long state = 1;;)
        state = state * 6364136223846793005UL + 1442695040888963407UL;
}
