/* The optimisers' updates over one contiguous stretch of a parameter, its gradient and its state.
 *
 * p  parameter, changed in place      g  gradient, only read      m, v  state, changed in place
 * n  elements; the arrays do not overlap. Hyperparameters come in double and are rounded to T once,
 * after whatever is computed from them alone. An element's bits depend on its own values only. */
#ifndef TR_UPDATES_H
#define TR_UPDATES_H

#include <stddef.h>

#include "pointwise.h"

namespace tr {
namespace TR_ISA {

/* g' = g + weight_decay p;  m = momentum m + g';  p -= lr m, or lr (g' + momentum m) with Nesterov.
 * m may be null, for no momentum. Sutskever et al. 2013, as PyTorch writes it. */
template <class T>
void sgd(T *p, const T *g, T *m, ptrdiff_t n, double lr, double momentum, double weight_decay, int nesterov) {
    const T rate = (T)lr, mu = (T)momentum, decay = (T)weight_decay;
    if (!m) {
#pragma omp simd
        for (ptrdiff_t i = 0; i < n; i++) p[i] = mad(-rate, mad(decay, p[i], g[i]), p[i]);
    } else if (nesterov) {
#pragma omp simd
        for (ptrdiff_t i = 0; i < n; i++) {
            const T d = mad(decay, p[i], g[i]);
            m[i] = mad(mu, m[i], d);
            p[i] = mad(-rate, mad(mu, m[i], d), p[i]);
        }
    } else {
#pragma omp simd
        for (ptrdiff_t i = 0; i < n; i++) {
            m[i] = mad(mu, m[i], mad(decay, p[i], g[i]));
            p[i] = mad(-rate, m[i], p[i]);
        }
    }
}

/* g' = g + weight_decay p;  v = alpha v + (1 - alpha) g'^2;  d = g' / (sqrt(v) + eps);
 * m = momentum m + d;  p -= lr m. m may be null, for no momentum. Tieleman & Hinton 2012. */
template <class T>
void rmsprop(T *p, const T *g, T *v, T *m, ptrdiff_t n, double lr, double alpha, double eps, double momentum,
             double weight_decay) {
    const T rate = (T)lr, keep = (T)alpha, take = (T)(1 - alpha), floor = (T)eps, mu = (T)momentum;
    const T decay = (T)weight_decay;
    if (!m) {
#pragma omp simd
        for (ptrdiff_t i = 0; i < n; i++) {
            const T d = mad(decay, p[i], g[i]);
            v[i] = mad(take * d, d, keep * v[i]);
            p[i] -= rate * d / (sqrt_of(v[i]) + floor);
        }
    } else {
#pragma omp simd
        for (ptrdiff_t i = 0; i < n; i++) {
            const T d = mad(decay, p[i], g[i]);
            v[i] = mad(take * d, d, keep * v[i]);
            m[i] = mad(mu, m[i], d / (sqrt_of(v[i]) + floor));
            p[i] = mad(-rate, m[i], p[i]);
        }
    }
}

/* g' = g + decay p;  p *= shrink;  m = beta1 m + (1 - beta1) g';  v = beta2 v + (1 - beta2) g'^2;
 * p -= rate m / (sqrt(v) scale + eps), where rate = lr / (1 - beta1^t), scale = 1 / sqrt(1 - beta2^t).
 * Kingma & Ba 2015 with decay = weight_decay, shrink = 1; Loshchilov & Hutter 2019 (AdamW) with
 * decay = 0, shrink = 1 - lr weight_decay. */
template <class T>
void adam(T *p, const T *g, T *m, T *v, ptrdiff_t n, double rate, double beta1, double beta2, double scale, double eps,
          double decay, double shrink) {
    const T r = (T)rate, keep1 = (T)beta1, take1 = (T)(1 - beta1), keep2 = (T)beta2, take2 = (T)(1 - beta2);
    const T s = (T)scale, floor = (T)eps, d = (T)decay, k = (T)shrink;
#pragma omp simd
    for (ptrdiff_t i = 0; i < n; i++) {
        const T e = mad(d, p[i], g[i]);
        m[i] = mad(take1, e, keep1 * m[i]);
        v[i] = mad(take2 * e, e, keep2 * v[i]);
        p[i] = k * p[i] - r * m[i] / mad(sqrt_of(v[i]), s, floor);
    }
}

}  // namespace TR_ISA
}  // namespace tr
#endif /* TR_UPDATES_H */
