// Where a program finds the vkernel's records, which it shares its memory with: for programs that do there what they must not.
#ifndef PLACES_H
#define PLACES_H

#include "check.h"
#include <stdint.h>

// The last argument, numbers with commas in between, is made of the contract (`tests/src/cases/local_faults.rs`), in this order.
static struct places {
    uint64_t connections, connection_len, in_use, ends, end_len, end_socket, rings, ring_len;
    uint64_t sockets, socket_len, sockets_max, local_port, remote_port;
    // Heads of pools, each with how many records the pool has.
    uint64_t heads[5][2];
} at;

enum pool { SOCKETS, CONNECTIONS, BUFFERS, ITEMS, SETS };

static inline void find_places(int *argc, char **argv)
{
    char *rest = argv[--*argc];
    for (uint64_t *place = (uint64_t *)&at; place < (uint64_t *)(&at + 1); place++)
        MUST((*place = strtoull(rest, &rest, 0)) != 0 && (*rest == 0 || *rest++ == ','));
    MUST(*rest == 0);
}

// `PoolHead`.
struct head {
    _Atomic uint64_t free;
    _Atomic uint32_t fresh, used;
};

static inline struct head *head_of(enum pool pool)
{
    return (struct head *)at.heads[pool][0];
}

static inline uint32_t word_at(uint64_t address)
{
    return *(volatile uint32_t *)address;
}

// `Ring`, in `vkernel/sync/src/ring.rs`.
struct ring {
    _Atomic uint64_t tail, from;
    _Atomic uint32_t buffer, small_writes;
    uint64_t pad0[5];
    _Atomic uint64_t head;
    uint64_t pad1[7];
};

// The rings of a connection's end: the one that it writes, and the one that it reads.
struct rings {
    struct ring *out, *in;
};

// The rings of the end with these ports, if it has any.
static inline struct rings rings_of(int local, int remote)
{
    enum { IN_USE = 2 };
    MUST(sizeof(struct ring) == at.ring_len);
    for (uint64_t i = 0; i < at.heads[CONNECTIONS][1] && i < head_of(CONNECTIONS)->fresh; i++) {
        uint64_t record = at.connections + i * at.connection_len;
        for (unsigned side = 0; side < 2 && word_at(record + at.in_use) == IN_USE; side++) {
            uint64_t index = word_at(record + at.ends + side * at.end_len + at.end_socket);
            uint64_t socket = at.sockets + index * at.socket_len;
            struct ring *rings = (struct ring *)(record + at.rings);
            if (index < at.sockets_max && (int)word_at(socket + at.local_port) == local && (int)word_at(socket + at.remote_port) == remote)
                return (struct rings) { &rings[side], &rings[1 - side] };
        }
    }
    return (struct rings) { NULL, NULL };
}

#endif
