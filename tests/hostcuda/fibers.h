/* The threads of a launch as fibers, each with a stack of its own, in one OS thread: their turns, their barriers and
 * exchanges, and what is said when they can not go on. See cuda_host.h. */
#ifndef TR_FIBERS_H
#define TR_FIBERS_H

#if !defined(__x86_64__) || !defined(__ELF__)
#define TR_SHIM_UCONTEXT  /* the C library's switch of stacks, some ten times slower; a text's -D may ask for it too */
#endif
#if defined(TR_SHIM_UCONTEXT) && defined(__APPLE__)
#define _XOPEN_SOURCE 700
#define _DARWIN_C_SOURCE
#endif

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef TR_SHIM_UCONTEXT
#include <ucontext.h>
#endif

struct uint3 { unsigned x, y, z; };

namespace tr_shim {

enum { WARP = 32, STACK = 64 << 10, PAGE = 16 << 10, GUARD = 256, NAN_BYTE = 0xFF };
const long PATIENCE = 20000000;  /* pauses in a row, of all threads, after which a spin counts as endless */

/* ---- fibers: switch_to(from, to) keeps the running one in `from` and goes on with `to` --------------------------- */

#ifndef TR_SHIM_UCONTEXT
typedef void *Context;  /* the stack pointer; the registers that a call preserves lie on the stack */

extern "C" __attribute__((visibility("hidden"))) void tr_shim_switch(Context *from, Context to);
asm(R"(
    .text
    .hidden tr_shim_switch
    .type tr_shim_switch, @function
tr_shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size tr_shim_switch, .-tr_shim_switch
)");

static inline void switch_to(Context &from, Context &to) { tr_shim_switch(&from, to); }
static void prepare(Context &fiber, char *stack, void (*entry)()) {
    void **top = (void **)(stack + STACK);
    memset(top - 8, 0, 8 * sizeof(void *));
    top[-2] = (void *)entry;  /* where `ret` goes, with the stack aligned as after a call */
    fiber = top - 8;
}
#else
typedef ucontext_t Context;

static inline void switch_to(Context &from, Context &to) { swapcontext(&from, &to); }
static void prepare(Context &fiber, char *stack, void (*entry)()) {
    getcontext(&fiber);
    fiber.uc_stack.ss_sp = stack;
    fiber.uc_stack.ss_size = STACK;
    fiber.uc_link = nullptr;
    makecontext(&fiber, entry, 0);
}
#endif

/* ---- threads, warps, blocks -------------------------------------------------------------------------------------- */

struct Thread;
typedef void (*Exchange)(Thread *const *lanes);  /* 32 of them, null where a lane takes no part */

struct Warp {
    Thread *lanes[WARP];
    unsigned live;                                       /* the lanes that have not ended */
    struct { unsigned mask, arrived; } waiting[WARP];    /* one place for each mask in use */
};

struct Block {
    uint3 index;
    unsigned char *shared;
    Thread *threads;
    unsigned live, arrived;
    unsigned gathered;     /* threads that wait for their cluster, counted by its first block */
    const char *barrier;   /* the one at which threads have arrived */
    int true_here, trues;  /* the predicates at this barrier, and their sum at the last one */
};

struct Thread {
    Context context;
    Block *block;
    Warp *warp;
    uint3 index;
    unsigned lane;
    bool ended;
    const char *waits;  /* what for; null while it can run */
    Exchange exchange;  /* of a warp: what it does, */
    void *slot;         /* and this lane's data */
};

struct Launch {
    const char *kernel;
    void (*call)(void **);
    void **args;
    uint3 grid, block;
    unsigned shared;
    char *message;
    int room;
};

static Launch launched;
static Thread *self, *threads;
static Context outside;
static unsigned n_threads, n_live;
static long pauses;
static bool failed;
static unsigned long long seed;  /* 0: in turns */

/* the fibers that can run: a ring */
static Thread **ready;
static unsigned first, n_ready;

static void make_ready(Thread *t) {
    t->waits = nullptr;
    ready[(first + n_ready++) % n_threads] = t;
}

static unsigned draw() {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return (unsigned)(seed >> 33);
}

static Thread *next_ready() {
    if (seed) {
        const unsigned drawn = (first + draw() % n_ready) % n_threads;
        Thread *t = ready[drawn];
        ready[drawn] = ready[first];
        ready[first] = t;
    }
    Thread *t = ready[first];
    first = (first + 1) % n_threads;
    n_ready--;
    return t;
}

/* ---- failures: the launch ends here, its fibers are left where they stand ---------------------------------------- */

static void say(const char *format, ...) {
    va_list values;
    va_start(values, format);
    const int used = (int)strlen(launched.message);
    vsnprintf(launched.message + used, launched.room - used, format, values);
    va_end(values);
}

[[noreturn]] static void give_up() {
    failed = true;
    Context abandoned;
    switch_to(abandoned, outside);
    abort();
}

static bool waiting(const Thread *t) { return !t->ended && t->waits; }

/* What the threads wait for, in the first block that has any that do. */
static void say_who_waits() {
    const Block *block = nullptr;
    for (const Thread *t = threads; t < threads + n_threads && !block; t++) if (waiting(t)) block = t->block;
    if (!block) return;
    const unsigned n = launched.block.x * launched.block.y * launched.block.z;
    const char *told[8];
    int n_told = 0;
    say(" Block (%u, %u, %u):", block->index.x, block->index.y, block->index.z);
    for (const Thread *t = block->threads; t < block->threads + n; t++) {
        bool skip = !waiting(t) || n_told == 8;
        for (int i = 0; i < n_told && !skip; i++) skip = !strcmp(told[i], t->waits);
        if (skip) continue;
        unsigned same = 0;
        for (const Thread *u = t; u < block->threads + n; u++) same += waiting(u) && !strcmp(u->waits, t->waits);
        say("%s %u in %s (thread (%u, %u, %u) for one)", n_told ? "," : "", same, t->waits, t->index.x, t->index.y,
            t->index.z);
        told[n_told++] = t->waits;
    }
    say(", %u of %u have ended.", n - block->live, n);
}

[[noreturn]] static void fail(const char *what) {
    const uint3 b = self->block->index, t = self->index;
    say("kernel '%s', block (%u, %u, %u), thread (%u, %u, %u): %s.", launched.kernel, b.x, b.y, b.z, t.x, t.y, t.z,
        what);
    give_up();
}

/* Run another thread. Comes back when this one's turn is there. */
__attribute__((noinline)) static void leave() {
    if (!n_ready) {
        say("kernel '%s': deadlock, no thread can go on.", launched.kernel);
        say_who_waits();
        give_up();
    }
    Thread *me = self;
    self = next_ready();
    if (self != me) switch_to(me->context, self->context);
}

static void wait(const char *what) {
    self->waits = what;
    pauses = 0;
    leave();
}

static void pause() {
    if (++pauses > PATIENCE) {
        self->waits = "tr_shim_pause";
        say("kernel '%s': threads spin without end.", launched.kernel);
        say_who_waits();
        say(" Blocks run together in a cooperative launch only.");
        give_up();
    }
    Thread *me = self;
    make_ready(me);
    me->waits = "tr_shim_pause";
    leave();
    me->waits = nullptr;
}

/* A place where the random order may change the thread. */
static void maybe_leave() {
    if (!seed || draw() % 2) return;
    make_ready(self);
    leave();
}

/* ---- barriers of a block, exchanges of a warp -------------------------------------------------------------------- */

static void release(Block *block) {
    block->trues = block->true_here;
    block->true_here = 0;
    block->arrived = 0;
    const unsigned n = launched.block.x * launched.block.y * launched.block.z;
    for (Thread *t = block->threads; t < block->threads + n; t++)
        if (!t->ended && t != self) make_ready(t);
}

static int barrier(const char *name, int predicate) {
    Block *block = self->block;
    if (!block->arrived) block->barrier = name;
    if (block->barrier != name && strcmp(block->barrier, name))
        fail("the threads of a block are at different barriers");
    block->true_here += predicate != 0;
    if (++block->arrived == block->live) release(block);
    else wait(name);
    return block->trues;
}

/* The first of the blocks of a cluster, which lie side by side in a launch of one dimension. */
static Block *first_of_cluster(unsigned size) {
    const unsigned n = launched.block.x * launched.block.y * launched.block.z;
    if (n_threads < n * launched.grid.x || launched.grid.x % size) fail("the blocks of a cluster do not run together");
    return self->block - self->block->index.x % size;
}

static void cluster_barrier(unsigned size) {
    Block *blocks = first_of_cluster(size);
    const unsigned n = launched.block.x * launched.block.y * launched.block.z;
    unsigned live = 0;
    for (unsigned b = 0; b < size; b++) live += blocks[b].live;
    if (++blocks->gathered < live) return wait("barrier.cluster");
    blocks->gathered = 0;
    for (Thread *t = blocks->threads; t < blocks->threads + size * n; t++)
        if (!t->ended && t != self) make_ready(t);
}

/* Where a place in this block's shared memory lies in that of another of its cluster. */
static void *cluster_map(void *p, unsigned rank, unsigned size) {
    const unsigned char *own = self->block->shared;
    if ((unsigned char *)p < own || (unsigned char *)p >= own + launched.shared || rank >= size)
        fail("a place of no shared memory in a cluster");
    const Block &other = first_of_cluster(size)[rank];
    if (other.live == 0) fail("the shared memory of a block of the cluster that has ended");
    return other.shared + ((unsigned char *)p - own);
}

/* Lets the lanes go if all of `mask` that live are there. */
static bool complete(Warp *warp, unsigned place) {
    const unsigned mask = warp->waiting[place].mask, arrived = warp->waiting[place].arrived;
    if (arrived != (mask & warp->live)) return false;
    Thread *lanes[WARP];
    Thread *any = nullptr;
    for (unsigned l = 0; l < WARP; l++) {
        lanes[l] = arrived >> l & 1 ? warp->lanes[l] : nullptr;
        if (!lanes[l]) continue;
        if (any && any->exchange != lanes[l]->exchange) fail("the lanes of a warp are in different exchanges");
        any = lanes[l];
    }
    warp->waiting[place].arrived = 0;
    any->exchange(lanes);
    for (Thread *t : lanes) if (t && t != self) make_ready(t);
    return true;
}

static void exchange(const char *name, unsigned mask, void *slot, Exchange what) {
    Warp *warp = self->warp;
    const unsigned me = 1u << self->lane;
    if (!(mask & me)) fail("a lane calls an exchange of a warp whose mask leaves it out");
    unsigned place = 0, free = WARP;
    for (; place < WARP && !(warp->waiting[place].arrived && warp->waiting[place].mask == mask); place++)
        if (!warp->waiting[place].arrived && free == WARP) free = place;
    if (place == WARP) place = free;
    warp->waiting[place].mask = mask;
    warp->waiting[place].arrived |= me;
    self->exchange = what;
    self->slot = slot;
    if (!complete(warp, place)) wait(name);
}

/* ---- launches ---------------------------------------------------------------------------------------------------- */

static void end_of_thread() {
    Block *block = self->block;
    Warp *warp = self->warp;
    self->ended = true;
    pauses = 0;
    n_live--;
    warp->live &= ~(1u << self->lane);
    for (unsigned w = 0; w < WARP; w++)
        if (warp->waiting[w].arrived) complete(warp, w);
    if (--block->live && block->arrived == block->live) release(block);
    if (!n_live) switch_to(self->context, outside);
    leave();
}

static void run_thread() {
    launched.call(launched.args);
    end_of_thread();
}

static void *checked(void *memory) {
    if (memory && memory != MAP_FAILED) return memory;
    fprintf(stderr, "cuda_host.h: no memory for the threads of a launch\n");
    abort();
}

/* The fibers' stacks, each above a page that ends an overflow; kept, and shared by all libraries of a process where the
 * linker makes one of a variable that is inline. */
inline char *stacks;
inline unsigned n_stacks;

static void need_stacks(unsigned n) {
    if (n <= n_stacks) return;
    const size_t one = STACK + PAGE;
    if (stacks) munmap(stacks, one * n_stacks);
    stacks = (char *)checked(mmap(nullptr, one * n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                                  -1, 0));
    for (unsigned i = 0; i < n; i++) mprotect(stacks + i * one, PAGE, PROT_NONE);
    n_stacks = n;
}

/* Runs the blocks first_block, ... together. */
static void run_blocks(Block *blocks, Warp *warps, unsigned n_blocks, unsigned first_block) {
    const uint3 size = launched.block;
    const unsigned n = size.x * size.y * size.z, n_warps = (n + WARP - 1) / WARP;
    memset(warps, 0, sizeof(Warp) * n_warps * n_blocks);
    first = n_ready = 0;
    pauses = 0;
    n_live = n_threads;
    for (unsigned b = 0; b < n_blocks; b++) {
        const unsigned at = first_block + b;
        Block &block = blocks[b];
        block.index = {at % launched.grid.x, at / launched.grid.x % launched.grid.y,
                       at / launched.grid.x / launched.grid.y};
        block.threads = threads + (size_t)b * n;
        block.live = n;
        block.arrived = block.gathered = block.true_here = block.trues = 0;
        memset(block.shared, NAN_BYTE, launched.shared + GUARD);
        for (unsigned i = 0; i < n; i++) {
            Thread &t = block.threads[i];
            t.block = &block;
            t.warp = warps + b * n_warps + i / WARP;
            t.lane = i % WARP;
            t.warp->lanes[t.lane] = &t;
            t.warp->live |= 1u << t.lane;
            t.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
            t.ended = false;
            prepare(t.context, stacks + (&t - threads) * (size_t)(STACK + PAGE) + PAGE, run_thread);
            make_ready(&t);
        }
    }
    self = next_ready();
    switch_to(outside, self->context);
    for (unsigned b = 0; b < n_blocks && !failed; b++)
        for (int i = 0; i < GUARD && !failed; i++)
            if (blocks[b].shared[launched.shared + i] != NAN_BYTE) {
                const uint3 at = blocks[b].index;
                say("kernel '%s', block (%u, %u, %u): wrote past its %u bytes of shared memory.", launched.kernel, at.x,
                    at.y, at.z, launched.shared);
                failed = true;
            }
}

static int launch(const Launch &what, int cooperative) {
    launched = what;
    launched.message[0] = 0;
    failed = false;
    const char *random = getenv("TR_SHIM_RANDOM");
    seed = random && *random ? strtoull(random, nullptr, 10) * 2 + 0x9e3779b97f4a7c15u : 0;
    const unsigned n = what.block.x * what.block.y * what.block.z, grid = what.grid.x * what.grid.y * what.grid.z;
    const unsigned together = cooperative ? grid : 1;
    n_threads = n * together;

    const size_t shared = (what.shared + GUARD + 127) / 128 * 128;
    need_stacks(n_threads);
    threads = (Thread *)checked(calloc(n_threads, sizeof(Thread)));
    ready = (Thread **)checked(calloc(n_threads, sizeof(Thread *)));
    Block *blocks = (Block *)checked(calloc(together, sizeof(Block)));
    Warp *warps = (Warp *)checked(calloc((n + WARP - 1) / WARP * together, sizeof(Warp)));
    unsigned char *all_shared = (unsigned char *)checked(aligned_alloc(128, shared * together));
    for (unsigned b = 0; b < together; b++) blocks[b].shared = all_shared + b * shared;

    for (unsigned at = 0; at < grid && !failed; at += together) run_blocks(blocks, warps, together, at);

    free(all_shared), free(warps), free(blocks), free(ready), free(threads);
    return failed;
}

}  // namespace tr_shim
#endif /* TR_FIBERS_H */
