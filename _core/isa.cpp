/* Compiled once an instruction set with -DTR_ISA=baseline|avx2|avx512 and the flags of that set;
 * fills the table of kernels.h. */
#ifndef TR_ISA
#error "compile with -DTR_ISA=baseline, avx2 or avx512"
#endif

#include "kernels.h"
#include "loops.h"
#include "pairs.h"
#include "scan.h"
#include "updates.h"

#define TR_PASTE(a, b) a##b
#define TR_JOIN(a, b) TR_PASTE(a, b)
#define TR_QUOTE(a) #a
#define TR_STRING(a) TR_QUOTE(a)

namespace tr {
namespace TR_ISA {

#define TR_MAP(name, arity) map<op::name, arity, T>,
#define TR_MAP_ROWS(name, arity) map_rows<op::name, arity, T>,
#define TR_PAIR(first, n, second, m, place, spread) pair_rows<Pair<op::first, n, op::second, m, place>, spread, T>,

template <class T> ptrdiff_t scratch_of(const void *loop, ptrdiff_t rows) {
    return scratch_size(*static_cast<const Loop<T> *>(loop), rows);
}

template <class T> void run(const void *loop, ptrdiff_t first, ptrdiff_t last, T **at, T *scratch);

template <class T, class Table, class Side> constexpr Table table() {
    return {
        {TR_POINTWISE(TR_MAP)},
        {TR_POINTWISE(TR_MAP_ROWS)},
        {TR_PAIRS(TR_PAIR)},
        reduce<Add, T>,
        reduce<Max, T>,
        sum_squares<T>,
        take_rows<T>,
        add_rows<T>,
        sumsq<T>,
        sgd<T>,
        rmsprop<T>,
        adam<T>,
        workspace_size<T>,
        gemm<T, Side>,
        packed_size<T>,
        pack_b<T>,
        scratch_of<T>,
        run<T>,
    };
}

constexpr tr_Kernels_f32 table_f32 = table<float, tr_Kernels_f32, tr_Side_f32>();
constexpr tr_Kernels_f64 table_f64 = table<double, tr_Kernels_f64, tr_Side_f64>();

// The loop calls the elementwise kernels of its own instruction set through their table, as everybody does.
template <class T> void run(const void *loop, ptrdiff_t first, ptrdiff_t last, T **at, T *scratch) {
    const Loop<T> &program = *static_cast<const Loop<T> *>(loop);
    if constexpr (sizeof(T) == 4)
        run_loop<T>(program, table_f32, first, last, at, scratch);
    else
        run_loop<T>(program, table_f64, first, last, at, scratch);
}

}  // namespace TR_ISA
}  // namespace tr

extern "C" const tr_Kernels *TR_JOIN(tr_kernels_, TR_ISA)(void) {
    using namespace tr::TR_ISA;
    static constexpr tr_Kernels kernels = {TR_STRING(TR_ISA), table_f32, table_f64};
    return &kernels;
}
