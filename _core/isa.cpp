/* Compiled once an instruction set with -DTR_ISA=baseline|avx2|avx512 and the flags of that set;
 * fills the table of kernels.h. */
#ifndef TR_ISA
#error "compile with -DTR_ISA=baseline, avx2 or avx512"
#endif

#include "kernels.h"
#include "loops.h"
#include "updates.h"

#define TR_PASTE(a, b) a##b
#define TR_JOIN(a, b) TR_PASTE(a, b)
#define TR_QUOTE(a) #a
#define TR_STRING(a) TR_QUOTE(a)

namespace tr {
namespace TR_ISA {

#define TR_MAP(name, arity) map<op::name, arity, T>,

template <class T, class Table> constexpr Table table() {
    return {
        {TR_POINTWISE(TR_MAP)},
        reduce<Add, T>,
        reduce<Max, T>,
        take_rows<T>,
        add_rows<T>,
        sumsq<T>,
        sgd<T>,
        rmsprop<T>,
        adam<T>,
    };
}

}  // namespace TR_ISA
}  // namespace tr

extern "C" const tr_Kernels *TR_JOIN(tr_kernels_, TR_ISA)(void) {
    using namespace tr::TR_ISA;
    static constexpr tr_Kernels kernels = {TR_STRING(TR_ISA), table<float, tr_Kernels_f32>(),
                                       table<double, tr_Kernels_f64>()};
    return &kernels;
}
