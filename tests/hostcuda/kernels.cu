// What tests/test_hostcuda.py launches, but for what stands with a test.

extern "C" __global__ void scale(const float *x, float *y, int n, double factor) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] * (float)factor;
}

extern "C" __global__ void __launch_bounds__(2 * 32, 1) bounded(int *y) { y[threadIdx.x] = threadIdx.x; }

// the place of every thread, in a grid and blocks of three dimensions
extern "C" __global__ void places(int *y) {
    const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    y[block * blockDim.x * blockDim.y * blockDim.z + thread] = 1000 * block + thread;
}

// the sum of a block's values, halving the threads; `mend` = 0 leaves a barrier out
extern "C" __global__ void sum(const double *x, double *y, int mend) {
    double *part = (double *)tr_shim_dynamic_shared();
    const int t = threadIdx.x;
    part[t] = x[blockIdx.x * blockDim.x + t];
    __syncthreads();
    for (int half = blockDim.x / 2; half; half /= 2) {
        if (t < half) part[t] += part[t + half];
        if (mend || half != 32) __syncthreads();
    }
    if (!t) y[blockIdx.x] = part[0];
}

extern "C" __global__ void votes(const int *x, int *y) {
    const int t = threadIdx.x;
    y[4 * t] = __syncthreads_count(x[t]);
    y[4 * t + 1] = __syncthreads_or(x[t]);
    y[4 * t + 2] = __syncthreads_and(x[t]);
    y[4 * t + 3] = __ballot_sync(0xffffffff, x[t]);
}

// threads that have ended are not waited for
extern "C" __global__ void leavers(int *y) {
    if (threadIdx.x % 3) return;
    __syncwarp();
    y[threadIdx.x] = __syncthreads_count(1);
}

extern "C" __global__ void shuffles(const float *x, float *y, int width, int by) {
    const int t = threadIdx.x, n = blockDim.x;
    y[t] = __shfl_sync(0xffffffff, x[t], by, width);
    y[n + t] = __shfl_up_sync(0xffffffff, x[t], by, width);
    y[2 * n + t] = (float)__shfl_down_sync(0xffffffff, (double)x[t], by, width);
    y[3 * n + t] = (float)__shfl_xor_sync(0xffffffff, (int)x[t], by, width);
}

extern "C" __global__ void half_warps(const int *x, int *y) {
    const int t = threadIdx.x;
    const unsigned mask = t % 32 < 16 ? 0xffffu : 0xffff0000u;
    int sum = x[t];
    for (int by = 8; by; by /= 2) sum += __shfl_xor_sync(mask, sum, by);
    y[t] = sum;
}

extern "C" __global__ void atomics(int *i, unsigned long long *l, float *f, double *d) {
    atomicAdd(i, 1);
    atomicMax(i + 1, (int)threadIdx.x);
    atomicAdd(l, 1ull << 32);
    atomicAdd(f, 0.5f);
    atomicAdd(d, 0.25);
    while (atomicCAS(i + 2, 0, 1)) tr_shim_pause();
    i[3] += 1;
    atomicExch(i + 2, 0);
}

// a barrier of the grid, then every block reads what the next one wrote
extern "C" __global__ void ring(unsigned *arrived, int *x, int *y) {
    if (!threadIdx.x) x[blockIdx.x] = 10 * blockIdx.x;
    __syncthreads();
    if (!threadIdx.x) {
        __threadfence();
        atomicAdd(arrived, 1u);
        while (*(volatile unsigned *)arrived < gridDim.x) tr_shim_pause();
    }
    __syncthreads();
    y[blockIdx.x * blockDim.x + threadIdx.x] = x[(blockIdx.x + 1) % gridDim.x];
}

extern "C" __global__ void stuck() {
    if (threadIdx.x < 3) __syncthreads();
    else __syncwarp();
}
extern "C" __global__ void disagree(float *y) {
    if (threadIdx.x < 3) __syncwarp();
    else y[0] = __shfl_sync(0xffffffff, 1.0f, 0);
}
extern "C" __global__ void two_barriers() {
    if (threadIdx.x < 3) __syncthreads();
    else __syncthreads_or(1);
}
extern "C" __global__ void outside_the_mask() { __syncwarp(1); }
extern "C" __global__ void past_shared(int n) { tr_shim_dynamic_shared()[n] = 0; }
extern "C" __global__ void past_array(float *y, int n) { y[n] = 0; }
extern "C" __global__ void no_partner(float *y) {
    if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xffff, 1.0f, 20);
}
extern "C" __global__ void unwritten_shared(float *y) {
    y[threadIdx.x] = ((float *)tr_shim_dynamic_shared())[threadIdx.x];
}
extern "C" __global__ void unset_variable(float *y, int n) {
    float sum;
    for (int i = 0; i < n; i++) sum = i ? sum + 1 : 1;
    y[0] = sum;
}
extern "C" __global__ void addresses(float *const *from, float *to) { to[0] = from[1][0]; }

// mma.sync with the fragments as the PTX manual has them: a is row-major, b column-major, c and d row-major
extern "C" __global__ void mma_bf16(const unsigned short *a, const unsigned short *b, const float *c, float *d) {
    const int group = threadIdx.x >> 2, in_group = threadIdx.x % 4;
    unsigned A[4] = {0}, B[2] = {0};
    for (int i = 0; i < 8; i++) {
        const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
        const int col = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
        A[i / 2] |= (unsigned)a[row * 16 + col] << 16 * (i & 1);
    }
    for (int i = 0; i < 4; i++) {
        const int row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
        B[i / 2] |= (unsigned)b[group * 16 + row] << 16 * (i & 1);
    }
    float C[4];
    for (int i = 0; i < 4; i++) C[i] = c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)];
    tr_shim_mma_bf16(C, A, B, C);
    for (int i = 0; i < 4; i++) d[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = C[i];
}
extern "C" __global__ void mma_tf32(const float *a, const float *b, const float *c, float *d) {
    const int group = threadIdx.x >> 2, in_group = threadIdx.x % 4;
    unsigned A[4], B[2];
    for (int i = 0; i < 4; i++)
        A[i] = __float_as_uint(a[(i == 0 || i == 2 ? group : group + 8) * 8 + in_group + (i < 2 ? 0 : 4)]);
    for (int i = 0; i < 2; i++) B[i] = __float_as_uint(b[group * 8 + in_group + 4 * i]);
    float C[4], D[4];
    for (int i = 0; i < 4; i++) C[i] = c[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)];
    tr_shim_mma_tf32(D, A, B, C);
    for (int i = 0; i < 4; i++) d[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = D[i];
}
