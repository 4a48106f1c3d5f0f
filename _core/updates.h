/* The optimisers' updates of a parameter, its gradient and its state.
 *
 * p  parameter, changed in place      g  gradient, only read      m, v  state, changed in place
 *
 * Each rule is a struct of its hyperparameters, which come in double and are rounded to T once, after whatever is
 * computed from them alone, and functions of one element. A C++17 compiler and NVRTC both read these (which finds no
 * standard header: tinyrnn/backend/cuda/text.py takes includes out); behind them stand the CPU's loops over one contiguous stretch of n elements. The arrays do not overlap. An element's bits depend
 * on its own values only. */
#ifndef TR_UPDATES_H
#define TR_UPDATES_H

#include <stddef.h>

#include "pointwise.h"

namespace tr {
namespace TR_ISA {

/* g' = g + weight_decay p;  m = momentum m + g';  p -= lr m, or lr (g' + momentum m) with Nesterov.
 * plain: without momentum. Sutskever et al. 2013, as PyTorch writes it. */
template <class T> struct Sgd {
    T rate, mu, decay;

    TR_FN Sgd of(double lr, double momentum, double weight_decay) { return {(T)lr, (T)momentum, (T)weight_decay}; }
    TR_FN void plain(const Sgd &k, T &p, T g) { p = mad(-k.rate, mad(k.decay, p, g), p); }
    TR_FN void heavy(const Sgd &k, T &p, T g, T &m) {
        const T old = p, mean = mad(k.mu, m, mad(k.decay, old, g));
        m = mean;
        p = mad(-k.rate, mean, old);
    }
    TR_FN void nesterov(const Sgd &k, T &p, T g, T &m) {
        const T d = mad(k.decay, p, g);
        m = mad(k.mu, m, d);
        p = mad(-k.rate, mad(k.mu, m, d), p);
    }
};

/* g' = g + weight_decay p;  v = alpha v + (1 - alpha) g'^2;  d = g' / (sqrt(v) + eps);
 * m = momentum m + d;  p -= lr m. plain: without momentum. Tieleman & Hinton 2012. */
template <class T> struct RmsProp {
    T rate, keep, take, floor, mu, decay;

    TR_FN RmsProp of(double lr, double alpha, double eps, double momentum, double weight_decay) {
        return {(T)lr, (T)alpha, (T)(1 - alpha), (T)eps, (T)momentum, (T)weight_decay};
    }
    TR_FN void plain(const RmsProp &k, T &p, T g, T &v) {
        const T d = mad(k.decay, p, g);
        v = mad(k.take * d, d, k.keep * v);
        p -= k.rate * d / (sqrt_of(v) + k.floor);
    }
    TR_FN void heavy(const RmsProp &k, T &p, T g, T &v, T &m) {
        const T d = mad(k.decay, p, g);
        v = mad(k.take * d, d, k.keep * v);
        m = mad(k.mu, m, d / (sqrt_of(v) + k.floor));
        p = mad(-k.rate, m, p);
    }
};

/* g' = g + decay p;  p *= shrink;  m = beta1 m + (1 - beta1) g';  v = beta2 v + (1 - beta2) g'^2;
 * p -= rate m / (sqrt(v) scale + eps), where rate = lr / (1 - beta1^t), scale = 1 / sqrt(1 - beta2^t).
 * Kingma & Ba 2015 with decay = weight_decay, shrink = 1; Loshchilov & Hutter 2019 (AdamW) with
 * decay = 0, shrink = 1 - lr weight_decay. */
template <class T> struct Adam {
    T rate, keep1, take1, keep2, take2, scale, floor, decay, shrink;

    TR_FN Adam of(double rate, double beta1, double beta2, double scale, double eps, double decay, double shrink) {
        return {(T)rate, (T)beta1, (T)(1 - beta1), (T)beta2, (T)(1 - beta2),
                (T)scale, (T)eps, (T)decay, (T)shrink};
    }
    TR_FN void step(const Adam &k, T &p, T g, T &m, T &v) {
        const T e = mad(k.decay, p, g);
        m = mad(k.take1, e, k.keep1 * m);
        v = mad(k.take2 * e, e, k.keep2 * v);
        p = k.shrink * p - k.rate * m / mad(sqrt_of(v), k.scale, k.floor);
    }
};

/* ---- the CPU's loops; m may be null, for no momentum ---------------------------------------------------- */

#if !TR_DEVICE
template <class T>
void sgd(T *p, const T *g, T *m, ptrdiff_t n, double lr, double momentum, double weight_decay, int nesterov) {
    const Sgd<T> k = Sgd<T>::of(lr, momentum, weight_decay);
    if (!m) {
#pragma omp simd
        for (ptrdiff_t i = 0; i < n; i++) Sgd<T>::plain(k, p[i], g[i]);
    } else if (nesterov) {
#pragma omp simd
        for (ptrdiff_t i = 0; i < n; i++) Sgd<T>::nesterov(k, p[i], g[i], m[i]);
    } else {
#pragma omp simd
        for (ptrdiff_t i = 0; i < n; i++) Sgd<T>::heavy(k, p[i], g[i], m[i]);
    }
}

template <class T>
void rmsprop(T *p, const T *g, T *v, T *m, ptrdiff_t n, double lr, double alpha, double eps, double momentum,
             double weight_decay) {
    const RmsProp<T> k = RmsProp<T>::of(lr, alpha, eps, momentum, weight_decay);
    if (!m) {
#pragma omp simd
        for (ptrdiff_t i = 0; i < n; i++) RmsProp<T>::plain(k, p[i], g[i], v[i]);
    } else {
#pragma omp simd
        for (ptrdiff_t i = 0; i < n; i++) RmsProp<T>::heavy(k, p[i], g[i], v[i], m[i]);
    }
}

template <class T>
void adam(T *p, const T *g, T *m, T *v, ptrdiff_t n, double rate, double beta1, double beta2, double scale, double eps,
          double decay, double shrink) {
    const Adam<T> k = Adam<T>::of(rate, beta1, beta2, scale, eps, decay, shrink);
#pragma omp simd
    for (ptrdiff_t i = 0; i < n; i++) Adam<T>::step(k, p[i], g[i], m[i], v[i]);
}
#endif

}  // namespace TR_ISA
}  // namespace tr
#endif /* TR_UPDATES_H */
